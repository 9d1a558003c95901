//! What a store does in its own time: rollups and retention, and what it tells of itself. Each call is
//! a bounded step in a transaction of its own; who calls decides when and how often.

use async_trait::async_trait;

use super::rollups::{Grain, Horizons, Source};
use super::{Micros, PointKey, StoreError};

/// The part of a store that its keepers call.
#[async_trait]
pub trait Upkeep: Send + Sync + 'static {
    /// Makes some rollups of `grain` that are due and ripe `now`: up to `most` buckets over all
    /// points, and one bucket at least. Does nothing while another server is at it.
    async fn roll_up(&self, grain: Grain, now: Micros, most: u64) -> Result<Progress, StoreError>;

    /// Up to where retention has been with any of `points`: the latest of each source.
    async fn horizons(&self, points: &[PointKey]) -> Result<Horizons, StoreError>;

    /// Removes what is oldest of some points. Nothing that is not rolled up yet is removed.
    async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError>;

    /// Removes the readings of all points before a midnight by whole chunks or partitions, where the
    /// database keeps them so. `None`: it does not, or what is there is not rolled up yet, or others
    /// are at work on it; [`Upkeep::remove`] does it too.
    async fn drop_before(&self, before: Micros) -> Result<Option<u64>, StoreError>;

    /// Makes the partitions that are needed soon, where the database has such.
    async fn prepare_for(&self, now: Micros) -> Result<(), StoreError>;

    /// What the store is and how large.
    async fn facts(&self) -> Result<Facts, StoreError>;
}

/// What a step of rollups did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Another server is at it.
    pub busy: bool,
    /// Rows read: readings, or finer buckets.
    pub read: u64,
    /// Buckets written.
    pub written: u64,
    /// More is ripe now.
    pub more: bool,
    /// When the oldest of what was ripe before this step was noted; 0: when the store was brought up to date.
    pub oldest: Option<Micros>,
}

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Of which rows.
    pub source: Source,
    /// Of which points.
    pub points: Vec<PointKey>,
    /// Everything before this midnight, in steps.
    pub before: Micros,
    /// The longest stretch of time for one step.
    pub stretch: Micros,
}

/// What a step of removal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows that are gone.
    pub rows: u64,
    /// There is more before the midnight.
    pub more: bool,
    /// Nothing was removed because it is not rolled up yet.
    pub waits: bool,
    /// Nothing was removed because somebody is at rollups or retention just now.
    pub busy: bool,
}

/// What a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// [`super::Store::describe`].
    pub words: String,
    /// What it can do.
    pub tier: Tier,
    /// All of it on disk, indexes included.
    pub bytes: u64,
}

/// What kinds of stores there are, by what they can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// One file.
    Sqlite,
    /// PostgreSQL with readings in one table: there were some before partitions could be made.
    PlainTable,
    /// PostgreSQL with range partitions.
    Partitions,
    /// TimescaleDB, Apache edition: hypertable, chunks dropped by our own schedule.
    Apache,
    /// TimescaleDB, Community edition: columnstore and policies too.
    Community,
}

impl Tier {
    /// One word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::PlainTable => "postgresql-plain-table",
            Self::Partitions => "postgresql-partitions",
            Self::Apache => "timescaledb-apache",
            Self::Community => "timescaledb-community",
        }
    }

    /// What it gives, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Sqlite => "one file, one writer",
            Self::PlainTable => "readings in one table; retention deletes row by row",
            Self::Partitions => "readings in partitions by time; retention drops them whole",
            Self::Apache => "hypertable; retention drops chunks whole",
            Self::Community => "hypertable with columnstore; retention drops chunks whole",
        }
    }
}
