//! The fault suite: random trouble against the real thing, and a tally that must be all zeros.
//!
//! A [`Family`] is one kind of trouble, in a file of its own below `faults/`; to add one, write
//! `fn run(order: &Order) -> Tally` and a line in [`FAMILIES`]. Most of it is [`Order::each`]: it
//! plays scenarios on all cores until enough faults are injected, gives each a [`Dice`] with a seed
//! of its own, and turns a panic into a broken promise. Scenario `n` of a run with seed `S` has the
//! seed `S + n`, so `--seed` with the number printed beside a failure and `--rounds 1` plays just
//! that one again.

mod catalogue;
mod clock;
mod damage;
mod device;
mod dice;
mod full;
mod identity;
pub mod network;
mod plant;
mod power;
mod renewal;
mod report;
mod shelf;
mod witness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::device::append_until_killed;
pub use self::dice::Dice;
pub use self::report::{Row, report};

/// One kind of trouble.
pub struct Family {
    /// Its word on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Faults it injects when nobody says how many.
    pub rounds: u64,
    /// Part of `all`? What needs a privilege is not.
    pub in_all: bool,
    /// Injects that many faults, or a few more.
    pub run: fn(&Order) -> Tally,
}

/// Every family there is.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "power",
        about: "the power goes off at every operation; what was not synced is dropped, torn, reordered",
        rounds: 20_000,
        in_all: true,
        run: power::run,
    },
    Family {
        name: "catalogue",
        about: "sled's own files cut, flipped, swapped for older ones, mixed from two moments",
        rounds: 600,
        in_all: true,
        run: catalogue::run,
    },
    Family {
        name: "damage",
        about: "segments and logbook flipped, cut, deleted, zeroed, swapped, mixed with another epoch",
        rounds: 2_000,
        in_all: true,
        run: damage::run,
    },
    Family {
        name: "full",
        about: "full disks, disks that turn read-only, and I/O errors at any operation",
        rounds: 10_000,
        in_all: true,
        run: full::run,
    },
    Family {
        name: "clock",
        about: "clocks in 1970, ten years ahead, set by hand, drifting; boots, restarts, suspend, late contact",
        rounds: 20_000,
        in_all: true,
        run: clock::run,
    },
    Family {
        name: "identity",
        about: "buffers copied, restored, wiped; a server put back to yesterday; answers lost, requests repeated",
        rounds: 2_000,
        in_all: true,
        run: identity::run,
    },
    Family {
        name: "renewal",
        about: "certificates renewed, the power cut at every file operation; CAs that change, operations that fail",
        rounds: 7_000,
        in_all: true,
        run: renewal::run,
    },
    Family {
        name: "network",
        about: "roads that cut, stall, swallow and repeat; servers and databases that break around COMMIT",
        rounds: 3_000,
        in_all: true,
        run: network::family,
    },
    Family {
        name: "device",
        about: "a real file system on a block device whose power goes off (root, loop device)",
        rounds: 20,
        in_all: false,
        run: device::run,
    },
];

/// What a family is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Seed of the first scenario.
    pub seed: u64,
    /// Faults to inject.
    pub rounds: u64,
}

/// What came of it. Every number below `produced` must be zero.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Faults injected.
    pub faults: u64,
    /// Readings whose append was confirmed.
    pub produced: u64,
    /// Of those, gone or altered though nothing explains it.
    pub lost: u64,
    /// Of those, there twice, or under a sequence given twice.
    pub twice: u64,
    /// Stores that did not open.
    pub unopened: u64,
    /// Readings by which books and gap records are off.
    pub unaccounted: u64,
    /// Other promises broken.
    pub other: u64,
    /// What was broken, with the seed that shows it: the first few.
    pub broken: Vec<String>,
    /// Why nothing could be tried, if so.
    pub skipped: Option<String>,
    /// The longest that opening took.
    pub slowest_opening: Duration,
    /// Things worth knowing that are no promise.
    pub notes: Vec<String>,
}

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub enum Broken {
    /// Readings lost.
    Lost(u64, String),
    /// Readings there twice.
    Twice(u64, String),
    /// A store did not open.
    Unopened(String),
    /// Readings that no book explains.
    Unaccounted(u64, String),
    /// Anything else.
    Other(String),
}

/// So many failures are told in words.
const TOLD: usize = 10;
/// After so many failures a family has made its point.
const ENOUGH: u64 = 200;

