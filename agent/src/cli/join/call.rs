//! The one conversation of joining: connect, know the server, ask. Every wait has an end.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::agent::Proxy;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::problem::Problem;
use forebay_protocols::sync::tls::{self, PinMismatch};
use forebay_protocols::sync::wire::{JoinAnswer, JoinRequest};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::JoinError;
use crate::uplink::proxy;

const CONNECT_WITHIN: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// A join answer is two certificates.
const LARGEST_ANSWER: usize = 64 << 10;

/// Why the server did not answer with a certificate.
pub(super) enum Refusal {
    /// It said so.
    Problem(Problem),
    /// Something else came, or nothing.
    Words(String),
}

/// Opens a connection to `host:port`, through the proxy if there is one.
pub(super) async fn reach(server: &str, proxy: Option<&Proxy>) -> Result<TcpStream, JoinError> {
    let unreachable = |why: String| JoinError::Unreachable { server: server.to_owned(), why };
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
    match timeout(CONNECT_WITHIN, connecting).await {
        Ok(reached) => reached.map_err(unreachable),
        Err(_) => Err(unreachable(format!(
            "no answer within {} s; is the port open in the firewalls between?",
            CONNECT_WITHIN.as_secs()
        ))),
    }
}

/// Shakes hands and checks that the server is the one of the join string.
pub(super) async fn shake_hands(
    tcp: TcpStream,
    join: &JoinString,
) -> Result<TlsStream<TcpStream>, JoinError> {
    let server = || join.address.clone();
    let unreachable = |why: String| JoinError::Unreachable { server: server(), why };
    let name = tls::server_name(&join.address).map_err(unreachable)?;
    let config = tls::pinned_client_config(join.ca_pin, tls::EARLIEST_TIME)
        .map_err(|error| unreachable(error.to_string()))?;
    match timeout(CONNECT_WITHIN, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(judge(&error, join)),
        Err(_) => Err(unreachable("it accepts connections but does not speak TLS".into())),
    }
}

/// Sends the request over a connection whose other end is known.
pub(super) async fn ask(
    stream: TlsStream<TcpStream>,
    server: &str,
    request: JoinRequest,
) -> Result<JoinAnswer, Refusal> {
    let asking = async {
        let words = |error: hyper::Error| Refusal::Words(format!("the connection broke: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
        let request = Request::post("/v1/join")
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
        || Refusal::Words(format!("it answers {status} to a request to join")),
        Refusal::Problem,
    ))
}

/// What a failed handshake means for whoever stands before the gateway.
fn judge(error: &io::Error, join: &JoinString) -> JoinError {
    let server = join.address.clone();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(fault)) = inner else {
        let why = match inner {
            Some(error) => format!("it does not agree on TLS: {error}; is this the port for agents?"),
            None => words(error),
        };
        return JoinError::Unreachable { server, why };
    };
    match fault {
        CertificateError::Other(other) if other.0.is::<PinMismatch>() => JoinError::WrongServer { server },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            JoinError::WrongName { server }
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            let now = jiff::Timestamp::from_microsecond(wall_micros());
            JoinError::Clock { server, now: now.map_or_else(|_| "unknown".into(), |now| format!("{now:.0}")) }
        }
        // Its chain shows the pinned CA without being signed by it, or worse.
        _ => JoinError::WrongServer { server },
    }
}

fn words(error: &io::Error) -> String {
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
