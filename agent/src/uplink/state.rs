//! What the uplink knows of the server and decides. Pure: no socket, no clock, no buffer.
//!
//! - It greets first, with a report and nothing else, and so learns the server's time, which
//!   dictionary entries and gaps it has, and the largest request it takes.
//! - Two lanes: `fresh` are batches appended since the connection works, `backlog` is older. Fresh
//!   ones go first, the backlog fills the rest; or nothing passes what is older, if so configured.
//! - Several requests may be under way, each with a ticket. A lane moves forward when a request
//!   departs, and back when it comes to nothing; what is under way is not read again. A batch the
//!   server does not want just now never blocks the others: when the backlog lane has come to its
//!   end it starts again from the beginning.
//! - Dictionary entries and gaps travel in one request at a time, and batches that need entries the
//!   server has not confirmed travel with them: requests overtake each other.
//! - Only `COMMITTED`, `DUPLICATE` and `SET_ASIDE` of a batch we sent let the agent forget it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use forebay_config::agent::Order;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::SyncAnswer;
use forebay_protocols::sync::wire::sync_answer::Verdict;

use super::budget::Leave;
use super::pace::Pace;

/// Batches too large for the path are left out for this many good answers, and so many of them.
const LEFT_OUT_FOR: u32 = 1_000;
const MOST_LEFT_OUT: usize = 64;
/// Nobody can make us wait longer than this with a header.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What to read from the buffer for the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Only the report.
    Greet,
    /// All that fits.
    Send(Wants),
    /// Nothing now: enough is under way, or the budget is spent.
    Wait,
}

/// Where the next request begins and how large it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Dictionary entries after this one.
    pub dictionary_after: u32,
    /// Gaps after this one.
    pub gaps_after: u64,
    /// May entries and gaps go along? Not while others are under way.
    pub others: bool,
    /// Fresh batches from this sequence on, if any may go.
    pub fresh_from: Option<u64>,
    /// Backlog from the first sequence on, below the second, if any may go.
    pub backlog: Option<(u64, u64)>,
    /// May backlog ride behind fresh batches? Else it goes only if there are none.
    pub mixed: bool,
    /// Nothing may be left out that comes later in the same lane.
    pub in_order: bool,
    /// Batches below it are not shown live.
    pub live_from: u64,
    /// Under way, or refused by the path for their size alone.
    pub passed_over: Ranges,
    /// The most bytes.
    pub bytes: usize,
}

/// What a request held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Sequences of fresh batches, ascending.
    pub fresh: Vec<u64>,
    /// Sequences of the backlog, ascending.
    pub backlog: Vec<u64>,
    /// Entries and gaps in it.
    pub others: usize,
    /// Its entries begin after this one.
    pub dictionary_after: u32,
    /// Its size.
    pub bytes: usize,
}

impl Sent {
    /// Nothing but a report?
    pub fn is_empty(&self) -> bool {
        self.batches() == 0 && self.others == 0
    }
    fn batches(&self) -> usize {
        self.fresh.len() + self.backlog.len()
    }
    fn holds(&self, sequence: u64) -> bool {
        self.fresh.binary_search(&sequence).is_ok() || self.backlog.binary_search(&sequence).is_ok()
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// 200.
    Answer(SyncAnswer),
    /// 409: the server lacks dictionary entries; no batch was taken.
    Lacking(SyncAnswer),
    /// 409: the server does not know the present opening; no batch was taken.
    Stranger,
    /// 413.
    TooLarge,
    /// 429 or 503.
    Busy {
        /// `Retry-After`, if it was a number of seconds.
        retry_after: Option<Duration>,
    },
    /// 403: our certificate is unknown, revoked or too old, in the server's words if it was the server.
    Forbidden(Option<String>),
    /// Any other status, or a body that is not an answer.
    Strange(String),
    /// No connection, or it was cut, or it took too long.
    Nothing(String),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The server has these for good.
    Acknowledge(Vec<RangeInclusive<u64>>),
    /// Say who we are on every connection again.
    GreetAnew,
    /// Wait before the next request. Without it the next one goes at once.
    Pause(Pause),
    /// Tell people.
    Tell(Notice),
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Longer each time.
    Growing,
    /// As the server said, and a random time more.
    AtLeast(Duration),
    /// Only a person can help.
    Longest,
}

/// Something people want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Notice {
    Unreachable(String),
    Busy,
    Forbidden(Option<String>),
    Strange(String),
    /// One batch alone is more than the server or something before it takes.
    BatchTooLarge {
        sequence: u64,
        bytes: usize,
    },
    SetAside {
        sequence: u64,
        words: String,
    },
    Retry {
        batches: usize,
        words: String,
    },
    /// This buffer was copied or restored; the server keeps it apart under this number.
    Fork(u32),
    WorksAgain,
}

