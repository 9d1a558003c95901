//! The store in PostgreSQL, with TimescaleDB where it can be had. Any number of servers may share one
//! database: every writer of an agent's rows locks the agent first, in ascending order. Nothing is
//! kept in memory between calls, so it recovers by itself when the database comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod};
use forebay_config::units::Secret;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tracing::debug;

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
mod copy;
mod identity;
mod ingest;
mod neighbours;
mod partitions;
mod quarantine;
mod read;
mod retention;
mod rollups;
mod schema;
mod tier;
mod told;
mod url;
mod values;

/// How long a connection, or a free place in the pool, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one call may take before the database counts as away.
const CALL: Duration = Duration::from_secs(60);
/// How long a database may take to be brought up to date: years of readings are looked through once.
const PREPARE: Duration = Duration::from_secs(3_600);
/// Told to every connection, so that the database gives up before we do and leaves no lock behind.
const SESSION: &str = "set timezone = 'UTC'; set statement_timeout = '50s'; set lock_timeout = '20s'; \
                       set idle_in_transaction_session_timeout = '50s'";

/// A pool of connections to one database.
#[derive(Clone)]
pub struct Timescale {
    pool: Pool,
    neighbours: Arc<neighbours::Listening>,
    words: String,
    tier: Tier,
    /// The only one whose things are told.
    tenant: Option<TenantKey>,
}

impl Timescale {
    /// Connects, brings the schema up to date, and finds out what the database can do.
    pub async fn open(url: &Secret, connections: usize) -> Result<Self, StoreError> {
        let (mut config, tls) = url::parse(url)?;
        config.connect_timeout(CONNECT).tcp_user_timeout(Duration::from_secs(30));
        if config.get_application_name().is_none() {
            config.application_name("forebay-server");
        }
        let is_community = Arc::new(AtomicBool::new(false));
        let direct = is_community.clone();
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Verified };
        let (own, own_tls) = (config.clone(), tls.clone());
        let manager = match tls {
            Some(tls) => Manager::from_config(config, tls, recycling),
            None => Manager::from_config(config, tokio_postgres::NoTls, recycling),
        };
        let pool = Pool::builder(manager)
            // One more hears what other servers say. Making the schema needs two at once.
            .max_size(connections.saturating_sub(1).max(2))
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(CONNECT))
            .create_timeout(Some(CONNECT))
            .recycle_timeout(Some(CONNECT))
            .post_create(Hook::async_fn(move |client, _| {
                let direct = direct.load(Ordering::Relaxed);
                Box::pin(async move {
                    client.batch_execute(SESSION).await.map_err(HookError::Backend)?;
                    // An older release does not know it, and stores the same without.
                    if direct && let Err(error) = client.batch_execute(tier::DIRECT_COMPRESS).await {
                        debug!(%error, "Readings do not go into the columnstore at once.");
                    }
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| StoreError::Refused(format!("cannot make the connection pool: {error}")))?;
        let (words, tier) = within(PREPARE, schema::prepare(&pool)).await?;
        is_community.store(tier == Tier::Community, Ordering::Relaxed);
        let neighbours = neighbours::Listening { config: own, tls: own_tls, pool: pool.clone() };
        Ok(Self { pool, neighbours: Arc::new(neighbours), words, tier, tenant: None })
    }

    fn scope(&self, agent: Option<AgentKey>) -> Scope {
        Scope::new(agent, self.tenant)
    }

    async fn client(&self) -> Result<Client, StoreError> {
        Ok(self.pool.get().await?)
    }
}

/// Every wait has an end. A connection given up in the middle of an answer goes back to the pool, which
/// verifies it within a time limit before anybody gets it.
async fn limited<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    within(CALL, call).await
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(StoreError::Away(format!("no answer within {} s", limit.as_secs()))))
}

#[async_trait]
impl Store for Timescale {
    fn describe(&self) -> String {
        self.words.clone()
    }

    fn neighbours(&self) -> Option<Arc<dyn super::Neighbours>> {
        Some(self.neighbours.clone())
    }

    fn within(self: Arc<Self>, tenant: TenantKey) -> Arc<dyn Store> {
        Arc::new(Self { tenant: Some(tenant), ..(*self).clone() })
    }

    fn access(&self) -> Access {
        Access::new(Arc::new(self.clone()))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        limited(async { Ok(self.client().await?.batch_execute("select 1").await?) }).await
    }

    async fn ingest(&self, deliveries: Vec<Delivery>) -> Result<Vec<Receipt>, StoreError> {
        limited(async { ingest::ingest(&mut self.client().await?, &deliveries).await }).await
    }

