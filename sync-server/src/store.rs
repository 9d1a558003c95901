//! Where the server keeps everything: one trait, two backends (`sqlite`, `timescale`), one
//! conformance suite (`tests/store_conformance.rs`). It promises that a batch is stored exactly once,
//! that what `ingest` returned survives a power cut, and that both backends answer alike.
//!
//! Exactly-once is kept per batch, not per reading: each epoch has the set of its committed
//! sequences, updated in the transaction that stores the readings.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Value};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;

mod access;
mod admission;
mod agents;
pub mod alarms;
mod buckets;
mod gaps;
mod neighbours;
mod plan;
mod quarantine;
mod rollups;
mod scope;
mod sieve;
mod sqlite;
mod timescale;
mod upkeep;
mod words;

pub use access::{
    Access, Act, AuditRow, Cell, Change, Hand, Hands, KeyKey, KeyRow, Note, Outcome, Row, Running,
    SessionRow, TenantKey, TenantRow, UserKey, UserRow, Work,
};
pub use admission::{Admission, Adopted, Application, ApplicationId, Applied, NewApplication, Word};
pub use agents::{AgentRow, Drain, Pace, Pulse, SILENT_AFTER, Silence, Traffic};
pub use alarms::Alarms;
pub use gaps::{GapQuery, GapRow};
pub use neighbours::{Heard, Neighbours, Newest};
#[cfg(feature = "measure")]
pub use plan::WITHOUT_EXACTLY_ONCE;
pub use quarantine::{AsideId, AsideRow, OddPoint, Quarantine, Replayed, read_batch};
pub use rollups::{Grain, Horizons, Source};
pub(crate) use sieve::within_reason;
pub use upkeep::{Facts, Progress, Removal, Removed, Tier, Upkeep};
pub(crate) use words::rfc3339;

/// Opens the configured store, makes or migrates its schema, and leaves it ready.
///
/// Several servers may open one database at once. [`StoreError::Away`] means that the database
/// cannot be reached now: try again later.
pub async fn open(config: &forebay_config::server::Store) -> Result<Arc<dyn Store>, StoreError> {
    match config {
        forebay_config::server::Store::Sqlite { path } => Ok(Arc::new(sqlite::Sqlite::open(path).await?)),
        forebay_config::server::Store::Postgres { url, connections } => {
            Ok(Arc::new(timescale::Timescale::open(url, *connections).await?))
        }
    }
}

/// The newest version of the tables in SQLite that this program knows.
pub fn newest_sqlite_schema() -> i32 {
    sqlite::newest_schema()
}

/// What the server needs of a database.
#[async_trait]
pub trait Store: Upkeep + Quarantine + Alarms + Admission {
    /// "SQLite 3.50 at /path", "TimescaleDB 2.19 (Apache edition) on PostgreSQL 17": for people.
    fn describe(&self) -> String;

    /// The way to other servers on this database, where there can be any.
    fn neighbours(&self) -> Option<Arc<dyn Neighbours>> {
        None
    }
    /// This store as a tenant sees it: all that it reads, and all that it replays, is of the tenant's own
    /// agents; others are not there.
    fn within(self: Arc<Self>, tenant: TenantKey) -> Arc<dyn Store>;

    /// Who may do what.
    fn access(&self) -> Access;

    /// Is the database there and answering?
    async fn ready(&self) -> Result<(), StoreError>;

    /// All deliveries in ONE transaction; on error none of them happened. Same order back.
    ///
    /// A batch that the database refuses for its content is set aside alone, and does not hinder the
    /// others. Readings before 2000 or ten years ahead of `received` count as stored and are kept in
    /// quarantine, where queries do not look. NUL in text is kept as U+FFFD.
    async fn ingest(&self, deliveries: Vec<Delivery>) -> Result<Vec<Receipt>, StoreError>;

    /// The ledger of every buffer that ever wrote here, by agent, epoch and fork.
    async fn ledgers(&self, agent: Option<AgentKey>) -> Result<Vec<LedgerRow>, StoreError>;

    /// Faults that a person should know of, newest first: those that stand, and the last `most` that
    /// are over.
    async fn faults(&self, agent: Option<AgentKey>, most: usize) -> Result<Vec<FaultRow>, StoreError>;

    /// Raises a fault, or renews the words and `last` of the one that stands of this agent, kind and
    /// subject.
    async fn raise(&self, fault: Fault) -> Result<(), StoreError>;

