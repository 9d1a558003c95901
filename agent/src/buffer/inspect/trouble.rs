//! What can be wrong with a buffer, in words for the person in front of it: what was found, and
//! what the agent will do about it. Nothing here needs a person to repair anything by hand.

use std::fmt;

use serde::Serialize;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The file, below the buffer's folder.
    pub file: String,
    /// Where in it: the first byte, and the byte after the last.
    pub bytes: Option<(u64, u64)>,
    /// What it is.
    pub what: What,
}

/// Batches that should have stood where the damage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The first sequence.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Readings in them.
    pub readings: u64,
    /// Does any of them wait for the server?
    pub waiting: bool,
}

/// The kinds of trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The logbook does not exist.
    LogbookGone,
    /// The disk does not give it.
    LogbookUnreadable(String),
    /// This many of its bytes are not what was written.
    LogbookDamaged(u64),
    /// It ends in the middle of a record.
    LogbookTorn,
    /// Descriptions of points that batches use are missing.
    PointsLost(Vec<u32>),
    /// More readings were dropped than the gap records tell.
    Unexplained {
        /// Readings dropped, by the books.
        dropped: u64,
        /// Readings in gap records.
        explained: u64,
    },
    /// A segment's file does not exist.
    SegmentGone {
        /// Batches in it that wait for the server.
        batches: u64,
        /// Readings in them.
        readings: u64,
    },
    /// The disk does not give a file, or a part of it.
    Unreadable(String),
    /// A segment of another epoch.
    Alien,
    /// Bytes that are not what was written.
    Damaged {
        /// What stood there, where the books tell.
        lost: Option<Lost>,
        /// Up to the end of the file?
        tail: bool,
        /// Will the agent read the segment at its next start (or only when it sends from it)?
        at_start: bool,
    },
    /// Batches are missing, though no byte is damaged.
    Missing(Lost),
    /// A batch whose checksum is right and that is none all the same.
    Undecodable {
        /// Its number.
        sequence: u64,
        /// Does it wait for the server?
        waiting: bool,
        /// What the codec said.
        why: String,
    },
    /// A batch and the frame around it do not agree.
    Contradiction {
        /// Its number, by the frame.
        sequence: u64,
        /// What differs.
        what: String,
    },
    /// A batch of another epoch.
    Stray {
        /// Its number.
        sequence: u64,
    },
    /// Not above the batch before it in the same file.
    Disorder {
        /// Its number.
        sequence: u64,
        /// The one before it.
        after: u64,
    },
    /// A sequence that another segment holds too.
    Twice {
        /// Its number.
        sequence: u64,
    },
    /// The logbook counts a whole segment otherwise.
    Miscounted {
        /// Batches and readings that wait for the server, by the logbook.
        said: (u64, u64),
        /// The same, by the segment.
        found: (u64, u64),
    },
}

impl What {
    /// A word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::LogbookGone => "logbook-gone",
            Self::LogbookUnreadable(_) => "logbook-unreadable",
            Self::LogbookDamaged(_) => "logbook-damaged",
            Self::LogbookTorn => "logbook-torn",
            Self::PointsLost(_) => "points-lost",
            Self::Unexplained { .. } => "dropped-unexplained",
            Self::SegmentGone { .. } => "segment-gone",
            Self::Unreadable(_) => "unreadable",
            Self::Alien => "other-epoch",
            Self::Damaged { tail: false, .. } => "damaged",
            Self::Damaged { tail: true, .. } => "torn-tail",
            Self::Missing(_) => "missing",
            Self::Undecodable { .. } => "undecodable",
            Self::Contradiction { .. } => "contradiction",
            Self::Stray { .. } => "stray",
            Self::Disorder { .. } => "out-of-order",
            Self::Twice { .. } => "twice",
            Self::Miscounted { .. } => "miscounted",
        }
    }

    /// The batches that are lost by it.
    pub fn lost(&self) -> Option<Lost> {
        match self {
            Self::Damaged { lost, .. } => *lost,
            Self::Missing(lost) => Some(*lost),
            _ => None,
        }
    }

    /// What the agent does about it.
    pub fn then(&self) -> &'static str {
        let waiting = self.lost().is_some_and(|lost| lost.waiting);
        match self {
            Self::LogbookGone | Self::LogbookUnreadable(_) => {
                "At its next start the agent writes the logbook anew from the segments. What was acknowledged \
                 may be sent again, which the server notices and does not store twice."
            }
            Self::LogbookDamaged(_) => {
                "At its next start the agent writes the logbook anew from what is readable and from the \
                 segments, and keeps the old one in damaged/. What was acknowledged may be sent again, which \
                 the server notices and does not store twice."
            }
            Self::LogbookTorn => "At its next start the agent cuts it off and goes on.",
            Self::PointsLost(_) => {
                "The agent keeps a copy of them in its catalogue. What is missing there too it sends all the same, as \
                 points `point-N` of a device `lost`."
            }
            Self::Unexplained { .. } => "Nothing: gap records are not written later. Please report this.",
            Self::SegmentGone { readings: 0, .. } => {
                "At its next start the agent strikes it from the logbook."
            }
            Self::SegmentGone { .. } => {
                "At its next start the agent counts them as lost and writes a gap record."
            }
            Self::Unreadable(_) => {
                "The agent tries it several times; what it still cannot read then becomes a gap record."
            }
            Self::Alien => "At its next start the agent moves it to damaged/ and does not send it.",
            Self::Damaged { tail: true, at_start: true, .. } if !waiting => {
                "At its next start the agent cuts it off and goes on."
            }
            Self::Damaged { tail: true, at_start: true, .. } => {
                "At its next start the agent cuts it off, counts what is lost, and writes a gap record."
            }
            Self::Damaged { at_start: true, .. } if waiting => {
                "At its next start the agent keeps these bytes in damaged/, counts what is lost, writes a gap \
                 record and goes on with the next batch."
            }
            Self::Damaged { at_start: true, .. } => {
                "At its next start the agent keeps these bytes in damaged/ and goes on with the next batch."
            }
            Self::Missing(_) if waiting => {
                "The agent counts them as lost and writes a gap record: at its next start, or when their turn \
                 comes."
            }
            Self::Damaged { .. } if waiting => {
                "When their turn comes the agent keeps what is there in damaged/, counts what is lost, writes \
                 a gap record and goes on with the next batch."
            }
            Self::Damaged { .. } | Self::Missing(_) => {
                "Nothing: the file is deleted once all of it is acknowledged."
            }
            Self::Undecodable { waiting: true, .. } => {
                "The agent sends it as it is; the server keeps it aside for a person, and nothing waits for it."
            }
            Self::Undecodable { .. } => "Nothing: it need not be sent any more.",
            Self::Contradiction { .. } => {
                "The agent sends the batch as it is, and the server goes by what the batch says. Please report this."
            }
            Self::Stray { .. } => "The agent passes over it.",
            Self::Disorder { .. } => "The agent sends only what comes in order. Please report this.",
            Self::Twice { .. } => {
                "The agent sends one of them; the server would notice a second one. Please report this."
            }
            Self::Miscounted { .. } => {
                "When the agent comes to this segment it goes by what is readable. Please report this."
            }
        }
    }
}

