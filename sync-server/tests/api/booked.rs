//! A store whose ledgers, faults and time marks are what a test says; all else is the real store.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::{self, Report};
use forebay_server::store::*;

/// The real store, with books of the test's own.
pub struct Booked {
    real: Arc<dyn Store>,
    books: Mutex<Books>,
}

#[derive(Default)]
pub struct Books {
    pub away: bool,
    pub ledgers: Vec<LedgerRow>,
    pub faults: Vec<FaultRow>,
    pub marks: Vec<TimeMark>,
    pub gaps: Vec<(AgentKey, wire::Gap)>,
    /// The fork that all points are of.
    pub fork: u32,
    /// How often the ledgers were asked for.
    pub checks: u64,
}

impl Booked {
    pub fn over(real: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { real, books: Mutex::default() })
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub fn real(&self) -> &Arc<dyn Store> {
        &self.real
    }

    fn ask(&self) -> Result<MutexGuard<'_, Books>, StoreError> {
        let books = self.books();
        if books.away { Err(StoreError::Away("no route".into())) } else { Ok(books) }
    }
}

/// The books of a buffer after a report that came in at `received`: all that was acknowledged, and
/// `beside` more or less, is here.
pub fn ledger(agent: AgentKey, acknowledged: u64, beside: i64, received: Micros) -> LedgerRow {
    let here = acknowledged.saturating_add_signed(beside);
    LedgerRow {
        agent,
        epoch: Epoch([7; 16]),
        fork: 0,
        stored: here,
        set_aside: 0,
        stored_at_report: here,
        report: Some((closed_report(acknowledged), received)),
        last_seen: received,
        current: true,
    }
}

/// Counts that close: 7 dropped (4 for want of room), 5 waiting, 2 in hand, 1 filtered.
pub fn closed_report(acknowledged: u64) -> Report {
    Report {
        produced: acknowledged + 15,
        filtered: 1,
        in_hand: 2,
        appended: acknowledged + 12,
        dropped: 7,
        dropped_full: 4,
        acknowledged,
        backlog_readings: 5,
        ..Report::default()
    }
}

#[async_trait]
impl Admission for Booked {
    async fn apply(&self, application: NewApplication) -> Result<Applied, StoreError> {
        self.real.apply(application).await
    }

    async fn applications(&self) -> Result<Vec<Application>, StoreError> {
        self.real.applications().await
    }

    async fn decide(&self, id: ApplicationId, word: Word, now: Micros) -> Result<bool, StoreError> {
        self.real.decide(id, word, now).await
    }

    async fn admit(
        &self,
        id: ApplicationId,
        certificate: [u8; 32],
        valid_until: Micros,
        now: Micros,
    ) -> Result<Option<AgentKey>, StoreError> {
        self.real.admit(id, certificate, valid_until, now).await
    }

    async fn leave(&self, agent: AgentKey, now: Micros) -> Result<(), StoreError> {
        self.real.leave(agent, now).await
    }

    async fn departures(&self) -> Result<Vec<(AgentKey, Micros)>, StoreError> {
        self.real.departures().await
    }

    async fn revoked_lately(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.real.revoked_lately().await
    }

    async fn adopt(&self, adopted: Adopted, now: Micros) -> Result<Option<AgentKey>, StoreError> {
        self.real.adopt(adopted, now).await
    }
}

#[async_trait]
impl Quarantine for Booked {
    async fn batches_aside(&self, most: usize) -> Result<Vec<AsideRow>, StoreError> {
        self.real.batches_aside(most).await
    }

    async fn batch_aside(&self, id: AsideId) -> Result<Option<(AsideRow, Vec<u8>, Micros)>, StoreError> {
        self.real.batch_aside(id).await
    }

    async fn odd_points(&self, most: usize) -> Result<Vec<OddPoint>, StoreError> {
        self.real.odd_points(most).await
    }

    async fn odd_readings(&self, point: PointKey, most: usize) -> Result<Vec<Timed>, StoreError> {
        self.real.odd_readings(point, most).await
    }

    async fn replay_batch(
        &self,
        id: AsideId,
        readings: Vec<Timed>,
        now: Micros,
    ) -> Result<Option<Replayed>, StoreError> {
        self.real.replay_batch(id, readings, now).await
    }

    async fn replay_readings(
        &self,
        point: PointKey,
        shift: Micros,
        now: Micros,
    ) -> Result<Replayed, StoreError> {
        self.real.replay_readings(point, shift, now).await
    }
}

#[async_trait]
impl Upkeep for Booked {
    async fn roll_up(&self, grain: Grain, now: Micros, most: u64) -> Result<Progress, StoreError> {
        self.real.roll_up(grain, now, most).await
    }

    async fn horizons(&self, points: &[PointKey]) -> Result<Horizons, StoreError> {
        self.real.horizons(points).await
    }

