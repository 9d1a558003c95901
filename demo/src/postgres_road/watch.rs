//! Reads what a client says to PostgreSQL, far enough to know a COPY and a COMMIT when they pass,
//! and decides where its connection breaks. Pure.
//!
//! PostgreSQL 17 documentation, chapter 53.2 (flow) and 53.7 (formats): every message is a type byte
//! and a length that counts itself; only the first ones of a connection have no type.

use std::time::Duration;

use crate::dice::Dice;

/// Codes of first messages that are answered by one byte and followed by another first message.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// Where a transaction that copied rows is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Break {
    /// In the middle of the rows.
    InCopy,
    /// The rows are there, and no COMMIT follows.
    AfterCopy,
    /// COMMIT is said and does not arrive.
    BeforeCommit,
    /// COMMIT arrives, and nobody hears whether it was done.
    AtCommit,
    /// It was done, and the word of it is lost.
    AfterCommit,
    /// COMMIT arrives late.
    LateCommit(Duration),
    /// The word that it was done comes late.
    LateAnswer(Duration),
    /// At any message, of whatever kind.
    Anywhere,
}

/// The words breaks are counted under, in the order of [`Break::kind`].
pub const KINDS: [&str; 8] = [
    "cut in COPY",
    "cut after COPY",
    "cut before COMMIT",
    "cut at COMMIT",
    "cut after COMMIT",
    "COMMIT late",
    "COMMIT answered late",
    "cut anywhere",
];

impl Break {
    /// Its place in [`KINDS`].
    pub fn kind(self) -> usize {
        match self {
            Self::InCopy => 0,
            Self::AfterCopy => 1,
            Self::BeforeCommit => 2,
            Self::AtCommit => 3,
            Self::AfterCommit => 4,
            Self::LateCommit(_) => 5,
            Self::LateAnswer(_) => 6,
            Self::Anywhere => 7,
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        match dice.within(0..14) {
            0..=1 => Self::InCopy,
            2..=3 => Self::AfterCopy,
            4..=5 => Self::BeforeCommit,
            6..=7 => Self::AtCommit,
            8..=9 => Self::AfterCommit,
            10 => Self::LateCommit(dice.millis(50..1_200)),
            11 => Self::LateAnswer(dice.millis(50..1_200)),
            _ => Self::Anywhere,
        }
    }
}

/// The messages of a client, put together from pieces.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    greeted: bool,
}

impl Messages {
    /// Takes in what was received.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole message, with its type; 0 for those that have none.
    pub fn whole(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = usize::from(self.greeted);
        let length = self.bytes.get(head..head + 4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        // Whoever states less than the length of the length gets through what it sent.
        let end = head + length.max(4);
        if self.bytes.len() < end {
            return None;
        }
        let rest = self.bytes.split_off(end);
        let message = std::mem::replace(&mut self.bytes, rest);
        if self.greeted {
            return Some((message[0], message));
        }
        let code = message.get(4..8).and_then(|code| Some(u32::from_be_bytes(code.try_into().ok()?)));
        self.greeted = !matches!(code, Some(SSL_REQUEST | GSS_REQUEST));
        Some((0, message))
    }
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Pass,
    /// This happens here.
    Hit(Break),
}

/// Follows one connection.
#[derive(Debug)]
pub struct Watch {
    dice: Dice,
    /// Transactions with rows that pass between two breaks.
    spared: std::ops::Range<u64>,
    planned: Break,
    /// Transactions with rows to spare before the next break.
    left: u64,
    /// Messages to spare before a break that comes anywhere.
    messages_left: u64,
    copied: bool,
}

impl Watch {
    /// Breaks a transaction after so many that it spares.
    pub fn new(mut dice: Dice, spared: std::ops::Range<u64>) -> Self {
        let planned = Break::draw(&mut dice);
        let (left, messages_left) = (dice.within(spared.clone()), dice.within(1..200));
        Self { dice, spared, planned, left, messages_left, copied: false }
    }

