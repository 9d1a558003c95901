//! The register of a link's points: those the configuration names and those that topics bring.
//!
//! A slot, once given, keeps its point. Two different topic levels that would become the same
//! name never share a slot: the first owns it, the others are turned away, because two devices
//! mixed into one series cannot be told apart again. Discovery has a bound, so that a publisher
//! with random topics cannot fill memory and dictionary.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::template::{Captured, name_of};
use crate::reading::{DataType, Point, PointKind};

/// The most points one link may find by itself; those configured by name do not count.
pub(super) const MOST_DISCOVERED: usize = 10_000;

/// What is known of a point before its topic is heard.
#[derive(Clone, Debug)]
pub(super) struct Outline {
    /// The device's name, where the topic does not name it.
    pub(super) device: Option<Arc<str>>,
    /// The point's name, where the topic does not name it.
    pub(super) name: Option<Arc<str>>,
    pub(super) unit: Arc<str>,
    pub(super) kind: PointKind,
    pub(super) data_type: DataType,
}

/// Which outline: the topic's place in the configuration, and the point's place in the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) topic: usize,
    pub(super) point: usize,
}

/// All points of a link.
#[derive(Default)]
pub(super) struct Register {
    points: Vec<Point>,
    /// Slots by origin and captured levels. Levels contain no `/`, so the joined key is unique.
    slots: HashMap<String, usize>,
    names: HashSet<(Arc<str>, Arc<str>)>,
    discovered: usize,
    key: String,
}

impl Register {
    /// The points so far, by slot.
    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Gives a point that the configuration names in full its slot. False: the name is taken.
    pub(super) fn declare(&mut self, origin: Origin, outline: &Outline) -> bool {
        self.write_key(origin, Captured::default());
        self.add(outline, Captured::default()).is_some()
    }

    /// The slot of what `captured` names, found or given now. `None`: there are too many, or the
    /// name belongs to another topic.
    pub(super) fn slot(
        &mut self,
        origin: Origin,
        outline: &Outline,
        captured: Captured<'_>,
    ) -> Option<usize> {
        self.write_key(origin, captured);
        if let Some(slot) = self.slots.get(&self.key) {
            return Some(*slot);
        }
        if self.discovered >= MOST_DISCOVERED {
            return None;
        }
        let slot = self.add(outline, captured)?;
        self.discovered += 1;
        Some(slot)
    }

    fn add(&mut self, outline: &Outline, captured: Captured<'_>) -> Option<usize> {
        let device = captured.device.map(name_of).or_else(|| outline.device.clone())?;
        let name = captured.point.map(name_of).or_else(|| outline.name.clone())?;
        if !self.names.insert((device.clone(), name.clone())) {
            return None;
        }
        let slot = self.points.len();
        let (unit, kind, data_type) = (outline.unit.clone(), outline.kind, outline.data_type);
        self.points.push(Point { device, name, unit, kind, data_type });
        self.slots.insert(self.key.clone(), slot);
        Some(slot)
    }

    fn write_key(&mut self, origin: Origin, captured: Captured<'_>) {
        self.key.clear();
        let (device, point) = (captured.device.unwrap_or(""), captured.point.unwrap_or(""));
        write!(self.key, "{}/{}/{device}/{point}", origin.topic, origin.point)
            .expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin { topic: 0, point: 0 };

    fn outline(device: Option<&str>, name: Option<&str>) -> Outline {
        Outline {
            device: device.map(Into::into),
            name: name.map(Into::into),
            unit: "".into(),
            kind: PointKind::Gauge,
            data_type: DataType::Float,
        }
    }

    fn heard<'t>(device: &'t str, point: &'t str) -> Captured<'t> {
        Captured { device: Some(device), point: Some(point) }
    }

    #[test]
    fn a_topic_keeps_the_slot_it_got() {
        let mut register = Register::default();
        let plain = outline(None, None);
        assert_eq!(register.slot(ORIGIN, &plain, heard("pump", "flow")), Some(0));
        assert_eq!(register.slot(ORIGIN, &plain, heard("pump", "temp")), Some(1));
        assert_eq!(register.slot(ORIGIN, &plain, heard("pump", "flow")), Some(0));
        assert_eq!(register.points()[1].name.as_ref(), "temp");
    }

    #[test]
    fn two_levels_with_one_name_are_never_mixed() {
        let mut register = Register::default();
        let plain = outline(None, None);
        assert_eq!(register.slot(ORIGIN, &plain, heard("pump 1", "flow")), Some(0));
        assert_eq!(register.slot(ORIGIN, &plain, heard("pump_1", "flow")), None);
        assert_eq!(register.points()[0].device.as_ref(), "pump_1");
    }

    #[test]
    fn a_declared_name_cannot_be_taken_by_a_topic() {
        let mut register = Register::default();
        assert!(register.declare(ORIGIN, &outline(Some("pump"), Some("flow"))));
        let other = Origin { topic: 1, point: 0 };
        assert!(!register.declare(other, &outline(Some("pump"), Some("flow"))));
        assert_eq!(register.slot(other, &outline(None, None), heard("pump", "flow")), None);
        assert_eq!(register.slot(ORIGIN, &outline(Some("pump"), Some("flow")), Captured::default()), Some(0));
    }

    #[test]
    fn discovery_ends_at_its_bound_and_known_points_go_on() {
        let mut register = Register::default();
        let plain = outline(None, None);
        for n in 0..MOST_DISCOVERED {
            assert_eq!(register.slot(ORIGIN, &plain, heard("random", &n.to_string())), Some(n));
        }
        assert_eq!(register.slot(ORIGIN, &plain, heard("random", "one more")), None);
        assert_eq!(register.slot(ORIGIN, &plain, heard("random", "7")), Some(7));
        assert_eq!(register.points().len(), MOST_DISCOVERED);
    }
}
