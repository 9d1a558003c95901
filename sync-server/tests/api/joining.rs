//! Who waits, letting in and turning away, and join strings with their picture.

use axum::http::{Method, StatusCode};
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::tls;
use forebay_server::access::{Right, Role};
use forebay_server::store::{Applied, NewApplication, TenantKey, TokenVerdict};
use serde_json::{Value as Json, json};

use crate::access::{Somebody, key, log_in, send, user};
use crate::house::{ADDRESS, Answer, House, SECOND};

struct Office {
    house: House,
    root: Somebody,
}

impl Office {
    async fn build() -> Self {
        let house = House::closed().await;
        user(&house, TenantKey::MAIN, "root", Role::Admin).await;
        let root = log_in(&house, "root").await;
        Self { house, root }
    }

    async fn post(&self, path: &str, body: Json) -> Answer {
        send(&self.house, Method::POST, &format!("/api/v1/joining/{path}"), Some(&self.root), Some(body))
            .await
    }

    async fn get(&self, path: &str) -> Json {
        send(&self.house, Method::GET, path, Some(&self.root), None).await.json()
    }

    /// A gateway asks with the join string.
    async fn asks(&self, join: &JoinString, key: u8, gateway: &str) -> Applied {
        let asked = NewApplication {
            secret_hash: join.secret.hash(),
            key_hash: [key; 32],
            site: "hall".into(),
            gateway: gateway.into(),
            peer: "192.0.2.9".into(),
            version: "0.1.0".into(),
            approval: false,
            now: self.house.now,
        };
        self.house.store.apply(asked).await.unwrap()
    }

    async fn join_string(&self, body: Json) -> (JoinString, Json) {
        let made = self.post("tokens", body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        let told = made.json();
        (told["join"].as_str().unwrap().parse().unwrap(), told)
    }
}

#[tokio::test]
async fn a_join_string_of_the_page_is_as_good_as_one_of_the_command_line() {
    let office = Office::build().await;
    let (join, told) = office.join_string(json!({})).await;
    assert_eq!((join.address.as_str(), join.ca_pin), (ADDRESS, office.house.authority.pin()));
    let verdict = async |at| office.house.store.token(join.secret.hash(), at).await.unwrap();
    assert_eq!(verdict(office.house.now + 86_000 * SECOND).await, TokenVerdict::Valid);
    assert_eq!(verdict(office.house.now + 86_500 * SECOND).await, TokenVerdict::Expired);
    let command = format!("sudo -u forebay forebay-agent join '{join}'");
    assert_eq!(
        (&told["command"], &told["uses"], &told["approval"]),
        (&json!(command), &json!(1), &json!(false))
    );
    let size = told["qr"]["size"].as_i64().unwrap();
    assert!((21..=177).contains(&size) && (size - 17) % 4 == 0, "{size} modules");
    assert!(told["qr"]["path"].as_str().unwrap().starts_with("M0 0h7v1h-7z"));
    // Without approval whoever has it is let in, once.
    assert!(matches!(office.asks(&join, 1, "one").await, Applied::Approved(_)));
    assert_eq!(office.asks(&join, 2, "two").await, Applied::Refused(TokenVerdict::UsedUp));
    for wrong in [
        json!({ "uses": 0 }),
        json!({ "expires_s": 59 }),
        json!({ "expires_s": 999_999_999 }),
        json!({ "note": "x".repeat(201) }),
        json!({ "tenant": "other" }),
    ] {
        assert_eq!(office.post("tokens", wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let audit = office.get("/api/v1/audit").await.to_string();
    assert!(audit.contains("join token made") && !audit.contains(&join.secret.to_text()), "{audit}");
    let (_, operator) = key(&office.house, TenantKey::MAIN, &[Right::Read, Right::Operate], 600).await;
    let tokens = "/api/v1/joining/tokens";
    let refused = send(&office.house, Method::POST, tokens, Some(&operator), Some(json!({}))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "whom to invite is not an operator's");
}

#[tokio::test]
async fn who_waits_is_let_in_or_turned_away_by_an_operator() {
    let office = Office::build().await;
    let wanted = json!({ "approval": true, "uses": 3, "note": "north hall", "expires_s": 600 });
    let (join, _) = office.join_string(wanted).await;
    for (key, gateway) in [(1, "one"), (2, "two")] {
        assert!(matches!(office.asks(&join, key, gateway).await, Applied::Pending { .. }));
    }
    let waiting = office.get("/api/v1/joining").await["waiting"].clone();
    let number = |place: usize| waiting[place]["number"].clone();
    assert_eq!((&waiting[0]["agent"], &waiting[0]["note"]), (&json!("hall/one"), &json!("north hall")));
    assert_eq!(waiting[1]["key"], tls::key_words(&[2; 32]));

    let renamed = office.post(&format!("{}/approve", number(0)), json!({ "agent": "hall/other" })).await;
    assert_eq!(renamed.status, StatusCode::CONFLICT, "{}", renamed.body);
    assert!(renamed.body.contains("hall/one"), "{}", renamed.body);
    let (_, operator) = key(&office.house, TenantKey::MAIN, &[Right::Operate], 600).await;
    let path = format!("/api/v1/joining/{}/approve", number(0));
    let body = json!({ "agent": "hall/one" });
    let done = send(&office.house, Method::POST, &path, Some(&operator), Some(body)).await;
    assert_eq!(done.status, StatusCode::NO_CONTENT, "{}", done.body);
    assert_eq!(office.get("/api/v1/joining").await["waiting"][0]["approved"], true);
    assert!(matches!(office.asks(&join, 1, "one").await, Applied::Approved(_)));

    let long = office.post(&format!("{}/reject", number(1)), json!({ "reason": "x".repeat(201) })).await;
    assert_eq!(long.status, StatusCode::BAD_REQUEST);
    let no = json!({ "reason": " there is one already " });
    let done = office.post(&format!("{}/reject", number(1)), no).await;
    assert_eq!(done.status, StatusCode::NO_CONTENT, "{}", done.body);
    assert_eq!(office.asks(&join, 2, "two").await, Applied::Rejected("there is one already".into()));
    let again = office.post(&format!("{}/approve", number(1)), json!({})).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND, "{}", again.body);

    let audit = office.get("/api/v1/audit").await["entries"].clone();
    let told: Vec<_> =
        audit.as_array().unwrap().iter().map(|entry| [&entry["action"], &entry["who"]]).collect();
    assert!(told[0][0] == "gateway rejected" && told[0][1] == "user root", "{told:?}");
    assert!(told[1][0] == "gateway approved" && told[1][1] != "user root", "{told:?}");
}

#[tokio::test]
async fn the_server_tells_how_long_it_keeps_what_it_has() {
    let office = Office::build().await;
    let retention = office.get("/api/v1/server").await["retention"].clone();
    assert_eq!(
        (&retention["readings"], &retention["days"]),
        (&json!(90 * 86_400), &Json::Null),
        "{retention}"
    );
    let class = &retention["classes"][0];
    assert_eq!((&class["name"], &class["points"]), (&json!("alarms"), &json!(["*/alarm_*"])));
    assert_eq!((&class["readings"], &class["minutes"]), (&json!(365 * 86_400), &Json::Null), "{class}");
}
