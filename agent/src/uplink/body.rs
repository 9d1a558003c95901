//! The bytes of a request, in pieces: the batches go out as they were read from the flash, and are
//! never copied into one block. A request of a MiB costs a MiB.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use forebay_protocols::sync::wire;
use hyper::body::{Frame, SizeHint};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// Number of `SyncRequest.batches` and of `SentBatch.batch` in wire.proto.
const BATCHES: u32 = 3;
const BATCH: u32 = 1;
/// A smaller batch is copied: a piece of its own would cost more.
const LARGE: usize = 4 << 10;

/// A request as it travels. Clones share the batches.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pieces: VecDeque<Bytes>,
}

impl Body {
    /// Packs a request.
    pub fn of(mut request: wire::SyncRequest) -> Self {
        let batches = std::mem::take(&mut request.batches);
        let mut body = Self::default();
        let mut run = request.encode_to_vec();
        for mut sent in batches {
            let batch = std::mem::take(&mut sent.batch);
            // The fields of a message may stand in any order: the small ones first.
            let around = sent.encode_to_vec();
            let whole = around.len() + 1 + encoded_len_varint(batch.len() as u64) + batch.len();
            encode_key(BATCHES, WireType::LengthDelimited, &mut run);
            encode_varint(whole as u64, &mut run);
            run.extend_from_slice(&around);
            encode_key(BATCH, WireType::LengthDelimited, &mut run);
            encode_varint(batch.len() as u64, &mut run);
            if batch.len() < LARGE {
                run.extend_from_slice(&batch);
            } else {
                body.pieces.push_back(std::mem::take(&mut run).into());
                body.pieces.push_back(batch);
            }
        }
        body.push(run);
        body
    }

    /// The same request, and this part of it: protobuf messages may be laid end to end.
    pub fn with(&self, part: &wire::SyncRequest) -> Self {
        let mut body = self.clone();
        body.push(part.encode_to_vec());
        body
    }

    fn push(&mut self, run: Vec<u8>) {
        if !run.is_empty() {
            self.pieces.push_back(run.into());
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let mut body = Self::default();
        body.push(bytes.into());
        body
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Body as _;

    fn request() -> wire::SyncRequest {
        let sent = |(number, length): (u8, usize)| wire::SentBatch {
            batch: vec![number; length].into(),
            time_correction_us: i64::from(number) - 2,
            backlog: number % 2 == 0,
            clock: i32::from(number % 3),
            thinned: number == 3,
        };
        wire::SyncRequest {
            epoch: vec![7; 16].into(),
            batches: [0, 1, 100, LARGE - 1, LARGE, 70_000]
                .into_iter()
                .zip(1..)
                .map(|(l, n)| sent((n, l)))
                .collect(),
            gaps: vec![wire::Gap { number: 5, ..wire::Gap::default() }],
            opening: vec![1; 8].into(),
            ..Default::default()
        }
    }

    fn arrived(body: &Body) -> wire::SyncRequest {
        let bytes: Vec<u8> = body.pieces.iter().flatten().copied().collect();
        assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64));
        wire::SyncRequest::decode(bytes.as_slice()).unwrap()
    }

    #[test]
    fn in_pieces_it_is_the_same_message_and_large_batches_are_not_copied() {
        let request = request();
        let body = Body::of(request.clone());
        assert_eq!(arrived(&body), request);
        let large = request.batches.last().unwrap().batch.as_ptr();
        assert!(body.pieces.iter().any(|piece| piece.as_ptr() == large));
        assert_eq!(arrived(&Body::of(wire::SyncRequest::default())), wire::SyncRequest::default());
    }

    #[test]
    fn a_greeting_is_laid_behind_it() {
        let greeting = wire::Greeting { openings: vec![wire::Opening::default()] };
        let part = wire::SyncRequest { greeting: Some(greeting.clone()), ..Default::default() };
        let whole = wire::SyncRequest { greeting: Some(greeting), ..request() };
        assert_eq!(arrived(&Body::of(request()).with(&part)), whole);
    }
}
