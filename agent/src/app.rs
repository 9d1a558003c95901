//! Where everything of the agent meets: the only file that creates channels and names tasks.
//!
//! ```text
//! links ──handovers──▶ batcher ──▶ buffer ──▶ uplink ──▶ server
//!    all seen by the board ──▶ telemetry, systemd, the server's report
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use forebay_config::agent::{Agent, Telemetry};
use forebay_config::field;
use forebay_protocols::boot_time::BootTime;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::batcher::{Batcher, Handover};
use crate::buffer::{Buffer, Settings as BufferSettings};
use crate::clock::Clock;
use crate::fittings::{self, Fitter};
use crate::ledger::Books;
use crate::link::{Desk, LinkState, LinkStatus};
use crate::status::{Board, VERSION};
use crate::supervisor::{Birth, Ending, Grace, Supervisor, Verdict};
use crate::systemd::{self, Progress};
use crate::telemetry;
use crate::uplink::{Settings as UplinkSettings, Uplink, UplinkStatus};

/// The last thing the buffer does may take this long.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Harvests between the links and the batcher. Full, it makes links wait.
const HANDOVERS: usize = 64;
/// The first pause after a link's fault.
const LINK_PAUSE: Duration = Duration::from_secs(1);
/// Pauses between attempts at a disk that refuses.
const DISK_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Runs the agent until SIGTERM, SIGINT or `ending.asked`, and through its orderly end.
pub async fn run(config: Agent, ending: Ending) -> anyhow::Result<Verdict> {
    // First of all: a signal without a handler kills.
    let signals = Signals::listen().context("listen for signals")?;
    let grace = Grace::default();
    let (mut supervisor, buffer) = build(config, &ending).await?;
    supervisor.attendant("signals", signals.run(ending.asked.clone(), ending.give_up.clone()));
    supervisor.attendant("farewell", async move {
        ending.asked.cancelled().await;
        systemd::stopping(grace.whole() + CLOSE_WITHIN);
        Ok(())
    });
    systemd::ready();
    let verdict = supervisor.run(grace).await;
    close(&buffer).await;
    Ok(verdict)
}

/// A store that is closed opens without a look at its segments. One that hangs is left behind:
/// nothing in it depends on this.
async fn close(buffer: &Buffer) {
    let words = match timeout(CLOSE_WITHIN, buffer.close()).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CLOSE_WITHIN:?}"),
    };
    warn!("The buffer could not be closed: {words}. The next start looks through its segments.");
}

/// Opens the buffer and starts every task.
async fn build(config: Agent, ending: &Ending) -> anyhow::Result<(Supervisor, Buffer)> {
    let Agent { site, gateway, state_dir, buffer, uplink, telemetry: Telemetry { listen }, log: _, links } =
        config;
    let forebay_config::agent::Buffer { max_size, reserve, durability_window, when_full, tail } = buffer;
    let started = BootTime::now();

    let store = BufferSettings { dir: state_dir.join("buffer"), max_size, reserve, when_full, tail };
    let (buffer, appender, opening) = Buffer::open(store).await.context("open the buffer")?;
    for repair in &opening.repairs {
        warn!("The buffer was mended: {repair}.");
    }
    let clock = Clock::open(&state_dir);
    clock.place(opening.boot_counter, &opening.boots);
    let books = Books::open(opening.counts);
    let progress = Progress::default();
    let (handovers, to_batcher) = mpsc::channel::<Handover>(HANDOVERS);
    let (uplink_status, uplink_seen) = watch::channel(UplinkStatus::default());
    let fitter = Arc::new(Fitter { site, gateway, state_dir, clock: clock.clone() });

    let mut supervisor = Supervisor::new(ending.clone());
    let mut links_seen = Vec::with_capacity(links.len());
    for (index, link) in links.into_iter().enumerate() {
        let (status, seen) = watch::channel(LinkStatus::default());
        links_seen.push((link.name.to_arc(), seen));
        let desk = DeskPlan {
            index,
            handovers: handovers.clone(),
            books: books.clone(),
            status,
            stop: ending.stop_links.clone(),
            goodbye: ending.close_links.clone(),
        };
        spawn_link(&mut supervisor, fitter.clone(), link, desk);
    }
    // The batcher ends when the last sender is gone; this one is nobody's.
    drop(handovers);

    let board = Arc::new(Board {
        books: books.clone(),
        buffer: {
            let buffer = buffer.clone();
            Box::new(move || buffer.status())
        },
        links: links_seen,
        uplink: uplink_seen,
        clock: clock.clone(),
        boot_counter: opening.boot_counter,
        started,
    });
    let batcher = Batcher {
        flash: appender,
        encode: fittings::encoder(),
        epoch: opening.epoch,
        clock: clock.clone(),
        window: durability_window,
        books,
        progress: progress.clone(),
        backoff: Backoff::new(DISK_PAUSES.0, DISK_PAUSES.1).context("pauses of the batcher")?,
        hurry: ending.stop_links.clone(),
        give_up: ending.give_up.clone(),
    };
    supervisor.batcher(async move { Ok(batcher.run(to_batcher).await?) });
    let uplink = Uplink {
        backlog: buffer.clone(),
        epoch: opening.epoch,
        clock,
        introduction: fitter.introduction(),
        reporter: {
            let board = board.clone();
            Box::new(move || board.report())
        },
        status: uplink_status,
        settings: UplinkSettings::new(uplink),
        finish: ending.finish_uplink.clone(),
        give_up: ending.give_up.clone(),
    };
    supervisor.uplink(async move { uplink.run().await.context("read the buffer") });
    if let Some(address) = listen {
        attend_telemetry(&mut supervisor, address, board.clone(), ending).await;
    }
    let words = {
        let board = board.clone();
        move || board.words()
    };
    let stop = ending.give_up.clone();
    supervisor.attendant("systemd", async move {
        systemd::run(words, progress, stop).await;
        Ok(())
    });
    info!(version = VERSION, links = board.links.len(), epoch = %opening.epoch, boot = opening.boot_counter, "Started.");
    Ok((supervisor, buffer))
}

