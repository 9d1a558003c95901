//! When every boot really was, from what the logbook remembers of them. Pure.
//!
//! A boot that learnt the time is where it says. The others lie between those, in their order, and
//! never over each other. How long the power was off between two boots is taken from what the
//! system's clock showed before and after, where that clock can have kept running; where it fell
//! back (1970 at each start, a stale saved time) the earlier boot is laid against the later one.
//! Both are guesses within known limits, and the limits are told with them.

use std::ops::Range;

use crate::buffer::BootKnown;

/// Two clocks that agree to this are one clock; less is measurement.
const SLACK_US: i64 = 1_000_000;
/// The boot clock drifts by one part in so many, 100 ppm, if its crystal is a bad one.
pub(super) const CRYSTAL: i64 = 10_000;
/// A battery clock may have drifted this far while the power was off.
const DRIFT_US: i64 = 60_000_000;

/// A boot and its place in wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solved {
    /// Its number.
    pub counter: u64,
    /// First 8 bytes of the kernel's boot id.
    pub id: [u8; 8],
    /// Microseconds to add to its boot time for wall time.
    pub offset_us: i64,
    /// How sure that is.
    pub sure: Sure,
}

/// How sure an offset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sure {
    /// The boot learnt the time.
    Exact,
    /// It lies between its neighbours, so that the true offset is one of these.
    Bracketed {
        /// The lowest possible one.
        earliest_us: i64,
        /// The highest possible one.
        latest_us: i64,
    },
    /// No boot ever learnt the time: this is what the gateway believed.
    Believed,
}

/// Where `boots`, ascending, lie. None began before `possible`, and none after it.
pub fn solve(boots: &[BootKnown], possible: Range<i64>) -> Vec<Solved> {
    let anchors = anchors(boots);
    let mut solved: Vec<Solved> = boots
        .iter()
        .map(|boot| Solved {
            counter: boot.counter,
            id: boot.id,
            offset_us: boot.believed_offset_us,
            sure: Sure::Believed,
        })
        .collect();
    for &(place, offset_us) in &anchors {
        solved[place] = Solved { offset_us, sure: Sure::Exact, ..solved[place] };
    }
    let mut begun: Option<usize> = None;
    for &(place, _) in &anchors {
        lay_between(boots, &mut solved, begun, place, possible.start);
        begun = Some(place);
    }
    if let Some(last) = begun {
        lay_behind(boots, &mut solved, last, possible.end);
    }
    solved
}

/// When the last of `boots`, ascending, began at the earliest: after those that a server told the
/// time, by as much as the boots since then were up.
pub fn earliest_start(boots: &[BootKnown]) -> Option<i64> {
    let (_, earlier) = boots.split_last()?;
    earlier.iter().fold(None, |ended: Option<i64>, boot| {
        let told = boot.learnt_offset_us.max(ended);
        told.map(|began| began.saturating_add(length(boot)))
    })
}

/// The boots whose offset is known. What a server told counts. A clock that only claimed to be
/// synchronised counts where it does not contradict a later boot, or an earlier one that was told, or
/// how long those between them were up.
fn anchors(boots: &[BootKnown]) -> Vec<(usize, i64)> {
    let mut told_until: Option<i64> = None;
    let credible: Vec<bool> = boots
        .iter()
        .map(|boot| match boot.learnt_offset_us {
            Some(offset) => {
                told_until = Some(offset.saturating_add(length(boot)).saturating_sub(slack(boot)));
                true
            }
            None => {
                // What it believes is its start by the clock at its end.
                let latest = boot.believed_offset_us.saturating_add(slack(boot));
                let is_credible = boot.synchronised && told_until.is_none_or(|end| latest >= end);
                let at_least = length(boot).saturating_sub(length(boot) / CRYSTAL);
                told_until = told_until.map(|end| end.saturating_add(at_least));
                is_credible
            }
        })
        .collect();
    let mut next_start = i64::MAX;
    let mut anchors = Vec::new();
    for (place, boot) in boots.iter().enumerate().rev() {
        let offset = boot.learnt_offset_us.unwrap_or(boot.believed_offset_us);
        // What it believes may be of long before its end.
        let at_least = length(boot).saturating_sub(length(boot) / CRYSTAL);
        let fits = offset.saturating_add(at_least) <= next_start;
        if boot.learnt_offset_us.is_some() || (credible[place] && fits) {
            anchors.push((place, offset));
            next_start = offset.saturating_add(slack(boot));
        } else if next_start < i64::MAX {
            next_start = next_start.saturating_sub(at_least);
        }
    }
    anchors.reverse();
    anchors
}

