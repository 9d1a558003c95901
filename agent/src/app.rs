//! Where everything of the agent meets: the only file that creates channels and names tasks.
//!
//! ```text
//! links ──handovers──▶ batcher ──▶ buffer ──▶ uplink ──▶ server
//!   └───silences────▶ recorder ──────┘
//!    all seen by the board ──▶ telemetry, systemd, the server's report
//! ```
//!
//! SIGHUP has the configuration read again; the rooms of `crew` change the links then.
//!
//! Links do not wait for the buffer: a store that takes long to open costs no reading, for the
//! batcher opens it while handovers wait in their bounded channel.

mod crew;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use forebay_config::agent::{Agent, Proxy, Telemetry};
use forebay_config::processing::Rule;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::sync::batch::Epoch;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::batcher::{Batcher, Handover, while_opening};
use crate::buffer::{Appender, Buffer, BufferError, Opening, Settings as BufferSettings};
use crate::cli::join::Waiting;
use crate::clock::{Clock, keeping};
use crate::fittings::{self, Fitter};
use crate::gaps::{self, Recorder, Tally};
use crate::learnt;
use crate::ledger::Books;
use crate::live::{self, Feed, Question};
use crate::log;
use crate::roster::Roster;
use crate::status::{Board, ConfigShown, VERSION};
use crate::supervisor::{Ending, Grace, Supervisor, Verdict};
use crate::systemd::{self, Progress};
use crate::telemetry;
use crate::uplink::{Settings as UplinkSettings, Uplink, UplinkStatus};

pub use self::crew::Reread;
use self::crew::{Crew, Reloads};

/// The last thing the buffer does may take this long.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// The field is left alone for so long while the buffer opens. Another agent's hold on it shows at
/// once, and then this one must not ask devices anything.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// Harvests between the links and the batcher. Full, it makes links wait.
const HANDOVERS: usize = 64;
/// Changes of the links that wait for the supervisor.
const ORDERS: usize = 16;
/// Pauses between attempts at a disk that refuses.
const DISK_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The buffer's handles and what was found at its opening.
type Opened = (Buffer, Appender, Opening);

/// The buffer as everybody but the batcher sees it: open some day.
type Seen = watch::Receiver<Option<OpenBuffer>>;

#[derive(Clone)]
struct OpenBuffer {
    buffer: Buffer,
    epoch: Epoch,
}

/// What an agent that runs can be told anew.
pub struct Control {
    /// Reads the configuration again, at SIGHUP.
    pub reread: Reread,
    /// How much is logged; `None` where somebody else logs.
    pub level: Option<log::Level>,
}

/// Runs the agent until SIGTERM, SIGINT or `ending.asked`, and through its orderly end.
pub async fn run(config: Agent, control: Control, ending: Ending) -> anyhow::Result<Verdict> {
    // First of all: a signal without a handler kills.
    let signals = Signals::listen().context("listen for signals")?;
    let grace = Grace::default();
    let forebay_config::agent::Buffer { max_size, reserve, when_full, tail, durability_window: _ } =
        config.buffer;
    let dir = config.state_dir.join("buffer");
    let classes = config.classes.clone();
    let opening = Buffer::open(BufferSettings { dir, max_size, reserve, when_full, tail, classes });
    let (hangups, reloads) = mpsc::channel(1);
    let (mut supervisor, buffer) = build(config, control, opening, reloads, &ending).await?;
    supervisor.attendant("signals", signals.run(hangups, ending.asked.clone(), ending.give_up.clone()));
    supervisor.attendant("farewell", async move {
        ending.asked.cancelled().await;
        systemd::stopping(grace.whole() + CLOSE_WITHIN);
        Ok(())
    });
    systemd::ready();
    let verdict = supervisor.run(grace).await;
    close(buffer).await;
    Ok(verdict)
}

/// A store that is closed opens without a look at its segments. One that hangs is left behind:
/// nothing in it depends on this. Nor on one that never opened.
async fn close(buffer: Seen) {
    let Some(OpenBuffer { buffer, .. }) = buffer.borrow().clone() else { return };
    let words = match timeout(CLOSE_WITHIN, buffer.close()).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CLOSE_WITHIN:?}"),
    };
    warn!("The buffer could not be closed: {words}. The next start looks through its segments.");
}

