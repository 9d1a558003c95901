use super::*;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
/// The days the histories are set in.
const BEGIN: i64 = 1_790_000_000 * SECOND;
const POSSIBLE: Range<i64> = BEGIN..BEGIN + 30 * YEAR;

fn boot(counter: u64, last_us: i64, offset_us: i64) -> BootKnown {
    BootKnown {
        counter,
        id: counter.to_le_bytes(),
        last_us,
        believed_offset_us: offset_us,
        first_offset_us: Some(offset_us),
        synchronised: false,
        learnt_offset_us: None,
    }
}

fn learnt(offset_us: i64, boot: BootKnown) -> BootKnown {
    BootKnown { learnt_offset_us: Some(offset_us), ..boot }
}

fn offsets(boots: &[BootKnown]) -> Vec<i64> {
    solve(boots, POSSIBLE).iter().map(|solved| solved.offset_us).collect()
}

#[test]
fn three_boots_in_1970_with_immediate_reboots_and_then_the_time_are_right_within_a_second() {
    // Each comes up 0.2 s after the last sign of life of the one before, and shows 1970 again.
    let starts = [0, HOUR, 3 * HOUR].map(|start| BEGIN + YEAR + start);
    let lasts = [HOUR, 2 * HOUR, HOUR].map(|length| length - SECOND / 5);
    let mut boots: Vec<_> = (1..=3).zip(lasts).map(|(counter, last)| boot(counter, last, 0)).collect();
    boots.push(learnt(starts[2] + HOUR, boot(4, 0, 0)));
    let solved = solve(&boots, POSSIBLE);
    for (solved, start) in solved.iter().zip(starts) {
        assert!((solved.offset_us - start).abs() < SECOND, "{solved:?}, not {start}");
        assert!(matches!(solved.sure, Sure::Bracketed { .. }));
    }
    assert_eq!((solved[3].offset_us, solved[3].sure), (starts[2] + HOUR, Sure::Exact));
}

#[test]
fn a_clock_that_kept_running_wrong_by_years_still_tells_how_long_the_power_was_off() {
    let wrong = -5 * YEAR;
    let boots = [
        boot(1, HOUR, BEGIN + YEAR + wrong),
        boot(2, HOUR, BEGIN + YEAR + 9 * HOUR + wrong),
        learnt(BEGIN + YEAR + DAY, boot(3, 0, BEGIN + YEAR + DAY + wrong)),
    ];
    assert_eq!(offsets(&boots), [BEGIN + YEAR, BEGIN + YEAR + 9 * HOUR, BEGIN + YEAR + DAY]);
}

#[test]
fn what_a_boot_believed_after_it_learnt_the_time_says_nothing_of_the_power() {
    // The battery clock lags by a year. Without its first reading the year would count as a pause.
    let late =
        learnt(BEGIN + 2 * YEAR, BootKnown { first_offset_us: None, ..boot(2, DAY, BEGIN + 2 * YEAR) });
    let boots = [boot(1, HOUR, BEGIN + YEAR - HOUR), BootKnown { synchronised: true, ..late }];
    assert_eq!(offsets(&boots), [BEGIN + 2 * YEAR - HOUR, BEGIN + 2 * YEAR]);
}

#[test]
fn a_pause_that_there_is_no_room_for_is_not_believed() {
    let told = learnt(BEGIN + YEAR, boot(1, DAY, 0));
    // 1970, then a saved time of this year: 56 years by the clock, and a day in truth.
    let boots = [told, boot(2, HOUR, 0), learnt(BEGIN + YEAR + 2 * DAY, boot(3, 0, BEGIN))];
    assert_eq!(offsets(&boots)[1], BEGIN + YEAR + 2 * DAY - HOUR);
    let unbounded = &boots[1..];
    assert_eq!(offsets(unbounded)[0], BEGIN + YEAR + 2 * DAY - HOUR, "nobody collected before there was us");
}

