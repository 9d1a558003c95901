//! Ingest as agents meet it: real sockets, real TLS, real certificates; only the database is a
//! small one in memory, so that it can go away on command.

mod batches;
pub(crate) mod memory;
mod no_alarms;
mod peers;

use std::time::Duration;

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::{self, SyncRequest};

use super::*;
use crate::listener::Limits;
use batches::batch;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::tls;
use peers::{Gateway, Plant};

const EPOCH: Epoch = Epoch([5; 16]);

fn entry(point: u32) -> wire::DictionaryEntry {
    wire::DictionaryEntry { point, device: "boiler".into(), name: format!("t{point}"), ..Default::default() }
}

/// A request with the dictionary for point 1 and these batches.
fn request(batches: impl IntoIterator<Item = Bytes>) -> SyncRequest {
    SyncRequest {
        epoch: Bytes::copy_from_slice(&EPOCH.0),
        dictionary: vec![entry(1)],
        batches: batches.into_iter().map(|batch| wire::SentBatch { batch, ..Default::default() }).collect(),
        ..Default::default()
    }
}

fn verdicts(answer: &SyncAnswer) -> Vec<(u64, Verdict)> {
    answer.outcomes.iter().map(|outcome| (outcome.sequence, outcome.verdict())).collect()
}

#[tokio::test]
async fn a_gateway_joins_and_its_batches_flow() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let first =
        gateway.sync(&request([batch(EPOCH, 1, &[(1, 10)]), batch(EPOCH, 2, &[(1, 20)])])).await.answer();
    assert_eq!(verdicts(&first), [(1, Verdict::Committed), (2, Verdict::Committed)]);
    assert_eq!((first.dictionary_revision, first.max_request_bytes), (1, 64 << 10));
    assert!(first.server_time_us > tls::EARLIEST_TIME * 1_000_000);
    let again = gateway.sync(&request([batch(EPOCH, 2, &[(1, 20)])])).await.answer();
    assert_eq!(verdicts(&again), [(2, Verdict::Duplicate)]);
    assert_eq!(plant.store.readings(), 2);
    plant.stop().await;
}

#[tokio::test]
async fn a_heartbeat_is_answered_with_the_time() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let answer = gateway.sync(&SyncRequest { dictionary: vec![], ..request([]) }).await.answer();
    assert!(answer.outcomes.is_empty() && answer.server_time_us > 0);
    plant.stop().await;
}

#[tokio::test]
async fn http2_works_as_well() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let body = request([batch(EPOCH, 1, &[(1, 10)])]).encode_to_vec();
    assert_eq!(gateway.post_http2("/v1/batches", body.into()).await.status, 200);
    plant.stop().await;
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_in_words() {
    let plant = Plant::start().await;
    let mut gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    gateway.identity = plant.foreign_identity();
    let refused = gateway.sync(&request([])).await.problem();
    assert_eq!(refused.kind, Kind::UnknownCertificate);
    assert!(refused.detail.contains("join again"), "{refused}");
    plant.stop().await;
}

#[tokio::test]
async fn no_certificate_is_refused_in_words() {
    let plant = Plant::start().await;
    let refused = plant.stranger().post("/v1/batches", Bytes::new()).await.problem();
    assert_eq!(refused.kind, Kind::NoCertificate);
    assert!(refused.detail.contains("forebay-agent join"), "{refused}");
    plant.stop().await;
}

#[tokio::test]
async fn a_join_token_lets_one_gateway_in() {
    let plant = Plant::start().await;
    let token = plant.token(1, Duration::from_secs(60)).await;
    Gateway::join_with(&plant, &token, "north", "gw-1").await.unwrap();
    let second = Gateway::join_with(&plant, &token, "north", "gw-2").await.unwrap_err();
    assert_eq!(second.kind, Kind::UsedToken);
    plant.stop().await;
}