/// The kinds of trouble that are told once until they are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Unreachable,
    Busy,
    Forbidden,
    Strange,
    BatchTooLarge,
    Retry,
}

/// Names a request under way. Later ones are higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The uplink's knowledge.
#[derive(Clone, Debug)]
pub struct State {
    order: Order,
    /// The most requests under way.
    connections: usize,
    pace: Pace,
    /// What the server has; `None` until it greeted us.
    known: Option<Known>,
    /// The request that said so: an earlier one that is answered later knows less.
    known_by: Ticket,
    /// Where the fresh lane goes on; `None` while the connection does not work.
    fresh_from: Option<u64>,
    backlog_from: u64,
    under_way: BTreeMap<Ticket, Flight>,
    next: Ticket,
    /// Batches nothing on the path takes, each alone more than it allows; bounded.
    left_out: Vec<u64>,
    /// Good answers since one of them was tried.
    good_without: u32,
    trouble: Option<Trouble>,
    /// The number the server keeps us apart under, once told; 0 if it does not.
    fork: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    dictionary: u32,
    gaps: u64,
}

/// A request under way.
#[derive(Clone, Debug)]
struct Flight {
    sent: Sent,
    /// Will it be answered so soon that it is worth waiting for?
    is_short: bool,
}

impl State {
    /// Knows nothing yet. `limit` is `uplink.max_request`.
    pub fn new(limit: usize, connections: usize, order: Order) -> Self {
        let connections = connections.max(1);
        Self {
            order,
            connections,
            // One connection is left to fresh readings.
            pace: Pace::new(limit, connections - 1),
            known: None,
            known_by: Ticket::default(),
            fresh_from: None,
            backlog_from: 1,
            under_way: BTreeMap::new(),
            next: Ticket::default(),
            left_out: Vec::new(),
            good_without: 0,
            trouble: None,
            fork: 0,
        }
    }

    /// What to send next. `newest` is the newest batch in the buffer, 0 if there is none.
    pub fn plan(&mut self, newest: u64, leave: Leave) -> Plan {
        let Some(known) = self.known else {
            return if self.under_way.is_empty() { Plan::Greet } else { Plan::Wait };
        };
        let live_from = *self.fresh_from.get_or_insert(newest.saturating_add(1));
        let (fresh, backlog) = self.may_go(leave);
        if !fresh && !backlog {
            return Plan::Wait;
        }
        let in_order = self.order == Order::InOrder;
        let (from, below) = if in_order { (1, u64::MAX) } else { (self.backlog_from, live_from) };
        let is_idle = self.under_way.is_empty();
        Plan::Send(Wants {
            dictionary_after: known.dictionary,
            gaps_after: known.gaps,
            others: self.under_way.values().all(|flight| flight.sent.others == 0),
            fresh_from: fresh.then_some(live_from),
            backlog: backlog.then_some((from, below)),
            mixed: is_idle && (self.connections == 1 || self.pace.is_short(self.pace.bytes())),
            in_order,
            live_from,
            passed_over: self.passed_over(),
            bytes: self.pace.bytes_of(self.next.0).min(leave.most),
        })
    }

    /// The number the server keeps this buffer apart under; 0 if it does not.
    pub fn fork(&self) -> u32 {
        self.fork
    }

    /// Bytes that are under way.
    pub fn bytes_under_way(&self) -> usize {
        self.under_way.values().map(|flight| flight.sent.bytes).sum()
    }

    /// A request departs. Its lanes go on behind it.
    pub fn departs(&mut self, sent: Sent) -> Ticket {
        if let (Some(last), Some(from)) = (sent.fresh.last(), self.fresh_from.as_mut()) {
            *from = (*from).max(last + 1);
        }
        if let Some(last) = sent.backlog.last() {
            self.backlog_from = last + 1;
        }
        self.next.0 += 1;
        let is_short = self.pace.is_short(sent.bytes);
        self.under_way.insert(self.next, Flight { sent, is_short });
        self.next
    }

