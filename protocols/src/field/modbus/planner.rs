//! Points to requests. Pure. Every point is read by exactly one request; points of one device,
//! table and interval share a request where they touch or lie at most `max_gap` apart and the
//! device's limit allows; no request crosses a table, an interval, a device or address 65535.
//!
//! The plan learns: [`Request::split`] takes apart a request that a device refused, first at the
//! unused registers read along (the likely offence), then in halves, so that one forbidden address
//! ends up alone after a few refusals and its neighbours keep sharing requests.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_config::field::Register;

/// Addresses go from 0 to 65535 (Modbus Application Protocol V1.1b3, 4.4).
const ADDRESSES: u32 = 65_536;
/// The most registers an answer can hold (6.3).
const MOST_REGISTERS: u32 = 125;
/// Bits an answer holds per register it could hold: 2000 for 125 (6.1).
const BITS_PER_REGISTER: u32 = 16;

/// A point to be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The point, as an index the planner hands through.
    pub slot: usize,
    /// Its device, as an index the planner hands through.
    pub device: usize,
    /// Its table.
    pub table: Register,
    /// Its first address.
    pub address: u16,
    /// Registers or bits it takes.
    pub width: u16,
    /// How often it is read.
    pub interval: Duration,
}

/// What a device can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Registers in one request; sixteen times as many bits.
    pub max_registers: u16,
    /// Unused addresses read along to join two points.
    pub max_gap: u16,
}

/// One read of adjacent addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The device of all its points.
    pub device: usize,
    /// The table of all its points.
    pub table: Register,
    /// The interval of all its points.
    pub interval: Duration,
    /// First address.
    pub address: u16,
    /// Registers or bits.
    pub count: u16,
    /// Its points by ascending address; never empty.
    pub parts: Vec<Part>,
}

/// Where a point lies in its request's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The point.
    pub slot: usize,
    /// Words from the start of the answer.
    pub start: u16,
    /// Words.
    pub width: u16,
}

/// The requests for a list of points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One entry per read.
    pub requests: Vec<Request>,
    /// Points no request can reach: without a width, wider than an answer, or beyond address 65535.
    pub unreachable: Vec<usize>,
}

/// Plans `wanted` under the limits of each device.
pub fn plan(wanted: &[Wanted], limits: impl Fn(usize) -> Limits) -> Plan {
    let mut plan = Plan::default();
    let mut groups: BTreeMap<(usize, Register, Duration), Vec<&Wanted>> = BTreeMap::new();
    for point in wanted {
        if is_reachable(point) {
            groups.entry((point.device, point.table, point.interval)).or_default().push(point);
        } else {
            plan.unreachable.push(point.slot);
        }
    }
    for ((device, table, _), mut points) in groups {
        points.sort_by_key(|p| (p.address, p.width, p.slot));
        merge(&points, most(table, limits(device).max_registers), limits(device).max_gap, &mut plan.requests);
    }
    plan
}

impl Request {
    /// Takes a refused request apart into smaller ones that read the same points; `None` when it
    /// reads a single span and there is nothing to take apart.
    pub fn split(&self) -> Option<Vec<Self>> {
        let mut groups: Vec<Vec<Part>> = Vec::new();
        let mut end = 0;
        for part in &self.parts {
            match groups.last_mut() {
                Some(group) if part.start <= end => group.push(*part),
                _ => groups.push(vec![*part]),
            }
            end = end.max(part.start + part.width);
        }
        if let [whole] = groups.as_slice() {
            // No gap to blame. Points of the very same registers stay together.
            let middle = self.parts.len() / 2;
            let differs = |i: &usize| {
                let (a, b) = (whole[*i - 1], whole[*i]);
                (a.start, a.width) != (b.start, b.width)
            };
            let cut = (1..whole.len()).filter(differs).min_by_key(|i| i.abs_diff(middle))?;
            groups = vec![whole[..cut].to_vec(), whole[cut..].to_vec()];
        }
        Some(groups.iter().filter_map(|parts| self.narrowed_to(parts)).collect())
    }

    fn narrowed_to(&self, parts: &[Part]) -> Option<Self> {
        let start = parts.iter().map(|p| p.start).min()?;
        let end = parts.iter().map(|p| p.start + p.width).max()?;
        Some(Self {
            address: self.address + start,
            count: end - start,
            parts: parts.iter().map(|p| Part { start: p.start - start, ..*p }).collect(),
            ..*self
        })
    }
}

fn is_reachable(point: &Wanted) -> bool {
    let width = u32::from(point.width);
    width > 0 && width <= most(point.table, u16::MAX) && u32::from(point.address) + width <= ADDRESSES
}

/// The most registers or bits of a table that one request may read.
fn most(table: Register, max_registers: u16) -> u32 {
    let registers = u32::from(max_registers).clamp(1, MOST_REGISTERS);
    match table {
        Register::Coil | Register::Discrete => registers * BITS_PER_REGISTER,
        Register::Input | Register::Holding => registers,
    }
}

/// Joins points, sorted by address, greedily from below. A value wider than the device's own limit
/// is read alone: torn in two it would be worth nothing.
fn merge(points: &[&Wanted], most: u32, max_gap: u16, requests: &mut Vec<Request>) {
    let mut open: Option<Request> = None;
    for point in points {
        if let Some(request) = &mut open {
            let start = u32::from(request.address);
            let end = start + u32::from(request.count);
            let joined = end.max(u32::from(point.address) + u32::from(point.width)) - start;
            if u32::from(point.address) <= end + u32::from(max_gap) && joined <= most {
                // `joined` is at most 2000 here.
                request.count = joined as u16;
                request.parts.push(Part {
                    slot: point.slot,
                    start: point.address - request.address,
                    width: point.width,
                });
                continue;
            }
        }
        requests.extend(open.replace(Request {
            device: point.device,
            table: point.table,
            interval: point.interval,
            address: point.address,
            count: point.width,
            parts: vec![Part { slot: point.slot, start: 0, width: point.width }],
        }));
    }
    requests.extend(open);
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
