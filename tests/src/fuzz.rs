//! Fuzzing of everything that reads bytes from outside: no bytes may cause a panic, a hang, or memory
//! beyond a stated bound.
//!
//! A [`Target`] knows a few valid inputs and feeds bytes to a decoder. [`fuzz`] alters the valid ones
//! from a seed, for as long as it is told; some targets repair checksums behind that, so that damage
//! reaches what lies behind them. Input `n` of a run with seed `S` has the seed `S + n`: `--seed` with
//! the number printed beside a failure and `--inputs 1` plays just that one again. To add a target,
//! write a function in `fuzz/targets.rs` and a line in [`targets::TARGETS`].

mod alter;
mod opcua;
pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::faults::Dice;

/// Longer than this on one input is a hang. Generous: the machines are shared.
const HANG: Duration = Duration::from_secs(2);
/// After so many failures a target has made its point.
const ENOUGH: usize = 10;

/// A decoder, and what it must keep to.
pub struct Target {
    /// Its word on the command line.
    pub name: &'static str,
    /// What bytes it is fed.
    pub about: &'static str,
    /// The most memory that one input may take, bytes.
    pub memory: usize,
    /// Makes the decoder and its valid inputs.
    pub make: fn() -> Made,
}

/// Valid inputs, and what reads them.
pub type Made = (Vec<Vec<u8>>, Reader);

/// Takes one input, altered already; may repair it with the dice. Says whether it was accepted.
pub type Reader = Box<dyn FnMut(&mut Vec<u8>, &mut Dice) -> bool>;

/// How memory is counted: the highest use since `reset`, and the use now, in bytes.
pub trait Memory {
    /// Forgets the highest use.
    fn reset(&self);
    /// The highest use since.
    fn peak(&self) -> usize;
    /// The use now.
    fn current(&self) -> usize;
}

/// When a target has had enough.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so long.
    For(Duration),
    /// After so many inputs.
    Inputs(u64),
}

/// What came of one target.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Inputs fed.
    pub inputs: u64,
    /// Of those, accepted by the decoder.
    pub accepted: u64,
    /// The most memory one took, bytes.
    pub memory: usize,
    /// The longest one took.
    pub slowest: Duration,
    /// What went wrong, with the seed that shows it.
    pub broken: Vec<String>,
}

/// Feeds what `target` made with altered inputs.
pub fn fuzz(target: &Target, made: &mut Made, seed: u64, until: Until, memory: &dyn Memory) -> Outcome {
    let (corpus, read) = made;
    let mut outcome = Outcome::default();
    let begin = Instant::now();
    loop {
        let over = match until {
            Until::For(time) => begin.elapsed() >= time,
            Until::Inputs(most) => outcome.inputs >= most,
        };
        if over || outcome.broken.len() >= ENOUGH {
            return outcome;
        }
        let mut dice = Dice::new(seed.wrapping_add(outcome.inputs));
        let mut input = alter::altered(corpus, &mut dice);
        memory.reset();
        let (before, started) = (memory.current(), Instant::now());
        let accepted = catch_unwind(AssertUnwindSafe(|| read(&mut input, &mut dice)));
        let (took, taken) = (started.elapsed(), memory.peak().saturating_sub(before));
        outcome.inputs += 1;
        outcome.memory = outcome.memory.max(taken);
        outcome.slowest = outcome.slowest.max(took);
        let mut broken = |words: String| outcome.broken.push(format!("seed {}: {words}", dice.seed()));
        if took > HANG {
            broken(format!("it took {took:?}"));
        }
        if taken > target.memory {
            broken(format!("it took {taken} bytes of memory, and {} are the bound", target.memory));
        }
        match accepted {
            Ok(accepted) => outcome.accepted += u64::from(accepted),
            Err(cause) => broken(format!("it panicked: {}", crate::faults::words_of(cause.as_ref()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unknown;
    impl Memory for Unknown {
        fn reset(&self) {}
        fn peak(&self) -> usize {
            7
        }
        fn current(&self) -> usize {
            0
        }
    }

    #[test]
    fn a_panic_and_a_glutton_are_told_with_the_seed_that_shows_them() {
        let make = || -> Made {
            (
                vec![vec![0; 8]],
                Box::new(|_, dice| {
                    assert_ne!(dice.seed(), 42, "for example");
                    true
                }),
            )
        };
        let mut target = Target { name: "t", about: "", memory: 7, make };
        let outcome = fuzz(&target, &mut make(), 40, Until::Inputs(5), &Unknown);
        assert_eq!((outcome.inputs, outcome.accepted), (5, 4));
        assert!(outcome.broken[0].starts_with("seed 42: it panicked: assertion"), "{outcome:?}");
        target.memory = 6;
        let outcome = fuzz(&target, &mut make(), 50, Until::Inputs(3), &Unknown);
        assert!(outcome.broken.iter().all(|words| words.contains("7 bytes of memory")), "{outcome:?}");
        assert_eq!(outcome.broken.len(), 3);
    }

    #[test]
    fn every_target_accepts_what_is_valid_and_keeps_to_its_word_for_a_few_inputs() {
        for target in targets::TARGETS {
            let mut made = (target.make)();
            let (corpus, read) = &mut made;
            for input in corpus {
                let mut fixed = Dice::new(1);
                assert!(read(&mut input.clone(), &mut fixed), "{}: a valid input is refused", target.name);
            }
            let outcome = fuzz(target, &mut made, 1, Until::Inputs(300), &Unknown);
            assert_eq!(outcome.broken, [] as [String; 0], "{}", target.name);
        }
    }
}
