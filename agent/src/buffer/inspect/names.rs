//! The names of points by their numbers. An agent that runs defines new ones before the batches
//! that use them, so an unknown number is looked up in the logbook again before it is called lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_protocols::reading::{DataType, Point, PointKind};

use super::window::Window;
use crate::buffer::logbook::Contents;

/// As far as they are known.
pub struct Names<'w> {
    window: &'w Window,
    points: BTreeMap<u32, Arc<Point>>,
    lost: BTreeSet<u32>,
}

impl<'w> Names<'w> {
    /// Those the logbook told, and a window to look through again.
    pub fn new(window: &'w Window, points: &BTreeMap<u32, Arc<Point>>) -> Self {
        Self { window, points: points.clone(), lost: BTreeSet::new() }
    }

    /// The point of this number. Where its description is lost it goes by the name that the agent
    /// would give it.
    pub fn point(&mut self, number: u32) -> Arc<Point> {
        if !self.points.contains_key(&number) && !self.lost.contains(&number) {
            if let Ok(Some((contents, _))) = Contents::load(self.window) {
                self.points.extend(contents.points);
            }
            if !self.points.contains_key(&number) {
                self.lost.insert(number);
            }
        }
        self.points.get(&number).cloned().unwrap_or_else(|| Arc::new(stand_in(number)))
    }

    /// Numbers that were asked for and have no description.
    pub fn lost(&self) -> &BTreeSet<u32> {
        &self.lost
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
