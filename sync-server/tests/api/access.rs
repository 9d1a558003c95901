//! Who is let in where: every route of the list, with and without what it needs.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use forebay_server::access::{Passwords, Right, Role, random};
use forebay_server::api::{self, Needs};
use forebay_server::store::{Act, Change, Outcome, TenantKey};
use serde_json::{Value as Json, json};

use crate::house::{Answer, House, SECOND};

pub const PASSWORD: &str = "four words and a pear";

/// Somebody who asks: a header that says who.
#[derive(Clone, Debug)]
pub struct Somebody(pub &'static str, pub String);

fn act(house: &House, tenant: TenantKey) -> Act {
    Act { tenant, who: "test".into(), origin: String::new(), at: house.now }
}

pub async fn done(house: &House, tenant: TenantKey, change: Change) -> i64 {
    match house.gate.access().change(&act(house, tenant), change).await.unwrap() {
        Outcome::Done(number) => number,
        outcome => panic!("{outcome:?}"),
    }
}

/// A user with [`PASSWORD`]; its number.
pub async fn user(house: &House, tenant: TenantKey, name: &str, role: Role) -> i64 {
    let password = Passwords::new().hash(PASSWORD).await.unwrap();
    done(house, tenant, Change::AddUser { name: name.into(), role, password, only_first: false }).await
}

/// A key with these rights, good for so many seconds.
pub async fn key(house: &House, tenant: TenantKey, rights: &[Right], seconds: i64) -> (i64, Somebody) {
    let (key, hash) = random("fbk_").unwrap();
    let name = format!("{rights:?} {seconds}");
    let expires = house.now + seconds * SECOND;
    let change = Change::AddKey { hash, hint: "fbk_".into(), name, rights: rights.to_vec(), expires };
    (done(house, tenant, change).await, Somebody("authorization", format!("Bearer {key}")))
}

pub async fn log_in(house: &House, name: &str) -> Somebody {
    let answer = try_log_in(house, name, PASSWORD).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let cookie = answer.header(header::SET_COOKIE).split(';').next().unwrap().to_owned();
    Somebody("cookie", cookie)
}

async fn try_log_in(house: &House, name: &str, password: &str) -> Answer {
    let body = json!({ "name": name, "password": password });
    send(house, Method::POST, "/api/v1/login", None, Some(body)).await
}

/// A request as the page makes it.
pub async fn send(
    house: &House,
    method: Method,
    path: &str,
    who: Option<&Somebody>,
    body: Option<Json>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://{}{path}", house.address));
    request = request.header("x-forebay", "1").header(header::CONTENT_TYPE, "application/json");
    if let Some(Somebody(name, value)) = who {
        request = request.header(*name, value);
    }
    house
        .answer(request.body(Body::from(body.map_or_else(String::new, |body| body.to_string()))).unwrap())
        .await
}

/// The whole list, with paths that can be asked for.
pub fn routes(id: i64) -> Vec<(Method, String, Needs)> {
    let mut all = api::table();
    all.push((Method::GET, "/metrics".into(), api::METRICS));
    all.into_iter()
        .map(|(method, path, needs)| (method, path.replace("{id}", &id.to_string()), needs))
        .collect()
}

fn is_problem(answer: &Answer, status: StatusCode) -> bool {
    answer.status == status
        && answer.header(header::CONTENT_TYPE) == "application/problem+json"
        && answer.json()["status"] == status.as_u16()
}

#[tokio::test]
async fn no_route_lets_a_stranger_in() {
    let house = House::closed().await;
    for (method, path, needs) in routes(1) {
        let answer = send(&house, method.clone(), &path, None, None).await;
        if needs == Needs::Nothing {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{method} {path}: {}", answer.body);
            continue;
        }
        assert!(is_problem(&answer, StatusCode::UNAUTHORIZED), "{method} {path}: {}", answer.status);
        assert_eq!(answer.header(header::WWW_AUTHENTICATE), "Bearer", "{method} {path}");
        let nobody = Somebody("authorization", "Bearer fbk_of_nobody".into());
        let answer = send(&house, method.clone(), &path, Some(&nobody), None).await;
        assert!(is_problem(&answer, StatusCode::UNAUTHORIZED), "{method} {path}: {}", answer.status);
    }
}

#[tokio::test]
async fn every_route_wants_its_right_and_takes_no_other() {
    let house = House::closed().await;
    let main = TenantKey::MAIN;
    user(&house, main, "root", Role::Admin).await;
    let root = log_in(&house, "root").await;
    let agent = house.agent("gate").await;
    for (method, path, needs) in routes(987_654) {
        let (Needs::Right(right) | Needs::MainTenant(right)) = needs else { continue };
        let others: Vec<Right> = Right::ALL.into_iter().filter(|other| *other != right).collect();
        let (number, without) = key(&house, main, &others, 60).await;
        let answer = send(&house, method.clone(), &path, Some(&without), None).await;
        assert!(is_problem(&answer, StatusCode::FORBIDDEN), "{method} {path}: {}", answer.status);
        assert!(answer.body.contains(right.word()), "{method} {path}: {}", answer.body);
        done(&house, main, Change::RemoveKey { key: forebay_server::store::KeyKey(number) }).await;
        // With it there is an answer, or a word on what is missing. A live feed has no end.
        if path.contains("/live") {
            continue;
        }
        let answer = send(&house, method.clone(), &path, Some(&root), None).await;
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR];
        assert!(!refused.contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
    }
    assert_eq!(house.store.fleet().await.unwrap()[0].key, agent);
}

#[tokio::test]
async fn roles_hold_what_they_should() {
    let house = House::closed().await;
    for role in Role::ALL {
        user(&house, TenantKey::MAIN, role.word(), role).await;
    }
    let may = async |role: Role, method: Method, path: &str| {
        let who = log_in(&house, role.word()).await;
        send(&house, method, path, Some(&who), None).await.status != StatusCode::FORBIDDEN
    };
    for (method, path, least) in [
        (Method::GET, "/api/v1/fleet", Role::Viewer),
        (Method::GET, "/metrics", Role::Viewer),
        (Method::POST, "/api/v1/quarantine/replay", Role::Operator),
        (Method::GET, "/api/v1/users", Role::Admin),
        (Method::POST, "/api/v1/keys", Role::Admin),
        (Method::GET, "/api/v1/audit", Role::Admin),
    ] {
        for role in Role::ALL {
            assert_eq!(may(role, method.clone(), path).await, role >= least, "{role} {path}");
        }
    }
}

#[tokio::test]
async fn without_users_this_machine_may_look_but_make_no_admin() {
    let house = House::build().await;
    assert_eq!(house.json("/api/v1/me").await["kind"], "open");
    house.json("/api/v1/fleet").await;
    let body = json!({ "name": "eve", "role": "admin", "password": PASSWORD });
    let answer = send(&house, Method::POST, "/api/v1/users", None, Some(body)).await;
    assert!(is_problem(&answer, StatusCode::FORBIDDEN), "{}", answer.body);
    // A name that was made to lead here, and a proxy, are not this machine.
    for (name, value) in [("host", "evil.example"), ("x-forwarded-for", "192.0.2.1")] {
        let request = house.request("/api/v1/fleet").header(name, value).body(Body::empty()).unwrap();
        let answer = house.answer(request).await;
        assert!(is_problem(&answer, StatusCode::UNAUTHORIZED), "{name}: {}", answer.status);
    }
    user(&house, TenantKey::MAIN, "root", Role::Admin).await;
    assert_eq!(house.get("/api/v1/fleet").await.status, StatusCode::UNAUTHORIZED, "from now on one logs in");
}

#[tokio::test]
async fn the_link_for_the_first_user_works_once() {
    let house = House::closed().await;
    let secret = house.gate.setup_secret().await.unwrap().unwrap();
    let set_up = async |secret: &str, name: &str, password: &str| {
        let body = json!({ "secret": secret, "name": name, "password": password });
        send(&house, Method::POST, "/api/v1/setup", None, Some(body)).await
    };
    assert_eq!(set_up("guessed", "root", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(set_up(&secret, "root", "short").await.status, StatusCode::BAD_REQUEST);
    let answer = set_up(&secret, "Root", PASSWORD).await;
    assert_eq!((answer.status, &answer.json()["name"]), (StatusCode::OK, &json!("root")));
    let cookie = answer.header(header::SET_COOKIE).to_owned();
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("Secure"), "{cookie}");
    assert_eq!(set_up(&secret, "eve", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(house.gate.setup_secret().await.unwrap(), None, "there is a user");
    let who = Somebody("cookie", cookie.split(';').next().unwrap().to_owned());
    let me = send(&house, Method::GET, "/api/v1/me", Some(&who), None).await.json();
    assert_eq!((&me["name"], &me["role"], &me["tenant"]), (&json!("root"), &json!("admin"), &Json::Null));
}

#[tokio::test]
async fn guessing_is_held_up_and_tells_nothing() {
    let house = House::closed().await;
    user(&house, TenantKey::MAIN, "root", Role::Admin).await;
    let wrong = try_log_in(&house, "root", "not the password").await;
    let nobody = try_log_in(&house, "nobody", "not the password").await;
    assert!(is_problem(&wrong, StatusCode::UNAUTHORIZED));
    assert_eq!((wrong.status, wrong.body), (nobody.status, nobody.body));
    for _ in 0..5 {
        assert_eq!(try_log_in(&house, "root", "not the password").await.status, StatusCode::UNAUTHORIZED);
    }
    let held = try_log_in(&house, "root", PASSWORD).await;
    assert!(is_problem(&held, StatusCode::TOO_MANY_REQUESTS), "{}", held.body);
    assert!(held.header(header::RETRY_AFTER).parse::<u64>().unwrap() > 20);
}

#[tokio::test]
async fn a_change_comes_from_our_own_page() {
    let house = House::closed().await;
    user(&house, TenantKey::MAIN, "root", Role::Admin).await;
    let Somebody(name, cookie) = log_in(&house, "root").await;
    let post = |more: &[(&str, &str)]| {
        let uri = format!("http://{}/api/v1/logout", house.address);
        let mut request = Request::post(uri).header(name, &cookie);
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    };
    let foreign: [&[(&str, &str)]; 2] = [&[], &[("x-forebay", "1"), ("origin", "https://evil.example")]];
    for foreign in foreign {
        let answer = house.answer(post(foreign)).await;
        assert!(is_problem(&answer, StatusCode::FORBIDDEN), "{foreign:?}: {}", answer.status);
    }
    let answer = house.answer(post(&[("x-forebay", "1")])).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert!(answer.header(header::SET_COOKIE).contains("Max-Age=0"));
    let who = Somebody(name, cookie.clone());
    let after = send(&house, Method::GET, "/api/v1/me", Some(&who), None).await;
    assert_eq!(after.status, StatusCode::UNAUTHORIZED, "the server forgot it too");
}

#[tokio::test]
async fn an_admin_makes_users_and_keys_and_reads_who_did() {
    let house = House::closed().await;
    let own = user(&house, TenantKey::MAIN, "root", Role::Admin).await;
    let root = log_in(&house, "root").await;
    let ask = async |method: Method, path: &str, body: Json| {
        send(&house, method, &format!("/api/v1{path}"), Some(&root), Some(body)).await
    };
    let anna = json!({ "name": "Anna", "role": "viewer", "password": PASSWORD });
    let made = ask(Method::POST, "/users", anna.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let id = made.json()["id"].as_i64().unwrap();
    assert!(is_problem(&ask(Method::POST, "/users", anna).await, StatusCode::CONFLICT));
    for wrong in [
        json!({ "name": "a b", "role": "viewer", "password": PASSWORD }),
        json!({ "name": "bert", "role": "emperor", "password": PASSWORD }),
        json!({ "name": "bert", "role": "viewer", "password": "bert" }),
        json!({ "name": "bert", "role": "viewer", "password": PASSWORD, "more": 1 }),
    ] {
        assert!(
            is_problem(&ask(Method::POST, "/users", wrong.clone()).await, StatusCode::BAD_REQUEST),
            "{wrong}"
        );
    }
    // A role that changes acts on who has logged in.
    let anna = log_in(&house, "anna").await;
    let users = async || send(&house, Method::GET, "/api/v1/users", Some(&anna), None).await.status;
    assert_eq!(users().await, StatusCode::FORBIDDEN);
    let path = format!("/users/{id}");
    assert_eq!(ask(Method::PATCH, &path, json!({ "role": "admin" })).await.status, StatusCode::NO_CONTENT);
    assert_eq!(users().await, StatusCode::OK);
    assert_eq!(
        ask(Method::PATCH, &path, json!({ "password": "another one of hers" })).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(users().await, StatusCode::UNAUTHORIZED, "another password ends sessions");
    assert_eq!(ask(Method::DELETE, &path, Json::Null).await.status, StatusCode::NO_CONTENT);
    let last = ask(Method::DELETE, &format!("/users/{own}"), Json::Null).await;
    assert!(is_problem(&last, StatusCode::CONFLICT) && last.body.contains("no admin"), "{}", last.body);

    let new = json!({ "name": "grafana", "rights": ["metrics", "read"], "expires_s": 3600 });
    let made = ask(Method::POST, "/keys", new).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let told = made.json()["key"].as_str().unwrap().to_owned();
    let bearer = Somebody("authorization", format!("Bearer {told}"));
    assert_eq!(send(&house, Method::GET, "/api/v1/fleet", Some(&bearer), None).await.status, StatusCode::OK);
    let keys = ask(Method::GET, "/keys", Json::Null).await;
    assert!(!keys.body.contains(&told[9..]), "shown once");
    let row = keys.json()["keys"][0].clone();
    assert_eq!((&row["rights"], &row["maker"]), (&json!(["read", "metrics"]), &json!("user root")));
    assert!(row["used"].is_string(), "{row}");
    let path = format!("/keys/{}", row["id"]);
    assert_eq!(ask(Method::DELETE, &path, Json::Null).await.status, StatusCode::NO_CONTENT);
    let gone = send(&house, Method::GET, "/api/v1/fleet", Some(&bearer), None).await;
    assert_eq!(gone.status, StatusCode::UNAUTHORIZED);

    let mut told: Vec<String> = Vec::new();
    let mut next = String::new();
    loop {
        let page = ask(Method::GET, &format!("/audit?limit=3{next}"), Json::Null).await.json();
        for entry in page["entries"].as_array().unwrap() {
            told.push(format!(
                "{} {}",
                entry["action"].as_str().unwrap(),
                entry["subject"].as_str().unwrap()
            ));
        }
        match page["next"].as_i64() {
            Some(before) => next = format!("&before={before}"),
            None => break,
        }
    }
    told.reverse();
    let said = [
        "user added root",
        "logged in root",
        "user added anna",
        "logged in anna",
        "role changed anna",
        "password changed anna",
        "user removed anna",
        "key made grafana",
        "key removed grafana",
    ];
    assert_eq!(told, said);
}

#[tokio::test]
async fn a_key_gives_no_more_than_its_maker_has_and_ends_in_time() {
    let house = House::closed().await;
    let main = TenantKey::MAIN;
    let (_, manager) = key(&house, main, &[Right::Manage], 60).await;
    let ask = async |body: Json| send(&house, Method::POST, "/api/v1/keys", Some(&manager), Some(body)).await;
    let more = ask(json!({ "name": "k", "rights": ["operate"], "expires_s": 60 })).await;
    assert!(is_problem(&more, StatusCode::FORBIDDEN), "{}", more.body);
    for wrong in [
        json!({ "name": "k", "rights": [], "expires_s": 60 }),
        json!({ "name": "k", "rights": ["manage"], "expires_s": 59 }),
        json!({ "name": "", "rights": ["manage"], "expires_s": 60 }),
        json!({ "name": "k", "rights": ["fly"], "expires_s": 60 }),
    ] {
        assert!(is_problem(&ask(wrong.clone()).await, StatusCode::BAD_REQUEST), "{wrong}");
    }
    let (_, over) = key(&house, main, &[Right::Read], -1).await;
    let answer = send(&house, Method::GET, "/api/v1/fleet", Some(&over), None).await;
    assert!(is_problem(&answer, StatusCode::UNAUTHORIZED) && answer.body.contains("over"), "{}", answer.body);
    // A key has no password to change.
    let body = json!({ "old": PASSWORD, "new": PASSWORD });
    let answer = send(&house, Method::POST, "/api/v1/password", Some(&manager), Some(body)).await;
    assert!(is_problem(&answer, StatusCode::FORBIDDEN));
}

#[tokio::test]
async fn a_user_changes_the_own_password_and_keeps_the_session() {
    let house = House::closed().await;
    user(&house, TenantKey::MAIN, "anna", Role::Viewer).await;
    let (here, there) = (log_in(&house, "anna").await, log_in(&house, "anna").await);
    let change = async |old: &str, new: &str| {
        let body = json!({ "old": old, "new": new });
        send(&house, Method::POST, "/api/v1/password", Some(&here), Some(body)).await.status
    };
    assert_eq!(change("not it at all", "another one of hers").await, StatusCode::FORBIDDEN);
    assert_eq!(change(PASSWORD, "anna").await, StatusCode::BAD_REQUEST);
    assert_eq!(change(PASSWORD, "another one of hers").await, StatusCode::NO_CONTENT);
    let me = async |who| send(&house, Method::GET, "/api/v1/me", Some(who), None).await.status;
    assert_eq!((me(&here).await, me(&there).await), (StatusCode::OK, StatusCode::UNAUTHORIZED));
    assert_eq!(try_log_in(&house, "anna", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
}
