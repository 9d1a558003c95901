//! Alarms, their events, webhooks; and when an agent was not heard.

use std::sync::Arc;

use forebay_server::store::alarms::{
    Alarm, AlarmChange, AlarmKey, AlarmQuery, AlarmState, EventKind, Member, Pending, Told,
};
use forebay_server::store::{Act, Change, Delivery, Outcome, PointKey, Silence, Store, TenantKey};
use futures::future::try_join_all;

use crate::place::{NOW, Place, SECOND, agent, delivery, delivery_of};

fn member(name: &str) -> Member {
    Member { name: name.into(), since: NOW, words: format!("{name} is silent"), base: 1.5 }
}

fn alarm(subject: &str, priority: i16, members: &[&str]) -> Alarm {
    Alarm {
        rule: "silent".into(),
        kind: "silent".into(),
        priority,
        site: subject.into(),
        subject: subject.into(),
        words: "Nothing is heard.".into(),
        remedy: "Look at the uplink.".into(),
        members: members.iter().map(|name| member(name)).collect(),
    }
}

async fn raised(store: &Arc<dyn Store>, subject: &str, priority: i16) -> Told {
    let change = AlarmChange::Raise(alarm(subject, priority, &["a"]));
    store.change_alarms(vec![change], NOW).await.unwrap().remove(0)
}

pub async fn an_alarm_is_raised_once_whoever_looks_and_cleared_once(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    let raise = |n: usize| {
        let store = stores[n % 2].clone();
        async move { store.change_alarms(vec![AlarmChange::Raise(alarm("north", 2, &["a", "b"]))], NOW).await }
    };
    let told: Vec<Told> = try_join_all((0..8).map(raise)).await.unwrap().concat();
    assert_eq!(told.len(), 1, "the others find it standing");
    let (kind, row) = &told[0];
    assert_eq!(
        (*kind, row.state(), row.raised, row.version),
        (EventKind::Raised, AlarmState::Active, NOW, 1)
    );
    let (standing, _) = stores[1].standing_alarms().await.unwrap();
    assert_eq!(standing, std::slice::from_ref(row), "as it was raised");
    assert_eq!(standing[0].alarm, alarm("north", 2, &["a", "b"]));
    let clear = |n: usize| {
        let (store, alarm) = (stores[n % 2].clone(), row.key);
        async move { store.change_alarms(vec![AlarmChange::Clear { alarm, version: 1 }], NOW + SECOND).await }
    };
    let told: Vec<Told> = try_join_all((0..8).map(clear)).await.unwrap().concat();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, told[0].1.cleared), (EventKind::Cleared, Some(NOW + SECOND)));
    let again = raised(&stores[0], "north", 2).await.1;
    assert_ne!(again.key, row.key, "what comes again is another alarm");
    let summary = stores[1].alarm_summary().await.unwrap();
    assert_eq!((summary.active, summary.acknowledged), (1, 0));
}

pub async fn what_was_decided_on_an_older_version_does_nothing(place: Arc<Place>) {
    let store = place.open().await;
    let row = raised(&store, "north", 1).await.1;
    let renew = |version, members: &[&str], grew| AlarmChange::Renew {
        alarm: row.key,
        version,
        now: alarm("north", 1, members),
        grew,
    };
    let told = store.change_alarms(vec![renew(1, &["a", "b"], true)], NOW).await.unwrap();
    assert_eq!((told[0].0, told[0].1.alarm.members.len(), told[0].1.version), (EventKind::Grew, 2, 2));
    let late = vec![renew(1, &["a", "c"], true), AlarmChange::Clear { alarm: row.key, version: 1 }];
    assert_eq!(store.change_alarms(late, NOW).await.unwrap(), []);
    let (standing, _) = store.standing_alarms().await.unwrap();
    assert_eq!(standing[0].alarm.members, [member("a"), member("b")]);
}

