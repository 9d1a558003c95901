//! What agents say to the server: `/v1/batches`, `/v1/join`, `/v1/renew`, `/v1/leave` (wire.proto).
//!
//! - A certificate is judged here, in words, and again within [`standing::FRESH`] of any change.
//! - A request is answered after its batches are committed, never before. Whatever cannot be
//!   taken now is refused as a whole and comes again; what can never be read is set aside.
//! - Memory is bounded: bodies share one budget, few requests are decoded at a time, each in
//!   slices, and the committer's queue has an end.

mod answers;
mod arrivals;
mod bodies;
mod committer;
mod joining;
mod named;
mod outage;
mod reading_in;
mod standing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::routing::post;
use axum::{Router, response::Response};
use bytes::Bytes;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::batch::NEWEST_FORMAT;
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::wire::sync_answer::{Outcome, Verdict};
use forebay_protocols::sync::wire::{JoinRequest, SyncAnswer, SyncRequest};
use http::StatusCode;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::identity::Authority;
use crate::listener::{Peer, Shown};
use crate::live::{Committed, Feed, Refusal};
use crate::store::{Content, Receipt, Store};
use crate::telemetry::Telemetry;

use answers::protobuf;
use bodies::{Bodies, Held};
pub use committer::Committer;
use joining::Registry;
use named::Named;
pub use outage::Outage;
use reading_in::{Requested, Slice};
use standing::{Member, Standings};

/// Requests decoded and waiting for their commit at a time; others wait as bytes.
const TURNS: usize = 16;
/// A small request takes a part of a turn: what it holds takes little memory, and when everybody comes
/// back at once there are thousands, which then share transactions.
const PARTS: u32 = 8;
const SMALL: usize = 4 << 10;
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of bodies held at a time, over all agents.
const BODIES_HELD: ByteSize = ByteSize::mib(256);

/// Everything the sync handlers share.
pub struct Ingest {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    outage: Arc<Outage>,
    committer: Committer,
    feed: Feed,
    telemetry: Arc<Telemetry>,
    bodies: Bodies,
    standings: Standings,
    refused_to_join: Named,
    turns: Semaphore,
    approval: bool,
}

/// What [`Ingest::new`] is made of.
pub struct Parts {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Signs for those who join.
    pub authority: Arc<Authority>,
    /// What the log knows of the database's faults; the committer's own.
    pub outage: Arc<Outage>,
    /// Commits deliveries in groups. Its task is owned by `app`.
    pub committer: Committer,
    /// Shows what was committed.
    pub feed: Feed,
    /// Counts.
    pub telemetry: Arc<Telemetry>,
    /// Larger requests get 413.
    pub max_request: ByteSize,
    /// Does every join wait for an operator?
    pub approval: bool,
}

