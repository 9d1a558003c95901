//! Tenants that never see each other, users, sessions, keys, and the audit of every change.

use std::sync::Arc;

use forebay_protocols::sync::wire::{self, gap::Reason};
use forebay_server::access::{Right, Role};
use forebay_server::store::*;
use futures::future::join_all;

use crate::place::{NOW, Place, SECOND, batch, delivery, delivery_of, float};

fn act(tenant: TenantKey) -> Act {
    Act { tenant, who: "user root".into(), origin: "192.0.2.7".into(), at: NOW }
}

fn user(name: &str, role: Role) -> Change {
    Change::AddUser { name: name.into(), role, password: format!("hash of {name}"), only_first: false }
}

async fn done(access: &Access, tenant: TenantKey, change: Change) -> i64 {
    match access.change(&act(tenant), change).await.unwrap() {
        Outcome::Done(number) => number,
        outcome => panic!("{outcome:?}"),
    }
}

async fn second_tenant(access: &Access) -> TenantKey {
    TenantKey(done(access, TenantKey::MAIN, Change::AddTenant { name: "other".into() }).await)
}

/// An agent of this tenant, with a point, readings, a gap, a batch set aside and a reading in quarantine.
async fn full_agent(store: &Arc<dyn Store>, tenant: TenantKey, secret: u8) -> (AgentKey, PointKey) {
    let hash = [secret; 32];
    let token = NewToken {
        secret_hash: hash,
        expires: NOW + SECOND,
        uses: 1,
        note: "".into(),
        approval: false,
        created: NOW,
    };
    store.add_token(token).await.unwrap();
    store.access().give_token(hash, tenant).await.unwrap();
    // Both tenants call theirs the same.
    let agent = store.join(hash, "hall", "gate", hash, NOW + SECOND, NOW).await.unwrap().1.unwrap();
    let aside = Arrived::plain(
        forebay_protocols::sync::batch::Sequence(2),
        forebay_protocols::reading::PointId(1),
        Content::SetAside { bytes: vec![1, 2, 3].into(), why: "cut short".into() },
    );
    let batches = vec![batch(1, vec![float(1, 5, 1.0), float(1, NOW - SECOND, 2.0)]), aside];
    let gap = wire::Gap {
        number: 1,
        point: 1,
        from_us: NOW - SECOND,
        to_us: NOW,
        count: 3,
        reason: Reason::DeviceSilent.into(),
        ..Default::default()
    };
    let report = Some(wire::Report { appended: 2, ..Default::default() });
    let receipts =
        store.ingest(vec![Delivery { gaps: vec![gap], report, ..delivery_of(agent, 1, batches) }]).await;
    let fault = Fault {
        agent,
        kind: FaultKind::Wiped,
        subject: "07".into(),
        words: "It happened.".into(),
        remedy: "Look.".into(),
        at: NOW,
    };
    store.raise(fault).await.unwrap();
    (agent, receipts.unwrap()[0].points[0].1)
}

