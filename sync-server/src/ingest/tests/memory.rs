//! A store in a few maps, exactly-once per batch like the real ones, that can be away, be slow or
//! refuse an agent on command.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::sync_answer::Verdict;
use tokio::sync::{Notify, OwnedMutexGuard};

use crate::store::*;

#[derive(Default)]
pub(crate) struct Memory {
    inner: Mutex<Inner>,
    gate: Arc<tokio::sync::Mutex<()>>,
    reached: Notify,
}

#[derive(Default)]
struct Inner {
    away: bool,
    refused: Option<AgentKey>,
    transactions: u64,
    in_transaction: usize,
    standing_queries: u64,
    agents: BTreeMap<i64, Agent>,
    tokens: HashMap<[u8; 32], NewToken>,
    applications: Vec<(NewApplication, Option<Word>)>,
    epochs: HashMap<(AgentKey, Epoch), Books>,
    bytes: HashMap<AgentKey, u64>,
}

struct Agent {
    site: String,
    gateway: String,
    certificate: ([u8; 32], Micros),
    revoked: bool,
}

#[derive(Clone, Default)]
struct Books {
    openings: BTreeSet<OpeningId>,
    dictionary: u32,
    gaps: u64,
    committed: BTreeSet<u64>,
    readings: Vec<Timed>,
    set_aside: BTreeMap<u64, Bytes>,
}

/// A delivery of empty batches with these sequences, for tests below the wire.
pub(crate) fn delivery(agent: i64, sequences: &[u64]) -> Delivery {
    let arrived =
        |sequence: &u64| Arrived::plain(Sequence(*sequence), PointId(0), Content::Readings(Arc::default()));
    let batches = sequences.iter().map(arrived).collect();
    Delivery { batches, ..Delivery::empty(AgentKey(agent), Epoch([1; 16]), 0) }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The books, unless the store is away.
    fn ask(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        if inner.away { Err(StoreError::Away("secret-host does not answer".into())) } else { Ok(inner) }
    }

    pub(crate) fn enrol(&self, site: &str, gateway: &str, fingerprint: [u8; 32], until: Micros) -> AgentKey {
        self.lock().enrol(site, gateway, fingerprint, until)
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    pub(crate) fn refuse_agent(&self, agent: i64) {
        self.lock().refused = Some(AgentKey(agent));
    }

    pub(crate) fn expire_certificates(&self) {
        self.lock().agents.values_mut().for_each(|agent| agent.certificate.1 = 1);
    }

    /// Transactions wait until the guard is dropped.
    pub(crate) fn hold_ingest(&self) -> OwnedMutexGuard<()> {
        self.gate.clone().try_lock_owned().unwrap()
    }

    /// Returns when a transaction has begun.
    pub(crate) async fn ingest_reached(&self) {
        self.reached.notified().await;
    }

    pub(crate) fn transactions(&self) -> u64 {
        self.lock().transactions
    }

    pub(crate) fn in_transaction(&self) -> usize {
        self.lock().in_transaction
    }

    pub(crate) fn standing_queries(&self) -> u64 {
        self.lock().standing_queries
    }

    pub(crate) fn readings(&self) -> usize {
        self.times().len()
    }

    pub(crate) fn times(&self) -> Vec<Micros> {
        self.lock().epochs.values().flat_map(|books| &books.readings).map(|reading| reading.time).collect()
    }

    /// Bytes in the books, of all agents.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes.values().sum()
    }

    pub(crate) fn set_aside(&self, sequence: u64) -> Option<Bytes> {
        self.lock().epochs.values().find_map(|books| books.set_aside.get(&sequence).cloned())
    }
}

impl Inner {
    fn enrol(&mut self, site: &str, gateway: &str, fingerprint: [u8; 32], until: Micros) -> AgentKey {
        let known = self.agents.iter().find(|(_, agent)| agent.site == site && agent.gateway == gateway);
        let key = known.map_or(self.agents.len() as i64 + 1, |(key, _)| *key);
        let certificate = (fingerprint, until);
        self.agents
            .insert(key, Agent { site: site.into(), gateway: gateway.into(), certificate, revoked: false });
        AgentKey(key)
    }