pub async fn an_acknowledged_alarm_that_grows_is_active_again(place: Arc<Place>) {
    let store = place.open().await;
    let row = raised(&store, "north", 1).await.1;
    let seen = store.acknowledge_alarm(row.key, "eva", "on my way\0", NOW + SECOND).await.unwrap().unwrap();
    let notice = seen.acknowledged.clone().unwrap();
    assert_eq!(
        (notice.at, notice.by.as_str(), notice.note.as_str()),
        (NOW + SECOND, "eva", "on my way\u{fffd}")
    );
    let twice = store.acknowledge_alarm(row.key, "kim", "me too", NOW + 2 * SECOND).await.unwrap().unwrap();
    assert_eq!(twice, seen, "the first one stays");
    let nobody = store.acknowledge_alarm(AlarmKey(row.key.0 + 9), "", "", NOW).await.unwrap();
    assert_eq!(nobody, None);
    let summary = store.alarm_summary().await.unwrap();
    assert_eq!((summary.active, summary.acknowledged), (0, 1));
    let shrinks = |version, members: &[&str], grew| AlarmChange::Renew {
        alarm: row.key,
        version,
        now: alarm("north", 1, members),
        grew,
    };
    let told = store.change_alarms(vec![shrinks(2, &["b"], false)], NOW).await.unwrap();
    assert_eq!((told[0].0, told[0].1.state()), (EventKind::Changed, AlarmState::Acknowledged));
    let told = store.change_alarms(vec![shrinks(3, &["b", "c"], true)], NOW).await.unwrap();
    assert_eq!((told[0].0, told[0].1.state()), (EventKind::Grew, AlarmState::Active));
    assert_eq!(told[0].1.changed, NOW + SECOND, "a clock that went back does not take it along");
}

pub async fn what_waits_for_its_delay_is_there_after_a_restart(place: Arc<Place>) {
    let store = place.open().await;
    let wait = |member: &str, since| Pending { rule: "hot".into(), member: member.into(), since, base: 2.5 };
    let waits = vec![AlarmChange::Wait(wait("a", NOW)), AlarmChange::Wait(wait("b", NOW))];
    store.change_alarms(waits, NOW).await.unwrap();
    drop(store);
    let store = place.open().await;
    assert_eq!(store.standing_alarms().await.unwrap().1, [wait("a", NOW), wait("b", NOW)]);
    let forget = AlarmChange::Forget { rule: "hot".into(), member: "a".into() };
    let again = AlarmChange::Wait(wait("b", NOW + SECOND));
    store.change_alarms(vec![forget, again], NOW).await.unwrap();
    assert_eq!(store.standing_alarms().await.unwrap().1, [wait("b", NOW + SECOND)]);
    let raise = Alarm { rule: "hot".into(), ..alarm("b", 1, &["b"]) };
    store.change_alarms(vec![AlarmChange::Raise(raise)], NOW).await.unwrap();
    assert_eq!(store.standing_alarms().await.unwrap().1, [], "who is in an alarm does not wait for it");
}

pub async fn alarms_come_in_pages_by_state_and_site(place: Arc<Place>) {
    let store = place.open().await;
    for n in 0..5 {
        raised(&store, &format!("site{n}"), 1).await;
    }
    let all = |states: &[AlarmState], before, most| AlarmQuery {
        states: states.to_vec(),
        site: None,
        before,
        most,
    };
    let sites = async |query: AlarmQuery| {
        let rows = store.alarms(&query).await.unwrap();
        rows.into_iter().map(|row| (row.key, row.alarm.site)).collect::<Vec<_>>()
    };
    let first = sites(all(&AlarmState::ALL, None, 2)).await;
    assert_eq!([&*first[0].1, &*first[1].1], ["site4", "site3"], "the newest first");
    let next = sites(all(&AlarmState::ALL, Some(first[1].0), 9)).await;
    assert_eq!(next.len(), 3);
    store.acknowledge_alarm(first[0].0, "", "", NOW).await.unwrap();
    store.change_alarms(vec![AlarmChange::Clear { alarm: first[1].0, version: 1 }], NOW).await.unwrap();
    for (state, count) in [(AlarmState::Active, 3), (AlarmState::Acknowledged, 1), (AlarmState::Cleared, 1)] {
        assert_eq!(sites(all(&[state], None, 9)).await.len(), count, "{state:?}");
    }
    let of = AlarmQuery { site: Some("site1".into()), ..all(&AlarmState::ALL, None, 9) };
    assert_eq!(sites(of).await.len(), 1);
}