impl Order {
    /// Plays scenarios until enough faults are injected.
    pub fn each(&self, scenario: impl Fn(&mut Dice) -> Tally + Sync) -> Tally {
        let sum = Mutex::new(Tally::default());
        let (next, enough) = (AtomicU64::new(0), AtomicBool::new(self.rounds == 0));
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let work = || {
            while !enough.load(Ordering::Relaxed) {
                let mut dice = Dice::new(self.seed.wrapping_add(next.fetch_add(1, Ordering::Relaxed)));
                let seed = dice.seed();
                let mut tally =
                    catch_unwind(AssertUnwindSafe(|| scenario(&mut dice))).unwrap_or_else(|cause| {
                        let mut tally = Tally { faults: 1, ..Tally::default() };
                        tally.add(Broken::Other(format!("panicked: {}", words_of(cause.as_ref()))));
                        tally
                    });
                tally.broken.iter_mut().for_each(|words| *words = format!("seed {seed}: {words}"));
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                sum.take_in(tally);
                if sum.faults >= self.rounds || sum.failures() >= ENOUGH || sum.skipped.is_some() {
                    enough.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
        sum.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// Counts in a broken promise.
    pub fn add(&mut self, broken: Broken) {
        let words = match broken {
            Broken::Lost(readings, words) => {
                self.lost += readings.max(1);
                format!("{readings} readings lost: {words}")
            }
            Broken::Twice(readings, words) => {
                self.twice += readings.max(1);
                format!("{readings} readings twice: {words}")
            }
            Broken::Unopened(words) => {
                self.unopened += 1;
                format!("not opened: {words}")
            }
            Broken::Unaccounted(readings, words) => {
                self.unaccounted += readings.max(1);
                format!("{readings} readings unaccounted: {words}")
            }
            Broken::Other(words) => {
                self.other += 1;
                words
            }
        };
        if self.broken.len() < TOLD {
            self.broken.push(words);
        }
    }

    /// Adds up two.
    pub fn take_in(&mut self, more: Self) {
        self.faults += more.faults;
        self.produced += more.produced;
        self.lost += more.lost;
        self.twice += more.twice;
        self.unopened += more.unopened;
        self.unaccounted += more.unaccounted;
        self.other += more.other;
        self.broken.extend(more.broken);
        self.broken.truncate(TOLD);
        self.skipped = self.skipped.take().or(more.skipped);
        self.slowest_opening = self.slowest_opening.max(more.slowest_opening);
        self.notes.extend(more.notes);
    }

    /// Everything that must be zero.
    pub fn failures(&self) -> u64 {
        self.lost + self.twice + self.unopened + self.unaccounted + self.other
    }
}

impl Family {
    /// Runs it, with the clock on.
    pub fn run(&self, seed: u64, rounds: Option<u64>) -> Row {
        let started = Instant::now();
        let tally = (self.run)(&Order { seed, rounds: rounds.unwrap_or(self.rounds) });
        Row { family: self.name, seed, tally, took: started.elapsed() }
    }
}

/// The words of a panic.
pub(crate) fn words_of(cause: &(dyn std::any::Any + Send)) -> &str {
    let owned = cause.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_seed_that_plays_it_again() {
        let unlucky = |dice: &mut Dice| {
            let mut tally = Tally { faults: 1, ..Tally::default() };
            if dice.seed() == 42 {
                tally.add(Broken::Lost(7, "for example".into()));
            }
            assert_ne!(dice.seed(), 43, "for example");
            tally
        };
        let tally = Order { seed: 40, rounds: 10 }.each(unlucky);
        assert_eq!((tally.lost, tally.other, tally.failures()), (7, 1, 8));
        assert!(
            tally.broken.iter().any(|words| words == "seed 42: 7 readings lost: for example"),
            "{tally:?}"
        );
        assert!(tally.broken.iter().any(|words| words.starts_with("seed 43: panicked")), "{tally:?}");
        assert_eq!(
            Order { seed: 42, rounds: 1 }
                .each(|dice| {
                    let mut tally = unlucky(dice);
                    tally.faults = 10;
                    tally
                })
                .lost,
            7
        );
    }

    #[test]
    fn every_family_keeps_its_promises_for_a_few_rounds() {
        for family in
            FAMILIES.iter().filter(|family| family.in_all && !["damage", "network"].contains(&family.name))
        {
            let row = family.run(1, Some(20));
            assert_eq!(row.tally.failures(), 0, "{}: {:?}", family.name, row.tally.broken);
            assert!(row.tally.faults >= 20 && row.tally.produced > 0, "{}: {:?}", family.name, row.tally);
        }
    }
}
