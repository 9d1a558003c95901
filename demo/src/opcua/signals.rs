//! What the plant measures, and how it moves: each signal is a function of time alone, so that a
//! restarted plant goes on where it was. Pure.

use std::f64::consts::TAU;

use opcua::types::{DataTypeId, Variant};

/// A machine, with what it measures.
pub(super) struct Machine {
    pub name: &'static str,
    pub signals: &'static [(&'static str, Signal, &'static str)],
}

/// How a value moves.
#[derive(Clone, Copy)]
pub(super) enum Signal {
    /// Swings around a middle within a period of seconds, with a little noise; a double, as its
    /// sensor resolves it.
    Wave { middle: f64, swing: f64, period: f64, step: f64 },
    /// Counts up by so many a second; an integer.
    Counter { per_second: f64 },
    /// On for a share of each period of seconds; a boolean.
    Switch { period: f64, share: f64 },
    /// Goes through words, each for so many seconds; a text.
    Words { seconds: f64, words: &'static [&'static str] },
}

use Signal::{Counter, Switch, Wave, Words};

const fn wave(middle: f64, swing: f64, period: f64, step: f64) -> Signal {
    Wave { middle, swing, period, step }
}

const MODES: &[&str] = &["running", "running", "running", "setting up", "waiting for material"];

/// Sixty signals of twelve machines: name, movement, unit.
pub(super) const MACHINES: &[Machine] = &[
    Machine {
        name: "Press",
        signals: &[
            ("Temp", wave(64.0, 6.0, 240.0, 0.1), "°C"),
            ("Pressure", wave(182.0, 14.0, 12.0, 0.1), "bar"),
            ("Strokes", Counter { per_second: 0.8 }, ""),
            ("Guard", Switch { period: 120.0, share: 0.95 }, ""),
            ("Mode", Words { seconds: 45.0, words: MODES }, ""),
        ],
    },
    Machine {
        name: "Boiler",
        signals: &[
            ("Flow.Temp", wave(78.0, 4.0, 600.0, 0.1), "°C"),
            ("Return.Temp", wave(61.0, 5.0, 600.0, 0.1), "°C"),
            ("Pressure", wave(1.8, 0.2, 900.0, 0.01), "bar"),
            ("Burner", Switch { period: 180.0, share: 0.6 }, ""),
            ("Starts", Counter { per_second: 1.0 / 180.0 }, ""),
        ],
    },
    Machine {
        name: "Oven",
        signals: &[
            ("Zone1.Temp", wave(210.0, 1.5, 90.0, 0.1), "°C"),
            ("Zone2.Temp", wave(228.0, 1.5, 110.0, 0.1), "°C"),
            ("Zone3.Temp", wave(215.0, 1.5, 100.0, 0.1), "°C"),
            ("Belt.Speed", wave(0.42, 0.01, 30.0, 0.001), "m/s"),
            ("Door", Switch { period: 300.0, share: 0.05 }, ""),
        ],
    },
    Machine {
        name: "Compressor",
        signals: &[
            ("Pressure", wave(7.2, 0.4, 60.0, 0.01), "bar"),
            ("Oil.Temp", wave(71.0, 3.0, 400.0, 0.1), "°C"),
            ("Load", Switch { period: 60.0, share: 0.7 }, ""),
            ("Seconds", Counter { per_second: 1.0 }, "s"),
            ("State", Words { seconds: 60.0, words: &["loaded", "idling", "loaded"] }, ""),
        ],
    },
    Machine {
        name: "Tank",
        signals: &[
            ("Level", wave(61.0, 22.0, 1800.0, 0.1), "%"),
            ("Temp", wave(18.5, 0.8, 3600.0, 0.1), "°C"),
            ("Inflow", wave(12.0, 3.0, 700.0, 0.1), "m³/h"),
            ("Outflow", wave(12.0, 2.0, 500.0, 0.1), "m³/h"),
            ("Overfill", Switch { period: 1800.0, share: 0.02 }, ""),
        ],
    },
    Machine { name: "Pump1", signals: PUMP },
    Machine { name: "Pump2", signals: PUMP },
    Machine { name: "Pump3", signals: PUMP },
    Machine {
        name: "Conveyor",
        signals: &[
            ("Speed", wave(0.8, 0.02, 20.0, 0.01), "m/s"),
            ("Motor.Current", wave(3.4, 0.5, 25.0, 0.01), "A"),
            ("Parts", Counter { per_second: 1.6 }, ""),
            ("Jam", Switch { period: 900.0, share: 0.01 }, ""),
            ("Running", Switch { period: 240.0, share: 0.9 }, ""),
        ],
    },
    Machine {
        name: "Packing",
        signals: &[
            ("Boxes", Counter { per_second: 0.2 }, ""),
            ("Rejects", Counter { per_second: 0.004 }, ""),
            ("Weight", wave(12.4, 0.1, 5.0, 0.01), "kg"),
            ("Foil", wave(55.0, 45.0, 2400.0, 1.0), "%"),
            ("Mode", Words { seconds: 75.0, words: MODES }, ""),
        ],
    },
    Machine {
        name: "Energy",
        signals: &[
            ("Power", wave(184.0, 40.0, 300.0, 0.1), "kW"),
            ("Energy", Counter { per_second: 51.1 }, "Wh"),
            ("Voltage", wave(398.0, 3.0, 40.0, 0.1), "V"),
            ("Frequency", wave(50.0, 0.03, 17.0, 0.01), "Hz"),
            ("CosPhi", wave(0.93, 0.03, 200.0, 0.01), ""),
        ],
    },
    Machine {
        name: "Hall",
        signals: &[
            ("Temp", wave(21.0, 2.0, 7200.0, 0.1), "°C"),
            ("Humidity", wave(44.0, 8.0, 5400.0, 0.1), "%"),
            ("CO2", wave(640.0, 120.0, 3600.0, 1.0), "ppm"),
            ("Gate", Switch { period: 600.0, share: 0.1 }, ""),
            ("Light", Switch { period: 7200.0, share: 0.7 }, ""),
        ],
    },
];

