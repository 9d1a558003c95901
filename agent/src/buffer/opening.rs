//! Who writes here, and by which clock: the store's openings, the boots they happened in, and when
//! each was last known to be alive.

use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::batch::peek;
use forebay_protocols::sync::wire;

use super::frame::{BatchFacts, epoch_tag, frame_at};
use super::logbook::{Entry, Life};
use super::segments::{file_name, survey};
use super::store::Store;
use super::{BootKnown, LastRun};

/// An agent that is killed before it noted an offset that moved by this goes on with the old one.
const FAR_US: u64 = 500_000;

impl Store {
    /// The durable openings, the present one last; without it while the disk did not take it.
    pub fn openings(&self) -> Vec<wire::Opening> {
        let all = self.lineage.openings();
        let durable = all.len().saturating_sub(usize::from(!self.opening_written));
        all.get(..durable).unwrap_or_default().to_vec()
    }

    /// A server has heard of this opening: most that are older are forgotten. Durable with the next tick: until then it is told again.
    pub fn greeted(&mut self, id: [u8; 8]) {
        if self.lineage.greeted(&id) {
            self.logbook.push([Entry::Greeted(id.to_vec())]);
            self.copy_openings();
        }
    }

    /// The boots that something in the store may come from, the present one last.
    pub fn boots(&self) -> Vec<BootKnown> {
        self.boots.list()
    }

    /// The present boot's true wall offset. Durable at once when it is the first, for batches of this
    /// boot and of those before it are sent by it from now on, and when it is another by far, after a
    /// long time without a server; a slightly better one with the next tick.
    pub fn learn_offset(&mut self, offset_us: i64) {
        let known = self.boots.get(self.boot.counter).and_then(|boot| boot.learnt_offset_us);
        let now_us = self.machine.boot_time().0;
        let Some(entry) = self.boots.learn(self.boot.counter, offset_us, now_us) else { return };
        self.logbook.push([entry]);
        if known.is_none_or(|known| known.abs_diff(offset_us) > FAR_US)
            && let Err(error) = self.write_logbook()
        {
            drop(self.refused(&error));
        }
    }

    /// Draws the id of this opening. It is told to nobody before the logbook has it, and no batch
    /// is appended before that either.
    pub(super) fn begin_opening(&mut self, known_below: u64, gaps: u64, blind: bool) {
        let opening = wire::Opening {
            id: random::<8>().to_vec(),
            first: self.next_sequence,
            known_below,
            dictionary_revision: self.dictionary.revision(),
            gaps,
            blind,
        };
        self.durable = (opening.dictionary_revision, opening.gaps);
        self.lineage.push(opening.clone());
        self.logbook.push([Entry::Opening(opening)]);
    }

    /// The openings for the day the logbook is damaged. On the disk at once: an old copy would pass
    /// an older opening off as the last.
    pub(super) fn copy_openings(&mut self) {
        let openings = self.lineage.openings().to_vec();
        self.with_catalogue(|catalogue| {
            catalogue.copy_openings(&openings)?;
            catalogue.flush()
        });
    }

    /// When the runs before this one were last known to be alive: from what the logbook was `told`,
    /// or, unless that was a clean stop, from the newest batch if that is later. Completes the
    /// table of boots on the way.
    pub(super) fn look_back(&mut self, told: Option<Life>) -> Option<Life> {
        let strangers: Vec<u64> = self
            .segments
            .values()
            .filter(|segment| segment.boot > 0 && self.boots.get(segment.boot).is_none())
            .map(|segment| segment.number)
            .collect();
        for number in strangers {
            if let Some((life, id)) = self.last_life_in(number) {
                self.boots.begin(life.boot, &id);
                self.boots.saw(&life);
            }
        }
        if told.is_some_and(|life| life.clean) {
            return told;
        }
        let newest = self.segments.values().rev().find(|segment| segment.total.batches > 0);
        let read = newest.map(|segment| segment.number).and_then(|number| self.last_life_in(number));
        if let Some((life, id)) = &read {
            self.boots.begin(life.boot, id);
            self.boots.saw(life);
        }
        let read = read.map(|(life, _)| life);
        match (told, read) {
            (Some(told), Some(read)) if (told.boot, told.until_us) >= (read.boot, read.until_us) => {
                Some(told)
            }
            (told, read) => read.or(told),
        }
    }

    /// Notes the moment a batch tells, which is the last sign of life so far.
    pub(super) fn sign_of_life(&mut self, facts: &BatchFacts, batch: &[u8]) {
        if let Some((life, _)) = life_of(facts, batch) {
            self.life = Some(life);
        }
    }

    /// The end of this run, which is a clean one.
    pub(super) fn end_of_life(&self) -> Entry {
        let learnt = self.boots.get(self.boot.counter).and_then(|boot| boot.learnt_offset_us);
        let (wall_offset_us, synchronised) = match (learnt, self.life) {
            (Some(learnt), _) => (learnt, true),
            (None, Some(life)) if life.boot == self.boot.counter => (life.wall_offset_us, life.synchronised),
            (None, _) => (self.machine.shown().offset_us, false),
        };
        Entry::Life(Life {
            boot: self.boot.counter,
            until_us: self.machine.boot_time().0,
            wall_offset_us,
            synchronised,
            clean: true,
        })
    }

    /// What the last batch of a segment tells.
    fn last_life_in(&self, number: u64) -> Option<(Life, [u8; 8])> {
        let segment = self.segments.get(&number)?;
        let file = self.disk.open(&file_name(number)).ok()?;
        let mut last = None;
        survey(file.as_ref(), segment, segment.length, epoch_tag(self.epoch), false, &mut |facts, place| {
            last = Some((*facts, place));
        })
        .ok()?;
        let (facts, place) = last?;
        let frame = frame_at(file.as_ref(), place.at, segment.length).ok()??;
        let body = frame.body(file.as_ref()).ok()??;
        life_of(&facts, body.get(frame.lead()..)?)
    }
}

impl From<Life> for LastRun {
    fn from(life: Life) -> Self {
        let Life { boot, until_us, wall_offset_us, synchronised, clean } = life;
        Self { boot, until_us, wall_offset_us, synchronised, clean }
    }
}

/// When a batch ends, by its envelope.
fn life_of(facts: &BatchFacts, batch: &[u8]) -> Option<(Life, [u8; 8])> {
    let envelope = peek(batch).ok()?;
    let boot = envelope.head.boot;
    let until_us = match envelope.span_us {
        // Every reading carries its device's own time; then it is when it was appended.
        (0, 0) => facts.wall_us.1.saturating_sub(boot.wall_offset_us),
        (_, last) => last,
    };
    let life = Life {
        boot: boot.counter,
        until_us,
        wall_offset_us: boot.wall_offset_us,
        synchronised: boot.synchronised,
        clean: false,
    };
    Some((life, boot.id))
}

/// Bytes that nobody has drawn before.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        // No kernel we run on refuses; time and boot make it unlikely enough.
        let moment = wall_micros().unsigned_abs().rotate_left(17) ^ u64::from(std::process::id());
        bytes.iter_mut().zip(moment.to_le_bytes()).for_each(|(byte, from)| *byte = from);
    }
    bytes
}
