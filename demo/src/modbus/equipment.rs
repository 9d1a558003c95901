//! The equipment behind the simulated units: which points a boiler and a power meter have, where
//! they lie in the Modbus tables, and what their registers hold at a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_config::field::{ByteOrder, PointKind, RawType, Register};

use crate::signals::Signal;

/// What stands behind a unit id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equipment {
    /// A steam boiler with its pumps; big-endian, uses all four tables.
    Boiler,
    /// A three-phase power meter; low word first, as many of them are.
    Meter,
}

/// One point of a kind of equipment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// The point's name.
    pub name: &'static str,
    /// Table.
    pub register: Register,
    /// First address.
    pub address: u16,
    /// How it lies in the registers.
    pub raw: RawType,
    /// Unit of measure.
    pub unit: &'static str,
    /// How it behaves over time.
    pub kind: PointKind,
    /// What one step of the raw value is worth.
    pub scale: Option<f64>,
    /// What it shows.
    pub shows: Shows,
}

/// What a point shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shows {
    /// A number or switch that changes with time.
    Signal(Signal),
    /// A text that stays.
    Text(&'static str),
}

/// Registers and bits of one unit at one moment; a bit is a word of 0 or 1.
pub type Image = BTreeMap<(Register, u16), u16>;

impl Equipment {
    /// The first part of its devices' names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Boiler => "boiler",
            Self::Meter => "meter",
        }
    }

    /// The byte order of its numbers.
    pub fn byte_order(self) -> ByteOrder {
        match self {
            Self::Boiler => ByteOrder::Abcd,
            Self::Meter => ByteOrder::Cdab,
        }
    }

    /// Its points.
    pub fn places(self) -> Vec<Place> {
        match self {
            Self::Boiler => boiler(),
            Self::Meter => meter(),
        }
    }

    /// What unit `unit` of this kind holds so long after its start.
    pub fn image(self, unit: u8, elapsed: Duration) -> Image {
        let mut image = Image::new();
        for (number, place) in (0u64..).zip(self.places()) {
            let seed = u64::from(unit) << 16 | number;
            for (offset, word) in (0u16..).zip(place.words(self.byte_order(), seed, elapsed)) {
                // Bits of one register are or-ed together.
                *image.entry((place.register, place.address + offset)).or_default() |= word;
            }
        }
        image
    }
}

impl Place {
    fn words(&self, order: ByteOrder, seed: u64, elapsed: Duration) -> Vec<u16> {
        let value = match self.shows {
            Shows::Signal(signal) => signal.at(seed, elapsed),
            Shows::Text(text) => return self.text(text),
        };
        let raw = (value / self.scale.unwrap_or(1.0)).round() as i64;
        let big_endian = match self.raw {
            RawType::Float32 => (value as f32).to_be_bytes().to_vec(),
            RawType::Float64 => value.to_be_bytes().to_vec(),
            RawType::Int32 | RawType::Uint32 => (raw as u32).to_be_bytes().to_vec(),
            RawType::Int64 | RawType::Uint64 => raw.to_be_bytes().to_vec(),
            RawType::Bit(bit) => ((raw as u16) << bit).to_be_bytes().to_vec(),
            _ => (raw as u16).to_be_bytes().to_vec(),
        };
        let mut words: Vec<u16> = big_endian.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
        if order == ByteOrder::Cdab {
            words.reverse();
        }
        words
    }

    fn text(&self, text: &str) -> Vec<u16> {
        let RawType::String { registers } = self.raw else { return Vec::new() };
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(usize::from(registers) * 2, 0);
        bytes.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect()
    }
}

fn place(
    name: &'static str,
    register: Register,
    address: u16,
    raw: RawType,
    unit: &'static str,
    shows: Signal,
) -> Place {
    let kind = match (shows, raw) {
        (Signal::Counter { .. }, _) => PointKind::Counter,
        (Signal::Switch { .. }, _) => PointKind::State,
        _ => PointKind::Gauge,
    };
    Place { name, register, address, raw, unit, kind, scale: None, shows: Shows::Signal(shows) }
}

