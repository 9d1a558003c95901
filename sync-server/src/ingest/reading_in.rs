//! A request into deliveries: batches decoded, times made wall time, what cannot be read set
//! aside. Pure; the clock's reading is an argument.
//!
//! A request is read in slices, so that the memory it takes does not grow with what its
//! compressed batches hold. A gateway without a battery clock may send before it knows the time;
//! its batches of this boot get RETRY and, in the same answer, the time. Other odd times are the
//! store's to judge, reading by reading.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use forebay_protocols::reading::{Point, PointId, Reading};
use forebay_protocols::sync::batch::{Decoded, Decoder, Epoch, Sequence};
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::wire::{self, sync_answer::Outcome, sync_answer::Verdict};
use prost::Message;

use crate::store::{AgentKey, Arrived, Content, Delivery, Micros, OpeningId, Receipt, Timed};

/// Readings after which a slice is closed.
const SLICE_READINGS: usize = 100_000;
/// Openings in a greeting. Agents send at most 40.
const MOST_OPENINGS: usize = 256;
/// A gateway that says itself that its clock is not set is believed from this difference on.
const CLOCK_IS_OFF: Micros = 60_000_000;

/// A request, being read.
pub(super) struct Requested {
    epoch: Epoch,
    received: Micros,
    dictionary: Vec<(PointId, Arc<Point>)>,
    gaps: Vec<wire::Gap>,
    report: Option<wire::Report>,
    opening: Option<OpeningId>,
    greeting: Option<Vec<wire::Opening>>,
    /// The gateway's present boot, if it does not know the time: batches of it can still be
    /// corrected, while those of earlier boots stay as they are for ever.
    clock_is_off_since: Option<u64>,
    batches: std::iter::Peekable<IntoIter<wire::SentBatch>>,
    /// One for all batches of the request: making it costs more than most batches.
    decoder: Decoder,
}

/// Some batches of a request, in the order they came.
#[derive(Default)]
pub(super) struct Slice {
    batches: Vec<Entry>,
}

enum Entry {
    /// For the store.
    Arrived { arrived: Arrived, backlog: bool },
    /// Not now.
    Later { sequence: Sequence, words: String },
}

impl Requested {
    /// Checks what concerns the request as a whole.
    pub(super) fn new(request: wire::SyncRequest, received: Micros) -> Result<Self, Problem> {
        let wire::SyncRequest { epoch, dictionary, batches, gaps, report, greeting, opening, untyped: _ } =
            request;
        let epoch: [u8; 16] = epoch.as_ref().try_into().map_err(|_| {
            bad(format!("the epoch has {} bytes, not 16; is this a Forebay agent?", epoch.len()))
        })?;
        let opening = match opening.is_empty() {
            true => None,
            false => Some(
                opening[..]
                    .try_into()
                    .map_err(|_| bad(format!("the opening's id has {} bytes, not 8", opening.len())))?,
            ),
        };
        let greeting = greeting.map(|greeting| greeting.openings);
        if let Some(openings) = greeting.as_ref().filter(|openings| openings.len() > MOST_OPENINGS) {
            return Err(bad(format!("{} openings are no greeting; 32 are enough", openings.len())));
        }
        let mut previous = None;
        let dictionary = dictionary
            .into_iter()
            .map(|entry| {
                let number = entry.point;
                let follows = previous.is_none_or(|before: u32| before.checked_add(1) == Some(number));
                if number == 0 || !follows {
                    return Err(bad(format!("dictionary entry {number} does not follow the one before it")));
                }
                previous = Some(number);
                Ok((entry.id(), Arc::new(entry.describe())))
            })
            .collect::<Result<_, _>>()?;
        let off = |report: &&wire::Report| {
            !report.synchronised && report.wall_us.saturating_sub(received).saturating_abs() > CLOCK_IS_OFF
        };
        let clock_is_off_since = report.as_ref().filter(off).map(|report| report.boot_counter);
        let report = report.map(|report| wire::Report { received_us: received, ..report });
        let batches = batches.into_iter().peekable();
        Ok(Self {
            epoch: Epoch(epoch),
            received,
            dictionary,
            gaps,
            report,
            opening,
            greeting,
            clock_is_off_since,
            batches,
            decoder: Decoder::new(),
        })
    }

