//! The live feed across servers that share a database: each says what its readers look at, and hears
//! which of those agents had readings committed elsewhere; what they are it reads from the database.
//! While nobody looks, nothing is said. A word that gets lost costs a page some seconds, no reading.
//!
//! | word | means |
//! |---|---|
//! | `look SERVER *` or `look SERVER 3,17` or `look SERVER` | readers look at all agents, these, none |
//! | `new SERVER 3@1795000000000000,17@…` | of these agents readings were committed, from these times on |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Committed, Feed, Looks};
use crate::store::{AgentKey, Heard, Micros, Neighbours, StoreError};

/// How often a server says what its readers look at; well within what others believe.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// News are gathered for so long once some have been told: ten words a second at most.
const PACE: Duration = Duration::from_millis(100);
/// Pauses before a lost connection is made anew.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Agents in one word: PostgreSQL takes 8,000 bytes, and a key with its time has 40 at most.
const IN_A_WORD: usize = 180;
/// Words that wait to be read.
const WORDS: usize = 256;

/// Joins this server's feed with its neighbours'. One task of its own; see [`Exchange::run`].
pub struct Exchange {
    feed: Feed,
    neighbours: Option<Arc<dyn Neighbours>>,
    /// Tells our own words from others'.
    server: String,
    /// What was committed elsewhere and is looked at here.
    due: Mutex<HashMap<AgentKey, Micros>>,
    due_is_new: Notify,
}

impl Exchange {
    /// Nothing is said before it runs. Without neighbours it does nothing.
    pub fn new(feed: Feed, neighbours: Option<Arc<dyn Neighbours>>) -> Self {
        let mut id = [0; 8];
        // Without random numbers all servers bear one name, and each shows what comes by itself.
        let _ = getrandom::fill(&mut id);
        let server = format!("{:016x}", u64::from_le_bytes(id));
        Self { feed, neighbours, server, due: Mutex::default(), due_is_new: Notify::new() }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Some(neighbours) = self.neighbours.clone() else { return stop.cancelled().await };
        let (mut pause, mut failing) = (PAUSES.0, false);
        loop {
            let (words, mut heard) = mpsc::channel(WORDS);
            let outcome = tokio::select! {
                // Dropping the others loses what a page gets at its next look.
                () = stop.cancelled() => return,
                outcome = neighbours.hear(words) => outcome,
                outcome = self.attend(&mut heard, &mut failing, &mut pause) => outcome,
                outcome = self.speak(&*neighbours) => outcome,
                outcome = self.fetch(&*neighbours) => outcome,
            };
            if let (Err(error), false) = (outcome, std::mem::replace(&mut failing, true)) {
                warn!(%error, "The live feed shows only what comes by this server until the database is heard again.");
            }
            if timeout(pause, stop.cancelled()).await.is_ok() {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Takes in what is heard.
    async fn attend(
        &self,
        heard: &mut mpsc::Receiver<Heard>,
        failing: &mut bool,
        pause: &mut Duration,
    ) -> Result<(), StoreError> {
        while let Some(heard) = heard.recv().await {
            match heard {
                Heard::Listening => {
                    *pause = PAUSES.0;
                    if std::mem::take(failing) {
                        info!("The live feed shows what comes by other servers again.");
                    }
                    // Those who look already are to be told of.
                    self.feed.0.begun.notify_one();
                }
                Heard::Word(word) => self.take(&word),
            }
        }
        // The hearing has ended, and says why.
        std::future::pending().await
    }

    fn take(&self, word: &str) {
        let mut parts = word.splitn(3, ' ');
        let (Some(kind), Some(server)) = (parts.next(), parts.next()) else { return };
        if server == self.server {
            return;
        }
        let rest = parts.next().unwrap_or("");
        match kind {
            "look" => self.feed.0.elsewhere.said(server, looks(rest)),
            "new" => self.note(rest),
            // A later version's.
            _ => {}
        }
    }

    fn note(&self, rest: &str) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        for (agent, from) in rest.split(',').filter_map(|one| one.split_once('@')) {
            let (Ok(agent), Ok(from)) = (agent.parse().map(AgentKey), from.parse::<Micros>()) else {
                continue;
            };
            if self.feed.looked_at(agent) {
                due.entry(agent).and_modify(|known| *known = from.min(*known)).or_insert(from);
            }
        }
        drop(due);
        self.due_is_new.notify_one();
    }

    /// Says what is looked at here, and what was committed here that others look at.
    async fn speak(&self, neighbours: &dyn Neighbours) -> Result<(), StoreError> {
        let (mut said, mut say_at) = (Looks::Nowhere, Instant::now());
        loop {
            // Dropping any of these loses nothing: what is to be said stays where it is.
            let begun = tokio::select! {
                () = self.feed.0.begun.notified() => true,
                () = self.feed.0.elsewhere.news() => false,
                () = sleep_until(say_at) => false,
            };
            let mut words = Vec::new();
            if begun || Instant::now() >= say_at {
                say_at = Instant::now() + SAY_EVERY;
                let now = self.feed.looks();
                if now != Looks::Nowhere || said != Looks::Nowhere {
                    words.push(format!("look {} {}", self.server, listed(&now)));
                }
                said = now;
            }
            let fresh = self.feed.0.elsewhere.take_news();
            for some in fresh.chunks(IN_A_WORD) {
                let some: Vec<String> =
                    some.iter().map(|(agent, from)| format!("{}@{from}", agent.0)).collect();
                words.push(format!("new {} {}", self.server, some.join(",")));
            }
            if !words.is_empty() {
                neighbours.tell(&words).await?;
                sleep(PACE).await;
            }
        }
    }

    /// Reads what was committed elsewhere, and shows it.
    async fn fetch(&self, neighbours: &dyn Neighbours) -> Result<(), StoreError> {
        loop {
            self.due_is_new.notified().await;
            let due = std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner));
            let due: Vec<(AgentKey, Micros)> = due.into_iter().collect();
            if due.is_empty() {
                continue;
            }
            for newest in neighbours.newest(&due).await? {
                let (agent, points, readings) = (newest.agent, newest.points, Arc::new(newest.readings));
                self.feed.show(Arc::new(Committed { agent, points, readings, backlog: false }));
            }
            sleep(PACE).await;
        }
    }
}

