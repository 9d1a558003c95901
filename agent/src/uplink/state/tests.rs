use forebay_protocols::sync::wire::sync_answer::Outcome;

use super::*;

const LIMIT: usize = 1 << 20;

fn sent(fresh: &[u64], backlog: &[u64]) -> Sent {
    Sent { fresh: fresh.to_vec(), backlog: backlog.to_vec(), bytes: 100_000, ..Sent::default() }
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

/// Sends a request and takes in what came back, with nothing else under way.
fn round(state: &mut State, sent: &Sent, reply: Reply) -> Vec<Action> {
    let ticket = state.departs(sent.clone());
    state.step(ticket, reply, Duration::from_millis(10))
}

/// Greeted, with 100 batches in the buffer.
fn greeted() -> State {
    greeted_by(4, Order::FreshFirst)
}

fn greeted_by(connections: usize, order: Order) -> State {
    let mut state = State::new(LIMIT, connections, order);
    assert_eq!(state.plan(100, Leave::FREE), Plan::Greet);
    assert_eq!(round(&mut state, &Sent::default(), Reply::Answer(answer(&[]))), []);
    state.plan(100, Leave::FREE);
    state
}

fn wants(state: &mut State, newest: u64) -> Wants {
    match state.plan(newest, Leave::FREE) {
        Plan::Send(wants) => wants,
        other => panic!("{other:?}"),
    }
}

fn committed(sequences: RangeInclusive<u64>) -> Reply {
    Reply::Answer(answer(&sequences.map(|sequence| (sequence, Verdict::Committed)).collect::<Vec<_>>()))
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
        let actions = round(&mut greeted(), &mine, reply.clone());
        assert_eq!(acknowledged(&actions), [], "{reply:?}");
    }
    let taken = answer(&[(2, Verdict::Duplicate), (1, Verdict::Committed), (101, Verdict::SetAside)]);
    let actions = round(&mut greeted(), &mine, Reply::Answer(taken));
    assert_eq!(acknowledged(&actions), [1..=2, 101..=101]);
    let aside = Notice::SetAside { sequence: 101, words: "why".into() };
    assert!(actions.contains(&Action::Tell(aside)), "{actions:?}");
}

#[test]
fn a_verdict_of_a_newer_server_is_no_leave_to_forget() {
    let mut newer = answer(&[(1, Verdict::Committed)]);
    newer.outcomes[0].verdict = 99;
    assert_eq!(acknowledged(&round(&mut greeted(), &sent(&[], &[1]), Reply::Answer(newer))), []);
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
        let actions = round(&mut greeted(), &mine, reply.clone());
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
    assert_eq!(told(round(&mut state, &mine, Reply::Forbidden(None))), [Notice::Forbidden(None)]);
    for _ in 0..100 {
        assert_eq!(told(round(&mut state, &mine, Reply::Forbidden(None))), []);
    }
    assert_eq!(
        told(round(&mut state, &mine, Reply::Busy { retry_after: None })),
        [Notice::Busy],
        "another trouble"
    );
    let taken = || Reply::Answer(answer(&[(1, Verdict::Committed)]));
    assert_eq!(told(round(&mut state, &mine, taken())), [Notice::WorksAgain]);
    assert_eq!(told(round(&mut state, &mine, taken())), []);
}

#[test]
fn what_409_names_is_sent_next_and_said_twice_it_is_waited_for() {
    let mut state = greeted();
    let mine = sent(&[], &[1]);
    let lacking = || Reply::Lacking(SyncAnswer { dictionary_revision: 40, gaps_known: 3, ..answer(&[]) });
    assert_eq!(round(&mut state, &mine, lacking()), []);
    let Wants { dictionary_after, gaps_after, backlog, .. } = wants(&mut state, 100);
    assert_eq!((dictionary_after, gaps_after, backlog), (40, 3, Some((1, 101))));
    let mine = Sent { dictionary_after, ..mine };
    assert!(
        round(&mut state, &mine, lacking()).contains(&Action::Pause(Pause::Growing)),
        "a loop without a pause"
    );
}

#[test]
fn a_batch_that_is_too_large_alone_stays_and_lets_the_others_pass() {
    let mut state = greeted();
    let alone = sent(&[], &[7]);
    let actions = round(&mut state, &alone, Reply::TooLarge);
    let notice = Notice::BatchTooLarge { sequence: 7, bytes: 100_000 };
    assert_eq!(actions, [Action::Tell(notice), Action::Pause(Pause::Growing)]);
    let Wants { backlog, passed_over, .. } = wants(&mut state, 100);
    assert_eq!((backlog, passed_over), (Some((8, 101)), (7..=7).into()));
    for sequence in 8..8 + u64::from(LEFT_OUT_FOR) {
        round(&mut state, &sent(&[], &[sequence]), Reply::Answer(answer(&[(sequence, Verdict::Committed)])));
    }
    assert_eq!(wants(&mut state, 100).passed_over, Ranges::default(), "never tried again");
}

