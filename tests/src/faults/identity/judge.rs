//! The judge: what each answer must have brought about, and what must be true at the end.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use bytes::Bytes;
use forebay_agent::uplink::state::Reply;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::gap::Reason;
use forebay_protocols::sync::wire::sync_answer::Verdict;
use forebay_protocols::sync::wire::{SyncAnswer, SyncRequest};
use forebay_server::ledger::{Books, Imbalance};
use forebay_server::store::{FaultKind, LedgerRow};
use prost::Message;

use super::super::Broken;
use super::World;
use super::gateway::Gateway;
use super::house::Row;

impl World {
    /// A request arrives, and the server is held to what it answers.
    pub(super) async fn arrive(&mut self, server: usize, body: &Bytes) -> Result<Reply> {
        let request = SyncRequest::decode(body.clone())?;
        let epoch = Epoch(request.epoch[..].try_into()?);
        let said = &self.house.said;
        let former = said.current.filter(|_| !said.epochs.contains(&epoch));
        let wiped = former.map(|(epoch, _)| self.house.gaps(epoch, Reason::Wiped.into())).transpose()?;
        let reply = self.house.sync(server, body.clone()).await?;
        match &reply {
            Reply::Answer(answer) | Reply::Lacking(answer) => {
                if let (Some(former), Some(wiped)) = (former, wiped) {
                    self.judge_wipe(former, wiped).await?;
                }
                self.take_down(epoch, &request, answer).await?;
            }
            Reply::Stranger => {}
            reply => self.tally.add(Broken::Other(format!("the server answers {reply:?}"))),
        }
        Ok(reply)
    }

    /// A new buffer has come, and the one before held so much by its last report.
    async fn judge_wipe(&mut self, (former, fork): (Epoch, u32), mut before: Vec<u64>) -> Result<()> {
        if self.diverged.contains(&former) {
            return Ok(());
        }
        let (backlog, since) = self.house.said.told.get(&(former, fork)).copied().unwrap_or_default();
        let held = backlog.saturating_sub(since);
        let mut after = self.house.gaps(former, Reason::Wiped.into())?;
        before.extend((held > 0).then_some(held));
        before.sort_unstable();
        after.sort_unstable();
        if before != after {
            let words = format!("the gaps of wiped buffers should be {before:?}, and are {after:?}");
            self.tally.add(Broken::Unaccounted(held, words));
        }
        if held > 0 && !self.house.stands(FaultKind::Wiped, former).await? {
            self.tally.add(Broken::Other("a wiped buffer is no fault".into()));
        }
        Ok(())
    }

    async fn take_down(&mut self, epoch: Epoch, request: &SyncRequest, answer: &SyncAnswer) -> Result<()> {
        let size = self.size;
        let said = &mut self.house.said;
        let here = said.stored.iter().map(|number| &self.batches[*number]);
        let newest = here.filter(|batch| batch.epoch == epoch).map(|batch| batch.sequence).max().unwrap_or(0);
        for opening in request.greeting.iter().flat_map(|greeting| &greeting.openings) {
            said.heard.entry(opening.id.clone()).or_insert(newest);
        }
        said.epochs.insert(epoch);
        said.current = Some((epoch, answer.fork));
        if let Some(report) = &request.report {
            said.told.insert((epoch, answer.fork), (report.backlog_readings, 0));
            let kept = said.stored.union(&said.aside).filter(|batch| self.batches[**batch].epoch == epoch);
            let booked = kept.count() as u64 * size;
            if !self.diverged.contains(&epoch) {
                let lacks = report.acknowledged > booked;
                if self.house.stands(FaultKind::ServerRestored, epoch).await? != lacks {
                    let words = format!("{} acknowledged, {booked} here", report.acknowledged);
                    self.tally.add(Broken::Other(format!("a restored server, is it a fault? {words}")));
                }
            }
        }
        let numbers = request.batches.iter().map(|sent| self.by_bytes.get(&sent.batch).copied());
        let numbers: Option<Vec<usize>> = numbers.collect();
        let numbers = numbers.context("a batch was sent that nobody appended")?;
        let by_sequence: HashMap<u64, usize> =
            numbers.into_iter().map(|number| (self.batches[number].sequence, number)).collect();
        let mut is_fork = false;
        for outcome in &answer.outcomes {
            let number = *by_sequence.get(&outcome.sequence).context("a verdict on what was not sent")?;
            let said = &mut self.house.said;
            let kept = (said.stored.contains(&number), said.aside.contains(&number));
            match (outcome.verdict(), kept) {
                (Verdict::Committed, (false, false)) | (Verdict::SetAside, (false, false)) => {
                    if outcome.verdict() == Verdict::Committed {
                        said.stored.insert(number);
                    } else {
                        said.aside.insert(number);
                    }
                    let told = said.told.iter_mut().filter(|((of, _), _)| *of == epoch);
                    told.for_each(|(_, (_, since))| *since += size);
                }
                (Verdict::Duplicate, (false, false)) => {
                    let words = format!("batch {} is called a duplicate and is not here", outcome.sequence);
                    self.tally.add(Broken::Lost(size, words));
                }
                (Verdict::Committed, _) | (Verdict::SetAside, (true, _)) => {
                    let words = format!("batch {} is taken again: {outcome:?}", outcome.sequence);
                    self.tally.add(Broken::Twice(size, words));
                }
                (Verdict::Duplicate, _) | (Verdict::SetAside, (false, true)) => {}
                (Verdict::Retry | Verdict::Unspecified, _) => continue,
            }
            let arrived = self.house.said.arrived.entry((epoch, outcome.sequence)).or_default();
            is_fork |= arrived.insert(number) && arrived.len() > 1;
        }
        if is_fork && !self.house.stands(FaultKind::Fork, epoch).await? {
            self.tally.add(Broken::Other("two batches came under one number, and no fork was found".into()));
        }
        Ok(())
    }