fn listed(looks: &Looks) -> String {
    match looks {
        Looks::Nowhere => String::new(),
        Looks::At(agents) if agents.len() <= IN_A_WORD => {
            agents.iter().map(|agent| agent.0.to_string()).collect::<Vec<_>>().join(",")
        }
        // Too many to name.
        Looks::At(_) | Looks::Everywhere => "*".into(),
    }
}

fn looks(text: &str) -> Looks {
    match text {
        "" => Looks::Nowhere,
        "*" => Looks::Everywhere,
        list => Looks::At(list.split(',').filter_map(|key| key.parse().ok().map(AgentKey)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use forebay_protocols::reading::{PointId, Quality, Value};
    use tokio::sync::broadcast;

    use super::*;
    use crate::store::{Newest, PointKey, Timed};

    /// A database that two servers share: words, and one reading an agent.
    struct Between(broadcast::Sender<String>);

    #[async_trait]
    impl Neighbours for Between {
        async fn hear(&self, words: mpsc::Sender<Heard>) -> Result<(), StoreError> {
            let mut heard = self.0.subscribe();
            let _ = words.send(Heard::Listening).await;
            while let Ok(word) = heard.recv().await {
                let _ = words.send(Heard::Word(word)).await;
            }
            Ok(())
        }
        async fn tell(&self, words: &[String]) -> Result<(), StoreError> {
            words.iter().for_each(|word| drop(self.0.send(word.clone())));
            Ok(())
        }
        async fn newest(&self, of: &[(AgentKey, Micros)]) -> Result<Vec<Newest>, StoreError> {
            let newest = |&(agent, from): &(AgentKey, Micros)| Newest {
                agent,
                points: vec![(PointId(7), PointKey(7))],
                readings: vec![reading(7, from)],
            };
            Ok(of.iter().map(newest).collect())
        }
    }

    fn reading(point: u32, time: Micros) -> Timed {
        let (value, quality) = (Some(Value::Boolean(true)), Quality::Good);
        Timed { point: PointId(point), time, value, quality }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_here_sees_what_is_committed_there_and_only_what_it_looks_at() {
        let between: Arc<dyn Neighbours> = Arc::new(Between(broadcast::Sender::new(64)));
        let (here, there, stop) = (Feed::new(), Feed::new(), CancellationToken::new());
        let tasks = [&here, &there]
            .map(|feed| tokio::spawn(Exchange::new(feed.clone(), Some(between.clone())).run(stop.clone())));
        let mut seen = here.subscribe(Some(AgentKey(1)));
        while !there.wants(AgentKey(1)) {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(!there.wants(AgentKey(2)), "nobody looks at it");
        let readings = Arc::new(vec![reading(1, 5), reading(1, 6)]);
        let committed = |agent, backlog| Committed {
            agent: AgentKey(agent),
            points: Vec::new(),
            readings: readings.clone(),
            backlog,
        };
        there.publish(committed(1, true));
        there.publish(committed(2, false));
        there.publish(committed(1, false));
        let shown = timeout(Duration::from_secs(5), seen.recv()).await.unwrap().unwrap();
        assert_eq!((shown.agent, shown.readings[0].time), (AgentKey(1), 5));
        drop(seen);
        // Within the time that a server is believed it has said that nobody looks any more.
        sleep(SAY_EVERY * 2).await;
        assert!(!there.wants(AgentKey(1)));
        stop.cancel();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[test]
    fn words_that_make_no_sense_are_passed_over() {
        let feed = Feed::new();
        let exchange = Exchange::new(feed.clone(), None);
        let _seen = feed.subscribe(None);
        for word in ["", "look", "new", "new x", "new x @,1@,@1,a@b", "later x y", "look x 1,b,"] {
            exchange.take(word);
        }
        assert!(exchange.due.lock().unwrap().is_empty());
        assert!(feed.wants(AgentKey(1)));
        let many = (0..IN_A_WORD as i64).map(|n| (i64::MAX - n).to_string() + "@" + &i64::MIN.to_string());
        let longest = format!("new {} {}", exchange.server, many.collect::<Vec<_>>().join(","));
        assert!(longest.len() < 8_000, "{} bytes", longest.len());
    }
}
