//! What was learnt of a link's units as a text that outlives a restart. Pure.
//!
//! Beside what is known of a device stand the settings it was learnt under: where the device is, its
//! unit id, and what the configuration allows. Under other settings it may not hold, and is left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_config::field::{Link, ModbusDevice, Register};
use serde::{Deserialize, Serialize};

use super::Endpoint;
use super::planner::{Hole, Learnt, MOST_REGISTERS};

const VERSION: u32 = 1;

/// The whole text. Every version has the first field.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    version: u32,
    devices: BTreeMap<String, Note>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Of one device.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    settings: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_registers: Option<u16>,
    /// Table, first and last address.
    holes: Vec<(Table, u16, u16)>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Table {
    Coil,
    Discrete,
    Input,
    Holding,
}

/// The text for what [`super::ModbusSource::learnt`] says of a link.
pub fn to_text(link: &Link, learnt: &BTreeMap<Arc<str>, Learnt>) -> String {
    let devices = settings(link).filter_map(|(name, settings)| {
        let Learnt { max_registers, holes } = learnt.get(&name)?;
        let holes = holes.iter().map(|hole| (hole.table.into(), hole.first, hole.last)).collect();
        Some((name.to_string(), Note { settings, max_registers: *max_registers, holes }))
    });
    let notes = Notes { version: VERSION, devices: devices.collect() };
    // Strings, numbers and lists of them: nothing that JSON cannot say.
    serde_json::to_string_pretty(&notes).unwrap_or_default() + "\n"
}

/// What such a text says of the devices of `link` as they are configured now.
///
/// # Errors
/// In plain words, when the text is not one of ours.
pub fn from_text(link: &Link, text: &str) -> Result<BTreeMap<Arc<str>, Learnt>, String> {
    let Version { version } = serde_json::from_str(text).map_err(|why| why.to_string())?;
    if version != VERSION {
        return Err(format!("its version is {version}, and this program writes {VERSION}"));
    }
    let Notes { version: _, mut devices } = serde_json::from_str(text).map_err(|why| why.to_string())?;
    let mut known = BTreeMap::new();
    for (name, settings) in settings(link) {
        let Some(note) = devices.remove(&*name).filter(|note| note.settings == settings) else { continue };
        let learnt = note.learnt().ok_or_else(|| format!("what it says of {name} cannot be"))?;
        known.insert(name, learnt);
    }
    Ok(known)
}

impl Note {
    fn learnt(self) -> Option<Learnt> {
        let Self { settings: _, max_registers, holes } = self;
        if max_registers.is_some_and(|most| !(1..=MOST_REGISTERS).contains(&u32::from(most))) {
            return None;
        }
        let hole = |(table, first, last): (Table, u16, u16)| {
            (first <= last).then_some(Hole { table: table.into(), first, last })
        };
        let holes = holes.into_iter().map(hole).collect::<Option<Vec<_>>>()?;
        let mut learnt = Learnt { max_registers, holes: Vec::new() };
        learnt.add(&Learnt { max_registers: None, holes });
        Some(learnt)
    }
}

/// Each device's name, and its settings in words.
fn settings(link: &Link) -> impl Iterator<Item = (Arc<str>, String)> {
    Endpoint::of(link).into_iter().flat_map(|(endpoint, bus)| {
        let place = match &endpoint {
            Endpoint::Tcp { address, framing, .. } => format!("{framing:?} {address}").to_lowercase(),
            Endpoint::Serial { line, .. } => line.port.display().to_string(),
        };
        bus.devices.iter().map(move |device| {
            let ModbusDevice { name, unit_id, max_registers, max_gap, .. } = device;
            let settings =
                format!("{place}, unit {unit_id}, max_registers {max_registers}, max_gap {max_gap}");
            (name.to_arc(), settings)
        })
    })
}

impl From<Register> for Table {
    fn from(register: Register) -> Self {
        match register {
            Register::Coil => Self::Coil,
            Register::Discrete => Self::Discrete,
            Register::Input => Self::Input,
            Register::Holding => Self::Holding,
        }
    }
}

impl From<Table> for Register {
    fn from(table: Table) -> Self {
        match table {
            Table::Coil => Self::Coil,
            Table::Discrete => Self::Discrete,
            Table::Input => Self::Input,
            Table::Holding => Self::Holding,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_config::field::Framing;

    use super::super::scripted::{device, tcp_link};
    use super::*;

    fn link(address: &str, change: impl Fn(&mut ModbusDevice)) -> Link {
        let mut devices = vec![device(3, &[1, 2], Duration::from_secs(1)), device(4, &[1], Duration::ZERO)];
        change(&mut devices[0]);
        tcp_link(address, Framing::Tcp, Duration::from_secs(1), devices)
    }

    fn learnt() -> BTreeMap<Arc<str>, Learnt> {
        let hole = |first, last| Hole { table: Register::Input, first, last };
        let known = Learnt { max_registers: Some(60), holes: vec![hole(7, 9), hole(65_535, 65_535)] };
        BTreeMap::from([
            ("unit3".into(), known),
            ("unit4".into(), Learnt { holes: Vec::new(), max_registers: Some(1) }),
        ])
    }

    #[test]
    fn what_was_learnt_is_read_as_it_was_written() {
        let link = link("plc", |_| ());
        let text = to_text(&link, &learnt());
        assert!(
            text.contains("\"settings\": \"tcp plc:502, unit 3, max_registers 125, max_gap 0\""),
            "{text}"
        );
        assert_eq!(from_text(&link, &text), Ok(learnt()));
        assert_eq!(from_text(&link, &to_text(&link, &BTreeMap::new())), Ok(BTreeMap::new()));
    }

    #[test]
    fn under_other_settings_nothing_is_known_of_a_device_and_all_of_the_others() {
        let text = to_text(&link("plc", |_| ()), &learnt());
        let names = |link: &Link| from_text(link, &text).unwrap().into_keys().collect::<Vec<_>>();
        assert_eq!(
            names(&link("plc:502", |d| d.points.clear())),
            ["unit3".into(), "unit4".into()] as [Arc<str>; 2]
        );
        for change in [
            (|d| d.unit_id = 9) as fn(&mut ModbusDevice),
            |d| d.max_registers = 100,
            |d| d.max_gap = 3,
            |d| d.name = forebay_config::units::Name::new("other").unwrap(),
        ] {
            assert_eq!(names(&link("plc", change)), ["unit4".into()] as [Arc<str>; 1]);
        }
        assert_eq!(names(&link("other", |_| ())), [] as [Arc<str>; 0]);
    }

    #[test]
    fn what_is_no_text_of_ours_is_refused_in_words() {
        let link = link("plc", |_| ());
        let text = to_text(&link, &learnt());
        for cut in (0..text.len() - 2).step_by(7) {
            from_text(&link, &text[..cut]).unwrap_err();
        }
        let newer = text.replace("\"version\": 1", "\"version\": 2");
        assert_eq!(from_text(&link, &newer), Err("its version is 2, and this program writes 1".into()));
        for (good, bad) in
            [("60", "0"), ("60", "126"), ("60", "-1"), ("9", "6"), ("input", "outputs"), ("holes", "hole")]
        {
            assert!(from_text(&link, &text.replacen(good, bad, 1)).is_err(), "{good} -> {bad}");
        }
    }
}
