//! MQTT 3.1.1 and 5: messages of a broker's topics to readings.
//!
//! **Topics.** A topic is an MQTT filter in which `{device}` and `{point}` name what is read. The
//! first topic of the configuration that fits a message reads it. Points that topics name appear
//! as they are heard, at most 10,000 a link. Characters a name cannot have become `_`; a second
//! topic that would become the same name is turned away, never mixed in. Where filters overlap a
//! broker may deliver a message once for each.
//!
//! **Payloads.** A plain payload is one value. A JSON payload holds one value per pointer; a
//! pointer that finds nothing gives no reading, since many devices send only what changed. A value
//! that is not of the configured type is a bad reading. A message that gives no reading at all
//! (not JSON, empty, too large, of no topic of ours, beyond the bound on points) is counted as
//! discarded, and acknowledged like any other.
//!
//! **Groups.** `$share/GROUP/FILTER` spreads messages over the agents of a group, each message to one of
//! them, with MQTT 3.1.1 too where the broker knows it. No retained messages come. A member that is away
//! may go on getting its share, to be sent when it is back (Mosquitto does that).
//!
//! **Time.** A reading is stamped when its message arrives, unless `timestamp` points to the
//! device's own time and that can be read. A retained message without such a time is
//! *uncertain: last known value*, because it may be of any age. Retained messages come after
//! every connect; for a valve that reports only its changes that is how a link that was down
//! learns the state again.
//!
//! **Nothing is lost at QoS 1.** The session outlives the connection, and the broker is told to
//! forget a message only by the receipt, that is, when its readings are durable. What was not
//! acknowledged comes again: at least once, so a crash can double a reading. A link whose topics
//! are all QoS 0 keeps no session. How much a broker keeps while nobody takes it is its setting
//! (Mosquitto: `max_queued_messages`, 1,000 unless set), and what it drops there no client learns of; what arrives at QoS 0 faster than it is taken is discarded.
//!
//! **Throughput at QoS 1** is the messages a broker sends ahead of our word per durability window.
//! MQTT 5 lets us say how many: 8,192. An MQTT 3.1.1 broker decides (Mosquitto by
//! `max_inflight_messages`, 20 unless set), so prefer MQTT 5 on busy links.
//!
//! **Size.** A message above `max_packet` is kept away by an MQTT 5 broker; an MQTT 3.1.1 broker
//! sends it, and up to 16 times that size it is taken in, discarded and acknowledged, because
//! refused it would come again for ever. Beyond that the link is refused with the way out.

mod client;
mod dialect;
#[cfg(test)]
mod faults;
pub mod look;
mod payload;
mod points;
mod template;
mod topics;
mod trust;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use forebay_config::field::{Link, Mqtt, Protocol};
use rustls::time_provider::TimeProvider;

use self::client::Connection;
use self::dialect::{Filter, Message, Terms};
use self::topics::Topics;
use self::trust::Trust;
use super::occupancy::Occupancy;
use super::source::{DeviceNews, Harvest, LinkFault, Source};
use crate::boot_time::BootTime;
use crate::reading::Point;

/// Messages in one harvest: enough to be quick, few enough to be prompt.
const MOST_AT_ONCE: usize = 1_000;

/// A link to an MQTT broker.
pub struct MqttSource {
    /// The broker as configured.
    peer: Arc<str>,
    terms: Terms,
    trust: Option<Trust>,
    filters: Vec<Filter>,
    topics: Topics,
    connection: Option<Connection>,
    /// Devices heard since the connection was made.
    heard: HashSet<Arc<str>>,
}

/// Why a link's configuration cannot become an MQTT source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MqttSetupError {
    /// The link speaks another protocol.
    #[error("link.{link} has no mqtt table")]
    NotMqtt {
        /// The link's name.
        link: String,
    },
    /// A persistent session needs a name.
    #[error("link.{link}.mqtt.client_id is empty; it names the session that the broker keeps for us")]
    NoClientId {
        /// The link's name.
        link: String,
    },
    /// A topic contradicts itself or another.
    #[error("link.{link}: {why}")]
    Topic {
        /// The link's name.
        link: String,
        /// The topic, what is wrong with it, and the way out.
        why: String,
    },
}