    /// Judges the next message.
    pub fn see(&mut self, kind: u8, message: &[u8]) -> Verdict {
        let copy_ends = kind == b'c';
        let commits = kind == b'Q' && message.get(5..).is_some_and(|sql| sql.starts_with(b"COMMIT"));
        self.copied |= copy_ends;
        let hit = match self.planned {
            Break::Anywhere => {
                self.messages_left = self.messages_left.saturating_sub(1);
                self.messages_left == 0
            }
            _ if self.left > 0 => false,
            Break::InCopy => kind == b'd',
            Break::AfterCopy => copy_ends,
            _ => commits && self.copied,
        };
        if commits && std::mem::take(&mut self.copied) {
            self.left = self.left.saturating_sub(1);
        }
        if !hit {
            return Verdict::Pass;
        }
        let hit = self.planned;
        // A connection that was only late goes on, to its next break.
        self.planned = Break::draw(&mut self.dice);
        self.left = self.dice.within(self.spared.clone());
        self.messages_left = self.dice.within(1..200);
        Verdict::Hit(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(body);
        message
    }

    #[test]
    fn messages_are_put_together_from_any_pieces() {
        let mut stream = vec![0, 0, 0, 8];
        stream.extend_from_slice(&SSL_REQUEST.to_be_bytes());
        stream.extend_from_slice(&[0, 0, 0, 9, 0, 3, 0, 0, 7]);
        stream.extend(message(b'Q', b"COMMIT\0"));
        stream.extend(message(b'X', b""));
        for piece in 1..stream.len() {
            let (mut messages, mut kinds, mut whole) = (Messages::default(), Vec::new(), Vec::new());
            for piece in stream.chunks(piece) {
                messages.push(piece);
                while let Some((kind, message)) = messages.whole() {
                    kinds.push(kind);
                    whole.extend(message);
                }
            }
            assert_eq!((kinds, &whole), (vec![0, 0, b'Q', b'X'], &stream));
        }
    }

    /// What a server says when it stores rows.
    fn transaction(copies: bool) -> Vec<(u8, Vec<u8>)> {
        let mut said = vec![(b'Q', message(b'Q', b"START TRANSACTION\0")), (b'B', message(b'B', b""))];
        if copies {
            said.extend([b'd', b'd', b'c'].map(|kind| (kind, message(kind, b"rows"))));
        }
        said.push((b'Q', message(b'Q', b"COMMIT\0")));
        said
    }

    fn watch(planned: Break, left: u64) -> Watch {
        Watch { planned, left, messages_left: 3, ..Watch::new(Dice::new(1), 0..1) }
    }

    fn hit_at(mut watch: Watch, copies: bool) -> Option<(usize, Break)> {
        transaction(copies).iter().enumerate().find_map(|(place, (kind, message))| {
            match watch.see(*kind, message) {
                Verdict::Hit(hit) => Some((place, hit)),
                Verdict::Pass => None,
            }
        })
    }

    #[test]
    fn each_break_strikes_at_its_place_and_only_where_rows_are_copied() {
        let places = [
            (Break::InCopy, 2),
            (Break::AfterCopy, 4),
            (Break::BeforeCommit, 5),
            (Break::AtCommit, 5),
            (Break::AfterCommit, 5),
            (Break::LateCommit(Duration::ZERO), 5),
        ];
        for (planned, place) in places {
            assert_eq!(hit_at(watch(planned, 0), true), Some((place, planned)));
            assert_eq!(hit_at(watch(planned, 0), false), None, "{planned:?} without rows");
            assert_eq!(hit_at(watch(planned, 1), true), None, "{planned:?} is for the next one");
        }
        assert_eq!(hit_at(watch(Break::Anywhere, 9), false), Some((2, Break::Anywhere)));
    }

    #[test]
    fn spared_transactions_are_counted_where_they_commit() {
        let mut watch = watch(Break::AtCommit, 2);
        let mut hits = Vec::new();
        for number in 0..4 {
            for (kind, message) in transaction(number != 1) {
                if watch.see(kind, &message) == Verdict::Hit(Break::AtCommit) {
                    hits.push(number);
                }
            }
        }
        assert_eq!(hits.first(), Some(&3), "0 and 2 are spared, 1 copies nothing");
    }
}