    fn verdict(&self, hash: [u8; 32], now: Micros) -> TokenVerdict {
        match self.tokens.get(&hash) {
            None => TokenVerdict::Unknown,
            Some(token) if token.expires <= now => TokenVerdict::Expired,
            Some(token) if token.uses == 0 => TokenVerdict::UsedUp,
            Some(_) => TokenVerdict::Valid,
        }
    }
}

impl Books {
    fn take(&mut self, delivery: &Delivery) -> Receipt {
        let greeted = delivery.greeting.iter().flatten();
        self.openings.extend(greeted.filter_map(|opening| OpeningId::try_from(&opening.id[..]).ok()));
        if delivery.opening.is_some_and(|opening| !self.openings.contains(&opening)) {
            return Receipt { greet: true, ..Default::default() };
        }
        if let Some((first, last)) = delivery.dictionary.first().zip(delivery.dictionary.last())
            && first.0.0 <= self.dictionary + 1
        {
            self.dictionary = self.dictionary.max(last.0.0);
        }
        self.gaps = delivery.gaps.iter().map(|gap| gap.number).fold(self.gaps, u64::max);
        let missing = delivery.batches.iter().any(|batch| batch.dictionary_revision.0 > self.dictionary);
        let mut receipt = Receipt {
            dictionary_revision: self.dictionary,
            gaps_known: self.gaps,
            dictionary_missing: missing,
            ..Default::default()
        };
        if missing {
            return receipt;
        }
        for Arrived { sequence, content, .. } in &delivery.batches {
            let verdict = match content {
                _ if !self.committed.insert(sequence.0) => Verdict::Duplicate,
                Content::Readings(readings) => {
                    self.readings.extend_from_slice(readings);
                    Verdict::Committed
                }
                Content::SetAside { bytes, .. } => {
                    self.set_aside.insert(sequence.0, bytes.clone());
                    Verdict::SetAside
                }
            };
            receipt.verdicts.push((*sequence, verdict));
        }
        receipt.committed = delivery.greeting.as_ref().map(|_| {
            let mut ranges = Ranges::default();
            for sequence in &self.committed {
                ranges.insert(*sequence..=*sequence);
            }
            (ranges, true)
        });
        receipt.points = (1..=self.dictionary).map(|n| (PointId(n), PointKey(i64::from(n)))).collect();
        receipt
    }
}

/// Nobody has access: every statement finds nothing.
struct Nobody;

#[async_trait]
impl Hands for Nobody {
    async fn transact(&self, _: bool, work: Work) -> Result<(), StoreError> {
        work(&mut Self).await
    }
}

#[async_trait]
impl Hand for Nobody {
    async fn run(&mut self, _: &str, _: &[Cell]) -> Result<Vec<Row>, StoreError> {
        Ok(Vec::new())
    }

