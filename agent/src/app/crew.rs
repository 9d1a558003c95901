//! The links of an agent that runs: engaged at the start, and changed when the configuration is read
//! again. A part of the composition root.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::agent::Agent;
use forebay_config::field;
use forebay_config::load::Findings;
use forebay_config::processing::Rule;
use forebay_protocols::boot_time::BootTime;
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::backoff::Backoff;
use crate::batcher::Handover;
use crate::fittings::Fitter;
use crate::gaps::Silences;
use crate::ledger::Books;
use crate::link::{Desk, LinkState, LinkStatus};
use crate::live::Feed;
use crate::log;
use crate::rate::Rate;
use crate::reload::Plan;
use crate::roster::{Entry, Roster};
use crate::status::ConfigShown;
use crate::supervisor::{Birth, Order, Post};
use crate::systemd;

/// The first pause after a link's fault.
const LINK_PAUSE: Duration = Duration::from_secs(1);

/// What every link of this agent shares.
pub(super) struct Crew {
    pub fitter: Arc<Fitter>,
    pub handovers: mpsc::Sender<Handover>,
    pub books: Books,
    pub feed: Feed,
    pub roster: Roster,
    pub stop: CancellationToken,
    pub goodbye: CancellationToken,
}

impl Crew {
    /// Enlists a link; the supervisor is to start what comes back.
    pub fn engage(&self, link: Arc<field::Link>, rules: Arc<[Rule]>) -> Post {
        let name = link.name.to_arc();
        let index = self.roster.free_index();
        let (status, seen) = watch::channel(LinkStatus::default());
        let silences = Silences::default();
        let rate = Rate::default();
        self.roster.enlist(Entry {
            name: name.clone(),
            index,
            status: seen,
            silences: silences.clone(),
            rate: rate.clone(),
            protocol: link.protocol.word(),
        });
        let stop = self.stop.child_token();
        let backoff = Backoff::up_to(LINK_PAUSE, link.backoff_max);
        let Self { fitter, handovers, books, feed, roster: _, stop: _, goodbye } = self;
        let (fitter, handovers, books) = (fitter.clone(), handovers.clone(), books.clone());
        let (feed, goodbye) = (feed.clone(), goodbye.clone());
        let birth: Birth = {
            let (name, backoff, stop) = (name.clone(), backoff.clone(), stop.clone());
            Box::new(move || {
                let (fitter, link, name, stop) = (fitter.clone(), link.clone(), name.clone(), stop.clone());
                let desk = Desk {
                    name: name.clone(),
                    index,
                    handovers: handovers.clone(),
                    books: books.clone(),
                    silences: silences.clone(),
                    rules: rules.clone(),
                    status: status.clone(),
                    rate: rate.clone(),
                    feed: feed.clone(),
                    backoff: backoff.clone(),
                    stop: stop.clone(),
                    goodbye: goodbye.clone(),
                };
                let status = status.clone();
                Box::pin(async move {
                    if let Err(words) = fitter.run_link(&link, desk).await {
                        // Its configuration will not change while it runs: trying again is of no use.
                        error!(link = %name, "The link cannot be started: {words}. The others go on.");
                        status.send_modify(|status| status.state = LinkState::GaveUp(words));
                        stop.cancelled().await;
                    }
                    Ok(())
                })
            })
        };
        Post { index, name: name.to_string(), backoff, stop, birth }
    }
}

/// Reads the configuration again, from where it was read at the start.
pub type Reread = Arc<dyn Fn() -> Result<Agent, Findings> + Send + Sync>;

/// Carries out what a changed configuration asks for.
pub(super) struct Reloads {
    pub crew: Crew,
    /// As it runs.
    pub running: Agent,
    pub reread: Reread,
    pub orders: mpsc::Sender<Order>,
    pub shown: watch::Sender<ConfigShown>,
    /// `None` where somebody else logs for us.
    pub level: Option<log::Level>,
}

impl Reloads {
    /// Reads again whenever somebody asks, for ever.
    pub async fn run(mut self, mut asked: mpsc::Receiver<()>, words: impl Fn() -> String) {
        while asked.recv().await.is_some() {
            systemd::reloading();
            self.reload().await;
            systemd::reloaded(&words());
        }
    }

    async fn reload(&mut self) {
        let reread = self.reread.clone();
        let read = match tokio::task::spawn_blocking(move || reread()).await {
            Ok(read) => read,
            Err(error) => {
                error!("The configuration could not be read again: {error}. What ran before goes on.");
                return;
            }
        };
        match read {
            Ok(read) => self.carry_out(read).await,
            Err(Findings(findings)) => {
                let mistakes: Vec<_> = findings.iter().map(ToString::to_string).collect();
                error!(
                    mistakes = mistakes.len(),
                    "The configuration is not taken, what ran before goes on:\n{}",
                    mistakes.join("\n")
                );
                self.shown.send_modify(|shown| {
                    shown.refused += 1;
                    shown.mistakes = mistakes;
                });
            }
        }
    }

    async fn carry_out(&mut self, read: Agent) {
        let plan = Plan::new(&self.running, &read, |name| self.crew.roster.gave_up(name));
        for key in &plan.needs_restart {
            warn!("{key} has changed and needs a restart; until then it is as it was.");
        }
        let order: Vec<_> = read.links.iter().map(|link| link.name.clone()).collect();
        // All ends come first: what starts may want a port that another link had.
        let roster = &self.crew.roster;
        let leaving: BTreeSet<_> = plan.end.iter().filter_map(|name| roster.index_of(name)).collect();
        join_all(leaving.iter().map(|index| self.end(*index))).await;
        let now = BootTime::now();
        leaving.iter().for_each(|index| roster.retire(*index, now));
        let rules = Arc::from(read.processing.as_slice());
        for link in &plan.start {
            let post = self.crew.engage(link.clone(), Arc::clone(&rules));
            if self.orders.send(Order::Start(post)).await.is_err() {
                debug!("The agent ends: no link is started any more.");
                return;
            }
        }
        if let (Some(level), Some(to)) = (&self.level, plan.level) {
            level.set(to);
        }
        if plan.end.is_empty() && plan.start.is_empty() {
            info!(level = ?plan.level, "The configuration was read again; no link has changed.");
        } else {
            roster.sort(&order);
            info!("The configuration was read again; {}.", plan.words());
        }
        self.shown.send_modify(|shown| {
            shown.applied += 1;
            shown.mistakes.clear();
            shown.needs_restart = plan.needs_restart.clone();
        });
        self.running = plan.running(self.running.clone(), read);
    }

    /// Returns when the link's task has ended for good.
    async fn end(&self, index: usize) {
        let (sender, ended) = oneshot::channel();
        if self.orders.send(Order::End(index, sender)).await.is_ok() {
            // An error says that the supervisor is ending everything.
            let _ = ended.await;
        }
    }
}
