//! The store in one SQLite file: the default, without anything to install. One thread writes and two
//! read, each with its own connection; calls wait for them on bounded channels. Write-ahead log with
//! `synchronous = full`: what was committed survives a power cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::plan::Failure;
use super::scope::{self, Scope};
use super::{
    Access, Admission, Adopted, AgentKey, AgentRow, Application, ApplicationId, Applied, AsideId, AsideRow,
    Bucket, Delivery, Facts, Fault, FaultKind, FaultRow, GapQuery, GapRow, Grain, Horizons, LedgerRow,
    Micros, NewApplication, NewToken, OddPoint, PointKey, PointRow, Progress, Quarantine, Query, Receipt,
    Removal, Removed, Replayed, Standing, Store, StoreError, TenantKey, Tier, TimeMark, Timed, TokenVerdict,
    Upkeep, Word,
};

mod access;
mod admission;
mod alarms;
mod books;
mod committed;
mod identity;
mod ingest;
mod quarantine;
mod read;
mod rollups;
mod schema;
mod told;
mod values;

/// Calls that may wait for a thread; the next one waits for a place.
const WAITING: usize = 64;
/// How long to wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(10);

/// One file and the threads that own its connections.
#[derive(Clone)]
pub struct Sqlite {
    path: PathBuf,
    desks: Arc<Desks>,
    /// The only one whose things are told.
    tenant: Option<TenantKey>,
}

struct Desks {
    readers: Desk,
    /// Closed after the readers: connections that close at once may each leave it to the others to bring
    /// what stands in the write-ahead log into the file.
    writer: Desk,
}

impl Sqlite {
    /// Opens or makes the file, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_path_buf();
        let (answer, opened) = oneshot::channel();
        // Migrations may take long: not on a thread of the runtime.
        let opening = thread::Builder::new()
            .name("sqlite-open".into())
            .spawn(move || {
                // Nobody waits for the answer any more: then nobody needs the store.
                let _ = answer.send(Self::open_here(path));
            })
            .map_err(|error| StoreError::Refused(format!("cannot start a thread: {error}")))?;
        let opened = opened.await;
        if opening.join().is_err() {
            return Err(StoreError::Refused("opening SQLite panicked".into()));
        }
        opened.unwrap_or_else(|_| Err(StoreError::Refused("opening SQLite came to no end".into())))
    }

    fn open_here(path: PathBuf) -> Result<Self, StoreError> {
        let named = |error: StoreError| match error {
            StoreError::Away(words) => StoreError::Away(format!("{}: {words}", path.display())),
            StoreError::Refused(words) => StoreError::Refused(format!("{}: {words}", path.display())),
        };
        schema::prepare(&path).map_err(named)?;
        let connect = || connect(&path).map_err(named);
        let writer = Desk::open("sqlite-writer", vec![connect()?])?;
        let readers = Desk::open("sqlite-reader", vec![connect()?, connect()?])?;
        Ok(Self { path, desks: Arc::new(Desks { readers, writer }), tenant: None })
    }
}

impl Sqlite {
    fn scope(&self, agent: Option<AgentKey>) -> Scope {
        Scope::new(agent, self.tenant)
    }
}

pub use schema::newest as newest_schema;