    /// A fault of this agent, kind and subject is over, if one stands.
    async fn clear(
        &self,
        agent: AgentKey,
        kind: FaultKind,
        subject: &str,
        now: Micros,
    ) -> Result<(), StoreError>;

    /// Which times were corrected or bracketed, by agent and beginning, that touch `from..to`.
    async fn time_marks(
        &self,
        agent: Option<AgentKey>,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<TimeMark>, StoreError>;

    /// All agents, by site and gateway.
    async fn fleet(&self) -> Result<Vec<AgentRow>, StoreError>;

    /// Points by key, ascending, at most `most` above `after`. Each word of `search` is a part of
    /// "device/name unit", or where no agent is named of "site/gateway/device/name unit", in any case;
    /// without words all are found.
    async fn points(
        &self,
        agent: Option<AgentKey>,
        search: &str,
        after: Option<PointKey>,
        most: usize,
    ) -> Result<Vec<PointRow>, StoreError>;

    /// By points, in the order asked; buckets aligned to multiples of step since 1970. Buckets come from
    /// rollups where these are right (see `rollups.rs`), and are what the readings come to.
    async fn query(&self, query: &Query) -> Result<Vec<(PointKey, Vec<Bucket>)>, StoreError>;

    /// Gaps that touch a range. `Gap::point` holds the point's *key* here (0: the whole gateway), because
    /// dictionary numbers mean nothing outside their epoch.
    async fn find_gaps(&self, query: &GapQuery) -> Result<Vec<GapRow>, StoreError>;

    /// Gaps that touch `from..to`, by beginning, whatever their reason.
    async fn gaps(
        &self,
        agent: Option<AgentKey>,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<(AgentKey, wire::Gap)>, StoreError> {
        let query = GapQuery { agent, most, ..GapQuery::between(from, to) };
        Ok(self.find_gaps(&query).await?.into_iter().map(|row| (row.agent, row.gap)).collect())
    }

    /// Keeps a new join token.
    async fn add_token(&self, token: NewToken) -> Result<(), StoreError>;

    /// A look without use: lets the server refuse before it signs.
    async fn token(&self, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError>;

    /// Adds a certificate. The ones before stay good until they expire: the agent may never get the
    /// answer that holds the new one. Refused for an agent that is unknown or revoked.
    async fn renew(
        &self,
        agent: AgentKey,
        certificate: [u8; 32],
        valid_until: Micros,
    ) -> Result<(), StoreError>;

    /// Whose certificate this is (SHA-256 of its DER). Says nothing of its dates.
    async fn standing(&self, certificate: [u8; 32]) -> Result<Standing, StoreError>;

    /// Revokes the agent with all the certificates it has now.
    async fn revoke(&self, agent: AgentKey) -> Result<(), StoreError>;
}

/// Why a store did not do what it was asked, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Out of reach for now: answer 503, try again.
    #[error("the database is out of reach: {0}")]
    Away(String),
    /// The database refused: a person must look.
    #[error("the database refused: {0}")]
    Refused(String),
}

/// The store's number of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentKey(pub i64);

/// The store's number of a point (of its path).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointKey(pub i64);

/// Microseconds since 1970 UTC.
pub type Micros = i64;

/// One agent's request, decoded, ready for one transaction.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who sent it.
    pub agent: AgentKey,
    /// The life of the buffer it comes from.
    pub epoch: Epoch,
    /// New dictionary entries, ascending, without holes.
    pub dictionary: Vec<(PointId, Arc<Point>)>,
    /// The batches, in any order.
    pub batches: Vec<Arrived>,
    /// Gap records; known ones are skipped by their number.
    pub gaps: Vec<wire::Gap>,
    /// How the gateway is.
    pub report: Option<wire::Report>,
    /// The server's time.
    pub received: Micros,
    /// The buffer's present opening; `None` from a buffer that could not take one.
    pub opening: Option<OpeningId>,
    /// Of the first request of a connection: the lineage, oldest first, the present one last.
    pub greeting: Option<Vec<wire::Opening>>,
    /// Bytes that came from the agent and are in no books yet.
    pub bytes: u64,
}

/// 8 random bytes that name one opening of a buffer (wire.proto, `Greeting`).
pub type OpeningId = [u8; 8];

/// One batch of a delivery.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its number in the epoch.
    pub sequence: Sequence,
    /// The highest point number its readings may use.
    pub dictionary_revision: PointId,
    /// CRC32C over the batch as it arrived: tells a repetition from a fork.
    pub checksum: u32,
    /// The buffer left readings out of it since it was first sent: no fork if it differs.
    pub thinned: bool,
    /// The boot it was encoded in.
    pub boot_counter: u64,
    /// Where its times come from.
    pub clock: wire::sent_batch::Clock,
    /// What was added to the wall offset it states.
    pub correction_us: i64,
    /// Readings inside as its envelope says; 0 if that could not be read.
    pub count: u32,
    /// What is in it.
    pub content: Content,
}

