//! A server on a free port, and gateways that talk to it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::problem::Problem;
use forebay_protocols::sync::tls::{self, FreshKey, Identity};
use forebay_protocols::sync::wire::{JoinAnswer, JoinRequest, SyncAnswer, SyncRequest};
use http::{Request, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::memory::Memory;
use crate::identity::{self, Authority};
use crate::ingest::{self, Committer, Ingest, Outage, Parts};
use crate::listener::{Limits, Listener};
use crate::live::Feed;
use crate::store::{NewToken, Store};
use crate::telemetry::Telemetry;
use crate::watchdog::Progress;

/// A running server.
pub struct Plant {
    pub address: SocketAddr,
    pub store: Arc<Memory>,
    pub feed: Feed,
    authority: Arc<Authority>,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
    _state: tempfile::TempDir,
}

impl Plant {
    pub async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Self {
        let state = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(state.path()).unwrap());
        let certificate = authority.server_certificate(&identity::names("127.0.0.1:0", None)).unwrap();
        let (store, feed) = (Arc::new(Memory::default()), Feed::new());
        let telemetry = Arc::new(Telemetry::new());
        let outage = Arc::new(Outage::new(telemetry.clone()));
        let (committer, commit) =
            Committer::new(store.clone(), outage.clone(), telemetry.clone(), Progress::default());
        let ingest = Ingest::new(Parts {
            store: store.clone(),
            authority: authority.clone(),
            outage,
            committer,
            feed: feed.clone(),
            telemetry: telemetry.clone(),
            max_request: ByteSize::kib(64),
            approval: false,
        });
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        // The sender may go: the receiver keeps the one certificate.
        let (_, tls) = watch::channel(certificate.tls);
        let stop = CancellationToken::new();
        let listener = Listener::new(tcp, tls, limits, telemetry);
        let serve = listener.run(ingest::router(ingest), stop.clone());
        let tasks = [tokio::spawn(serve), tokio::spawn(commit)];
        Self { address, store, feed, authority, stop, tasks, _state: state }
    }

    /// Stops the server and waits until every task has ended.
    pub async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
        }
    }

    pub async fn token(&self, uses: u32, life: Duration) -> TokenSecret {
        let secret = TokenSecret::random().unwrap();
        let (created, secret_hash) = (wall_micros(), secret.hash());
        let expires = created + life.as_micros() as i64;
        let token = NewToken { secret_hash, expires, uses, note: String::new(), approval: false, created };
        self.store.add_token(token).await.unwrap();
        secret
    }

    /// Somebody without a certificate who trusts this server's CA by its pin.
    pub fn stranger(&self) -> Caller {
        let tls = tls::pinned_client_config(self.authority.pin(), tls::EARLIEST_TIME).unwrap();
        Caller { address: self.address, tls }
    }

    /// An identity another server gave, with this server's CA to trust.
    pub fn foreign_identity(&self) -> Identity {
        let state = tempfile::tempdir().unwrap();
        let other = Authority::open(state.path()).unwrap();
        let key = FreshKey::generate().unwrap();
        let signed = other.sign_agent(&key.request("gw").unwrap(), "far", "away").unwrap();
        let ca = std::fs::read(self._state.path().join("ca/ca.crt")).unwrap();
        let ca = <CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&ca).unwrap();
        let chain = vec![CertificateDer::from(signed.chain[0].to_vec())];
        Identity::new(self.address.to_string(), ca.into_owned(), chain, key.into_der())
    }
}

/// A gateway that has joined.
pub struct Gateway {
    pub identity: Identity,
    address: SocketAddr,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gateway")
    }
}

impl Gateway {
    pub async fn join(plant: &Plant, site: &str, gateway: &str) -> Result<Self, Problem> {
        let token = plant.token(1, Duration::from_secs(60)).await;
        Self::join_with(plant, &token, site, gateway).await
    }

