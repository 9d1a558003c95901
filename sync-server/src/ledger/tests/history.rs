//! A gateway, a network that delays, reorders, repeats and swallows, a server that may be restored
//! from a backup, and the keeper's check every minute. All correct, unless told to lose or double.

use std::collections::BTreeMap;

use super::*;

/// What happens next. Numbers choose among what is there, round and round.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Readings come from the field; some are filtered.
    Produce {
        readings: u64,
        filtered: u64,
    },
    /// What is in hand becomes a batch.
    Append,
    /// Up to three batches of the backlog go out, from any place on, maybe again, maybe with a report.
    Send {
        from: usize,
        report: bool,
    },
    /// A request arrives; `again`: a copy of it is still under way.
    Arrive {
        which: usize,
        again: bool,
        unreadable: bool,
    },
    LoseRequest {
        which: usize,
    },
    Answer {
        which: usize,
    },
    LoseAnswer {
        which: usize,
    },
    /// The gateway has no room: its oldest batch goes, or half of it.
    Drop,
    Thin,
    Wait {
        seconds: i64,
    },
    Backup,
    /// The server is what it was at the last backup. Of what it lost, the gateway keeps a tail.
    Restore {
        tail: usize,
    },
}

pub(super) fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..50u64, 0..10u64).prop_map(|(readings, filtered)| Event::Produce { readings, filtered: filtered.min(readings) }),
        8 => Just(Event::Append),
        8 => (0..9usize, any::<bool>()).prop_map(|(from, report)| Event::Send { from, report }),
        8 => (0..9usize, prop::bool::weighted(0.1), prop::bool::weighted(0.05))
            .prop_map(|(which, again, unreadable)| Event::Arrive { which, again, unreadable }),
        1 => (0..9usize).prop_map(|which| Event::LoseRequest { which }),
        8 => (0..9usize).prop_map(|which| Event::Answer { which }),
        2 => (0..9usize).prop_map(|which| Event::LoseAnswer { which }),
        1 => prop_oneof![9 => Just(Event::Append), 1 => Just(Event::Drop), 1 => Just(Event::Thin)],
        8 => (1..70i64).prop_map(|seconds| Event::Wait { seconds }),
        1 => Just(Event::Backup),
        1 => (0..9usize).prop_map(|tail| Event::Restore { tail }),
    ]
}

#[derive(Default)]
pub(super) struct History {
    now: Micros,
    checked: Micros,
    gateway: Gateway,
    server: Server,
    backup: Server,
    requests: Vec<Request>,
    answers: Vec<Vec<u64>>,
    watch: Watch,
    said: Option<Verdict>,
}

#[derive(Default)]
struct Gateway {
    report: Report,
    /// Sequence, readings.
    backlog: BTreeMap<u64, u64>,
    acknowledged: BTreeMap<u64, u64>,
    last: u64,
}

#[derive(Clone, Default)]
struct Server {
    committed: BTreeMap<u64, u64>,
    stored: u64,
    set_aside: u64,
    stored_at_report: u64,
    report: Option<(Report, Micros)>,
}

#[derive(Clone)]
struct Request {
    made: Micros,
    batches: Vec<(u64, u64)>,
    report: Option<Report>,
}

impl History {
    pub(super) fn happen(&mut self, event: Event) {
        self.pass(SECOND / 10);
        match event {
            Event::Produce { readings, filtered } => {
                self.gateway.report.produced += readings;
                self.gateway.report.filtered += filtered;
                self.gateway.report.in_hand += readings - filtered;
            }
            Event::Append => self.gateway.append(),
            Event::Send { from, report } => self.send(from, report),
            Event::Arrive { which, again, unreadable } => {
                if let Some(request) = taken(&mut self.requests, which) {
                    if again {
                        self.requests.push(request.clone());
                    }
                    self.arrive(request, unreadable);
                }
            }
            Event::LoseRequest { which } => drop(taken(&mut self.requests, which)),
            Event::Answer { which } => {
                let committed = taken(&mut self.answers, which);
                committed.into_iter().flatten().for_each(|sequence| self.gateway.acknowledge(sequence));
            }
            Event::LoseAnswer { which } => drop(taken(&mut self.answers, which)),
            Event::Drop => self.gateway.drop_oldest(1),
            Event::Thin => self.gateway.drop_oldest(2),
            Event::Wait { seconds } => self.pass(seconds * SECOND),
            Event::Backup => self.backup = self.server.clone(),
            Event::Restore { tail } => self.restore(tail),
        }
    }

    /// The gateway falls quiet, all it has arrives, and a few checks pass.
    pub(super) fn settle(&mut self) {
        self.gateway.append();
        for _ in 0..10 {
            while !self.gateway.backlog.is_empty() || !self.requests.is_empty() || !self.answers.is_empty() {
                self.send(0, false);
                while !self.requests.is_empty() {
                    self.happen(Event::Arrive { which: 0, again: false, unreadable: false });
                }
                while !self.answers.is_empty() {
                    self.happen(Event::Answer { which: 0 });
                }
            }
            self.send(0, true);
            self.happen(Event::Arrive { which: 0, again: false, unreadable: false });
            self.pass(MINUTE);
        }
    }

