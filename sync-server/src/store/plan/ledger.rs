//! The books of a branch: what it stored and set aside, against what the gateway's reports say; and
//! the faults that follow, in words. Pure.

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;

use super::super::{AgentKey, Arrived, Fault, FaultKind, Micros, Pace};
use super::lineage::Family;

/// The books of one branch.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Readings stored, quarantine included.
    pub stored: u64,
    /// Readings in batches set aside, as far as their envelopes tell.
    pub set_aside: u64,
    /// Both of the history in common with the branches it left: the gateway's counts include them.
    pub inherited: u64,
    /// From before such books were kept: the first report is believed.
    pub uncounted: bool,
    /// [`Ledger::booked`] when the last report came.
    pub stored_at_report: u64,
    /// When the last report came.
    pub reported: Option<Micros>,
    /// The last report, if it came in this transaction.
    pub report: Option<Vec<u8>>,
    /// Readings that waited in the gateway then.
    pub backlog: u64,
    /// How that changes, and how much comes; once there were two reports.
    pub pace: Option<Pace>,
    /// When all that had waited was here, for the last time.
    pub drained: Micros,
    /// When the last delivery came.
    pub last_seen: Micros,
    /// The gateway says that more was acknowledged than is here.
    pub refilling: bool,
    /// The gateway came back with another buffer while this one held readings.
    pub wiped: bool,
}

impl Ledger {
    /// Readings of this buffer that are here, wherever they are booked.
    pub fn booked(&self) -> u64 {
        self.inherited.saturating_add(self.stored).saturating_add(self.set_aside)
    }

    /// Readings that waited when the last report came and are not here yet, as far as counts can tell.
    pub fn held(&self) -> u64 {
        self.backlog.saturating_sub(self.booked().saturating_sub(self.stored_at_report))
    }
}

/// The branch an agent wrote from before a new epoch.
#[derive(Debug)]
pub struct Former {
    pub key: i64,
    pub epoch: Epoch,
    pub fork: u32,
    /// [`Ledger::held`].
    pub held: u64,
    pub drained: Micros,
    pub reported: Micros,
}

impl Former {
    /// Why the gap is there.
    pub const REASON: i32 = wire::gap::Reason::Wiped as i32;

    /// The branch `key`, by its books.
    pub fn new(key: i64, epoch: Epoch, fork: u32, ledger: &Ledger) -> Self {
        let reported = ledger.reported.unwrap_or_default();
        Self { key, epoch, fork, held: ledger.held(), drained: ledger.drained, reported }
    }

    /// What it held was taken after this moment.
    pub fn from(&self) -> Micros {
        self.drained.min(self.reported)
    }
}

/// What a person should know of, or need no longer.
#[derive(Debug)]
pub enum Event {
    /// A branch was made.
    Forked(usize),
    /// A known sequence came with another content.
    Differs { branch: usize, sequence: u64 },
    /// The epoch is new, and the one before held readings.
    Wiped(Former),
    /// All that the wiped buffer held has come after all.
    Returned(usize),
    /// The gateway was told of more than is here.
    Lacks { branch: usize, told: u64, booked: u64 },
    /// No longer.
    Refilled(usize),
}

/// What becomes of the list of faults.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    Raise(Fault),
    Clear { agent: AgentKey, kind: FaultKind, subject: String, at: Micros },
}

impl Family {
    /// Takes a report that came to branch `at`, before the batches that came with it.
    pub fn report(&mut self, at: usize, report: &wire::Report, received: Micros) {
        let ledger = &mut self.branches[at].ledger;
        // Servers' clocks differ a little: the newest one says how the gateway is.
        if ledger.reported.is_some_and(|before| before > received) {
            return;
        }
        if std::mem::take(&mut ledger.uncounted) {
            ledger.inherited += report.acknowledged.saturating_sub(ledger.booked());
        }
        if let Some(before) = ledger.reported.filter(|_| ledger.held() == 0) {
            ledger.drained = before;
        }
        let booked = ledger.booked();
        if let Some(before) = ledger.reported {
            let seconds = received.saturating_sub(before) as f64 / 1e6;
            let came = booked.saturating_sub(ledger.stored_at_report) as f64;
            let shrank = ledger.backlog as f64 - report.backlog_readings as f64;
            ledger.pace = Pace::after(ledger.pace, seconds, came, shrank);
        }
        ledger.stored_at_report = booked;
        ledger.reported = Some(received);
        ledger.backlog = report.backlog_readings;
        ledger.report = Some(report.encode_to_vec());
        if report.acknowledged > booked {
            ledger.refilling = true;
            self.events.push((Event::Lacks { branch: at, told: report.acknowledged, booked }, received));
        } else if std::mem::take(&mut ledger.refilling) {
            self.events.push((Event::Refilled(at), received));
        }
    }