/// Starts every task. `opening` opens the buffer; if it is refused at once, nothing is started.
async fn build(
    config: Agent,
    control: Control,
    opening: impl Future<Output = Result<Opened, BufferError>> + Send + 'static,
    reloads: mpsc::Receiver<()>,
    ending: &Ending,
) -> anyhow::Result<(Supervisor, Seen)> {
    let running = config.clone();
    let Telemetry { listen } = config.telemetry;
    // The classes are the buffer's.
    let Agent {
        site,
        gateway,
        state_dir,
        buffer,
        classes: _,
        processing,
        uplink,
        telemetry: _,
        log: _,
        links,
    } = config;
    let (window, rules) = (buffer.durability_window, Arc::<[Rule]>::from(processing));
    let started = BootTime::now();
    let opening = look(opening).await?;

    let clock = Clock::open(&state_dir);
    let (books, progress, tally) = (Books::default(), Progress::default(), Tally::default());
    let (handovers, to_batcher) = mpsc::channel::<Handover>(HANDOVERS);
    let (open, seen) = watch::channel::<Option<OpenBuffer>>(None);
    let (uplink_status, uplink_seen) = watch::channel(UplinkStatus::default());
    let feed = Feed::default();
    // The buffer was looked at: no other agent works in this folder.
    let door = live::Door::open(&state_dir);
    let fitter = Arc::new(Fitter::new(site, gateway, state_dir, clock.clone()));

    let mut supervisor = Supervisor::new(ending.clone());
    attend_learnt(&mut supervisor, &fitter, &links, ending.give_up.clone());
    let roster = Roster::default();
    let crew = Crew {
        fitter: fitter.clone(),
        // The batcher ends when the last sender is gone; this one goes with the attendant of reloads.
        handovers,
        books: books.clone(),
        feed: feed.clone(),
        roster: roster.clone(),
        stop: ending.stop_links.clone(),
        goodbye: ending.close_links.clone(),
    };
    for link in links {
        supervisor.link(crew.engage(link, rules.clone()));
    }
    let (orders, to_supervisor) = mpsc::channel(ORDERS);
    supervisor.takes_orders(to_supervisor);
    let (shown, config_seen) = watch::channel(ConfigShown::default());

    let board = Arc::new(Board {
        books: books.clone(),
        buffer: {
            let seen = seen.clone();
            Box::new(move || seen.borrow().as_ref().map(|open| open.buffer.status()))
        },
        links: roster.clone(),
        config: config_seen,
        uplink: uplink_seen,
        clock: clock.clone(),
        gaps: tally.clone(),
        started,
    });
    let recorder = Recorder { links: roster.clone(), clock: clock.clone(), tally };
    let batcher = {
        let (clock, recorder, progress) = (clock.clone(), recorder.clone(), progress.clone());
        let server_reads = fitter.server_reads.clone();
        let (hurry, give_up) = (ending.stop_links.clone(), ending.give_up.clone());
        let backoff = Backoff::new(DISK_PAUSES.0, DISK_PAUSES.1).context("pauses of the batcher")?;
        async move {
            let opened = while_opening(opening, &progress).await.context("open the buffer")?;
            let (buffer, appender, opening) = opened;
            let Opening { epoch, boot_counter, repairs, counts, boots, last_run } = opening;
            for repair in repairs {
                warn!("The buffer was mended: {repair}.");
            }
            info!(%epoch, boot = boot_counter, "The buffer is open.");
            clock.place(boot_counter, &boots);
            recorder.agent_was_down(&buffer, last_run, started).await?;
            open.send_replace(Some(OpenBuffer { buffer: buffer.clone(), epoch }));
            books.open(counts);
            let batcher = Batcher {
                flash: appender,
                encode: fittings::encoder(server_reads),
                epoch,
                clock,
                window,
                books,
                progress,
                backoff,
                hurry,
                give_up,
            };
            batcher.run(to_batcher).await?;
            // Here, so that the uplink's last requests carry what is silent still.
            Ok(recorder.finish(&buffer).await?)
        }
    };
    supervisor.batcher(batcher);
    attend_certificate(&mut supervisor, &fitter, uplink.proxy.clone(), ending.give_up.clone());
    attend_application(&mut supervisor, &fitter, uplink.proxy.clone(), ending.give_up.clone());
    let uplink = {
        let (seen, clock, board) = (seen.clone(), clock.clone(), board.clone());
        let (finish, give_up) = (ending.finish_uplink.clone(), ending.give_up.clone());
        async move {
            let Some(OpenBuffer { buffer, epoch }) = open_unless(seen, &finish).await else { return Ok(()) };
            let uplink = Uplink {
                backlog: buffer,
                epoch,
                clock,
                introduction: fitter.introduction(),
                reporter: Box::new(move || board.report()),
                status: uplink_status,
                settings: UplinkSettings::new(uplink),
                finish,
                give_up,
            };
            uplink.run().await.context("read the buffer")
        }
    };
    supervisor.uplink(uplink);
    match door {
        Ok(door) => {
            let (clock, board, stop) = (clock.clone(), board.clone(), ending.give_up.clone());
            let answers = move |question| match question {
                Question::Status => serde_json::to_string(&board.snapshot()).unwrap_or_default(),
                Question::Metrics => telemetry::text(&board),
            };
            supervisor.attendant("live", async move {
                live::serve(door, feed, clock, Arc::new(answers), stop).await;
                Ok(())
            });
        }
        Err(error) => warn!("`forebay-agent tail` will find nobody: {error}. Readings flow all the same."),
    }
    attend_gaps(&mut supervisor, recorder, seen.clone(), ending.stop_links.clone());
    attend_clock(&mut supervisor, clock, seen.clone(), ending.give_up.clone());
    if let Some(address) = listen {
        attend_telemetry(&mut supervisor, address, board.clone(), ending).await;
    }
    let words = {
        let board = board.clone();
        move || board.words()
    };
    let reloading = Reloads { crew, running, reread: control.reread, orders, shown, level: control.level };
    let (told, stop) = (words.clone(), ending.stop_links.clone());
    supervisor.attendant("reload", async move {
        stop.run_until_cancelled_owned(reloading.run(reloads, told)).await;
        Ok(())
    });
    let stop = ending.give_up.clone();
    supervisor.attendant("systemd", async move {
        systemd::run(words, progress, stop).await;
        Ok(())
    });
    info!(version = VERSION, links = roster.len(), "Started.");
    Ok((supervisor, seen))
}

