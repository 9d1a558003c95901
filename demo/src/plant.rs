//! The whole simulated plant: two Modbus TCP servers, a serial bus with three meters, an OPC UA
//! server, and an MQTT broker with three publishers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use forebay_config::agent::Agent;
use forebay_config::load;
use forebay_config::units::Name;

use crate::modbus::ModbusPlant;
use crate::mqtt::{Broker, Publishers};
use crate::opcua::{OpcUaPlant, PlantOptions};

/// Everything there is to read. Ends when stopped or dropped.
pub struct Plant {
    boilers: [ModbusPlant; 2],
    meters: ModbusPlant,
    press: OpcUaPlant,
    hall: Broker,
    publishers: Publishers,
}

impl Plant {
    /// Starts all of it on free ports of loopback and a pseudo terminal.
    ///
    /// # Errors
    /// When one part cannot start, which.
    pub async fn start() -> Result<Self> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let hall = Broker::start().await.context("start the MQTT broker")?;
        Ok(Self {
            boilers: [
                ModbusPlant::start_tcp(anywhere, &[1, 2]).await.context("start the first Modbus server")?,
                ModbusPlant::start_tcp(anywhere, &[3, 4]).await.context("start the second Modbus server")?,
            ],
            meters: ModbusPlant::start_rtu_bus(&[11, 12, 13]).context("start the serial bus")?,
            press: OpcUaPlant::start(PlantOptions::default()).await.context("start the OPC UA server")?,
            publishers: hall.publish(Duration::from_secs(1)),
            hall,
        })
    }

    /// `[link.NAME]` sections that read everything.
    ///
    /// # Errors
    /// None in practice: the names are fixed and valid.
    pub fn link_toml(&self) -> Result<String> {
        let name = |text: &str| Name::new(text).map_err(anyhow::Error::msg);
        Ok([
            self.boilers[0].link_toml(&name("boilers-east")?),
            self.boilers[1].link_toml(&name("boilers-west")?),
            self.meters.link_toml(&name("meters")?),
            self.press.link_toml("press"),
            self.hall.link_toml("hall"),
        ]
        .join("\n"))
    }

    /// What an agent's configuration for this plant amounts to.
    ///
    /// # Errors
    /// When the configuration would be refused.
    pub fn described(&self) -> Result<Agent> {
        let text = format!("[agent]\nsite = \"demo\"\ngateway = \"plant\"\n{}", self.link_toml()?);
        Ok(load::agent_text("plant", &text)?)
    }

    /// Stops every part, in order.
    pub async fn stop(self) {
        let Self { boilers, meters, press, hall, publishers } = self;
        publishers.stop().await;
        drop(hall);
        press.shutdown().await;
        meters.shutdown().await;
        for boiler in boilers {
            boiler.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_plant_has_at_least_two_hundred_points_and_a_valid_configuration() {
        let plant = Plant::start().await.expect("the plant starts");
        let agent = plant.described().unwrap_or_else(|error| panic!("{error}"));
        // The ten points of the first publisher are named by its topics, not by the configuration.
        let points: usize = agent.links.iter().map(|link| link.point_count()).sum();
        assert!(points + 10 >= 200, "{points} points");
        assert_eq!(agent.links.len(), 5);
        plant.stop().await;
    }
}
