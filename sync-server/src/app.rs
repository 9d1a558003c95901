//! The composition root: every channel of the server is made here and every task has its name
//! here. It starts from the inside out, and stops in order: doors first, then the committer, so
//! that whoever was let in gets an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use forebay_config::access::{Access, AccessMode};
use forebay_config::server::Server;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::access::{Gate, Openness, Rules};
use crate::alarms::{Evaluator, Webhooks};
use crate::api::{self, About, Api, Roster};
use crate::headers;
use crate::health::{self, Health};
use crate::identity::page::{PageTls, Source};
use crate::identity::{self, Authority, ServerCertificate};
use crate::ingest::{self, Committer, Ingest, Outage, Parts};
use crate::invitation::Inviter;
use crate::ledger::Keeper;
use crate::listener::{Limits, Listener};
use crate::live::{Exchange, Feed};
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;
use crate::ui;
use crate::upkeep::{Retainer, Roller};
use crate::watchdog::{self, Progress};

/// How long an open page may keep the web listener from stopping.
const WEB_DRAIN: Duration = Duration::from_secs(5);
/// Of the page over TLS. Nobody there shows a certificate, and a live page stays for as long as it likes.
const PAGE_LIMITS: Limits = Limits {
    handshake: Duration::from_secs(10),
    first_request: Duration::from_secs(20),
    idle: Duration::from_secs(90),
    stranger: Duration::from_secs(30 * 86_400),
    drain: WEB_DRAIN,
    connections: 1024,
};
/// What systemd grants at each word during the start; longer than the pauses between them.
const STARTING_FOR: Duration = Duration::from_secs(120);
const UPKEEP_EVERY: Duration = Duration::from_secs(30);

/// A server with its sockets bound, not yet serving.
pub struct App {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    config: Server,
    names: Vec<String>,
    certificate: ServerCertificate,
    /// TLS of the page, where it has it.
    page: Option<(PageTls, Arc<ServerConfig>)>,
    gate: Arc<Gate>,
    sync: TcpListener,
    web: TcpListener,
}

