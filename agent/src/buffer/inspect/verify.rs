//! Every byte of every segment, against everything that is known of it: frames against their
//! checksums, batches against the codec, their order, the dictionary, and the books. What is
//! found is handed over at once; one batch is in memory at a time.

use std::io;

use forebay_protocols::sync::batch::{Decoded, Decoder};
use forebay_protocols::sync::ranges::Ranges;

use super::names::Names;
use super::trouble::{Lost, Trouble, What};
use super::walk::{Batch, Depth, Piece, Walk};
use super::{Inspection, Opened, Part, Standing};
use crate::buffer::logbook::LOGBOOK;
use crate::buffer::segments::Tally;

/// What a verification says while it goes on.
#[derive(Debug)]
pub enum Event<'e> {
    /// Something is not as it was written.
    Trouble(&'e Trouble),
    /// So many bytes of all are read.
    Progress {
        /// Bytes behind us.
        done: u64,
        /// Bytes of all segments.
        of: u64,
    },
}

/// What was read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Segments read.
    pub segments: u64,
    /// Whole batches.
    pub batches: u64,
    /// Readings in them.
    pub readings: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Whole batches that wait for the server.
    pub waiting_batches: u64,
    /// Readings in them.
    pub waiting_readings: u64,
    /// Troubles handed over.
    pub troubles: u64,
    /// Segments that were acknowledged and deleted meanwhile.
    pub finished: u64,
    /// Files of segments that are done with, left for the agent to delete; not read.
    pub done_with: u64,
    /// Frames of a later version, or in the wrong file; passed over, as the agent does.
    pub strange: u64,
    /// Does the newest segment end in the middle of a batch, as it does while one is being written?
    pub unfinished: bool,
}

/// Takes events; an error ends the verification.
pub type Tell<'t> = dyn FnMut(Event<'_>) -> io::Result<()> + 't;

struct Verification<'w, 't> {
    inspection: &'w Inspection,
    names: Names<'w>,
    decoder: Decoder,
    /// Sequences met, over all segments.
    seen: Ranges,
    tell: &'t mut Tell<'t>,
    of: u64,
    checked: Checked,
}

/// How far one segment was read.
struct Course<'p> {
    part: &'p Part,
    file: String,
    /// Where the file ends, as far as it counts.
    end: u64,
    /// The sequence and the readings of the epoch up to here; `None` while nothing tells.
    upto: Option<(u64, u64)>,
    /// Damage since the last whole batch.
    damage: Option<(u64, u64)>,
    waiting: Tally,
    troubles: u64,
}

impl Course<'_> {
    /// Does the file end before it should?
    fn is_cut_short(&self) -> bool {
        self.part.standing == Standing::Sealed && self.end < self.part.known.length
    }
}

impl Inspection {
    /// Reads everything. Errors are those of `tell`: what the disk refuses is a trouble.
    pub fn verify<'t>(&self, tell: &'t mut Tell<'t>) -> io::Result<Checked> {
        let parts = self.parts();
        let mut verification = Verification {
            inspection: self,
            names: Names::new(&self.window, &self.contents.points),
            decoder: Decoder::new(),
            seen: Ranges::default(),
            tell,
            of: parts.iter().filter_map(|part| self.files.get(&part.file())).sum(),
            checked: Checked::default(),
        };
        for trouble in self.book_troubles() {
            verification.report(trouble)?;
        }
        for (index, part) in parts.iter().enumerate() {
            // What the next one says of all before it.
            let next = parts.get(index + 1).filter(|next| next.counts() && next.known.first > 0);
            let next = next.map(|next| (next.known.first - 1, next.known.appended_before));
            verification.segment(part, next)?;
        }
        verification.finish()
    }
}