#[tokio::test]
async fn expired_and_unknown_tokens_and_odd_names_are_told_apart() {
    let plant = Plant::start().await;
    let expired = plant.token(1, Duration::ZERO).await;
    let unknown = TokenSecret::random().unwrap();
    let good = plant.token(1, Duration::from_secs(60)).await;
    let kind = async |token: &TokenSecret, gateway: &str| {
        Gateway::join_with(&plant, token, "north", gateway).await.err().map(|problem| problem.kind)
    };
    assert_eq!(kind(&expired, "gw").await, Some(Kind::ExpiredToken));
    assert_eq!(kind(&unknown, "gw").await, Some(Kind::UnknownToken));
    assert_eq!(kind(&good, "../gw").await, Some(Kind::BadName));
    let request = JoinRequest {
        secret: good.to_text(),
        site: "north".into(),
        gateway: "gw".into(),
        csr: Bytes::from_static(b"no request"),
        ..Default::default()
    };
    let nonsense = plant.stranger().post("/v1/join", request.encode_to_vec().into()).await.problem();
    assert_eq!(nonsense.kind, Kind::BadCertificateRequest);
    // None of these used the good token up.
    assert_eq!(kind(&good, "gw").await, None);
    plant.stop().await;
}

#[tokio::test]
async fn a_certificate_renews_itself_and_even_after_it_ran_out() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    plant.store.expire_certificates();
    assert_eq!(gateway.sync(&request([])).await.problem().kind, Kind::ExpiredCertificate);
    let agent = plant.store.fleet().await.unwrap()[0].key;
    let refusal = plant.feed.refusal(agent).expect("why it was sent away is known");
    assert!(refusal.words.contains("ran out"), "{}", refusal.words);
    let renewed = gateway.renew(&plant).await;
    let answer = renewed.sync(&request([batch(EPOCH, 1, &[(1, 10)])])).await.answer();
    assert_eq!(verdicts(&answer), [(1, Verdict::Committed)]);
    plant.stop().await;
}

#[tokio::test]
async fn a_database_that_is_away_is_503_and_forgotten_when_it_is_back() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let request = request([batch(EPOCH, 1, &[(1, 10)])]);
    plant.store.set_away(true);
    let said = gateway.sync(&request).await;
    assert_eq!(said.retry_after.as_deref(), Some("5"));
    let problem = said.problem();
    assert_eq!(problem.kind, Kind::StoreAway);
    assert!(!problem.detail.contains("secret-host"), "the database's own words stay in our log: {problem}");
    plant.store.set_away(false);
    assert_eq!(verdicts(&gateway.sync(&request).await.answer()), [(1, Verdict::Committed)]);
    plant.stop().await;
}

#[tokio::test]
async fn every_byte_of_a_body_is_in_the_books_once_whatever_became_of_its_request() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let length = |request: &SyncRequest| request.encoded_len() as u64;
    let good = request([batch(EPOCH, 1, &[(1, 10)])]);
    gateway.sync(&good).await.answer();
    assert_eq!(plant.store.bytes(), length(&good));
    // Refused before it is read, by the database, and for an opening that is not known.
    gateway.post("/v1/batches", Bytes::from_static(b"\xffno request")).await.problem();
    plant.store.set_away(true);
    gateway.sync(&good).await.problem();
    plant.store.set_away(false);
    let opening = wire::Opening { id: vec![7; 8], first: 1, ..Default::default() };
    let mut named = request([batch(EPOCH, 2, &[(1, 20)])]);
    named.opening = opening.id.clone().into();
    assert_eq!(gateway.sync(&named).await.status, 409);
    assert_eq!(plant.store.bytes(), length(&good), "nothing was committed since");
    let tried = 11 + length(&good) + length(&named);
    named.greeting = Some(wire::Greeting { openings: vec![opening] });
    gateway.sync(&named).await.answer();
    assert_eq!(plant.store.bytes(), length(&good) + tried + length(&named));
    plant.stop().await;
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_is_set_aside_and_does_not_block_the_rest() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let poison = batches::unreadable(EPOCH, 2);
    let foreign = batch(Epoch([6; 16]), 3, &[(1, 30)]);
    let beyond = batches::with_revision(EPOCH, 4, 1, &[(2, 40)]);
    let sent =
        request([batch(EPOCH, 1, &[(1, 10)]), poison.clone(), foreign, beyond, Bytes::from_static(b"\xff")]);
    let answer = gateway.sync(&sent).await.answer();
    let aside = Verdict::SetAside;
    assert_eq!(verdicts(&answer), [(1, Verdict::Committed), (2, aside), (3, aside), (4, aside), (0, aside)]);
    assert!(answer.outcomes[2].words.contains("epoch"), "{:?}", answer.outcomes[2]);
    assert_eq!(plant.store.set_aside(2).as_deref(), Some(&*poison), "its bytes are kept");
    plant.stop().await;
}