impl MqttSource {
    /// A source for `link`, not yet connected. `tls_clock` judges the broker's certificate: the
    /// wall clock of a gateway that woke in 1970 would find all of them not yet valid.
    pub fn new(link: &Link, tls_clock: Arc<dyn TimeProvider>) -> Result<Self, MqttSetupError> {
        let name = || link.name.to_string();
        let Protocol::Mqtt(mqtt) = &link.protocol else {
            return Err(MqttSetupError::NotMqtt { link: name() });
        };
        if mqtt.client_id.is_empty() {
            return Err(MqttSetupError::NoClientId { link: name() });
        }
        let topics = Topics::new(&mqtt.topics).map_err(|why| MqttSetupError::Topic { link: name(), why })?;
        let asked = topics.filters().zip(&mqtt.topics);
        let filters: Vec<Filter> =
            asked.map(|(path, topic)| Filter { path: path.into(), at_least_once: topic.qos > 0 }).collect();
        Ok(Self {
            peer: peer(mqtt),
            terms: terms(link, mqtt, filters.iter().any(|filter| filter.at_least_once)),
            trust: Trust::new(mqtt, tls_clock),
            filters,
            topics,
            connection: None,
            heard: HashSet::new(),
        })
    }

    /// What a message would give if it came now, not retained. Needs no broker.
    pub fn read(&mut self, topic: &str, payload: &[u8]) -> Harvest {
        let payload = Some(Bytes::copy_from_slice(payload));
        let message =
            Message { topic: topic.into(), payload, retained: false, arrived: BootTime::now(), ticket: None };
        self.harvest(vec![message], 0)
    }

    fn harvest(&mut self, messages: Vec<Message>, dropped: u64) -> Harvest {
        let mut harvest = Harvest { discarded: dropped, ..Harvest::default() };
        for message in &messages {
            let Some(device) = self.topics.read(message, &mut harvest) else { continue };
            if self.heard.insert(device.clone()) {
                let words = format!("first message, on {}", message.topic);
                harvest.news.push(DeviceNews { device, answers: true, words });
            }
        }
        harvest
    }
}

impl Source for MqttSource {
    fn points(&self) -> &[Point] {
        self.topics.points()
    }

    async fn connect(&mut self) -> Result<(), LinkFault> {
        self.connection = None;
        self.heard.clear();
        let tls = match &self.trust {
            None => None,
            Some(trust) => Some(
                trust.load().await.map_err(|why| LinkFault::Refused { peer: self.peer.to_string(), why })?,
            ),
        };
        self.connection = Some(Connection::open(self.peer.clone(), &self.terms, tls, &self.filters).await?);
        Ok(())
    }

    async fn next(&mut self) -> Result<Harvest, LinkFault> {
        let Some(connection) = &mut self.connection else {
            return Err(LinkFault::Lost { peer: self.peer.to_string(), why: "not connected".into() });
        };
        match connection.take(MOST_AT_ONCE).await {
            Ok(messages) => {
                let dropped = connection.dropped();
                let receipt = connection.receipt(messages.iter().filter_map(|m| m.ticket).collect());
                Ok(Harvest { receipt, ..self.harvest(messages, dropped) })
            }
            Err(fault) => {
                self.connection = None;
                Err(fault)
            }
        }
    }

    async fn knock(&mut self) -> bool {
        false
    }

    fn occupancy(&self) -> Option<Occupancy> {
        None
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}

/// The broker as configured.
fn peer(mqtt: &Mqtt) -> Arc<str> {
    let scheme = if mqtt.broker.tls { "mqtts" } else { "mqtt" };
    format!("{scheme}://{}:{}", mqtt.broker.host, mqtt.broker.port).into()
}

fn terms(link: &Link, mqtt: &Mqtt, persistent: bool) -> Terms {
    let host = mqtt.broker.host.trim_start_matches('[').trim_end_matches(']');
    Terms {
        version: mqtt.version,
        host: host.into(),
        port: mqtt.broker.port,
        client_id: mqtt.client_id.clone(),
        user: mqtt.user.clone(),
        persistent,
        keep_alive: mqtt.keep_alive,
        max_packet: usize::try_from(mqtt.max_packet.0).unwrap_or(usize::MAX),
        timeout: link.timeout,
    }
}