#[test]
fn fresh_batches_have_their_own_lane_and_what_is_put_off_joins_the_backlog() {
    let mut state = greeted();
    let first = wants(&mut state, 100);
    assert_eq!((first.fresh_from, first.backlog), (Some(101), Some((1, 101))));
    let put_off = answer(&[
        (1, Verdict::Committed),
        (2, Verdict::Retry),
        (101, Verdict::Committed),
        (102, Verdict::Retry),
    ]);
    round(&mut state, &sent(&[101, 102], &[1, 2]), Reply::Answer(put_off));
    let next = wants(&mut state, 105);
    assert_eq!((next.fresh_from, next.backlog), (Some(103), Some((3, 103))), "a batch blocks its lane");
    assert!(state.backlog_ends(), "2 and 102 are never sent again");
    assert_eq!(wants(&mut state, 105).backlog, Some((1, 103)));
    assert!(!state.backlog_ends(), "goes round for ever");
}

#[test]
fn what_was_appended_during_an_outage_is_backlog_after_it() {
    for trouble in [Reply::Nothing("cut".into()), Reply::Busy { retry_after: None }, Reply::Forbidden(None)] {
        let mut state = greeted();
        round(&mut state, &sent(&[101], &[]), trouble);
        assert_eq!(wants(&mut state, 500).fresh_from, Some(501));
    }
}

#[test]
fn touching_sequences_are_acknowledged_as_ranges() {
    assert_eq!(ranges(vec![5, 1, 2, 2, 3, 9]), [1..=3, 5..=5, 9..=9]);
    assert_eq!(ranges(vec![u64::MAX]), [u64::MAX..=u64::MAX]);
    assert_eq!(ranges(vec![]), []);
}

/// On a link where a full request takes a second.
fn slow() -> State {
    let mut state = greeted();
    let ticket = state.departs(Sent { bytes: 64 << 10, ..sent(&[], &[1]) });
    state.step(ticket, committed(1..=1), Duration::from_secs(1));
    state
}

#[test]
fn fresh_readings_go_on_a_line_of_their_own_beside_a_slow_request_and_wait_for_a_quick_one() {
    let mut state = slow();
    let Wants { fresh_from, mixed, .. } = wants(&mut state, 100);
    assert_eq!((fresh_from, mixed), (Some(101), false), "fresh readings ride in a request that takes long");
    let drain = state.departs(sent(&[], &[2, 3, 4]));
    let beside = wants(&mut state, 102);
    assert_eq!((beside.fresh_from, beside.backlog), (Some(101), None));
    let fresh = state.departs(Sent { bytes: 500, ..sent(&[101, 102], &[]) });
    assert_eq!(state.plan(103, Leave::FREE), Plan::Wait, "a third connection for what can wait");
    state.step(fresh, committed(101..=102), Duration::from_millis(80));
    assert_eq!(wants(&mut state, 103).fresh_from, Some(103));
    state.step(drain, committed(2..=4), Duration::from_secs(1));

    let mut quick = greeted();
    quick.departs(sent(&[], &[1, 2]));
    assert_eq!(quick.plan(102, Leave::FREE), Plan::Wait);
}

#[test]
fn without_a_backlog_there_is_one_request_under_way() {
    let mut state = slow();
    state.departs(sent(&[101], &[]));
    let backlog_only = wants(&mut state, 102);
    assert_eq!(backlog_only.fresh_from, None, "a second connection on a metered link");
    let mut single = greeted_by(1, Order::FreshFirst);
    assert!(wants(&mut single, 100).mixed);
    single.departs(sent(&[101], &[1]));
    assert_eq!(single.plan(102, Leave::FREE), Plan::Wait);
}

#[test]
fn what_is_under_way_is_not_read_again_and_comes_back_when_its_request_fails() {
    let mut state = slow();
    let first = state.departs(sent(&[], &[2, 3, 4]));
    let second = state.departs(sent(&[101], &[5, 6]));
    let Wants { fresh_from, passed_over, .. } = wants(&mut state, 103);
    let mut expected = Ranges::from(2..=6);
    expected.insert(101..=101);
    assert_eq!((fresh_from, passed_over), (Some(102), expected));
    // The first is cut, the second is answered: nothing is sent twice or forgotten.
    state.step(first, Reply::Nothing("cut".into()), Duration::ZERO);
    let Wants { passed_over, .. } = wants(&mut state, 103);
    assert!(!passed_over.contains(2) && passed_over.contains(5) && passed_over.contains(101));
    let actions = state.step(second, committed_all(&[5, 6, 101]), Duration::from_secs(1));
    assert_eq!(acknowledged(&actions), [5..=6, 101..=101]);
    let Wants { backlog, passed_over, .. } = wants(&mut state, 103);
    assert_eq!((backlog, passed_over), (Some((2, 104)), Ranges::default()), "2 to 4 go again");
    assert_eq!(state.step(second, committed(5..=6), Duration::ZERO), [], "an answer is taken in twice");
}