    pub async fn join_with(
        plant: &Plant,
        token: &TokenSecret,
        site: &str,
        gateway: &str,
    ) -> Result<Self, Problem> {
        let key = FreshKey::generate().unwrap();
        let request = JoinRequest {
            secret: token.to_text(),
            site: site.into(),
            gateway: gateway.into(),
            csr: key.request("gateway").unwrap().into(),
            version: "test".into(),
        };
        let said = plant.stranger().post("/v1/join", request.encode_to_vec().into()).await;
        if said.status != 200 {
            return Err(said.problem());
        }
        Ok(Self::with(plant.address, JoinAnswer::decode(said.body).unwrap(), key))
    }

    pub async fn renew(&self, plant: &Plant) -> Self {
        let key = FreshKey::generate().unwrap();
        let request = JoinRequest { csr: key.request("gateway").unwrap().into(), ..Default::default() };
        let said = self.post("/v1/renew", request.encode_to_vec().into()).await;
        assert_eq!(said.status, 200);
        Self::with(plant.address, JoinAnswer::decode(said.body).unwrap(), key)
    }

    fn with(address: SocketAddr, answer: JoinAnswer, key: FreshKey) -> Self {
        let mut chain: Vec<_> = answer.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let ca = chain.pop().unwrap();
        Self { identity: Identity::new(address.to_string(), ca, chain, key.into_der()), address }
    }

    fn caller(&self) -> Caller {
        let tls = tls::client_config(&self.identity, tls::EARLIEST_TIME).unwrap();
        Caller { address: self.address, tls }
    }

    pub async fn sync(&self, request: &SyncRequest) -> Said {
        self.post("/v1/batches", request.encode_to_vec().into()).await
    }

    pub async fn post(&self, path: &str, body: Bytes) -> Said {
        self.caller().post(path, body).await
    }

    pub async fn post_chunked(&self, path: &str, body: Bytes) -> Said {
        let pieces: Vec<_> = body.chunks(1000).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(hyper::body::Frame::data(piece)));
        self.caller().send(b"http/1.1", path, StreamBody::new(futures::stream::iter(frames))).await
    }

    pub async fn post_http2(&self, path: &str, body: Bytes) -> Said {
        self.caller().send(b"h2", path, Full::new(body)).await
    }
}

/// Somebody with a way to shake hands.
pub struct Caller {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Caller {
    pub async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = tls::server_name(&self.address.to_string()).unwrap();
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Bytes) -> Said {
        self.send(b"http/1.1", path, Full::new(body)).await
    }

    async fn send<B>(&self, alpn: &[u8], path: &str, body: B) -> Said
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TokioIo::new(self.connect(alpn).await);
        let url = format!("https://{}{path}", self.address);
        let response = if alpn == b"h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            let connection = tokio::spawn(connection);
            let response = sender.send_request(Request::post(url).body(body).unwrap()).await.unwrap();
            (response, connection)
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            let connection = tokio::spawn(connection);
            let host = self.address.to_string();
            let request = Request::post(path).header(header::HOST, host).body(body).unwrap();
            (sender.send_request(request).await.unwrap(), connection)
        };
        let (response, connection) = response;
        let (head, body) = response.into_parts();
        let text = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let said = Said {
            status: head.status.as_u16(),
            content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
            retry_after: text(header::RETRY_AFTER),
            body: body.collect().await.unwrap().to_bytes(),
        };
        connection.abort();
        said
    }
}

/// What the server said.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub content_type: String,
    pub retry_after: Option<String>,
    pub body: Bytes,
}

impl Said {
    pub fn answer(self) -> SyncAnswer {
        assert_eq!((self.status, &*self.content_type), (200, "application/x-protobuf"), "{self:?}");
        SyncAnswer::decode(self.body).unwrap()
    }

    pub fn problem(self) -> Problem {
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        let problem = Problem::from_json(&self.body).unwrap();
        assert_eq!(problem.kind.status(), self.status);
        problem
    }
}

/// A peer that says nothing and waits to be let go.
pub trait Silent {
    /// Returns when the server has closed the connection.
    fn ended(&mut self) -> Pin<Box<dyn Future<Output = ()> + '_>>;
}

impl<S: tokio::io::AsyncRead + Unpin> Silent for S {
    fn ended(&mut self) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        Box::pin(async move {
            // HTTP/2 servers speak first; whatever they say, it comes to an end.
            let mut bytes = Vec::new();
            let _ = self.read_to_end(&mut bytes).await;
        })
    }
}
