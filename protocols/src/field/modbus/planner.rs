//! Points to requests. Pure. Every point is read by exactly one request; points of one device,
//! table and interval share a request where they touch or lie at most `max_gap` apart and the
//! device's limit allows; no request crosses a table, an interval, a device, a known hole or
//! address 65535. Of all such plans it is one with the least time on the bus by [`Cost`], and of
//! those one with the fewest requests.
//!
//! A point that lies within another costs nothing beside it, so it is set aside first. What is left
//! ascends by both ends, and then some best plan cuts the points in order: where two requests
//! interleave, moving the points between their starts makes neither longer. The cheapest cut before
//! each point is the least of a window that only moves up, so planning takes the time of a sort.
//!
//! The plan learns: [`Request::split`] takes apart a request that a device refused, first at the
//! unused registers read along (the likely offence), then in halves, so that one forbidden address
//! ends up alone after a few refusals. [`learn`] makes facts of how that ended, and
//! [`Request::replanned`] joins again what need not be apart.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use forebay_config::field::Register;

/// Addresses go from 0 to 65535 (Modbus Application Protocol V1.1b3, 4.4).
const ADDRESSES: u32 = 65_536;
/// The most registers an answer can hold (6.3).
pub const MOST_REGISTERS: u32 = 125;
/// Bits an answer holds per register it could hold: 2000 for 125 (6.1).
pub const BITS_PER_REGISTER: u32 = 16;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Registers in one request; sixteen times as many bits.
    pub max_registers: u16,
    /// Unused addresses that may be read along to join two points, where it pays.
    pub max_gap: u16,
    /// Addresses the device is known to refuse. A point on one is read alone.
    pub forbidden: Vec<Hole>,
}

/// Adjacent addresses that a device refuses to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hole {
    /// Their table.
    pub table: Register,
    /// The first of them.
    pub first: u16,
    /// The last of them.
    pub last: u16,
}

/// What refusals taught of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    /// The most registers it gave in one answer where it refused more.
    pub max_registers: Option<u16>,
    /// Addresses it refused while it answered others.
    pub holes: Vec<Hole>,
}

/// What reading costs on a link: time on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Of a request and its answer without any values.
    pub per_request: Duration,
    /// Of one register more. A bit costs a sixteenth of it.
    pub per_register: Duration,
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