/// Lays the boots between two known ones, or before the first, from the later end backwards.
fn lay_between(
    boots: &[BootKnown],
    solved: &mut [Solved],
    before: Option<usize>,
    after: usize,
    earliest_us: i64,
) {
    let first = before.map_or(0, |before| before + 1);
    let floor = before.map_or(earliest_us, |before| end(&solved[before], &boots[before]));
    let ran = boots[first..after].iter().map(length).fold(0, i64::saturating_add);
    // Nothing is left where the known ones contradict each other by a little.
    let room = solved[after].offset_us.saturating_sub(floor).saturating_sub(ran).max(0);
    let (mut left, mut next_start, mut latest_us) = (room, solved[after].offset_us, solved[after].offset_us);
    for place in (first..after).rev() {
        let ran = length(&boots[place]);
        let off = believed_off(&boots[place], &boots[place + 1], left);
        left -= off;
        latest_us = latest_us.saturating_sub(ran);
        next_start = next_start.saturating_sub(off).saturating_sub(ran);
        let sure = Sure::Bracketed { earliest_us: latest_us.saturating_sub(room), latest_us };
        solved[place] = Solved { offset_us: next_start, sure, ..solved[place] };
    }
}

/// Lays the boots behind the last known one, forwards.
fn lay_behind(boots: &[BootKnown], solved: &mut [Solved], last: usize, latest_us: i64) {
    let mut earliest_us = end(&solved[last], &boots[last]);
    let mut start = earliest_us;
    for place in last + 1..boots.len() {
        let room = latest_us.saturating_sub(start).max(0);
        start = start.saturating_add(believed_off(&boots[place - 1], &boots[place], room));
        let sure = Sure::Bracketed { earliest_us, latest_us: latest_us.max(earliest_us) };
        solved[place] = Solved { offset_us: start, sure, ..solved[place] };
        let ran = length(&boots[place]);
        (start, earliest_us) = (start.saturating_add(ran), earliest_us.saturating_add(ran));
    }
}

/// How long the power was off between two boots by the system's clock; 0 where that clock cannot
/// have kept running, or says more than there is room for.
fn believed_off(earlier: &BootKnown, later: &BootKnown, room: i64) -> i64 {
    let never_set = !later.synchronised && later.learnt_offset_us.is_none();
    let Some(begins) = later.first_offset_us.or(never_set.then_some(later.believed_offset_us)) else {
        return 0;
    };
    // What a boot believed at its end need not be what the system's clock showed: the server's time
    // sets no clock, and a clock set by hand may be forgotten with the power. The line that leads to
    // the shorter pause is the one that went on.
    let lines = [Some(earlier.believed_offset_us), earlier.first_offset_us];
    let off = lines
        .into_iter()
        .flatten()
        .map(|offset| begins.saturating_sub(offset).saturating_sub(length(earlier)))
        .filter(|off| *off >= 0)
        .min();
    off.filter(|off| *off <= room.saturating_add(DRIFT_US)).map_or(0, |off| off.min(room))
}

/// How far off the start or the end of a boot may be whose offset is known: it was told at the other
/// end perhaps, and the crystal has drifted since.
fn slack(boot: &BootKnown) -> i64 {
    SLACK_US.saturating_add(length(boot) / CRYSTAL)
}

fn length(boot: &BootKnown) -> i64 {
    boot.last_us.max(0)
}

fn end(solved: &Solved, boot: &BootKnown) -> i64 {
    solved.offset_us.saturating_add(length(boot))
}

#[cfg(test)]
mod tests;
