//! Valid bytes to nearly valid ones.

use crate::faults::Dice;

/// Inputs do not grow beyond this.
const LONGEST: usize = 256 << 10;
/// Numbers at which arithmetic on lengths and counts goes wrong.
const TEMPTING: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// One of the corpus with a few blows; now and then bytes out of nothing.
pub fn altered(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut input = match dice.pick(corpus) {
        Some(valid) if !dice.once_in(50) => valid.clone(),
        _ => (0..dice.below(300)).map(|_| dice.throw() as u8).collect(),
    };
    for _ in 0..dice.within(1, 5) {
        strike(&mut input, corpus, dice);
    }
    input.truncate(LONGEST);
    input
}

fn strike(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len() as u64 + 1) as usize;
    let end = at + dice.below((input.len() - at).min(64) as u64 + 1) as usize;
    match dice.below(9) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        2 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        3 => {
            let new: Vec<u8> = (0..dice.within(1, 16)).map(|_| dice.throw() as u8).collect();
            input.splice(at..at, new);
        }
        4 => {
            // The end of another.
            let other = dice.pick(corpus).cloned().unwrap_or_default();
            let from = dice.below(other.len() as u64 + 1) as usize;
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        5 => {
            let width = 1 << dice.below(4);
            let number = dice.pick(&TEMPTING).copied().unwrap_or_default();
            let bytes = if dice.once_in(2) { number.to_le_bytes() } else { number.to_be_bytes() };
            let bytes = if dice.once_in(2) { &bytes[..width] } else { &bytes[8 - width..] };
            for (place, byte) in input.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
        }
        6 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = dice.throw() as u8;
            }
        }
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
    }
}