/// Plans `wanted` on a link with this cost under the limits of each device.
pub fn plan(wanted: &[Wanted], cost: Cost, limits: impl Fn(usize) -> Limits) -> Plan {
    let mut plan = Plan::default();
    let mut groups: BTreeMap<(usize, Register, Duration), Vec<&Wanted>> = BTreeMap::new();
    for point in wanted {
        if is_reachable(point) {
            groups.entry((point.device, point.table, point.interval)).or_default().push(point);
        } else {
            plan.unreachable.push(point.slot);
        }
    }
    for ((device, table, _), points) in groups {
        Joiner::new(table, cost, &limits(device)).join(points, &mut plan.requests);
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

    /// The cheapest requests for the points of this one under other limits.
    pub fn replanned(&self, cost: Cost, limits: &Limits) -> Vec<Self> {
        let wanted: Vec<Wanted> = self
            .parts
            .iter()
            .map(|part| Wanted {
                slot: part.slot,
                device: self.device,
                table: self.table,
                address: self.address + part.start,
                width: part.width,
                interval: self.interval,
            })
            .collect();
        plan(&wanted, cost, |_| limits.clone()).requests
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

impl Learnt {
    /// More holes are not remembered of one device: it would be slower to look for them than to ask.
    const MOST_HOLES: usize = 256;

    /// Takes in what was learnt elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.max_registers = [self.max_registers, other.max_registers].into_iter().flatten().min();
        self.holes.extend(&other.holes);
        self.holes.sort_unstable();
        self.holes.dedup();
        self.holes.truncate(Self::MOST_HOLES);
    }

    /// Does it say nothing?
    pub fn is_empty(&self) -> bool {
        self.max_registers.is_none() && self.holes.is_empty()
    }
}

impl Limits {
    /// These limits, narrowed by what was learnt.
    pub fn narrowed(&self, learnt: &Learnt) -> Self {
        let max_registers = learnt.max_registers.map_or(self.max_registers, |n| n.min(self.max_registers));
        let forbidden = self.forbidden.iter().chain(&learnt.holes).copied().collect();
        Self { max_registers, forbidden, ..*self }
    }
}

/// What the pieces of a refused request tell, each with whether the device gave it; `by_address`
/// says that it refused the whole for an address and not for a number.
///
/// Where a piece was refused, the piece is the reason. Where none was, it is the unused registers
/// between the pieces; and if there are none, or the number was refused, the whole was too long.
/// Where all were refused there is nothing to learn: the device is not ready.
pub fn learn(pieces: &[(&Request, bool)], by_address: bool) -> Learnt {
    let mut pieces = pieces.to_vec();
    pieces.sort_by_key(|(piece, _)| (piece.address, piece.count));
    let past = |piece: &Request| u32::from(piece.address) + u32::from(piece.count);
    let hole = |table, first: u32, past: u32| {
        let (first, last) = (u16::try_from(first).ok()?, u16::try_from(past.checked_sub(1)?).ok()?);
        (first <= last).then_some(Hole { table, first, last })
    };
    let given = pieces.iter().filter(|(_, is_given)| *is_given);
    let Some(longest) = given.map(|(piece, _)| piece.count).max() else { return Learnt::default() };
    let refused = pieces.iter().filter(|(_, is_given)| !is_given);
    let mut holes: Vec<Hole> =
        refused.filter_map(|(piece, _)| hole(piece.table, piece.address.into(), past(piece))).collect();
    if !holes.is_empty() {
        // A number that is refused for one register is no hole.
        return if by_address { Learnt { max_registers: None, holes } } else { Learnt::default() };
    }
    let mut reached = pieces.first().map_or(0, |(piece, _)| past(piece));
    for (piece, _) in &pieces {
        holes.extend(hole(piece.table, reached, piece.address.into()));
        reached = reached.max(past(piece));
    }
    let are_registers = pieces.iter().all(|(piece, _)| is_of_registers(piece.table));
    match () {
        () if by_address && !holes.is_empty() => Learnt { max_registers: None, holes },
        // The number of bits says nothing of the number of registers.
        () if are_registers => Learnt { max_registers: Some(longest), holes: Vec::new() },
        () => Learnt::default(),
    }
}

/// Does the table hold registers? Else it holds bits, of which sixteen take the room of one.
pub fn is_of_registers(table: Register) -> bool {
    matches!(table, Register::Input | Register::Holding)
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

/// Joins the points of one device, table and interval.
struct Joiner {
    most: u32,
    max_gap: u32,
    /// First and one past the last address of each hole, by ascending address.
    holes: Vec<(u32, u32)>,
    /// In sixteenths of a nanosecond, so that a bit's share is whole.
    per_request: i128,
    per_address: i128,
}

/// The best plan for the points before a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Price {
    cost: i128,
    requests: usize,
}

impl Joiner {
    fn new(table: Register, cost: Cost, limits: &Limits) -> Self {
        let own = limits.forbidden.iter().filter(|hole| hole.table == table);
        let mut holes: Vec<_> = own.map(|h| (u32::from(h.first), u32::from(h.last) + 1)).collect();
        holes.sort_unstable();
        let sixteenths =
            |time: Duration| i128::try_from(time.as_nanos() * 16).unwrap_or(i128::MAX / 1_000_000);
        let per_register = sixteenths(cost.per_register);
        Self {
            most: most(table, limits.max_registers),
            max_gap: limits.max_gap.into(),
            holes,
            per_request: sixteenths(cost.per_request),
            per_address: match table {
                Register::Coil | Register::Discrete => per_register / i128::from(BITS_PER_REGISTER),
                Register::Input | Register::Holding => per_register,
            },
        }
    }

    fn join(&self, mut points: Vec<&Wanted>, requests: &mut Vec<Request>) {
        // Of points that start together the widest comes first: the others lie within it.
        points.sort_by_key(|p| (p.address, std::cmp::Reverse(p.width), p.slot));
        let (alone, points): (Vec<_>, Vec<_>) = points.into_iter().partition(|point| self.is_alone(point));
        let span = |point: &Wanted| (point.address, point.width);
        let mut joined: Vec<&[&Wanted]> = alone.chunk_by(|a, b| span(a) == span(b)).collect();
        joined.extend(self.cut(&points));
        joined.sort_by_key(|points| points.first().map(|point| span(point)));
        requests.extend(joined.into_iter().filter_map(request));
    }

    /// A value wider than the device's own limit is read alone: torn in two it would be worth
    /// nothing. So is one that is likely to be refused.
    fn is_alone(&self, point: &Wanted) -> bool {
        u32::from(point.width) > self.most || self.has_hole(start(point), end(point))
    }

    /// Cuts points, sorted, none of them alone, where it is cheapest.
    fn cut<'p, 'w>(&self, points: &'p [&'w Wanted]) -> Vec<&'p [&'w Wanted]> {
        let mut reached = 0;
        let mut outer: Vec<usize> = Vec::new();
        for (at, point) in points.iter().enumerate() {
            if end(point) > reached {
                reached = end(point);
                outer.push(at);
            }
        }
        // `cuts[n]` is the place of the last cut in the best plan of the first n outer points.
        let mut cuts = vec![0];
        let mut best = Price { cost: 0, requests: 0 };
        // Places where the last request may start, each cheaper than those before it would be now,
        // by what it costs less the address where it starts.
        let mut places: VecDeque<(usize, Price)> = VecDeque::new();
        let mut previous: Option<&Wanted> = None;
        for (number, point) in outer.iter().filter_map(|&at| points.get(at).copied()).enumerate() {
            if previous.is_some_and(|previous| !self.may_join(previous, point)) {
                places.clear();
            }
            previous = Some(point);
            let from_here = Price { cost: best.cost - self.per_address * i128::from(start(point)), ..best };
            while places.back().is_some_and(|(_, price)| *price >= from_here) {
                places.pop_back();
            }
            places.push_back((number, from_here));
            let is_too_far = |place: usize| {
                let first = outer.get(place).and_then(|&at| points.get(at));
                first.is_some_and(|first| end(point) - start(first) > self.most)
            };
            while places.front().is_some_and(|&(place, _)| is_too_far(place)) {
                places.pop_front();
            }
            // Never empty: a point is not too far from itself.
            let (place, price) = places.front().copied().unwrap_or((number, from_here));
            best = Price {
                cost: price.cost + self.per_request + self.per_address * i128::from(end(point)),
                requests: price.requests + 1,
            };
            cuts.push(place);
        }
        let mut joined = Vec::new();
        let (mut count, mut rest) = (outer.len(), points);
        while count > 0 {
            count = cuts[count];
            let (before, last) = rest.split_at(outer[count]);
            joined.push(last);
            rest = before;
        }
        joined
    }

    fn may_join(&self, before: &Wanted, point: &Wanted) -> bool {
        start(point) <= end(before) + self.max_gap && !self.has_hole(end(before), start(point))
    }

    fn has_hole(&self, start: u32, end: u32) -> bool {
        self.holes.iter().any(|&(first, past)| first < end && start < past)
    }
}

/// One request for points sorted by address.
fn request(points: &[&Wanted]) -> Option<Request> {
    let first = points.first()?;
    let past = points.iter().map(|point| end(point)).max()?;
    Some(Request {
        device: first.device,
        table: first.table,
        interval: first.interval,
        address: first.address,
        // At most 2000.
        count: (past - start(first)) as u16,
        parts: points
            .iter()
            .map(|p| Part { slot: p.slot, start: p.address - first.address, width: p.width })
            .collect(),
    })
}

fn start(point: &Wanted) -> u32 {
    point.address.into()
}

/// One past its last address.
fn end(point: &Wanted) -> u32 {
    u32::from(point.address) + u32::from(point.width)
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