    async fn ledgers(&self, agent: Option<AgentKey>) -> Result<Vec<LedgerRow>, StoreError> {
        limited(async { told::ledgers(&self.client().await?, self.scope(agent)).await }).await
    }

    async fn faults(&self, agent: Option<AgentKey>, most: usize) -> Result<Vec<FaultRow>, StoreError> {
        limited(async { told::faults(&self.client().await?, self.scope(agent), most).await }).await
    }

    async fn raise(&self, fault: Fault) -> Result<(), StoreError> {
        limited(async {
            let mut client = self.client().await?;
            let transaction = client.transaction().await?;
            told::raise(&transaction, &fault).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    async fn clear(
        &self,
        agent: AgentKey,
        kind: FaultKind,
        subject: &str,
        now: Micros,
    ) -> Result<(), StoreError> {
        limited(async {
            let mut client = self.client().await?;
            let transaction = client.transaction().await?;
            told::clear(&transaction, agent, kind, subject, now).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    async fn time_marks(
        &self,
        agent: Option<AgentKey>,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<TimeMark>, StoreError> {
        limited(async { told::time_marks(&self.client().await?, self.scope(agent), from, to, most).await })
            .await
    }

    async fn fleet(&self) -> Result<Vec<AgentRow>, StoreError> {
        limited(async { read::fleet(&self.client().await?, self.scope(None)).await }).await
    }

    async fn points(
        &self,
        agent: Option<AgentKey>,
        search: &str,
        after: Option<PointKey>,
        most: usize,
    ) -> Result<Vec<PointRow>, StoreError> {
        limited(async { read::points(&self.client().await?, self.scope(agent), search, after, most).await })
            .await
    }

    async fn query(&self, query: &Query) -> Result<Vec<(PointKey, Vec<Bucket>)>, StoreError> {
        let own = scope::own(&self.access(), self.tenant, &query.points).await?;
        let within = Query { points: own, ..query.clone() };
        let answer = limited(async { read::query(&self.client().await?, &within).await }).await?;
        Ok(scope::as_asked(&query.points, answer))
    }

    async fn find_gaps(&self, query: &GapQuery) -> Result<Vec<GapRow>, StoreError> {
        limited(async { read::gaps(&self.client().await?, self.scope(query.agent), query).await }).await
    }

    async fn add_token(&self, token: NewToken) -> Result<(), StoreError> {
        limited(async { identity::add_token(&self.client().await?, token).await }).await
    }

    async fn token(&self, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
        limited(async { identity::token(&self.client().await?, secret_hash, now).await }).await
    }

    async fn renew(
        &self,
        agent: AgentKey,
        certificate: [u8; 32],
        valid_until: Micros,
    ) -> Result<(), StoreError> {
        limited(async { identity::renew(&self.client().await?, agent, certificate, valid_until).await }).await
    }

    async fn standing(&self, certificate: [u8; 32]) -> Result<Standing, StoreError> {
        limited(async { identity::standing(&self.client().await?, certificate).await }).await
    }

    async fn revoke(&self, agent: AgentKey) -> Result<(), StoreError> {
        limited(async { admission::revoke(&mut self.client().await?, agent, None).await }).await
    }
}

#[async_trait]
impl Admission for Timescale {
    async fn apply(&self, application: NewApplication) -> Result<Applied, StoreError> {
        limited(async { admission::apply(&mut self.client().await?, &application).await }).await
    }

    async fn applications(&self) -> Result<Vec<Application>, StoreError> {
        limited(async { admission::applications(&self.client().await?, self.scope(None)).await }).await
    }

    async fn decide(&self, id: ApplicationId, word: Word, now: Micros) -> Result<bool, StoreError> {
        limited(async { admission::decide(&self.client().await?, self.scope(None), id, &word, now).await })
            .await
    }

    async fn admit(
        &self,
        id: ApplicationId,
        certificate: [u8; 32],
        valid_until: Micros,
        now: Micros,
    ) -> Result<Option<AgentKey>, StoreError> {
        limited(async {
            admission::admit(&mut self.client().await?, id, certificate, valid_until, now).await
        })
        .await
    }

    async fn leave(&self, agent: AgentKey, now: Micros) -> Result<(), StoreError> {
        limited(async { admission::revoke(&mut self.client().await?, agent, Some(now)).await }).await
    }

    async fn departures(&self) -> Result<Vec<(AgentKey, Micros)>, StoreError> {
        limited(async { admission::departures(&self.client().await?, self.scope(None)).await }).await
    }

    async fn revoked_lately(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        limited(async { admission::revoked_lately(&self.client().await?).await }).await
    }

    async fn adopt(&self, adopted: Adopted, now: Micros) -> Result<Option<AgentKey>, StoreError> {
        limited(async { admission::adopt(&mut self.client().await?, &adopted, now).await }).await
    }
}

#[async_trait]
impl Quarantine for Timescale {
    async fn batches_aside(&self, most: usize) -> Result<Vec<AsideRow>, StoreError> {
        limited(async { quarantine::batches(&self.client().await?, self.scope(None), most).await }).await
    }

    async fn batch_aside(&self, id: AsideId) -> Result<Option<(AsideRow, Vec<u8>, Micros)>, StoreError> {
        let found = limited(async { quarantine::batch(&self.client().await?, id).await }).await?;
        match &found {
            Some((row, ..)) if !scope::is_own(&self.access(), self.tenant, row.agent).await? => Ok(None),
            _ => Ok(found),
        }
    }

    async fn odd_points(&self, most: usize) -> Result<Vec<OddPoint>, StoreError> {
        limited(async { quarantine::odd_points(&self.client().await?, self.scope(None), most).await }).await
    }

    async fn odd_readings(&self, point: PointKey, most: usize) -> Result<Vec<Timed>, StoreError> {
        if scope::own(&self.access(), self.tenant, &[point]).await?.is_empty() {
            return Ok(Vec::new());
        }
        limited(async { quarantine::odd_readings(&self.client().await?, point, most).await }).await
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
        limited(async { Ok(quarantine::replay_batch(&mut self.client().await?, id, &readings, now).await?) })
            .await
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
        limited(async {
            Ok(quarantine::replay_readings(&mut self.client().await?, point, shift, now).await?)
        })
        .await
    }
}

#[async_trait]
impl Upkeep for Timescale {
    async fn roll_up(&self, grain: Grain, now: Micros, most: u64) -> Result<Progress, StoreError> {
        limited(async { Ok(rollups::roll_up(&mut self.client().await?, grain, now, most).await?) }).await
    }

    async fn horizons(&self, points: &[PointKey]) -> Result<Horizons, StoreError> {
        let own = scope::own(&self.access(), self.tenant, points).await?;
        let points: Vec<i32> = own.iter().filter_map(|point| i32::try_from(point.0).ok()).collect();
        let found = limited(async { Ok(rollups::horizons(&self.client().await?, &points).await?) }).await?;
        Ok(found.into_values().fold(Horizons::default(), Horizons::latest))
    }

    async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError> {
        limited(async { Ok(retention::remove(&mut self.client().await?, removal).await?) }).await
    }

    async fn drop_before(&self, before: Micros) -> Result<Option<u64>, StoreError> {
        let is_hypertable = match self.tier {
            Tier::Apache | Tier::Community => true,
            Tier::Partitions => false,
            Tier::PlainTable | Tier::Sqlite => return Ok(None),
        };
        limited(async {
            let mut client = self.client().await?;
            match retention::drop_before(&mut client, is_hypertable, before).await {
                // Somebody is at work on what is old: another time.
                Err(Failure::Store(StoreError::Away(_))) => Ok(None),
                dropped => Ok(dropped?),
            }
        })
        .await
    }

    async fn prepare_for(&self, now: Micros) -> Result<(), StoreError> {
        match self.tier {
            Tier::Partitions => {
                limited(async { partitions::prepare(&mut self.client().await?, now).await }).await
            }
            _ => Ok(()),
        }
    }

    async fn facts(&self) -> Result<Facts, StoreError> {
        let bytes = limited(async { retention::bytes(&self.client().await?).await }).await?;
        Ok(Facts { words: self.words.clone(), tier: self.tier, bytes })
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            // Without a word from the database: the connection, unless it was our own mistake.
            let source = std::error::Error::source(&error);
            let words = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            return Self::Store(match error.is_closed() || source.is_none_or(|s| s.is::<std::io::Error>()) {
                true => StoreError::Away(words),
                false => StoreError::Refused(words),
            });
        };
        let code = refusal.code();
        let words = format!("{} (SQLSTATE {})", refusal.message(), code.code());
        match code.code().get(..2) {
            // Data exception, integrity, the same row twice, a limit of the program.
            Some("22" | "23" | "21" | "54") => Self::Content(words),
            // Connection, resources, the operator's or a deadlock's doing: it passes.
            Some("08" | "53" | "57" | "40") => Self::Store(StoreError::Away(words)),
            _ if *code == SqlState::LOCK_NOT_AVAILABLE
                || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT =>
            {
                Self::Store(StoreError::Away(words))
            }
            _ => Self::Store(StoreError::Refused(words)),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => error.into(),
            error => Self::Away(error.to_string()),
        }
    }
}
