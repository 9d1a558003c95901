//! MQTT 3.1.1 and 5 in one language. `rumqttc` has a client for each, alike and yet of different
//! types; here they become one [`Dialect`] to listen with and one [`Voice`] to speak with.
//!
//! A dialect is one conversation: its first ending is its last. (Polled again, `rumqttc` would
//! connect again by itself; reconnecting is the link task's to decide.)

mod v311;
mod v5;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::field::MqttVersion;
use forebay_config::units::Secret;
use rumqttc::{NetworkOptions, TlsConfiguration, TlsError, Transport};
use rustls::ClientConfig;

use crate::boot_time::BootTime;

/// Packet identifiers are 16 bits wide, so no more publishes than this can wait for our word.
/// Room for all of them makes sure that an acknowledgement always finds a place.
const REQUESTS: usize = 65_536;
/// Publishes an MQTT 5 broker may send ahead of our acknowledgements. MQTT 3.1.1 has no word for
/// it; there the broker's own setting rules.
const AHEAD: u16 = 8_192;
/// How far beyond `max_packet` a 3.1.1 message is still taken in, to be thrown away: refused
/// outright, the broker would send it again for ever.
const OVERSIZE: usize = 16;
/// A remaining length of more cannot be written (MQTT 3.1.1, 2.2.3).
const LARGEST: usize = 268_435_455;

/// What a CONNECT says, and how to get there.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) version: MqttVersion,
    /// Without brackets around an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) client_id: String,
    pub(super) user: Option<(String, Secret)>,
    /// Shall the broker keep subscriptions and unacknowledged messages while we are away?
    pub(super) persistent: bool,
    pub(super) keep_alive: Duration,
    /// `max_packet`, bytes.
    pub(super) max_packet: usize,
    pub(super) timeout: Duration,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) path: String,
    /// QoS 1, else 0.
    pub(super) at_least_once: bool,
}

/// A publish that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    /// `None`: larger than `max_packet`.
    pub(super) payload: Option<Bytes>,
    /// Sent because we subscribed, not because it was just published.
    pub(super) retained: bool,
    pub(super) arrived: BootTime,
    /// What the broker wants to hear back.
    pub(super) ticket: Option<Ticket>,
}

/// The right to acknowledge one publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) packet_id: u16,
    /// QoS 2: we never ask for it, but a session that somebody else began may hold such messages.
    pub(super) exactly_once: bool,
}

/// What listening brings.
#[derive(Debug)]
pub(super) enum Event {
    /// The broker accepted us.
    Accepted,
    /// The answer to one [`Voice::subscribe`]; for each filter `None` or why not.
    Granted(Vec<Option<String>>),
    Message(Message),
    /// Our goodbye is out.
    Farewell,
    /// Nothing that matters here.
    Other,
}

/// Why a conversation ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The broker does not want us.
    Refused(String),
    /// What answers is not what we expect: at the opening as good as a refusal.
    Mismatch(String),
    /// A message of so many bytes is more than we take in.
    Oversized(usize),
    /// It closed the connection without a word.
    Closed,
    /// Anything else that may pass.
    Broken(String),
}

/// The listening half. To be polled by a task that does nothing else.
pub(super) enum Dialect {
    V311(Box<rumqttc::EventLoop>),
    V5(Box<rumqttc::v5::EventLoop>),
}

