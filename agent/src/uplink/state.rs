//! What the uplink knows of the server and decides. Pure: no socket, no clock, no buffer.
//!
//! - It greets first, with a report and nothing else, and so learns the server's time, which
//!   dictionary entries and gaps it has, and the largest request it takes.
//! - Two lanes: `fresh` are batches appended since the connection works, `backlog` is older. Fresh
//!   ones go first in every request, the backlog fills the rest. Both lanes only move forward, so
//!   a batch the server does not want just now never blocks the others; when the backlog lane
//!   has come to its end it starts again from the beginning.
//! - Requests start small, double with every answer, and halve with 413 or no answer.
//! - Only `COMMITTED`, `DUPLICATE` and `SET_ASIDE` of a batch we sent let the agent forget it.

use std::ops::RangeInclusive;
use std::time::Duration;

use forebay_protocols::sync::wire::SyncAnswer;
use forebay_protocols::sync::wire::sync_answer::Verdict;

/// The first request after a start; the next ones grow.
const SMALL_REQUEST: usize = 64 << 10;
/// Requests are not planned smaller than this; one batch is sent even if it is larger.
const LEAST_REQUEST: usize = 4 << 10;
/// After this many good answers a lowered ceiling is tried again.
const CEILING_HOLDS_FOR: u32 = 16;
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
}

/// Where the next request begins and how large it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Dictionary entries after this one.
    pub dictionary_after: u32,
    /// Gaps after this one.
    pub gaps_after: u64,
    /// Fresh batches from this sequence on.
    pub fresh_from: u64,
    /// Backlog from this sequence on, below `backlog_below`.
    pub backlog_from: u64,
    /// Where the fresh lane began when the request was planned.
    pub backlog_below: u64,
    /// Batches the path refused for their size alone.
    pub left_out: Vec<u64>,
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
    /// Do not send for a while.
    Pause(Pause),
    /// Something people want to know, once.
    Tell(Notice),
}

/// How long not to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The growing pause of the back-off.
    Growing,
    /// At least this long, and the growing pause on top.
    AtLeast(Duration),
    /// The longest pause: trying soon is of no use.
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

/// The uplink's knowledge.
#[derive(Clone, Debug)]
pub struct State {
    /// What the server has; `None` until it greeted us.
    known: Option<Known>,
    /// The most bytes of a request, by configuration.
    limit: usize,
    /// The most bytes the path takes, as far as it told.
    ceiling: usize,
    /// Good answers since the ceiling came down.
    good: u32,
    /// Bytes of the next request.
    bytes: usize,
    /// Where the fresh lane goes on; `None` while the connection does not work.
    fresh_from: Option<u64>,
    backlog_from: u64,
    /// Batches nothing on the path takes, each alone more than it allows; bounded.
    left_out: Vec<u64>,
    /// Good answers since one of them was tried.
    good_without: u32,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    dictionary: u32,
    gaps: u64,
}

