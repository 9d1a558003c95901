//! Random numbers from a seed: the same seed throws the same numbers on every machine, so that what
//! a test did can be done again.

use std::ops::Range;
use std::time::Duration;

/// Throws numbers. Cheap to make and to copy into parts.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that begin at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice for part `number` of the same game: what one part throws does not change another's.
    pub fn part(&self, number: u64) -> Self {
        let mut first = Self(self.0 ^ number.wrapping_mul(0x9FB2_1C65_1E98_DF25));
        Self(first.throw())
    }

    /// Any number: SplitMix64 (Steele, Lea, Flood 2014).
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number of the range; its start if the range is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        range.start + self.throw() % width
    }

    /// Yes, so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.within(0..100) < chance
    }

    /// So many milliseconds.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// One of several; `None` if there are none.
    pub fn one_of<'a, T>(&mut self, these: &'a [T]) -> Option<&'a T> {
        these.get(self.within(0..these.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_numbers_and_parts_do_not_disturb_each_other() {
        let throws = |mut dice: Dice| [dice.throw(), dice.throw(), dice.throw()];
        assert_eq!(throws(Dice::new(7)), throws(Dice::new(7)));
        assert_ne!(throws(Dice::new(7)), throws(Dice::new(8)));
        let game = Dice::new(7);
        let second = throws(game.part(2));
        let mut first = game.part(1);
        first.throw();
        assert_eq!(throws(game.part(2)), second);
        assert_ne!(throws(game.part(1)), second);
    }

    #[test]
    fn ranges_are_kept_and_an_empty_one_is_its_start() {
        let mut dice = Dice::new(1);
        assert!((0..1_000).all(|_| (3..9).contains(&dice.within(3..9))));
        assert_eq!((dice.within(5..5), dice.one_of::<u8>(&[])), (5, None));
        assert!(!(0..1_000).any(|_| dice.percent(0)) && (0..1_000).all(|_| dice.percent(100)));
    }
}
