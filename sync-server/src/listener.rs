//! Where agents connect: TCP, TLS, HTTP/1.1 or HTTP/2, and a time limit on each of them.
//!
//! - A handshake runs in its connection's own task: a peer that connects and says nothing costs a
//!   task and a socket for [`Limits::handshake`], and nobody waits for it.
//! - The connection's task ends when the peer is silent after its handshake, idles too long or
//!   when the server stops; requests under way at that moment get [`Limits::drain`] to finish.
//! - At [`Limits::connections`] open connections new ones are closed at once, and counted.
//! - Requests of agents take turns (`turns`); between them a connection keeps nothing of HTTP.

mod turns;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use forebay_protocols::sync::tls;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, error, warn};

use crate::doors::{Doors, Entered};
use crate::telemetry::Telemetry;
use turns::Answered;

/// The most that is read of a connection at once; heads of requests must fit.
const READ_BUFFER: usize = 32 << 10;

/// The peer of a connection; handlers find it among a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Where it connects from (or the balancer before it).
    pub address: SocketAddr,
    /// SHA-256 of the client certificate it showed and proved to hold the key of.
    pub certificate: Option<[u8; 32]>,
}

/// The client certificate itself, among a request's extensions beside [`Peer`].
#[derive(Clone, Debug)]
pub struct Shown(pub CertificateDer<'static>);

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From the handshake to the first whole request head.
    pub first_request: Duration,
    /// Between requests, and for the head of each.
    pub idle: Duration,
    /// For all a peer without a certificate has to say: a request to join.
    pub stranger: Duration,
    /// For requests under way when the server stops.
    pub drain: Duration,
    /// Connections open at once, those in their handshake included.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(20),
            // Agents report every few seconds; this spares them a handshake each time.
            idle: Duration::from_secs(90),
            stranger: Duration::from_secs(120),
            drain: Duration::from_secs(10),
            connections: 8192,
        }
    }
}

/// A bound socket, and what is needed to serve it.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    /// Replaced by `identity::keep_fresh`; each handshake takes the newest.
    tls: watch::Receiver<Arc<ServerConfig>>,
    limits: Limits,
    telemetry: Arc<Telemetry>,
    doors: Doors,
}

impl Listener {
    /// A listener over a bound socket.
    pub fn new(
        tcp: TcpListener,
        tls: watch::Receiver<Arc<ServerConfig>>,
        limits: Limits,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self { tcp, tls, limits, telemetry, doors: Doors::default() }
    }

    /// The connections that are open, by the certificates shown on them.
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Accepts and serves until `stop`, then drains. Owns every connection's task.
    pub async fn run(self, router: Router, stop: CancellationToken) {
        let Self { tcp, tls, limits, telemetry, doors } = self;
        let room = Arc::new(Semaphore::new(limits.connections));
        let turns = Arc::new(Semaphore::new(turns::AT_ONCE));
        let graceful = GracefulShutdown::new();
        let mut tasks = JoinSet::new();
        loop {
            // Cancel-safe: accept() and join_next() lose nothing when another arm is first.
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next() => {
                    note(ended);
                    continue;
                }
                accepted = tcp.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to come free.
                    warn!(%error, "Cannot accept connections.");
                    let _ = timeout(Duration::from_millis(200), stop.cancelled()).await;
                    continue;
                }
            };
            let Ok(permit) = room.clone().try_acquire_owned() else {
                telemetry.connections_refused.increment(1);
                continue;
            };
            let connection = Connection {
                address,
                limits,
                telemetry: telemetry.clone(),
                watcher: graceful.watcher(),
                stop: stop.clone(),
                doors: doors.clone(),
                turns: turns.clone(),
                _permit: permit,
            };
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            tasks.spawn(connection.run(stream, acceptor, router.clone()));
        }
        drop(tcp);
        if timeout(limits.drain, graceful.shutdown()).await.is_err() {
            debug!(open = tasks.len(), "Closing connections that did not finish in time.");
        }
        tasks.abort_all();
        while let Some(ended) = tasks.join_next().await {
            note(ended);
        }
    }
}

/// A panic in a handler ends its connection only, but never unseen.
fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "A connection's task panicked; this is a bug, please report it.");
    }
}

/// One connection, from its handshake to its end.
struct Connection {
    address: SocketAddr,
    limits: Limits,
    telemetry: Arc<Telemetry>,
    watcher: Watcher,
    stop: CancellationToken,
    doors: Doors,
    turns: Arc<Semaphore>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
        self.telemetry.connections.increment(1);
        let telemetry = self.telemetry.clone();
        let _open = OnDrop(|| telemetry.connections.decrement(1));
        // Small answers must not wait for more to say.
        let _ = stream.set_nodelay(true);
        // In a box that is gone when it is over: of a connection that idles, little shall remain.
        let handshake = Box::pin(timeout(self.limits.handshake, acceptor.accept(stream)));
        // A handshake cut short by the stop costs nobody anything: no request was made yet.
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = self.stop.cancelled() => return,
        };
        let served = match shaken {
            Ok(Ok(stream)) => {
                let end = (self.watcher, self.stop);
                Served::new(stream, self.address, self.limits, end, (&self.doors, self.turns), router)
            }
            Ok(Err(error)) => {
                self.telemetry.handshakes_failed.increment(1);
                debug!(peer = %self.address, %error, "A TLS handshake failed.");
                return;
            }
            Err(_) => {
                self.telemetry.handshakes_failed.increment(1);
                debug!(peer = %self.address, "A peer was silent during its TLS handshake.");
                return;
            }
        };
        served.attend(self.limits).await;
    }
}