/// A connection with the settings that hold for each.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // Only a file without tables takes it on: what retention removes can then go back to the disk.
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Makes the file with a mode of its own before SQLite does it with the umask's, and makes its name
/// durable: SQLite syncs the file, not the folder it is new in.
fn make_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    if !path.exists() {
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?.sync_all()?;
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Threads that take jobs from one queue. Dropping the desk ends them after the job in hand.
struct Desk {
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Desk {
    fn open(name: &str, connections: Vec<Connection>) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel::<Job>(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for mut connection in connections {
            let queue = queue.clone();
            let work = move || {
                loop {
                    // The lock is held while waiting for a job, not while doing it.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                    let Some(job) = job else { break };
                    job(&mut connection);
                }
            };
            let thread = thread::Builder::new().name(name.into()).spawn(work);
            threads.push(
                thread.map_err(|error| StoreError::Refused(format!("cannot start a thread: {error}")))?,
            );
        }
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Has `job` done on one of the threads. Dropped before it is answered, the job is done all the
    /// same: a transaction that nobody heard of is a duplicate when it comes again.
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = |_| StoreError::Refused("the thread of SQLite has ended; restart the server".into());
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = answer.send(job(connection));
        });
        let jobs = self.jobs.as_ref().ok_or(()).map_err(ended)?;
        jobs.send(job).await.map_err(|_| ended(()))?;
        answered.await.map_err(|_| ended(()))?
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for Sqlite {
    fn describe(&self) -> String {
        format!("SQLite {} at {}", rusqlite::version(), self.path.display())
    }

    fn within(self: Arc<Self>, tenant: TenantKey) -> Arc<dyn Store> {
        Arc::new(Self { tenant: Some(tenant), ..(*self).clone() })
    }

    fn access(&self) -> Access {
        Access::new(Arc::new(self.clone()))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        let ask = |on: &mut Connection| Ok(on.query_row("select count(*) from join_tokens", [], |_| Ok(()))?);
        self.desks.readers.ask(ask).await
    }

    async fn ingest(&self, deliveries: Vec<Delivery>) -> Result<Vec<Receipt>, StoreError> {
        self.desks.writer.ask(move |on| ingest::ingest(on, &deliveries)).await
    }

    async fn ledgers(&self, agent: Option<AgentKey>) -> Result<Vec<LedgerRow>, StoreError> {
        let scope = self.scope(agent);
        self.desks.readers.ask(move |on| told::ledgers(on, scope)).await
    }

    async fn faults(&self, agent: Option<AgentKey>, most: usize) -> Result<Vec<FaultRow>, StoreError> {
        let scope = self.scope(agent);
        self.desks.readers.ask(move |on| told::faults(on, scope, most)).await
    }

    async fn raise(&self, fault: Fault) -> Result<(), StoreError> {
        self.desks.writer.ask(move |on| Ok(told::raise(on, &fault)?)).await
    }

    async fn clear(
        &self,
        agent: AgentKey,
        kind: FaultKind,
        subject: &str,
        now: Micros,
    ) -> Result<(), StoreError> {
        let subject = subject.to_string();
        self.desks.writer.ask(move |on| Ok(told::clear(on, agent, kind, &subject, now)?)).await
    }

    async fn time_marks(
        &self,
        agent: Option<AgentKey>,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<TimeMark>, StoreError> {
        let scope = self.scope(agent);
        self.desks.readers.ask(move |on| told::time_marks(on, scope, from, to, most)).await
    }

    async fn fleet(&self) -> Result<Vec<AgentRow>, StoreError> {
        let scope = self.scope(None);
        self.desks.readers.ask(move |on| read::fleet(on, scope)).await
    }

    async fn points(
        &self,
        agent: Option<AgentKey>,
        search: &str,
        after: Option<PointKey>,
        most: usize,
    ) -> Result<Vec<PointRow>, StoreError> {
        let (search, scope) = (search.to_string(), self.scope(agent));
        self.desks.readers.ask(move |on| read::points(on, scope, &search, after, most)).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<(PointKey, Vec<Bucket>)>, StoreError> {
        let own = scope::own(&self.access(), self.tenant, &query.points).await?;
        let within = Query { points: own, ..query.clone() };
        let answer = self.desks.readers.ask(move |on| read::query(on, &within)).await?;
        Ok(scope::as_asked(&query.points, answer))
    }

    async fn find_gaps(&self, query: &GapQuery) -> Result<Vec<GapRow>, StoreError> {
        let (scope, query) = (self.scope(query.agent), query.clone());
        self.desks.readers.ask(move |on| read::gaps(on, scope, &query)).await
    }

    async fn add_token(&self, token: NewToken) -> Result<(), StoreError> {
        self.desks.writer.ask(move |on| identity::add_token(on, &token)).await
    }

    async fn token(&self, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
        self.desks.readers.ask(move |on| identity::token(on, secret_hash, now)).await
    }

    async fn renew(
        &self,
        agent: AgentKey,
        certificate: [u8; 32],
        valid_until: Micros,
    ) -> Result<(), StoreError> {
        self.desks.writer.ask(move |on| identity::renew(on, agent, certificate, valid_until)).await
    }

    async fn standing(&self, certificate: [u8; 32]) -> Result<Standing, StoreError> {
        self.desks.readers.ask(move |on| identity::standing(on, certificate)).await
    }

    async fn revoke(&self, agent: AgentKey) -> Result<(), StoreError> {
        self.desks.writer.ask(move |on| admission::revoke(on, agent, None)).await
    }
}

#[async_trait]
impl Admission for Sqlite {
    async fn apply(&self, application: NewApplication) -> Result<Applied, StoreError> {
        self.desks.writer.ask(move |on| admission::apply(on, &application)).await
    }

    async fn applications(&self) -> Result<Vec<Application>, StoreError> {
        let scope = self.scope(None);
        self.desks.readers.ask(move |on| admission::applications(on, scope)).await
    }

    async fn decide(&self, id: ApplicationId, word: Word, now: Micros) -> Result<bool, StoreError> {
        let scope = self.scope(None);
        self.desks.writer.ask(move |on| admission::decide(on, scope, id, &word, now)).await
    }

    async fn admit(
        &self,
        id: ApplicationId,
        certificate: [u8; 32],
        valid_until: Micros,
        now: Micros,
    ) -> Result<Option<AgentKey>, StoreError> {
        self.desks.writer.ask(move |on| admission::admit(on, id, certificate, valid_until, now)).await
    }

    async fn leave(&self, agent: AgentKey, now: Micros) -> Result<(), StoreError> {
        self.desks.writer.ask(move |on| admission::revoke(on, agent, Some(now))).await
    }

    async fn departures(&self) -> Result<Vec<(AgentKey, Micros)>, StoreError> {
        let scope = self.scope(None);
        self.desks.readers.ask(move |on| admission::departures(on, scope)).await
    }

    async fn revoked_lately(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.desks.readers.ask(|on| admission::revoked_lately(on)).await
    }

    async fn adopt(&self, adopted: Adopted, now: Micros) -> Result<Option<AgentKey>, StoreError> {
        self.desks.writer.ask(move |on| admission::adopt(on, &adopted, now)).await
    }
}

#[async_trait]
impl Quarantine for Sqlite {
    async fn batches_aside(&self, most: usize) -> Result<Vec<AsideRow>, StoreError> {
        let scope = self.scope(None);
        self.desks.readers.ask(move |on| quarantine::batches(on, scope, most)).await
    }

    async fn batch_aside(&self, id: AsideId) -> Result<Option<(AsideRow, Vec<u8>, Micros)>, StoreError> {
        let found = self.desks.readers.ask(move |on| Ok(quarantine::batch(on, id)?)).await?;
        match &found {
            Some((row, ..)) if !scope::is_own(&self.access(), self.tenant, row.agent).await? => Ok(None),
            _ => Ok(found),
        }
    }

    async fn odd_points(&self, most: usize) -> Result<Vec<OddPoint>, StoreError> {
        let scope = self.scope(None);
        self.desks.readers.ask(move |on| quarantine::odd_points(on, scope, most)).await
    }

    async fn odd_readings(&self, point: PointKey, most: usize) -> Result<Vec<Timed>, StoreError> {
        if scope::own(&self.access(), self.tenant, &[point]).await?.is_empty() {
            return Ok(Vec::new());
        }
        self.desks.readers.ask(move |on| Ok(quarantine::odd_readings(on, point, most)?)).await
    }

    async fn replay_batch(
        &self,
        id: AsideId,
        readings: Vec<Timed>,
        now: Micros,
    ) -> Result<Option<Replayed>, StoreError> {
        if self.tenant.is_some() && self.batch_aside(id).await?.is_none() {
            return Ok(None);
        }
        self.desks.writer.ask(move |on| Ok(quarantine::replay_batch(on, id, &readings, now)?)).await
    }

    async fn replay_readings(
        &self,
        point: PointKey,
        shift: Micros,
        now: Micros,
    ) -> Result<Replayed, StoreError> {
        if scope::own(&self.access(), self.tenant, &[point]).await?.is_empty() {
            return Ok(Replayed::default());
        }
        self.desks.writer.ask(move |on| Ok(quarantine::replay_readings(on, point, shift, now)?)).await
    }
}

#[async_trait]
impl Upkeep for Sqlite {
    async fn roll_up(&self, grain: Grain, now: Micros, most: u64) -> Result<Progress, StoreError> {
        self.desks.writer.ask(move |on| Ok(rollups::roll_up(on, grain, now, most)?)).await
    }

    async fn horizons(&self, points: &[PointKey]) -> Result<Horizons, StoreError> {
        let own = scope::own(&self.access(), self.tenant, points).await?;
        let points: Vec<i64> = own.iter().map(|point| point.0).collect();
        let ask = move |on: &mut Connection| Ok(rollups::horizons(on, points.into_iter())?);
        Ok(self.desks.readers.ask(ask).await?.into_values().fold(Horizons::default(), Horizons::latest))
    }

    async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError> {
        let removal = removal.clone();
        self.desks.writer.ask(move |on| Ok(rollups::remove(on, &removal)?)).await
    }

    async fn drop_before(&self, _: Micros) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    async fn prepare_for(&self, _: Micros) -> Result<(), StoreError> {
        Ok(())
    }

    async fn facts(&self) -> Result<Facts, StoreError> {
        let path = self.path.clone();
        let bytes = self.desks.readers.ask(move |on| rollups::bytes(on, &path)).await?;
        Ok(Facts { words: self.describe(), tier: Tier::Sqlite, bytes })
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let words = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
                Self::Content(words)
            }
            // Another process is writing for long, or the disk is full: both pass.
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => {
                Self::Store(StoreError::Away(words))
            }
            _ => Self::Store(StoreError::Refused(words)),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Failure::from(error).into()
    }
}