    /// The end: everything is delivered.
    pub(super) async fn judge(&mut self) -> Result<()> {
        let rows = self.house.rows()?;
        let ledgers = self.house.ledgers().await?;
        self.judge_faults().await?;
        let mut broken = Vec::new();
        let places = self.places(&rows, &mut broken);
        for gateway in &self.gateways {
            self.judge_history(gateway, &places, &mut broken);
            self.judge_gaps(gateway, &mut broken)?;
            self.judge_books(gateway, &places, &ledgers, &mut broken);
        }
        for (one, gateway) in self.gateways.iter().enumerate() {
            for other in self.gateways.iter().skip(one + 1) {
                self.judge_pair(gateway, other, &places, &mut broken);
            }
        }
        broken.into_iter().for_each(|broken| self.tally.add(broken));
        Ok(())
    }

    /// No fault without its cause.
    async fn judge_faults(&mut self) -> Result<()> {
        for row in self.house.faults().await? {
            let epoch = row.fault.subject.split('/').next().unwrap_or_default();
            let is_diverged = self.diverged.iter().any(|one| one.to_string() == epoch);
            let has_cause = match row.fault.kind {
                FaultKind::Fork => is_diverged,
                FaultKind::ServerRestored => self.put_back > 0 || is_diverged,
                FaultKind::Wiped => self.latest.len() > 1,
                FaultKind::Imbalance => false,
            };
            if !has_cause {
                self.tally.add(Broken::Other(format!("a fault without a cause: {:?}", row.fault)));
            }
        }
        Ok(())
    }

    /// Where each batch is: under which fork, or set aside. Every reading is there once at the most,
    /// and whole batches are.
    fn places(&self, rows: &[Row], broken: &mut Vec<Broken>) -> HashMap<usize, Option<u32>> {
        let numbers = self.batches.iter().enumerate();
        let of: HashMap<i64, usize> = numbers
            .flat_map(|(number, batch)| batch.values.iter().map(move |value| (*value, number)))
            .collect();
        let mut found: HashMap<i64, u64> = HashMap::new();
        let mut places: HashMap<usize, BTreeSet<Option<u32>>> = HashMap::new();
        for Row { value, point } in rows {
            let Some(number) = of.get(value) else {
                broken.push(Broken::Other(format!("nobody ever measured {value}")));
                continue;
            };
            *found.entry(*value).or_default() += 1;
            let batch = &self.batches[*number];
            places.entry(*number).or_default().insert(point.as_ref().map(|(fork, _)| *fork));
            if let Some((_, name)) = point.as_ref().filter(|(_, name)| **name != *batch.point.name) {
                broken.push(Broken::Other(format!("a reading of {} stands under {name}", batch.point.name)));
            }
        }
        let twice = found.values().filter(|count| **count > 1).count() as u64;
        if twice > 0 {
            broken.push(Broken::Twice(twice, "at the end".into()));
        }
        for number in places.keys() {
            let there = self.batches[*number].values.iter().filter(|value| found.contains_key(value)).count();
            if there as u64 != self.size {
                broken.push(Broken::Lost(self.size - there as u64, "of a batch that is here in part".into()));
            }
        }
        places.into_iter().filter_map(|(number, at)| Some((number, at.into_iter().next_back()?))).collect()
    }