    /// Are all batches read?
    pub(super) fn is_done(&mut self) -> bool {
        self.batches.peek().is_none()
    }

    /// Reads on. A sequence occurs once in a slice: of two batches that claim the same number the
    /// store must see one after the other.
    pub(super) fn next_slice(&mut self) -> Slice {
        let mut slice = Slice::default();
        let mut seen = HashSet::new();
        let mut readings = 0;
        while readings < SLICE_READINGS {
            let Some(sent) = self.batches.next_if(|sent| !seen.contains(&sequence_of(&sent.batch))) else {
                break;
            };
            seen.insert(sequence_of(&sent.batch));
            let backlog = sent.backlog;
            slice.batches.push(match self.read(sent) {
                Ok(arrived) => {
                    if let Content::Readings(taken) = &arrived.content {
                        readings += taken.len();
                    }
                    Entry::Arrived { arrived, backlog }
                }
                Err((sequence, words)) => Entry::Later { sequence, words },
            });
        }
        slice
    }

    /// A slice for the store. Dictionary, gaps, report and greeting go with the first one.
    pub(super) fn delivery(&mut self, agent: AgentKey, slice: &Slice) -> Delivery {
        Delivery {
            agent,
            epoch: self.epoch,
            dictionary: std::mem::take(&mut self.dictionary),
            batches: slice.arrived().map(|(arrived, _)| arrived.clone()).collect(),
            gaps: std::mem::take(&mut self.gaps),
            report: self.report.take(),
            received: self.received,
            opening: self.opening,
            greeting: self.greeting.take(),
            // Whoever commits it knows.
            bytes: 0,
        }
    }

    /// One batch: for the store, or to be sent again.
    fn read(&mut self, sent: wire::SentBatch) -> Result<Arrived, (Sequence, String)> {
        let checksum = crc32c::crc32c(&sent.batch);
        let aside = |why: String| Arrived {
            sequence: sequence_of(&sent.batch),
            dictionary_revision: PointId(0),
            checksum,
            thinned: sent.thinned,
            boot_counter: 0,
            clock: sent.clock(),
            correction_us: sent.time_correction_us,
            count: envelope_of(&sent.batch).count,
            content: Content::SetAside { bytes: sent.batch.clone(), why },
        };
        let Decoded { head, dictionary_revision, readings, .. } = match self.decoder.decode(&sent.batch) {
            Ok(decoded) => decoded,
            Err(why) => return Ok(aside(why.to_string())),
        };
        if head.epoch != self.epoch {
            return Ok(aside(format!(
                "it is of epoch {}, sent among those of epoch {}",
                head.epoch, self.epoch
            )));
        }
        let boot = head.boot;
        if sent.time_correction_us == 0 && !boot.synchronised && self.clock_is_off_since == Some(boot.counter)
        {
            return Err((
                head.sequence,
                "the gateway's clock is not set; send again with a time correction".into(),
            ));
        }
        let offset = boot.wall_offset_us.saturating_add(sent.time_correction_us);
        let mut timed: Vec<Timed> = readings
            .into_iter()
            .map(|Reading { point, stamp, value, quality }| Timed {
                point,
                time: stamp.wall(offset),
                value,
                quality,
            })
            .collect();
        // Ordered already, unless device times and boot times meet in one point. Stable, so that
        // readings of one moment keep their order.
        timed.sort_by_key(|reading| (reading.point, reading.time));
        Ok(Arrived {
            sequence: head.sequence,
            dictionary_revision,
            checksum,
            thinned: sent.thinned,
            boot_counter: boot.counter,
            clock: sent.clock(),
            correction_us: sent.time_correction_us,
            count: timed.len() as u32,
            content: Content::Readings(Arc::new(timed)),
        })
    }
}