#[tokio::test]
async fn a_missing_dictionary_is_409_with_where_to_begin() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let lacking = SyncRequest { dictionary: vec![], ..request([batch(EPOCH, 1, &[(1, 10)])]) };
    let said = gateway.sync(&lacking).await;
    assert_eq!(said.status, 409);
    let answer = SyncAnswer::decode(said.body).unwrap();
    assert_eq!((answer.dictionary_revision, answer.outcomes.len()), (0, 0));
    assert_eq!(plant.store.readings(), 0);
    plant.stop().await;
}

#[tokio::test]
async fn an_unknown_opening_is_409_until_the_gateway_greets_and_then_hears_what_is_committed() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let opening = wire::Opening { id: vec![7; 8], first: 1, ..Default::default() };
    let mut sent = request([batch(EPOCH, 1, &[(1, 10)]), batch(EPOCH, 2, &[(1, 20)])]);
    sent.opening = opening.id.clone().into();
    let said = gateway.sync(&sent).await;
    assert_eq!(said.status, 409);
    let answer = SyncAnswer::decode(said.body).unwrap();
    assert!(answer.greet && answer.outcomes.is_empty() && answer.committed.is_empty(), "{answer:?}");
    assert_eq!(plant.store.readings(), 0);
    sent.greeting = Some(wire::Greeting { openings: vec![opening] });
    let answer = gateway.sync(&sent).await.answer();
    assert_eq!((answer.committed, answer.committed_is_whole, answer.greet), (vec![1, 2], true, false));
    assert_eq!(answer.batch_format, 2, "the agent may write what this server reads");
    sent.greeting = None;
    let answer = gateway.sync(&sent).await.answer();
    assert_eq!(verdicts(&answer), [(1, Verdict::Duplicate), (2, Verdict::Duplicate)]);
    assert!(answer.committed.is_empty() && answer.batch_format == 0, "only to a greeting");
    plant.stop().await;
}

#[tokio::test]
async fn a_gateway_that_knows_what_comes_is_not_told_its_type() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let sent = SyncRequest { untyped: true, ..request([batch(EPOCH, 1, &[(1, 10)])]) };
    let said = gateway.sync(&sent).await;
    assert_eq!((said.status, &*said.content_type), (200, ""));
    assert_eq!(verdicts(&SyncAnswer::decode(said.body).unwrap()), [(1, Verdict::Committed)]);
    // A refusal is told as ever.
    let unknown = SyncRequest { epoch: Bytes::new(), ..sent };
    assert_eq!(gateway.sync(&unknown).await.problem().kind, Kind::BadRequest);
    plant.stop().await;
}

#[tokio::test]
async fn a_request_too_large_is_413_whether_it_says_so_or_not() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let large = Bytes::from(vec![0; (64 << 10) + 1]);
    assert_eq!(gateway.post("/v1/batches", large.clone()).await.problem().kind, Kind::TooLarge);
    assert_eq!(gateway.post_chunked("/v1/batches", large.clone()).await.problem().kind, Kind::TooLarge);
    assert_eq!(gateway.post_http2("/v1/batches", large).await.problem().kind, Kind::TooLarge);
    plant.stop().await;
}

#[tokio::test]
async fn what_is_no_request_is_400() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let kind = async |body: Vec<u8>| gateway.post("/v1/batches", body.into()).await.problem().kind;
    assert_eq!(kind(b"\xff\xff\xff".to_vec()).await, Kind::BadRequest);
    assert_eq!(kind(SyncRequest::default().encode_to_vec()).await, Kind::BadRequest, "no epoch");
    let misnamed = SyncRequest { opening: vec![1, 2, 3].into(), ..request([]) };
    assert_eq!(kind(misnamed.encode_to_vec()).await, Kind::BadRequest, "an opening of 3 bytes");
    let holed = SyncRequest { dictionary: vec![entry(1), entry(3)], ..request([]) };
    assert_eq!(kind(holed.encode_to_vec()).await, Kind::BadRequest, "a hole in the dictionary");
    plant.stop().await;
}

