//! Readings to measure with: a plant made up from a seed, and recorded data where it is at hand.

use std::path::Path;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};

/// Readings in the order in which a link delivers them: poll by poll.
#[derive(Clone)]
pub struct Corpus {
    pub name: String,
    /// Readings in one batch.
    pub batch: usize,
    pub readings: Vec<Reading>,
}

/// xorshift64*: the same plant in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> i64 {
        (self.roll() % limit) as i64
    }

    /// About normal, mean 0, deviation 1.
    fn bell(&mut self) -> f64 {
        (0..12).map(|_| (self.roll() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
    }
}

/// What a point of the made-up plant measures.
enum Signal {
    /// Wanders, rounded to 0.1.
    Analog {
        at: f64,
    },
    /// Wanders, all digits of an f64 or only those of an f32.
    Fine {
        at: f64,
        narrow: bool,
    },
    Counter {
        at: i64,
        pace: i64,
    },
    /// A mode that changes now and then.
    Step {
        at: i64,
    },
    Switch {
        on: bool,
    },
    SetPoint {
        at: f64,
    },
}

impl Signal {
    fn next(&mut self, dice: &mut Dice) -> Value {
        match self {
            Self::Analog { at } => {
                *at += dice.bell() * 0.3;
                Value::Float((*at * 10.0).round() / 10.0)
            }
            Self::Fine { at, narrow } => {
                *at += dice.bell() * 0.15;
                Value::Float(if *narrow { f64::from(*at as f32) } else { *at })
            }
            Self::Counter { at, pace } => {
                *at += *pace + dice.below(20);
                Value::Integer(*at)
            }
            Self::Step { at } => {
                if dice.below(50) == 0 {
                    *at = dice.below(6);
                }
                Value::Integer(*at)
            }
            Self::Switch { on } => {
                *on ^= dice.below(60) == 0;
                Value::Boolean(*on)
            }
            Self::SetPoint { at } => {
                if dice.below(500) == 0 {
                    *at = dice.below(200) as f64 / 2.0;
                }
                Value::Float(*at)
            }
        }
    }
}

/// Half analog, the rest counters, steps, switches and set points.
fn mixed(point: u32, dice: &mut Dice) -> Signal {
    match point % 10 {
        0..5 => Signal::Analog { at: 20.0 + dice.below(60) as f64 },
        5 | 6 => Signal::Counter { at: dice.below(1_000_000), pace: dice.below(40) },
        7 => Signal::Step { at: dice.below(6) },
        8 => Signal::Switch { on: dice.below(2) == 1 },
        _ => Signal::SetPoint { at: dice.below(200) as f64 / 2.0 },
    }
}

/// A made-up plant, polled by tens of points, ten batches long (fewer if they are large).
fn plant(
    name: &str,
    points: u32,
    batch: usize,
    jitter: bool,
    signal: impl Fn(u32, &mut Dice) -> Signal,
) -> Corpus {
    let mut dice = Dice(0x0f0e_ba11);
    let mut signals: Vec<_> = (0..points).map(|point| signal(point, &mut dice)).collect();
    let mut readings = Vec::with_capacity(10 * batch);
    for second in 0.. {
        if readings.len() >= 10 * batch {
            break;
        }
        let mut stamp = Stamp::boot(BootTime(0));
        for (point, signal) in (0..).zip(&mut signals) {
            if point % 10 == 0 {
                let late = if jitter { dice.below(2_000) } else { 0 };
                stamp = Stamp::boot(BootTime(
                    86_400_000_000 + second * 1_000_000 + i64::from(point) * 1_700 + late,
                ));
            }
            let value = Some(signal.next(&mut dice));
            readings.push(Reading { point: PointId(point + 1), stamp, value, quality: Quality::Good });
        }
    }
    readings.truncate(10 * batch);
    Corpus { name: name.to_owned(), batch, readings }
}

/// The made-up plants.
pub fn generated() -> Vec<Corpus> {
    let fine = |narrow| move |_, dice: &mut Dice| Signal::Fine { at: dice.below(60) as f64, narrow };
    vec![
        plant("mix, 10 points", 10, 100, true, mixed),
        plant("mix, 100 points", 100, 1_000, true, mixed),
        plant("mix, 50 points", 50, 1_000, true, mixed),
        plant("mix, 50 points", 50, 10_000, true, mixed),
        plant("mix, 500 points", 500, 10_000, true, mixed),
        plant("mix, 50 points, exact seconds", 50, 10_000, false, mixed),
        plant("mix, 500 points, exact seconds", 500, 10_000, false, mixed),
        plant("32-bit floats, 50 points", 50, 10_000, true, fine(true)),
        plant("64-bit floats, 50 points", 50, 10_000, true, fine(false)),
    ]
}

/// The files of the data folder that are there, each as the points of one poll.
pub fn recorded(folder: &Path) -> Vec<Corpus> {
    let number = |word: &str| word.trim().parse::<f64>().ok();
    let comma = |line: &str| line.split(',').skip(1).map(number).collect::<Vec<_>>();
    let csv_from =
        |first: usize| move |line: &str| line.split(',').skip(first).map(number).collect::<Vec<_>>();
    // SURFRAD: eight columns of date and time, then values and flags in turn.
    let blanks = |line: &str| line.split_whitespace().skip(7).map(number).collect::<Vec<_>>();
    [
        read(folder, "nab_machine_temperature_system_failure.csv", 1, 300, comma),
        read(folder, "nab_ambient_temperature_system_failure.csv", 1, 3_600, comma),
        read(folder, "midc_raw_20181018.txt", 1, 60, csv_from(4)),
        read(folder, "surfrad_slv16001.dat", 2, 60, blanks),
    ]
    .into_iter()
    .flatten()
    .flat_map(|corpus| [Corpus { batch: 10_000, ..corpus.clone() }, corpus])
    .collect()
}

fn read(
    folder: &Path,
    file: &str,
    skip: usize,
    seconds: i64,
    parse: impl Fn(&str) -> Vec<Option<f64>>,
) -> Option<Corpus> {
    let text = std::fs::read_to_string(folder.join(file)).ok()?;
    let mut readings = Vec::new();
    let mut width = 1;
    for (row, line) in (0..).zip(text.lines().skip(skip)) {
        let stamp = Stamp::boot(BootTime(86_400_000_000 + row * seconds * 1_000_000));
        let values = parse(line);
        width = width.max(values.len());
        for (point, value) in (1..).zip(values) {
            readings.extend(value.map(|value| Reading {
                point: PointId(point),
                stamp,
                value: Some(Value::Float(value)),
                quality: Quality::Good,
            }));
        }
    }
    // 600 readings of each point in a batch.
    Some(Corpus { name: file.split('.').next()?.chars().take(30).collect(), batch: 600 * width, readings })
}
