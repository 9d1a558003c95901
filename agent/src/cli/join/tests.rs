//! Joining against a small server of our own making: real TLS, a real CA, answers as told.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::tls;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use forebay_protocols::sync::wire::JoinAnswer;
use rustls_pki_types::CertificateDer;

use super::*;

/// What the server answers.
#[derive(Clone, Copy)]
enum Says {
    Yes,
    YesToAnotherKey,
    No(Kind),
    ProxyPage,
}

struct Server {
    string: JoinString,
    asked: Arc<Mutex<Vec<JoinRequest>>>,
    _task: AbortOnDropHandle<()>,
}

struct Ca {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, request: &[u8], says: Says) -> Bytes {
        let other = FreshKey::generate().unwrap().request("other").unwrap();
        let request = if matches!(says, Says::YesToAnotherKey) { &other } else { request };
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).unwrap();
        let own = CertificateParams::default().signed_by(&request.public_key, &self.issuer).unwrap();
        Bytes::copy_from_slice(own.der())
    }
}

impl Server {
    async fn start(says: Says) -> Self {
        Self::with(says, "127.0.0.1", (2025, 2100)).await
    }

    /// A server whose certificate bears `name` and is valid in these years.
    async fn with(says: Says, name: &str, (from, until): (i32, i32)) -> Self {
        let ca = Ca::new();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        let own = params.signed_by(&key, &ca.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let tls = tls::server_config(vec![own.der().clone(), ca.der.clone()], key).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let secret = TokenSecret::random().unwrap();
        let string = JoinString { address, ca_pin: tls::fingerprint(&ca.der), secret };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(tcp, TlsAcceptor::from(tls), says, Arc::new(ca), asked.clone()));
        Self { string, asked, _task: AbortOnDropHandle::new(task) }
    }
}