impl Ingest {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, authority, outage, committer, feed, telemetry, max_request, approval } = parts;
        Arc::new(Self {
            standings: Standings::new(store.clone(), outage.clone()),
            refused_to_join: Named::default(),
            bodies: Bodies::new(max_request, BODIES_HELD),
            turns: Semaphore::new(TURNS * PARTS as usize),
            approval,
            store,
            authority,
            outage,
            committer,
            feed,
            telemetry,
        })
    }

    async fn sync(&self, peer: Peer, request: Request) -> Result<Response, Problem> {
        let member = self.judge(peer, shown(&request)).await?;
        let key = member.key;
        let request = self.committer.arrivals().counted(key, request);
        let answer = self.sync_of(member, request).await;
        if let Err(problem) = &answer {
            self.feed.refused(key, Refusal { at: wall_micros(), words: problem.detail.clone() });
        }
        answer
    }

    async fn sync_of(&self, member: Member, request: Request) -> Result<Response, Problem> {
        let member = member.valid_at(wall_micros())?;
        let body = self.bodies.of_member(request).await?;
        let request: SyncRequest = decode(&body)?;
        let respond: fn(StatusCode, &SyncAnswer) -> Response =
            if request.untyped { answers::untyped } else { protobuf };
        let parts = if body.len() <= SMALL { 1 } else { PARTS };
        let _turn = timeout(TURN_WITHIN, self.turns.acquire_many(parts))
            .await
            .map_err(|_| Problem::new(Kind::Busy, "too many requests are being stored; try again later"))?;
        let received = wall_micros();
        let mut asked = Requested::new(request, received)?;
        let mut answer = SyncAnswer {
            max_request_bytes: self.bodies.most(),
            ca_generation: self.authority.generation(),
            ..Default::default()
        };
        // The first slice carries dictionary, gaps, report and greeting; it may be without batches.
        let mut first = true;
        while first || !asked.is_done() {
            let slice = asked.next_slice();
            let receipt = self.committer.commit(asked.delivery(member.key, &slice)).await?;
            answer.dictionary_revision = receipt.dictionary_revision;
            answer.gaps_known = receipt.gaps_known;
            (answer.fork, answer.greet) = (receipt.fork, receipt.greet);
            if let Some((ranges, is_whole)) = &receipt.committed {
                answer.committed = ranges.iter().flat_map(|(first, last)| [first, last]).collect();
                answer.committed_is_whole = *is_whole;
                answer.batch_format = NEWEST_FORMAT;
            }
            if (receipt.dictionary_missing || receipt.greet) && first {
                slice.arrived().for_each(|_| self.telemetry.verdict(Verdict::Retry));
                answer.server_time_us = wall_micros();
                return Ok(respond(StatusCode::CONFLICT, &answer));
            }
            self.show(&member, &slice, &receipt);
            answer.outcomes.extend(self.outcomes(slice, &receipt));
            first = false;
        }
        answer.server_time_us = wall_micros();
        Ok(respond(StatusCode::OK, &answer))
    }

    /// One outcome per batch of the slice, in the order they came.
    fn outcomes(&self, slice: Slice, receipt: &Receipt) -> Vec<Outcome> {
        let outcomes = slice.into_outcomes(receipt);
        // What the store took was counted when it was committed.
        let again = outcomes.iter().filter(|outcome| outcome.verdict() == Verdict::Retry);
        again.for_each(|_| self.telemetry.verdict(Verdict::Retry));
        outcomes
    }

    /// Shows what was committed, if anybody looks.
    fn show(&self, member: &Member, slice: &Slice, receipt: &Receipt) {
        if !self.feed.wants(member.key) {
            return;
        }
        let verdicts: HashMap<_, _> = receipt.verdicts.iter().copied().collect();
        for (arrived, backlog) in slice.arrived() {
            let committed = verdicts.get(&arrived.sequence) == Some(&Verdict::Committed);
            let (true, Content::Readings(readings)) = (committed, &arrived.content) else { continue };
            self.feed.publish(Committed {
                agent: member.key,
                points: receipt.points.clone(),
                readings: readings.clone(),
                backlog,
            });
        }
    }

    async fn join(&self, peer: Peer, request: Request) -> Result<Response, Problem> {
        let body = self.bodies.of_anybody(request).await?;
        let answer = self.registry().join(peer, decode(&body)?).await?;
        self.telemetry.joins.increment(1);
        Ok(protobuf(StatusCode::OK, &answer))
    }

    async fn renew(&self, peer: Peer, request: Request) -> Result<Response, Problem> {
        // An expired certificate may renew itself: its holder has just proved to hold the key.
        let member = self.judge(peer, shown(&request)).await?;
        let body = self.bodies.of_anybody(request).await?;
        let request: JoinRequest = decode(&body)?;
        let answer = self.registry().renew(&member, &request.csr).await?;
        self.telemetry.joins.increment(1);
        Ok(protobuf(StatusCode::OK, &answer))
    }

    async fn leave(&self, peer: Peer, request: Request) -> Result<Response, Problem> {
        let member = self.judge(peer, shown(&request)).await?;
        let answer = self.registry().leave(&member).await?;
        // It has said so itself: nothing more is taken from now on.
        if let Some(certificate) = peer.certificate {
            self.standings.forget(&certificate);
        }
        Ok(protobuf(StatusCode::OK, &answer))
    }

    /// The member behind a connection, or why it is none. One whose certificate a restored database has
    /// lost is found again.
    async fn judge(&self, peer: Peer, shown: Option<Shown>) -> Result<Member, Problem> {
        let judged = self.standings.judge(peer).await;
        let (Err(Problem { kind: Kind::UnknownCertificate, .. }), Some(shown), Some(certificate)) =
            (&judged, shown, peer.certificate)
        else {
            return judged;
        };
        if !self.registry().adopt(&shown).await? {
            return judged;
        }
        self.standings.forget(&certificate);
        self.standings.judge(peer).await
    }

    fn registry(&self) -> Registry<'_> {
        Registry {
            store: &*self.store,
            authority: &self.authority,
            outage: &self.outage,
            named: &self.refused_to_join,
            approval: self.approval,
        }
    }

    fn respond(&self, result: Result<Response, Problem>) -> Response {
        result.unwrap_or_else(|problem| {
            self.telemetry.refused(problem.kind);
            answers::problem(&problem)
        })
    }
}

/// The addresses agents know.
pub fn router(ingest: Arc<Ingest>) -> Router {
    Router::new()
        .route(
            "/v1/batches",
            post(
                async |State(ingest): State<Arc<Ingest>>,
                       Extension(peer): Extension<Peer>,
                       request: Request| { ingest.respond(ingest.sync(peer, request).await) },
            ),
        )
        .route(
            "/v1/join",
            post(
                async |State(ingest): State<Arc<Ingest>>,
                       Extension(peer): Extension<Peer>,
                       request: Request| { ingest.respond(ingest.join(peer, request).await) },
            ),
        )
        .route(
            "/v1/renew",
            post(
                async |State(ingest): State<Arc<Ingest>>,
                       Extension(peer): Extension<Peer>,
                       request: Request| {
                    ingest.respond(ingest.renew(peer, request).await)
                },
            ),
        )
        .route(
            "/v1/leave",
            post(
                async |State(ingest): State<Arc<Ingest>>,
                       Extension(peer): Extension<Peer>,
                       request: Request| {
                    ingest.respond(ingest.leave(peer, request).await)
                },
            ),
        )
        .with_state(ingest)
}

fn shown(request: &Request) -> Option<Shown> {
    request.extensions().get().cloned()
}

/// The message in a body. Its byte fields are views of the body, not copies.
fn decode<M: Message + Default>(body: &Held) -> Result<M, Problem> {
    M::decode(Bytes::clone(body)).map_err(|error| {
        let detail = format!("the body is not the protobuf message expected here: {error}");
        Problem::new(Kind::BadRequest, detail)
    })
}

#[cfg(test)]
pub(crate) mod tests;