impl fmt::Display for What {
    /// What it means.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogbookGone => f.write_str("The logbook is gone."),
            Self::LogbookUnreadable(why) => write!(f, "The logbook cannot be read: {why}."),
            Self::LogbookDamaged(bytes) => {
                write!(f, "{bytes} bytes of the logbook are not what was written.")
            }
            Self::LogbookTorn => f.write_str(
                "The logbook ends in the middle of a record. A power cut while it was written leaves this, and \
                 nothing that was confirmed is lost by it.",
            ),
            Self::PointsLost(points) => {
                let few: Vec<_> = points.iter().take(20).map(u32::to_string).collect();
                let more = if points.len() > few.len() { " and more" } else { "" };
                write!(f, "Names and units of points are lost: number {}{more}.", few.join(", "))
            }
            Self::Unexplained { dropped, explained } => write!(
                f,
                "By the books {dropped} readings were dropped, but the gap records tell of {explained} only."
            ),
            Self::SegmentGone { readings: 0, .. } => {
                f.write_str("The file is gone. Nothing in it waited for the server.")
            }
            Self::SegmentGone { batches, readings } => {
                write!(f, "The file is gone, with {batches} batches and {readings} readings that were not acknowledged yet.")
            }
            Self::Unreadable(why) => write!(f, "The disk does not give it: {why}."),
            Self::Alien => {
                f.write_str("The file belongs to another buffer (another epoch): somebody copied it here.")
            }
            Self::Damaged { lost: None, tail: true, .. } => f.write_str(
                "Behind the last whole batch lie bytes that are none. A power cut during a write leaves this, \
                 and nothing that was confirmed is lost by it.",
            ),
            Self::Damaged { lost: None, tail: false, .. } => {
                f.write_str("These bytes are not what was written. No batch stood there.")
            }
            Self::Damaged { lost: Some(lost), .. } => {
                write!(f, "These bytes are not what was written. {lost}")
            }
            Self::Missing(lost) => write!(f, "No byte here is damaged, and yet something is missing. {lost}"),
            Self::Undecodable { sequence, why, .. } => {
                write!(f, "Batch {sequence} is as it was written, but it cannot be decoded: {why}.")
            }
            Self::Contradiction { sequence, what } => {
                write!(f, "Batch {sequence} and the books disagree: {what}.")
            }
            Self::Stray { sequence } => write!(f, "Batch {sequence} is of another buffer (another epoch)."),
            Self::Disorder { sequence, after } => write!(f, "Batch {sequence} stands behind batch {after}."),
            Self::Twice { sequence } => write!(f, "Batch {sequence} stands in another segment too."),
            Self::Miscounted { said, found } => write!(
                f,
                "The logbook says that {} batches with {} readings of this segment wait for the server; {} with {} \
                 are there.",
                said.0, said.1, found.0, found.1
            ),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, readings, waiting } = self;
        let batches =
            if first == last { format!("batch {first}") } else { format!("batches {first} to {last}") };
        let readings = if *readings == 1 { "1 reading".to_owned() } else { format!("{readings} readings") };
        let fate = match waiting {
            true => "not acknowledged yet, and lost",
            false => "acknowledged or counted as lost before, so nothing is lost now",
        };
        write!(f, "Here stood {batches} with {readings}: {fate}.")
    }
}
