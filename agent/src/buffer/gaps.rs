//! The gap records of an epoch, as many as a gateway can keep. Pure.

use std::collections::BTreeMap;

use forebay_protocols::sync::wire::gap::Reason;
use forebay_protocols::sync::wire::{Gap, GapEnd};

/// More are not kept: the oldest goes, and a server that never heard of it will not.
pub const MOST: usize = 4096;

/// Numbered 1, 2, 3 …
#[derive(Debug, Default)]
pub struct Gaps {
    known: BTreeMap<u64, Gap>,
    last: u64,
    /// Up to here somebody may have read them: they are not changed any more.
    shown: u64,
    /// The last ones that say the buffer had no room, by reason, as long as they may grow.
    open: BTreeMap<i32, u64>,
}

impl Gaps {
    /// Those of an earlier run; `next` is the lowest number that was never given.
    pub fn new(mut known: BTreeMap<u64, Gap>, next: u64) -> Self {
        let last = known.keys().next_back().copied().unwrap_or(0).max(next.saturating_sub(1));
        while known.len() > MOST {
            known.pop_first();
        }
        Self { known, last, shown: last, open: BTreeMap::new() }
    }

    /// Numbers a gap and keeps it. A buffer that overflows for a month makes one record, not
    /// thousands: as long as nobody read it, a gap for want of room grows instead.
    pub fn record(&mut self, mut gap: Gap) -> Gap {
        let grows = matches!(gap.reason(), Reason::BufferFull | Reason::Thinned);
        if grows
            && let Some(open) = self.open.get(&gap.reason).filter(|number| **number > self.shown)
            && let Some(earlier) = self.known.get_mut(open)
        {
            grow(earlier, &gap);
            return earlier.clone();
        }
        self.last += 1;
        gap.number = self.last;
        if grows {
            self.open.insert(gap.reason, gap.number);
        }
        self.known.insert(gap.number, gap.clone());
        if self.known.len() > MOST {
            self.known.pop_first();
        }
        gap
    }

    /// Those numbered > `after`, at most `most`.
    pub fn after(&mut self, after: u64, most: usize) -> Vec<Gap> {
        let gaps: Vec<_> =
            self.known.range(after.saturating_add(1)..).take(most).map(|(_, gap)| gap.clone()).collect();
        self.shown = self.shown.max(gaps.last().map_or(0, |gap| gap.number));
        gaps
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.known.values()
    }

    /// The lowest number kept.
    pub fn lowest(&self) -> u64 {
        self.known.keys().next().copied().unwrap_or(0)
    }

    /// The number the next one gets.
    pub fn next(&self) -> u64 {
        self.last + 1
    }
}

/// What goes for want of room goes from the oldest to the newest. Ends of different boots cannot be
/// compared before their clocks are known; their order is then that of the boots.
fn grow(earlier: &mut Gap, gap: &Gap) {
    let key = |end: &Option<GapEnd>, at: i64| (end.as_ref().map_or(0, |end| end.boot), at);
    if key(&gap.start, gap.from_us) < key(&earlier.start, earlier.from_us) {
        (earlier.from_us, earlier.start) = (gap.from_us, gap.start);
    }
    if key(&gap.end, gap.to_us) > key(&earlier.end, earlier.to_us) {
        (earlier.to_us, earlier.end) = (gap.to_us, gap.end);
    }
    earlier.count += gap.count;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(from_us: i64, to_us: i64, count: u64) -> Gap {
        Gap { from_us, to_us, count, reason: Reason::BufferFull as i32, ..Gap::default() }
    }

    #[test]
    fn a_gap_grows_until_somebody_has_read_it() {
        let mut gaps = Gaps::default();
        gaps.record(full(10, 20, 5));
        gaps.record(Gap { reason: Reason::DeviceSilent as i32, ..Gap::default() });
        let grown = gaps.record(full(20, 30, 7));
        assert_eq!((grown.number, grown.from_us, grown.to_us, grown.count), (1, 10, 30, 12));
        assert_eq!(gaps.after(0, 1), vec![grown]);
        assert_eq!(gaps.record(full(30, 40, 1)).number, 3, "the server may know number 1 already");
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_the_oldest_gives_way() {
        let mut gaps = Gaps::new(BTreeMap::new(), 8);
        for _ in 0..MOST + 2 {
            gaps.record(Gap::default());
        }
        assert_eq!((gaps.lowest(), gaps.iter().count()), (10, MOST));
        assert_eq!(gaps.next(), 8 + MOST as u64 + 2);
    }
}
