//! One connection to the server: mutual TLS, HTTP/1.1, kept alive, through a proxy if there is one.
//! Says what came back, judges nothing.
//!
//! There is one request at a time on it, so HTTP/2 would add nothing but a second way to fail; where
//! several are under way they are on several lines, and one that is cut takes no other with it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use forebay_config::agent::Proxy;
use forebay_protocols::sync::problem::Problem;
use forebay_protocols::sync::tls::server_name;
use forebay_protocols::sync::wire::SyncAnswer;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::admission::handshake_words;
use super::body::Body;
use super::meter::{Meter, Metered};
use super::proxy;
use super::state::Reply;

/// Answers larger than this are no answers.
const LARGEST_ANSWER: usize = 4 << 20;
/// Words of a server that go to our log.
const MOST_WORDS: usize = 300;
const PROTOBUF: &str = "application/x-protobuf";

/// The newest format of batches that the server reads, as it said when it was greeted last; the first one until
/// then. What is encoded goes by it, so that an older server need not set it aside. Clones are the same.
#[derive(Clone, Debug)]
pub struct ServerReads(Arc<AtomicU32>);

impl Default for ServerReads {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }
}

impl ServerReads {
    /// No newer format should be written.
    pub fn up_to(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// The server said so: 0 if it knows nothing of formats.
    pub fn learn(&self, format: u32) {
        self.0.store(format.max(1), Ordering::Relaxed);
    }
}

/// The server as this gateway knows it since it joined.
#[derive(Clone)]
pub struct Peer {
    /// `host:port`.
    pub server: String,
    /// The name its certificate must carry.
    pub name: ServerName<'static>,
    /// Our certificate, its CA, our clock.
    pub tls: Arc<ClientConfig>,
    /// Differs from identity to identity, so that a new one is noticed.
    pub mark: u32,
    /// Of the CA that we trust.
    pub ca_generation: u32,
    /// Who hears of a newer one.
    pub ca_news: Option<watch::Sender<u32>>,
    /// Learns what batches the server reads.
    pub server_reads: ServerReads,
}

impl Peer {
    /// The peer at `server` (`host:port`). `certificate` is ours.
    pub fn new(server: String, tls: &ClientConfig, certificate: &[u8]) -> Result<Self, String> {
        let name = server_name(&server)?;
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mark = crc32c::crc32c_append(crc32c::crc32c(server.as_bytes()), certificate);
        Ok(Self {
            server,
            name,
            tls: Arc::new(tls),
            mark,
            ca_generation: 0,
            ca_news: None,
            server_reads: ServerReads::default(),
        })
    }

    /// The same, whose CA is of this generation; `news` hears of a newer one.
    pub fn under(self, ca_generation: u32, news: watch::Sender<u32>) -> Self {
        Self { ca_generation, ca_news: Some(news), ..self }
    }

    /// The same; `server_reads` learns what batches it reads.
    pub fn telling(self, server_reads: ServerReads) -> Self {
        Self { server_reads, ..self }
    }

    /// The server asks to trust the CA of this generation. True if we do not yet.
    pub fn hears_of_ca(&self, generation: u32) -> bool {
        if let Some(news) = &self.ca_news {
            // A lower one too: another server counts for itself.
            news.send_if_modified(|known| std::mem::replace(known, generation) != generation);
        }
        generation > self.ca_generation
    }
}

/// An open connection. Dropping it closes it.
pub struct Line {
    sender: http1::SendRequest<Body>,
    host: String,
    /// The opening under which we said who we are, once the server has answered that well.
    pub greeted: Option<Bytes>,
    /// When it was used last.
    pub used: Instant,
    closed: Arc<OnceLock<Instant>>,
    resumed: bool,
    _connection: AbortOnDropHandle<()>,
}

impl Line {
    /// Connects. The words of an error are for people.
    pub async fn connect(peer: &Peer, proxy: Option<&Proxy>, meter: &Meter) -> Result<Self, String> {
        let address = proxy.map_or(&peer.server, |proxy| &proxy.address);
        let what = if proxy.is_some() { "the proxy " } else { "" };
        let tcp =
            TcpStream::connect(address).await.map_err(|e| format!("cannot reach {what}{address}: {e}"))?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut stream = Metered::new(tcp, meter.clone());
        if let Some(proxy) = proxy {
            proxy::tunnel(&mut stream, proxy, &peer.server).await?;
        }
        let tls = TlsConnector::from(peer.tls.clone())
            .connect(peer.name.clone(), stream)
            .await
            .map_err(|error| handshake_words(&peer.server, &error))?;
        let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        debug!(server = %peer.server, resumed, "Connected.");
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(|e| words_of(&e))?;
        let closed = Arc::new(OnceLock::new());
        let connection = AbortOnDropHandle::new(tokio::spawn({
            let closed = closed.clone();
            async move {
                if let Err(error) = connection.await {
                    debug!("The connection to the server ended: {}", words_of(&error));
                }
                closed.get_or_init(Instant::now);
            }
        }));
        let host = peer.server.clone();
        let used = Instant::now();
        Ok(Self { sender, host, greeted: None, used, closed, resumed, _connection: connection })
    }

    /// Did the server leave it open, as far as we know?
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// When it was closed, if that was seen.
    pub fn closed_at(&self) -> Option<Instant> {
        self.closed.get().copied()
    }