#[test]
fn boots_are_squeezed_between_known_ones_and_never_broken_out_of_their_order() {
    let (start, end) = (BEGIN + YEAR, BEGIN + YEAR + 4 * HOUR);
    // By the clock the power was off for 70 minutes each time, and there was an hour in all.
    let between = [boot(2, HOUR, 0), boot(3, HOUR, HOUR + 70 * 60 * SECOND)];
    let before = learnt(start, BootKnown { first_offset_us: Some(9 * YEAR), ..boot(1, HOUR, 9 * YEAR) });
    let after = learnt(end, boot(4, HOUR, 3 * HOUR + 140 * 60 * SECOND - 10 * 60 * SECOND));
    let solved = solve(&[before, between[0], between[1], after], POSSIBLE);
    for pair in solved.windows(2) {
        assert!(pair[0].offset_us + HOUR <= pair[1].offset_us, "{pair:?}");
    }
}

#[test]
fn a_clock_that_only_claimed_to_be_synchronised_is_not_believed_against_how_long_boots_were_up() {
    // 16 hours of boots without the time lie between what was told and the claim of the fourth.
    let told = learnt(BEGIN + YEAR, boot(1, HOUR, 0));
    let claim = |start: i64| BootKnown { synchronised: true, ..boot(4, HOUR, start) };
    let boots = |start: i64| {
        let last = learnt(BEGIN + YEAR + 3 * DAY, boot(5, 0, 0));
        [told, boot(2, 8 * HOUR, 0), boot(3, 8 * HOUR, 0), claim(start), last]
    };
    let impossible = offsets(&boots(BEGIN + YEAR + 2 * HOUR));
    assert!(impossible.windows(2).all(|pair| pair[1] - pair[0] >= HOUR), "in their order: {impossible:?}");
    assert_eq!(offsets(&boots(BEGIN + YEAR + 17 * HOUR))[3], BEGIN + YEAR + 17 * HOUR);
    // Within what crystals do in that time.
    let near = BEGIN + YEAR + 17 * HOUR - 5 * SECOND;
    assert_eq!(offsets(&boots(near))[3], near);
}

#[test]
fn a_clock_that_only_claimed_to_be_synchronised_is_not_believed_against_what_was_told() {
    let claims = |counter, offset| BootKnown { synchronised: true, ..boot(counter, HOUR, offset) };
    let told = learnt(BEGIN + YEAR, boot(2, HOUR, 0));
    let ahead = solve(&[claims(1, BEGIN + 11 * YEAR), told], POSSIBLE);
    assert_eq!(ahead[0].offset_us, BEGIN + YEAR - HOUR, "ten years ahead of what follows it");
    let behind = solve(&[told, claims(3, BEGIN - 9 * YEAR)], POSSIBLE);
    assert_eq!(behind[1].offset_us, BEGIN + YEAR + HOUR, "ten years before what it follows");
    let honest = solve(&[claims(1, BEGIN), told, claims(3, BEGIN + 2 * YEAR)], POSSIBLE);
    assert!(honest.iter().all(|solved| solved.sure == Sure::Exact), "{honest:?}");
}

#[test]
fn a_bad_crystal_does_not_make_a_clock_that_ntp_kept_contradict_its_neighbours() {
    // Each was told the time at its far end; in between a day went by, and 8 seconds more.
    let drift = 8 * SECOND;
    let kept = BootKnown { synchronised: true, ..boot(2, HOUR, BEGIN + YEAR + DAY) };
    let before = learnt(BEGIN + YEAR + drift, boot(1, DAY, 0));
    let after = learnt(BEGIN + YEAR + DAY + HOUR - drift, boot(3, DAY, 0));
    let solved = solve(&[before, kept, after], POSSIBLE);
    assert_eq!((solved[1].offset_us, solved[1].sure), (kept.believed_offset_us, Sure::Exact));
    let (before, after) = (BootKnown { last_us: HOUR, ..before }, BootKnown { last_us: HOUR, ..after });
    let earlier = BootKnown { believed_offset_us: BEGIN + YEAR + HOUR, ..kept };
    let solved = solve(&[before, earlier, after], POSSIBLE);
    assert!(matches!(solved[1].sure, Sure::Bracketed { .. }), "no crystal drifts 8 seconds in an hour");
}