pub async fn a_tenant_sees_its_own_and_nothing_else(place: Arc<Place>) {
    let store = place.open().await;
    let other = second_tenant(&store.access()).await;
    let (mine, my_point) = full_agent(&store, TenantKey::MAIN, 1).await;
    let (theirs, their_point) = full_agent(&store, other, 2).await;
    assert_ne!(mine, theirs, "the same name in two tenants is two agents");
    assert_eq!(store.access().tenant_of(theirs).await.unwrap(), Some(other));
    assert_eq!(store.fleet().await.unwrap().len(), 2, "the server itself sees all");

    for (tenant, agent, point, foreign, foreign_point) in
        [(TenantKey::MAIN, mine, my_point, theirs, their_point), (other, theirs, their_point, mine, my_point)]
    {
        let seen = store.clone().within(tenant);
        let fleet: Vec<_> = seen.fleet().await.unwrap().iter().map(|row| row.key).collect();
        assert_eq!(fleet, [agent]);
        let keys = |rows: Vec<PointRow>| rows.iter().map(|row| row.key).collect::<Vec<_>>();
        assert_eq!(keys(seen.points(None, "", None, 10).await.unwrap()), [point]);
        assert!(seen.points(Some(foreign), "", None, 10).await.unwrap().is_empty());
        for (asked, count) in [(None, 1), (Some(agent), 1), (Some(foreign), 0)] {
            assert_eq!(seen.gaps(asked, 0, NOW + SECOND, 10).await.unwrap().len(), count, "{asked:?}");
            assert_eq!(seen.ledgers(asked).await.unwrap().len(), count, "{asked:?}");
            assert_eq!(seen.faults(asked, 10).await.unwrap().len(), count, "{asked:?}");
        }
        let points = vec![foreign_point, point, point];
        let query = Query { points, from: NOW - 9 * SECOND, to: NOW, step: 0, most: 10 };
        let answer = seen.query(&query).await.unwrap();
        let rows: Vec<_> = answer.iter().map(|(key, rows)| (*key, rows.len())).collect();
        assert_eq!(rows, [(foreign_point, 0), (point, 1), (point, 1)]);

        let aside: Vec<_> = seen.batches_aside(10).await.unwrap();
        assert_eq!(aside.iter().map(|row| row.agent).collect::<Vec<_>>(), [agent]);
        let odd: Vec<_> = seen.odd_points(10).await.unwrap();
        assert_eq!(odd.iter().map(|row| row.point).collect::<Vec<_>>(), [point]);
        assert!(seen.odd_readings(foreign_point, 10).await.unwrap().is_empty());
        assert_eq!(seen.odd_readings(point, 10).await.unwrap().len(), 1);
    }

    // What is kept aside of another tenant cannot be replayed.
    let seen = store.clone().within(other);
    let all = store.batches_aside(10).await.unwrap();
    let foreign = all.iter().find(|row| row.agent == mine).unwrap().id;
    assert!(seen.batch_aside(foreign).await.unwrap().is_none());
    assert!(seen.replay_batch(foreign, vec![], NOW).await.unwrap().is_none());
    assert_eq!(seen.replay_readings(my_point, NOW, NOW).await.unwrap(), Replayed::default());
    assert_eq!(store.odd_readings(my_point, 10).await.unwrap().len(), 1, "it is still there");
    assert_eq!(store.batches_aside(10).await.unwrap().len(), 2);
}

pub async fn times_corrected_are_told_to_their_tenant_only(place: Arc<Place>) {
    let store = place.open().await;
    let other = second_tenant(&store.access()).await;
    let (theirs, _) = full_agent(&store, other, 2).await;
    let corrected = Arrived {
        clock: wire::sent_batch::Clock::Corrected,
        correction_us: 5,
        ..batch(3, vec![float(1, NOW - SECOND, 2.0)])
    };
    store.ingest(vec![Delivery { batches: vec![corrected], ..delivery(theirs) }]).await.unwrap();
    for (tenant, count) in [(other, 1), (TenantKey::MAIN, 0)] {
        let seen = store.clone().within(tenant);
        assert_eq!(seen.time_marks(None, 0, NOW, 10).await.unwrap().len(), count, "{tenant:?}");
    }
}

pub async fn users_are_of_one_tenant_and_the_last_admin_stays(place: Arc<Place>) {
    let store = place.open().await;
    let access = store.access();
    assert!(!access.has_users().await.unwrap());
    let (main, other) = (TenantKey::MAIN, second_tenant(&access).await);
    let root = UserKey(done(&access, main, user("root", Role::Admin)).await);
    let anna = UserKey(done(&access, other, user("anna", Role::Viewer)).await);
    assert!(access.has_users().await.unwrap());
    let change = |tenant: TenantKey, change: Change| {
        let access = access.clone();
        async move { access.change(&act(tenant), change).await.unwrap() }
    };
    assert_eq!(change(other, user("root", Role::Viewer)).await, Outcome::NameTaken, "one logs in by it");
    assert_eq!(
        change(main, Change::SetRole { user: anna, role: Role::Admin }).await,
        Outcome::Unknown,
        "another tenant's"
    );
    assert_eq!(change(main, Change::RemoveUser { user: anna, even_last: false }).await, Outcome::Unknown);
    assert_eq!(
        change(main, Change::SetPassword { user: anna, password: "x".into(), keep: None }).await,
        Outcome::Unknown
    );
    assert_eq!(change(main, Change::SetRole { user: root, role: Role::Viewer }).await, Outcome::LastAdmin);
    assert_eq!(change(main, Change::RemoveUser { user: root, even_last: false }).await, Outcome::LastAdmin);
    let names = |rows: Vec<UserRow>| rows.into_iter().map(|row| (row.name, row.role)).collect::<Vec<_>>();
    let users = names(access.users(Some(other)).await.unwrap());
    assert_eq!(users, [("anna".to_owned(), Role::Viewer)]);
    done(&access, main, user("bert", Role::Admin)).await;
    done(&access, main, Change::SetRole { user: root, role: Role::Operator }).await;
    let users = names(access.users(None).await.unwrap());
    assert_eq!(
        users,
        [
            ("anna".to_owned(), Role::Viewer),
            ("bert".to_owned(), Role::Admin),
            ("root".to_owned(), Role::Operator)
        ]
    );
    done(&access, other, Change::RemoveUser { user: anna, even_last: false }).await;
    assert!(access.user("anna").await.unwrap().is_none());
    let (row, password) = access.user("root").await.unwrap().unwrap();
    assert_eq!((row.user, password.as_str(), row.seen), (root, "hash of root", None));
}