impl Verification<'_, '_> {
    fn segment(&mut self, part: &Part, next: Option<(u64, u64)>) -> io::Result<()> {
        let trouble = |what| Trouble { file: part.file(), bytes: None, what };
        match part.standing {
            Standing::Alien => return self.report(trouble(What::Alien)),
            Standing::Done => {
                self.checked.done_with += 1;
                return Ok(());
            }
            Standing::Sealed | Standing::Growing | Standing::New => {}
        }
        match self.inspection.open_part(part) {
            Opened::File(file, end) => {
                self.checked.segments += 1;
                let mut walk = Walk::new(file.as_ref(), end, Depth::Whole);
                self.walk(part, &mut walk, end, next)
            }
            Opened::Finished => {
                self.checked.finished += 1;
                Ok(())
            }
            Opened::Gone => {
                let live = part.known.live();
                self.report(trouble(What::SegmentGone { batches: live.batches, readings: live.readings }))
            }
            Opened::Refused(why) => self.report(trouble(What::Unreadable(why.to_string()))),
        }
    }

    fn walk(
        &mut self,
        part: &Part,
        walk: &mut Walk<'_>,
        end: u64,
        next: Option<(u64, u64)>,
    ) -> io::Result<()> {
        let known = &part.known;
        let mut course = Course {
            part,
            file: part.file(),
            end,
            upto: (known.first > 0).then(|| (known.first - 1, known.appended_before)),
            damage: None,
            waiting: Tally::default(),
            troubles: 0,
        };
        loop {
            let (piece, from, to) = match walk.step() {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(why) => {
                    let what = What::Unreadable(why.to_string());
                    return self.report(Trouble { file: course.file, bytes: None, what });
                }
            };
            self.checked.bytes += to - from;
            match piece {
                Piece::Batch(batch) => self.batch(&mut course, &batch, (from, to))?,
                Piece::Torn if self.is_being_written(part) => self.checked.unfinished = true,
                Piece::Broken(_) | Piece::Garbage | Piece::Torn => {
                    course.damage = Some((course.damage.map_or(from, |(first, _)| first), to));
                }
                Piece::Strange => self.checked.strange += 1,
                Piece::Head => {}
            }
            (self.tell)(Event::Progress { done: self.checked.bytes, of: self.of })?;
        }
        self.end(&mut course, next)
    }

    /// May what is at its end be a batch that is on its way?
    fn is_being_written(&self, part: &Part) -> bool {
        part.standing != Standing::Sealed && self.inspection.user.may_write()
    }

    fn batch(&mut self, course: &mut Course<'_>, batch: &Batch, bytes: (u64, u64)) -> io::Result<()> {
        let facts = &batch.facts;
        let sequence = facts.sequence.0;
        if !self.inspection.is_ours(facts) {
            return self.found(course, Some(bytes), What::Stray { sequence });
        }
        if let Some((last, _)) = course.upto.filter(|(last, _)| sequence <= *last) {
            return self.found(course, Some(bytes), What::Disorder { sequence, after: last });
        }
        self.between(course, Some((sequence.saturating_sub(1), facts.appended_before)), bytes.0, false)?;
        course.upto = Some((sequence, facts.appended_before.saturating_add(u64::from(facts.count))));
        if !self.seen.insert(sequence..=sequence) {
            self.found(course, Some(bytes), What::Twice { sequence })?;
        }
        let waiting = course.part.waits(sequence);
        match self.decoder.decode(&batch.bytes) {
            Ok(decoded) => {
                for what in self.differences(&decoded, batch) {
                    self.found(course, Some(bytes), What::Contradiction { sequence, what })?;
                }
            }
            Err(why) => {
                let why = why.to_string();
                self.found(course, Some(bytes), What::Undecodable { sequence, waiting, why })?;
            }
        }
        self.checked.batches += 1;
        self.checked.readings += u64::from(facts.count);
        if waiting {
            course.waiting += Tally { batches: 1, readings: u64::from(facts.count), bytes: 0 };
        }
        Ok(())
    }

