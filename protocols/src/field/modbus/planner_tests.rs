use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Every gap that may be read along pays.
const DEAR_REQUESTS: Cost =
    Cost { per_request: Duration::from_secs(1), per_register: Duration::from_micros(1) };

fn wanted(slot: usize, table: Register, address: u16, width: u16) -> Wanted {
    Wanted { slot, device: 0, table, address, width, interval: SECOND }
}

fn spans(plan: &Plan) -> Vec<(u16, u16)> {
    plan.requests.iter().map(|r| (r.address, r.count)).collect()
}

fn plan_with(points: &[Wanted], max_registers: u16, max_gap: u16) -> Plan {
    plan(points, DEAR_REQUESTS, |_| Limits { max_registers, max_gap, forbidden: Vec::new() })
}

#[test]
fn adjacent_points_share_a_request() {
    let points = [
        wanted(0, Register::Holding, 2, 2),
        wanted(1, Register::Holding, 0, 2),
        wanted(2, Register::Holding, 4, 1),
    ];
    let plan = plan_with(&points, 125, 0);
    assert_eq!(spans(&plan), [(0, 5)]);
    assert_eq!(plan.requests[0].parts[0], Part { slot: 1, start: 0, width: 2 });
}

#[test]
fn gaps_are_read_along_only_up_to_max_gap() {
    let points = [wanted(0, Register::Input, 0, 1), wanted(1, Register::Input, 4, 1)];
    assert_eq!(spans(&plan_with(&points, 125, 2)), [(0, 1), (4, 1)]);
    assert_eq!(spans(&plan_with(&points, 125, 3)), [(0, 5)]);
}

#[test]
fn tables_devices_and_intervals_are_never_crossed() {
    let mut points = [
        wanted(0, Register::Holding, 0, 1),
        wanted(1, Register::Input, 1, 1),
        wanted(2, Register::Holding, 1, 1),
        wanted(3, Register::Holding, 1, 1),
    ];
    points[2].device = 1;
    points[3].interval = SECOND * 2;
    assert_eq!(plan_with(&points, 125, 50).requests.len(), 4);
}

#[test]
fn the_last_register_can_be_read_and_the_one_behind_it_cannot() {
    let points = [
        wanted(0, Register::Holding, 65_534, 2),
        wanted(1, Register::Holding, 65_535, 1),
        wanted(2, Register::Holding, 65_535, 2),
        wanted(3, Register::Coil, 65_535, 1),
    ];
    let plan = plan_with(&points, 125, 125);
    assert_eq!(spans(&plan), [(65_535, 1), (65_534, 2)]);
    assert_eq!(plan.unreachable, [2]);
}

#[test]
fn a_full_request_is_125_registers_or_2000_bits() {
    let registers: Vec<_> = (0..126).map(|i| wanted(i.into(), Register::Holding, i, 1)).collect();
    assert_eq!(spans(&plan_with(&registers, 125, 0)), [(0, 125), (125, 1)]);
    let bits: Vec<_> = (0..2001).map(|i| wanted(i.into(), Register::Coil, i, 1)).collect();
    assert_eq!(spans(&plan_with(&bits, 125, 0)), [(0, 2000), (2000, 1)]);
}

#[test]
fn a_value_wider_than_the_devices_limit_is_read_alone_and_one_wider_than_an_answer_never() {
    let points = [
        wanted(0, Register::Holding, 0, 1),
        wanted(1, Register::Holding, 1, 20),
        wanted(2, Register::Holding, 21, 1),
        wanted(3, Register::Holding, 100, 126),
        wanted(4, Register::Holding, 300, 0),
    ];
    let plan = plan_with(&points, 10, 0);
    assert_eq!(spans(&plan), [(0, 1), (1, 20), (21, 1)]);
    assert_eq!(plan.unreachable, [3, 4]);
}