impl State {
    /// Knows nothing yet. `limit` is `uplink.max_request`.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(LEAST_REQUEST);
        Self {
            known: None,
            limit,
            ceiling: limit,
            good: 0,
            bytes: limit.min(SMALL_REQUEST),
            fresh_from: None,
            backlog_from: 1,
            left_out: Vec::new(),
            good_without: 0,
            trouble: None,
        }
    }

    /// What to send next. `newest` is the newest batch in the buffer, 0 if there is none.
    pub fn plan(&mut self, newest: u64) -> Plan {
        let Some(known) = self.known else { return Plan::Greet };
        let fresh_from = *self.fresh_from.get_or_insert(newest.saturating_add(1));
        Plan::Send(Wants {
            dictionary_after: known.dictionary,
            gaps_after: known.gaps,
            fresh_from,
            backlog_from: self.backlog_from,
            backlog_below: fresh_from,
            left_out: self.left_out.clone(),
            bytes: self.bytes,
        })
    }

    /// The backlog lane found nothing more. True if it may find something from the beginning.
    pub fn backlog_ends(&mut self) -> bool {
        std::mem::replace(&mut self.backlog_from, 1) > 1
    }

    /// Takes in what came back for `sent`.
    pub fn step(&mut self, sent: &Sent, reply: Reply) -> Vec<Action> {
        let mut actions = Vec::new();
        if !matches!(reply, Reply::Answer(_) | Reply::Lacking(_) | Reply::TooLarge) {
            // What is appended until it works again is backlog by then.
            self.fresh_from = None;
        }
        match reply {
            Reply::Answer(answer) => self.answered(sent, answer, &mut actions),
            Reply::Lacking(answer) => self.lacking(&answer, &mut actions),
            Reply::TooLarge => self.too_large(sent, &mut actions),
            Reply::Busy { retry_after } => {
                self.trouble(Trouble::Busy, Notice::Busy, &mut actions);
                let pause =
                    retry_after.map_or(Pause::Growing, |wait| Pause::AtLeast(wait.min(LONGEST_RETRY_AFTER)));
                actions.push(Action::Pause(pause));
            }
            Reply::Forbidden(words) => {
                self.trouble(Trouble::Forbidden, Notice::Forbidden(words), &mut actions);
                actions.push(Action::Pause(Pause::Longest));
            }
            Reply::Strange(words) => {
                self.trouble(Trouble::Strange, Notice::Strange(words), &mut actions);
                actions.push(Action::Pause(Pause::Growing));
            }
            Reply::Nothing(words) => {
                // The path may be thin, or cut whatever is large.
                self.bytes = (self.bytes / 2).max(LEAST_REQUEST);
                self.trouble(Trouble::Unreachable, Notice::Unreachable(words), &mut actions);
                actions.push(Action::Pause(Pause::Growing));
            }
        }
        actions
    }

    fn answered(&mut self, sent: &Sent, answer: SyncAnswer, actions: &mut Vec<Action>) {
        self.known = Some(Known { dictionary: answer.dictionary_revision, gaps: answer.gaps_known });
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
        self.move_on(sent);
        let refused = sent.batches().saturating_sub(taken);
        if refused == 0 {
            self.all_is_well(answer.max_request_bytes as usize, actions);
        } else {
            let notice = Notice::Retry { batches: refused, words: excuse };
            self.trouble(Trouble::Retry, notice, actions);
            if taken == 0 {
                actions.push(Action::Pause(Pause::Growing));
            }
        }
    }

    fn all_is_well(&mut self, server_takes: usize, actions: &mut Vec<Action>) {
        if self.trouble.take().is_some() {
            actions.push(Action::Tell(Notice::WorksAgain));
        }
        self.good += 1;
        if self.good >= CEILING_HOLDS_FOR {
            self.good = 0;
            self.ceiling = self.ceiling.saturating_mul(2).min(self.limit);
        }
        self.good_without += 1;
        if self.good_without >= LEFT_OUT_FOR {
            self.good_without = 0;
            self.left_out.clear();
        }
        if server_takes > 0 {
            // An eighth is left for the report and the envelope.
            self.ceiling = self.ceiling.min(server_takes / 8 * 7).max(LEAST_REQUEST);
        }
        self.bytes = self.bytes.saturating_mul(2).min(self.ceiling);
    }

    fn lacking(&mut self, answer: &SyncAnswer, actions: &mut Vec<Action>) {
        let told = Known { dictionary: answer.dictionary_revision, gaps: answer.gaps_known };
        // The first time we just do what it says. A server that says it again is not well.
        if self.known.replace(told) == Some(told) {
            let words = format!("it asks again for dictionary entries after {}", told.dictionary);
            self.trouble(Trouble::Strange, Notice::Strange(words), actions);
            actions.push(Action::Pause(Pause::Growing));
        }
    }

    fn too_large(&mut self, sent: &Sent, actions: &mut Vec<Action>) {
        self.good = 0;
        let alone =
            sent.fresh.first().or(sent.backlog.first()).filter(|_| sent.batches() == 1 && sent.others == 0);
        if let Some(&sequence) = alone {
            // It cannot be split. It stays in the buffer; the others go on.
            self.move_on(sent);
            self.good_without = 0;
            self.left_out.push(sequence);
            if self.left_out.len() > MOST_LEFT_OUT {
                self.left_out.remove(0);
            }
            let notice = Notice::BatchTooLarge { sequence, bytes: sent.bytes };
            self.trouble(Trouble::BatchTooLarge, notice, actions);
            actions.push(Action::Pause(Pause::Growing));
        } else if sent.is_empty() {
            self.trouble(
                Trouble::Strange,
                Notice::Strange("it finds a mere report too large".into()),
                actions,
            );
            actions.push(Action::Pause(Pause::Longest));
        }
        self.ceiling = (sent.bytes.min(self.ceiling) / 2).max(LEAST_REQUEST);
        self.bytes = self.bytes.min(self.ceiling);
    }

    /// Both lanes go on behind what was sent. What the server did not take becomes backlog.
    fn move_on(&mut self, sent: &Sent) {
        if let (Some(last), Some(from)) = (sent.fresh.last(), self.fresh_from.as_mut()) {
            *from = (*from).max(last + 1);
        }
        if let Some(last) = sent.backlog.last() {
            self.backlog_from = last + 1;
        }
    }

    fn trouble(&mut self, trouble: Trouble, notice: Notice, actions: &mut Vec<Action>) {
        if self.trouble.replace(trouble) != Some(trouble) {
            actions.push(Action::Tell(notice));
        }
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
mod tests;