fn scaled(scale: f64, place: Place) -> Place {
    Place { scale: Some(scale), ..place }
}

fn wave(mean: f64, swing: f64, seconds: u64) -> Signal {
    Signal::Wave { mean, swing, period: Duration::from_secs(seconds), noise: swing / 20.0 }
}

fn counter(start: f64, rate: f64) -> Signal {
    Signal::Counter { start, rate }
}

fn switch(on: u64, off: u64) -> Signal {
    Signal::Switch { on: Duration::from_secs(on), off: Duration::from_secs(off) }
}

fn boiler() -> Vec<Place> {
    use RawType::{Bit, Bool, Float32, Int16, String, Uint16, Uint32, Uint64};
    use Register::{Coil, Discrete, Holding, Input};
    let hold = |levels, seconds| Signal::Setpoint { levels, hold: Duration::from_secs(seconds) };
    vec![
        place("supply_temperature", Input, 0, Float32, "°C", wave(88.0, 4.0, 900)),
        place("return_temperature", Input, 2, Float32, "°C", wave(64.0, 3.0, 900)),
        place("flue_temperature", Input, 4, Float32, "°C", wave(165.0, 12.0, 600)),
        place("outdoor_temperature", Input, 6, Float32, "°C", wave(9.0, 6.0, 86_400)),
        place("steam_pressure", Input, 8, Float32, "bar", wave(6.2, 0.6, 420)),
        place("feed_pressure", Input, 10, Float32, "bar", wave(9.5, 0.5, 300)),
        place("water_flow", Input, 12, Float32, "m³/h", wave(24.0, 6.0, 240)),
        place("gas_flow", Input, 14, Float32, "m³/h", wave(118.0, 30.0, 240)),
        place("pump_speed", Input, 16, Float32, "rpm", wave(1_450.0, 90.0, 240)),
        place("pump_power", Input, 18, Float32, "kW", wave(5.5, 1.2, 240)),
        place("oxygen", Input, 20, Float32, "%", wave(3.4, 0.8, 180)),
        place("burner_load", Input, 22, Float32, "%", wave(62.0, 25.0, 600)),
        scaled(0.1, place("bearing_temperature_1", Input, 30, Int16, "°C", wave(52.0, 3.0, 1_200))),
        scaled(0.1, place("bearing_temperature_2", Input, 31, Int16, "°C", wave(49.0, 3.0, 1_300))),
        scaled(0.1, place("bearing_temperature_3", Input, 32, Int16, "°C", wave(55.0, 3.0, 1_100))),
        scaled(0.1, place("frost_guard_temperature", Input, 33, Int16, "°C", wave(-2.0, 5.0, 3_600))),
        scaled(0.1, place("vibration_1", Input, 34, Uint16, "mm/s", wave(2.4, 0.8, 60))),
        scaled(0.1, place("vibration_2", Input, 35, Uint16, "mm/s", wave(2.1, 0.7, 75))),
        scaled(0.1, place("tank_level", Input, 36, Uint16, "%", wave(70.0, 20.0, 1_800))),
        place("gas_total", Input, 40, Uint32, "m³", counter(812_340.0, 0.03)),
        place("operating_hours", Input, 42, Uint32, "h", counter(18_204.0, 1.0 / 3_600.0)),
        place("starts", Input, 44, Uint32, "", counter(3_121.0, 1.0 / 900.0)),
        place("water_total", Input, 46, Uint32, "l", counter(41_200_000.0, 6.7)),
        place("heat_energy", Input, 50, Uint64, "Wh", counter(5_400_000_000_000.0, 190.0)),
        scaled(0.1, place("supply_setpoint", Holding, 0, Int16, "°C", hold(&[85.0, 88.0, 90.5], 300))),
        Place {
            kind: PointKind::State,
            ..place("mode", Holding, 1, Uint16, "", hold(&[2.0, 2.0, 3.0], 120))
        },
        place("running", Holding, 2, Bit(0), "", switch(540, 60)),
        place("alarm", Holding, 2, Bit(7), "", switch(10, 890)),
        place("remote_control", Holding, 2, Bit(15), "", switch(3_600, 600)),
        Place {
            name: "serial_number",
            register: Holding,
            address: 10,
            raw: String { registers: 8 },
            unit: "",
            kind: PointKind::State,
            scale: None,
            shows: Shows::Text("FB-2041-7731"),
        },
        place("feed_valve", Coil, 0, Bool, "", switch(45, 30)),
        place("drain_valve", Coil, 1, Bool, "", switch(5, 295)),
        place("main_pump", Coil, 2, Bool, "", switch(540, 60)),
        place("spare_pump", Coil, 3, Bool, "", switch(60, 540)),
        place("flame", Discrete, 0, Bool, "", switch(400, 50)),
        place("low_water", Discrete, 1, Bool, "", switch(2, 1_198)),
        place("door_open", Discrete, 2, Bool, "", switch(15, 585)),
    ]
}