fn committed_all(sequences: &[u64]) -> Reply {
    Reply::Answer(answer(
        &sequences.iter().map(|&sequence| (sequence, Verdict::Committed)).collect::<Vec<_>>(),
    ))
}

#[test]
fn a_request_put_back_before_a_pause_goes_back_to_its_own_lane() {
    let mut state = greeted();
    let large = Sent { bytes: 800_000, ..sent(&[101, 102], &[1, 2]) };
    for reply in [
        Reply::TooLarge,
        Reply::Stranger,
        Reply::Lacking(SyncAnswer { dictionary_revision: 9, ..answer(&[]) }),
    ] {
        round(&mut state, &large, reply);
        let Wants { fresh_from, backlog, .. } = wants(&mut state, 102);
        assert_eq!((fresh_from, backlog), (Some(101), Some((1, 101))));
    }
}

#[test]
fn the_dictionary_travels_in_one_request_at_a_time() {
    let mut state = slow();
    let carrier = state.departs(Sent { others: 5, ..sent(&[], &[2]) });
    assert!(!wants(&mut state, 102).others, "requests overtake each other");
    state.step(carrier, committed(2..=2), Duration::from_secs(1));
    assert!(wants(&mut state, 102).others);
}

#[test]
fn an_answer_that_was_overtaken_does_not_take_knowledge_back() {
    let mut state = slow();
    let early = state.departs(sent(&[], &[2]));
    let late = state.departs(sent(&[101], &[]));
    let knows = |revision| {
        Reply::Answer(SyncAnswer {
            dictionary_revision: revision,
            gaps_known: revision.into(),
            ..answer(&[])
        })
    };
    state.step(late, knows(9), Duration::ZERO);
    state.step(early, knows(7), Duration::ZERO);
    let Wants { dictionary_after, gaps_after, .. } = wants(&mut state, 102);
    assert_eq!((dictionary_after, gaps_after), (9, 9));
}

#[test]
fn in_order_nothing_passes_what_is_older() {
    let mut state = greeted_by(4, Order::InOrder);
    let first = wants(&mut state, 100);
    assert_eq!((first.fresh_from, first.backlog, first.live_from), (None, Some((1, u64::MAX)), 101));
    let ticket = state.departs(sent(&[], &[1, 2, 3]));
    assert_eq!(state.plan(110, Leave::FREE), Plan::Wait, "two requests overtake each other");
    let put_off = answer(&[(1, Verdict::Committed), (2, Verdict::Retry), (3, Verdict::Committed)]);
    state.step(ticket, Reply::Answer(put_off), Duration::from_millis(1));
    assert_eq!(wants(&mut state, 110).backlog, Some((1, u64::MAX)), "2 is left behind");
    assert!(!state.backlog_ends());
    let held_back = Leave { fresh: false, ..Leave::FREE };
    assert_eq!(state.plan(110, held_back), Plan::Wait);
}

#[test]
fn the_budget_holds_back_what_it_does_not_allow() {
    let mut state = greeted();
    let fresh_only = Leave { backlog: false, most: 5_000, ..Leave::FREE };
    let Plan::Send(wants) = state.plan(100, fresh_only) else { panic!("fresh readings wait") };
    assert_eq!((wants.fresh_from, wants.backlog, wants.bytes), (Some(101), None, 5_000));
    assert_eq!(state.plan(100, Leave { fresh: false, ..fresh_only }), Plan::Wait);
}

#[test]
fn a_fork_is_told_once_and_stays_known() {
    let mut state = greeted();
    let forked = |fork| Reply::Answer(SyncAnswer { fork, ..answer(&[(1, Verdict::Committed)]) });
    let mine = sent(&[], &[1]);
    assert!(round(&mut state, &mine, forked(2)).contains(&Action::Tell(Notice::Fork(2))));
    for fork in [2, 0, 2] {
        let actions = round(&mut state, &mine, forked(fork));
        assert!(!actions.iter().any(|action| matches!(action, Action::Tell(_))), "{actions:?}");
    }
    assert_eq!(state.fork(), 2);
    let again = round(&mut state, &mine, forked(3));
    assert!(again.contains(&Action::Tell(Notice::Fork(3))), "copied once more");
}

#[test]
fn what_a_server_lost_is_sent_from_where_it_begins() {
    let mut state = greeted();
    round(&mut state, &sent(&[], &[40]), committed(40..=40));
    state.goes_back_to(7);
    assert_eq!(wants(&mut state, 100).backlog, Some((7, 101)));
}