impl Delivery {
    /// One that carries nothing yet.
    pub fn empty(agent: AgentKey, epoch: Epoch, received: Micros) -> Self {
        Self {
            agent,
            epoch,
            dictionary: Vec::new(),
            batches: Vec::new(),
            gaps: Vec::new(),
            report: None,
            received,
            opening: None,
            greeting: None,
            bytes: 0,
        }
    }
}

impl Arrived {
    /// A batch whose envelope says nothing special.
    pub fn plain(sequence: Sequence, dictionary_revision: PointId, content: Content) -> Self {
        Self {
            sequence,
            dictionary_revision,
            checksum: 0,
            thinned: false,
            boot_counter: 0,
            clock: wire::sent_batch::Clock::Stated,
            correction_us: 0,
            count: match &content {
                Content::Readings(readings) => u32::try_from(readings.len()).unwrap_or(u32::MAX),
                Content::SetAside { .. } => 0,
            },
            content,
        }
    }
}

/// What a batch turned out to be.
#[derive(Clone, Debug)]
pub enum Content {
    /// Sorted by (point, time). Shared with the live feed.
    Readings(Arc<Vec<Timed>>),
    /// Did not decode: bytes kept aside with the reason.
    SetAside {
        /// The batch as it arrived.
        bytes: Bytes,
        /// Plain words.
        why: String,
    },
}

/// A reading in wall time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// The point's number in the epoch's dictionary.
    pub point: PointId,
    /// When it was taken.
    pub time: Micros,
    /// What was measured.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
}

/// What the transaction did with one delivery.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    /// (sequence, verdict), verdict = COMMITTED | DUPLICATE | SET_ASIDE. Empty when `dictionary_missing`.
    pub verdicts: Vec<(Sequence, wire::sync_answer::Verdict)>,
    /// Highest dictionary number known without a hole, after this delivery.
    pub dictionary_revision: u32,
    /// True: a batch needs more dictionary than known; nothing of this delivery's batches was taken.
    pub dictionary_missing: bool,
    /// Highest gap number the store has.
    pub gaps_known: u64,
    /// In answer to a greeting: the committed sequences (the highest 64 ranges), and whether that is
    /// all of them.
    pub committed: Option<(Ranges, bool)>,
    /// Not 0: what this buffer holds since it was copied or restored is kept apart under this number.
    pub fork: u32,
    /// True: the opening is unknown here; nothing of this delivery was taken until the agent greets.
    pub greet: bool,
    /// Keys of the points used by this delivery's committed batches: (dictionary number, key). Where a
    /// fork brings batches of before it was copied as well, its own points stand here.
    pub points: Vec<(PointId, PointKey)>,
}

/// The books of one buffer (an epoch of an agent, or a fork of it) as the server keeps them.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    /// Whose buffer.
    pub agent: AgentKey,
    /// Its epoch.
    pub epoch: Epoch,
    /// 0, or the number of the fork.
    pub fork: u32,
    /// Readings in the database, quarantine included.
    pub stored: u64,
    /// Readings in batches set aside, as far as their envelopes tell.
    pub set_aside: u64,
    /// `stored + set_aside` when the last report came, its own request's batches not counted. Of a
    /// fork with those of the history it shares, as the gateway's own counts are; of an epoch older
    /// than such books with what its first report said.
    pub stored_at_report: u64,
    /// The last report of this buffer, and when it came.
    pub report: Option<(wire::Report, Micros)>,
    /// When its last delivery came.
    pub last_seen: Micros,
    /// Is it the one that this agent writes from now?
    pub current: bool,
}

/// What kind of fault a person should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// A buffer was copied or an older state of it restored.
    Fork,
    /// A gateway came back with a new buffer while its old one held readings.
    Wiped,
    /// This server had lost what it had acknowledged; gateways send it again.
    ServerRestored,
    /// The books do not close.
    Imbalance,
}

