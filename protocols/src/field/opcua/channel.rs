//! One TCP connection with one secure channel on it: requests out, answers in.
//!
//! There is no task: whoever waits for an answer drives the connection meanwhile. So nothing is
//! read, and nothing piles up, while the link has no room for readings; a dropped channel closes
//! its socket and leaves nothing behind.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use opcua::client::SessionRetryPolicy;
use opcua::client::transport::{
    AsyncSecureChannel, SecureChannelEventLoop, StreamConnection, StreamConnector, StreamTransport,
    TransportConfiguration, TransportPollResult,
};
use opcua::core::comms::tcp_codec::TcpCodec;
use opcua::core::{RequestMessage, ResponseMessage};
use opcua::crypto::{CertificateStore, SecurityPolicy};
use opcua::sync::RwLock;
use opcua::types::xml::XmlStreamReader;
use opcua::types::{
    ByteString, ByteStringBody, Context, ContextOwned, DataChangeNotification, DateTime, DecodingOptions,
    DepthGauge, DynEncodable, EndpointDescription, Error, NamespaceMap, NodeId, ObjectId, RequestHeader,
    StatusChangeNotification, StatusCode, StructureDefinition, TypeLoader, TypeLoaderCollection, XmlBody,
    binary_decode_to_enc,
};
use rustix::net::sockopt;
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::FramedRead;

use super::guard::{Frames, Guarded};

/// Of the channel's keys. The library renews them at three quarters.
const KEY_LIFETIME_MS: u32 = 3_600_000;
/// The library's own limits (1,000 elements, 64 KiB, 5 chunks) end connections to plain servers.
/// It makes room for as many elements as a message announces, before they come: 20 MiB of values.
const MAX_ELEMENTS: usize = 1 << 17;
/// Values in values. Nothing that could be a reading is as deep.
const MAX_DEPTH: u64 = 10;
const MAX_TEXT: usize = 1 << 24;
const MAX_MESSAGE: usize = 1 << 26;
const MAX_CHUNKS: usize = 1 << 10;
const CHUNK: usize = 1 << 16;
/// A goodbye is a courtesy.
const GOODBYE: Duration = Duration::from_millis(500);
const A_DAY: Duration = Duration::from_secs(86_400);

type Transport = StreamTransport<Guarded<ReadHalf<TcpStream>>, WriteHalf<TcpStream>>;

/// An open secure channel, with the requests that wait for their answer.
pub(super) struct Channel {
    secure: Arc<AsyncSecureChannel>,
    wire: SecureChannelEventLoop<Transport>,
    /// Proves to the server which session a request belongs to.
    token: NodeId,
    /// Publish requests on their way. Polled by one task only, they finish in the order in which
    /// their answers arrive.
    posted: FuturesUnordered<BoxFuture<'static, Result<ResponseMessage, Error>>>,
    /// Answers to those that came while something else was awaited: never more than were posted.
    arrived: VecDeque<Result<ResponseMessage, Error>>,
    asked_at: Instant,
    closed: bool,
}

