//! Frames of a server, looked at before the library sees them. It waits for as many bytes as a frame
//! announces, be it four GiB, and takes for granted that a signed one is longer than its signature.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Type and length (OPC UA Part 6, 7.1.2.2).
const HEADER: usize = 8;
/// The longest frame: sixteen times what we say that we take. Some servers do not listen.
const LONGEST: usize = 1 << 20;
/// Header with channel, token, sequence number and request (OPC UA Part 6, 6.7.2): shorter is none.
const SHORTEST: usize = HEADER + 4 + 4 + 8;

/// What the guard knows of the frames that pass.
pub(super) struct Frames {
    header: [u8; HEADER],
    /// Bytes of the header that came.
    known: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// The shortest frame of a message.
    shortest: usize,
}

impl Frames {
    /// Of a channel whose messages bear signatures of so many bytes.
    pub(super) fn new(signature: usize) -> Self {
        Self { header: [0; HEADER], known: 0, left: 0, shortest: SHORTEST + signature }
    }

    /// Bytes in the order in which they came. An error if they are none of a frame.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let length = self.left.min(bytes.len());
                self.left -= length;
                bytes = bytes.get(length..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.header.get_mut(self.known) {
                *place = *first;
            }
            self.known += 1;
            bytes = rest;
            if self.known == HEADER {
                self.known = 0;
                let [kind @ .., _, a, b, c, d] = self.header;
                let length = u32::from_le_bytes([a, b, c, d]) as usize;
                // Secured like any message, but by keys of other lengths, which the library checks.
                let shortest = if &kind == b"MSG" || &kind == b"CLO" { self.shortest } else { HEADER + 1 };
                if length < shortest {
                    return Err("a frame that is shorter than its own header");
                }
                if length > LONGEST {
                    return Err("a frame longer than any that was agreed on");
                }
                self.left = length - HEADER;
            }
        }
        Ok(())
    }
}

/// A reader whose frames are looked at.
pub(super) struct Guarded<R> {
    inner: R,
    frames: Frames,
}

impl<R> Guarded<R> {
    pub(super) fn new(inner: R, frames: Frames) -> Self {
        Self { inner, frames }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Guarded<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let new = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(self.frames.pass(new).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: &[u8; 4], length: u32) -> Vec<u8> {
        let mut frame = [&kind[..], &length.to_le_bytes()].concat();
        frame.resize(frame.len().max((length as usize).min(100)), 7);
        frame
    }

    #[test]
    fn frames_pass_in_whatever_pieces_they_come() {
        let stream =
            [frame(b"ACKF", 28), frame(b"MSGC", 56), frame(b"ERRF", 16), frame(b"MSGF", 100)].concat();
        for piece in [1, 3, 8, 9, stream.len()] {
            let mut frames = Frames::new(32);
            for bytes in stream.chunks(piece) {
                frames.pass(bytes).unwrap();
            }
            assert_eq!((frames.known, frames.left), (0, 0), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_too_short_for_its_signature_or_too_long_for_us_is_no_frame() {
        for (signature, kind, length) in [
            (32, b"MSGF", 55),
            (0, b"MSGF", 23),
            (32, b"CLOF", 8),
            (0, b"OPNF", 0),
            (0, b"ACKF", 7),
            (0, b"MSGC", u32::MAX),
            (0, b"ERRF", (1 << 20) + 1),
        ] {
            let mut frames = Frames::new(signature);
            frames.pass(&frame(b"MSGF", 60)).unwrap();
            assert!(frames.pass(&frame(kind, length)).is_err(), "{kind:?} of {length}");
        }
        Frames::new(0).pass(&frame(b"MSGF", 24)).unwrap();
    }
}
