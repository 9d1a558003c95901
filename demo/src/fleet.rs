//! Thousands of gateways in one process: each joins a real server by token, keeps its own key,
//! certificate, epoch and connection, and runs the agent's own uplink over a small buffer in memory.
//! What it sends, when it tries again and what it believes of an answer is the agent's code; only the
//! field side is made up. The demo, the benches and the tests use the same fleet.

pub mod command;
pub mod house;
mod joining;
mod looms;
mod shelf;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use forebay_agent::clock::Clock;
use forebay_agent::uplink::line::Peer;
use forebay_agent::uplink::{Settings, Uplink, UplinkStatus};
use forebay_config::agent::Uplink as UplinkConfig;
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::wire;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::looms::Loom;
pub use self::shelf::Held;
use self::shelf::Shelf;

/// How often what is waited for is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A poll that comes more often shares its batch with others: the agent's default durability window.
const WINDOW: Duration = Duration::from_secs(1);

/// What the fleet is and does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Gateways.
    pub agents: usize,
    /// Points each of them reads.
    pub points: usize,
    /// How often each is read. Gateways are spread over this time. Zero: nothing is read.
    pub every: Duration,
    /// All have started after this time, one after the other. Zero: all at once.
    pub ramp: Duration,
    /// Bytes of batches that a gateway holds at most; it reads nothing while it is full.
    pub buffer: usize,
    /// The sites' names are `PREFIX-0`, `PREFIX-1` …, the gateways `gate-0000` ….
    pub site: String,
    /// Gateways of one site.
    pub site_size: usize,
    /// The agents' `[uplink]`.
    pub uplink: UplinkConfig,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            agents: 500,
            points: 20,
            every: Duration::from_secs(1),
            ramp: Duration::ZERO,
            buffer: 1 << 20,
            site: "fleet".into(),
            site_size: 100,
            uplink: UplinkConfig::default(),
        }
    }
}

/// Gateways that have joined and do not run yet. Clones are the same gateways, with new buffers.
#[derive(Clone)]
pub struct Joined {
    plan: Plan,
    clock: Clock,
    peers: Vec<Peer>,
}

impl Joined {
    /// Joins all of them with one join string, which must be good for so many. `folder` keeps the last
    /// good time, as an agent's state directory does.
    ///
    /// # Errors
    /// When the server does not let one of them in, with its words.
    pub async fn join(plan: Plan, join: &JoinString, folder: &Path) -> Result<Self> {
        // One machine, one clock: all of them live on this one.
        let clock = Clock::open(folder);
        clock.place(1, &[]);
        let peers = joining::join_all(&plan, join, &clock).await?;
        Ok(Self { plan, clock, peers })
    }

    /// Starts them.
    pub fn start(self) -> Fleet {
        let Self { plan, clock, peers } = self;
        let shelves: Arc<[Shelf]> = peers.iter().map(|_| Shelf::new(plan.points, plan.buffer)).collect();
        let (finish, give_up) = (CancellationToken::new(), CancellationToken::new());
        let read = Arc::new(AtomicBool::new(true));
        let (mut tasks, mut statuses) = (JoinSet::new(), Vec::with_capacity(peers.len()));
        let count = peers.len().max(1) as u32;
        for (number, (peer, shelf)) in peers.into_iter().zip(shelves.iter()).enumerate() {
            let (status, seen) = watch::channel(UplinkStatus::NotJoined);
            statuses.push(seen);
            let uplink = Uplink {
                backlog: shelf.clone(),
                epoch: shelf.epoch(),
                clock: clock.clone(),
                introduction: Box::new(move || Ok(Some(peer.clone()))),
                reporter: reporter(shelf.clone(), clock.clone(), plan.points),
                status,
                settings: Settings::new(plan.uplink.clone()),
                finish: finish.clone(),
                give_up: give_up.clone(),
            };
            let after = plan.ramp / count * number as u32;
            let begun = finish.clone();
            tasks.spawn(async move {
                // A gateway that is told to end before its turn ends at once.
                let _ = timeout(after, begun.cancelled()).await;
                // The future is some KiB: on the heap, and only once.
                Box::pin(uplink.run()).await
            });
        }
        let loom = Loom { plan, clock, shelves: shelves.clone(), read: read.clone() };
        let weaving = loom.start(finish.clone());
        Fleet { shelves, statuses, tasks, weaving, finish, give_up, read }
    }
}

/// A fleet at work. Dropped, it ends at once.
pub struct Fleet {
    shelves: Arc<[Shelf]>,
    statuses: Vec<watch::Receiver<UplinkStatus>>,
    tasks: JoinSet<Result<(), forebay_agent::buffer::BufferError>>,
    weaving: tokio_util::task::AbortOnDropHandle<()>,
    finish: CancellationToken,
    give_up: CancellationToken,
    read: Arc<AtomicBool>,
}

/// The books of all gateways together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Readings and batches that were appended, and what of them waits.
    pub held: Held,
    /// Gateways whose last request was answered well.
    pub up: usize,
    /// Gateways that have something to complain about.
    pub troubled: usize,
}

impl Fleet {
    /// How many gateways there are.
    pub fn len(&self) -> usize {
        self.shelves.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.shelves.is_empty()
    }