    async fn alone(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Admission for Memory {
    async fn apply(&self, application: NewApplication) -> Result<Applied, StoreError> {
        let mut inner = self.ask()?;
        let (hash, key) = (application.secret_hash, application.key_hash);
        let known =
            inner.applications.iter().position(|(of, _)| of.secret_hash == hash && of.key_hash == key);
        if let Some(number) = known {
            let id = ApplicationId(number as i64);
            return Ok(inner.applications[number].1.clone().map_or(
                Applied::Pending { id, is_new: false },
                |word| match word {
                    Word::Yes => Applied::Approved(id),
                    Word::No(words) => Applied::Rejected(words),
                },
            ));
        }
        let verdict = inner.verdict(hash, application.now);
        if verdict != TokenVerdict::Valid {
            return Ok(Applied::Refused(verdict));
        }
        let mut waits = application.approval;
        if let Some(token) = inner.tokens.get_mut(&hash) {
            token.uses -= 1;
            waits |= token.approval;
        }
        let id = ApplicationId(inner.applications.len() as i64);
        inner.applications.push((application, (!waits).then_some(Word::Yes)));
        Ok(if waits { Applied::Pending { id, is_new: true } } else { Applied::Approved(id) })
    }

    async fn applications(&self) -> Result<Vec<Application>, StoreError> {
        Ok(vec![])
    }

    async fn decide(&self, id: ApplicationId, word: Word, _: Micros) -> Result<bool, StoreError> {
        let mut inner = self.ask()?;
        let found = inner.applications.get_mut(id.0 as usize);
        Ok(found.map(|application| application.1 = Some(word)).is_some())
    }

    async fn admit(
        &self,
        id: ApplicationId,
        certificate: [u8; 32],
        valid_until: Micros,
        _: Micros,
    ) -> Result<Option<AgentKey>, StoreError> {
        let mut inner = self.ask()?;
        let Some((application, Some(Word::Yes))) = inner.applications.get(id.0 as usize).cloned() else {
            return Ok(None);
        };
        Ok(Some(inner.enrol(&application.site, &application.gateway, certificate, valid_until)))
    }

    async fn leave(&self, agent: AgentKey, _: Micros) -> Result<(), StoreError> {
        self.revoke(agent).await
    }

    async fn departures(&self) -> Result<Vec<(AgentKey, Micros)>, StoreError> {
        Ok(vec![])
    }

    async fn revoked_lately(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        let inner = self.ask()?;
        let revoked = inner.agents.values().filter(|agent| agent.revoked);
        Ok(revoked.map(|agent| agent.certificate.0).collect())
    }

    async fn adopt(&self, adopted: Adopted, _: Micros) -> Result<Option<AgentKey>, StoreError> {
        let Adopted { site, gateway, certificate, valid_until } = adopted;
        let mut inner = self.ask()?;
        let is_this = |agent: &Agent| agent.site == site && agent.gateway == gateway && agent.revoked;
        if inner.agents.values().any(is_this) {
            return Ok(None);
        }
        Ok(Some(inner.enrol(&site, &gateway, certificate, valid_until)))
    }
}

#[async_trait]
impl Quarantine for Memory {
    async fn batches_aside(&self, _: usize) -> Result<Vec<AsideRow>, StoreError> {
        Ok(vec![])
    }

    async fn batch_aside(&self, _: AsideId) -> Result<Option<(AsideRow, Vec<u8>, Micros)>, StoreError> {
        Ok(None)
    }

    async fn odd_points(&self, _: usize) -> Result<Vec<OddPoint>, StoreError> {
        Ok(vec![])
    }

    async fn odd_readings(&self, _: PointKey, _: usize) -> Result<Vec<Timed>, StoreError> {
        Ok(vec![])
    }

    async fn replay_batch(
        &self,
        _: AsideId,
        _: Vec<Timed>,
        _: Micros,
    ) -> Result<Option<Replayed>, StoreError> {
        Ok(None)
    }

    async fn replay_readings(&self, _: PointKey, _: Micros, _: Micros) -> Result<Replayed, StoreError> {
        Ok(Replayed::default())
    }
}

#[async_trait]
impl Upkeep for Memory {
    async fn roll_up(&self, _: Grain, _: Micros, _: u64) -> Result<Progress, StoreError> {
        self.ask().map(|_| Progress::default())
    }

    async fn horizons(&self, _: &[PointKey]) -> Result<Horizons, StoreError> {
        Ok(Horizons::default())
    }

    async fn remove(&self, _: &Removal) -> Result<Removed, StoreError> {
        Ok(Removed::default())
    }

    async fn drop_before(&self, _: Micros) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    async fn prepare_for(&self, _: Micros) -> Result<(), StoreError> {
        Ok(())
    }

    async fn facts(&self) -> Result<Facts, StoreError> {
        Ok(Facts { words: self.describe(), tier: Tier::Sqlite, bytes: 0 })
    }
}

#[async_trait]
impl Store for Memory {
    fn describe(&self) -> String {
        "memory".into()
    }

    fn within(self: Arc<Self>, _: TenantKey) -> Arc<dyn Store> {
        self
    }

    fn access(&self) -> Access {
        Access::new(Arc::new(Nobody))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.ask().map(|_| ())
    }

    async fn ingest(&self, deliveries: Vec<Delivery>) -> Result<Vec<Receipt>, StoreError> {
        self.lock().in_transaction = deliveries.len();
        self.reached.notify_one();
        let _open = self.gate.lock().await;
        let mut inner = self.ask()?;
        inner.in_transaction = 0;
        inner.transactions += 1;
        if deliveries.iter().any(|delivery| Some(delivery.agent) == inner.refused) {
            return Err(StoreError::Refused("an agent it does not like".into()));
        }
        let receipts = deliveries.iter();
        let take = |delivery: &Delivery| {
            let receipt = inner.epochs.entry((delivery.agent, delivery.epoch)).or_default().take(delivery);
            if !receipt.greet {
                *inner.bytes.entry(delivery.agent).or_default() += delivery.bytes;
            }
            receipt
        };
        Ok(receipts.map(take).collect())
    }

    async fn ledgers(&self, _: Option<AgentKey>) -> Result<Vec<LedgerRow>, StoreError> {
        Ok(vec![])
    }

    async fn faults(&self, _: Option<AgentKey>, _: usize) -> Result<Vec<FaultRow>, StoreError> {
        Ok(vec![])
    }

    async fn raise(&self, _: Fault) -> Result<(), StoreError> {
        Ok(())
    }

    async fn clear(&self, _: AgentKey, _: FaultKind, _: &str, _: Micros) -> Result<(), StoreError> {
        Ok(())
    }

    async fn time_marks(
        &self,
        _: Option<AgentKey>,
        _: Micros,
        _: Micros,
        _: usize,
    ) -> Result<Vec<TimeMark>, StoreError> {
        Ok(vec![])
    }

    async fn fleet(&self) -> Result<Vec<AgentRow>, StoreError> {
        Ok(self.ask()?.agents.iter().map(|(key, agent)| row(*key, agent)).collect())
    }

    async fn points(
        &self,
        _: Option<AgentKey>,
        _: &str,
        _: Option<PointKey>,
        _: usize,
    ) -> Result<Vec<PointRow>, StoreError> {
        Ok(vec![])
    }

    async fn query(&self, _: &Query) -> Result<Vec<(PointKey, Vec<Bucket>)>, StoreError> {
        Ok(vec![])
    }

    async fn find_gaps(&self, _: &GapQuery) -> Result<Vec<GapRow>, StoreError> {
        Ok(vec![])
    }

    async fn add_token(&self, token: NewToken) -> Result<(), StoreError> {
        self.ask()?.tokens.insert(token.secret_hash, token);
        Ok(())
    }

    async fn token(&self, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
        Ok(self.ask()?.verdict(secret_hash, now))
    }

    async fn renew(&self, agent: AgentKey, certificate: [u8; 32], until: Micros) -> Result<(), StoreError> {
        if let Some(agent) = self.ask()?.agents.get_mut(&agent.0) {
            agent.certificate = (certificate, until);
        }
        Ok(())
    }

    async fn standing(&self, certificate: [u8; 32]) -> Result<Standing, StoreError> {
        let mut inner = self.ask()?;
        inner.standing_queries += 1;
        let found = inner.agents.iter().find(|(_, agent)| agent.certificate.0 == certificate);
        Ok(match found {
            None => Standing::Unknown,
            Some((key, agent)) if agent.revoked => Standing::Revoked(row(*key, agent)),
            Some((key, agent)) => Standing::Known(row(*key, agent)),
        })
    }

    async fn revoke(&self, agent: AgentKey) -> Result<(), StoreError> {
        if let Some(agent) = self.ask()?.agents.get_mut(&agent.0) {
            agent.revoked = true;
        }
        Ok(())
    }
}

fn row(key: i64, agent: &Agent) -> AgentRow {
    AgentRow {
        key: AgentKey(key),
        site: agent.site.clone(),
        gateway: agent.gateway.clone(),
        joined: 0,
        last_seen: None,
        revoked: agent.revoked,
        certificate: Some(agent.certificate),
        report: None,
        stored: 0,
        committed_batches: 0,
        set_aside: 0,
        epoch: None,
        pulse: Pulse::default(),
    }
}