/// A connection on which requests come. The larger part of it lies in one box.
struct Served {
    peer: Peer,
    /// Did a request come?
    asked: Arc<AtomicBool>,
    /// Then it has an eye of its own on how long the peer is silent.
    is_by_turns: bool,
    /// With a certificate: until it is revoked.
    entered: Option<Entered>,
    http: Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>,
}

impl Served {
    fn new(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        limits: Limits,
        (watcher, stop): (Watcher, CancellationToken),
        (doors, turns): (&Doors, Arc<Semaphore>),
        router: Router,
    ) -> Self {
        let (_, session) = stream.get_ref();
        let own = session.peer_certificates().and_then(|chain| chain.first());
        let peer = Peer { address, certificate: own.map(|der| tls::fingerprint(der)) };
        let shown = own.map(|der| Shown(der.clone().into_owned()));
        let entered = peer.certificate.map(|certificate| doors.enter(certificate));
        // The version is the one agreed on in the handshake: hyper's own detection waits for the first
        // bytes without a limit.
        let is_http2 = session.alpn_protocol() == Some(tls::ALPN[0]);
        let asked = Arc::new(AtomicBool::new(false));
        let heard = asked.clone();
        let answered = Answered::default();
        let answering = answered.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            heard.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer);
            if let Some(shown) = shown.clone() {
                request.extensions_mut().insert(shown);
            }
            let router = router.clone();
            answering.after(async move { Ok(answer(router, request).await) })
        });
        let is_by_turns = peer.certificate.is_some() && !is_http2;
        // Without a timer hyper's limits and keep-alives do nothing.
        let http: Pin<Box<dyn Future<Output = _> + Send>> = if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            // The answer tells the time better than a `date`, which is a tenth of what a small batch costs on
            // the wire.
            builder
                .auto_date_header(false)
                .timer(TokioTimer::new())
                .keep_alive_interval(limits.idle / 3)
                .keep_alive_timeout(limits.idle / 3)
                .max_concurrent_streams(16)
                .max_header_list_size(16 << 10);
            Box::pin(watcher.watch(builder.serve_connection(TokioIo::new(stream), service)))
        } else {
            let mut builder = http1::Builder::new();
            // A connection keeps its buffer: one that once brought a backlog shall not keep 400 KiB.
            builder
                .auto_date_header(false)
                .timer(TokioTimer::new())
                .header_read_timeout(limits.idle)
                .max_buf_size(READ_BUFFER);
            // hyper-util watches no connection that may become a WebSocket, and none that rests. While such a one is
            // there its watcher is, and the listener waits for it.
            if is_by_turns {
                let served =
                    turns::serve(builder, Box::new(stream), (service, answered), turns, limits, stop);
                Box::pin(async move {
                    let _watcher = watcher;
                    served.await
                })
            } else {
                let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
                Box::pin(async move {
                    let _watcher = watcher;
                    tokio::pin!(connection);
                    tokio::select! {
                        outcome = &mut connection => return outcome,
                        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
                    }
                    connection.await
                })
            }
        };
        Self { peer, asked, is_by_turns, entered, http }
    }

    async fn attend(mut self, limits: Limits) {
        let address = self.peer.address;
        match self.entered.take() {
            None => self.talk(limits).await,
            // What is cut off was not acknowledged, so it is not lost.
            Some(entered) => tokio::select! {
                () = self.talk(limits) => {}
                () = entered.shut() => debug!(peer = %address, "Closed the connection of a revoked certificate."),
            },
        }
    }

    async fn talk(&mut self, limits: Limits) {
        let address = self.peer.address;
        let first = if self.is_by_turns { Duration::MAX } else { limits.first_request };
        let outcome = match timeout(first, &mut self.http).await {
            Ok(outcome) => outcome,
            // hyper has no limit of its own on the first bytes of a connection.
            Err(_) if !self.asked.load(Ordering::Relaxed) => {
                return debug!(peer = %address, "A peer was silent after its TLS handshake.");
            }
            Err(_) if self.peer.certificate.is_none() => match timeout(limits.stranger, &mut self.http).await
            {
                Ok(outcome) => outcome,
                Err(_) => return debug!(peer = %address, "A peer without a certificate stayed too long."),
            },
            Err(_) => (&mut self.http).await,
        };
        if let Err(error) = outcome {
            debug!(peer = %address, %error, "A connection ended with an error.");
        }
    }
}

async fn answer(router: Router, request: Request<Incoming>) -> http::Response<axum::body::Body> {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(impossible) => match impossible {},
    }
}

/// Runs when dropped, whichever way its owner ends.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
