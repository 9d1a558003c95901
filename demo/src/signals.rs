//! What a plant would measure: signals as pure functions of the time since the plant started, so
//! that a test knows what to expect and a demo looks alive.

use std::ops::RangeInclusive;
use std::time::Duration;

/// One measured quantity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Signal {
    /// Swings around a mean with noise on top, rounded to 0.1 as a real sensor would: a temperature.
    Wave {
        /// The middle.
        mean: f64,
        /// How far it swings to either side.
        swing: f64,
        /// How long a full swing takes.
        period: Duration,
        /// The most the noise adds or takes.
        noise: f64,
    },
    /// Counts up in whole steps: an energy meter.
    Counter {
        /// The count at the start.
        start: f64,
        /// Steps a second.
        rate: f64,
    },
    /// Holds one level after the other: a setpoint, an operating mode.
    Setpoint {
        /// The levels, in turn.
        levels: &'static [f64],
        /// How long each is held.
        hold: Duration,
    },
    /// On (1) and off (0) in turn: a valve.
    Switch {
        /// How long it is on.
        on: Duration,
        /// How long it is off.
        off: Duration,
    },
}

impl Signal {
    /// The value so long after the start. `seed` makes two plants of the same kind differ; the
    /// same seed and time always give the same value.
    pub fn at(&self, seed: u64, elapsed: Duration) -> f64 {
        // Plants that differ in their seed are at different places of the same curve.
        let shift = unit_noise(seed, 0).mul_add(0.5, 0.5);
        match *self {
            Self::Wave { mean, swing, period, noise } => {
                let turns = elapsed.as_secs_f64() / period.as_secs_f64().max(0.001) + shift;
                let wobble = unit_noise(seed, elapsed.as_millis() as u64 / 100 + 1);
                let value = mean + swing * (turns * std::f64::consts::TAU).sin() + noise * wobble;
                (value * 10.0).round() / 10.0
            }
            Self::Counter { start, rate } => (start + rate * elapsed.as_secs_f64()).floor(),
            Self::Setpoint { levels, hold } => {
                let step = (elapsed.as_secs_f64() / hold.as_secs_f64().max(0.001)) as usize;
                levels.get(step % levels.len().max(1)).copied().unwrap_or(0.0)
            }
            Self::Switch { on, off } => {
                let cycle = (on + off).as_secs_f64().max(0.001);
                let place = (elapsed.as_secs_f64() + shift * cycle) % cycle;
                f64::from(u8::from(place < on.as_secs_f64()))
            }
        }
    }

    /// Where all values lie, whatever the time.
    pub fn range(&self) -> RangeInclusive<f64> {
        match *self {
            Self::Wave { mean, swing, noise, .. } => {
                let reach = swing.abs() + noise.abs() + 0.05;
                mean - reach..=mean + reach
            }
            Self::Counter { start, rate } if rate >= 0.0 => start.floor()..=f64::INFINITY,
            Self::Counter { start, .. } => f64::NEG_INFINITY..=start,
            Self::Setpoint { levels, .. } => {
                let lowest = levels.iter().copied().fold(f64::INFINITY, f64::min);
                let highest = levels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                lowest.min(highest)..=highest.max(lowest)
            }
            Self::Switch { .. } => 0.0..=1.0,
        }
    }
}

/// Noise between -1 and 1 that depends on nothing but its arguments (SplitMix64).
fn unit_noise(seed: u64, tick: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ tick.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const ALL: [Signal; 4] = [
        Signal::Wave { mean: 70.0, swing: 8.0, period: Duration::from_secs(600), noise: 0.3 },
        Signal::Counter { start: 1_000.0, rate: 2.5 },
        Signal::Setpoint { levels: &[60.0, 65.0, 70.0], hold: Duration::from_secs(30) },
        Signal::Switch { on: Duration::from_secs(20), off: Duration::from_secs(40) },
    ];

    #[test]
    fn every_value_lies_in_its_range_and_repeats_for_the_same_time() {
        for signal in ALL {
            for n in 0..5_000u32 {
                let elapsed = SECOND * n / 7;
                let value = signal.at(3, elapsed);
                assert!(signal.range().contains(&value), "{signal:?} gave {value}");
                assert_eq!(value, signal.at(3, elapsed));
            }
        }
    }

    #[test]
    fn waves_are_rounded_and_move() {
        let values: Vec<f64> = (0..600).map(|n| ALL[0].at(1, SECOND * n)).collect();
        assert!(values.iter().all(|v| ((v * 10.0).round() / 10.0 - v).abs() == 0.0));
        assert!(values.iter().any(|&v| v > 75.0) && values.iter().any(|&v| v < 65.0));
    }

    #[test]
    fn counters_never_go_back() {
        let values: Vec<f64> = (0..100).map(|n| ALL[1].at(1, SECOND * n / 3)).collect();
        assert!(values.windows(2).all(|w| w[0] <= w[1]));
        assert_eq!(values[99], 1_082.0);
    }

    #[test]
    fn switches_are_on_for_their_share_of_the_time() {
        let on = (0..600).filter(|n| ALL[3].at(9, SECOND * *n) == 1.0).count();
        assert_eq!(on, 200);
    }

    #[test]
    fn plants_differ_by_their_seed() {
        let at = |seed| ALL[0].at(seed, SECOND * 10);
        assert!((1..20).any(|seed| at(seed) != at(0)));
    }
}