impl Channel {
    /// Opens a secure channel over `socket` as `endpoint` says: policy, mode, server certificate.
    pub(super) async fn open(
        socket: TcpStream,
        endpoint: EndpointDescription,
        store: Arc<RwLock<CertificateStore>>,
    ) -> Result<Self, Error> {
        let url = endpoint.endpoint_url.to_string();
        let policy = SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref());
        let signature = match policy {
            SecurityPolicy::None | SecurityPolicy::Unknown => 0,
            policy => policy.symmetric_signature_size(),
        };
        let secure = AsyncSecureChannel::new(
            store,
            endpoint.into(),
            SessionRetryPolicy::never(),
            // A gateway may not know the time. Values are put right again by `server_time`.
            true,
            Arc::default(),
            TransportConfiguration {
                send_buffer_size: CHUNK,
                recv_buffer_size: CHUNK,
                max_message_size: MAX_MESSAGE,
                max_chunk_count: MAX_CHUNKS,
            },
            KEY_LIFETIME_MS,
            Arc::new(RwLock::new(context())),
        );
        // The library would connect by itself, to the first address of a name only, and would not
        // say why it could not. It gets a socket that is connected.
        let socket = Mutex::new(Some(socket));
        let hand_over = |url: String, options: DecodingOptions| {
            let socket = socket.lock().ok().and_then(|mut socket| socket.take());
            async move {
                let socket = socket.ok_or_else(|| Error::new(StatusCode::BadInvalidState, "used twice"))?;
                let (read, write) = split(socket);
                let read = Guarded::new(read, Frames::new(signature));
                Ok(StreamConnection::new(FramedRead::new(read, TcpCodec::new(options)), write, url))
            }
        };
        let wire = secure.connect_no_retry(&StreamConnector::new(hand_over, url)).await?;
        Ok(Self {
            secure: Arc::new(secure),
            wire,
            token: NodeId::null(),
            posted: FuturesUnordered::new(),
            arrived: VecDeque::new(),
            asked_at: Instant::now(),
            closed: false,
        })
    }

    /// From now on requests belong to the session with this token.
    pub(super) fn enter(&mut self, token: NodeId) {
        self.secure.set_auth_token(token.clone());
        self.token = token;
    }

    /// Of the session that requests belong to; null where there is none.
    pub(super) fn token(&self) -> &NodeId {
        &self.token
    }

    /// Sends a request and waits for its answer, at most for `limit`. A fault of the service is
    /// an error.
    pub(super) async fn ask<R: Into<RequestMessage>>(
        &mut self,
        request: impl FnOnce(RequestHeader) -> R,
        limit: Duration,
    ) -> Result<ResponseMessage, Error> {
        let request = request(self.header(limit)).into();
        let secure = self.secure.clone();
        let mut answer = pin!(timeout(limit, secure.send(request, limit)));
        loop {
            tokio::select! {
                answer = &mut answer => {
                    let answer = answer.map_err(|_| Error::new(StatusCode::BadTimeout, "no answer"))?;
                    return judged(answer);
                }
                // Both are cancel-safe: an answer to a posted request is kept in `arrived`.
                result = drive(&mut self.wire, &mut self.closed) => result?,
                Some(answer) = self.posted.next() => self.arrived.push_back(answer),
            }
        }
    }

    /// Sends a request whose answer [`Channel::posted`] will bring whenever it comes.
    pub(super) fn post<R: Into<RequestMessage>>(&mut self, request: impl FnOnce(RequestHeader) -> R) {
        // A hint of 0 lets the server keep it for as long as it likes.
        let request = request(self.header(Duration::ZERO)).into();
        let secure = self.secure.clone();
        // An answer that comes after the library's own limit is thrown away. The limit of silence
        // is the subscription's, which excuses times in which nobody listened.
        self.posted.push(Box::pin(async move { secure.send(request, A_DAY).await }));
    }

    /// When the last request was sent.
    pub(super) fn asked_at(&self) -> Instant {
        self.asked_at
    }

    /// How many posted requests have no answer yet that was taken.
    pub(super) fn outstanding(&self) -> usize {
        self.posted.len() + self.arrived.len()
    }

    /// The next answer to a posted request. Waits for ever if nothing was posted and the peer
    /// keeps quiet. Cancel-safe.
    pub(super) async fn posted(&mut self) -> Result<ResponseMessage, Error> {
        loop {
            if let Some(answer) = self.arrived.pop_front() {
                return judged(answer);
            }
            tokio::select! {
                biased;
                Some(answer) = self.posted.next() => return judged(answer),
                result = drive(&mut self.wire, &mut self.closed) => result?,
            }
        }
    }

    /// Keeps the connection until then. Nothing may be posted. Cancel-safe.
    pub(super) async fn idle(&mut self, until: Instant) -> Result<(), Error> {
        match timeout_at(until, self.posted()).await {
            Ok(Err(error)) => Err(error),
            // An answer that nobody waits for, or none.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// A time among the values of the server, as it told it. The library takes the difference of the clocks
    /// from all times but those of the source, and leaves out what is less than a tick.
    pub(super) fn server_time(&self, time: DateTime) -> DateTime {
        let tick = DateTime::from(1_i64) - DateTime::from(0_i64);
        let offset = self.secure.encoding_context().read().options().client_offset;
        DateTime::from(time.as_chrono() + offset + (tick - tick / 100))
    }

    /// Closes channel and connection.
    pub(super) async fn close(mut self) {
        if self.closed {
            return;
        }
        self.secure.close_channel().await;
        let gone = async { while drive(&mut self.wire, &mut self.closed).await.is_ok() {} };
        // Past the limit the socket is closed by being dropped.
        let _ = timeout(GOODBYE, gone).await;
    }

    fn header(&mut self, limit: Duration) -> RequestHeader {
        self.asked_at = Instant::now();
        let offset = self.secure.encoding_context().read().options().client_offset;
        RequestHeader {
            authentication_token: self.token.clone(),
            timestamp: DateTime::now_with_offset(offset),
            request_handle: self.secure.request_handle(),
            timeout_hint: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
            ..RequestHeader::default()
        }
    }
}

/// Moves bytes until something happened; an error once the connection is gone.
async fn drive(wire: &mut SecureChannelEventLoop<Transport>, closed: &mut bool) -> Result<(), Error> {
    match wire.poll().await {
        TransportPollResult::Closed(status) => {
            *closed = true;
            let status = if status.is_good() { StatusCode::BadConnectionClosed } else { status };
            Err(Error::new(status, "the connection ended"))
        }
        _ => Ok(()),
    }
}

fn judged(answer: Result<ResponseMessage, Error>) -> Result<ResponseMessage, Error> {
    let answer = answer?;
    let status = answer.response_header().service_result;
    if status.is_bad() { Err(Error::new(status, "the service failed")) } else { Ok(answer) }
}

/// An answer of another kind than asked for.
pub(super) fn unexpected(answer: &ResponseMessage) -> Error {
    Error::new(StatusCode::BadUnknownResponse, format!("a {} for an answer", answer.type_name()))
}

pub(super) fn limits() -> DecodingOptions {
    DecodingOptions {
        max_message_size: MAX_MESSAGE,
        max_chunk_count: MAX_CHUNKS,
        max_string_length: MAX_TEXT,
        max_byte_string_length: MAX_TEXT,
        max_array_length: MAX_ELEMENTS,
        decoding_depth_gauge: DepthGauge::new(MAX_DEPTH),
        ..DecodingOptions::default()
    }
}

/// What decoding needs to know.
pub(super) fn context() -> ContextOwned {
    let mut loaders = TypeLoaderCollection::new_empty();
    loaders.add_type_loader(Bodies);
    ContextOwned::new(NamespaceMap::new(), loaders, limits())
}

/// Leaves structures as bytes, but for those that the services themselves need: one that cannot be decoded
/// would end the connection. Room is made as bytes come, not as they are announced. The library's own loader
/// knows some 500 types of the standard, and would be a sixth of the program.
struct Bodies;

impl TypeLoader for Bodies {
    fn load_from_binary(
        &self,
        node_id: &NodeId,
        stream: &mut dyn Read,
        context: &Context<'_>,
        length: Option<usize>,
    ) -> Option<Result<Box<dyn DynEncodable>, Error>> {
        if *node_id == ObjectId::DataChangeNotification_Encoding_DefaultBinary {
            return Some(binary_decode_to_enc::<DataChangeNotification>(stream, context));
        }
        if *node_id == ObjectId::StatusChangeNotification_Encoding_DefaultBinary {
            return Some(binary_decode_to_enc::<StatusChangeNotification>(stream, context));
        }
        if *node_id == ObjectId::StructureDefinition_Encoding_DefaultBinary {
            return Some(binary_decode_to_enc::<StructureDefinition>(stream, context));
        }
        let length = length?;
        if length > MAX_TEXT {
            return Some(Err(Error::new(StatusCode::BadEncodingLimitsExceeded, "a structure too long")));
        }
        let mut body = Vec::new();
        match stream.take(length as u64).read_to_end(&mut body) {
            Ok(read) if read == length => {
                Some(Ok(Box::new(ByteStringBody::new(ByteString::from(body), node_id.clone()))))
            }
            Ok(_) => Some(Err(Error::decoding("a structure that ends too early"))),
            Err(why) => Some(Err(why.into())),
        }
    }

    /// No structure in XML is read; it is marked as one.
    fn load_from_xml(
        &self,
        node_id: &NodeId,
        _stream: &mut XmlStreamReader<&mut dyn Read>,
        _context: &Context<'_>,
        _name: &str,
    ) -> Option<Result<Box<dyn DynEncodable>, Error>> {
        Some(Ok(Box::new(XmlBody::new(Vec::new(), node_id.clone(), String::new()))))
    }
}

/// Connects to the first address of `host` that answers. A peer that vanishes without a word is
/// noticed within half a minute, however rarely it has something to say.
pub(super) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host(format!("{host}:{port}")).await? {
        match TcpStream::connect::<SocketAddr>(address).await {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                sockopt::set_socket_keepalive(&socket, true)?;
                // One that lost its power and is back refuses the first of these.
                sockopt::set_tcp_keepidle(&socket, Duration::from_secs(3))?;
                sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(3))?;
                sockopt::set_tcp_keepcnt(&socket, 9)?;
                return Ok(socket);
            }
            Err(why) => failure = why,
        }
    }
    Err(failure)
}
