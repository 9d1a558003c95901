//! Our Modbus driver and pymodbus' client read the same values from pymodbus' server and from libmodbus'.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_config::load;
use forebay_protocols::field::modbus::ModbusSource;
use forebay_protocols::field::source::Source;
use forebay_protocols::reading::{Quality, Value};
use forebay_tests::{Peer, ask_peer};
use serde_json::Value as Json;

/// `modbus_peer.py` has the same points.
fn configuration(link: &str, units: &[u8]) -> String {
    let mut text = format!(
        "[agent]\nsite = \"t\"\ngateway = \"t\"\n[link.peer]\ninterval = \"50ms\"\ntimeout = \"2s\"\n{link}\n"
    );
    for unit in units {
        text += &format!(
            "[link.peer.device.unit{unit}]\nunit_id = {unit}\n[link.peer.device.unit{unit}.points]\n\
             i16 = {{ address = 0, type = \"int16\" }}\n\
             u16 = {{ address = 1, type = \"uint16\" }}\n\
             i32 = {{ address = 2, type = \"int32\" }}\n\
             u32 = {{ address = 4, type = \"uint32\" }}\n\
             i64 = {{ address = 6, type = \"int64\" }}\n\
             f32 = {{ address = 10, type = \"float32\" }}\n\
             f64 = {{ address = 12, type = \"float64\" }}\n\
             text = {{ address = 30, type = \"string\", length = 5 }}\n\
             in_u16 = {{ register = \"input\", address = 0, type = \"uint16\" }}\n\
             in_f32 = {{ register = \"input\", address = 65534, type = \"float32\" }}\n"
        );
        for n in 0..16 {
            text += &format!(
                "coil{n} = {{ register = \"coil\", address = {n} }}\ndiscrete{n} = {{ register = \"discrete\", address = {n} }}\n"
            );
        }
        // Word order is a matter of the device: the same unit under another name.
        text += &format!(
            "[link.peer.device.swapped{unit}]\nunit_id = {unit}\nbyte_order = \"CDAB\"\n[link.peer.device.swapped{unit}.points]\n\
             f32_cdab = {{ address = 16, type = \"float32\" }}\ni32_cdab = {{ address = 18, type = \"int32\" }}\n"
        );
    }
    text
}

/// One good value of every point, by unit and name.
async fn read_with_ours(link: &str, units: &[u8]) -> Result<BTreeMap<(String, String), Value>> {
    let agent = load::agent_text("agent.toml", &configuration(link, units))?;
    let mut source = ModbusSource::new(&agent.links[0]).context("a Modbus link")?;
    source.connect().await?;
    let mut found = BTreeMap::new();
    let reading = async {
        while found.len() < source.points().len() {
            let harvest = source.next().await?;
            for sample in harvest.samples {
                let point = &source.points()[sample.slot];
                ensure!(
                    sample.quality == Quality::Good,
                    "{}/{} is {}",
                    point.device,
                    point.name,
                    sample.quality.words()
                );
                let unit = point.device.replace("swapped", "unit");
                found.insert(
                    (unit, point.name.to_string()),
                    sample.value.context("a good reading has a value")?,
                );
            }
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .context("every point is read within 20 s")??;
    source.close().await;
    Ok(found)
}

#[expect(clippy::panic, reason = "the words of a failing test")]
fn compare(ours: &BTreeMap<(String, String), Value>, theirs: &Json) {
    let mut compared = 0;
    for (unit, points) in theirs.as_object().expect("units") {
        for (name, theirs) in points.as_object().expect("points") {
            let ours = ours
                .get(&(unit.clone(), name.clone()))
                .unwrap_or_else(|| panic!("we did not read {unit}/{name}"));
            let equal = match ours {
                Value::Float(v) => theirs.as_f64() == Some(*v),
                Value::Integer(v) => theirs.as_i64() == Some(*v),
                Value::Boolean(v) => theirs.as_bool() == Some(*v),
                Value::Text(v) => theirs.as_str() == Some(v),
            };
            assert!(equal, "{unit}/{name}: we read {ours:?}, pymodbus {theirs}");
            compared += 1;
        }
    }
    let units = theirs.as_object().map_or(0, serde_json::Map::len);
    assert_eq!((compared, ours.len()), (44 * units, 44 * units));
}

fn tcp(server: &Peer) -> String {
    format!("[link.peer.modbus-tcp]\naddress = \"{}\"", server.endpoint())
}

fn rtu(server: &Peer) -> String {
    format!("[link.peer.modbus-rtu]\nport = \"{}\"\nbaud = 115200\nparity = \"none\"", server.endpoint())
}

#[tokio::test]
async fn modbus_tcp_values_are_those_of_pymodbus() -> Result<()> {
    let server = Peer::start("modbus_peer.py", &["serve-tcp"])?;
    let ours = read_with_ours(&tcp(&server), &[1, 2]).await?;
    compare(&ours, &ask_peer("modbus_peer.py", &["read-tcp", server.endpoint()])?);
    Ok(())
}

#[tokio::test]
async fn modbus_rtu_values_over_a_pty_are_those_of_pymodbus() -> Result<()> {
    let server = Peer::start("modbus_peer.py", &["serve-rtu"])?;
    let ours = read_with_ours(&rtu(&server), &[1, 2]).await?;
    compare(&ours, &ask_peer("modbus_peer.py", &["read-rtu", server.endpoint()])?);
    Ok(())
}

#[tokio::test]
async fn what_we_and_pymodbus_read_from_libmodbus_over_tcp_is_the_same() -> Result<()> {
    let server = Peer::start("libmodbus_server.py", &["tcp"])?;
    let ours = read_with_ours(&tcp(&server), &[1, 2]).await?;
    compare(&ours, &ask_peer("modbus_peer.py", &["read-tcp", server.endpoint()])?);
    Ok(())
}

#[tokio::test]
async fn what_we_and_pymodbus_read_from_libmodbus_over_a_pty_is_the_same() -> Result<()> {
    let server = Peer::start("libmodbus_server.py", &["rtu"])?;
    let ours = read_with_ours(&rtu(&server), &[1]).await?;
    compare(&ours, &ask_peer("modbus_peer.py", &["read-rtu", server.endpoint(), "1"])?);
    Ok(())
}
