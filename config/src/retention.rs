//! `[retention]`: how long the server keeps what it has.

use std::time::Duration;

use crate::classes::Pattern;
use crate::units::Name;

/// `[retention]` and its classes. By default everything is kept for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// For points that no class names.
    pub kept: Kept,
    /// `[retention.class.NAME]`, in the order of the file.
    pub classes: Vec<RetentionClass>,
}

/// How long each kind of row is kept; `None`: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// `readings`, as they came.
    pub readings: Option<Duration>,
    /// `minutes`: rollups of a minute.
    pub minutes: Option<Duration>,
    /// `hours`: rollups of an hour.
    pub hours: Option<Duration>,
    /// `days`: rollups of a day.
    pub days: Option<Duration>,
}

/// Points that are kept for a time of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionClass {
    /// The table's name.
    pub name: Name,
    /// `points`: patterns of `device/point`. A point belongs to the first class that names it.
    pub points: Vec<Pattern>,
    /// How long; what the class does not say is as in `[retention]`.
    pub kept: Kept,
}

impl Retention {
    /// Which class a point belongs to; `None`: to none of them.
    pub fn class_of(&self, device: &str, point: &str) -> Option<usize> {
        self.classes
            .iter()
            .position(|class| class.points.iter().any(|pattern| pattern.matches(device, point)))
    }

    /// Is everything kept for ever?
    pub fn is_endless(&self) -> bool {
        let endless = |kept: &Kept| *kept == Kept::default();
        endless(&self.kept) && self.classes.iter().all(|class| endless(&class.kept))
    }
}