pub async fn of_many_that_want_to_be_the_first_user_one_is(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    let tries = (0..12).map(|n| {
        let access = stores[n % 2].access();
        let change = Change::AddUser {
            name: format!("user{n}"),
            role: Role::Admin,
            password: "hash".into(),
            only_first: true,
        };
        async move { access.change(&act(TenantKey::MAIN), change).await.unwrap() }
    });
    let outcomes = join_all(tries).await;
    let first = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count();
    let late = outcomes.iter().filter(|outcome| **outcome == Outcome::NotFirst).count();
    assert_eq!((first, late), (1, 11));
}

pub async fn a_session_ends_with_its_user_its_password_or_its_time(place: Arc<Place>) {
    let store = place.open().await;
    let access = store.access();
    let main = TenantKey::MAIN;
    let root = UserKey(done(&access, main, user("root", Role::Admin)).await);
    let anna = UserKey(done(&access, main, user("anna", Role::Viewer)).await);
    let open = |user, hash| Change::OpenSession { user, hash, expires: NOW + 9 * SECOND };
    for (user, hash) in [(root, [1; 32]), (root, [2; 32]), (anna, [3; 32])] {
        done(&access, main, open(user, hash)).await;
    }
    let row = access.session([1; 32]).await.unwrap().unwrap();
    assert_eq!((row.user.name.as_str(), row.created, row.expires), ("root", NOW, NOW + 9 * SECOND));
    assert_eq!(row.user.seen, Some(NOW), "it logged in");
    access.session_used([1; 32], NOW + SECOND, NOW + 99 * SECOND).await.unwrap();
    let row = access.session([1; 32]).await.unwrap().unwrap();
    assert_eq!((row.seen, row.expires), (NOW + SECOND, NOW + 99 * SECOND));
    // A role that changes, changes for sessions that are open.
    done(&access, main, Change::SetRole { user: anna, role: Role::Operator }).await;
    assert_eq!(access.session([3; 32]).await.unwrap().unwrap().user.role, Role::Operator);

    let password = Change::SetPassword { user: root, password: "new".into(), keep: Some([1; 32]) };
    done(&access, main, password).await;
    assert!(access.session([2; 32]).await.unwrap().is_none());
    assert!(access.session([1; 32]).await.unwrap().is_some(), "the one that changed it goes on");
    done(&access, main, Change::CloseSession { hash: [1; 32] }).await;
    assert!(access.session([1; 32]).await.unwrap().is_none());
    done(&access, main, Change::RemoveUser { user: anna, even_last: false }).await;
    assert!(access.session([3; 32]).await.unwrap().is_none());
    assert_eq!(place.number("select count(*) from sessions").await, 0);
}

