//! What the requests of a bus need of a serial line, before any is asked.

use super::{Bus, SHORTEST_INTERVAL, query};
use crate::field::modbus::frame::Query;
use crate::field::modbus::transport::LineTiming;

/// What one unit needs of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UnitLoad {
    /// Its unit id.
    pub unit: u8,
    /// The part of all time its requests need.
    pub share: f64,
    /// What of `share` goes into silences and what surrounds the values.
    pub overhead: f64,
    /// Requests a second.
    pub requests: f64,
}

impl Bus {
    /// What the requests of each unit need at best on a line with this timing, if it answers the
    /// moment it may; the heaviest unit first. Above 1.0 in all, deadlines will be missed.
    pub fn line_loads(&self, line: LineTiming) -> Vec<UnitLoad> {
        let mut loads: Vec<UnitLoad> =
            self.units.iter().map(|unit| UnitLoad { unit: unit.id, ..UnitLoad::default() }).collect();
        for job in &self.jobs {
            let Some(load) = loads.get_mut(job.unit) else { continue };
            let query = query(&self.units, job);
            let nothing = Query { count: 0, ..query };
            let time = |query: Query| {
                let characters = query.to_rtu().len() + query.rtu_answer_length();
                // One silence before the query and one before the answer.
                (line.silence * 2 + line.character * characters as u32).as_secs_f64()
            };
            let a_second = 1.0 / job.request.interval.max(SHORTEST_INTERVAL).as_secs_f64();
            load.share += time(query) * a_second;
            load.overhead += time(nothing) * a_second;
            load.requests += a_second;
        }
        loads.sort_by(|a, b| b.share.total_cmp(&a.share));
        loads
    }
}