impl Slice {
    /// What goes to the store, and whether it is backlog.
    pub(super) fn arrived(&self) -> impl Iterator<Item = (&Arrived, bool)> {
        self.batches.iter().filter_map(|entry| match entry {
            Entry::Arrived { arrived, backlog } => Some((arrived, *backlog)),
            Entry::Later { .. } => None,
        })
    }

    /// What to tell the agent of each batch, given what the store did.
    pub(super) fn into_outcomes(self, receipt: &Receipt) -> Vec<Outcome> {
        let outcome = |sequence: Sequence, verdict: Verdict, words: String| Outcome {
            sequence: sequence.0,
            verdict: verdict.into(),
            words,
        };
        // A request may hold tens of thousands of small batches: no search through a list for each.
        let verdicts: HashMap<_, _> = receipt.verdicts.iter().copied().collect();
        let told = |arrived: Arrived| {
            let sequence = arrived.sequence;
            match verdicts.get(&sequence) {
                Some(verdict @ (Verdict::Committed | Verdict::Duplicate)) => {
                    outcome(sequence, *verdict, String::new())
                }
                Some(verdict) => match arrived.content {
                    Content::SetAside { why, .. } => outcome(sequence, *verdict, why),
                    Content::Readings(_) => {
                        let words = "kept, but not as readings: another batch has its number, or the \
                                     database refused it";
                        outcome(sequence, *verdict, words.into())
                    }
                },
                None => {
                    let (needs, knows) = (arrived.dictionary_revision.0, receipt.dictionary_revision);
                    let words =
                        format!("not taken: it needs the dictionary up to {needs}, known up to {knows}");
                    outcome(sequence, Verdict::Retry, words)
                }
            }
        };
        self.batches
            .into_iter()
            .map(|entry| match entry {
                Entry::Arrived { arrived, .. } => told(arrived),
                Entry::Later { sequence, words } => outcome(sequence, Verdict::Retry, words),
            })
            .collect()
    }
}

/// The number on the envelope; 0 when not even that can be read.
fn sequence_of(batch: &Bytes) -> Sequence {
    Sequence(envelope_of(batch).sequence)
}

/// The envelope, empty where it cannot be read. Cheap: the payload is not copied.
fn envelope_of(batch: &Bytes) -> wire::Batch {
    wire::Batch::decode(batch.clone()).unwrap_or_default()
}