pub async fn keys_are_found_by_hash_and_removed_by_their_tenant_only(place: Arc<Place>) {
    let store = place.open().await;
    let access = store.access();
    let (main, other) = (TenantKey::MAIN, second_tenant(&access).await);
    let key = |name: &str, hash| Change::AddKey {
        hash,
        hint: "fbk_abc".into(),
        name: name.into(),
        rights: vec![Right::Read, Right::Metrics],
        expires: NOW + SECOND,
    };
    let made = KeyKey(done(&access, main, key("grafana", [1; 32])).await);
    assert_eq!(access.change(&act(main), key("grafana", [2; 32])).await.unwrap(), Outcome::NameTaken);
    done(&access, other, key("grafana", [3; 32])).await;
    let row = access.key([1; 32]).await.unwrap().unwrap();
    assert_eq!((row.key, row.tenant, row.name.as_str(), row.seen), (made, main, "grafana", None));
    assert_eq!(
        (row.rights, row.maker.as_str(), row.expires),
        (vec![Right::Read, Right::Metrics], "user root", NOW + SECOND)
    );
    access.key_used(made, NOW + 5).await.unwrap();
    assert_eq!(access.keys(Some(main)).await.unwrap()[0].seen, Some(NOW + 5));
    assert_eq!(
        (access.keys(None).await.unwrap().len(), access.keys(Some(other)).await.unwrap().len()),
        (2, 1)
    );
    let remove = Change::RemoveKey { key: made };
    assert_eq!(access.change(&act(other), remove.clone()).await.unwrap(), Outcome::Unknown);
    done(&access, main, remove).await;
    assert!(access.key([1; 32]).await.unwrap().is_none());
}

pub async fn every_change_is_in_the_audit_and_no_secret_is(place: Arc<Place>) {
    let store = place.open().await;
    let access = store.access();
    let (main, other) = (TenantKey::MAIN, second_tenant(&access).await);
    let root = UserKey(done(&access, main, user("root", Role::Admin)).await);
    let anna = UserKey(done(&access, main, user("anna", Role::Viewer)).await);
    done(&access, main, Change::SetRole { user: anna, role: Role::Operator }).await;
    let password = Change::SetPassword { user: anna, password: "hidden".into(), keep: None };
    done(&access, main, password).await;
    let key = Change::AddKey {
        hash: [1; 32],
        hint: "fbk_abc".into(),
        name: "grafana".into(),
        rights: vec![Right::Read],
        expires: NOW,
    };
    let key = KeyKey(done(&access, main, key).await);
    done(&access, main, Change::RemoveKey { key }).await;
    done(&access, main, Change::OpenSession { user: root, hash: [7; 32], expires: NOW }).await;
    done(&access, main, Change::CloseSession { hash: [7; 32] }).await;
    done(&access, main, Change::RemoveUser { user: anna, even_last: false }).await;
    let noted = Note::new("batch replayed", "1-2-00000003\0").from_to("x".repeat(5_000), "");
    access.record(&act(other), noted).await.unwrap();
    // What was refused changed nothing.
    access.change(&act(main), Change::RemoveUser { user: anna, even_last: false }).await.unwrap();

    let told = |rows: &[AuditRow]| {
        let line = |row: &AuditRow| {
            let Note { action, subject, was, became } = &row.note;
            format!("{action}: {subject}: {was} > {became}")
        };
        rows.iter().rev().map(line).collect::<Vec<_>>()
    };
    let rows = access.audit(Some(main), None, 100).await.unwrap();
    assert_eq!(
        told(&rows),
        [
            "tenant added: other:  > ",
            "user added: root:  > admin",
            "user added: anna:  > viewer",
            "role changed: anna: viewer > operator",
            "password changed: anna:  > ",
            "key made: grafana:  > read, until 2026-11-21T00:00:00Z",
            "key removed: grafana: read > ",
            "logged in: root:  > ",
            "logged out: root:  > ",
            "user removed: anna: operator > ",
        ]
    );
    assert!(rows.iter().all(|row| (row.at, &*row.who, &*row.origin) == (NOW, "user root", "192.0.2.7")));
    // In pages, latest first.
    let page = access.audit(Some(main), None, 3).await.unwrap();
    let next = access.audit(Some(main), Some(page[2].entry), 3).await.unwrap();
    assert_eq!(told(&[page, next].concat()), told(&rows[..6]));
    let theirs = access.audit(Some(other), None, 10).await.unwrap();
    assert_eq!(theirs.len(), 1);
    assert_eq!((theirs[0].note.subject.as_str(), theirs[0].note.was.len()), ("1-2-00000003\u{fffd}", 500));
    assert_eq!(access.audit(None, None, 100).await.unwrap().len(), 11);
}
