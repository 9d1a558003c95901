//! Owns every task of the agent and sees it end.
//!
//! - A link task that ends is started again, with growing pauses; the others never notice. Links may be
//!   ended and added while the agent runs ([`Order`]).
//! - The batcher and the uplink are critical: if one ends before it was asked to, the process ends
//!   with an error and systemd starts it anew. What is on the flash stays.
//! - The end is orderly: links take nothing more, the batcher does the last append and confirms it
//!   to the peers, links close while the uplink sends until the deadline. What stays is on the flash.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::{Backoff, Waited};

/// What attendants get to end in.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A task's life.
pub type Life = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;
/// Makes the life of a link task, again and again.
pub type Birth = Box<dyn FnMut() -> Life + Send>;

/// The signals by which the agent ends, in this order.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Somebody wants the agent to end.
    pub asked: CancellationToken,
    /// Links take nothing more from the field and hang up. The batcher writes what is in hand,
    /// confirms it, and ends when they all did.
    pub stop_links: CancellationToken,
    /// What could be confirmed to the peers is: links close their connections.
    pub close_links: CancellationToken,
    /// Everything is on the flash: the uplink sends what it can and ends.
    pub finish_uplink: CancellationToken,
    /// The time is over: whoever still waits ends now.
    pub give_up: CancellationToken,
}

/// How long the parts of the end may take.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// The last append.
    pub append: Duration,
    /// Closing links, and meanwhile sending what is left.
    pub uplink: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self { append: Duration::from_secs(5), uplink: Duration::from_secs(5) }
    }
}

impl Grace {
    /// The longest the whole end takes.
    pub fn whole(&self) -> Duration {
        self.append + self.uplink + LAST_WORDS
    }
}

/// How the agent ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In order, because somebody asked.
    Drained,
    /// A critical task ended by itself, or the end was not orderly. The words say which and why.
    Failed(String),
}

/// What a task is to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Started again when it ends.
    Link(usize),
    Batcher,
    Uplink,
    /// Telemetry and the like: missed, not mourned.
    Attendant,
}

/// A link task that is to be.
pub struct Post {
    /// Nobody else's number.
    pub index: usize,
    /// The link's name.
    pub name: String,
    /// Pauses between its lives.
    pub backoff: Backoff,
    /// Cancelled when the link or the agent ends; every life ends then.
    pub stop: CancellationToken,
    /// Called again whenever a life ends before that.
    pub birth: Birth,
}

/// A change of the links while the agent runs.
pub enum Order {
    /// Start this one.
    Start(Post),
    /// End the one with this number, and say when it has.
    End(usize, oneshot::Sender<()>),
}

/// A link task as the supervisor knows it.
struct Cradle {
    post: Post,
    /// Who waits for its end, which is to be the last.
    leaving: Option<oneshot::Sender<()>>,
}

/// All tasks of the agent.
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    roles: HashMap<Id, (Role, String)>,
    links: BTreeMap<usize, Cradle>,
    orders: Option<mpsc::Receiver<Order>>,
    ending: Ending,
}

/// A task that ended.
struct Ended {
    role: Role,
    name: String,
    /// Why, unless it ended well.
    fault: Option<String>,
}

impl Supervisor {
    /// Nobody yet.
    pub fn new(ending: Ending) -> Self {
        let (tasks, roles, links) = (JoinSet::new(), HashMap::new(), BTreeMap::new());
        Self { tasks, roles, links, orders: None, ending }
    }

    /// A link task.
    pub fn link(&mut self, mut post: Post) {
        let life = (post.birth)();
        self.spawn(Role::Link(post.index), post.name.clone(), life);
        self.links.insert(post.index, Cradle { post, leaving: None });
    }

    /// Where changes of the links will come from. What still waits there when the agent ends is dropped.
    pub fn takes_orders(&mut self, orders: mpsc::Receiver<Order>) {
        self.orders = Some(orders);
    }

    /// The batcher: ends by itself when the last link hung up.
    pub fn batcher(&mut self, life: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.spawn(Role::Batcher, "batcher".into(), life);
    }

    /// The uplink: ends after [`Ending::finish_uplink`].
    pub fn uplink(&mut self, life: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.spawn(Role::Uplink, "uplink".into(), life);
    }

    /// A task without which readings still flow.
    pub fn attendant(&mut self, name: &str, life: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.spawn(Role::Attendant, name.to_owned(), life);
    }

    /// Watches over the tasks until somebody asks for the end or a critical task ends.
    pub async fn run(mut self, grace: Grace) -> Verdict {
        match self.watch_over().await {
            None => {
                info!("Stopping: nothing more is read, and what is in hand is written.");
                self.drain(grace).await
            }
            Some(words) => {
                error!("The agent cannot go on: {words}.");
                self.drain(grace).await;
                Verdict::Failed(words)
            }
        }
    }

