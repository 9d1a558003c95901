//! Other servers on the same database, where that can pass words between them.

use async_trait::async_trait;
use forebay_protocols::reading::PointId;
use tokio::sync::mpsc;

use super::{AgentKey, Micros, PointKey, StoreError, Timed};

/// What a server hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// From here on nothing is missed.
    Listening,
    /// Somebody said this; maybe this very server.
    Word(String),
}

/// Newest readings of one agent.
#[derive(Clone, Debug)]
pub struct Newest {
    /// Whose.
    pub agent: AgentKey,
    /// What the numbers in `readings` mean.
    pub points: Vec<(PointId, PointKey)>,
    /// One of each point, by point.
    pub readings: Vec<Timed>,
}

/// The way to the other servers.
#[async_trait]
pub trait Neighbours: Send + Sync {
    /// Hears what is said from now on, on a connection of its own, until it breaks.
    async fn hear(&self, words: mpsc::Sender<Heard>) -> Result<(), StoreError>;

    /// Says words, of at most 8,000 bytes each, to everybody who hears.
    async fn tell(&self, words: &[String]) -> Result<(), StoreError>;

    /// Of these agents the newest reading of each point, where that was taken at this time or later.
    async fn newest(&self, of: &[(AgentKey, Micros)]) -> Result<Vec<Newest>, StoreError>;
}