fn meter() -> Vec<Place> {
    use RawType::{Bool, Float32, Uint16, Uint32};
    use Register::{Coil, Holding, Input};
    let phases = [1u16, 2, 3];
    let names = [
        ["voltage_l1", "voltage_l2", "voltage_l3"],
        ["current_l1", "current_l2", "current_l3"],
        ["power_l1", "power_l2", "power_l3"],
    ];
    let of_phases = [(230.0, 4.0, "V"), (32.0, 12.0, "A"), (6.8, 2.5, "kW")];
    let mut places = Vec::new();
    for (kind, (mean, swing, unit)) in (0u16..).zip(of_phases) {
        for phase in phases {
            let name = names[usize::from(kind)][usize::from(phase - 1)];
            let address = kind * 6 + (phase - 1) * 2;
            places.push(place(name, Input, address, Float32, unit, wave(mean, swing, 300)));
        }
    }
    places.extend([
        place("power", Input, 18, Float32, "kW", wave(20.4, 7.0, 300)),
        place("frequency", Input, 20, Float32, "Hz", wave(50.0, 0.1, 30)),
        place("energy_import", Input, 40, Uint32, "Wh", counter(91_250_000.0, 5.6)),
        place("energy_export", Input, 42, Uint32, "Wh", counter(120_400.0, 0.2)),
        scaled(0.1, place("cabinet_temperature", Holding, 0, Uint16, "°C", wave(31.0, 4.0, 1_800))),
        place("breaker_closed", Coil, 0, Bool, "", switch(1_700, 100)),
    ]);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boiler_has_thirty_points_and_a_meter_fifteen() {
        assert!(Equipment::Boiler.places().len() >= 30);
        assert_eq!(Equipment::Meter.places().len(), 15);
    }

    #[test]
    fn names_are_unique_and_only_bits_share_a_register() {
        for equipment in [Equipment::Boiler, Equipment::Meter] {
            let places = equipment.places();
            let mut names: Vec<_> = places.iter().map(|p| p.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), places.len());
            let mut taken = BTreeMap::new();
            for place in &places {
                let words = place.words(equipment.byte_order(), 0, Duration::ZERO).len();
                for address in (place.address..).take(words) {
                    if let Some(other) = taken.insert((place.register, address), place) {
                        let are_bits = matches!((place.raw, other.raw), (RawType::Bit(_), RawType::Bit(_)));
                        assert!(are_bits, "{} lies on {}", place.name, other.name);
                    }
                }
            }
        }
    }

    #[test]
    fn negative_and_scaled_values_lie_in_their_registers_as_two_complement() {
        let place = scaled(0.1, place("x", Register::Input, 0, RawType::Int16, "", wave(-2.0, 0.0, 1)));
        assert_eq!(place.words(ByteOrder::Abcd, 0, Duration::ZERO), [(-20i16) as u16]);
        let hundred = Signal::Counter { start: 65_538.0, rate: 0.0 };
        let place = Place { raw: RawType::Uint32, scale: None, shows: Shows::Signal(hundred), ..place };
        assert_eq!(place.words(ByteOrder::Cdab, 0, Duration::ZERO), [2, 1]);
    }
}