    /// Did TLS go on where an earlier connection had been? That saves the certificates.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Posts `body` and waits for the answer, for ever: the caller limits that.
    pub async fn post(&mut self, path: &str, body: Body) -> Result<Reply, String> {
        // Nothing else is posted here, so no content type says so: small batches pay for each header.
        let request =
            Request::post(path).header(header::HOST, &self.host).body(body).map_err(|e| e.to_string())?;
        self.sender.ready().await.map_err(|e| words_of(&e))?;
        let response = self.sender.send_request(request).await.map_err(|e| words_of(&e))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER)
            .collect()
            .await
            .map_err(|e| format!("the answer broke off: {e}"))?;
        Ok(reply(head.status, &head.headers, body.to_bytes()))
    }
}

/// What an HTTP answer means.
fn reply(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Reply {
    match status {
        StatusCode::OK => answer(headers, body).map_or_else(Reply::Strange, Reply::Answer),
        StatusCode::CONFLICT => match answer(headers, body) {
            Ok(SyncAnswer { greet: true, .. }) => Reply::Stranger,
            Ok(answer) => Reply::Lacking(answer),
            Err(words) => Reply::Strange(words),
        },
        StatusCode::PAYLOAD_TOO_LARGE => Reply::TooLarge,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let header = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let seconds = header.and_then(|text| text.trim().parse().ok());
            Reply::Busy { retry_after: seconds.map(Duration::from_secs) }
        }
        StatusCode::FORBIDDEN => Reply::Forbidden(problem(&body)),
        status => {
            let words = problem(&body).map_or_else(String::new, |words| format!(": {words}"));
            Reply::Strange(format!("it answers {status}{words}"))
        }
    }
}

/// An answer of a Forebay server. Captive portals and proxies also say 200.
fn answer(headers: &HeaderMap, body: Bytes) -> Result<SyncAnswer, String> {
    let kind = headers.get(header::CONTENT_TYPE).map_or(PROTOBUF, |value| value.to_str().unwrap_or(""));
    // A server that can leave it out was asked to.
    if !kind.starts_with(PROTOBUF) {
        return Err(format!("its answer is {}, not {PROTOBUF}: is something in between?", shown(kind)));
    }
    match SyncAnswer::decode(body) {
        Ok(answer) if answer.server_time_us > 0 => Ok(answer),
        Ok(_) => Err("its answer is empty".into()),
        Err(error) => Err(format!("its answer cannot be read: {error}")),
    }
}

/// The words of a problem, if the server sent one. A proxy's page has none for us.
fn problem(body: &[u8]) -> Option<String> {
    Some(shown(&Problem::from_json(body)?.to_string()))
}

/// Foreign words as they may stand in a log: short, without control characters.
pub fn shown(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(MOST_WORDS).collect()
}

/// hyper hides the cause one level deeper.
fn words_of(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use forebay_protocols::sync::problem::Kind;

    use super::*;

    fn judge(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> Reply {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        reply(StatusCode::from_u16(status).unwrap(), &headers, Bytes::copy_from_slice(body))
    }

    #[test]
    fn only_a_whole_answer_of_a_forebay_server_is_an_answer() {
        let answer = SyncAnswer { server_time_us: 1, ..SyncAnswer::default() };
        let protobuf = [("content-type", PROTOBUF)];
        assert_eq!(judge(200, &protobuf, &answer.encode_to_vec()), Reply::Answer(answer.clone()));
        assert_eq!(judge(409, &protobuf, &answer.encode_to_vec()), Reply::Lacking(answer.clone()));
        let greet = SyncAnswer { greet: true, ..answer.clone() };
        assert_eq!(judge(409, &protobuf, &greet.encode_to_vec()), Reply::Stranger);
        assert_eq!(judge(200, &[], &answer.encode_to_vec()), Reply::Answer(answer));
        assert!(matches!(judge(200, &[], b"<html>Please pay</html>"), Reply::Strange(_)));
        let portal = judge(200, &[("content-type", "text/html")], b"<html>Please pay</html>");
        assert!(matches!(portal, Reply::Strange(_)), "{portal:?}");
        for body in [&b""[..], b"\xff\xff\xff", b"<html>"] {
            let strange = judge(200, &protobuf, body);
            assert!(matches!(strange, Reply::Strange(_)), "{strange:?}");
        }
    }

    #[test]
    fn waits_are_read_from_the_header_only_where_it_is_a_number() {
        let busy = |header| judge(503, &[("retry-after", header)], b"");
        assert_eq!(busy("7"), Reply::Busy { retry_after: Some(Duration::from_secs(7)) });
        assert_eq!(busy("Wed, 21 Oct 2026 07:28:00 GMT"), Reply::Busy { retry_after: None });
        assert_eq!(judge(429, &[], b""), Reply::Busy { retry_after: None });
    }

    #[test]
    fn a_problem_is_shown_in_its_words_without_control_characters() {
        let problem = |kind, detail: &str| Problem::new(kind, detail).to_json().into_bytes();
        let bad = problem(Kind::BadRequest, "not a\u{1b}[31m SyncRequest");
        let words = "it answers 400 Bad Request: The request cannot be read: not a[31m SyncRequest";
        assert_eq!(judge(400, &[], &bad), Reply::Strange(words.into()));
        let revoked = problem(Kind::RevokedCertificate, "join again");
        let words = "Revoked certificate: join again";
        assert_eq!(judge(403, &[], &revoked), Reply::Forbidden(Some(words.into())));
        assert_eq!(judge(403, &[], b"<html>"), Reply::Forbidden(None));
        assert_eq!(judge(500, &[], b"<html>"), Reply::Strange("it answers 500 Internal Server Error".into()));
    }
}