/// A fault to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Of which gateway.
    pub agent: AgentKey,
    /// Of what kind.
    pub kind: FaultKind,
    /// Tells faults of one kind apart: the epoch and fork, in hex.
    pub subject: String,
    /// What happened, in plain words.
    pub words: String,
    /// What to do.
    pub remedy: String,
    /// Now.
    pub at: Micros,
}

/// A fault as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRow {
    /// What it says; `at` is when it was first raised.
    pub fault: Fault,
    /// When it was last renewed.
    pub last: Micros,
    /// When it ended; `None` while it stands.
    pub over: Option<Micros>,
}

/// Readings of one boot of a gateway whose times were not what the gateway believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeMark {
    /// Whose.
    pub agent: AgentKey,
    /// Which boot.
    pub boot_counter: u64,
    /// Corrected exactly, or laid between the neighbouring boots.
    pub clock: wire::sent_batch::Clock,
    /// Time of the first reading.
    pub from: Micros,
    /// Time of the last.
    pub to: Micros,
    /// How many.
    pub readings: u64,
    /// The last correction applied.
    pub correction_us: i64,
}

/// A point with its newest reading.
#[derive(Clone, Debug)]
pub struct PointRow {
    /// The store's number of it.
    pub key: PointKey,
    /// Whose it is.
    pub agent: AgentKey,
    /// The agent's site.
    pub site: String,
    /// The agent's gateway.
    pub gateway: String,
    /// The device's name.
    pub device: String,
    /// The point's name.
    pub name: String,
    /// Unit of measure, or empty.
    pub unit: String,
    /// How values behave over time.
    pub kind: PointKind,
    /// What the values are.
    pub data_type: DataType,
    /// 0, or the number of the fork its readings come from (see [`Receipt::fork`]).
    pub fork: u32,
    /// The newest reading.
    pub latest: Option<Latest>,
}

/// The newest reading of a point, by its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Latest {
    /// When it was taken.
    pub time: Micros,
    /// What was measured.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
}

/// What a chart asks for.
#[derive(Clone, Debug)]
pub struct Query {
    /// The points, answered in this order.
    pub points: Vec<PointKey>,
    /// The first moment, inside.
    pub from: Micros,
    /// The last moment, outside.
    pub to: Micros,
    /// Length of a bucket. Zero: every reading.
    pub step: Micros,
    /// The most rows per point; the earliest are kept.
    pub most: usize,
}

/// One row of an answer: a reading (count 1) or a bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// The reading's time, or the bucket's beginning.
    pub time: Micros,
    /// Readings inside, of any quality.
    pub count: u64,
    /// Readings of good quality inside.
    pub good: u64,
    /// Smallest number. Only finite numbers of good or uncertain quality count here.
    pub min: Option<f64>,
    /// Largest number, counted alike.
    pub max: Option<f64>,
    /// Mean number, counted alike.
    pub mean: Option<f64>,
    /// Of a bucket: the earliest value of good or uncertain quality. Of a reading: its value.
    pub first: Option<Value>,
    /// The latest value, counted alike.
    pub last: Option<Value>,
    /// How many numbers `min`, `max` and `mean` are of.
    pub numbers: u64,
    /// The worst quality inside.
    pub quality: Quality,
}

/// A join token to keep.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// The moment from which it is no longer good.
    pub expires: Micros,
    /// How often it may be used.
    pub uses: u32,
    /// What it was made for.
    pub note: String,
    /// Does each join with it wait for an operator?
    pub approval: bool,
    /// When it was made.
    pub created: Micros,
}

/// What a join token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenVerdict {
    /// Good for one join more, at least.
    Valid,
    /// Never heard of.
    Unknown,
    /// Too old.
    Expired,
    /// Used as often as it may be.
    UsedUp,
}

impl TokenVerdict {
    /// The verdict on a token as it is kept, or on none.
    fn of(kept: Option<(Micros, i64)>, now: Micros) -> Self {
        match kept {
            None => Self::Unknown,
            Some((expires, _)) if expires <= now => Self::Expired,
            Some((_, uses_left)) if uses_left <= 0 => Self::UsedUp,
            Some(_) => Self::Valid,
        }
    }
}

/// What a certificate says of its holder.
#[derive(Clone, Debug)]
pub enum Standing {
    /// One of ours.
    Known(AgentRow),
    /// Was one of ours.
    Revoked(AgentRow),
    /// Never heard of.
    Unknown,
}
