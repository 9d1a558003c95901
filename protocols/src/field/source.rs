//! The driver boundary, whole. A source yields readings or says what happened to the link.
//!
//! - A device that answers "no", or not at all while others on the link do, is samples with bad
//!   quality, not an error.
//! - A [`LinkFault`] means that the connection is gone. The source has let go of it; the next
//!   call is [`Source::connect`].
//! - Sources never retry a connection and never log above DEBUG; the link task does both.
//! - A source owns its schedule: [`Source::next`] waits until something is due or arrives.
//! - No method has a default: a source around another one would lose it, and nobody would notice.

use std::fmt;
use std::future::Future;

use super::occupancy::Occupancy;
use crate::reading::{Point, Quality, Stamp, Value};

/// A connection to field equipment, or one serial bus. Owned by one task.
pub trait Source: Send + 'static {
    /// The points of this link. [`Sample::slot`] counts into this list, which only ever grows
    /// (topic templates and folders find points while they run).
    fn points(&self) -> &[Point];

    /// Are those all points that the configuration means, as far as the peer has them? `false` while a source
    /// that looks for points itself is not done with that. Topic templates are never done, and do not count.
    fn has_found_all(&self) -> bool {
        true
    }

    /// Opens the connection. Ends within the link's timeout.
    fn connect(&mut self) -> impl Future<Output = Result<(), LinkFault>> + Send;

    /// Waits for the next samples. An empty harvest is allowed and costs nothing.
    ///
    /// Dropping this future is allowed only before [`Source::close`]: an exchange in flight is lost.
    fn next(&mut self) -> impl Future<Output = Result<Harvest, LinkFault>> + Send;

    /// Asked while the link task waits between two attempts: is somebody there, at first glance? As
    /// cheap as a TCP connection that is closed at once, and over within a second. `false` where
    /// that cannot be told cheaply.
    fn knock(&mut self) -> impl Future<Output = bool> + Send;

    /// Says goodbye to the peer where the protocol knows a goodbye. Ends within seconds.
    fn close(&mut self) -> impl Future<Output = ()> + Send;

    /// How busy the line is, where asking is what it is for.
    fn occupancy(&self) -> Option<Occupancy>;
}

/// What one call of [`Source::next`] brought.
#[derive(Debug, Default)]
pub struct Harvest {
    /// Readings, by slot.
    pub samples: Vec<Sample>,
    /// Given when the peer waits for our word that the samples are durable.
    pub receipt: Option<Receipt>,
    /// What changed with single devices since the last harvest.
    pub news: Vec<DeviceNews>,
    /// Messages or frames that gave no reading: malformed, oversized, foreign.
    pub discarded: u64,
    /// What a person should know although the link works: nodes beyond a bound, a folder that is not there.
    /// A source says each once.
    pub remarks: Vec<String>,
}

/// A reading before the agent gave its point a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Index into [`Source::points`].
    pub slot: usize,
    /// When it was taken.
    pub stamp: Stamp,
    /// What was measured. `None` only where the quality is not good.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
}

/// A device started or stopped answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNews {
    /// The device's name.
    pub device: std::sync::Arc<str>,
    /// Does it answer?
    pub answers: bool,
    /// Plain words: "unit 7 did not answer within 1 s".
    pub words: String,
}

/// The right to tell a peer that what it sent is durable here. Dropped unconfirmed, the peer
/// keeps the message and sends it again.
pub struct Receipt(Box<dyn FnOnce() + Send>);

impl Receipt {
    /// A receipt that runs `confirm` once. `confirm` must not block.
    pub fn new(confirm: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(confirm))
    }

    /// To be called after the append that holds the harvest's samples, never before.
    pub fn confirm(self) {
        (self.0)();
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

/// Why a connection could not be made or kept, sorted by what the link task must do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// Try again soon: nobody answers there.
    #[error("cannot reach {peer}: {why}")]
    Unreachable {
        /// Address or port as configured.
        peer: String,
        /// The cause in plain words.
        why: String,
    },
    /// Try again seldom: the peer is there and does not want us (password, certificate, limit).
    #[error("{peer} refused the connection: {why}")]
    Refused {
        /// Address or port as configured.
        peer: String,
        /// The cause in plain words, with the way out.
        why: String,
    },
    /// Try again at once, then with back-off: it worked until now.
    #[error("lost the connection to {peer}: {why}")]
    Lost {
        /// Address or port as configured.
        peer: String,
        /// The cause in plain words.
        why: String,
    },
}