#[test]
fn behind_the_last_known_boot_a_kept_clock_goes_on_and_a_lost_one_begins_at_its_end() {
    let told = learnt(BEGIN + YEAR, boot(1, HOUR, BEGIN + YEAR));
    assert_eq!(offsets(&[told, boot(2, HOUR, BEGIN + YEAR + DAY)])[1], BEGIN + YEAR + DAY);
    assert_eq!(
        offsets(&[told, boot(2, HOUR, 0), boot(3, 0, 0)])[1..],
        [1, 2].map(|n| BEGIN + YEAR + n * HOUR)
    );
    // The server told the time and set no clock: the battery clock is three years fast for ever.
    let fast = BootKnown { first_offset_us: Some(BEGIN + 4 * YEAR), ..told };
    assert_eq!(offsets(&[fast, boot(2, HOUR, BEGIN + 4 * YEAR + DAY)])[1], BEGIN + YEAR + DAY);
}

#[test]
fn boots_of_which_none_learnt_the_time_stay_as_believed() {
    let solved = solve(&[boot(1, HOUR, 5), boot(2, 0, 7)], POSSIBLE);
    assert_eq!(
        solved.iter().map(|boot| (boot.offset_us, boot.sure)).collect::<Vec<_>>(),
        [(5, Sure::Believed), (7, Sure::Believed)]
    );
    assert_eq!(solve(&[], POSSIBLE), []);
}

#[test]
fn numbers_at_their_limits_panic_nowhere() {
    let extremes = [i64::MIN, -1, 0, i64::MAX];
    for last in extremes {
        for offset in extremes {
            for told in [None, Some(i64::MIN), Some(0), Some(i64::MAX)] {
                let odd = BootKnown { learnt_offset_us: told, ..boot(1, last, offset) };
                let synchronised = BootKnown { synchronised: true, ..odd };
                let fine = learnt(BEGIN, boot(2, HOUR, 0));
                for boots in [[odd, fine, synchronised], [odd, odd, fine], [fine, odd, odd]] {
                    assert_eq!(solve(&boots, POSSIBLE).len(), 3);
                }
            }
        }
    }
}

/// Any numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1).unsigned_abs()) as i64
    }
    fn one_in(&mut self, many: i64) -> bool {
        self.roll(many) == 0
    }
    /// Seconds to weeks.
    fn length(&mut self) -> i64 {
        let scale = [10 * SECOND, HOUR, DAY, 40 * DAY][self.roll(4) as usize];
        self.roll(scale)
    }
}

/// How a gateway's system clock comes up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Habit {
    In1970,
    /// At a fixed time of long ago.
    Stale,
    /// At the time that was saved now and then while it ran.
    Saved,
    /// A battery clock with a constant fault.
    Battery(i64),
}

struct History {
    boots: Vec<BootKnown>,
    /// Where each boot really began.
    starts: Vec<i64>,
    /// A battery clock that nobody touched, and its first readings are known.
    undisturbed: bool,
}

fn history(dice: &mut Dice) -> History {
    let mut habit = match dice.roll(5) {
        0 => Habit::In1970,
        1 => Habit::Stale,
        2 => Habit::Saved,
        3 => Habit::Battery(0),
        _ => Habit::Battery(dice.roll(20 * YEAR) - 10 * YEAR),
    };
    let constant = dice.one_in(2);
    let recorded = !dice.one_in(4);
    let mut undisturbed = matches!(habit, Habit::Battery(_)) && constant && recorded;
    let (mut now, mut saved) = (BEGIN + dice.roll(YEAR), BEGIN - YEAR);
    let (mut boots, mut starts) = (Vec::new(), Vec::new());
    let many = 1 + dice.roll(8);
    for counter in 1..=many {
        if !constant && dice.one_in(3) {
            habit = [Habit::In1970, Habit::Stale, Habit::Saved, Habit::Battery(0)][dice.roll(4) as usize];
        }
        let shows = match habit {
            Habit::In1970 => 0,
            Habit::Stale => BEGIN - 3 * YEAR,
            Habit::Saved => saved,
            Habit::Battery(wrong) => now + wrong,
        };
        // Suspend counts as running: boot time goes on. What nobody saw is at the end.
        let (runs, unseen) = (dice.length(), if dice.one_in(2) { 0 } else { dice.roll(30 * SECOND) });
        let mut believed = shows;
        if dice.one_in(5) {
            believed += [10 * YEAR, -10 * YEAR][dice.roll(2) as usize];
            undisturbed = false;
        }
        saved = believed + runs - dice.roll(HOUR).min(runs);
        let mut known =
            BootKnown { first_offset_us: recorded.then_some(shows), ..boot(counter as u64, runs, believed) };
        let last = counter == many;
        if (last && !dice.one_in(6)) || dice.one_in(4) {
            // By the server, which sets no clock; or by NTP, which does.
            let by_server = dice.one_in(2);
            known.believed_offset_us = now;
            known.learnt_offset_us = by_server.then_some(now);
            known.synchronised = !by_server || dice.one_in(2);
            saved = if by_server { saved } else { now + runs };
        }
        boots.push(known);
        starts.push(now);
        now += runs + unseen + dice.length();
    }
    History { boots, starts, undisturbed }
}

