//! Reading request bodies: no larger than allowed, no slower than patience lasts, and all of them
//! together within one budget of memory.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use forebay_config::units::ByteSize;
use forebay_protocols::sync::problem::{Kind, Problem};
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The longest pause within a body.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest time for the batches of a member: 4 MiB over a 2G modem.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// The same for anybody, and the largest body of anybody: a request to join is far smaller.
const ANYBODYS_PATIENCE: Duration = Duration::from_secs(60);
const ANYBODYS_MOST: usize = 16 << 10;
/// How many times the allowed size of a body too large is read and thrown away, so that the
/// sender is done sending and reads our answer instead of a broken connection.
const DISCARD: usize = 8;

/// Reads bodies within limits.
#[derive(Debug)]
pub(super) struct Bodies {
    most: usize,
    budget: Arc<Semaphore>,
}

/// A body, holding its part of the budget until dropped.
pub(super) struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Deref for Held {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl Bodies {
    /// `most` for one body, `budget` for all at a time.
    pub(super) fn new(most: ByteSize, budget: ByteSize) -> Self {
        // One request of the allowed size must always fit.
        let budget = budget.0.max(most.0) as usize;
        Self { most: most.0 as usize, budget: Arc::new(Semaphore::new(budget)) }
    }

    /// The largest request taken, as the wire says it.
    pub(super) fn most(&self) -> u32 {
        u32::try_from(self.most).unwrap_or(u32::MAX)
    }

    /// The body of a request by a member, who was asked for a certificate before.
    pub(super) async fn of_member(&self, request: Request) -> Result<Held, Problem> {
        self.read(request, self.most, MEMBERS_PATIENCE).await
    }

    /// The body of a request by anybody who found the port.
    pub(super) async fn of_anybody(&self, request: Request) -> Result<Held, Problem> {
        self.read(request, ANYBODYS_MOST.min(self.most), ANYBODYS_PATIENCE).await
    }

    async fn read(&self, request: Request, most: usize, patience: Duration) -> Result<Held, Problem> {
        let stated = request.headers().get(CONTENT_LENGTH);
        let stated: Option<usize> = stated.and_then(|length| length.to_str().ok()?.parse().ok());
        let mut body = request.into_body();
        let outcome = if stated.is_some_and(|stated| stated > most) {
            Err(too_large(most))
        } else {
            timeout(patience, self.collect(&mut body, most)).await.unwrap_or_else(|_| Err(too_slow(patience)))
        };
        if outcome.as_ref().is_err_and(|problem| problem.kind == Kind::TooLarge) {
            // Whichever way this ends, the answer is the same.
            let _ = timeout(PAUSE, discard(&mut body, most.saturating_mul(DISCARD))).await;
        }
        outcome
    }

    /// Memory follows what arrives, not what was announced.
    async fn collect(&self, body: &mut Body, most: usize) -> Result<Held, Problem> {
        let mut bytes = BytesMut::new();
        let mut room = self.take(0)?;
        while let Some(frame) = timeout(PAUSE, body.frame()).await.map_err(|_| too_slow(PAUSE))? {
            let frame = frame.map_err(|error| {
                Problem::new(Kind::BadRequest, format!("the request's body broke off: {error}"))
            })?;
            let Ok(piece) = frame.into_data() else { continue };
            if bytes.len() + piece.len() > most {
                return Err(too_large(most));
            }
            room.merge(self.take(piece.len())?);
            bytes.extend_from_slice(&piece);
        }
        Ok(Held { bytes: bytes.freeze(), _room: room })
    }

    /// Room in the budget, now or not at all: waiting for room while holding some could make all
    /// wait for each other.
    fn take(&self, length: usize) -> Result<OwnedSemaphorePermit, Problem> {
        u32::try_from(length)
            .ok()
            .and_then(|n| self.budget.clone().try_acquire_many_owned(n).ok())
            .ok_or_else(|| {
                Problem::new(Kind::Busy, "too many requests are arriving at the same time; try again later")
            })
    }
}

async fn discard(body: &mut Body, most: usize) {
    let mut seen = 0usize;
    while let Some(Ok(frame)) = body.frame().await {
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if seen > most {
            return;
        }
    }
}

fn too_large(most: usize) -> Problem {
    let most = ByteSize(most as u64);
    Problem::new(Kind::TooLarge, format!("requests here must not be larger than {most}; split them"))
}

fn too_slow(limit: Duration) -> Problem {
    Problem::new(Kind::TooSlow, format!("the body did not go on, or not end, within {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies() -> Bodies {
        Bodies::new(ByteSize::kib(64), ByteSize::kib(100))
    }

    #[tokio::test]
    async fn all_bodies_together_keep_within_the_budget() {
        let bodies = bodies();
        let request = || Request::new(Body::from(vec![0; 60 << 10]));
        let held = bodies.of_member(request()).await.unwrap_or_else(|problem| panic!("{problem}"));
        let refused = bodies.of_member(request()).await.err().map(|problem| problem.kind);
        assert_eq!(refused, Some(Kind::Busy));
        drop(held);
        assert!(bodies.of_member(request()).await.is_ok(), "the room is given back");
    }

    #[tokio::test]
    async fn anybody_may_send_little() {
        let request = || Request::new(Body::from(vec![0; ANYBODYS_MOST + 1]));
        let refused = bodies().of_anybody(request()).await.err().map(|problem| problem.kind);
        assert_eq!(refused, Some(Kind::TooLarge));
        assert!(bodies().of_member(request()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_half_way_is_given_up() {
        let pieces = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"half")) });
        let endless = futures::StreamExt::chain(pieces, futures::stream::pending());
        let refused = bodies().of_member(Request::new(Body::from_stream(endless))).await;
        assert_eq!(refused.err().map(|problem| problem.kind), Some(Kind::TooSlow));
    }
}
