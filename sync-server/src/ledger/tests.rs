//! The equations one by one, and whole histories of a gateway, a network and a server by chance:
//! correct ones never raise an alarm, and no reading is lost or doubled without one.

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::Report;
use proptest::prelude::*;

use super::*;

mod history;

use history::{Event, History, events};

const SECOND: Micros = 1_000_000;
const MINUTE: Micros = 60 * SECOND;

/// Books of a gateway that has appended 100 readings, dropped 5 and holds 15 back, all in order.
fn row() -> LedgerRow {
    let report = Report {
        produced: 120,
        filtered: 12,
        in_hand: 8,
        appended: 100,
        dropped: 5,
        acknowledged: 80,
        backlog_readings: 15,
        ..Report::default()
    };
    LedgerRow {
        agent: AgentKey(1),
        epoch: Epoch([7; 16]),
        fork: 0,
        stored: 80,
        set_aside: 0,
        stored_at_report: 80,
        report: Some((report, 0)),
        last_seen: 0,
        current: true,
    }
}

fn with(change: impl FnOnce(&mut LedgerRow, &mut Report)) -> LedgerRow {
    let mut row = row();
    let (mut report, received) = row.report.take().unwrap();
    change(&mut row, &mut report);
    row.report = Some((report, received));
    row
}

fn verdict(row: LedgerRow) -> Verdict {
    Books(&row).verdict()
}

#[test]
fn books_in_order_are_closed_and_proven() {
    assert_eq!(verdict(row()), Verdict::Closed { proven: true });
    // An answer was swallowed: the gateway does not know yet that the 15 are safe.
    let ahead = with(|row, _| row.stored_at_report = 95);
    assert_eq!(verdict(ahead), Verdict::Closed { proven: false });
    assert_eq!(verdict(LedgerRow { report: None, ..row() }), Verdict::Unreported);
}

#[test]
fn every_equation_tells_by_how_many_readings_it_is_open() {
    let cases = [
        (
            with(|_, report| report.in_hand = 7),
            "the gateway produced 120 readings and accounts for 119: off by 1",
        ),
        (
            with(|_, report| report.backlog_readings = 18),
            "the gateway appended 100 readings and accounts for 103: off by 3",
        ),
        (
            with(|row, _| row.stored_at_report = 78),
            "80 readings were acknowledged and 78 are here: 2 missing",
        ),
    ];
    for (row, words) in cases {
        let verdict = verdict(row);
        assert_eq!((verdict.word(), verdict.words().as_str()), ("doubtful", words));
    }
}

#[test]
fn readings_set_aside_are_not_lost() {
    // `stored_at_report` counts them too.
    let row = with(|row, _| (row.stored, row.set_aside) = (70, 10));
    assert_eq!(verdict(row), Verdict::Closed { proven: true });
}

#[test]
fn any_number_a_gateway_may_tell_is_survived() {
    let row = with(|row, report| {
        (report.filtered, report.in_hand, report.backlog_readings) = (u64::MAX, u64::MAX, u64::MAX);
        (report.dropped_full, report.dropped_corrupt) = (u64::MAX, u64::MAX);
        (row.stored, row.set_aside) = (u64::MAX, u64::MAX);
    });
    assert_eq!(Totals::of(&[row.clone(), row.clone()]).backlog, u64::MAX);
    let mut watch = Watch::default();
    for now in [i64::MIN, 0, i64::MAX] {
        assert_eq!(watch.look(&Books(&row), now).word(), "doubtful");
    }
}

#[test]
fn a_moment_in_between_is_no_fault_and_the_same_report_again_proves_nothing() {
    let mut watch = Watch::default();
    let mut look = |acknowledged, received: Micros, now: Micros| {
        let row = with(|_, report| {
            (report.acknowledged, report.backlog_readings) = (acknowledged, 95 - acknowledged)
        });
        let row = LedgerRow { report: row.report.map(|(report, _)| (report, received)), ..row };
        watch.look(&Books(&row), now).word()
    };
    assert_eq!(look(81, 0, MINUTE), "doubtful");
    assert_eq!(look(81, 0, 2 * MINUTE), "doubtful", "nothing new was heard");
    assert_eq!(look(80, 2 * MINUTE, 3 * MINUTE), "closed");
    assert_eq!(look(81, 3 * MINUTE, 4 * MINUTE), "doubtful");
    assert_eq!(look(82, 4 * MINUTE, 5 * MINUTE), "open");
    assert_eq!(look(82, 4 * MINUTE, 6 * MINUTE), "open", "it is not over because nobody reports");
    assert_eq!(look(80, 6 * MINUTE, 7 * MINUTE), "closed");
}