pub async fn webhooks_follow_events_in_order_each_from_its_own_place(place: Arc<Place>) {
    let store = place.open().await;
    raised(&store, "before", 2).await;
    store.add_webhook("desk").await.unwrap();
    store.add_webhook("desk").await.unwrap();
    let next = async |name: &str, least, now| {
        let next = store.next_for_webhook(name, least, now, 60 * SECOND).await.unwrap();
        next.map(|(event, attempts)| (event.event, event.kind, event.alarm, attempts))
    };
    assert_eq!(next("desk", 0, NOW).await, None, "what happened before is not told");
    let low = raised(&store, "low", 0).await.1;
    let high = raised(&store, "high", 2).await.1;
    let (first, kind, body, attempts) = next("desk", 0, NOW).await.unwrap();
    assert_eq!((kind, attempts), (EventKind::Raised, 0));
    assert_eq!(body, low.json().to_string());
    assert_eq!(next("desk", 0, NOW).await, None, "it is on its way");
    assert_eq!(next("desk", 0, NOW + 61 * SECOND).await.unwrap().0, first, "until its lease is over");
    store.webhook_failed("desk", first, NOW + 5 * SECOND, "no route").await.unwrap();
    assert_eq!(next("desk", 0, NOW + 4 * SECOND).await, None);
    assert_eq!(next("desk", 0, NOW + 5 * SECOND).await.unwrap().3, 1);
    store.webhook_told("desk", first).await.unwrap();
    let (second, _, body, attempts) = next("desk", 0, NOW).await.unwrap();
    assert!(second > first && attempts == 0, "at once after one that was told");
    assert_eq!(body, high.json().to_string());
    store.webhook_told("desk", second).await.unwrap();
    assert_eq!(next("desk", 0, NOW).await, None);
    // Another one, which is not told of what is not urgent.
    store.add_webhook("night").await.unwrap();
    raised(&store, "low again", 0).await;
    let clear = AlarmChange::Clear { alarm: high.key, version: 1 };
    let cleared = store.change_alarms(vec![clear], NOW).await.unwrap().remove(0).1;
    let (_, kind, body, _) = next("night", 2, NOW).await.unwrap();
    assert_eq!((kind, body), (EventKind::Cleared, cleared.json().to_string()));
    let days = 86_400 * SECOND;
    assert_eq!(next("desk", 0, NOW + 2 * days).await, None, "what is a day old is history");
}

pub async fn one_server_at_a_time_tells_a_webhook(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    stores[0].add_webhook("desk").await.unwrap();
    raised(&stores[0], "north", 1).await;
    let ask = |n: usize| {
        let store = stores[n % 2].clone();
        async move { store.next_for_webhook("desk", 0, NOW, 60 * SECOND).await }
    };
    let told = try_join_all((0..8).map(ask)).await.unwrap();
    assert_eq!(told.iter().flatten().count(), 1);
    // A `due` that only a wrong clock can have written does not stop it for years.
    let event = told.into_iter().flatten().next().unwrap().0.event;
    stores[0].webhook_failed("desk", event, NOW + 400 * 86_400 * SECOND, "?").await.unwrap();
    assert!(ask(0).await.unwrap().is_some());
}