    /// The server forgets readings that it acknowledged, if it has so many.
    pub(super) fn lose(&mut self, count: u64) -> bool {
        let has = self.server.stored >= count;
        self.server.stored -= if has { count } else { 0 };
        has
    }

    /// The server keeps readings twice.
    pub(super) fn double(&mut self, count: u64) -> bool {
        self.server.stored += count;
        true
    }

    pub(super) fn alarm(&self) -> Option<&Verdict> {
        self.said.as_ref().filter(|said| matches!(said, Verdict::Open(_)))
    }

    pub(super) fn said(&self) -> &Verdict {
        self.said.as_ref().unwrap()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.gateway.report.dropped
    }

    fn pass(&mut self, time: Micros) {
        self.now += time;
        // The gateway has given these up, and no server still works on them.
        self.requests.retain(|request| self.now - request.made < UNDER_WAY);
        if self.now - self.checked < MINUTE {
            return;
        }
        self.checked = self.now;
        let Server { stored, set_aside, stored_at_report, ref report, .. } = self.server;
        let row = LedgerRow { stored, set_aside, stored_at_report, report: report.clone(), ..row() };
        self.said = Some(self.watch.look(&Books(&row), self.now));
    }

    fn send(&mut self, from: usize, report: bool) {
        let backlog = &self.gateway.backlog;
        let from = from % backlog.len().max(1);
        let batches = backlog.iter().skip(from).take(3).map(|(sequence, readings)| (*sequence, *readings));
        let report = report.then(|| self.gateway.report());
        self.requests.push(Request { made: self.now, batches: batches.collect(), report });
    }

    /// One transaction.
    fn arrive(&mut self, request: Request, unreadable: bool) {
        let server = &mut self.server;
        if let Some(report) = request.report {
            server.stored_at_report = server.stored + server.set_aside;
            server.report = Some((report, self.now));
        }
        for (sequence, readings) in &request.batches {
            if server.committed.insert(*sequence, *readings).is_none() {
                let kept = if unreadable { &mut server.set_aside } else { &mut server.stored };
                *kept += readings;
            }
        }
        self.answers.push(request.batches.into_iter().map(|(sequence, _)| sequence).collect());
    }

    /// All connections break; the first request after it is a greeting, alone, with a report.
    ///
    /// Nobody restores a server again before the fleet has settled with the first time: to the keeper
    /// that is a server that keeps losing what it had.
    fn restore(&mut self, tail: usize) {
        if matches!(self.said, Some(Verdict::Doubtful(_))) {
            return;
        }
        self.server = self.backup.clone();
        (self.requests, self.answers) = Default::default();
        let greeting = Request { made: self.now, batches: Vec::new(), report: Some(self.gateway.report()) };
        self.arrive(greeting, false);
        self.answers.clear();
        // A check may fall between the greeting and what follows from it.
        self.pass(20 * SECOND);
        let here = &self.server.committed;
        let missing: Vec<u64> = self
            .gateway
            .acknowledged
            .keys()
            .copied()
            .filter(|sequence| !here.contains_key(sequence))
            .collect();
        for (place, sequence) in missing.iter().rev().enumerate() {
            self.gateway.revive(*sequence, place < tail);
        }
    }
}

impl Gateway {
    fn append(&mut self) {
        let readings = std::mem::take(&mut self.report.in_hand);
        if readings > 0 {
            self.last += 1;
            self.report.appended += readings;
            self.backlog.insert(self.last, readings);
        }
    }

    fn acknowledge(&mut self, sequence: u64) {
        // It may have been dropped meanwhile, or be acknowledged already.
        if let Some(readings) = self.backlog.remove(&sequence) {
            self.report.acknowledged += readings;
            self.acknowledged.insert(sequence, readings);
        }
    }

    /// The oldest batch loses one reading of so many: all, or every second.
    fn drop_oldest(&mut self, of: u64) {
        let Some((sequence, readings)) = self.backlog.pop_first() else { return };
        self.report.dropped += readings / of;
        if readings > readings / of {
            self.backlog.insert(sequence, readings - readings / of);
        }
    }

    fn revive(&mut self, sequence: u64, is_there: bool) {
        let Some(readings) = self.acknowledged.remove(&sequence) else { return };
        self.report.acknowledged -= readings;
        if is_there {
            self.backlog.insert(sequence, readings);
        } else {
            self.report.dropped += readings;
        }
    }

    fn report(&self) -> Report {
        Report { backlog_readings: self.backlog.values().sum(), ..self.report.clone() }
    }
}

fn taken<T>(all: &mut Vec<T>, which: usize) -> Option<T> {
    (!all.is_empty()).then(|| all.remove(which % all.len()))
}
