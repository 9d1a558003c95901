//! Tokens, certificates, standing.

use std::sync::Arc;

use forebay_server::store::{
    Act, Adopted, AgentKey, Applied, Change, NewApplication, NewToken, Outcome, Standing, StoreError,
    TenantKey, TokenVerdict, Word,
};
use futures::future::try_join_all;

use crate::place::{NOW, Place, SECOND, agent};

fn token(secret: u8, uses: u32) -> NewToken {
    NewToken {
        secret_hash: [secret; 32],
        expires: NOW + SECOND,
        uses,
        note: "hall 3".into(),
        approval: false,
        created: NOW,
    }
}

pub async fn a_token_is_used_once_however_many_come_at_once(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    stores[0].add_token(token(1, 1)).await.unwrap();
    let joins = (0..16u8).map(|n| {
        let store = stores[n as usize % 2].clone();
        async move { store.join([1; 32], "hall", &format!("g{n}"), [n; 32], NOW + SECOND, NOW).await }
    });
    let outcomes = try_join_all(joins).await.unwrap();
    let (in_time, late): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|outcome| outcome.1.is_some());
    assert_eq!((in_time.len(), in_time[0].0), (1, TokenVerdict::Valid));
    assert!(late.iter().all(|outcome| outcome.0 == TokenVerdict::UsedUp));
    assert_eq!(stores[0].fleet().await.unwrap().len(), 1);
}

pub async fn a_token_says_why_it_is_worth_nothing(place: Arc<Place>) {
    let store = place.open().await;
    store.add_token(token(1, 2)).await.unwrap();
    assert_eq!(store.token([2; 32], NOW).await.unwrap(), TokenVerdict::Unknown);
    assert_eq!(store.token([1; 32], NOW + SECOND).await.unwrap(), TokenVerdict::Expired);
    let late = store.join([1; 32], "hall", "gate", [1; 32], NOW, NOW + SECOND).await.unwrap();
    assert_eq!(late, (TokenVerdict::Expired, None));
    for n in 0..2 {
        assert_eq!(store.token([1; 32], NOW).await.unwrap(), TokenVerdict::Valid);
        store.join([1; 32], "hall", "gate", [n; 32], NOW, NOW).await.unwrap();
    }
    assert_eq!(store.token([1; 32], NOW).await.unwrap(), TokenVerdict::UsedUp);
    assert!(matches!(store.add_token(token(1, 1)).await, Err(StoreError::Refused(_))), "a secret is new");
    assert_eq!(store.fleet().await.unwrap().len(), 1, "the same name is the same agent");
}

pub async fn certificates_renew_and_the_old_one_stays_good(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let before = store.fleet().await.unwrap()[0].certificate.unwrap().0;
    store.renew(agent, [9; 32], NOW + 7 * SECOND).await.unwrap();
    assert_eq!(store.fleet().await.unwrap()[0].certificate, Some(([9; 32], NOW + 7 * SECOND)));
    for certificate in [before, [9; 32]] {
        let Standing::Known(row) = store.standing(certificate).await.unwrap() else { panic!("not known") };
        assert_eq!(
            (row.key, row.site.as_str(), row.gateway.as_str(), row.joined),
            (agent, "hall", "gate", NOW)
        );
    }
    let stranger = store.renew(AgentKey(agent.0 + 1), [8; 32], NOW).await;
    assert!(matches!(stranger, Err(StoreError::Refused(_))));
}

pub async fn a_revoked_agent_is_told_from_a_stranger_and_may_join_again(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let before = store.fleet().await.unwrap()[0].certificate.unwrap().0;
    store.revoke(agent).await.unwrap();
    assert!(store.fleet().await.unwrap()[0].revoked);
    assert!(matches!(store.standing(before).await.unwrap(), Standing::Revoked(row) if row.key == agent));
    assert!(matches!(store.standing([3; 32]).await.unwrap(), Standing::Unknown));
    assert!(matches!(store.renew(agent, [4; 32], NOW).await, Err(StoreError::Refused(_))));
    assert!(matches!(store.revoke(AgentKey(agent.0 + 1)).await, Err(StoreError::Refused(_))));
    store.add_token(token(5, 1)).await.unwrap();
    let (_, again) = store.join([5; 32], "hall", "gate", [5; 32], NOW + SECOND, NOW).await.unwrap();
    assert_eq!(again, Some(agent));
    assert!(matches!(store.standing([5; 32]).await.unwrap(), Standing::Known(row) if !row.revoked));
    assert!(matches!(store.standing(before).await.unwrap(), Standing::Revoked(_)), "the old key stays out");
}