    async fn remove(&self, removal: &Removal) -> Result<Removed, StoreError> {
        self.real.remove(removal).await
    }

    async fn drop_before(&self, before: Micros) -> Result<Option<u64>, StoreError> {
        self.real.drop_before(before).await
    }

    async fn prepare_for(&self, now: Micros) -> Result<(), StoreError> {
        self.real.prepare_for(now).await
    }

    async fn facts(&self) -> Result<Facts, StoreError> {
        self.real.facts().await
    }
}

#[async_trait]
impl Store for Booked {
    fn within(self: Arc<Self>, _: TenantKey) -> Arc<dyn Store> {
        self
    }

    fn access(&self) -> Access {
        self.real.access()
    }

    async fn ledgers(&self, agent: Option<AgentKey>) -> Result<Vec<LedgerRow>, StoreError> {
        let mut books = self.books();
        books.checks += 1;
        drop(books);
        let of = |row: &&LedgerRow| agent.is_none_or(|agent| agent == row.agent);
        Ok(self.ask()?.ledgers.iter().filter(of).cloned().collect())
    }

    async fn faults(&self, agent: Option<AgentKey>, most: usize) -> Result<Vec<FaultRow>, StoreError> {
        let books = self.ask()?;
        let (mut over, of) = (0, |row: &&FaultRow| agent.is_none_or(|agent| agent == row.fault.agent));
        let mut rows: Vec<_> = books.faults.iter().filter(of).cloned().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.last));
        rows.retain(|row| {
            over += usize::from(row.over.is_some());
            row.over.is_none() || over <= most
        });
        Ok(rows)
    }

    async fn raise(&self, fault: Fault) -> Result<(), StoreError> {
        let mut books = self.ask()?;
        let is_it = |row: &&mut FaultRow| {
            let Fault { agent, kind, subject, .. } = &row.fault;
            row.over.is_none() && (agent, kind, subject) == (&fault.agent, &fault.kind, &fault.subject)
        };
        match books.faults.iter_mut().find(is_it) {
            Some(row) => {
                row.last = fault.at;
                row.fault = Fault { at: row.fault.at, ..fault };
            }
            None => books.faults.push(FaultRow { last: fault.at, fault, over: None }),
        }
        Ok(())
    }

    async fn clear(
        &self,
        agent: AgentKey,
        kind: FaultKind,
        subject: &str,
        now: Micros,
    ) -> Result<(), StoreError> {
        for row in &mut self.ask()?.faults {
            let Fault { agent: whose, kind: what, subject: which, .. } = &row.fault;
            if row.over.is_none() && (*whose, *what, which.as_str()) == (agent, kind, subject) {
                row.over = Some(now);
            }
        }
        Ok(())
    }

    async fn time_marks(
        &self,
        agent: Option<AgentKey>,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<TimeMark>, StoreError> {
        let touches = |mark: &&TimeMark| {
            agent.is_none_or(|agent| agent == mark.agent) && mark.from < to && mark.to >= from
        };
        Ok(self.ask()?.marks.iter().filter(touches).take(most).cloned().collect())
    }

    async fn points(
        &self,
        agent: Option<AgentKey>,
        search: &str,
        after: Option<PointKey>,
        most: usize,
    ) -> Result<Vec<PointRow>, StoreError> {
        let fork = self.ask()?.fork;
        let points = self.real.points(agent, search, after, most).await?;
        Ok(points.into_iter().map(|row| PointRow { fork, ..row }).collect())
    }

    async fn find_gaps(&self, _: &GapQuery) -> Result<Vec<GapRow>, StoreError> {
        let row = |(agent, gap): (AgentKey, wire::Gap)| GapRow { agent, gap, point: None };
        Ok(self.ask()?.gaps.iter().cloned().map(row).collect())
    }

    fn describe(&self) -> String {
        self.real.describe()
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.real.ready().await
    }

    async fn ingest(&self, deliveries: Vec<Delivery>) -> Result<Vec<Receipt>, StoreError> {
        self.real.ingest(deliveries).await
    }

    async fn fleet(&self) -> Result<Vec<AgentRow>, StoreError> {
        self.real.fleet().await
    }

    async fn query(&self, query: &Query) -> Result<Vec<(PointKey, Vec<Bucket>)>, StoreError> {
        self.real.query(query).await
    }

    async fn add_token(&self, token: NewToken) -> Result<(), StoreError> {
        self.real.add_token(token).await
    }

    async fn token(&self, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
        self.real.token(secret_hash, now).await
    }

    async fn renew(&self, agent: AgentKey, certificate: [u8; 32], until: Micros) -> Result<(), StoreError> {
        self.real.renew(agent, certificate, until).await
    }

    async fn standing(&self, certificate: [u8; 32]) -> Result<Standing, StoreError> {
        self.real.standing(certificate).await
    }

    async fn revoke(&self, agent: AgentKey) -> Result<(), StoreError> {
        self.real.revoke(agent).await
    }
}
