//! A session at work: what it still has to ask for, what it is told, and when it is time for something.

use std::collections::HashSet;
use std::sync::Arc;

use forebay_config::field::Timestamp;
use opcua::types::{Error, NodeId, StatusCode, VariableId};
use tokio::time::Instant;

use super::folders::Changes;
use super::items::{Item, Items, Portions, Refusal};
use super::poll::Poll;
use super::reports::{Report, gather, sample};
use super::structures::{MISMATCH, Types};
use super::subscription::Subscription;
use super::survey::{MOST_ENCODINGS, Surroundings, Survey, Surveyed};
use super::unfold::Unfolder;
use super::values::quality;
use super::{OpcUaSource, session::Session};
use crate::field::source::{Harvest, Sample};
use crate::reading::{Fault, Quality, Stamp};

/// What a person is told of one link, at the most. A server may have ever new things to be told of.
const MOST_REMARKS: usize = 10_000;

/// What lives as long as a session reports.
pub(super) struct Running {
    pub way: Way,
    pub items: Items,
    pub survey: Survey,
    /// What is known of the server's structures.
    pub types: Types,
    /// Since when they are learnt.
    pub types_since: Instant,
    pub unfolder: Unfolder,
    /// Nodes that the configuration names by id, with the device's name.
    pub nodes: HashSet<(Arc<str>, NodeId)>,
    /// When `next` last returned: since then nobody has listened.
    pub listened_until: Instant,
}

/// How values come.
pub(super) enum Way {
    Told(Subscription),
    Read(Poll),
}

impl OpcUaSource {
    /// One step of a running session.
    pub(super) async fn step(&mut self) -> Result<Harvest, Error> {
        let mut harvest = Harvest::default();
        let surveyed = self.look_further().await?;
        let (Some(session), Some(running)) = (&mut self.session, &mut self.running) else {
            return Err(Error::new(StatusCode::BadNotConnected, "not connected"));
        };
        if let Some(Surveyed { found, remarks, is_first }) = surveyed {
            let asked = &mut running.items;
            let known = self.configured.items;
            let lists = (&mut self.points, &mut self.items);
            let Changes { new, moved, overflows } =
                self.finds.take(found, &self.folders, lists, self.configured.points);
            let count = self.items.len();
            if is_first {
                // In a new session all have to be asked for; those that are not there say so.
                asked.note_found(count, known..count);
            } else {
                asked.note_found(count, new);
                asked.note_changed(moved);
            }
            let overflow = overflows.then(|| {
                "nodes of folders came and went, twice as many as `max_points` allows; new ones are not taken until \
                 the agent is started again"
                    .to_owned()
            });
            harvest.remarks.extend(remarks.into_iter().chain(overflow));
        }
        if running.items.are_waiting() {
            let (portions, how, asked) = (&mut self.portions, self.asking, &mut running.items);
            let refusals = match &mut running.way {
                Way::Told(subscription) => {
                    asked.ask(session, subscription.id, &self.items, portions, how).await?
                }
                Way::Read(poll) => poll.ask(session, asked, &self.items, portions, how.retry).await?,
            };
            // One portion at a time, so that what was asked for before is reported meanwhile.
            let stamp = Stamp::now();
            for refusal in refusals {
                let Some(item) = self.items.get(refusal.item) else { continue };
                running.unfolder.forget(item);
                harvest.samples.extend(absent(item, &refusal, stamp));
            }
        }
        let heartbeat = session.channel.asked_at() + session.timeout / 3;
        let until = if running.items.are_waiting() || !harvest.samples.is_empty() {
            Instant::now()
        } else {
            [running.items.retry_at(), running.survey.due()]
                .into_iter()
                .flatten()
                .fold(heartbeat, Instant::min)
        };
        let reports = match &mut running.way {
            Way::Told(subscription) => {
                subscription.excuse(running.listened_until.elapsed());
                let until = until.min(subscription.deadline());
                match subscription.next(session, self.asking.limit, until).await? {
                    Some(news) => {
                        harvest.discarded += news.lost;
                        let mut reports = Vec::new();
                        for message in news.messages {
                            reports.extend(gather(self.items.len(), message, &mut harvest.discarded)?);
                        }
                        Some(reports)
                    }
                    None if subscription.deadline() <= Instant::now() => {
                        return Err(Error::new(StatusCode::BadTimeout, "no sign of life"));
                    }
                    None => None,
                }
            }
            Way::Read(poll) => {
                session.channel.idle(poll.due().map_or(until, |due| due.min(until))).await?;
                let reports = poll.read(session, &running.items, &mut self.portions).await?;
                Some(reports).filter(|reports| !reports.is_empty())
            }
        };
        if let Some(reports) = reports {
            let retry = self.asking.retry;
            for report in reports {
                let Some(item) = self.items.get(report.handle.item) else { continue };
                let terms = Terms { timestamp: self.timestamp, retry };
                let remark = running
                    .take(session, item, report, terms, &mut self.portions, &mut harvest.samples)
                    .await?;
                harvest.remarks.extend(remark.and_then(|(slot, words)| {
                    let point = self.points.get(slot)?;
                    Some(format!("{}/{} is no reading: {words}", point.device, point.name))
                }));
            }
        } else {
            let now = Instant::now();
            // Where reports are rarer than the session lasts, something else must keep it.
            if heartbeat <= now {
                session.read(&[VariableId::Server_ServerStatus_State.into()]).await?;
            }
            if running.items.retry_at().is_some_and(|at| at <= now) {
                let subscription = match &running.way {
                    Way::Told(subscription) => subscription.id,
                    Way::Read(_) => 0,
                };
                running.items.retry(session, subscription, self.asking.limit).await?;
            }
        }
        running.listened_until = Instant::now();
        harvest
            .remarks
            .retain(|remark| self.remarked.len() < MOST_REMARKS && self.remarked.insert(remark.clone()));
        Ok(harvest)
    }

