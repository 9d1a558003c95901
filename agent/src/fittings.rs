//! Where the parts of other rooms are screwed in: drivers, codec, identity, configuration. One
//! function each; nothing else of the agent knows which drivers there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_config::agent::{Agent, Proxy};
use forebay_config::field::{self, Protocol};
use forebay_config::units::Name;
use forebay_protocols::field::mqtt::MqttSource;
use forebay_protocols::field::occupancy::Occupancy;
use forebay_protocols::field::opcua::{Application, OpcUaSource};
use forebay_protocols::field::source::{Harvest, LinkFault, Source};
use forebay_protocols::reading::{Point, Reading};
use forebay_protocols::sync::batch::{Encoder, Head};
use forebay_protocols::sync::tls::{self, Identity};
use tokio::sync::watch;

use crate::app::Reread;
use crate::batcher::Encode;
use crate::cli::join::identity_folder;
use crate::clock::Clock;
use crate::learnt::Keeper;
use crate::link::{Desk, Link};
use crate::uplink::Introduction;
use crate::uplink::line::{Peer, ServerReads};
use crate::uplink::renewal::Renewal;

/// A fleet that is switched on together looks at its certificates over so long.
const RENEWAL_SPREAD: Duration = Duration::from_secs(60);

/// Reads and judges the configuration. The error is every finding, for people.
pub fn configuration(path: &Path) -> Result<Agent, String> {
    forebay_config::load::agent(path).map_err(|findings| findings.to_string())
}

/// Reads it again, for an agent that runs.
pub fn rereads(path: &Path) -> Reread {
    let path = path.to_owned();
    Arc::new(move || forebay_config::load::agent(&path))
}

/// The batch codec, in a format that the server reads.
pub fn encoder(server_reads: ServerReads) -> impl Encode {
    let mut encoder = Encoder::new();
    move |head: &Head, readings: &mut [Reading]| encoder.up_to(server_reads.up_to()).encode(head, readings)
}

/// What drivers and uplink need to know of the gateway.
pub struct Fitter {
    /// The place.
    pub site: Name,
    /// This computer.
    pub gateway: Name,
    /// Identity and keys lie below it.
    pub state_dir: PathBuf,
    /// The clock certificates are judged by.
    pub clock: Clock,
    /// The generation of the CA that the server asks us to trust: from the uplink to the renewal.
    pub ca_news: watch::Sender<u32>,
    /// What batches the server reads: from the uplink to the codec.
    pub server_reads: ServerReads,
}

impl Fitter {
    /// For this gateway. Nothing is known of its server yet.
    pub fn new(site: Name, gateway: Name, state_dir: PathBuf, clock: Clock) -> Self {
        let (ca_news, server_reads) = (watch::Sender::new(0), ServerReads::default());
        Self { site, gateway, state_dir, clock, ca_news, server_reads }
    }

    /// Makes the driver of `link` and runs it. An error is a configuration that cannot work.
    pub async fn run_link(&self, link: &Arc<field::Link>, desk: Desk) -> Result<(), String> {
        // Nobody waits at the end for a driver that is still being made.
        let Some(made) = desk.stop.run_until_cancelled(self.driver(link)).await else { return Ok(()) };
        // Boxed: a driver's future is large, and it lives as long as the agent.
        Box::pin(Link { source: made?, desk }.run()).await;
        Ok(())
    }

    /// The driver of `link`, not connected yet. An error is a configuration that cannot work.
    pub async fn driver(&self, link: &Arc<field::Link>) -> Result<Driver, String> {
        match &link.protocol {
            Protocol::ModbusTcp(_) | Protocol::ModbusRtu(_) => {
                let keeper = Keeper::open(link.clone(), &self.state_dir).await;
                Ok(Driver::Modbus(Box::new(keeper.ok_or("its protocol is not Modbus")?)))
            }
            Protocol::OpcUa(_) => {
                let (link, application) = (link.clone(), self.application());
                // Making a key takes seconds on a small gateway.
                let making = tokio::task::spawn_blocking(move || OpcUaSource::new(&link, application));
                let source =
                    making.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                Ok(Driver::OpcUa(Box::new(source)))
            }
            Protocol::Mqtt(_) => {
                let clock = Arc::new(self.clock.clone());
                let source = MqttSource::new(link, clock).map_err(|error| error.to_string())?;
                Ok(Driver::Mqtt(Box::new(source)))
            }
        }
    }

    fn application(&self) -> Application {
        opcua_application(&self.site, &self.gateway, &self.state_dir)
    }

    /// What keeps this gateway's certificate fresh.
    pub fn renewal(&self, proxy: Option<Proxy>) -> Renewal {
        let Self { site, gateway, state_dir, clock, ca_news, server_reads: _ } = self;
        let (folder, name) = (identity_folder(state_dir), format!("{site}/{gateway}"));
        let (clock, ca_news) = (clock.clone(), ca_news.subscribe());
        Renewal { folder, name, clock, proxy, spread: RENEWAL_SPREAD, ca_news }
    }

