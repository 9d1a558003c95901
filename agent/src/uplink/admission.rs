//! How a gateway gets a certificate, for the first time or again: one connection, one question, one
//! answer. Every wait has an end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::agent::Proxy;
use forebay_protocols::sync::problem::Problem;
use forebay_protocols::sync::tls::{self, FreshKey, GatewayClock, Identity};
use forebay_protocols::sync::wire::{JoinAnswer, JoinRequest};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxy;

/// For a connection, and for the handshake on it.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// A join answer is two certificates.
const LARGEST_ANSWER: usize = 64 << 10;

/// Why the server did not answer with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It said so.
    #[error("{0}")]
    Problem(Problem),
    /// Something else came, or nothing.
    #[error("{0}")]
    Words(String),
    /// There was nobody to ask.
    #[error("{0}")]
    Unreachable(String),
}

/// Opens a connection to `host:port`, through the proxy if there is one. The words of an error are for
/// people.
pub async fn reach(server: &str, proxy: Option<&Proxy>) -> Result<TcpStream, String> {
    let connecting = async {
        let Some(proxy) = proxy else {
            return TcpStream::connect(server).await.map_err(|error| words(&error));
        };
        let reached = TcpStream::connect(&proxy.address).await;
        let mut stream =
            reached.map_err(|error| format!("the proxy {}: {}", proxy.address, words(&error)))?;
        proxy::tunnel(&mut stream, proxy, server).await?;
        Ok(stream)
    };
    timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_| {
        Err(format!(
            "no answer within {} s; is the port open in the firewalls between?",
            CONNECT_WITHIN.as_secs()
        ))
    })
}

/// Posts the request to `path` of `server`, over a connection whose other end is known.
pub async fn ask(
    stream: TlsStream<TcpStream>,
    server: &str,
    path: &str,
    request: JoinRequest,
) -> Result<JoinAnswer, Refusal> {
    let asking = async {
        let words = |error: hyper::Error| Refusal::Words(format!("the connection broke: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
        let request = Request::post(path)
            .header(header::HOST, server)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(Bytes::from(request.encode_to_vec())))
            .map_err(|error| Refusal::Words(error.to_string()))?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await.map_err(words)?.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| Refusal::Words(format!("its answer broke off: {error}")))?;
            answer(head.status, &body.to_bytes())
        };
        // The connection moves the bytes of the exchange; it ends by itself only when it breaks,
        // and then the exchange says so.
        tokio::pin!(exchange);
        tokio::select! {
            outcome = &mut exchange => outcome,
            _ = connection => exchange.await,
        }
    };
    let late = || Refusal::Words(format!("no answer within {} s; try again", ANSWER_WITHIN.as_secs()));
    timeout(ANSWER_WITHIN, asking).await.unwrap_or_else(|_| Err(late()))
}

fn answer(status: StatusCode, body: &[u8]) -> Result<JoinAnswer, Refusal> {
    if status == StatusCode::OK {
        return JoinAnswer::decode(body)
            .map_err(|error| Refusal::Words(format!("its answer is odd: {error}")));
    }
    Err(Problem::from_json(body).map_or_else(
        || Refusal::Words(format!("it answers {status} to a request for a certificate")),
        Refusal::Problem,
    ))
}

/// Posts the request to `path` of the server of `identity`, as that gateway.
pub async fn ask_as(
    identity: &Identity,
    clock: Arc<dyn GatewayClock>,
    proxy: Option<&Proxy>,
    path: &str,
    request: JoinRequest,
) -> Result<JoinAnswer, Refusal> {
    let server = identity.server.as_str();
    let words = |words: String| Refusal::Unreachable(words);
    let tcp = reach(server, proxy).await.map_err(|why| words(format!("cannot reach {server}: {why}")))?;
    let config = tls::gateway_config(identity, clock).map_err(|error| Refusal::Words(error.to_string()))?;
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![tls::ALPN[1].to_vec()];
    let name = tls::server_name(server).map_err(Refusal::Words)?;
    let stream = timeout(CONNECT_WITHIN, TlsConnector::from(Arc::new(config)).connect(name, tcp))
        .await
        .map_err(|_| words(format!("{server} accepts connections but does not speak TLS")))?
        .map_err(|error| words(handshake_words(server, &error)))?;
    ask(stream, server, path, request).await
}

/// What a failed handshake of a gateway that has joined means, for people.
pub fn handshake_words(server: &str, error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => format!(
            "{server} does not show a certificate of the CA that this gateway joined. Either it is another server or \
             something stands in between; or its CA was changed and the overlap is over. Then make a join string \
             there with `forebay-server token create`, and run `forebay-agent join`"
        ),
        _ => format!("{server} does not agree on TLS: {error}"),
    }
}

/// The answer as an identity, checked: nothing is kept that would not work. Its CA must be the one
/// with this fingerprint, or one whose key that one signed.
pub fn certified(
    server: &str,
    ca_pin: [u8; 32],
    answer: JoinAnswer,
    key: FreshKey,
) -> Result<Identity, String> {
    let JoinAnswer { chain, cross, former, ca_generation, .. } = answer;
    let mut chain: Vec<CertificateDer<'static>> =
        chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let ca = chain.pop().ok_or("its answer holds no certificate")?;
    let [cross, former] = [cross, former].map(|der| CertificateDer::from(der.to_vec()));
    if tls::fingerprint(&ca) != ca_pin {
        let own = chain.first().ok_or("its answer holds no certificate for us")?;
        if tls::fingerprint(&former) != ca_pin {
            return Err("its answer does not end with its CA certificate".into());
        }
        tls::prove_succession(&former, &cross, &ca, own).map_err(|error| error.to_string())?;
    }
    let mut identity = Identity::new(server.to_owned(), ca, chain, key.into_der());
    identity.ca_generation = ca_generation;
    identity.former_ca = Some(former).filter(|der| !der.is_empty());
    // rustls checks here that the certificate is one and belongs to our key.
    tls::client_config(&identity, tls::EARLIEST_TIME)
        .map_err(|error| format!("its answer holds no certificate for our key: {error}"))?;
    Ok(identity)
}

/// What a failed connection means, in words for people.
pub fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there; does the server run?".into(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way there from this network".into()
        }
        io::ErrorKind::TimedOut => "no answer; is the port open in the firewalls between?".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
            "the connection was cut at once; is this the port for agents, and no proxy between?".into()
        }
        // What name resolution says has no kind of its own.
        _ => error.to_string(),
    }
}
