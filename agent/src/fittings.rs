//! Where the parts of other rooms are screwed in: drivers, codec, identity, configuration. One
//! function each; nothing else of the agent knows which drivers there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_config::agent::Agent;
use forebay_config::field::{self, Protocol};
use forebay_config::units::Name;
use forebay_protocols::field::modbus::ModbusSource;
use forebay_protocols::field::mqtt::MqttSource;
use forebay_protocols::field::opcua::{Application, OpcUaSource};
use forebay_protocols::reading::Reading;
use forebay_protocols::sync::batch::{Encoder, Head};
use forebay_protocols::sync::tls::{self, Identity};

use crate::batcher::Encode;
use crate::cli::join::identity_folder;
use crate::clock::Clock;
use crate::link::{Desk, Link};
use crate::uplink::Introduction;
use crate::uplink::line::Peer;

/// Reads and judges the configuration. The error is every finding, for people.
pub fn configuration(path: &Path) -> Result<Agent, String> {
    forebay_config::load::agent(path).map_err(|findings| findings.to_string())
}

/// The batch codec.
pub fn encoder() -> impl Encode {
    let mut encoder = Encoder::new();
    move |head: &Head, readings: &mut [Reading]| encoder.encode(head, readings)
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
}

impl Fitter {
    /// Makes the driver of `link` and runs it. An error is a configuration that cannot work.
    pub async fn run_link(&self, link: &field::Link, desk: Desk) -> Result<(), String> {
        // Boxed: a driver's future is large, and it lives as long as the agent.
        match &link.protocol {
            Protocol::ModbusTcp(_) | Protocol::ModbusRtu(_) => {
                let source = ModbusSource::new(link).ok_or("its protocol is not Modbus")?;
                Box::pin(Link { source, desk }.run()).await;
            }
            Protocol::OpcUa(_) => {
                let (link, application) = (link.clone(), self.application());
                // Making a key takes seconds on a small gateway. Nobody waits for it at the end.
                let making = tokio::task::spawn_blocking(move || OpcUaSource::new(&link, application));
                let Some(made) = desk.stop.run_until_cancelled(making).await else { return Ok(()) };
                let source = made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                Box::pin(Link { source, desk }.run()).await;
            }
            Protocol::Mqtt(_) => {
                let clock = Arc::new(self.clock.clone());
                let source = MqttSource::new(link, clock).map_err(|error| error.to_string())?;
                Box::pin(Link { source, desk }.run()).await;
            }
        }
        Ok(())
    }

    fn application(&self) -> Application {
        opcua_application(&self.site, &self.gateway, &self.state_dir)
    }

    /// Reads the identity kept on this gateway, each time it is called.
    pub fn introduction(&self) -> Introduction {
        let (folder, clock) = (identity_folder(&self.state_dir), self.clock.clone());
        Box::new(move || {
            let Some(identity) = Identity::load(&folder).map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            // It is kept for long, so that connections can be resumed, and what time it is by then
            // only the clock knows.
            let clock = Arc::new(clock.clone());
            let config = tls::gateway_config(&identity, clock).map_err(|error| error.to_string())?;
            let certificate = identity.chain.first().map_or(&[][..], |certificate| certificate.as_ref());
            Peer::new(identity.server.clone(), &config, certificate).map(Some)
        })
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
