//! The dictionary of an epoch: a number for every distinct point, given once. Pure. It is as
//! large as the plant has points, whatever the backlog.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_protocols::reading::{DataType, Point, PointId, PointKind};

/// Numbers 1, 2, 3 … without a hole.
#[derive(Debug, Default)]
pub struct Dictionary {
    points: Vec<Arc<Point>>,
    numbers: HashMap<Arc<Point>, u32>,
}

impl Dictionary {
    /// What earlier runs defined, at least up to `revision`. A number whose description was lost
    /// gets the point `lost/point-N`, so that its readings can still be sent; those numbers come
    /// back with it.
    pub fn new(mut known: BTreeMap<u32, Arc<Point>>, revision: u32) -> (Self, Vec<u32>) {
        let mut dictionary = Self::default();
        let mut lost = Vec::new();
        let revision = revision.max(known.keys().next_back().copied().unwrap_or(0));
        for number in 1..=revision {
            let point = known.remove(&number).unwrap_or_else(|| {
                lost.push(number);
                Arc::new(stand_in(number))
            });
            dictionary.numbers.entry(point.clone()).or_insert(number);
            dictionary.points.push(point);
        }
        (dictionary, lost)
    }

    /// The point's number, and whether it is new.
    pub fn define(&mut self, point: &Arc<Point>) -> (u32, bool) {
        if let Some(number) = self.numbers.get(point) {
            return (*number, false);
        }
        self.points.push(point.clone());
        let number = self.revision();
        self.numbers.insert(point.clone(), number);
        (number, true)
    }

    /// The highest number given.
    pub fn revision(&self) -> u32 {
        self.points.len() as u32
    }

    /// Entries with numbers > `after`, ascending.
    pub fn after(&self, after: u32) -> impl Iterator<Item = (PointId, &Arc<Point>)> {
        let rest = self.points.get(after as usize..).unwrap_or_default();
        (after.saturating_add(1)..).map(PointId).zip(rest)
    }
}

fn stand_in(number: u32) -> Point {
    Point {
        device: "lost".into(),
        name: format!("point-{number}").into(),
        unit: "".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Float,
    }
}