async fn serve(
    tcp: TcpListener,
    tls: TlsAcceptor,
    says: Says,
    ca: Arc<Ca>,
    asked: Arc<Mutex<Vec<JoinRequest>>>,
) {
    loop {
        let (stream, _) = tcp.accept().await.unwrap();
        let Ok(stream) = tls.accept(stream).await else { continue };
        let service = service_fn(async |request: Request<Incoming>| {
            assert_eq!(request.uri().path(), "/v1/join");
            let body = request.into_body().collect().await?.to_bytes();
            let request = JoinRequest::decode(body).unwrap();
            let (status, body) = match says {
                Says::Yes | Says::YesToAnotherKey => {
                    let answer = JoinAnswer {
                        chain: vec![ca.sign(&request.csr, says), Bytes::copy_from_slice(&ca.der)],
                        agent: format!("{}/{}", request.site, request.gateway),
                        server_time_us: wall_micros(),
                        ..JoinAnswer::default()
                    };
                    (200, answer.encode_to_vec())
                }
                Says::No(kind) => (kind.status(), Problem::new(kind, "so it is").to_json().into_bytes()),
                Says::ProxyPage => (502, b"<html>bad gateway</html>".to_vec()),
            };
            asked.lock().unwrap().push(request);
            Ok::<_, hyper::Error>(
                Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap(),
            )
        });
        // A client that is done or has had enough just leaves.
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

fn applicant<'a>(state: &'a tempfile::TempDir, proxy: Option<&'a Proxy>) -> Applicant<'a> {
    Applicant { state_dir: state.path(), site: "north", gateway: "gw-1", proxy }
}

type Tried = (tempfile::TempDir, Checklist, Result<(), JoinError>);

async fn try_to_join(string: &JoinString) -> Tried {
    try_by(None, string).await
}

async fn try_by(proxy: Option<&Proxy>, string: &JoinString) -> Tried {
    let state = tempfile::tempdir().unwrap();
    let text = string.to_string();
    let attempt = attempt(applicant(&state, proxy), &text);
    let (checklist, outcome) = tokio::time::timeout(Duration::from_secs(20), attempt).await.unwrap();
    (state, checklist, outcome)
}

/// The error, its exit code, and the step it is told at. No identity may be left behind.
async fn refused(string: &JoinString) -> (JoinError, u8, &'static str) {
    let (state, checklist, outcome) = try_to_join(string).await;
    assert!(Identity::load(&identity_folder(state.path())).unwrap().is_none());
    let error = outcome.unwrap_err();
    let last = checklist.steps().last().unwrap();
    assert_eq!((last.mark, &last.words), (Mark::Failed, &error.to_string()));
    let code = error.exit_code();
    (error, code, last.what)
}

#[tokio::test]
async fn a_gateway_joins_and_keeps_an_identity_that_works() {
    let server = Server::start(Says::Yes).await;
    let (state, checklist, outcome) = try_to_join(&server.string).await;
    outcome.unwrap();
    assert!(checklist.steps().iter().all(|step| step.mark == Mark::Passed), "{checklist}");
    let folder = identity_folder(state.path());
    let identity = Identity::load(&folder).unwrap().unwrap();
    assert_eq!(identity.server, server.string.address);
    tls::client_config(&identity, tls::EARLIEST_TIME).unwrap();
    let mode = std::fs::metadata(folder.join("identity.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let asked = server.asked.lock().unwrap();
    assert_eq!((asked[0].site.as_str(), asked[0].gateway.as_str()), ("north", "gw-1"));
    assert_eq!(asked[0].secret, server.string.secret.to_text());
    assert!(
        !checklist.to_string().contains(&server.string.secret.to_text()),
        "the checklist keeps the secret"
    );
}

#[tokio::test]
async fn a_second_join_replaces_the_identity() {
    let (first, second) = (Server::start(Says::Yes).await, Server::start(Says::Yes).await);
    let state = tempfile::tempdir().unwrap();
    attempt(applicant(&state, None), &first.string.to_string()).await.1.unwrap();
    let (checklist, outcome) = attempt(applicant(&state, None), &second.string.to_string()).await;
    outcome.unwrap();
    assert!(checklist.to_string().contains("will be replaced"), "{checklist}");
    let identity = Identity::load(&identity_folder(state.path())).unwrap().unwrap();
    assert_eq!(identity.server, second.string.address);
}

#[tokio::test]
async fn a_bad_join_string_is_found_before_anything_is_done() {
    let state = tempfile::tempdir().unwrap();
    let (_, outcome) = attempt(applicant(&state, None), "fbj1.nonsense").await;
    assert_eq!(outcome.unwrap_err().exit_code(), 10);
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_costs_no_token() {
    let server = Server::start(Says::Yes).await;
    let state = tempfile::tempdir().unwrap();
    // A file where the folder must be: refused for root too, unlike a mode.
    std::fs::write(state.path().join("identity"), b"").unwrap();
    let (_, outcome) = attempt(applicant(&state, None), &server.string.to_string()).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 11);
    assert!(server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    drop(tcp);
    let string = JoinString { address, ca_pin: [0; 32], secret: TokenSecret([0; 32]) };
    let (error, code, step) = refused(&string).await;
    assert_eq!((code, step), (12, "server reachable"));
    assert!(error.to_string().contains("nothing listens"), "{error}");
}

/// A proxy that lets whoever asks through to one server, under any name.
async fn proxy_to(server: String) -> (Proxy, AbortOnDropHandle<()>) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let (mut near, _) = tcp.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        if !head.starts_with(format!("CONNECT {server} ").as_bytes()) {
            return near.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        }
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut far = tokio::net::TcpStream::connect(&server).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    (Proxy { address, user: None }, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn a_gateway_behind_a_proxy_joins_through_it() {
    let server = Server::start(Says::Yes).await;
    let (proxy, _task) = proxy_to(server.string.address.clone()).await;
    let (state, checklist, outcome) = try_by(Some(&proxy), &server.string).await;
    outcome.unwrap();
    let told = checklist.to_string();
    assert!(told.contains(&format!("by the proxy {}", proxy.address)), "{told}");
    assert!(Identity::load(&identity_folder(state.path())).unwrap().is_some());
}

#[tokio::test]
async fn a_proxy_that_says_no_is_named() {
    let server = Server::start(Says::Yes).await;
    let (proxy, _task) = proxy_to("elsewhere:8443".into()).await;
    let (_, _, outcome) = try_by(Some(&proxy), &server.string).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_code(), 12);
    assert!(error.to_string().contains(&format!("the proxy {} does not let us", proxy.address)), "{error}");
    assert!(server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_with_another_ca_is_refused_before_the_secret_is_shown() {
    let server = Server::start(Says::Yes).await;
    let string = JoinString { ca_pin: [9; 32], ..server.string.clone() };
    let (_, code, step) = refused(&string).await;
    assert_eq!((code, step), (13, "server known"));
    assert!(server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_names_the_setting() {
    let server = Server::with(Says::Yes, "plant.example", (2025, 2100)).await;
    let (error, code, _) = refused(&server.string).await;
    assert_eq!(code, 22);
    assert!(error.to_string().contains("sync.address"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_time_points_at_the_clock() {
    for years in [(2090, 2100), (2001, 2002)] {
        let server = Server::with(Says::Yes, "127.0.0.1", years).await;
        let (error, code, _) = refused(&server.string).await;
        assert_eq!(code, 14, "{error}");
    }
}

#[tokio::test]
async fn a_refused_token_is_told_in_the_servers_words() {
    for (kind, expected) in [(Kind::UnknownToken, 15), (Kind::ExpiredToken, 17), (Kind::UsedToken, 18)] {
        let server = Server::start(Says::No(kind)).await;
        let (error, code, step) = refused(&server.string).await;
        assert_eq!((code, step, error.to_string().as_str()), (expected, "let in", "so it is"));
    }
}

#[tokio::test]
async fn other_refusals_and_proxies_are_told_apart_from_tokens() {
    for says in [Says::No(Kind::StoreAway), Says::ProxyPage] {
        let server = Server::start(says).await;
        assert_eq!(refused(&server.string).await.1, 16);
    }
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_kept() {
    let server = Server::start(Says::YesToAnotherKey).await;
    let (error, code, _) = refused(&server.string).await;
    assert_eq!(code, 16);
    assert!(error.to_string().contains("our key"), "{error}");
}

#[test]
fn a_checklist_is_one_step_a_line() {
    let mut list = Checklist::default();
    list.begin("join string");
    list.pass("for the server at plant:8443".into());
    list.begin("clock");
    list.warn("90 s behind".into());
    list.begin("let in");
    assert_eq!(
        list.to_string(),
        "OK    join string       for the server at plant:8443\n\
         NOTE  clock             90 s behind\n\
         ...   let in            \n"
    );
}
