use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

use forebay_protocols::boot_time::wall_micros;
use rustls::time_provider::TimeProvider;
use tokio_util::sync::CancellationToken;
use wire::sent_batch::Clock::{Bracketed, Corrected, Stated};

use super::*;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
const YEAR: i64 = 365 * 24 * HOUR;
const TRUE_US: i64 = BUILT_US + YEAR;
const ID: [u8; 8] = [7; 8];

/// A system's clock that shows what it is told to.
#[derive(Clone, Default)]
struct Wall(Arc<(AtomicI64, AtomicBool)>);

impl Wall {
    fn show(&self, offset_us: i64) {
        self.0.0.store(offset_us, SeqCst);
    }
    fn claim(&self, synchronised: bool) {
        self.0.1.store(synchronised, SeqCst);
    }
}

struct Bench {
    wall: Wall,
    clock: Clock,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let (wall, dir) = (Wall::default(), tempfile::tempdir().unwrap());
    let own = wall.clone();
    let shown = move || Shown { offset_us: own.0.0.load(SeqCst), claims: own.0.1.load(SeqCst) };
    let machine = Machine::simulated([ID[0]; 16], move || (BootTime::now(), shown()));
    let clock = Clock::open_on(machine, dir.path());
    Bench { wall, clock, _dir: dir }
}

impl Bench {
    /// The server says that the true offset is this.
    fn hear(&self, offset_us: i64) {
        let now = BootTime::now();
        self.clock.learn(now.0 + offset_us, now, now);
    }
}

fn known(counter: u64, last_us: i64, offset_us: i64) -> BootKnown {
    BootKnown {
        counter,
        id: [counter as u8; 8],
        last_us,
        believed_offset_us: offset_us,
        first_offset_us: Some(offset_us),
        synchronised: false,
        learnt_offset_us: None,
    }
}

fn stated(counter: u64, id: [u8; 8], wall_offset_us: i64) -> Boot {
    Boot { counter, id, wall_offset_us, synchronised: false }
}

fn estimate(offset_us: i64, uncertainty_us: i64, at_s: i64) -> Estimate {
    Estimate { offset_us, uncertainty_us, at: BootTime(at_s * SECOND) }
}

#[test]
fn whom_the_gateway_believes() {
    let shows = |seconds, claims| Shown { offset_us: seconds * SECOND, claims };
    let heard = |seconds| Some(estimate(seconds * SECOND, 10_000, 0));
    let belief = |seconds, source| Belief { offset_us: seconds * SECOND, source };
    for (system, server, expected, why) in [
        (shows(100, false), None, belief(100, Source::Nobody), "alone, the system's clock is all there is"),
        (shows(100, true), None, belief(100, Source::System), "NTP needs no server of ours"),
        (shows(100, true), heard(900), belief(100, Source::System), "NTP is better than an answer"),
        (shows(100, false), heard(100), belief(100, Source::System), "a clock that agrees is kept"),
        (shows(100, false), heard(101), belief(101, Source::Server), "one that is a second off is not"),
        (shows(100, false), heard(900), belief(900, Source::Server), "a clock that does not is not"),
        (shows(100, true), heard(9_000), belief(9_000, Source::Server), "two hours off is not synchronised"),
    ] {
        assert_eq!(believe(system, server), expected, "{why}");
    }
}

#[test]
fn a_slow_answer_does_not_blur_a_sharp_estimate_until_the_crystal_has_drifted() {
    let sharp = estimate(5 * SECOND, 2_000, 0);
    let slow = estimate(6 * SECOND, 400_000, 60);
    assert_eq!(sharp.better_of(slow), sharp);
    let slow_but_days_later = Estimate { at: BootTime(86_400 * SECOND), ..slow };
    assert_eq!(sharp.better_of(slow_but_days_later), slow_but_days_later);
}

#[test]
fn a_clock_that_ntp_keeps_carries_the_servers_word_along_as_far_as_a_crystal_drifts() {
    let heard = estimate(5 * SECOND, 2_000, 0);
    let shows = |offset_us, claims| Shown { offset_us, claims };
    let a_day_later = BootTime(86_400 * SECOND);
    let drifted = heard.followed(shows(8 * SECOND, true), a_day_later);
    assert_eq!(drifted, estimate(8 * SECOND, 2_000, 86_400));
    for (system, why) in [
        (shows(8 * SECOND, false), "one that nobody keeps says nothing"),
        (shows(14 * SECOND, true), "no crystal drifts by nine seconds a day"),
    ] {
        assert_eq!(heard.followed(system, a_day_later), heard, "{why}");
    }
}

#[test]
fn the_server_is_believed_to_have_answered_half_way() {
    let heard = Estimate::from_answer(TRUE_US, BootTime(10 * SECOND), BootTime(12 * SECOND));
    assert_eq!(heard, estimate(TRUE_US - 11 * SECOND, SECOND, 12));
}