    /// Reads the identity kept on this gateway, each time it is called.
    pub fn introduction(&self) -> Introduction {
        let (folder, clock) = (identity_folder(&self.state_dir), self.clock.clone());
        let (ca_news, server_reads) = (self.ca_news.clone(), self.server_reads.clone());
        Box::new(move || {
            let Some(identity) = Identity::load(&folder).map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            // It is kept for long, so that connections can be resumed, and what time it is by then
            // only the clock knows.
            let clock = Arc::new(clock.clone());
            let config = tls::gateway_config(&identity, clock).map_err(|error| error.to_string())?;
            let certificate = identity.chain.first().map_or(&[][..], |certificate| certificate.as_ref());
            let peer = Peer::new(identity.server.clone(), &config, certificate)?;
            Ok(Some(peer.under(identity.ca_generation, ca_news.clone()).telling(server_reads.clone())))
        })
    }
}

/// The driver of a link, whichever it is.
#[expect(missing_docs, reason = "the words say it")]
pub enum Driver {
    Modbus(Box<Keeper>),
    OpcUa(Box<OpcUaSource>),
    Mqtt(Box<MqttSource>),
}

impl Driver {
    /// For a look beside an agent that may run: what is learnt of devices is its business.
    pub fn for_a_look(self) -> Self {
        match self {
            Self::Modbus(mut keeper) => {
                keeper.keeps = false;
                Self::Modbus(keeper)
            }
            other => other,
        }
    }
}

impl Source for Driver {
    fn points(&self) -> &[Point] {
        match self {
            Self::Modbus(source) => source.points(),
            Self::OpcUa(source) => source.points(),
            Self::Mqtt(source) => source.points(),
        }
    }

    fn has_found_all(&self) -> bool {
        match self {
            Self::Modbus(source) => source.has_found_all(),
            Self::OpcUa(source) => source.has_found_all(),
            Self::Mqtt(source) => source.has_found_all(),
        }
    }

    async fn connect(&mut self) -> Result<(), LinkFault> {
        match self {
            Self::Modbus(source) => source.connect().await,
            Self::OpcUa(source) => source.connect().await,
            Self::Mqtt(source) => source.connect().await,
        }
    }

    async fn next(&mut self) -> Result<Harvest, LinkFault> {
        match self {
            Self::Modbus(source) => source.next().await,
            Self::OpcUa(source) => source.next().await,
            Self::Mqtt(source) => source.next().await,
        }
    }

    async fn knock(&mut self) -> bool {
        match self {
            Self::Modbus(source) => source.knock().await,
            Self::OpcUa(source) => source.knock().await,
            Self::Mqtt(source) => source.knock().await,
        }
    }

    fn occupancy(&self) -> Option<Occupancy> {
        match self {
            Self::Modbus(source) => source.occupancy(),
            Self::OpcUa(source) => source.occupancy(),
            Self::Mqtt(source) => source.occupancy(),
        }
    }

    async fn close(&mut self) {
        match self {
            Self::Modbus(source) => source.close().await,
            Self::OpcUa(source) => source.close().await,
            Self::Mqtt(source) => source.close().await,
        }
    }
}

/// How a gateway shows itself to OPC UA servers.
pub fn opcua_application(site: &Name, gateway: &Name, state_dir: &Path) -> Application {
    Application {
        pki_dir: state_dir.join("opcua"),
        name: format!("Forebay {site}/{gateway}"),
        uri: format!("urn:forebay:{site}:{gateway}"),
    }
}

#[cfg(test)]
mod tests {
    use forebay_protocols::reading::{PointId, Quality, Stamp, Value};
    use forebay_protocols::sync::batch::{Boot, Decoder, Epoch, Sequence};

    use super::*;

    #[test]
    fn batches_are_of_a_format_that_the_server_reads() {
        let server_reads = ServerReads::default();
        let mut encode = encoder(server_reads.clone());
        let boot = Boot { counter: 1, id: [1; 8], wall_offset_us: 0, synchronised: true };
        let head = Head { epoch: Epoch([1; 16]), sequence: Sequence(1), boot };
        let mut format = || {
            let beside = |n: i64| (1_500 + n * 37 % 900) as f64 * 0.001;
            let reading = |n: i64| Reading {
                point: PointId(1),
                stamp: Stamp::device(n),
                value: Some(Value::Float(beside(n))),
                quality: Quality::Good,
            };
            let encoded = encode(&head, &mut (0..100).map(reading).collect::<Vec<_>>());
            Decoder::new().decode(&encoded.bytes).unwrap().format
        };
        assert_eq!(format(), 1, "nobody has said anything");
        server_reads.learn(2);
        assert_eq!(format(), 2);
        server_reads.learn(0);
        assert_eq!(format(), 1, "an older server took its place");
    }
}