fn bad(detail: String) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use forebay_protocols::boot_time::BootTime;
    use forebay_protocols::reading::{Quality, Stamp, Value};
    use forebay_protocols::sync::batch::{Boot, Encoder, Head};

    use super::*;

    const EPOCH: Epoch = Epoch([3; 16]);
    const OFFSET: i64 = 1_795_000_000_000_000;

    fn reading(point: u32, stamp: Stamp) -> Reading {
        Reading { point: PointId(point), stamp, value: Some(Value::Integer(1)), quality: Quality::Good }
    }

    /// A request of these batches, each with these readings.
    fn requested(
        sequences: impl IntoIterator<Item = u64>,
        mut readings: Vec<Reading>,
        dictionary: Vec<wire::DictionaryEntry>,
    ) -> Requested {
        let mut encoder = Encoder::new();
        let boot = Boot { counter: 1, id: [0; 8], wall_offset_us: OFFSET, synchronised: true };
        let batches = sequences.into_iter().map(|sequence| {
            let head = Head { epoch: EPOCH, sequence: Sequence(sequence), boot };
            let batch = encoder.encode(&head, &mut readings).bytes;
            wire::SentBatch { batch, time_correction_us: 5, ..Default::default() }
        });
        let epoch = Bytes::copy_from_slice(&EPOCH.0);
        let request =
            wire::SyncRequest { epoch, dictionary, batches: batches.collect(), ..Default::default() };
        Requested::new(request, OFFSET).unwrap()
    }

    #[test]
    fn a_request_of_many_readings_is_read_in_slices() {
        let many = vec![reading(1, Stamp::boot(BootTime(1))); SLICE_READINGS * 2 / 5];
        let mut asked =
            requested(1..=7, many, vec![wire::DictionaryEntry { point: 1, ..Default::default() }]);
        let mut sizes = Vec::new();
        let mut dictionaries = Vec::new();
        while !asked.is_done() {
            let slice = asked.next_slice();
            let delivery = asked.delivery(AgentKey(1), &slice);
            sizes.push(delivery.batches.len());
            dictionaries.push(delivery.dictionary.len());
        }
        assert_eq!(sizes, [3, 3, 1]);
        assert_eq!(dictionaries, [1, 0, 0], "the dictionary goes with the first");
    }

    #[test]
    fn readings_are_in_wall_time_and_in_order() {
        let readings = vec![
            reading(1, Stamp::boot(BootTime(20))),
            reading(1, Stamp::device(OFFSET + 7)),
            reading(2, Stamp::boot(BootTime(1))),
        ];
        let slice = requested([1], readings, vec![]).next_slice();
        let (arrived, _) = slice.arrived().next().unwrap();
        let Content::Readings(readings) = &arrived.content else { panic!("{arrived:?}") };
        let times: Vec<_> = readings.iter().map(|reading| (reading.point.0, reading.time - OFFSET)).collect();
        assert_eq!(times, [(1, 7), (1, 25), (2, 6)], "boot times are corrected by 5, device times are not");
    }

    #[test]
    fn a_batch_is_known_by_the_checksum_of_its_bytes_and_the_clock_its_sender_states() {
        let mut encoder = Encoder::new();
        let boot = Boot { counter: 9, id: [0; 8], wall_offset_us: OFFSET, synchronised: false };
        let head = Head { epoch: EPOCH, sequence: Sequence(4), boot };
        let mut readings = vec![reading(1, Stamp::boot(BootTime(1))); 3];
        let whole = encoder.encode(&head, &mut readings).bytes;
        let mut envelope = wire::Batch::decode(whole.clone()).unwrap();
        envelope.payload_crc32c ^= 1;
        let broken = Bytes::from(envelope.encode_to_vec());
        let sent = |batch: &Bytes| wire::SentBatch {
            batch: batch.clone(),
            time_correction_us: -3,
            clock: wire::sent_batch::Clock::Bracketed.into(),
            thinned: true,
            ..Default::default()
        };
        let opening = wire::Opening { id: vec![5; 8], ..Default::default() };
        let request = wire::SyncRequest {
            epoch: Bytes::copy_from_slice(&EPOCH.0),
            batches: vec![sent(&whole), sent(&broken)],
            opening: opening.id.clone().into(),
            greeting: Some(wire::Greeting { openings: vec![opening.clone()] }),
            ..Default::default()
        };
        let mut asked = Requested::new(request, OFFSET).unwrap();
        let (first, second) = (asked.next_slice(), asked.next_slice());
        let deliveries = [&first, &second].map(|slice| asked.delivery(AgentKey(1), slice));
        assert_eq!(deliveries[0].greeting, Some(vec![opening]));
        assert_eq!(deliveries[1].greeting, None, "the greeting goes with the first");
        for (delivery, bytes) in deliveries.iter().zip([&whole, &broken]) {
            assert_eq!(delivery.opening, Some([5; 8]));
            let batch = &delivery.batches[0];
            assert_eq!((batch.sequence, batch.count, batch.thinned), (Sequence(4), 3, true));
            assert_eq!(batch.checksum, crc32c::crc32c(bytes));
            assert_eq!((batch.clock, batch.correction_us), (wire::sent_batch::Clock::Bracketed, -3));
        }
        assert_eq!(deliveries[0].batches[0].boot_counter, 9);
        assert!(matches!(deliveries[1].batches[0].content, Content::SetAside { .. }));
    }

    #[test]
    fn offsets_at_the_end_of_time_do_not_overflow() {
        let slice = requested([1], vec![reading(1, Stamp::boot(BootTime(i64::MAX)))], vec![]).next_slice();
        let (arrived, _) = slice.arrived().next().unwrap();
        let Content::Readings(readings) = &arrived.content else { panic!("{arrived:?}") };
        assert_eq!(readings[0].time, i64::MAX);
    }
}
