use forebay_protocols::sync::wire::sync_answer::Outcome;

use super::*;

const LIMIT: usize = 1 << 20;

fn sent(fresh: &[u64], backlog: &[u64]) -> Sent {
    Sent { fresh: fresh.to_vec(), backlog: backlog.to_vec(), others: 0, bytes: 100_000 }
}

fn answer(outcomes: &[(u64, Verdict)]) -> SyncAnswer {
    let outcome = |&(sequence, verdict): &(u64, Verdict)| Outcome {
        sequence,
        verdict: verdict.into(),
        words: "why".into(),
    };
    SyncAnswer {
        outcomes: outcomes.iter().map(outcome).collect(),
        server_time_us: 1,
        ..SyncAnswer::default()
    }
}

/// Greeted, with 100 batches in the buffer.
fn greeted() -> State {
    let mut state = State::new(LIMIT);
    assert_eq!(state.plan(100), Plan::Greet);
    assert_eq!(state.step(&Sent::default(), Reply::Answer(answer(&[]))), []);
    state.plan(100);
    state
}

fn wants(state: &mut State, newest: u64) -> Wants {
    match state.plan(newest) {
        Plan::Send(wants) => wants,
        Plan::Greet => panic!("greets again"),
    }
}

fn acknowledged(actions: &[Action]) -> Vec<RangeInclusive<u64>> {
    let ranges = actions.iter().filter_map(|action| match action {
        Action::Acknowledge(ranges) => Some(ranges.clone()),
        _ => None,
    });
    ranges.flatten().collect()
}

#[test]
fn nothing_is_forgotten_because_of_any_answer_but_a_committed_one() {
    let mine = sent(&[101], &[1, 2]);
    let foreign = answer(&[(3, Verdict::Committed), (100, Verdict::Duplicate)]);
    let replies = [
        Reply::Nothing("cut".into()),
        Reply::TooLarge,
        Reply::Busy { retry_after: None },
        Reply::Forbidden(None),
        Reply::Strange("it answers 500".into()),
        Reply::Lacking(answer(&[(1, Verdict::Committed)])),
        Reply::Answer(answer(&[])),
        Reply::Answer(answer(&[(1, Verdict::Retry), (2, Verdict::Unspecified), (101, Verdict::Retry)])),
        Reply::Answer(foreign),
    ];
    for reply in replies {
        let actions = greeted().step(&mine, reply.clone());
        assert_eq!(acknowledged(&actions), [], "{reply:?}");
    }
    let taken = answer(&[(2, Verdict::Duplicate), (1, Verdict::Committed), (101, Verdict::SetAside)]);
    let actions = greeted().step(&mine, Reply::Answer(taken));
    assert_eq!(acknowledged(&actions), [1..=2, 101..=101]);
    let aside = Notice::SetAside { sequence: 101, words: "why".into() };
    assert!(actions.contains(&Action::Tell(aside)), "{actions:?}");
}

#[test]
fn a_verdict_of_a_newer_server_is_no_leave_to_forget() {
    let mut newer = answer(&[(1, Verdict::Committed)]);
    newer.outcomes[0].verdict = 99;
    assert_eq!(acknowledged(&greeted().step(&sent(&[], &[1]), Reply::Answer(newer))), []);
}

#[test]
fn how_long_each_answer_makes_us_wait() {
    let mine = sent(&[101], &[1, 2]);
    let second = Duration::from_secs(1);
    let table = [
        (Reply::Nothing("cut".into()), Some(Pause::Growing)),
        (Reply::Busy { retry_after: None }, Some(Pause::Growing)),
        (Reply::Busy { retry_after: Some(7 * second) }, Some(Pause::AtLeast(7 * second))),
        (Reply::Busy { retry_after: Some(Duration::MAX) }, Some(Pause::AtLeast(LONGEST_RETRY_AFTER))),
        (Reply::Forbidden(None), Some(Pause::Longest)),
        (Reply::Strange("it answers 500".into()), Some(Pause::Growing)),
        (Reply::TooLarge, None),
        (Reply::Lacking(SyncAnswer { dictionary_revision: 7, ..answer(&[]) }), None),
        (Reply::Answer(answer(&[(1, Verdict::Committed), (2, Verdict::Retry), (101, Verdict::Retry)])), None),
        (Reply::Answer(answer(&[(1, Verdict::Retry)])), Some(Pause::Growing)),
    ];
    for (reply, expected) in table {
        let actions = greeted().step(&mine, reply.clone());
        let pause = actions.iter().find_map(|action| match action {
            Action::Pause(pause) => Some(*pause),
            _ => None,
        });
        assert_eq!(pause, expected, "{reply:?}");
    }
}

#[test]
fn trouble_is_told_once_and_its_end_once() {
    let mut state = greeted();
    let mine = sent(&[], &[1]);
    let told = |actions: Vec<Action>| -> Vec<Notice> {
        let notices = actions.into_iter().filter_map(|action| match action {
            Action::Tell(notice) => Some(notice),
            _ => None,
        });
        notices.collect()
    };
    assert_eq!(told(state.step(&mine, Reply::Forbidden(None))), [Notice::Forbidden(None)]);
    for _ in 0..100 {
        assert_eq!(told(state.step(&mine, Reply::Forbidden(None))), []);
    }
    assert_eq!(told(state.step(&mine, Reply::Busy { retry_after: None })), [Notice::Busy], "another trouble");
    let taken = || Reply::Answer(answer(&[(1, Verdict::Committed)]));
    assert_eq!(told(state.step(&mine, taken())), [Notice::WorksAgain]);
    assert_eq!(told(state.step(&mine, taken())), []);
}

