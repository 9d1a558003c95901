//! A server for tests that fails as networks and servers do: real TCP, real mutual TLS, real HTTP.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use forebay_protocols::sync::problem::{CONTENT_TYPE, Kind, Problem};
use forebay_protocols::sync::wire::SyncRequest;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::line::Peer;
use super::tests::ingest::Ingest;

/// What the server does with one request.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Its work.
    Serve,
    /// Closes the connection without having read the request.
    CutBeforeReading,
    /// Commits, and closes the connection instead of answering.
    SwallowAnswer,
    /// Commits, and lets half of the answer out.
    HalfAnAnswer,
    /// Answers this and takes nothing.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// Refuses in the words of a Forebay server.
    Revoked,
    /// Somebody in between answers 200 with a web page.
    CaptivePortal,
    /// The right content type and nonsense in it.
    Garbage,
    /// Waits for [`Server::release`], then serves.
    Hold,
}

pub struct Server {
    state: Arc<State>,
    peer: Peer,
    _tasks: JoinSet<()>,
}

struct State {
    ingest: watch::Sender<Ingest>,
    behaviours: Mutex<VecDeque<Behaviour>>,
    /// 0 nobody waits, 1 a request is held, 2 it may go on.
    hold: watch::Sender<u8>,
    handshakes: Mutex<Vec<HandshakeKind>>,
}

impl Server {
    /// A server with an authority of its own on a free port.
    pub async fn start() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["127.0.0.1".into(), "localhost".into()]).unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap().der().clone();
            (certificate, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
        };
        let (server, client) = (leaf(), leaf());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (acceptor, tls) = tls(ca.der().clone(), server, &client);
        let peer = Peer::new(address, &tls, &client.0).unwrap();
        let state = Arc::new(State {
            ingest: watch::Sender::new(Ingest::default()),
            behaviours: Mutex::default(),
            hold: watch::Sender::new(0),
            handshakes: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor, state.clone()));
        Self { state, peer, _tasks: tasks }
    }

    /// How to reach it, with a certificate it knows.
    pub fn peer(&self) -> Peer {
        self.peer.clone()
    }
    /// What it does with the next requests; afterwards it serves.
    pub fn behave(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.state.behaviours.lock().unwrap().extend(behaviours);
    }
    pub fn is_well_behaved(&self) -> bool {
        self.state.behaviours.lock().unwrap().is_empty()
    }
    /// Waits until a request is held.
    pub async fn held(&self) {
        self.state.hold.subscribe().wait_for(|hold| *hold == 1).await.unwrap();
    }
    pub fn release(&self) {
        self.state.hold.send_replace(2);
    }
    pub async fn until(&self, wanted: impl Fn(&Ingest) -> bool) {
        self.state.ingest.subscribe().wait_for(|ingest| wanted(ingest)).await.unwrap();
    }
    pub async fn until_requests(&self, count: usize) {
        self.until(|ingest| ingest.requests.len() >= count).await;
    }
    pub fn committed(&self) -> BTreeSet<u64> {
        self.state.ingest.borrow().committed.clone()
    }
    pub fn duplicates(&self) -> usize {
        self.state.ingest.borrow().duplicates
    }
    pub fn dictionary(&self) -> u32 {
        self.state.ingest.borrow().dictionary
    }
    pub fn forget_dictionary(&self) {
        self.change(|ingest| ingest.dictionary = 0);
    }
    pub fn change(&self, change: impl FnOnce(&mut Ingest)) {
        self.state.ingest.send_modify(change);
    }
    pub fn look<T>(&self, look: impl FnOnce(&Ingest) -> T) -> T {
        look(&self.state.ingest.borrow())
    }
    /// How TLS began on each connection so far.
    pub fn handshakes(&self) -> Vec<HandshakeKind> {
        self.state.handshakes.lock().unwrap().clone()
    }
    pub fn requests(&self) -> Vec<Vec<(u64, bool)>> {
        self.state.ingest.borrow().requests.clone()
    }
    pub fn corrections(&self) -> Vec<i64> {
        self.state.ingest.borrow().corrections.clone()
    }
    /// Which requests carried a report.
    pub fn reported(&self) -> Vec<bool> {
        self.state.ingest.borrow().reported.clone()
    }
    /// The last one.
    pub fn report(&self) -> forebay_protocols::sync::wire::Report {
        self.state.ingest.borrow().report.clone().unwrap()
    }
}

type Leaf = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn tls(ca: CertificateDer<'static>, server: Leaf, client: &Leaf) -> (TlsAcceptor, ClientConfig) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let roots = Arc::new(roots);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    let acceptor = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.0], server.1)
        .unwrap();
    let connector = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![client.0.clone()], client.1.clone_key())
        .unwrap();
    (TlsAcceptor::from(Arc::new(acceptor)), connector)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), state.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            state.handshakes.lock().unwrap().extend(tls.get_ref().1.handshake_kind());
            let service = service_fn(move |request| serve(request, state.clone()));
            // An error here is the connection that a behaviour cut.
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

/// An error makes hyper close the connection without an answer.
async fn serve(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, &'static str> {
    let next = state.behaviours.lock().unwrap().pop_front();
    let behaviour = next.unwrap_or(Behaviour::Serve);
    if let Behaviour::CutBeforeReading = behaviour {
        return Err("cut");
    }
    let body = request.into_body().collect().await.map_err(|_| "the agent hung up")?.to_bytes();
    let respond = |status: u16, kind: &str, headers: &[(&str, &str)], body: Vec<u8>| {
        let builder = Response::builder().status(status).header("content-type", kind);
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(Full::new(Bytes::from(body))).unwrap()
    };
    match behaviour {
        Behaviour::Status(status, headers) => {
            return Ok(respond(status, "application/problem+json", headers, br#"{"detail":"no"}"#.to_vec()));
        }
        Behaviour::Revoked => {
            let problem = Problem::new(Kind::RevokedCertificate, "the certificate of hall/pump was revoked");
            return Ok(respond(403, CONTENT_TYPE, &[], problem.to_json().into_bytes()));
        }
        Behaviour::CaptivePortal => {
            return Ok(respond(200, "text/html", &[], b"<html>Please log in</html>".to_vec()));
        }
        Behaviour::Garbage => return Ok(respond(200, "application/x-protobuf", &[], vec![0xff; 40])),
        Behaviour::Hold => {
            state.hold.send_replace(1);
            let _ = state.hold.subscribe().wait_for(|hold| *hold == 2).await;
            state.hold.send_replace(0);
        }
        Behaviour::Serve
        | Behaviour::SwallowAnswer
        | Behaviour::HalfAnAnswer
        | Behaviour::CutBeforeReading => {}
    }
    let request = SyncRequest::decode(body).map_err(|_| "not a SyncRequest")?;
    let mut outcome = None;
    state.ingest.send_modify(|ingest| outcome = Some(ingest.take(request)));
    let (status, answer) = outcome.ok_or("nothing was taken")?;
    let mut bytes = answer.encode_to_vec();
    match behaviour {
        Behaviour::SwallowAnswer => return Err("swallowed"),
        // As a proxy would that lost its upstream: complete as HTTP, cut as an answer.
        Behaviour::HalfAnAnswer => bytes.truncate(bytes.len() / 2),
        _ => {}
    }
    Ok(respond(status, "application/x-protobuf", &[], bytes))
}