    /// The backlog lane found nothing more. True if it may find something from the beginning.
    pub fn backlog_ends(&mut self) -> bool {
        // In order, every request begins there.
        std::mem::replace(&mut self.backlog_from, 1) > 1 && self.order == Order::FreshFirst
    }

    /// From this sequence on something is in the backlog again.
    pub fn goes_back_to(&mut self, sequence: u64) {
        self.backlog_from = self.backlog_from.min(sequence);
    }

    /// Which lanes may go.
    fn may_go(&self, leave: Leave) -> (bool, bool) {
        let under_way = self.under_way.len();
        if self.order == Order::InOrder {
            return (false, under_way == 0 && leave.fresh);
        }
        if under_way >= self.connections {
            return (false, false);
        }
        let draining = self.under_way.values().filter(|flight| flight.drains()).count();
        // A second connection costs: it is worth it only beside a request that takes its time.
        let fresh = self.under_way.values().all(|flight| flight.drains() && !flight.is_short);
        let beside = under_way == 0 || self.pace.lanes() > 1 || !self.pace.is_short(self.pace.bytes());
        (fresh && leave.fresh, beside && draining < self.pace.lanes() && leave.backlog)
    }

    /// So many bytes wait in the buffer.
    pub fn sees_backlog(&mut self, bytes: u64) {
        self.pace.sees_backlog(bytes);
    }

    fn passed_over(&self) -> Ranges {
        let mut ranges = Ranges::default();
        let flights = self.under_way.values();
        let under_way = flights.flat_map(|flight| flight.sent.fresh.iter().chain(&flight.sent.backlog));
        for sequence in under_way.chain(&self.left_out) {
            ranges.insert(*sequence..=*sequence);
        }
        ranges
    }

    /// Takes in what came back for the request with this ticket, `took` after it was sent.
    pub fn step(&mut self, ticket: Ticket, reply: Reply, took: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(Flight { sent, .. }) = self.under_way.remove(&ticket) else { return actions };
        match reply {
            Reply::Answer(answer) => self.answered(ticket, &sent, answer, took, &mut actions),
            Reply::Lacking(answer) => self.lacking(ticket, &sent, &answer, &mut actions),
            Reply::Stranger => {
                self.take_back(&sent);
                actions.push(Action::GreetAnew);
            }
            Reply::TooLarge => self.too_large(&sent, &mut actions),
            Reply::Busy { retry_after } => {
                self.came_to_nothing(&sent);
                self.trouble(Trouble::Busy, Notice::Busy, &mut actions);
                let pause =
                    retry_after.map_or(Pause::Growing, |wait| Pause::AtLeast(wait.min(LONGEST_RETRY_AFTER)));
                actions.push(Action::Pause(pause));
            }
            Reply::Forbidden(words) => {
                self.came_to_nothing(&sent);
                self.trouble(Trouble::Forbidden, Notice::Forbidden(words), &mut actions);
                actions.push(Action::Pause(Pause::Longest));
            }
            Reply::Strange(words) => {
                self.came_to_nothing(&sent);
                self.trouble(Trouble::Strange, Notice::Strange(words), &mut actions);
                actions.push(Action::Pause(Pause::Growing));
            }
            Reply::Nothing(words) => {
                self.came_to_nothing(&sent);
                self.pace.failed();
                self.trouble(Trouble::Unreachable, Notice::Unreachable(words), &mut actions);
                actions.push(Action::Pause(Pause::Growing));
            }
        }
        actions
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        sent: &Sent,
        answer: SyncAnswer,
        took: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.knows(ticket, &answer);
        // Not every answer says it.
        if answer.fork != 0 && std::mem::replace(&mut self.fork, answer.fork) != answer.fork {
            actions.push(Action::Tell(Notice::Fork(answer.fork)));
        }
        let mut committed = Vec::with_capacity(answer.outcomes.len());
        let mut excuse = String::new();
        for outcome in answer.outcomes {
            if !sent.holds(outcome.sequence) {
                continue;
            }
            match Verdict::try_from(outcome.verdict) {
                Ok(Verdict::Committed | Verdict::Duplicate) => committed.push(outcome.sequence),
                Ok(Verdict::SetAside) => {
                    committed.push(outcome.sequence);
                    let notice = Notice::SetAside { sequence: outcome.sequence, words: outcome.words };
                    actions.push(Action::Tell(notice));
                }
                // A verdict of a newer server is no leave to forget.
                Ok(Verdict::Retry | Verdict::Unspecified) | Err(_) => excuse = outcome.words,
            }
        }
        let ranges = ranges(committed);
        let taken: usize = ranges.iter().map(|range| (range.end() - range.start()) as usize + 1).sum();
        if taken > 0 {
            actions.push(Action::Acknowledge(ranges));
        }
        // What the server did not take becomes backlog.
        let refused = sent.batches().saturating_sub(taken);
        if refused == 0 {
            self.pace.answered(sent.bytes, took, answer.max_request_bytes as usize);
            self.all_is_well(actions);
        } else {
            let notice = Notice::Retry { batches: refused, words: excuse };
            self.trouble(Trouble::Retry, notice, actions);
            if taken == 0 {
                actions.push(Action::Pause(Pause::Growing));
            }
        }
    }