#[test]
fn what_409_names_is_sent_next_and_said_twice_it_is_waited_for() {
    let mut state = greeted();
    let mine = sent(&[], &[1]);
    let lacking = || Reply::Lacking(SyncAnswer { dictionary_revision: 40, gaps_known: 3, ..answer(&[]) });
    assert_eq!(state.step(&mine, lacking()), []);
    let Wants { dictionary_after, gaps_after, backlog_from, .. } = wants(&mut state, 100);
    assert_eq!((dictionary_after, gaps_after, backlog_from), (40, 3, 1));
    assert!(state.step(&mine, lacking()).contains(&Action::Pause(Pause::Growing)), "a loop without a pause");
}

#[test]
fn requests_start_small_double_while_it_works_and_halve_when_it_does_not() {
    let mut state = greeted();
    let mine = sent(&[], &[1]);
    let taken = || Reply::Answer(answer(&[(1, Verdict::Committed)]));
    let mut sizes = vec![];
    for _ in 0..6 {
        sizes.push(wants(&mut state, 100).bytes >> 10);
        state.step(&mine, taken());
    }
    assert_eq!(sizes, [128, 256, 512, 1024, 1024, 1024]);
    state.step(&mine, Reply::Nothing("no answer within 30s".into()));
    assert_eq!(wants(&mut state, 100).bytes, LIMIT / 2);
    for _ in 0..100 {
        state.step(&mine, Reply::Nothing("no answer within 30s".into()));
    }
    assert_eq!(wants(&mut state, 100).bytes, LEAST_REQUEST);
}

#[test]
fn after_413_requests_stay_below_it_for_a_while() {
    let mut state = greeted();
    let large = Sent { bytes: 800_000, ..sent(&[], &[1, 2, 3]) };
    assert_eq!(state.step(&large, Reply::TooLarge), [], "halved at once, without a pause");
    let taken = || Reply::Answer(answer(&[(1, Verdict::Committed)]));
    let mine = sent(&[], &[1]);
    for _ in 0..CEILING_HOLDS_FOR - 1 {
        assert!(wants(&mut state, 100).bytes <= 400_000);
        state.step(&mine, taken());
    }
    state.step(&mine, taken());
    assert_eq!(wants(&mut state, 100).bytes, 800_000, "tried again in the end");
}

#[test]
fn the_server_names_its_largest_request() {
    let mut state = greeted();
    let small = SyncAnswer { max_request_bytes: 32 << 10, ..answer(&[(1, Verdict::Committed)]) };
    state.step(&sent(&[], &[1]), Reply::Answer(small));
    assert_eq!(wants(&mut state, 100).bytes, 28 << 10);
}

#[test]
fn a_batch_that_is_too_large_alone_stays_and_lets_the_others_pass() {
    let mut state = greeted();
    let alone = sent(&[], &[7]);
    let actions = state.step(&alone, Reply::TooLarge);
    let notice = Notice::BatchTooLarge { sequence: 7, bytes: 100_000 };
    assert_eq!(actions, [Action::Tell(notice), Action::Pause(Pause::Growing)]);
    let Wants { backlog_from, left_out, .. } = wants(&mut state, 100);
    assert_eq!((backlog_from, left_out), (8, vec![7]));
    for sequence in 8..8 + u64::from(LEFT_OUT_FOR) {
        state.step(&sent(&[], &[sequence]), Reply::Answer(answer(&[(sequence, Verdict::Committed)])));
    }
    assert!(wants(&mut state, 100).left_out.is_empty(), "never tried again");
}

#[test]
fn fresh_batches_have_their_own_lane_and_what_is_put_off_joins_the_backlog() {
    let mut state = greeted();
    let first = wants(&mut state, 100);
    assert_eq!((first.fresh_from, first.backlog_from, first.backlog_below), (101, 1, 101));
    let put_off = answer(&[
        (1, Verdict::Committed),
        (2, Verdict::Retry),
        (101, Verdict::Committed),
        (102, Verdict::Retry),
    ]);
    state.step(&sent(&[101, 102], &[1, 2]), Reply::Answer(put_off));
    let next = wants(&mut state, 105);
    assert_eq!(
        (next.fresh_from, next.backlog_from, next.backlog_below),
        (103, 3, 103),
        "a batch blocks its lane"
    );
    assert!(state.backlog_ends(), "2 and 102 are never sent again");
    assert_eq!(wants(&mut state, 105).backlog_from, 1);
    assert!(!state.backlog_ends(), "goes round for ever");
}

#[test]
fn what_was_appended_during_an_outage_is_backlog_after_it() {
    for trouble in [Reply::Nothing("cut".into()), Reply::Busy { retry_after: None }, Reply::Forbidden(None)] {
        let mut state = greeted();
        state.step(&sent(&[101], &[]), trouble);
        assert_eq!(wants(&mut state, 500).fresh_from, 501);
    }
}

#[test]
fn touching_sequences_are_acknowledged_as_ranges() {
    assert_eq!(ranges(vec![5, 1, 2, 2, 3, 9]), [1..=3, 5..=5, 9..=9]);
    assert_eq!(ranges(vec![u64::MAX]), [u64::MAX..=u64::MAX]);
    assert_eq!(ranges(vec![]), []);
}