impl App {
    /// Opens the CA and binds the sockets.
    pub async fn build(config: Server, store: Arc<dyn Store>) -> Result<Self> {
        let authority = Arc::new(Authority::open(&config.state_dir)?);
        let names = identity::names(&address(&config), hostname().as_deref());
        let certificate = authority.server_certificate(&names)?;
        let page = page_tls(&config, &authority, &names)?;
        let gate = Arc::new(Gate::new(store.access(), rules(&config)));
        let bind = async |what: &str, address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("listen on {address} (`{what}.listen`)"))
        };
        let sync = bind("sync", config.sync.listen).await?;
        let web = bind("web", config.web.listen).await?;
        Ok(Self { store, authority, config, names, certificate, page, gate, sync, web })
    }

    /// Where agents connect: the port is the real one, even if the configuration said 0.
    pub fn sync_address(&self) -> Result<SocketAddr> {
        self.sync.local_addr().context("read the address of the sync socket")
    }

    /// Where page, API and metrics are.
    pub fn web_address(&self) -> Result<SocketAddr> {
        self.web.local_addr().context("read the address of the web socket")
    }

    /// Where a person finds the page.
    pub fn page_address(&self) -> Result<String> {
        let address = self.web_address()?;
        let scheme = if self.page.is_some() { "https" } else { "http" };
        Ok(match hostname() {
            Some(name) if address.ip().is_unspecified() => format!("{scheme}://{name}:{}/", address.port()),
            _ => format!("{scheme}://{address}/"),
        })
    }

    /// A link by which the first user is made, if there are no users. To be shown once.
    pub async fn setup_link(&self) -> Result<Option<String>> {
        let secret = self.gate.setup_secret().await.context("look whether there are users")?;
        let page = self.page_address()?;
        Ok(secret.map(|secret| format!("{page}#/setup/{secret}")))
    }

    /// The CA, for those who make join strings.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// Serves until `stop`, then drains. An error means that a task ended on its own: the process
    /// must end too, to be started again.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let Self { store, authority, config, names, certificate, page, gate, sync, web } = self;
        let telemetry = Arc::new(Telemetry::new());
        let feed = Feed::new();
        let (tls, newest_tls) = watch::channel::<Arc<ServerConfig>>(certificate.tls);
        let outage = Arc::new(Outage::new(telemetry.clone()));
        let progress = Progress::default();
        let (committer, commit) =
            Committer::new(store.clone(), outage.clone(), telemetry.clone(), progress.clone());
        let ingest = Ingest::new(Parts {
            store: store.clone(),
            authority: authority.clone(),
            outage,
            committer,
            feed: feed.clone(),
            telemetry: telemetry.clone(),
            max_request: config.sync.max_request,
            approval: config.sync.approval,
        });
        let exchange = Exchange::new(feed.clone(), store.neighbours());
        let keeper = Keeper::new(store.clone(), telemetry.clone());
        let roller = Roller::new(store.clone(), telemetry.clone());
        let inviter = Inviter { authority: authority.clone(), address: address(&config) };
        let about = About {
            retention: config.retention.clone(),
            rules: config.alarms.rules.clone(),
            inviter: Some(inviter),
        };
        let retainer = Retainer::new(store.clone(), telemetry.clone(), config.retention);
        let rules = config.alarms.rules;
        let evaluator = Evaluator::new(store.clone(), feed.clone(), telemetry.clone(), rules);
        let webhooks = Webhooks::new(store.clone(), feed.clone(), telemetry.clone(), config.alarms.webhooks)
            .map_err(|why| anyhow!(why))?;
        webhooks.register().await.context("make the webhooks known to the store")?;
        let listener = Listener::new(sync, newest_tls, Limits::default(), telemetry.clone());
        let doors = listener.doors();
        let health = Health { store: store.clone(), telemetry: telemetry.clone(), is_public: page.is_some() };
        let fleet = Roster::new(store.clone());
        let api = Api { fleet, store: store.clone(), feed, gate, stop: stop.clone() };
        let metrics = api::guarded(health::metrics_router(telemetry.clone()), &api, api::METRICS);
        let router =
            health::router(health).merge(metrics).merge(api::router_about(api, about)).merge(ui::router());
        let router = headers::secure(router, config.web.certificate.is_some());

        // The doors hold the only ways to the committer; it ends when they have.
        let mut tasks = Tasks::default();
        tasks.add("sync listener", listener.run(ingest::router(ingest), stop.clone()));
        match page {
            None => tasks.add("web listener", serve_web(web, router, stop.clone())),
            Some((page, first)) => {
                let (tls, newest) = watch::channel(first);
                // The agents' counters are of agents.
                let listener = Listener::new(web, newest, PAGE_LIMITS, Arc::default());
                tasks.add("web listener", listener.run(router, stop.clone()));
                tasks.add("page's certificate", page.keep_fresh(tls, stop.clone()));
            }
        }
        tasks.add("committer", commit);
        tasks.add("revocation watch", doors.watch(store, stop.clone()));
        let fresh = identity::keep_fresh(authority, names, certificate.renew_from, tls, stop.clone());
        tasks.add("certificate renewal", fresh);
        tasks.add("live exchange", exchange.run(stop.clone()));
        tasks.add("ledger keeper", keeper.run(stop.clone()));
        tasks.add("rollups", roller.run(stop.clone()));
        tasks.add("retention", retainer.run(stop.clone()));
        tasks.add("alarms", evaluator.run(stop.clone()));
        tasks.add("webhooks", webhooks.run(stop.clone()));
        tasks.add("metrics upkeep", keep_up(telemetry, stop.clone()));
        tasks.add("watchdog", watchdog::run(progress, stop.clone()));
        tasks.run(stop).await
    }
}