    /// All that this gateway's history holds is here, or in a gap.
    fn judge_history(
        &self,
        gateway: &Gateway,
        places: &HashMap<usize, Option<u32>>,
        broken: &mut Vec<Broken>,
    ) {
        let missing = gateway
            .folder
            .history
            .iter()
            .filter(|(_, number)| !places.contains_key(number) && !self.excused.contains(number));
        let missing: Vec<u64> = missing.map(|(sequence, _)| *sequence).collect();
        if !missing.is_empty() {
            let words = format!("batches {missing:?} of fork {} are not here", gateway.fork());
            broken.push(Broken::Lost(missing.len() as u64 * self.size, words));
        }
        let aside =
            gateway.folder.history.values().filter(|number| places.get(number) == Some(&None)).count();
        if aside > 0 {
            broken.push(Broken::Other(format!("{aside} batches were set aside, and could be told apart")));
        }
    }

    /// Every gap record has arrived.
    fn judge_gaps(&self, gateway: &Gateway, broken: &mut Vec<Broken>) -> Result<()> {
        let known = self.house.gap_records(gateway.folder.epoch)?;
        for gap in gateway.store().gaps(0, usize::MAX) {
            let times = known.iter().filter(|(device, reason, count)| {
                (device, *reason, *count) == (&gap.device, gap.reason, gap.count)
            });
            let (times, is_unique) = (times.count(), !gap.device.is_empty());
            if times == 0 || is_unique && times > 1 {
                let words = format!("the gap {gap:?} is here {times} times");
                broken.push(Broken::Unaccounted(gap.count.max(1), words));
            }
        }
        Ok(())
    }

    /// The ledger closes, but for what the server lost.
    fn judge_books(
        &self,
        gateway: &Gateway,
        places: &HashMap<usize, Option<u32>>,
        ledgers: &[LedgerRow],
        broken: &mut Vec<Broken>,
    ) {
        let epoch = gateway.folder.epoch;
        let status = gateway.store().status();
        let history = &gateway.folder.history;
        let here = history.values().filter(|number| places.contains_key(number)).count() as u64 * self.size;
        let all = history.len() as u64 * self.size;
        let counts = status.counts;
        if (counts.appended, counts.acknowledged, counts.dropped) != (all, all, 0) {
            broken.push(Broken::Unaccounted(1, format!("{all} appended, and the buffer says {counts:?}")));
        }
        let Some(fork) = gateway.branch else {
            return broken.push(Broken::Other("a gateway was never answered".into()));
        };
        let Some(row) = ledgers.iter().find(|row| (row.epoch, row.fork) == (epoch, fork)) else {
            return broken.push(Broken::Other(format!("no ledger of {epoch}/{fork}")));
        };
        let is_alone = !self.diverged.contains(&epoch);
        let held = row.stored_at_report;
        if held < here || is_alone && held != here {
            let words = format!("{here} are here of {epoch}/{fork}, and the ledger says {held}");
            broken.push(Broken::Unaccounted(held.abs_diff(here), words));
        }
        for imbalance in Books(row).verdict().imbalances() {
            let explained = matches!(imbalance, Imbalance::Lost { .. }) && imbalance.readings() <= all - here;
            if !explained {
                broken.push(Broken::Unaccounted(imbalance.readings(), imbalance.to_string()));
            }
        }
    }

    /// What each of two copies appended by itself stands apart.
    fn judge_pair(
        &self,
        one: &Gateway,
        other: &Gateway,
        places: &HashMap<usize, Option<u32>>,
        broken: &mut Vec<Broken>,
    ) {
        let epoch = one.folder.epoch;
        if epoch != other.folder.epoch {
            return;
        }
        let lines = one.folder.line.iter().zip(&other.folder.line);
        let common = lines.take_while(|(one, other)| one == other).count();
        let own = |of: &Gateway, not_of: &Gateway| -> BTreeSet<u32> {
            // What the server had before it heard of the copy, and the copy leaves out, may be what a
            // power cut took from its disk.
            let [of_since, other_since] = [of, not_of].map(|gateway| gateway.folder.line.get(common));
            let before = other_since.and_then(|(id, first)| {
                let newest = *self.house.said.heard.get(id)?;
                Some(newest.min(first - 1).min(of_since.map_or(u64::MAX, |(_, first)| first - 1)))
            });
            let own = of.folder.history.range(before.unwrap_or(0) + 1..);
            let own = own.filter(|(sequence, number)| not_of.folder.history.get(sequence) != Some(number));
            own.filter_map(|(_, number)| places.get(number).copied().flatten()).collect()
        };
        let common: Vec<u32> = own(one, other).intersection(&own(other, one)).copied().collect();
        if !common.is_empty() {
            broken
                .push(Broken::Other(format!("two copies have readings of their own under forks {common:?}")));
        }
    }
}