/// The speaking half. Never waits: what it says is queued for the listening half to send.
#[derive(Clone)]
pub(super) enum Voice {
    V311(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

impl Dialect {
    /// Both halves of a conversation that begins with the first [`Dialect::poll`].
    pub(super) fn new(terms: &Terms, tls: Option<Arc<ClientConfig>>) -> (Voice, Self) {
        let transport = tls.map_or_else(Transport::tcp, |config| {
            Transport::tls_with_config(TlsConfiguration::Rustls(config))
        });
        match terms.version {
            MqttVersion::V311 => {
                let (client, events) = v311::open(terms, transport);
                (Voice::V311(client), Self::V311(Box::new(events)))
            }
            MqttVersion::V5 => {
                let (client, events) = v5::open(terms, transport);
                (Voice::V5(client), Self::V5(Box::new(events)))
            }
        }
    }

    /// The next event. After an ending: never again.
    pub(super) async fn poll(&mut self) -> Result<Event, Ending> {
        match self {
            Self::V311(events) => events.poll().await.map(v311::event).map_err(v311::ending),
            Self::V5(events) => events.poll().await.map(v5::event).map_err(v5::ending),
        }
    }

    /// Messages that had come in before the ending and were not yet polled.
    pub(super) fn leftovers(self) -> Vec<Message> {
        let events: Vec<Event> = match self {
            Self::V311(events) => events.state.events.into_iter().map(v311::event).collect(),
            Self::V5(events) => events.state.events.into_iter().map(v5::event).collect(),
        };
        let message = |event| if let Event::Message(message) = event { Some(message) } else { None };
        events.into_iter().filter_map(message).collect()
    }

    /// The longest that [`Dialect::poll`] can take while the broker is alive: it returns at the
    /// latest with the ping that goes out, or with its answer. A broker may set its own pace.
    pub(super) fn longest_silence(&self) -> Duration {
        let keep_alive = match self {
            Self::V311(events) => events.mqtt_options.keep_alive(),
            Self::V5(events) => events.options.keep_alive(),
        };
        keep_alive.max(Duration::from_secs(1)).saturating_mul(2)
    }
}

impl Voice {
    /// Asks for `filters`. False: they did not go out.
    pub(super) fn subscribe(&self, filters: &[Filter]) -> bool {
        match self {
            Self::V311(client) => client.try_subscribe_many(filters.iter().map(v311::filter)).is_ok(),
            Self::V5(client) => client.try_subscribe_many(filters.iter().map(v5::filter)).is_ok(),
        }
    }

    /// Tells the broker to forget a publish. When the conversation is over this does nothing, and
    /// the broker sends the publish again in the next one.
    pub(super) fn acknowledge(&self, ticket: Ticket) {
        let unheard = match self {
            Self::V311(client) => client.try_ack(&v311::receipt(ticket)).is_err(),
            Self::V5(client) => client.try_ack(&v5::receipt(ticket)).is_err(),
        };
        if unheard {
            tracing::debug!(
                packet = ticket.packet_id,
                "The conversation is over; the broker will send it again."
            );
        }
    }

    /// Says goodbye, after everything that was said before.
    pub(super) fn farewell(&self) -> bool {
        match self {
            Self::V311(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        }
    }
}

/// `rumqttc` wants whole seconds, some in an `u16`, at least 5, and panics on less.
fn whole_keep_alive(keep_alive: Duration) -> Duration {
    Duration::from_secs(keep_alive.as_secs().clamp(5, u64::from(u16::MAX)))
}

fn network(terms: &Terms) -> NetworkOptions {
    let mut options = NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options.set_connection_timeout(terms.timeout.as_secs().saturating_add(1));
    options
}

/// A copy, because the original is a slice of a network buffer: a message of 10 bytes that waits
/// would keep megabytes alive.
fn own(payload: &[u8]) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(payload))
}

fn ending_of_io(error: &io::Error) -> Ending {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => ending_of_tls(error),
        None if CLOSED.contains(&error.kind()) => Ending::Closed,
        None => Ending::Broken(error.to_string()),
    }
}

fn ending_of_tls(error: &rustls::Error) -> Ending {
    let hint = match error {
        rustls::Error::InvalidCertificate(_) => {
            "is `ca` the broker's authority, and `broker` a name in its certificate?"
        }
        rustls::Error::AlertReceived(_) => "does the broker want another `certificate` and `key`?",
        rustls::Error::InvalidMessage(_) => "does the port speak TLS? `mqtt://` goes without",
        _ => "check `ca`, `certificate` and `key`",
    };
    Ending::Mismatch(format!("TLS: {error}; {hint}"))
}

fn ending_of_tls_set_up(error: &TlsError) -> Ending {
    match error {
        TlsError::Io(error) => ending_of_io(error),
        TlsError::TLS(error) => ending_of_tls(error),
        other => Ending::Mismatch(format!("TLS: {other}")),
    }
}

const CLOSED: [io::ErrorKind; 4] = [
    io::ErrorKind::UnexpectedEof,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::BrokenPipe,
];
const PING: &str = "the broker does not answer pings";
const NOT_MQTT: &str = "what answers does not speak this version of MQTT; try another `version` or port";
const PASSWORD: &str = "wrong `username` or `password`";
const NOT_ALLOWED: &str =
    "not authorised; ask for the right to connect, or check `username` and `certificate`";
const CLIENT_ID: &str = "it does not accept our `client_id`; set another";