#[test]
fn two_different_doubts_are_not_one_that_was_confirmed() {
    let mut watch = Watch::default();
    let mut look = |change: fn(&mut LedgerRow, &mut Report), received| {
        let row = with(change);
        let row = LedgerRow { report: row.report.map(|(report, _)| (report, received)), ..row };
        watch.look(&Books(&row), received).word()
    };
    assert_eq!(look(|_, report| report.in_hand = 7, 0), "doubtful");
    assert_eq!(look(|_, report| report.dropped = 6, MINUTE), "doubtful");
    assert_eq!(look(|_, report| report.dropped = 6, 2 * MINUTE), "open");
}

#[test]
fn a_report_that_was_overtaken_does_not_look_like_doubled_readings() {
    // Ten requests overtook it, with readings that were appended after it was written.
    let mut watch = Watch::default();
    for minute in 0..10 {
        let row = with(|row, report| {
            (report.appended, report.produced) = (100 + 50 * minute, 120 + 50 * minute);
            (report.acknowledged, row.stored_at_report) = (80 + 50 * minute, 130 + 50 * minute);
            (row.stored, row.last_seen) = (130 + 50 * minute, minute as i64 * MINUTE);
        });
        let row = LedgerRow { report: row.report.map(|(report, _)| (report, minute as i64 * MINUTE)), ..row };
        assert_eq!(watch.look(&Books(&row), minute as i64 * MINUTE).word(), "closed", "{minute}");
    }
}

#[test]
fn a_fork_is_told_apart_and_judged_with_the_history_it_shares() {
    // It brought 30 itself; 80 are booked with the buffer it left, and count at its report.
    let fork = |at_report| {
        with(|row, report| {
            (row.fork, row.stored, row.stored_at_report) = (31, 30, at_report);
            (report.acknowledged, report.appended, report.produced) = (110, 130, 150);
        })
    };
    assert_eq!(verdict(fork(110)).word(), "closed");
    assert_eq!(verdict(fork(109)).words(), "110 readings were acknowledged and 109 are here: 1 missing");
    let epoch = "07".repeat(16);
    assert_eq!((subject(&row()), subject(&fork(110))), (format!("{epoch}/0"), format!("{epoch}/1f")));
}

#[test]
fn sums_keep_dropped_readings_apart_by_reason() {
    let row = with(|_, report| (report.dropped_full, report.dropped_thinned) = (2, 1));
    let totals = Totals::of(&[row.clone(), row, LedgerRow { report: None, ..self::row() }]);
    assert_eq!(totals.dropped, Dropped { full: 4, corrupt: 0, thinned: 2, other: 4 });
    assert_eq!(
        (totals.buffers, totals.appended, totals.acknowledged, totals.stored, totals.dropped.all()),
        (3, 200, 160, 240, 10)
    );
}

#[test]
fn what_is_remembered_of_a_buffer_is_bounded() {
    let mut watch = Watch::default();
    for minute in 0..10_000 {
        let row = LedgerRow { stored: minute, ..row() };
        watch.look(&Books(&row), minute as i64 * MINUTE);
    }
    assert!(watch.notes.len() <= NOTES, "{}", watch.notes.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_correct_history_never_raises_an_alarm(events in prop::collection::vec(events(), 1..250)) {
        let mut history = History::default();
        for event in events {
            history.happen(event);
            prop_assert!(history.alarm().is_none(), "{:?}", history.alarm());
        }
        history.settle();
        prop_assert_eq!(history.said(), &Verdict::Closed { proven: true });
    }

    #[test]
    fn a_lost_or_doubled_reading_always_raises_one(
        before in prop::collection::vec(events(), 20..120),
        after in prop::collection::vec(events(), 0..80),
        count in 1u64..5,
        doubled in any::<bool>(),
    ) {
        let mut history = History::default();
        // A backup from before the fault would heal it.
        let calm = |events: Vec<Event>| events.into_iter().filter(|event| !matches!(event, Event::Restore { .. }));
        calm(before).for_each(|event| history.happen(event));
        let hurt = if doubled { history.double(count) } else { history.lose(count) };
        prop_assume!(hurt);
        calm(after).for_each(|event| history.happen(event));
        history.settle();
        // What the gateway dropped may have been committed: so many may hide behind it.
        prop_assume!(history.dropped() == 0);
        let Verdict::Open(found) = history.said() else { panic!("{:?}", history.said()) };
        prop_assert_eq!(found.len(), 1);
        let is_doubled = matches!(found[0], Imbalance::Doubled { .. });
        prop_assert_eq!((is_doubled, found[0].readings()), (doubled, count));
    }
}