    /// The books at this moment.
    pub fn books(&self) -> Books {
        let mut books = Books::default();
        self.shelves.iter().for_each(|shelf| books.held += shelf.held());
        for status in &self.statuses {
            match &*status.borrow() {
                UplinkStatus::Up | UplinkStatus::UpBut(_) => books.up += 1,
                UplinkStatus::Troubled(_) => books.troubled += 1,
                UplinkStatus::NotJoined | UplinkStatus::Connecting => {}
            }
        }
        books
    }

    /// One of the complaints.
    pub fn complaint(&self) -> Option<String> {
        self.statuses.iter().find_map(|status| match &*status.borrow() {
            UplinkStatus::Troubled(words) => Some(words.clone()),
            _ => None,
        })
    }

    /// From now on nothing is read, or it is again.
    pub fn read(&self, yes: bool) {
        self.read.store(yes, Ordering::Relaxed);
    }

    /// What each gateway has appended so far: a mark for [`Fleet::acknowledged`].
    pub fn mark(&self) -> Vec<u64> {
        self.shelves.iter().map(|shelf| shelf.newest()).collect()
    }

    /// Waits until every gateway is up and the server has acknowledged all that it had appended at the
    /// mark. The times from now on at which the gateways were so far, ascending.
    ///
    /// # Errors
    /// When that takes longer than `patience`, with the number of those that wait and a complaint.
    pub async fn acknowledged(&self, mark: &[u64], patience: Duration) -> Result<Vec<Duration>> {
        let begin = Instant::now();
        let mut waiting: Vec<usize> = (0..mark.len().min(self.shelves.len())).collect();
        let mut times = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            waiting.retain(|&number| {
                let waits =
                    self.shelves[number].oldest_waiting().is_some_and(|oldest| oldest <= mark[number]);
                let done = !waits
                    && matches!(&*self.statuses[number].borrow(), UplinkStatus::Up | UplinkStatus::UpBut(_));
                if done {
                    times.push(begin.elapsed());
                }
                !done
            });
            if begin.elapsed() > patience {
                let complaint = self.complaint().unwrap_or_else(|| "nobody complains".into());
                bail!("{} gateways still wait after {patience:?}: {complaint}", waiting.len());
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(times)
    }

    /// Waits until every gateway is up.
    ///
    /// # Errors
    /// As [`Fleet::acknowledged`].
    pub async fn up(&self, patience: Duration) -> Result<Vec<Duration>> {
        self.acknowledged(&vec![0; self.shelves.len()], patience).await
    }

    /// Ends in order: nothing more is read, and what waits is sent until `patience` is over. The books as
    /// they are then.
    ///
    /// # Errors
    /// When an uplink broke.
    pub async fn finish(mut self, patience: Duration) -> Result<Books> {
        self.read(false);
        // The loom ends with the finish; appended is what counts from here on.
        self.finish.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.context("an uplink panicked")?.context("an uplink broke")?;
            }
            anyhow::Ok(())
        };
        match timeout(patience, all).await {
            Ok(ended) => ended?,
            Err(_) => {
                self.give_up.cancel();
                while self.tasks.join_next().await.is_some() {}
            }
        }
        drop(self.weaving);
        let mut books = Books::default();
        self.shelves.iter().for_each(|shelf| books.held += shelf.held());
        Ok(books)
    }
}

/// Raises this process's limit of open files to what so many connections need.
///
/// # Errors
/// When the limit of the system is lower, with the way out.
pub fn enough_files(connections: usize) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = connections as u64 + 256;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(maximum) = maximum.filter(|maximum| *maximum < needed) {
        bail!(
            "{connections} connections need {needed} open files, and this system allows {maximum}: raise it with \
             `ulimit -Hn {needed}` as root, or LimitNOFILE= in a unit"
        );
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
        .context("raise the limit of open files")
}

/// `site/gateway` of the n-th.
fn name_of(plan: &Plan, number: usize) -> (String, String) {
    (format!("{}-{}", plan.site, number / plan.site_size.max(1)), format!("gate-{number:04}"))
}

/// A gateway's word on itself.
fn reporter(shelf: Shelf, clock: Clock, points: usize) -> forebay_agent::uplink::Reporter {
    let started = Instant::now();
    let devices = vec![wire::report::Device {
        link: "field".into(),
        device: "machine".into(),
        answers: true,
        words: String::new(),
    }];
    Box::new(move || {
        let (held, limit) = (shelf.held(), shelf.limit());
        wire::Report {
            version: env!("CARGO_PKG_VERSION").into(),
            boot_counter: clock.boot_counter(),
            wall_us: clock.wall_us(),
            synchronised: clock.belief().synchronised(),
            produced: held.appended,
            appended: held.appended,
            acknowledged: held.acknowledged,
            backlog_batches: held.batches,
            backlog_readings: held.backlog(),
            backlog_bytes: held.bytes,
            buffer_limit_bytes: limit as u64,
            devices: if points > 0 { devices.clone() } else { Vec::new() },
            uptime_s: started.elapsed().as_secs(),
            ..wire::Report::default()
        }
    })
}