fn application(secret: u8, key: u8, gateway: &str) -> NewApplication {
    NewApplication {
        secret_hash: [secret; 32],
        key_hash: [key; 32],
        site: "hall".into(),
        gateway: gateway.into(),
        peer: "10.0.0.7".into(),
        version: "1.2".into(),
        approval: false,
        now: NOW,
    }
}

pub async fn an_application_waits_for_an_operator_and_is_for_one_key_and_name(place: Arc<Place>) {
    let store = place.open().await;
    store.add_token(NewToken { approval: true, ..token(1, 1) }).await.unwrap();
    let Applied::Pending { id, is_new: true } = store.apply(application(1, 7, "gate")).await.unwrap() else {
        panic!("it waits")
    };
    let again = store.apply(NewApplication { now: NOW + 9, ..application(1, 7, "gate") }).await.unwrap();
    assert_eq!(again, Applied::Pending { id, is_new: false });
    let other_key = store.apply(application(1, 8, "gate")).await.unwrap();
    assert_eq!(other_key, Applied::Refused(TokenVerdict::UsedUp), "one use is one key");
    let waiting = store.applications().await.unwrap();
    let row = &waiting[0];
    assert_eq!((waiting.len(), row.id, row.approved, row.note.as_str()), (1, id, false, "hall 3"));
    assert_eq!((row.key_hash, row.asked, row.last_asked), ([7; 32], NOW, NOW + 9));
    assert_eq!(store.admit(id, [9; 32], NOW + SECOND, NOW).await.unwrap(), None, "nobody has said yes");
    assert!(store.decide(id, Word::Yes, NOW).await.unwrap());
    assert!(store.applications().await.unwrap()[0].approved);
    // The operator's word was for the name too.
    let renamed = store.apply(application(1, 7, "vault")).await.unwrap();
    assert_eq!(renamed, Applied::Pending { id, is_new: true });
    assert!(store.decide(id, Word::Yes, NOW).await.unwrap());
    // Its token's time may be over by then.
    let late = NewApplication { now: NOW + 2 * SECOND, ..application(1, 7, "vault") };
    assert_eq!(store.apply(late.clone()).await.unwrap(), Applied::Approved(id));
    let agent = store.admit(id, [9; 32], NOW + SECOND, NOW).await.unwrap().unwrap();
    // The answer got lost: the same key, soon after, is the same agent.
    assert_eq!(store.apply(late).await.unwrap(), Applied::Approved(id));
    assert_eq!(store.admit(id, [10; 32], NOW + SECOND, NOW).await.unwrap(), Some(agent));
    let later = NewApplication { now: NOW + 2 * 3_600 * SECOND, ..application(1, 7, "vault") };
    assert_eq!(store.apply(later).await.unwrap(), Applied::Refused(TokenVerdict::UsedUp));
    let renamed = store.apply(application(1, 7, "elsewhere")).await.unwrap();
    assert_eq!(renamed, Applied::Refused(TokenVerdict::UsedUp), "one use is one agent");
    assert!(store.applications().await.unwrap().is_empty());
    assert!(!store.decide(id, Word::Yes, NOW).await.unwrap(), "it waits no longer");

    // Whatever the token says, the server may ask for a word; and the word may be no.
    store.add_token(token(2, 1)).await.unwrap();
    let asked = NewApplication { approval: true, ..application(2, 7, "gate") };
    let Applied::Pending { id, .. } = store.apply(asked.clone()).await.unwrap() else { panic!("it waits") };
    assert!(store.decide(id, Word::No("not\0here".into()), NOW).await.unwrap());
    assert_eq!(store.apply(asked).await.unwrap(), Applied::Rejected("not\u{fffd}here".into()));
    assert_eq!(store.admit(id, [11; 32], NOW + SECOND, NOW).await.unwrap(), None);
    assert_eq!(store.fleet().await.unwrap().len(), 1);
}

