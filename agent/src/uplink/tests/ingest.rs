//! The server's half of the protocol, as far as these tests need it.

use std::collections::BTreeSet;

use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::sync_answer::{Outcome, Verdict};
use forebay_protocols::sync::wire::{Batch, Opening, Report, SentBatch, SyncAnswer, SyncRequest};
use prost::Message;

use super::EPOCH;

#[derive(Default)]
pub struct Ingest {
    pub committed: BTreeSet<u64>,
    pub duplicates: usize,
    pub dictionary: u32,
    pub gaps: u64,
    pub requests: Vec<Vec<(u64, bool)>>,
    /// The last report, as a server keeps it.
    pub report: Option<Report>,
    /// Which requests carried one.
    pub reported: Vec<bool>,
    pub corrections: Vec<i64>,
    /// Envelopes, without the batches.
    pub envelopes: Vec<SentBatch>,
    /// Gaps of each request.
    pub gaps_in: Vec<Vec<forebay_protocols::sync::wire::Gap>>,
    /// The greetings, by the number of their request.
    pub greetings: Vec<(usize, Vec<Opening>)>,
    /// The opening each request names.
    pub openings: Vec<Vec<u8>>,
    /// Openings heard of. A request under another one is turned away, if the server is strict.
    pub known: BTreeSet<Vec<u8>>,
    pub strict: bool,
    pub fork: u32,
    /// Sequences that are put off once.
    pub put_off: BTreeSet<u64>,
    /// The newest format of batches it reads, told in answers to greetings.
    pub batch_format: u32,
    /// In answers to greetings, only so many ranges are listed.
    pub lists: Option<usize>,
}

impl Ingest {
    /// Takes a request, or says what is lacking.
    pub fn take(&mut self, request: SyncRequest) -> (u16, SyncAnswer) {
        assert_eq!(request.epoch, EPOCH.0.as_slice());
        let greets = request.greeting.is_some();
        if let Some(greeting) = request.greeting {
            self.known.extend(greeting.openings.iter().map(|opening| opening.id.to_vec()));
            self.greetings.push((self.requests.len(), greeting.openings));
        }
        self.openings.push(request.opening.to_vec());
        self.reported.push(request.report.is_some());
        self.report = request.report.or(self.report.take());
        assert!(request.dictionary.is_sorted_by(|a, b| a.point + 1 == b.point), "a dictionary with holes");
        for entry in request.dictionary {
            // Behind a hole an entry is of no use.
            if entry.point == self.dictionary + 1 {
                self.dictionary = entry.point;
            }
        }
        self.gaps = request.gaps.iter().map(|gap| gap.number).fold(self.gaps, u64::max);
        self.gaps_in.push(request.gaps);
        let batches: Vec<_> = request
            .batches
            .iter()
            .map(|sent| (Batch::decode(sent.batch.clone()).unwrap(), sent.backlog))
            .collect();
        self.requests.push(batches.iter().map(|(batch, backlog)| (batch.sequence, *backlog)).collect());
        self.corrections.extend(request.batches.iter().map(|sent| sent.time_correction_us));
        let envelopes = request.batches.into_iter();
        self.envelopes.extend(envelopes.map(|sent| SentBatch { batch: Default::default(), ..sent }));
        let lacking = batches.iter().any(|(batch, _)| batch.dictionary_revision > self.dictionary);
        let mut answer = SyncAnswer {
            server_time_us: wall_micros(),
            dictionary_revision: self.dictionary,
            gaps_known: self.gaps,
            max_request_bytes: 4 << 20,
            fork: self.fork,
            ..SyncAnswer::default()
        };
        if self.strict && !self.known.contains(self.openings.last().unwrap()) {
            return (409, SyncAnswer { greet: true, ..answer });
        }
        if lacking {
            return (409, answer);
        }
        for (Batch { sequence, .. }, _) in batches {
            let verdict = if self.put_off.remove(&sequence) {
                Verdict::Retry
            } else if self.committed.insert(sequence) {
                Verdict::Committed
            } else {
                Verdict::Duplicate
            };
            self.duplicates += usize::from(verdict == Verdict::Duplicate);
            answer.outcomes.push(Outcome { sequence, verdict: verdict.into(), words: String::new() });
        }
        if greets {
            let mut ranges = Ranges::default();
            self.committed.iter().for_each(|&sequence| {
                ranges.insert(sequence..=sequence);
            });
            let all: Vec<_> = ranges.iter().collect();
            let skip = all.len() - self.lists.unwrap_or(usize::MAX).min(all.len());
            answer.committed = all[skip..].iter().flat_map(|&(first, last)| [first, last]).collect();
            answer.committed_is_whole = skip == 0;
            answer.batch_format = self.batch_format;
        }
        (200, answer)
    }
}