/// What every life of a link's task gets anew.
struct DeskPlan {
    index: usize,
    handovers: mpsc::Sender<Handover>,
    books: Books,
    status: watch::Sender<LinkStatus>,
    stop: CancellationToken,
    goodbye: CancellationToken,
}

fn spawn_link(supervisor: &mut Supervisor, fitter: Arc<Fitter>, link: field::Link, plan: DeskPlan) {
    let name = link.name.to_arc();
    let pauses = Backoff::up_to(LINK_PAUSE, link.backoff_max);
    let birth: Birth = {
        let (name, pauses) = (name.clone(), pauses.clone());
        Box::new(move || {
            let (fitter, link, name, stop) = (fitter.clone(), link.clone(), name.clone(), plan.stop.clone());
            let desk = Desk {
                name: name.clone(),
                index: plan.index,
                handovers: plan.handovers.clone(),
                books: plan.books.clone(),
                status: plan.status.clone(),
                backoff: pauses.clone(),
                stop: plan.stop.clone(),
                goodbye: plan.goodbye.clone(),
            };
            let status = plan.status.clone();
            Box::pin(async move {
                if let Err(words) = fitter.run_link(&link, desk).await {
                    // The configuration will not change while we run: trying again is of no use.
                    error!(link = %name, "The link cannot be started: {words}. The others go on.");
                    status.send_modify(|status| status.state = LinkState::GaveUp(words));
                    stop.cancelled().await;
                }
                Ok(())
            })
        })
    };
    supervisor.link(&name, pauses, birth);
}

async fn attend_telemetry(
    supervisor: &mut Supervisor,
    address: std::net::SocketAddr,
    board: Arc<Board>,
    ending: &Ending,
) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%address, "Nobody can look at this agent over HTTP: {error}. Readings flow all the same.");
            return;
        }
    };
    if let Ok(address) = listener.local_addr() {
        info!(%address, "Telemetry listens.");
    }
    let (asked, stop) = (ending.asked.clone(), ending.give_up.clone());
    supervisor.attendant("telemetry", async move {
        telemetry::serve(listener, board, asked, stop).await;
        Ok(())
    });
}

/// The signals we answer.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let term = signal(SignalKind::terminate())?;
        let int = signal(SignalKind::interrupt())?;
        Ok(Self { term, int, hangup: signal(SignalKind::hangup())? })
    }

    /// The first SIGTERM or SIGINT asks for the end, a second one hurries.
    async fn run(mut self, asked: CancellationToken, give_up: CancellationToken) -> anyhow::Result<()> {
        let end = give_up.clone();
        end.run_until_cancelled(async {
            loop {
                tokio::select! {
                    _ = self.hangup.recv() => {
                        warn!("SIGHUP changes nothing: the configuration is read at the start.");
                        continue;
                    }
                    _ = self.term.recv() => {}
                    _ = self.int.recv() => {}
                }
                if asked.is_cancelled() {
                    give_up.cancel();
                }
                asked.cancel();
            }
        })
        .await;
        Ok(())
    }
}
