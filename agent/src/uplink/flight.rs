//! One request on its way: from a line, kept or new, to what came back.
//!
//! The first request of a connection says who we are: the openings of the buffer. In the answer the
//! server lists what it has, and that is compared with what it had acknowledged before the question.

use bytes::Bytes;
use forebay_config::agent::Proxy;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::body::Body;
use super::line::{Line, Peer};
use super::meter::Meter;
use super::parcel::Backlog;
use super::state::{Reply, Ticket};
use crate::backoff::{full_jitter, wait};
use crate::buffer::BufferError;

const PATH: &str = "/v1/batches";

/// How a request travels.
pub struct Way<'a> {
    /// The server.
    pub peer: Peer,
    /// The proxy before it.
    pub proxy: Option<&'a Proxy>,
    /// Counts bytes.
    pub meter: Meter,
    /// A connection that is open, as far as we know.
    pub kept: Option<Line>,
    /// Else a new one is not opened before.
    pub not_before: Option<Instant>,
    /// A cut connection is replaced after a random part of this.
    pub spread: Duration,
    /// The longest wait for the answer, connecting included.
    pub patience: Duration,
    /// Nobody waits for the spread any more.
    pub finish: &'a CancellationToken,
}

/// A request that departs.
pub struct Outgoing {
    /// Its name.
    pub ticket: Ticket,
    /// The whole request, but for the greeting.
    pub body: Body,
    /// The buffer's openings, the present one last.
    pub openings: Vec<wire::Opening>,
    /// The report in it.
    pub report: Option<wire::Report>,
}

/// What came of a request.
pub struct Landed {
    /// Its name.
    pub ticket: Ticket,
    /// What came back.
    pub reply: Reply,
    /// From sending to the answer, without connecting.
    pub took: Duration,
    /// The line, if it can be used again.
    pub line: Option<Line>,
    /// The report it carried.
    pub report: Option<wire::Report>,
    /// It carried the greeting: what had been acknowledged before.
    pub greeted: Option<Ranges>,
    /// The present opening.
    pub opening: Bytes,
    /// When it was sent.
    pub asked: BootTime,
}

/// The present opening; empty while there is none.
pub fn present(openings: &[wire::Opening]) -> Bytes {
    openings.last().map_or_else(Bytes::new, |opening| opening.id.clone().into())
}

/// Sends a request and says what came back. A connection that was kept open may have been closed
/// meanwhile: then a new one is tried, which is harmless, for the server recognises batches it has.
/// The only error is a buffer that is gone.
pub async fn fly(
    backlog: &impl Backlog,
    mut way: Way<'_>,
    outgoing: Outgoing,
) -> Result<Landed, BufferError> {
    let Outgoing { ticket, body, openings, report } = outgoing;
    let (opening, patience) = (present(&openings), way.patience);
    let mut landed = Landed {
        ticket,
        reply: Reply::Nothing(format!("no answer within {:.0?}", way.patience)),
        took: Duration::ZERO,
        line: None,
        report,
        greeted: None,
        opening: opening.clone(),
        asked: BootTime::now(),
    };
    let exchange = async {
        loop {
            let was_kept = way.kept.is_some();
            let mut line = match way.kept.take() {
                Some(line) => line,
                None => match way.connect().await {
                    Ok(line) => line,
                    Err(words) => return Ok(Reply::Nothing(words)),
                },
            };
            let greets = line.greeted.as_ref() != Some(&opening);
            // Before it is sent: what is acknowledged meanwhile the server may not have listed.
            landed.greeted = if greets { Some(backlog.acknowledged().await?) } else { None };
            let body = if greets { body.with(&greeting(&openings)) } else { body.clone() };
            landed.asked = BootTime::now();
            let sent = Instant::now();
            match line.post(PATH, body).await {
                Ok(reply) => {
                    landed.took = sent.elapsed();
                    if matches!(reply, Reply::Answer(_)) {
                        line.greeted = Some(opening.clone());
                    }
                    landed.line = Some(line);
                    return Ok(match reply {
                        Reply::Stranger if greets => {
                            Reply::Strange("it asks who we are, and has just been told".into())
                        }
                        reply => reply,
                    });
                }
                Err(words) if was_kept => {
                    debug!("The kept connection is dead ({words}), connecting anew.");
                    way.not_before = Some(Instant::now() + full_jitter(way.spread));
                }
                Err(words) => return Ok(Reply::Nothing(words)),
            }
        }
    };
    if let Ok(reply) = timeout(patience, exchange).await {
        landed.reply = reply?;
    }
    Ok(landed)
}

impl Way<'_> {
    async fn connect(&mut self) -> Result<Line, String> {
        if let Some(not_before) = self.not_before.take() {
            // At the end nobody waits: this gateway's storm is over.
            let _ = wait(not_before.saturating_duration_since(Instant::now()), self.finish).await;
        }
        Line::connect(&self.peer, self.proxy, &self.meter).await
    }
}

fn greeting(openings: &[wire::Opening]) -> wire::SyncRequest {
    let greeting = wire::Greeting { openings: openings.to_vec() };
    wire::SyncRequest { greeting: Some(greeting), ..Default::default() }
}