    /// What the batch says otherwise than the frame around it. Also asks for the names of its points.
    fn differences(&mut self, decoded: &Decoded, batch: &Batch) -> Vec<String> {
        let facts = &batch.facts;
        let mut points: Vec<u32> = decoded.readings.iter().map(|reading| reading.point.0).collect();
        points.dedup();
        for number in points {
            self.names.point(number);
        }
        let mut found = Vec::new();
        let mut compare = |what: &str, inside: u64, around: u64| {
            if inside != around {
                found.push(format!("{what} is {inside} in the batch and {around} in the file"));
            }
        };
        compare("the sequence", decoded.head.sequence.0, facts.sequence.0);
        compare("the number of readings", decoded.readings.len() as u64, u64::from(facts.count));
        compare("the boot", decoded.head.boot.counter, facts.boot_counter);
        compare("the highest point", u64::from(decoded.dictionary_revision.0), u64::from(facts.revision));
        if self.inspection.epoch.is_some_and(|epoch| epoch != decoded.head.epoch) {
            found.push(format!("the batch is of epoch {}", decoded.head.epoch));
        }
        found
    }

    /// Compares what stands here with what should: `next` is the sequence and the readings of the
    /// epoch that should have been reached where `at` is.
    fn between(
        &mut self,
        course: &mut Course<'_>,
        next: Option<(u64, u64)>,
        at: u64,
        tail: bool,
    ) -> io::Result<()> {
        let lost = course.upto.zip(next).and_then(|((last, readings), (until, upto))| {
            let readings = upto.saturating_sub(readings);
            let first = last.saturating_add(1);
            let waiting = course.part.known.forgotten.first_missing(first) <= until;
            (first <= until && readings > 0).then_some(Lost { first, last: until, readings, waiting })
        });
        let read_at_start = course.part.standing != Standing::Sealed || course.is_cut_short();
        let at_start = read_at_start && !self.inspection.user.may_write();
        match (course.damage.take(), lost) {
            (None, Some(lost)) if lost.waiting => self.found(course, Some((at, at)), What::Missing(lost)),
            (None, _) => Ok(()),
            (Some(bytes), lost) => self.found(course, Some(bytes), What::Damaged { lost, tail, at_start }),
        }
    }

    /// The end of a segment: what should stand there by the logbook and by the next segment.
    fn end(&mut self, course: &mut Course<'_>, next: Option<(u64, u64)>) -> io::Result<()> {
        let part = course.part;
        let (known, books) = (&part.known, &self.inspection.contents.books);
        let newest = part.number.saturating_add(1) >= books.next_segment;
        let should = match part.standing {
            Standing::Sealed => {
                Some((known.last, known.appended_before.saturating_add(known.total.readings)))
            }
            // More may have been appended since the logbook was read.
            _ if self.inspection.user.may_write() => None,
            _ if next.is_some() => next,
            _ if newest => Some((books.next_sequence.saturating_sub(1), books.appended)),
            _ => None,
        };
        if course.is_cut_short() {
            let from = course.damage.map_or(course.end, |(from, _)| from);
            course.damage = Some((from, known.length));
        }
        self.between(course, should, course.end, true)?;
        let (said, found) = (known.live(), course.waiting);
        let counts = |tally: Tally| (tally.batches, tally.readings);
        if part.standing == Standing::Sealed && course.troubles == 0 && counts(said) != counts(found) {
            self.found(course, None, What::Miscounted { said: counts(said), found: counts(found) })?;
        }
        self.checked.waiting_batches += course.waiting.batches;
        self.checked.waiting_readings += course.waiting.readings;
        Ok(())
    }

    fn found(&mut self, course: &mut Course<'_>, bytes: Option<(u64, u64)>, what: What) -> io::Result<()> {
        course.troubles += 1;
        self.report(Trouble { file: course.file.clone(), bytes, what })
    }

    fn report(&mut self, trouble: Trouble) -> io::Result<()> {
        self.checked.troubles += 1;
        (self.tell)(Event::Trouble(&trouble))
    }

    /// What shows only when all is read.
    fn finish(mut self) -> io::Result<Checked> {
        let lost: Vec<u32> = self.names.lost().iter().copied().collect();
        let highest = self.inspection.contents.points.keys().next_back().copied().unwrap_or(0);
        // Holes below the highest number were told with the logbook.
        let lost: Vec<u32> = lost.into_iter().filter(|number| *number > highest).collect();
        if !lost.is_empty() {
            let what = What::PointsLost(lost);
            self.report(Trouble { file: LOGBOOK.into(), bytes: None, what })?;
        }
        Ok(self.checked)
    }
}
