//! Puts readings in the order of a batch: by point, then clock and time; readings of the same
//! moment keep the order in which they came.
//!
//! A batcher hands over polls, one after the other: every point's readings are in order already and
//! only interleaved. So we deal them out by point (two passes, no comparison) and sort by time only
//! the points that need it, which is several times quicker than a comparison sort.

use crate::reading::{PointId, Reading};

/// Scratch space of [`Order::sort`], kept from batch to batch.
#[derive(Default)]
pub(super) struct Order {
    /// Where the next reading of each point goes.
    next: Vec<u32>,
    /// For each place, the reading that belongs there.
    source: Vec<u32>,
}

impl Order {
    /// Sorts stably, in place.
    pub fn sort(&mut self, readings: &mut [Reading]) {
        if readings.is_sorted_by_key(key) {
            return;
        }
        let (lowest, highest) = readings.iter().fold((u32::MAX, 0), |(low, high), reading| {
            (low.min(reading.point.0), high.max(reading.point.0))
        });
        let width = (highest - lowest) as usize;
        // A table over point numbers must not be much larger than the batch.
        if width > 4 * readings.len() + 1024 || u32::try_from(readings.len()).is_err() {
            readings.sort_by_key(key);
            return;
        }
        self.deal(readings, lowest, width);
        self.mend_times(readings);
        self.apply(readings);
    }

    fn deal(&mut self, readings: &[Reading], lowest: u32, width: usize) {
        let slot = |point: PointId| (point.0 - lowest) as usize;
        self.next.clear();
        self.next.resize(width + 2, 0);
        for reading in readings {
            self.next[slot(reading.point) + 1] += 1;
        }
        for point in 1..self.next.len() {
            self.next[point] += self.next[point - 1];
        }
        self.source.clear();
        self.source.resize(readings.len(), 0);
        for (index, reading) in readings.iter().enumerate() {
            let next = &mut self.next[slot(reading.point)];
            self.source[*next as usize] = index as u32;
            *next += 1;
        }
    }

    fn mend_times(&mut self, readings: &[Reading]) {
        let reading = |index: &u32| &readings[*index as usize];
        for series in self.source.chunk_by_mut(|a, b| reading(a).point == reading(b).point) {
            if !series.is_sorted_by_key(|index| reading(index).stamp) {
                series.sort_by_key(|index| reading(index).stamp);
            }
        }
    }

    /// Moves every reading once or twice, along the cycles of the permutation.
    fn apply(&mut self, readings: &mut [Reading]) {
        for start in 0..self.source.len() {
            let mut place = start;
            loop {
                let source = self.source[place] as usize;
                self.source[place] = place as u32;
                if source == start {
                    break;
                }
                readings.swap(place, source);
                place = source;
            }
        }
    }
}

fn key(reading: &Reading) -> (PointId, crate::reading::Stamp) {
    (reading.point, reading.stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Quality, Stamp, Value};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_stable_comparison_sort(
            drawn in prop::collection::vec((prop_oneof![1u32..9, any::<u32>()], any::<bool>(), -3i64..3), 0..200),
            dense in any::<bool>(),
        ) {
            let mut readings: Vec<Reading> = drawn
                .into_iter()
                .enumerate()
                .map(|(index, (point, device, micros))| Reading {
                    point: PointId(if dense { point % 9 } else { point }),
                    stamp: if device { Stamp::device(micros) } else { Stamp { micros, ..Stamp::now() } },
                    value: Some(Value::Integer(index as i64)),
                    quality: Quality::Good,
                })
                .collect();
            let mut expected = readings.clone();
            expected.sort_by_key(key);
            Order::default().sort(&mut readings);
            prop_assert_eq!(readings, expected);
        }
    }
}
