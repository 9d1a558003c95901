//! What happens to samples between the driver and the batcher. Pure.
//!
//! Scale and offset are the drivers' (they know the raw type). For now every sample passes;
//! whatever is left out one day is counted here, so that the ledger closes.

use forebay_protocols::field::source::Sample;

/// Samples that go on, and how many do not.
#[derive(Debug, Default, PartialEq)]
pub struct Processed {
    /// What the batcher gets.
    pub samples: Vec<Sample>,
    /// Taken from the field, before processing.
    pub produced: u64,
    /// Left out on purpose.
    pub filtered: u64,
    /// Of a point the source does not have: a fault of the driver, never of the plant.
    pub misplaced: u64,
}

/// Passes what one harvest brought. `points` is how many points the source has by now.
pub fn process(mut samples: Vec<Sample>, points: usize) -> Processed {
    let arrived = samples.len();
    samples.retain(|sample| sample.slot < points);
    let produced = samples.len() as u64;
    Processed { misplaced: arrived as u64 - produced, produced, filtered: 0, samples }
}

#[cfg(test)]
mod tests {
    use forebay_protocols::reading::{Quality, Stamp, Value};

    use super::*;

    fn sample(slot: usize) -> Sample {
        Sample { slot, stamp: Stamp::device(1), value: Some(Value::Integer(1)), quality: Quality::Good }
    }

    #[test]
    fn every_sample_passes_and_is_counted() {
        let processed = process(vec![sample(0), sample(1), sample(0)], 2);
        assert_eq!((processed.samples.len(), processed.produced, processed.filtered), (3, 3, 0));
    }

    #[test]
    fn a_sample_of_no_point_is_no_reading() {
        let processed = process(vec![sample(0), sample(2)], 2);
        assert_eq!((processed.samples, processed.produced, processed.misplaced), (vec![sample(0)], 1, 1));
    }
}