#[tokio::test]
async fn times_are_corrected_and_a_gateway_that_does_not_know_the_time_is_told_it() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let report =
        wire::Report { boot_counter: 9, wall_us: 77_000_000, synchronised: false, ..Default::default() };
    let lost = batches::in_boot(EPOCH, 1, 9, false, &[(1, 10)]);
    let earlier_boot = batches::in_boot(EPOCH, 2, 8, false, &[(1, 11)]);
    let mut sent = SyncRequest { report: Some(report), ..request([lost, earlier_boot]) };
    let answer = gateway.sync(&sent).await.answer();
    assert_eq!(verdicts(&answer), [(1, Verdict::Retry), (2, Verdict::Committed)]);
    sent.batches[0].time_correction_us = 1_000;
    let answer = gateway.sync(&sent).await.answer();
    assert_eq!(verdicts(&answer), [(1, Verdict::Committed), (2, Verdict::Duplicate)]);
    assert!(plant.store.times().contains(&(batches::WALL_OFFSET + 10 + 1_000)), "{:?}", plant.store.times());
    plant.stop().await;
}

#[tokio::test]
async fn two_batches_of_one_number_in_one_request_reach_the_store_one_after_the_other() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let sent = request([batch(EPOCH, 1, &[(1, 10)]), batch(EPOCH, 1, &[(1, 11)])]);
    let answer = gateway.sync(&sent).await.answer();
    assert_eq!(verdicts(&answer), [(1, Verdict::Committed), (1, Verdict::Duplicate)]);
    plant.stop().await;
}

#[tokio::test]
async fn what_is_committed_is_shown_live_once() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let mut live = plant.feed.subscribe(None);
    let mut sent = request([batch(EPOCH, 1, &[(1, 10), (1, 20)])]);
    sent.batches[0].backlog = true;
    gateway.sync(&sent).await.answer();
    gateway.sync(&sent).await.answer();
    let shown = live.recv().await.unwrap();
    assert_eq!((shown.readings.len(), shown.backlog, shown.points.len()), (2, true, 1));
    assert!(live.try_recv().is_err(), "a duplicate is not shown again");
    plant.stop().await;
}

#[tokio::test]
async fn silent_peers_keep_nobody_waiting() {
    let plant = Plant::start().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(plant.address).await.unwrap());
    }
    // Far less than the handshake's time limit, which the silent ones are using up.
    let joined = timeout(Duration::from_secs(5), Gateway::join(&plant, "north", "gw-1")).await;
    joined.expect("nobody waits for the silent").unwrap();
    plant.stop().await;
}

#[tokio::test]
async fn peers_silent_before_or_after_their_handshake_are_let_go() {
    let plant = Plant::with_limits(Limits {
        handshake: Duration::from_millis(100),
        first_request: Duration::from_millis(100),
        ..Limits::default()
    })
    .await;
    let mut before = tokio::net::TcpStream::connect(plant.address).await.unwrap();
    let mut after_http1 = plant.stranger().connect(b"http/1.1").await;
    let mut after_http2 = plant.stranger().connect(b"h2").await;
    for silent in [&mut before as &mut dyn peers::Silent, &mut after_http1, &mut after_http2] {
        timeout(Duration::from_secs(5), silent.ended()).await.expect("the server closes");
    }
    plant.stop().await;
}

#[tokio::test]
async fn a_stranger_may_not_stay() {
    let plant = Plant::with_limits(Limits {
        first_request: Duration::from_millis(100),
        stranger: Duration::from_millis(100),
        ..Limits::default()
    })
    .await;
    let mut stranger = plant.stranger().connect(b"http/1.1").await;
    // A whole request, so that the connection is in use and would be kept for the next one.
    let request = b"POST /v1/batches HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stranger, request).await.unwrap();
    timeout(Duration::from_secs(5), peers::Silent::ended(&mut stranger)).await.expect("the server closes");
    plant.stop().await;
}

#[tokio::test]
async fn a_request_under_way_is_answered_when_the_server_stops() {
    let plant = Plant::start().await;
    let gateway = Gateway::join(&plant, "north", "gw-1").await.unwrap();
    let gate = plant.store.hold_ingest();
    let sent = request([batch(EPOCH, 1, &[(1, 10)])]);
    let asking = tokio::spawn(async move { gateway.sync(&sent).await });
    plant.store.ingest_reached().await;
    let stopping = tokio::spawn(plant.stop());
    tokio::task::yield_now().await;
    drop(gate);
    assert_eq!(verdicts(&asking.await.unwrap().answer()), [(1, Verdict::Committed)]);
    stopping.await.unwrap();
}