    /// Books readings of a batch in branch `home`, and as inherited in whoever has it in common.
    pub fn book(&mut self, home: usize, batch: &Arrived, readings: u64, is_stored: bool) {
        let ledger = &mut self.branches[home].ledger;
        let kept = if is_stored { &mut ledger.stored } else { &mut ledger.set_aside };
        *kept = kept.saturating_add(readings);
        self.branches[home].touched = true;
        for at in (0..self.branches.len()).filter(|at| *at != home) {
            if self.home(at, batch) == home {
                let ledger = &mut self.branches[at].ledger;
                ledger.inherited = ledger.inherited.saturating_add(readings);
                self.branches[at].touched = true;
            }
        }
    }

    /// Marks that a delivery came to branch `at`.
    pub fn seen(&mut self, at: usize, received: Micros) {
        let branch = &mut self.branches[at];
        branch.touched = true;
        branch.ledger.last_seen = branch.ledger.last_seen.max(received);
        if branch.ledger.wiped && branch.ledger.held() == 0 {
            branch.ledger.wiped = false;
            self.events.push((Event::Returned(at), received));
        }
    }

    /// What the events come to, once every branch has its key and number.
    pub fn notes(&self) -> Vec<Note> {
        self.events.iter().map(|(event, at)| self.note(event, *at)).collect()
    }

    fn note(&self, event: &Event, at: Micros) -> Note {
        let (agent, epoch) = (self.agent, self.epoch);
        let of = |branch: usize| subject(epoch, self.branches[branch].fork);
        let raise = |kind, subject, words: String, remedy: &str| {
            Note::Raise(Fault { agent, kind, subject, words, remedy: remedy.into(), at })
        };
        match event {
            Event::Forked(branch) => {
                let fork = self.branches[*branch].fork;
                let from = self.branches[*branch].border.first;
                let words = format!(
                    "Two buffers say they are this gateway's: one was copied, or an older state of it was \
                     restored. What one of them holds from batch {from} on is kept apart, as fork {fork}."
                );
                raise(FaultKind::Fork, of(*branch), words, TWO_BUFFERS)
            }
            Event::Differs { branch, sequence } => {
                let words = format!(
                    "Batch {sequence} came twice, with different content: two buffers write under the same \
                     numbers. The second one is set aside, none of it is lost."
                );
                raise(FaultKind::Fork, of(*branch), words, TWO_BUFFERS)
            }
            Event::Wiped(former) => {
                let newest = jiff::Timestamp::from_microsecond(former.reported)
                    .map_or_else(|_| "an unknown time".to_string(), |time| time.to_string());
                let words = format!(
                    "The gateway came back with a new buffer, while its old one held {} readings that had \
                     not been sent, the newest from {newest}.",
                    former.held
                );
                raise(FaultKind::Wiped, subject(former.epoch, former.fork), words, OLD_BUFFER)
            }
            Event::Returned(branch) => {
                Note::Clear { agent, kind: FaultKind::Wiped, subject: of(*branch), at }
            }
            Event::Lacks { branch, told, booked } => {
                let words = format!(
                    "The gateway was told that {told} of its readings are stored, and {booked} are here: \
                     {} are missing. The database seems to have been restored from a backup.",
                    told.saturating_sub(*booked)
                );
                raise(FaultKind::ServerRestored, of(*branch), words, REFILLS)
            }
            Event::Refilled(branch) => {
                Note::Clear { agent, kind: FaultKind::ServerRestored, subject: of(*branch), at }
            }
        }
    }
}

const TWO_BUFFERS: &str = "Find out which computers send as this gateway and stop all but one. On a copied one remove its \
     buffer folder and let it join again under a name of its own: forebay-agent join.";
const OLD_BUFFER: &str = "If the old card or folder still exists, put it back until it is drained, or read it with \
     forebay-agent buffer export. If it does not, these readings are lost; the gap is recorded.";
const REFILLS: &str = "Wait: the gateway sends again what it still keeps, and records a gap for what it does not. If this \
     is still here in an hour, restart the agent.";

/// How a fault names a branch.
pub fn subject(epoch: Epoch, fork: u32) -> String {
    format!("{epoch}/{fork:x}")
}
