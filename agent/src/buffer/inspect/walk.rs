//! A segment's file from its first byte to its last, piece by piece: what is whole, what is not,
//! and where. One batch at a time is in memory.

use std::io;

use bytes::Bytes;

use crate::buffer::disk::DiskFile;
use crate::buffer::frame::{BatchFacts, Found, Frame, Kind, frame_at, look};

/// How much of a batch is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What the frame says of it: quick, and damage inside goes unseen.
    Heads,
    /// Every byte, against its checksum.
    Whole,
}

/// A stretch of the file. All of them together are the file, without a hole.
#[derive(Debug)]
pub enum Piece {
    /// What the file says of itself.
    Head,
    /// A batch.
    Batch(Batch),
    /// A frame that is not what was written; what its head says, where that is readable.
    Broken(Option<BatchFacts>),
    /// Bytes that are no frame, with a frame behind them.
    Garbage,
    /// Bytes that are no frame, up to the end.
    Torn,
    /// A whole frame that does not belong here, or that a later version wrote.
    Strange,
}

/// A batch that was found.
#[derive(Debug)]
pub struct Batch {
    /// What is known without decoding it.
    pub facts: BatchFacts,
    /// Bytes of the encoded batch.
    pub length: u32,
    /// The encoded batch; empty where only heads are read.
    pub bytes: Bytes,
}

/// The way through a file.
pub struct Walk<'f> {
    file: &'f dyn DiskFile,
    depth: Depth,
    at: u64,
    end: u64,
}

impl<'f> Walk<'f> {
    /// From the first byte up to `end`.
    pub fn new(file: &'f dyn DiskFile, end: u64, depth: Depth) -> Self {
        Self { file, depth, at: 0, end }
    }

    /// The next piece, with its first byte and the byte after its last.
    pub fn step(&mut self) -> io::Result<Option<(Piece, u64, u64)>> {
        let at = self.at;
        let piece = match look(self.file, at, self.end)? {
            Found::End => return Ok(None),
            Found::Torn => {
                self.at = self.end;
                Piece::Torn
            }
            Found::Damage { to } => {
                self.at = to;
                Piece::Garbage
            }
            Found::Frame(frame) => {
                self.at = frame.end();
                self.look_into(&frame)?
            }
        };
        Ok(Some((piece, at, self.at)))
    }

    fn look_into(&self, frame: &Frame) -> io::Result<Piece> {
        if frame.is_batch() && self.depth == Depth::Heads {
            let facts = self.head_of(frame)?;
            return Ok(facts.map_or(Piece::Broken(None), |facts| batch(frame, facts, Bytes::new())));
        }
        let Some(body) = frame.body(self.file)? else {
            let batch = frame.is_batch();
            return Ok(Piece::Broken(if batch { self.head_of(frame)? } else { None }));
        };
        Ok(match frame.kind {
            // Only the first frame of a file says what the file is.
            Some(Kind::File) if frame.at == 0 => Piece::Head,
            Some(Kind::Batch | Kind::Thinned) => match BatchFacts::decode(frame.kind, &body) {
                Some(facts) => batch(frame, facts, Bytes::from(body).slice(frame.lead()..)),
                None => Piece::Broken(None),
            },
            Some(Kind::File | Kind::Record) | None => Piece::Strange,
        })
    }

    /// The head of a batch has a checksum of its own.
    fn head_of(&self, frame: &Frame) -> io::Result<Option<BatchFacts>> {
        let mut head = vec![0; frame.lead()];
        let whole = self.file.read_at(&mut head, frame.body_at())? == head.len();
        Ok(BatchFacts::decode(frame.kind, &head).filter(|_| whole))
    }
}

/// The encoded batch in the frame at `at`; `None` if it is not what was written.
pub fn batch_at(file: &dyn DiskFile, at: u64, end: u64) -> io::Result<Option<Bytes>> {
    let Some(frame) = frame_at(file, at, end)? else { return Ok(None) };
    let body = frame.body(file)?.filter(|body| BatchFacts::decode(frame.kind, body).is_some());
    Ok(body.map(|body| Bytes::from(body).slice(frame.lead()..)))
}

fn batch(frame: &Frame, facts: BatchFacts, bytes: Bytes) -> Piece {
    Piece::Batch(Batch { facts, length: frame.length.saturating_sub(frame.lead() as u32), bytes })
}
