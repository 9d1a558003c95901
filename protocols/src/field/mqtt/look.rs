//! Listening at a broker by hand, before anything is configured. Only subscribes: there is no way in
//! here to publish, and at QoS 0 without a session the broker keeps nothing for us.

use std::sync::Arc;

use bytes::Bytes;
use forebay_config::field::{Link, Protocol};
use rustls::time_provider::TimeProvider;
use serde_json::Value as Json;

use super::client::Connection;
use super::dialect::{Filter, Message, Terms};
use super::trust::Trust;
use super::{MOST_AT_ONCE, MqttSetupError, payload, peer, template, terms};
use crate::field::source::LinkFault;

/// A connection for somebody who listens.
pub struct Listener {
    peer: Arc<str>,
    terms: Terms,
    trust: Option<Trust>,
    connection: Option<Connection>,
}

/// A message that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its topic.
    pub topic: String,
    /// What it says; `None` if that is more than the link's `max_packet`.
    pub payload: Option<Bytes>,
    /// Kept by the broker, and of any age.
    pub retained: bool,
}

impl Listener {
    /// For the broker of a link, whose topics are not looked at. The link's `client_id` must be
    /// nobody else's: a broker takes the connection away from whoever had the name before.
    ///
    /// # Errors
    /// When the link does not speak MQTT.
    pub fn new(link: &Link, tls_clock: Arc<dyn TimeProvider>) -> Result<Self, MqttSetupError> {
        let Protocol::Mqtt(mqtt) = &link.protocol else {
            return Err(MqttSetupError::NotMqtt { link: link.name.to_string() });
        };
        let trust = Trust::new(mqtt, tls_clock);
        Ok(Self { peer: peer(mqtt), terms: terms(link, mqtt, false), trust, connection: None })
    }

    /// Where it listens, as configured.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Connects and subscribes to `filter`, within the link's timeout.
    ///
    /// # Errors
    /// As a link's connection.
    pub async fn connect(&mut self, filter: &str) -> Result<(), LinkFault> {
        let tls = match &self.trust {
            None => None,
            Some(trust) => Some(
                trust.load().await.map_err(|why| LinkFault::Refused { peer: self.peer.to_string(), why })?,
            ),
        };
        let filters = [Filter { path: filter.into(), at_least_once: false }];
        self.connection = Some(Connection::open(self.peer.clone(), &self.terms, tls, &filters).await?);
        Ok(())
    }

    /// Waits for messages; gives those that are there, and how many found no room since the last call.
    ///
    /// # Errors
    /// When the connection is lost, or was never made.
    pub async fn next(&mut self) -> Result<(Vec<Heard>, u64), LinkFault> {
        let Some(connection) = &mut self.connection else {
            return Err(LinkFault::Lost { peer: self.peer.to_string(), why: "not connected".into() });
        };
        let messages = connection.take(MOST_AT_ONCE).await?;
        let heard = |Message { topic, payload, retained, .. }| Heard { topic, payload, retained };
        Ok((messages.into_iter().map(heard).collect(), connection.dropped()))
    }

    /// Says goodbye.
    pub async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}

/// A level of a topic as the name a template would make of it.
pub fn name_of(level: &str) -> Arc<str> {
    template::name_of(level)
}

/// Could a device's own time be read from this?
pub fn is_time(json: &Json) -> bool {
    payload::device_time(json).is_some()
}