#[test]
fn a_refused_request_is_cut_at_its_gaps_first() {
    let points = [
        wanted(0, Register::Holding, 0, 1),
        wanted(1, Register::Holding, 1, 1),
        wanted(2, Register::Holding, 4, 2),
        wanted(3, Register::Holding, 9, 1),
    ];
    let plan = plan_with(&points, 125, 5);
    let cut: Vec<_> = plan.requests[0].split().unwrap().iter().map(|r| (r.address, r.count)).collect();
    assert_eq!(cut, [(0, 2), (4, 2), (9, 1)]);
}

#[test]
fn bits_of_one_register_stay_together_when_a_request_is_split() {
    let points: Vec<_> = (0..16).map(|slot| wanted(slot, Register::Holding, 7, 1)).collect();
    let plan = plan_with(&points, 125, 0);
    assert_eq!(spans(&plan), [(7, 1)]);
    assert_eq!(plan.requests[0].split(), None);
}

fn any_point() -> impl Strategy<Value = Wanted> {
    let table = prop_oneof![
        Just(Register::Coil),
        Just(Register::Discrete),
        Just(Register::Input),
        Just(Register::Holding),
    ];
    // Crowded at the bottom and at the top of the address room, where merging and ends meet.
    let address = prop_oneof![0u16..300, 65_300u16..=65_535, any::<u16>()];
    let width = prop_oneof![Just(1u16), Just(2), Just(4), 0u16..140];
    (table, address, width, 0usize..3, 1u64..3).prop_map(|(table, address, width, device, seconds)| {
        let width = if matches!(table, Register::Coil | Register::Discrete) { width.min(1) } else { width };
        Wanted { slot: 0, device, table, address, width, interval: Duration::from_secs(seconds) }
    })
}

fn any_points() -> impl Strategy<Value = Vec<Wanted>> {
    proptest::collection::vec(any_point(), 0..50).prop_map(|mut points| {
        points.iter_mut().enumerate().for_each(|(slot, point)| point.slot = slot);
        points
    })
}

/// Checks that `requests` read each reachable point once and right, within its limits.
fn assert_sound(points: &[Wanted], requests: &[Request], unreachable: &[usize], max_registers: u16) {
    let mut seen = vec![0; points.len()];
    for &slot in unreachable {
        seen[slot] += 1;
    }
    for request in requests {
        let end = u32::from(request.address) + u32::from(request.count);
        assert!(end <= 65_536, "{request:?} crosses the last address");
        let bits = matches!(request.table, Register::Coil | Register::Discrete);
        let limit = if bits { max_registers * 16 } else { max_registers };
        assert!(request.count <= limit || request.parts.len() == 1 || all_same(&request.parts));
        assert!(request.count <= if bits { 2000 } else { 125 });
        for part in &request.parts {
            let point = &points[part.slot];
            seen[part.slot] += 1;
            assert_eq!(u32::from(point.address), u32::from(request.address) + u32::from(part.start));
            assert_eq!((point.width, point.table), (part.width, request.table));
            assert_eq!((point.device, point.interval), (request.device, request.interval));
            assert!(part.start + part.width <= request.count);
        }
    }
    assert!(seen.iter().all(|&n| n == 1), "each point once: {seen:?}");
}

fn all_same(parts: &[Part]) -> bool {
    parts.iter().all(|p| (p.start, p.width) == (parts[0].start, parts[0].width))
}