/// The store, waited for as long as it is away: agents keep their readings meanwhile. `None` if
/// told to stop before it came.
pub async fn wait_for_store<F>(
    mut open: impl FnMut() -> F,
    stop: &CancellationToken,
) -> Result<Option<Arc<dyn Store>>>
where
    F: Future<Output = Result<Arc<dyn Store>, StoreError>>,
{
    let mut pause = Duration::from_secs(1);
    loop {
        let error = match open().await {
            Ok(store) => return Ok(Some(store)),
            Err(error @ StoreError::Refused(_)) => return Err(error).context("open the store (`[store]`)"),
            Err(error) => error,
        };
        warn!(%error, "Waiting for the database.");
        still_starting(&format!("Waiting for the database: {error}"));
        if timeout(pause, stop.cancelled()).await.is_ok() {
            return Ok(None);
        }
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// `host:port` agents are told to reach us by: as configured, else the address listened on if it
/// is a certain one, else this machine's name.
pub fn address(config: &Server) -> String {
    let listen = config.sync.listen;
    match (&config.sync.address, hostname()) {
        (Some(address), _) => address.clone(),
        (None, Some(name)) if listen.ip().is_unspecified() => format!("{name}:{}", listen.port()),
        _ => listen.to_string(),
    }
}

fn rules(config: &Server) -> Rules {
    let Access { mode, session, requests_per_minute } = config.access;
    let open = match mode {
        AccessMode::Auto if config.web.listen.ip().is_loopback() => Openness::UntilUsers,
        AccessMode::Open => Openness::Always,
        AccessMode::Auto | AccessMode::Users => Openness::Never,
    };
    Rules { open, session, requests: requests_per_minute, is_tls: config.web.is_tls() }
}

fn page_tls(
    config: &Server,
    authority: &Arc<Authority>,
    names: &[String],
) -> Result<Option<(PageTls, Arc<ServerConfig>)>> {
    if !config.web.is_tls() {
        return Ok(None);
    }
    let source = match &config.web.certificate {
        Some(files) => Source::Files(files.clone()),
        None => {
            let own = identity::names(&config.web.listen.to_string(), None);
            let others = names.iter().filter(|name| !own.contains(name));
            Source::Own(authority.clone(), own.iter().chain(others).cloned().collect())
        }
    };
    Ok(Some(PageTls::open(source).context("prepare TLS for the page (`[web]`)")?))
}

/// Tells systemd, if it is there, that we serve.
pub fn ready(words: &str) {
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(words)]);
}

/// Tells systemd that we are on our way out.
pub fn stopping() {
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// A start that waits for somebody else is not given up by systemd.
fn still_starting(words: &str) {
    let micros = STARTING_FOR.as_micros() as u32;
    notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(micros), sd_notify::NotifyState::Status(words)]);
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "Cannot notify systemd.");
    }
}

fn hostname() -> Option<String> {
    // Not from /proc: the unit hides all of it but processes.
    let system = rustix::system::uname();
    let name = system.nodename().to_str().ok()?;
    Some(name.to_owned()).filter(|name| !name.is_empty() && name != "(none)")
}

async fn serve_web(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    let asked = stop.clone();
    let serving = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move { asked.cancelled().await });
    // Live pages hang on for ever, so patience begins with the stop.
    let patience = async {
        stop.cancelled().await;
        timeout(WEB_DRAIN, std::future::pending::<()>()).await
    };
    tokio::select! {
        ended = serving => if let Err(error) = ended { warn!(%error, "The web listener ended.") },
        _ = patience => {}
    }
}

async fn keep_up(telemetry: Arc<Telemetry>, stop: CancellationToken) {
    while timeout(UPKEEP_EVERY, stop.cancelled()).await.is_err() {
        telemetry.upkeep();
    }
}

/// The tasks by name. None may end before it is told to.
#[derive(Default)]
struct Tasks {
    set: JoinSet<&'static str>,
}

impl Tasks {
    fn add(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.set.join_next().await {
            match ended {
                Ok(_) if stop.is_cancelled() => continue,
                Ok(name) => outcome = Err(anyhow!("the {name} ended on its own")),
                Err(error) => outcome = Err(anyhow!(error).context("a task panicked; this is a bug")),
            }
            stop.cancel();
        }
        info!("Stopped.");
        outcome
    }
}

#[cfg(test)]
mod tests;
