//! What a transaction writes, gathered from its plans. Pure.

use std::collections::{BTreeMap, HashMap};

use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;

use super::super::rollups::{self, Due};
use super::super::{AgentKey, Delivery, Micros, Pace, PointKey, StoreError, Timed, Traffic, sieve};
use super::{Failure, Plan};

/// A reading and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub point: PointKey,
    pub reading: &'a Timed,
}

/// All readings of a transaction, sorted for writing.
#[derive(Debug, Default)]
pub struct Sheet<'a> {
    /// By (point, time).
    pub rows: Vec<Row<'a>>,
    /// Times outside reason, with the moment of arrival.
    pub quarantine: Vec<(Row<'a>, Micros)>,
    /// The newest of `rows` for each point.
    pub newest: Vec<Row<'a>>,
    /// The minutes that `rows` touch: to be noted in the same transaction.
    pub due: Vec<Due>,
}

impl<'a> Sheet<'a> {
    /// Sorts the readings of `plans`, and fills in the points of their receipts. `keys` leads from
    /// (branch, dictionary number) to the point.
    pub fn new(plans: &mut [Plan<'a>], keys: &HashMap<(i64, u32), PointKey>) -> Result<Self, Failure> {
        let mut sheet = Self::default();
        let mut owners: HashMap<PointKey, AgentKey> = HashMap::new();
        for plan in plans {
            let received = plan.delivery.received;
            let mut points: BTreeMap<PointId, PointKey> = BTreeMap::new();
            for used in &plan.used {
                let key = *keys.get(used).ok_or_else(|| {
                    let words = format!("the dictionary has lost its number {}", used.1);
                    Failure::Store(StoreError::Refused(words))
                })?;
                owners.insert(key, plan.delivery.agent);
                // A fork's batches from before the copy are the other branch's points; its own count.
                match Some(used.0) == plan.branch {
                    true => points.insert(PointId(used.1), key),
                    false => Some(*points.entry(PointId(used.1)).or_insert(key)),
                };
            }
            plan.receipt.points = points.into_iter().collect();
            for taken in &plan.taken {
                for run in taken.readings.chunk_by(|a, b| a.point == b.point) {
                    let number = run.first().map_or(0, |reading| reading.point.0);
                    let Some(&point) = keys.get(&(taken.branch, number)) else { continue };
                    for reading in run {
                        let row = Row { point, reading };
                        match sieve::within_reason(reading.time, received) {
                            true => sheet.rows.push(row),
                            false => sheet.quarantine.push((row, received)),
                        }
                    }
                }
            }
        }
        sheet.sort(&owners);
        Ok(sheet)
    }

    /// Readings of one agent that were aside, with their points; `now` judges their times.
    pub fn replayed(placed: &'a [(PointKey, Timed)], agent: AgentKey, now: Micros) -> Self {
        let mut sheet = Self::default();
        for (point, reading) in placed {
            let row = Row { point: *point, reading };
            match sieve::within_reason(reading.time, now) {
                true => sheet.rows.push(row),
                false => sheet.quarantine.push((row, now)),
            }
        }
        let owners = placed.iter().map(|(point, _)| (*point, agent)).collect();
        sheet.sort(&owners);
        sheet
    }

    /// Rows in the order of writing, and what follows from it.
    fn sort(&mut self, owners: &HashMap<PointKey, AgentKey>) {
        // Batches come sorted, and this sort is quick where it finds runs. An index fills in order.
        self.rows.sort_by_key(|row| (row.point, row.reading.time));
        self.due = rollups::touched(&self.rows, owners);
        self.newest =
            self.rows.chunk_by(|a, b| a.point == b.point).filter_map(|run| run.last().copied()).collect();
    }
}

/// Readings whose times were not what the gateway believed: one row for each boot and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub branch: i64,
    pub boot_counter: i64,
    pub clock: i32,
    pub from: Micros,
    pub to: Micros,
    pub readings: i64,
    pub correction_us: i64,
}

/// What the batches of `plans` add to the marks.
pub fn marks(plans: &[Plan<'_>]) -> Vec<Mark> {
    let mut marks: BTreeMap<(i64, i64, i32), Mark> = BTreeMap::new();
    for plan in plans {
        let odd = |clock| !matches!(clock, wire::sent_batch::Clock::Stated);
        for taken in plan.taken.iter().filter(|taken| odd(taken.clock)) {
            // One in quarantine must not stretch the mark over a century.
            let received = plan.delivery.received;
            let times = taken.readings.iter().map(|reading| reading.time);
            let times = || times.clone().filter(|time| sieve::within_reason(*time, received));
            let Some((from, to)) = times().min().zip(times().max()) else { continue };
            let (branch, boot_counter) = (taken.branch, sieve::count(taken.boot_counter));
            let clock = i32::from(taken.clock);
            let mark = marks.entry((branch, boot_counter, clock)).or_insert(Mark {
                branch,
                boot_counter,
                clock,
                from,
                to,
                readings: 0,
                correction_us: 0,
            });
            (mark.from, mark.to) = (mark.from.min(from), mark.to.max(to));
            mark.readings += taken.readings.len() as i64;
            mark.correction_us = taken.correction_us;
        }
    }
    marks.into_values().collect()
}

/// What the deliveries of an agent come to.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    pub agent: AgentKey,
    /// Readings.
    pub stored: i64,
    /// Batches stored as readings.
    pub batches: i64,
    /// Batches set aside.
    pub aside: i64,
    /// When the newest of them came; the rest is as that one says.
    pub seen: Micros,
    pub report: Option<&'a wire::Report>,
    pub epoch: Epoch,
    pub branch: i64,
    /// As [`Pulse::newest`](super::super::Pulse::newest), of what they bring.
    pub newest: Option<Micros>,
    pub traffic: Traffic,
    pub pace: Option<Pace>,
    pub waiting: u64,
}

impl Plan<'_> {
    /// The time of the newest reading it stores. A device's clock may be ahead: as of when it came, then.
    fn newest(&self) -> Option<Micros> {
        let received = self.delivery.received;
        let times = self.taken.iter().flat_map(|taken| taken.readings).map(|reading| reading.time);
        times.filter(|time| sieve::within_reason(*time, received)).max().map(|newest| newest.min(received))
    }
}

/// One for each agent that need not greet first.
pub fn news<'a>(plans: &[Plan<'a>]) -> Vec<News<'a>> {
    let mut all: BTreeMap<AgentKey, News<'a>> = BTreeMap::new();
    for plan in plans {
        let Some(branch) = plan.branch else { continue };
        let &Delivery { agent, epoch, received, ref report, bytes, .. } = plan.delivery;
        let nothing = News {
            agent,
            stored: 0,
            batches: 0,
            aside: 0,
            seen: received,
            report: None,
            epoch,
            branch,
            newest: None,
            traffic: Traffic::of(received, 0),
            pace: plan.pace,
            waiting: plan.waiting,
        };
        let news = all.entry(agent).or_insert(nothing);
        news.newest = news.newest.max(plan.newest());
        news.traffic = news.traffic.and(Traffic::of(received, bytes));
        news.stored += plan.stored() as i64;
        news.batches += plan.taken.len() as i64;
        news.aside += plan.aside.len() as i64;
        if received >= news.seen {
            (news.seen, news.epoch, news.branch) = (received, epoch, branch);
            (news.pace, news.waiting) = (plan.pace, plan.waiting);
            news.report = report.as_ref().or(news.report);
        }
    }
    all.into_values().collect()
}