pub async fn who_waits_is_seen_by_the_tenant_of_its_token_alone(place: Arc<Place>) {
    let store = place.open().await;
    let act = Act { tenant: TenantKey::MAIN, who: "user root".into(), origin: String::new(), at: NOW };
    let add = Change::AddTenant { name: "other".into() };
    let Outcome::Done(other) = store.access().change(&act, add).await.unwrap() else { panic!("made") };
    let mut waiting = Vec::new();
    for (secret, tenant) in [(1, TenantKey::MAIN), (2, TenantKey(other))] {
        store.add_token(NewToken { approval: true, ..token(secret, 1) }).await.unwrap();
        store.access().give_token([secret; 32], tenant).await.unwrap();
        let Applied::Pending { id, .. } = store.apply(application(secret, 7, "gate")).await.unwrap() else {
            panic!("it waits")
        };
        waiting.push((store.clone().within(tenant), tenant, id));
    }
    assert_eq!(store.applications().await.unwrap().len(), 2);
    let mut agents = Vec::new();
    for (own, tenant, id) in &waiting {
        let seen: Vec<_> = own.applications().await.unwrap().iter().map(|one| (one.tenant, one.id)).collect();
        assert_eq!(seen, [(*tenant, *id)]);
        for (_, _, others) in waiting.iter().filter(|(_, of, _)| of != tenant) {
            assert!(!own.decide(*others, Word::Yes, NOW).await.unwrap(), "not theirs to decide");
        }
    }
    for (n, (own, tenant, id)) in waiting.iter().enumerate() {
        assert!(own.decide(*id, Word::Yes, NOW).await.unwrap());
        let agent = store.admit(*id, [n as u8; 32], NOW + SECOND, NOW).await.unwrap().unwrap();
        assert_eq!(store.access().tenant_of(agent).await.unwrap(), Some(*tenant));
        agents.push(agent);
        store.leave(agent, NOW).await.unwrap();
        assert_eq!(own.departures().await.unwrap(), [(agent, NOW)]);
    }
    assert_ne!(agents[0], agents[1], "both tenants call theirs the same");
    // Whose it is, a certificate does not tell.
    let adopted = Adopted {
        site: "hall".into(),
        gateway: "new".into(),
        certificate: [9; 32],
        valid_until: NOW + SECOND,
    };
    assert_eq!(store.adopt(adopted, NOW).await.unwrap(), None);
}

pub async fn who_leaves_or_is_revoked_is_told_and_its_key_lets_nobody_in(place: Arc<Place>) {
    let store = place.open().await;
    store.add_token(token(1, 2)).await.unwrap();
    let mut keys = Vec::new();
    for n in [1, 2] {
        let gateway = format!("g{n}");
        let Applied::Approved(id) = store.apply(application(1, n, &gateway)).await.unwrap() else {
            panic!("approved")
        };
        keys.push(store.admit(id, [n; 32], NOW + SECOND, NOW).await.unwrap().unwrap());
    }
    assert!(store.revoked_lately().await.unwrap().is_empty());
    store.leave(keys[0], NOW + 5).await.unwrap();
    store.revoke(keys[1]).await.unwrap();
    let mut revoked = store.revoked_lately().await.unwrap();
    revoked.sort_unstable();
    assert_eq!(revoked, [[1; 32], [2; 32]]);
    assert_eq!(store.departures().await.unwrap(), [(keys[0], NOW + 5)]);
    for n in [1, 2] {
        assert!(matches!(store.standing([n; 32]).await.unwrap(), Standing::Revoked(_)));
        let again = store.apply(application(1, n, &format!("g{n}"))).await.unwrap();
        assert!(matches!(again, Applied::Rejected(_)), "{again:?}");
    }
    // It comes back with a new token, and has not left any more.
    store.add_token(token(3, 1)).await.unwrap();
    let (_, back) = store.join([3; 32], "hall", "g1", [3; 32], NOW + SECOND, NOW).await.unwrap();
    assert_eq!(back, Some(keys[0]));
    assert!(store.departures().await.unwrap().is_empty());
}

pub async fn a_certificate_that_a_backup_does_not_know_is_taken_in(place: Arc<Place>) {
    let store = place.open().await;
    let known = agent(&store, "gate").await;
    let adopted = |gateway: &str, n: u8| Adopted {
        site: "hall".into(),
        gateway: gateway.into(),
        certificate: [n; 32],
        valid_until: NOW + SECOND,
    };
    assert_eq!(store.adopt(adopted("gate", 5), NOW).await.unwrap(), Some(known), "renewed since");
    let joined = store.adopt(adopted("vault", 6), NOW).await.unwrap().unwrap();
    assert_ne!(joined, known, "joined since");
    assert!(matches!(store.standing([6; 32]).await.unwrap(), Standing::Known(row) if row.gateway == "vault"));
    store.revoke(known).await.unwrap();
    assert_eq!(store.adopt(adopted("gate", 7), NOW).await.unwrap(), None, "who was revoked stays out");
}