    /// Until somebody asks for the end; or why the agent cannot go on.
    async fn watch_over(&mut self) -> Option<String> {
        let asked = self.ending.asked.clone();
        // Posts in it hold the batcher's channel open: it is gone when this returns.
        let mut orders = self.orders.take().unwrap_or_else(|| mpsc::channel(1).1);
        loop {
            tokio::select! {
                biased;
                () = asked.cancelled() => return None,
                Some(ended) = self.next_end() => match ended.role {
                    Role::Link(link) => self.bear_again(link, ended.fault),
                    Role::Attendant => warn!(task = ended.name, "A task ended: {}.", ended.words()),
                    Role::Batcher | Role::Uplink => return Some(format!("{}: {}", ended.name, ended.words())),
                },
                // Cancel-safe: recv() gives an order whole or not at all.
                Some(order) = orders.recv() => self.obey(order),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start(post) => self.link(post),
            Order::End(link, ended) => match self.links.get_mut(&link) {
                Some(cradle) => {
                    cradle.post.stop.cancel();
                    cradle.leaving = Some(ended);
                }
                None => {
                    // Who asked may have gone since.
                    let _ = ended.send(());
                }
            },
        }
    }

    /// The orderly end.
    async fn drain(mut self, grace: Grace) -> Verdict {
        self.ending.stop_links.cancel();
        // Births hold the batcher's channel open.
        self.links.clear();
        let mut fault = None;
        if !self.until_gone(|role| role == Role::Batcher, grace.append, &mut fault).await {
            fault.get_or_insert_with(|| "not everything could be written in time".into());
        }
        self.ending.close_links.cancel();
        self.ending.finish_uplink.cancel();
        let last = |role| matches!(role, Role::Link(_) | Role::Uplink);
        if !self.until_gone(last, grace.uplink, &mut fault).await {
            info!(
                "Not every link could be closed, or the server did not take everything in time. What is left stays in the buffer."
            );
        }
        self.ending.give_up.cancel();
        self.until_gone(|_| true, LAST_WORDS, &mut fault).await;
        self.tasks.shutdown().await;
        match fault {
            None => Verdict::Drained,
            Some(words) => Verdict::Failed(words),
        }
    }

    /// Waits until no task of these roles is left. False if that took longer than `within`.
    async fn until_gone(
        &mut self,
        of: impl Fn(Role) -> bool,
        within: Duration,
        fault: &mut Option<String>,
    ) -> bool {
        let deadline = Instant::now() + within;
        while self.roles.values().any(|(role, _)| of(*role)) {
            let Ok(Some(ended)) = timeout_at(deadline, self.next_end()).await else { return false };
            if let Some(words) = ended.fault
                && ended.role != Role::Attendant
            {
                error!(task = ended.name, "A task ended badly: {words}.");
                fault.get_or_insert(format!("{}: {words}", ended.name));
            }
        }
        true
    }

    fn bear_again(&mut self, link: usize, fault: Option<String>) {
        let Some(Cradle { post, leaving }) = self.links.get_mut(&link) else { return };
        if let Some(leaving) = leaving.take() {
            if let Some(words) = fault {
                warn!(link = %post.name, "The link's task fell as it ended: {words}.");
            }
            self.links.remove(&link);
            // Who asked may have gone since.
            let _ = leaving.send(());
            return;
        }
        let Post { index: _, name, backoff, stop, birth } = post;
        let pause = backoff.next_pause();
        let words = fault.unwrap_or_else(|| "it ended".into());
        error!(link = %name, "The link's task fell: {words}. Starting it again in {pause:.1?}.");
        let (name, next, stop) = (name.clone(), birth(), stop.clone());
        let life = async move {
            match crate::backoff::wait(pause, &stop).await {
                Waited::Over => next.await,
                Waited::Stopped => Ok(()),
            }
        };
        self.spawn(Role::Link(link), name, life);
    }

    fn spawn(
        &mut self,
        role: Role,
        name: String,
        life: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(life);
        self.roles.insert(handle.id(), (role, name));
    }

    /// The next task that ends. Cancel-safe, as `JoinSet` is: an end is taken whole or not at all.
    async fn next_end(&mut self) -> Option<Ended> {
        let (id, fault) = match self.tasks.join_next_with_id().await? {
            Ok((id, Ok(()))) => (id, None),
            Ok((id, Err(error))) => (id, Some(format!("{error:#}"))),
            Err(error) => (error.id(), Some(fall(error))),
        };
        let (role, name) = self.roles.remove(&id).unwrap_or((Role::Attendant, "unnamed".into()));
        Some(Ended { role, name, fault })
    }
}

impl Ended {
    fn words(&self) -> &str {
        self.fault.as_deref().unwrap_or("it ended before it was asked to")
    }
}

/// The words of a panic.
fn fall(error: JoinError) -> String {
    match error.try_into_panic() {
        Err(_) => "it was aborted".into(),
        Ok(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            format!("it panicked ({})", text.unwrap_or("without words"))
        }
    }
}

#[cfg(test)]
mod farewell;
#[cfg(test)]
mod tests;
