//! How long batches of the backlog have waited, by the moments of the appends of the last minute. Pure.
//! What waits longer, or since before the buffer was opened, is old, and how old its own times tell.

use std::collections::VecDeque;
use std::time::Duration;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::sync::batch::Sequence;

/// Older batches are just old.
const OLD: Duration = Duration::from_secs(60);
/// Appends nearer to each other are one, of the first one's moment; so there are 240 moments at the most.
const TOGETHER: Duration = Duration::from_millis(250);

/// The moments of recent appends.
#[derive(Debug, Default)]
pub struct Ages {
    /// Batches below are old.
    from: u64,
    /// The sequence behind the last batch of an append, and its moment; ascending, without gaps.
    moments: VecDeque<(u64, BootTime)>,
}

impl Ages {
    /// Batches below `next` are old.
    pub fn new(next: Sequence) -> Self {
        Self { from: next.0, moments: VecDeque::new() }
    }

    /// Batches were appended `now`; `next` is the sequence behind them. Without a new one nothing changes.
    pub fn appended(&mut self, next: Sequence, now: BootTime) {
        while let Some((end, _)) = self.moments.front().filter(|(_, at)| now.since(*at) >= OLD) {
            self.from = *end;
            self.moments.pop_front();
        }
        match self.moments.back_mut() {
            Some((end, at)) if next.0 <= *end || now.since(*at) < TOGETHER => *end = next.0.max(*end),
            None if next.0 <= self.from => {}
            _ => self.moments.push_back((next.0, now)),
        }
    }

    /// How long the batch has waited; `None` if it is old, or unknown.
    pub fn of(&self, batch: Sequence, now: BootTime) -> Option<Duration> {
        let place = self.moments.partition_point(|(end, _)| *end <= batch.0);
        let (_, at) = self.moments.get(place).filter(|_| batch.0 >= self.from)?;
        Some(now.since(*at)).filter(|age| *age < OLD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> BootTime {
        BootTime(milliseconds * 1_000)
    }

    fn seconds(ages: &Ages, batch: u64, now: BootTime) -> Option<f64> {
        ages.of(Sequence(batch), now).map(|age| age.as_secs_f64())
    }

    #[test]
    fn a_batch_is_as_old_as_its_append() {
        let mut ages = Ages::new(Sequence(5));
        assert_eq!(seconds(&ages, 4, at(0)), None, "it was there at the start");
        ages.appended(Sequence(6), at(0));
        ages.appended(Sequence(9), at(1_000));
        let told = [4, 5, 6, 8, 9].map(|batch| seconds(&ages, batch, at(3_500)));
        assert_eq!(told, [None, Some(3.5), Some(2.5), Some(2.5), None]);
    }

    #[test]
    fn a_refused_append_has_no_age() {
        let mut ages = Ages::new(Sequence(5));
        ages.appended(Sequence(5), at(0));
        ages.appended(Sequence(6), at(2_000));
        ages.appended(Sequence(6), at(4_000));
        assert_eq!(seconds(&ages, 5, at(5_000)), Some(3.0));
    }

    #[test]
    fn after_a_minute_a_batch_is_old_whatever_comes_behind_it() {
        let mut ages = Ages::new(Sequence(1));
        ages.appended(Sequence(2), at(0));
        assert_eq!(seconds(&ages, 1, at(59_000)), Some(59.0));
        assert_eq!(seconds(&ages, 1, at(60_000)), None);
        ages.appended(Sequence(3), at(61_000));
        assert_eq!(seconds(&ages, 1, at(61_000)), None, "it does not take the next one's age");
        assert_eq!(seconds(&ages, 2, at(62_000)), Some(1.0));
    }

    #[test]
    fn many_appends_take_little_memory_and_no_batch_looks_younger_than_it_is() {
        let mut ages = Ages::new(Sequence(1));
        for batch in 1..=100_000_u64 {
            ages.appended(Sequence(batch + 1), at(batch as i64));
        }
        assert!(ages.moments.len() <= 240, "{}", ages.moments.len());
        let now = at(100_001);
        for batch in (40_500..=100_000).step_by(77) {
            let (true_age, told) = ((100_001 - batch) as f64 / 1e3, seconds(&ages, batch, now).unwrap());
            assert!((true_age..true_age + 0.25).contains(&told), "{batch}: {told}, and not {true_age}");
        }
        assert_eq!(seconds(&ages, 39_000, now), None);
    }
}
