//! Runs of readings that stand out, counted over all readings of a batch: the gap since the run
//! before, and the length less one.

use std::ops::Range;

use super::packing::{Column, Flaw, put};

/// Where the last run that was written ended.
#[derive(Default)]
pub(super) struct Runs {
    end: usize,
}

impl Runs {
    /// Appends a run: not empty, and behind all runs before.
    pub fn write(&mut self, run: Range<usize>, gaps: &mut Vec<u8>, lengths: &mut Vec<u8>) {
        put(gaps, (run.start - self.end) as u64);
        put(lengths, (run.len() - 1) as u64);
        self.end = run.end;
    }
}

/// Runs being read.
pub(super) struct RunColumns<'a> {
    gaps: Column<'a>,
    lengths: Column<'a>,
    end: usize,
}

impl<'a> RunColumns<'a> {
    pub fn new(gaps: (&'static str, &'a [u8]), lengths: (&'static str, &'a [u8])) -> Self {
        Self { gaps: Column::new(gaps.0, gaps.1), lengths: Column::new(lengths.0, lengths.1), end: 0 }
    }

    /// The next run, within `count` readings.
    pub fn next(&mut self, count: usize) -> Result<Option<Range<usize>>, Flaw> {
        if self.gaps.is_empty() {
            return Ok(None);
        }
        let beyond = "runs past the end of the batch";
        let room = count.checked_sub(self.end + 1).ok_or_else(|| self.gaps.flaw(beyond))?;
        let start = self.end + self.gaps.at_most(room, beyond)?;
        let length = 1 + self.lengths.at_most(count - start - 1, beyond)?;
        self.end = start + length;
        Ok(Some(start..self.end))
    }

    pub fn end(self) -> Result<(), Flaw> {
        self.gaps.end()?;
        self.lengths.end()
    }
}