#[test]
fn batches_encoded_before_the_time_was_known_are_corrected_and_others_are_not() {
    let bench = bench();
    bench.clock.place(4, &[]);
    let early = bench.clock.boot();
    assert_eq!((early.counter, early.wall_offset_us, early.synchronised), (4, 0, false));
    assert_eq!(bench.clock.correction(&early), (0, Stated), "nobody knows better yet");
    bench.hear(TRUE_US);
    assert_eq!(bench.clock.correction(&early), (TRUE_US, Corrected));
    assert_eq!(bench.clock.correction(&bench.clock.boot()), (0, Stated));
    assert_eq!(bench.clock.correction(&stated(3, [8; 8], 0)), (0, Stated), "a boot nobody remembers");
}

#[test]
fn steps_of_ten_years_both_ways_change_no_time_once_the_server_was_heard() {
    let bench = bench();
    bench.clock.place(1, &[]);
    bench.wall.show(-10 * YEAR);
    let early = bench.clock.boot();
    bench.hear(TRUE_US);
    for step in [TRUE_US + 10 * YEAR, TRUE_US, TRUE_US - 10 * YEAR, i64::MAX, i64::MIN] {
        bench.wall.show(step);
        assert_eq!(bench.clock.belief().offset_us, TRUE_US, "after a step to {step}");
        assert_eq!(
            bench.clock.correction(&early),
            (TRUE_US + 10 * YEAR, Corrected),
            "after a step to {step}"
        );
    }
}

#[test]
fn a_clock_set_by_hand_that_still_says_it_is_synchronised_is_found_out() {
    let bench = bench();
    bench.clock.place(1, &[]);
    bench.wall.claim(true);
    bench.wall.show(TRUE_US + 10 * YEAR);
    let fooled = bench.clock.boot();
    assert!(fooled.synchronised);
    bench.hear(TRUE_US);
    assert_eq!(bench.clock.belief(), Belief { offset_us: TRUE_US, source: Source::Server });
    assert!(bench.clock.learnt(|learnt| learnt.doubted), "nobody was told");
    assert_eq!(bench.clock.correction(&fooled), (-10 * YEAR, Corrected));
    bench.wall.show(TRUE_US + 5);
    bench.hear(TRUE_US);
    assert_eq!(bench.clock.belief().source, Source::System, "set right again");
    assert!(!bench.clock.learnt(|learnt| learnt.doubted));
    let by_ntp = Boot { synchronised: true, ..stated(1, ID, TRUE_US + 3 * SECOND) };
    assert_eq!(bench.clock.correction(&by_ntp), (0, Stated), "a batch that knew the time keeps it");
}

#[test]
fn a_batch_of_an_earlier_run_of_the_agent_in_this_boot_is_corrected_too() {
    let bench = bench();
    let present = BootKnown { id: ID, last_us: HOUR, ..known(5, HOUR, 3) };
    bench.clock.place(5, &[present]);
    bench.hear(TRUE_US);
    assert_eq!(bench.clock.correction(&stated(5, ID, 3)), (TRUE_US - 3, Corrected));
}

#[test]
fn what_an_earlier_run_learnt_in_this_boot_is_believed_before_the_server_is_heard() {
    let bench = bench();
    let present = BootKnown { id: ID, learnt_offset_us: Some(TRUE_US), ..known(5, HOUR, 3) };
    bench.clock.place(5, &[present]);
    assert_eq!(bench.clock.belief(), Belief { offset_us: TRUE_US, source: Source::Server });
    bench.hear(TRUE_US + SECOND / 2);
    assert_eq!(bench.clock.belief().offset_us, TRUE_US + SECOND / 2, "and gives way to a sharper answer");
}

#[test]
fn batches_and_gaps_of_boots_without_the_time_lie_before_this_one() {
    let bench = bench();
    let told = BootKnown { learnt_offset_us: Some(TRUE_US), ..known(1, HOUR, 0) };
    bench.clock.place(3, &[told, known(2, HOUR, 0)]);
    let (first, second) = (stated(1, [1; 8], 0), stated(2, [2; 8], 0));
    assert_eq!(bench.clock.correction(&first), (TRUE_US, Corrected), "exact, whatever this boot knows");
    assert_eq!(bench.clock.correction(&second), (TRUE_US + HOUR, Bracketed), "at the earliest possible time");
    bench.hear(TRUE_US + 10 * HOUR);
    assert_eq!(bench.clock.correction(&second), (TRUE_US + 9 * HOUR, Bracketed));
    assert_eq!(bench.clock.boots_unsure(), 1);

    let end = |boot| Some(wire::GapEnd { boot, wall_offset_us: 0, synchronised: false });
    let gap =
        wire::Gap { from_us: HOUR, to_us: 7, start: end(2), end: end(3), count: 9, ..Default::default() };
    let resolved = bench.clock.resolve(gap);
    let expected = (TRUE_US + 10 * HOUR, TRUE_US + 10 * HOUR + 7);
    assert_eq!((resolved.from_us, resolved.to_us, resolved.count), (expected.0, expected.1, 9));
    assert_eq!((resolved.start, resolved.end), (None, None), "the gateway's clocks are its own business");
    let old = wire::Gap { from_us: 5, to_us: 6, ..Default::default() };
    assert_eq!(bench.clock.resolve(old.clone()), old, "one of an older version is taken as it is");
}