/// Waits for the buffer a moment. A refusal ends the agent before it has started anything.
async fn look(
    opening: impl Future<Output = Result<Opened, BufferError>> + Send + 'static,
) -> anyhow::Result<impl Future<Output = Result<Opened, BufferError>> + Send + 'static> {
    let mut opening = Box::pin(opening);
    let early = match timeout(FIRST_LOOK, &mut opening).await {
        Ok(opened) => Some(opened.context("open the buffer")?),
        Err(_) => {
            info!("The buffer takes its time to open. Devices are read meanwhile, and their readings held.");
            None
        }
    };
    Ok(async move {
        match early {
            Some(opened) => Ok(opened),
            None => opening.await,
        }
    })
}

/// The buffer when it is open; `None` if `stop` comes first, or if it will not open.
async fn open_unless(mut seen: Seen, stop: &CancellationToken) -> Option<OpenBuffer> {
    if let Some(open) = seen.borrow().clone() {
        return Some(open);
    }
    let waiting = async { seen.wait_for(Option::is_some).await.ok().and_then(|open| open.clone()) };
    let open = stop.run_until_cancelled(waiting).await.flatten();
    if open.is_none() {
        // Where the batcher is gone already the agent ends, but not by us.
        stop.cancelled().await;
    }
    open
}

fn attend_gaps(supervisor: &mut Supervisor, recorder: Recorder, seen: Seen, stop: CancellationToken) {
    supervisor.attendant("gaps", async move {
        let Some(open) = open_unless(seen, &stop).await else { return Ok(()) };
        Ok(recorder.run(&open.buffer, gaps::LOOK_EVERY, &stop).await?)
    });
}

fn attend_certificate(
    supervisor: &mut Supervisor,
    fitter: &Fitter,
    proxy: Option<Proxy>,
    stop: CancellationToken,
) {
    let renewal = fitter.renewal(proxy);
    supervisor.attendant("certificate", async move {
        renewal.run(stop).await;
        Ok(())
    });
}

fn attend_application(
    supervisor: &mut Supervisor,
    fitter: &Fitter,
    proxy: Option<Proxy>,
    stop: CancellationToken,
) {
    let waiting = Waiting {
        state_dir: fitter.state_dir.clone(),
        site: fitter.site.to_string(),
        gateway: fitter.gateway.to_string(),
        proxy,
    };
    supervisor.attendant("application", async move {
        waiting.keep_asking(stop).await;
        Ok(())
    });
}

fn attend_learnt(
    supervisor: &mut Supervisor,
    fitter: &Fitter,
    links: &[Arc<forebay_config::field::Link>],
    stop: CancellationToken,
) {
    let (state_dir, kept) = (fitter.state_dir.clone(), learnt::files_of(links));
    supervisor.attendant("learnt", async move {
        spawn_blocking(move || learnt::forget_removed(&state_dir, &kept)).await?;
        stop.cancelled().await;
        Ok(())
    });
}

fn attend_clock(supervisor: &mut Supervisor, clock: Clock, seen: Seen, stop: CancellationToken) {
    supervisor.attendant("clock", async move {
        let Some(OpenBuffer { buffer, .. }) = open_unless(seen, &stop).await else { return Ok(()) };
        let tell = |offset_us| {
            let buffer = buffer.clone();
            // A buffer that has stopped ends the agent by the batcher and the uplink.
            async move { drop(buffer.learn_offset(offset_us).await) }
        };
        keeping::keep(clock, keeping::LOOK_EVERY, tell, stop).await;
        Ok(())
    });
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

    /// The first SIGTERM or SIGINT asks for the end, a second one hurries. SIGHUP is told to `hangups`.
    async fn run(
        mut self,
        hangups: mpsc::Sender<()>,
        asked: CancellationToken,
        give_up: CancellationToken,
    ) -> anyhow::Result<()> {
        let end = give_up.clone();
        end.run_until_cancelled(async {
            loop {
                tokio::select! {
                    _ = self.hangup.recv() => {
                        // One that waits already stands for this one too.
                        let _ = hangups.try_send(());
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

#[cfg(test)]
mod tests;
