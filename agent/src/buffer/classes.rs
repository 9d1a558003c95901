//! Whose readings give way when there is no room: the rule of every point of the dictionary, which
//! is that of the first class that names it, else the buffer's own. Pure.

use forebay_config::agent::WhenFull;
use forebay_config::classes::Class;
use forebay_protocols::reading::{Point, PointId};

use super::store::Rules;

/// The rules of all points. Points are entered in the order of their numbers.
#[derive(Debug)]
pub struct PointRules {
    usual: WhenFull,
    classes: Vec<Class>,
    /// From point 1 on.
    of: Vec<WhenFull>,
    /// Those that some point has, once each.
    in_use: Vec<WhenFull>,
}

impl PointRules {
    /// No points yet.
    pub fn new(rules: &Rules) -> Self {
        Self { usual: rules.when_full, classes: rules.classes.clone(), of: Vec::new(), in_use: Vec::new() }
    }

    /// The next number is this point's.
    pub fn enter(&mut self, point: &Point) {
        if self.classes.is_empty() {
            return; // They all have the usual rule, and nobody asks further.
        }
        let class = self.classes.iter().find(|class| class.holds(&point.device, &point.name));
        let rule = class.map_or(self.usual, |class| class.when_full);
        self.of.push(rule);
        if !self.in_use.contains(&rule) {
            self.in_use.push(rule);
        }
    }

    /// The rule of a point.
    pub fn of(&self, point: PointId) -> WhenFull {
        let place = (point.0 as usize).checked_sub(1);
        place.and_then(|place| self.of.get(place)).copied().unwrap_or(self.usual)
    }

    /// The rule of what is no reading of any point.
    pub fn usual(&self) -> WhenFull {
        self.usual
    }

    /// The rule of all points, if they have but one.
    pub fn only(&self) -> Option<WhenFull> {
        match self.in_use.as_slice() {
            [] => Some(self.usual),
            [rule] => Some(*rule),
            _ => None,
        }
    }

    /// Does some point have this rule?
    pub fn has(&self, rule: WhenFull) -> bool {
        self.only() == Some(rule) || self.in_use.contains(&rule)
    }
}

#[cfg(test)]
mod tests {
    use WhenFull::{DropOldest, Stop, Thin};
    use forebay_config::classes::Pattern;
    use forebay_config::units::Name;
    use forebay_protocols::reading::{DataType, PointKind};

    use super::*;

    fn class(name: &str, when_full: WhenFull, pattern: &str) -> Class {
        Class { name: Name::new(name).unwrap(), when_full, points: vec![Pattern::new(pattern).unwrap()] }
    }

    fn point(device: &str, name: &str) -> Point {
        Point {
            device: device.into(),
            name: name.into(),
            unit: "".into(),
            kind: PointKind::Gauge,
            data_type: DataType::Float,
        }
    }

    #[test]
    fn the_first_class_that_names_a_point_has_it() {
        let classes = vec![
            class("alarms", Stop, "*/alarm_*"),
            class("trends", Thin, "pump/*"),
            class("never", Stop, "pump/speed"),
        ];
        let mut rules =
            PointRules::new(&Rules { limit: 0, reserve: 0, when_full: DropOldest, tail: 0, classes });
        assert_eq!(rules.only(), Some(DropOldest));
        rules.enter(&point("pump", "alarm_1"));
        assert_eq!(rules.only(), Some(Stop), "no other point is known");
        rules.enter(&point("pump", "speed"));
        rules.enter(&point("fan", "speed"));
        let found = [0, 1, 2, 3, 4].map(|number| rules.of(PointId(number)));
        assert_eq!(found, [DropOldest, Stop, Thin, DropOldest, DropOldest]);
        assert_eq!((rules.only(), rules.has(Thin)), (None, true));
    }
}