#[test]
fn certificates_are_never_judged_by_a_time_that_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = || Clock::with_boot_id(dir.path(), 1, ID);
    assert_eq!(clock().tls_floor(), BUILT_US / SECOND);
    let later_us = BUILT_US + 400 * 24 * HOUR;
    let first = clock();
    first.learn(later_us, BootTime::now(), BootTime::now());
    assert!(first.tls_floor() >= later_us / SECOND);
    first.remember().unwrap();
    assert!(clock().tls_floor() >= later_us / SECOND - 1, "forgotten over a restart");
}

#[test]
fn once_the_server_was_heard_certificates_are_judged_by_its_time_whatever_the_clock_shows() {
    let bench = bench();
    bench.clock.place(1, &[]);
    let tls = || TimeProvider::current_time(&bench.clock).unwrap().as_secs() as i64;
    bench.wall.show(TRUE_US + 10 * YEAR);
    let earliest = bench.clock.earliest().map(|time| time.as_secs() as i64);
    assert_eq!(earliest, Some(bench.clock.tls_floor()), "nobody vouches for ten years ahead");
    bench.hear(TRUE_US);
    assert_eq!(bench.clock.earliest(), None);
    for step in [TRUE_US + 10 * YEAR, TRUE_US - 10 * YEAR, 0] {
        bench.wall.show(step);
        let right = (BootTime::now().0 + TRUE_US) / SECOND;
        assert!((tls() - right).abs() <= 1, "{} s off after a step to {step}", tls() - right);
    }
}

#[test]
fn the_floor_of_tls_never_falls_and_is_not_forgotten_with_the_power() {
    let bench = bench();
    let told = BootKnown { learnt_offset_us: Some(TRUE_US), ..known(1, HOUR, 0) };
    bench.clock.place(3, &[told, known(2, 2 * HOUR, 0)]);
    let floor = bench.clock.tls_floor();
    assert!(floor >= (TRUE_US + 3 * HOUR) / SECOND, "so long the gateway was up since");
    bench.hear(TRUE_US + 5 * HOUR);
    let told = bench.clock.tls_floor();
    assert!(told >= floor + 2 * HOUR / SECOND);
    bench.hear(TRUE_US + 4 * HOUR);
    assert!(bench.clock.tls_floor() >= told, "a crystal that was ahead");
}

#[test]
fn over_a_restart_a_clock_that_creeps_away_is_not_believed_for_two_seconds() {
    let bench = bench();
    let present = BootKnown { id: ID, learnt_offset_us: Some(TRUE_US), ..known(5, HOUR, 3) };
    bench.clock.place(5, &[present]);
    bench.wall.show(TRUE_US + SECOND);
    assert_eq!(bench.clock.belief(), Belief { offset_us: TRUE_US, source: Source::Server });
    bench.wall.show(TRUE_US + SECOND / 2);
    assert_eq!(bench.clock.belief().source, Source::System);
}

#[test]
fn nonsense_in_the_file_or_from_the_server_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "yesterday", "9223372036854775807", "-5"] {
        fs::write(dir.path().join("last-good-time"), text).unwrap();
        let clock = Clock::open(dir.path());
        clock.learn(0, BootTime::now(), BootTime::now());
        clock.learn(i64::MAX, BootTime::now(), BootTime::now());
        assert_eq!(clock.tls_floor(), BUILT_US / SECOND, "{text}");
        assert_eq!(clock.learnt(|learnt| learnt.server), None);
    }
}

#[test]
fn the_clock_of_this_machine_is_the_kernels_and_counts_suspend() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::open(dir.path());
    let apart = clock.wall_us() - wall_micros();
    assert!(apart.abs() < SECOND, "{apart} us off what the system shows");
    // /proc/uptime is CLOCK_BOOTTIME, suspend included, in hundredths of a second.
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
    let now = BootTime::now().0 as f64 / SECOND as f64;
    assert!((0.0..60.0).contains(&(now - seconds + 0.011)), "{now} is not {seconds}");
}

#[tokio::test]
async fn the_buffer_hears_what_was_learnt_once_and_again_when_it_changed() {
    let bench = bench();
    bench.clock.place(1, &[]);
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let tell = move |offset| {
        told.send(offset).unwrap();
        std::future::ready(())
    };
    bench.wall.claim(true);
    bench.wall.show(TRUE_US - 5 * YEAR);
    let every = Duration::from_millis(1);
    let keeping = tokio::spawn(keeping::keep(bench.clock.clone(), every, tell, stop.clone()));
    tokio::task::yield_now().await;
    bench.hear(TRUE_US);
    assert_eq!(hears.recv().await, Some(TRUE_US), "what nobody confirmed is not told");
    bench.hear(TRUE_US + 1_000);
    bench.wall.show(TRUE_US + HOUR / 2);
    assert_eq!(hears.recv().await, Some(TRUE_US + HOUR / 2), "by a look at the clock that NTP keeps");
    stop.cancel();
    keeping.await.unwrap();
    assert_eq!(hears.recv().await, None, "told twice");
}