proptest! {
    #[test]
    fn every_point_is_read_by_exactly_one_request_within_the_limits(
        points in any_points(), max_registers in 1u16..=125, max_gap in 0u16..200,
    ) {
        let plan = plan_with(&points, max_registers, max_gap);
        assert_sound(&points, &plan.requests, &plan.unreachable, max_registers);
    }

    #[test]
    fn no_register_is_read_twice_unless_points_overlap(
        points in any_points(), max_registers in 1u16..=125, max_gap in 0u16..200,
    ) {
        let plan = plan_with(&points, max_registers, max_gap);
        for (i, a) in plan.requests.iter().enumerate() {
            for b in &plan.requests[i + 1..] {
                if (a.device, a.table, a.interval) != (b.device, b.table, b.interval) {
                    continue;
                }
                let read_twice = ranges_meet((a.address, a.count), (b.address, b.count));
                let overlap = a.parts.iter().any(|p| b.parts.iter().any(|q| ranges_meet(
                    (points[p.slot].address, p.width), (points[q.slot].address, q.width),
                )));
                prop_assert!(!read_twice || overlap, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn splitting_ends_with_single_spans_and_loses_no_point(
        points in any_points(), max_registers in 1u16..=125, max_gap in 0u16..200,
    ) {
        let plan = plan_with(&points, max_registers, max_gap);
        let mut whole = plan.requests.clone();
        let mut single = Vec::new();
        while let Some(request) = whole.pop() {
            match request.split() {
                Some(smaller) => {
                    prop_assert!(smaller.len() > 1);
                    prop_assert!(smaller.iter().all(|s| s.parts.len() < request.parts.len()));
                    whole.extend(smaller);
                }
                None => {
                    prop_assert!(all_same(&request.parts));
                    single.push(request);
                }
            }
        }
        assert_sound(&points, &single, &plan.unreachable, max_registers);
    }
}

fn ranges_meet(a: (u16, u16), b: (u16, u16)) -> bool {
    let (a, b) = ((u32::from(a.0), u32::from(a.1)), (u32::from(b.0), u32::from(b.1)));
    a.0 < b.0 + b.1 && b.0 < a.0 + a.1
}

#[test]
fn a_gap_is_read_along_only_where_it_is_cheaper_than_a_request() {
    let points = [wanted(0, Register::Holding, 0, 1), wanted(1, Register::Holding, 11, 1)];
    let gap_of_ten = |per_request: u64| {
        let cost =
            Cost { per_request: Duration::from_micros(per_request), per_register: Duration::from_micros(1) };
        plan(&points, cost, |_| Limits { max_registers: 125, max_gap: 125, forbidden: Vec::new() })
    };
    assert_eq!(spans(&gap_of_ten(9)), [(0, 1), (11, 1)]);
    assert_eq!(spans(&gap_of_ten(10)), [(0, 12)], "at the same price fewer requests");
}

#[test]
fn bits_read_along_cost_a_sixteenth_of_registers() {
    let cost = Cost { per_request: Duration::from_micros(10), per_register: Duration::from_micros(1) };
    let spans_of = |table, address| {
        let points = [wanted(0, table, 0, 1), wanted(1, table, address, 1)];
        let limits = |_| Limits { max_registers: 125, max_gap: 500, forbidden: Vec::new() };
        plan(&points, cost, limits).requests.len()
    };
    assert_eq!([spans_of(Register::Coil, 161), spans_of(Register::Coil, 162)], [1, 2]);
    assert_eq!([spans_of(Register::Input, 11), spans_of(Register::Input, 12)], [1, 2]);
}

#[test]
fn a_limit_is_cut_at_the_widest_gap_and_not_where_it_is_reached() {
    // Joined from below, the first request is full at 8 with six unused registers in it.
    let points: Vec<_> = [0u16, 7, 8, 9].map(|a| wanted(a.into(), Register::Holding, a, 1)).into();
    let cost = Cost { per_request: Duration::from_micros(10), per_register: Duration::from_micros(1) };
    let plan = plan(&points, cost, |_| Limits { max_registers: 9, max_gap: 20, forbidden: Vec::new() });
    assert_eq!(spans(&plan), [(0, 1), (7, 3)], "greedy: (0, 9) and (9, 1)");
}

#[test]
fn a_hole_is_never_crossed_and_a_point_on_it_is_read_alone() {
    let points: Vec<_> = (0..6).map(|a| wanted(a.into(), Register::Holding, a * 2, 1)).collect();
    let hole = |table, first, last| Hole { table, first, last };
    let forbidden =
        vec![hole(Register::Holding, 3, 3), hole(Register::Holding, 8, 8), hole(Register::Input, 5, 5)];
    let plan = plan(&points, DEAR_REQUESTS, |_| Limits {
        max_registers: 125,
        max_gap: 9,
        forbidden: forbidden.clone(),
    });
    assert_eq!(spans(&plan), [(0, 3), (4, 3), (8, 1), (10, 1)]);
}

#[test]
fn five_thousand_points_are_planned_in_the_time_of_a_sort() {
    // Crowded and overlapping, where a quadratic search would take seconds.
    for table in [Register::Coil, Register::Holding] {
        let points: Vec<_> =
            (0u16..5_000).map(|a| wanted(a.into(), table, a * 2 % 9_973, 1 + a % 4)).collect();
        let began = std::time::Instant::now();
        let plan = plan_with(&points, 125, 125);
        // Of a build without optimisation, on a machine with other things to do; a release build
        // needs a tenth.
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        assert_eq!(plan.requests.iter().map(|r| r.parts.len()).sum::<usize>(), 5_000);
    }
}

/// The least cost of any way at all to divide the points among requests, or `None` where the
/// points given cannot be one request.
fn least_cost(points: &[Wanted], cost: Cost, limits: &Limits) -> Option<u128> {
    let Some((first, rest)) = points.split_first() else { return Some(0) };
    let mut least = None;
    for others in 0u32..1 << rest.len() {
        let (with, without): (Vec<_>, Vec<_>) = (0..rest.len()).partition(|at| others >> at & 1 == 1);
        let group: Vec<_> =
            std::iter::once(first.clone()).chain(with.iter().map(|&at| rest[at].clone())).collect();
        let without: Vec<_> = without.iter().map(|&at| rest[at].clone()).collect();
        let Some(one) = cost_of_one(&group, cost, limits) else { continue };
        let all = least_cost(&without, cost, limits).map(|more| one + more);
        least = [least, all].into_iter().flatten().min();
    }
    least
}

fn cost_of_one(group: &[Wanted], cost: Cost, limits: &Limits) -> Option<u128> {
    let first = group.iter().map(|p| p.address).min()?;
    let past = group.iter().map(|p| p.address + p.width).max()?;
    let is_used = |a: u16| group.iter().any(|p| (p.address..p.address + p.width).contains(&a));
    let mut gap = 0;
    for address in first..past {
        gap = if is_used(address) { 0 } else { gap + 1 };
        let is_hole = limits.forbidden.iter().any(|h| (h.first..=h.last).contains(&address));
        let is_single = group.iter().all(|p| (p.address, p.width) == (group[0].address, group[0].width));
        if gap > limits.max_gap || is_hole && !is_single {
            return None;
        }
    }
    let is_single = group.iter().all(|p| (p.address, p.width) == (group[0].address, group[0].width));
    let fits = past - first <= limits.max_registers || is_single;
    fits.then(|| cost.per_request.as_nanos() + cost.per_register.as_nanos() * u128::from(past - first))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn no_other_way_to_read_the_points_is_cheaper(
        places in proptest::collection::vec((0u16..40, 1u16..6), 0..7),
        max_registers in 1u16..25, max_gap in 0u16..12, per_request in 0u64..20,
        holes in proptest::collection::vec((0u16..45, 0u16..3), 0..3),
    ) {
        let points: Vec<_> = places.iter().enumerate()
            .map(|(slot, &(address, width))| wanted(slot, Register::Holding, address, width)).collect();
        let cost = Cost { per_request: Duration::from_nanos(per_request), per_register: Duration::from_nanos(1) };
        let forbidden = holes.iter()
            .map(|&(first, more)| Hole { table: Register::Holding, first, last: first + more }).collect();
        let limits = Limits { max_registers, max_gap, forbidden };
        let plan = plan(&points, cost, |_| limits.clone());
        assert_sound(&points, &plan.requests, &plan.unreachable, max_registers);
        let mut planned = 0;
        for request in &plan.requests {
            let group: Vec<_> = request.parts.iter().map(|part| points[part.slot].clone()).collect();
            planned += cost_of_one(&group, cost, &limits).expect("a request within the limits");
        }
        prop_assert_eq!(Some(planned), least_cost(&points, cost, &limits));
    }
}