pub async fn alarms_are_of_one_tenant(place: Arc<Place>) {
    let whole = place.open().await;
    let act = Act { tenant: TenantKey::MAIN, who: "test".into(), origin: String::new(), at: NOW };
    let made = whole.access().change(&act, Change::AddTenant { name: "other".into() }).await.unwrap();
    let Outcome::Done(other) = made else { panic!("{made:?}") };
    let (main, other) = (whole.clone().within(TenantKey::MAIN), whole.clone().within(TenantKey(other)));
    for hook in ["main-desk", "other-desk"] {
        whole.add_webhook(hook).await.unwrap();
    }
    // The same rule and the same subject, of both.
    let mine = raised(&main, "north", 2).await.1;
    let theirs = raised(&other, "north", 2).await.1;
    assert_ne!(mine.key, theirs.key);
    let wait = |base| {
        let wait = Pending { rule: "hot".into(), member: "a".into(), since: NOW, base };
        vec![AlarmChange::Wait(wait)]
    };
    main.change_alarms(wait(1.0), NOW).await.unwrap();
    other.change_alarms(wait(2.0), NOW).await.unwrap();
    for (store, own, base) in [(&main, &mine, 1.0), (&other, &theirs, 2.0)] {
        let (standing, pending) = store.standing_alarms().await.unwrap();
        assert_eq!(standing, std::slice::from_ref(own));
        assert_eq!(pending.iter().map(|wait| wait.base).collect::<Vec<_>>(), [base]);
        let all = AlarmQuery { states: AlarmState::ALL.to_vec(), site: None, before: None, most: 9 };
        assert_eq!(store.alarms(&all).await.unwrap(), std::slice::from_ref(own));
        assert_eq!(store.alarm_summary().await.unwrap().active, 1);
    }
    assert_eq!(whole.alarm_summary().await.unwrap().active, 2);

    // Nothing of another's is changed, whatever number is named.
    let strange = vec![
        AlarmChange::Clear { alarm: mine.key, version: 1 },
        AlarmChange::Renew { alarm: mine.key, version: 1, now: alarm("north", 2, &["x"]), grew: true },
        AlarmChange::Forget { rule: "hot".into(), member: "b".into() },
    ];
    assert_eq!(other.change_alarms(strange, NOW).await.unwrap(), []);
    assert_eq!(other.acknowledge_alarm(mine.key, "eva", "", NOW).await.unwrap(), None);
    assert_eq!(main.standing_alarms().await.unwrap().0, std::slice::from_ref(&mine));
    assert_eq!(main.standing_alarms().await.unwrap().1.len(), 1);
    let seen = other.acknowledge_alarm(theirs.key, "eva", "", NOW).await.unwrap().unwrap();
    assert_eq!(seen.state(), AlarmState::Acknowledged);
    assert!(main.alarm_summary().await.unwrap().newest < other.alarm_summary().await.unwrap().newest);

    // A webhook is told what happens to its tenant's, in order.
    for (store, hook, own, events) in [(&main, "main-desk", &mine, 1), (&other, "other-desk", &theirs, 2)] {
        for _ in 0..events {
            let (event, _) = store.next_for_webhook(hook, 0, NOW, SECOND).await.unwrap().unwrap();
            let told: serde_json::Value = serde_json::from_str(&event.alarm).unwrap();
            assert_eq!(told["id"], own.key.0, "{hook}");
            store.webhook_told(hook, event.event).await.unwrap();
        }
        assert_eq!(store.next_for_webhook(hook, 0, NOW, SECOND).await.unwrap(), None, "{hook}");
    }
}

pub async fn an_interval_in_which_an_agent_was_not_heard_is_kept(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    for seconds in [0, 60, 600, 660] {
        let heard = Delivery { received: NOW + seconds * SECOND, ..delivery(agent) };
        store.ingest(vec![heard]).await.unwrap();
    }
    let silences = store.silences(agent, NOW, NOW + 3_600 * SECOND, 9).await.unwrap();
    assert_eq!(silences, [Silence { from: NOW + 60 * SECOND, to: NOW + 600 * SECOND }]);
    assert_eq!(store.silences(agent, NOW - 9 * SECOND, NOW, 9).await.unwrap(), []);
}

pub async fn points_are_found_by_several_words_and_by_their_site(place: Arc<Place>) {
    let store = place.open().await;
    let (one, _) = (agent(&store, "one").await, agent(&store, "other").await);
    store.ingest(vec![delivery_of(one, 3, vec![])]).await.unwrap();
    let count = async |search: &str, agent| store.points(agent, search, None, 10).await.unwrap().len();
    assert_eq!(count("BOILER p2", None).await, 1);
    assert_eq!(count("p2  boiler °c", None).await, 1, "in any order");
    assert_eq!(count("hall/one p", None).await, 3);
    assert_eq!(count("hall/other", None).await, 0);
    assert_eq!(count("one", Some(one)).await, 0, "of one agent its name tells nothing");
    let keys: Vec<PointKey> =
        store.points(None, "", None, 10).await.unwrap().iter().map(|row| row.key).collect();
    assert_eq!(store.latest(&keys).await.unwrap(), [], "no readings yet");
}