    fn all_is_well(&mut self, actions: &mut Vec<Action>) {
        if self.trouble.take().is_some() {
            actions.push(Action::Tell(Notice::WorksAgain));
        }
        self.good_without += 1;
        if self.good_without >= LEFT_OUT_FOR {
            self.good_without = 0;
            self.left_out.clear();
        }
    }

    fn lacking(&mut self, ticket: Ticket, sent: &Sent, answer: &SyncAnswer, actions: &mut Vec<Action>) {
        self.take_back(sent);
        self.knows(ticket, answer);
        // The first time we just do what it says. A server that says it again is not well.
        if sent.dictionary_after == answer.dictionary_revision {
            let words = format!("it asks again for dictionary entries after {}", answer.dictionary_revision);
            self.trouble(Trouble::Strange, Notice::Strange(words), actions);
            actions.push(Action::Pause(Pause::Growing));
        }
    }

    fn too_large(&mut self, sent: &Sent, actions: &mut Vec<Action>) {
        let alone =
            sent.fresh.first().or(sent.backlog.first()).filter(|_| sent.batches() == 1 && sent.others == 0);
        if let Some(&sequence) = alone {
            // It cannot be split. It stays in the buffer; the others go on.
            self.good_without = 0;
            self.left_out.push(sequence);
            if self.left_out.len() > MOST_LEFT_OUT {
                self.left_out.remove(0);
            }
            let notice = Notice::BatchTooLarge { sequence, bytes: sent.bytes };
            self.trouble(Trouble::BatchTooLarge, notice, actions);
            actions.push(Action::Pause(Pause::Growing));
        } else if sent.is_empty() {
            let notice = Notice::Strange("it finds a mere report too large".into());
            self.trouble(Trouble::Strange, notice, actions);
            actions.push(Action::Pause(Pause::Longest));
        } else {
            self.take_back(sent);
        }
        self.pace.too_large(sent.bytes);
    }

    fn knows(&mut self, ticket: Ticket, answer: &SyncAnswer) {
        if ticket >= self.known_by {
            self.known = Some(Known { dictionary: answer.dictionary_revision, gaps: answer.gaps_known });
            self.known_by = ticket;
        }
    }

    /// Both lanes go back to what was sent, each to its own.
    fn take_back(&mut self, sent: &Sent) {
        if let (Some(first), Some(from)) = (sent.fresh.first(), self.fresh_from.as_mut()) {
            *from = (*from).min(*first);
        }
        if let Some(first) = sent.backlog.first() {
            self.goes_back_to(*first);
        }
    }

    /// The connection does not work: what was sent, and what is appended until it does, is backlog.
    fn came_to_nothing(&mut self, sent: &Sent) {
        self.fresh_from = None;
        for first in sent.fresh.first().into_iter().chain(sent.backlog.first()) {
            self.goes_back_to(*first);
        }
    }

    fn trouble(&mut self, trouble: Trouble, notice: Notice, actions: &mut Vec<Action>) {
        if self.trouble.replace(trouble) != Some(trouble) {
            actions.push(Action::Tell(notice));
        }
    }
}

impl Flight {
    fn drains(&self) -> bool {
        !self.sent.backlog.is_empty()
    }
}

/// Sorted, without repetition, joined where they touch.
fn ranges(mut sequences: Vec<u64>) -> Vec<RangeInclusive<u64>> {
    sequences.sort_unstable();
    sequences.dedup();
    sequences
        .chunk_by(|a, b| a.checked_add(1) == Some(*b))
        .filter_map(|run| Some(*run.first()?..=*run.last()?))
        .collect()
}

#[cfg(test)]
mod drain;
#[cfg(test)]
mod tests;
