//! A broker and three publishers, thirty points in the three shapes that MQTT devices speak: a
//! topic for each value, a JSON document, a JSON document with the device's own time.
//!
//! The broker is `rumqttd` in a runtime of its own, so that dropping it cuts every connection and
//! frees the port. Only its router thread stays, asleep, until the process ends: `rumqttd` cannot
//! stop it. Sessions live in memory and die with the broker. It logs expected things at ERROR; a
//! program that shows logs adds the directive [`QUIET`].

mod publishers;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttd::protocol::v4::V4;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::interval;

pub use self::publishers::{Publishers, topics};

/// The log directive that keeps the broker quiet.
pub const QUIET: &str = "rumqttd=off";
/// How often a port that somebody else took in the meantime is replaced by another.
const ATTEMPTS: u32 = 10;

/// An MQTT 3.1.1 broker on a free port of loopback. Stops when dropped.
pub struct Broker {
    port: u16,
    /// Taken only by `drop`.
    runtime: Option<Runtime>,
}

impl Broker {
    /// Starts a broker; it listens when this returns.
    pub async fn start() -> Result<Self> {
        for _ in 0..ATTEMPTS {
            if let Some(broker) = Self::start_on(free_port().await?).await? {
                return Ok(broker);
            }
        }
        bail!("found no free port for the MQTT broker in {ATTEMPTS} attempts")
    }

    /// Starts a broker on a port that another one has just left.
    ///
    /// # Errors
    /// When the port stays taken.
    pub async fn start_again(port: u16) -> Result<Self> {
        for _ in 0..ATTEMPTS * 5 {
            if let Some(broker) = Self::start_on(port).await? {
                return Ok(broker);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("port {port} is taken")
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the three publishers; each sends all its values once in every `period`.
    pub fn publish(&self, period: Duration) -> Publishers {
        Publishers::start(self.port, period)
    }

    /// `[link.NAME.mqtt]` and its topics: what an agent needs to read all thirty points.
    pub fn link_toml(&self, name: &str) -> String {
        publishers::link_toml(name, self.port)
    }

    /// `None`: the port was taken in the meantime.
    async fn start_on(port: u16) -> Result<Option<Self>> {
        let router = Router::new(0, router_settings()).spawn();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("mqtt-broker")
            .enable_all()
            .build()
            .context("start a runtime for the MQTT broker")?;
        let mut server = Server::new(server_settings(port), router, V4);
        let serving = runtime.spawn(async move { server.start(LinkType::Remote).await.map_err(drop) });
        let broker = Self { port, runtime: Some(runtime) };
        let mut pace = interval(Duration::from_millis(5));
        // It has no word for "I listen now".
        while !serving.is_finished() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() && !serving.is_finished() {
                return Ok(Some(broker));
            }
            pace.tick().await;
        }
        Ok(None)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // Waiting is not allowed inside another runtime.
        }
    }
}

async fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("look for a free port")?;
    Ok(listener.local_addr()?.port())
}

fn router_settings() -> RouterConfig {
    RouterConfig {
        max_connections: 100,
        max_outgoing_packet_count: 200,
        max_segment_size: 1 << 20,
        max_segment_count: 4,
        ..RouterConfig::default()
    }
}

fn server_settings(port: u16) -> ServerSettings {
    ServerSettings {
        name: "demo".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: 1 << 20,
            max_inflight_count: 1_000,
            auth: None::<HashMap<String, String>>,
            external_auth: None,
            dynamic_filters: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use forebay_config::field::{self as config, Link, Mqtt, Protocol};
    use forebay_config::units::{ByteSize, Name};
    use forebay_protocols::field::mqtt::MqttSource;
    use forebay_protocols::field::source::Source;
    use forebay_protocols::reading::{Clock, Quality, Value};
    use rustls::time_provider::DefaultTimeProvider;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// The link of `link_toml`, by hand.
    fn link(port: u16) -> Link {
        Link {
            name: Name::new("hall").unwrap(),
            interval: Duration::from_secs(1),
            timeout: PATIENCE,
            backoff_max: Duration::from_secs(1),
            protocol: Protocol::Mqtt(Mqtt {
                broker: config::Broker { host: "127.0.0.1".into(), port, tls: false },
                version: config::MqttVersion::V311,
                client_id: "forebay-demo".into(),
                user: None,
                ca: None,
                identity: None,
                keep_alive: Duration::from_secs(30),
                max_packet: ByteSize::mib(1),
                topics: topics(),
            }),
        }
    }

    #[tokio::test]
    async fn all_thirty_points_are_read_and_good() {
        let broker = Broker::start().await.unwrap();
        let publishers = broker.publish(Duration::from_millis(50));
        let mut source = MqttSource::new(&link(broker.port()), Arc::new(DefaultTimeProvider)).unwrap();
        source.connect().await.unwrap();
        let mut seen: BTreeMap<usize, (Value, Clock)> = BTreeMap::new();
        timeout(PATIENCE, async {
            while seen.len() < 30 {
                let harvest = source.next().await.unwrap();
                assert_eq!(harvest.discarded, 0);
                for sample in harvest.samples {
                    assert_eq!(sample.quality, Quality::Good, "{:?}", source.points()[sample.slot]);
                    seen.insert(sample.slot, (sample.value.unwrap(), sample.stamp.clock));
                }
                harvest.receipt.expect("published at QoS 1").confirm();
            }
        })
        .await
        .expect("all points speak");
        for (slot, (value, clock)) in seen {
            let point = &source.points()[slot];
            assert_eq!(value.data_type(), point.data_type, "{point:?}");
            assert_eq!(clock == Clock::Device, point.device.as_ref() == "main", "{point:?}");
        }
        source.close().await;
        publishers.stop().await;
    }

    #[tokio::test]
    async fn a_dropped_broker_frees_its_port_and_cuts_its_connections() {
        let broker = Broker::start().await.unwrap();
        let port = broker.port();
        let mut source = MqttSource::new(&link(port), Arc::new(DefaultTimeProvider)).unwrap();
        source.connect().await.unwrap();
        drop(broker);
        assert!(timeout(PATIENCE, source.next()).await.expect("the end is noticed").is_err());
        assert!(source.connect().await.is_err());
    }

    #[test]
    fn the_configuration_names_the_broker_and_every_topic() {
        let text = publishers::link_toml("hall", 1883);
        for line in [
            "[link.hall.mqtt]",
            "broker = \"mqtt://127.0.0.1:1883\"",
            "topic = \"plant/{device}/{point}\"",
            "topic = \"sensors/{device}/state\"",
            "timestamp = \"/time\"",
            "temperature = { pointer = \"/air/temperature\", unit = \"°C\" }",
            "door_open = { pointer = \"/door\", type = \"boolean\" }",
            "energy = { pointer = \"/energy\", unit = \"kWh\", kind = \"counter\" }",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