#[test]
fn of_10000_histories_every_boot_is_where_it_can_be_and_none_out_of_order() {
    let seed = match std::env::var("FOREBAY_TEST_SEED") {
        Ok(text) => text.parse().expect("FOREBAY_TEST_SEED is a number"),
        Err(_) => getrandom::u64().unwrap(),
    };
    println!("FOREBAY_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let (mut bracketed, mut kept) = (0, 0);
    for number in 0..10_000 {
        let History { boots, starts, undisturbed } = history(&mut dice);
        let solved = solve(&boots, POSSIBLE);
        let tale =
            || format!("history {number} of seed {seed}: {boots:#?}\n{solved:#?}\nin truth {starts:?}");
        let any_known = boots.iter().any(|boot| boot.synchronised || boot.learnt_offset_us.is_some());
        for (place, (boot, (one, start))) in boots.iter().zip(solved.iter().zip(&starts)).enumerate() {
            if boot.synchronised || boot.learnt_offset_us.is_some() {
                assert_eq!((one.offset_us, one.sure), (*start, Sure::Exact), "{}", tale());
            } else if let Sure::Bracketed { earliest_us, latest_us } = one.sure {
                bracketed += 1;
                let known = |boot: &BootKnown| boot.synchronised || boot.learnt_offset_us.is_some();
                let earlier = boots[..place].iter().rposition(known);
                let later = boots[place..].iter().position(known).map(|further| place + further);
                if let (Some(earlier), Some(later)) = (earlier, later) {
                    let off = |at: usize| starts[at + 1] - starts[at] - boots[at].last_us;
                    let most: i64 = (earlier..later).map(off).sum();
                    assert_eq!(latest_us - earliest_us, most, "limits too wide, boot {place}: {}", tale());
                }
                let possible = earliest_us..=latest_us;
                assert!(possible.contains(start), "the truth is outside, boot {place}: {}", tale());
                assert!(possible.contains(&one.offset_us), "outside its limits, boot {place}: {}", tale());
                if undisturbed && later.is_some() {
                    kept += 1;
                    assert_eq!(one.offset_us, *start, "boot {place}: {}", tale());
                }
            } else {
                assert!(!any_known && one.offset_us == boot.believed_offset_us, "boot {place}: {}", tale());
            }
        }
        if any_known {
            for (pair, earlier) in solved.windows(2).zip(&boots) {
                assert!(pair[0].offset_us + earlier.last_us <= pair[1].offset_us, "overlap: {}", tale());
            }
        }
    }
    assert!(bracketed > 5_000 && kept > 500, "{bracketed} bracketed and {kept} kept are no test");
}

#[test]
fn a_boot_that_ntp_kept_may_have_been_looked_at_long_before_its_end() {
    // Asleep for 30 hours and killed as it woke; the crystal ran 40 ppm fast meanwhile.
    let length = 30 * HOUR;
    let kept = BootKnown { synchronised: true, ..boot(1, length, BEGIN + YEAR) };
    let right = BEGIN + YEAR + length - length / 25_000;
    let boots = [kept, learnt(right, boot(2, HOUR, right))];
    assert_eq!(solve(&boots, POSSIBLE)[0].sure, Sure::Exact);
}

#[test]
fn a_claim_that_leaves_no_time_for_the_boots_behind_it_is_none() {
    // The second says that it was synchronised, and ends where the third, up for six hours, began.
    let told = BEGIN + YEAR + 10 * HOUR;
    let lied = BootKnown { synchronised: true, ..boot(2, HOUR, told - HOUR - SECOND) };
    let boots = [boot(1, HOUR, 0), lied, boot(3, 6 * HOUR, 0), learnt(told, boot(4, HOUR, told))];
    assert_eq!(offsets(&boots), [told - 8 * HOUR, told - 7 * HOUR, told - 6 * HOUR, told]);
}
