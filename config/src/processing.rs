//! `[processing.NAME]`: what is done with readings between the driver and the buffer.

use std::time::Duration;

use crate::classes::Pattern;
use crate::field::Deadband;
use crate::units::Name;

/// What a filtered point is silent for at the most, unless its rule says otherwise.
pub const MAX_SILENCE: Duration = Duration::from_secs(600);

/// `[processing.NAME]`: points that are processed alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The table's name.
    pub name: Name,
    /// `points`: patterns of `device/point`. A point is processed by the first rule that names it.
    pub points: Vec<Pattern>,
    /// `round`: numbers become the nearest multiple of this. More than 0. Default as measured.
    pub round: Option<f64>,
    /// What is left out.
    pub filter: Filter,
    /// `window` and `keep`. Default every reading by itself.
    pub window: Option<Window>,
}

impl Rule {
    /// Is this point processed by it?
    pub fn holds(&self, device: &str, point: &str) -> bool {
        self.points.iter().any(|pattern| pattern.matches(device, point))
    }
}

/// Which readings of a point are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filter {
    /// `on_change`, `deadband`, `max_silence`. Default none: readings that say nothing new are kept.
    pub changes: Option<Changes>,
    /// `min_interval`: of readings that follow one another faster the last is kept, when the interval
    /// is over. Default none.
    pub min_interval: Option<Duration>,
}

/// When a reading says something new.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Changes {
    /// `deadband`: when the value is further than this from the one kept last; percent are percent of
    /// that one. Default (`on_change = true`) any other value.
    pub deadband: Option<Deadband>,
    /// `max_silence`: and when that one is as old as this. Default 10 min.
    pub max_silence: Duration,
}

/// `window` and `keep`: readings of a span of time become a few.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// `window`: how long. At least 1 s. Windows begin at multiples of it, in boot time for readings
    /// stamped by this gateway and in the device's time for others.
    pub length: Duration,
    /// `keep`: one goes on under the point's own name, several as `name.mean` and so on.
    pub keep: Vec<Keep>,
}

/// `keep`: what is left of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// `"first"`: the first reading.
    First,
    /// `"last"`: the last reading.
    Last,
    /// `"min"`: the reading with the lowest number.
    Min,
    /// `"max"`: the reading with the highest number.
    Max,
    /// `"mean"`: the mean of the numbers, of booleans the share of true, stamped as the last reading.
    Mean,
    /// `"count"`: how many good readings there were, stamped as the last one.
    Count,
}

impl Keep {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Count => "count",
        }
    }
}