const PUMP: &[(&str, Signal, &str)] = &[
    ("Speed", wave(2890.0, 30.0, 45.0, 1.0), "1/min"),
    ("Flow", wave(31.0, 2.5, 80.0, 0.1), "m³/h"),
    ("Bearing.Temp", wave(52.0, 4.0, 500.0, 0.1), "°C"),
    ("Vibration", wave(2.1, 0.6, 33.0, 0.01), "mm/s"),
    ("Running", Switch { period: 400.0, share: 0.85 }, ""),
];

impl Signal {
    /// The value at a time in seconds. `seed` sets signals of one kind apart.
    pub(super) fn at(self, seconds: f64, seed: u64) -> Variant {
        let shifted = seconds + (seed % 97) as f64 * 3.1;
        match self {
            Wave { middle, swing, period, step } => {
                let noise = noise(seed, seconds as u64) * swing * 0.05;
                let value = middle + swing * (shifted / period * TAU).sin() + noise;
                // Steps are powers of ten: dividing by their inverse gives 21.3, not 21.300000000000001.
                let inverse = (1.0 / step).round();
                Variant::Double((value * inverse).round() / inverse)
            }
            Counter { per_second } => Variant::Int64((seconds * per_second) as i64),
            Switch { period, share } => Variant::Boolean((shifted / period).fract() < share),
            Words { seconds: each, words } => {
                let at = (shifted / each) as usize % words.len().max(1);
                Variant::String(words.get(at).copied().unwrap_or_default().into())
            }
        }
    }

    /// The type the server states for it.
    pub(super) fn data_type(self) -> DataTypeId {
        match self {
            Wave { .. } => DataTypeId::Double,
            Counter { .. } => DataTypeId::Int64,
            Switch { .. } => DataTypeId::Boolean,
            Words { .. } => DataTypeId::String,
        }
    }

    /// `type` and `kind` of a point that reads it.
    pub(super) fn type_and_kind(self) -> (&'static str, &'static str) {
        match self {
            Wave { .. } => ("float", "gauge"),
            Counter { .. } => ("integer", "counter"),
            Switch { .. } => ("boolean", "state"),
            Words { .. } => ("text", "state"),
        }
    }
}

/// Between -1 and 1, and the same for the same arguments (the finaliser of SplitMix64).
fn noise(seed: u64, moment: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(moment);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) as f64 / u64::MAX as f64 * 2.0 - 1.0
}
