//! What happens to one connection, and after how many bytes: drawn from dice before the first byte
//! moves. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::dice::Dice;

/// What a road does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Closed as soon as it was accepted.
    Refused,
    /// Closed both ways.
    Cut,
    /// Both ends get a reset instead of an end.
    Reset,
    /// One way ends in order, the other stays open.
    HalfClosed,
    /// One way goes nowhere from here on, and a moment later the connection is cut.
    Swallowed(Duration),
    /// Nothing moves for so long.
    Stalled(Duration),
    /// From here on every piece of a kilobyte takes so long.
    Slow(Duration),
    /// What goes up goes up a second time, over a connection of its own.
    Doubled,
}

/// The words faults are counted under, in the order of [`Fault::kind`].
pub const KINDS: [&str; 8] =
    ["refused", "cut", "reset", "half-closed", "swallowed", "stalled", "slow", "doubled"];

impl Fault {
    /// Its place in [`KINDS`].
    pub fn kind(self) -> usize {
        match self {
            Self::Refused => 0,
            Self::Cut => 1,
            Self::Reset => 2,
            Self::HalfClosed => 3,
            Self::Swallowed(_) => 4,
            Self::Stalled(_) => 5,
            Self::Slow(_) => 6,
            Self::Doubled => 7,
        }
    }
}

/// A fault and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// After so many bytes of its way.
    pub after: u64,
    /// What is there.
    pub fault: Fault,
}

/// The fate of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Turned away at the door.
    pub refused: bool,
    /// Sent up twice.
    pub doubled: bool,
    /// From client to server, by `after`.
    pub up: VecDeque<Hole>,
    /// From server to client, by `after`.
    pub down: VecDeque<Hole>,
}

impl Fate {
    /// Draws one: some delays, and mostly an early end. One connection in ten is left whole, so
    /// that the others' harm can be told apart from a road nobody can use.
    pub fn draw(dice: &mut Dice) -> Self {
        let mut fate = Self::default();
        if dice.percent(4) {
            fate.refused = true;
            return fate;
        }
        fate.doubled = dice.percent(4);
        for _ in 0..dice.within(0..4) {
            let delay = match dice.within(0..20) {
                0 => Fault::Stalled(dice.millis(800..1_600)),
                1..=13 => Fault::Stalled(dice.millis(1..60)),
                _ => Fault::Slow(dice.millis(1..6)),
            };
            fate.lay(delay, dice);
        }
        if dice.percent(90) {
            let end = match dice.within(0..20) {
                0..=6 => Fault::Cut,
                7..=10 => Fault::Reset,
                11..=13 => Fault::HalfClosed,
                // Sooner than anybody gives up waiting, and now and then later.
                14 => Fault::Swallowed(dice.millis(1_000..4_000)),
                _ => Fault::Swallowed(dice.millis(1..50)),
            };
            fate.lay(end, dice);
        }
        for way in [&mut fate.up, &mut fate.down] {
            way.make_contiguous().sort_by_key(|hole| hole.after);
        }
        fate
    }

    fn lay(&mut self, fault: Fault, dice: &mut Dice) {
        let way = if dice.percent(50) { &mut self.up } else { &mut self.down };
        // In the handshake, in the first requests, or much later.
        let after = match dice.within(0..10) {
            0..=1 => dice.within(0..1_500),
            2..=6 => dice.within(1_500..6_000),
            7..=8 => dice.within(3_000..30_000),
            _ => dice.within(20_000..200_000),
        };
        way.push_back(Hole { after, fault });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_dice_draw_the_same_fate() {
        let draw = || (0..200).map(|n| Fate::draw(&mut Dice::new(5).part(n))).collect::<Vec<_>>();
        assert_eq!(draw(), draw());
    }

    #[test]
    fn every_fault_is_drawn_in_its_order_and_some_connections_are_spared() {
        let mut seen = [0; KINDS.len()];
        let mut whole = 0;
        for n in 0..2_000 {
            let fate = Fate::draw(&mut Dice::new(11).part(n));
            whole += usize::from(fate == Fate::default());
            seen[Fault::Refused.kind()] += usize::from(fate.refused);
            seen[Fault::Doubled.kind()] += usize::from(fate.doubled);
            for way in [fate.up, fate.down] {
                assert!(way.iter().is_sorted_by_key(|hole| hole.after));
                way.iter().for_each(|hole| seen[hole.fault.kind()] += 1);
            }
        }
        assert!(seen.iter().all(|count| *count > 30), "{seen:?}");
        assert!(whole > 10, "{whole}");
    }
}