    /// One request more of a look through the folders, if it is time.
    async fn look_further(&mut self) -> Result<Option<Surveyed>, Error> {
        let (Some(session), Some(running)) = (&mut self.session, &mut self.running) else {
            return Ok(None);
        };
        let Running { items, survey, types, nodes, .. } = running;
        let around =
            Surroundings { folders: &self.folders, namespaces: items.namespaces(), configured: nodes };
        survey.step(session, &around, &mut self.portions, types).await
    }
}

/// What all reports of a link are taken with.
#[derive(Clone, Copy)]
struct Terms {
    timestamp: Timestamp,
    retry: std::time::Duration,
}

impl Running {
    /// Takes one report. Gives the point of it whose part cannot be had, with the reason, if there is one.
    async fn take(
        &mut self,
        session: &mut Session,
        item: &Item,
        report: Report,
        terms: Terms,
        portions: &mut Portions,
        samples: &mut Vec<Sample>,
    ) -> Result<Option<(usize, Arc<str>)>, Error> {
        let at = report.handle.item;
        // A node that is not there is told once, and its item is asked for again.
        let status = report.told.status.unwrap_or(StatusCode::Good);
        if quality(status) == Quality::Bad(Fault::NotFound) {
            if let Way::Read(poll) = &mut self.way {
                poll.forget(at);
            }
            self.unfolder.forget(item);
            if !self.items.note_absent(at, terms.retry) {
                return Ok(None);
            }
        } else {
            self.items.note_present(at);
        }
        if let [only] = item.parts.as_slice()
            && only.part.is_whole()
        {
            let server_time = |time| session.channel.server_time(time);
            samples.push(sample(only.slot, &only.conversion, report, terms.timestamp, server_time));
            return Ok(None);
        }
        let is_monitored = matches!(self.way, Way::Told(_));
        let Some(first) = self.items.judge_range(item, &report, is_monitored) else { return Ok(None) };
        let mut rounds = 0;
        let unfolded = loop {
            let server_time = |time| session.channel.server_time(time);
            let unfolded = report.unfold(item, first, &self.types, terms.timestamp, server_time);
            rounds += 1;
            let is_outdated = |(_, words): &(usize, Arc<str>)| &**words == MISMATCH;
            match &unfolded.unlearned {
                _ if rounds > MOST_ENCODINGS => break unfolded,
                Some(encoding) => {
                    self.types.learn(session, encoding, portions).await?;
                    // There are too many types already.
                    if !self.types.knows_encoding(encoding) {
                        break unfolded;
                    }
                }
                // The type may have changed meanwhile. Asked for again, but not with each report.
                None if unfolded.trouble.as_ref().is_some_and(is_outdated)
                    && self.types_since.elapsed() >= terms.retry =>
                {
                    self.types.clear();
                    self.types_since = Instant::now();
                }
                None => break unfolded,
            }
        };
        let trouble = unfolded.trouble.clone();
        samples.extend(self.unfolder.news(item, unfolded));
        Ok(trouble)
    }
}

/// What is said of an item that the server does not report: once for each of its points.
fn absent(item: &Item, refusal: &Refusal, stamp: Stamp) -> impl Iterator<Item = Sample> {
    let quality = quality(refusal.status);
    item.parts.iter().map(move |part| Sample { slot: part.slot, stamp, value: None, quality })
}
