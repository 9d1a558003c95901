//! Tokens, certificates, standing.

use std::sync::Arc;

use forebay_server::store::{AgentKey, NewToken, Standing, StoreError, TokenVerdict};
use futures::future::try_join_all;

use crate::place::{NOW, Place, SECOND, agent};

fn token(secret: u8, uses: u32) -> NewToken {
    NewToken { secret_hash: [secret; 32], expires: NOW + SECOND, uses, note: "hall 3".into(), created: NOW }
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
