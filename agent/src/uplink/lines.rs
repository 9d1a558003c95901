//! The connections nobody uses just now, and how soon a lost one may be replaced.
//!
//! A server that restarts cuts all its agents off in the same moment. The first new connection after
//! a cut waits a random time, up to [`Lines::spread`], counted from the cut: five hundred agents then
//! come over two seconds. A connection that was closed for idleness, long before it is needed again,
//! is replaced at once.

use std::time::Duration;

use tokio::time::Instant;

use super::line::Line;
use super::state::Ticket;
use crate::backoff::full_jitter;

/// Lines beyond the first are closed when they were of no use for so long.
const SPARE_FOR: Duration = Duration::from_secs(10);

/// Open lines.
pub struct Lines {
    idle: Vec<Line>,
    /// No new one before.
    not_before: Option<Instant>,
    /// What greeted before this request departed has to greet again.
    greet_from: Ticket,
    spread: Duration,
}

impl Lines {
    /// None yet.
    pub fn new(spread: Duration) -> Self {
        Self { idle: Vec::new(), not_before: None, greet_from: Ticket::default(), spread }
    }

    /// The longest wait before a lost connection is replaced.
    pub fn spread(&self) -> Duration {
        self.spread
    }

    /// Is one open?
    pub fn any(&mut self) -> bool {
        self.sweep();
        !self.idle.is_empty()
    }

    /// An open one, the last used.
    pub fn take(&mut self) -> Option<Line> {
        self.sweep();
        self.idle.pop()
    }

    /// Not before this moment may a new one be opened.
    pub fn not_before(&mut self) -> Option<Instant> {
        self.not_before.take()
    }

    /// A request is done, and its line is free again.
    pub fn put(&mut self, mut line: Line, ticket: Ticket) {
        if ticket < self.greet_from {
            line.greeted = None;
        }
        line.used = Instant::now();
        self.idle.push(line);
        let spare = self.idle.len() - 1;
        let (mut at, now) = (0, Instant::now());
        self.idle.retain(|line| {
            at += 1;
            at > spare || now.duration_since(line.used) < SPARE_FOR
        });
    }

    /// The server does not know us: whatever departed before `ticket` greeted in vain.
    pub fn greet_anew(&mut self, ticket: Ticket) {
        self.greet_from = self.greet_from.max(ticket);
        self.idle.iter_mut().for_each(|line| line.greeted = None);
    }

    fn sweep(&mut self) {
        let closed = self.idle.extract_if(.., |line| !line.is_open());
        if let Some(at) = closed.map(|line| line.closed_at().unwrap_or_else(Instant::now)).max() {
            self.not_before = Some(at + full_jitter(self.spread));
        }
    }
}
