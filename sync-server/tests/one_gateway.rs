//! One gateway's way through the whole server, with the real codec and a real SQLite file: a join
//! string is made, a gateway joins with it, its batches are in the database, once.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must stop there")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::agent::Log;
use forebay_config::server::{Server, Store as StoreConfig, Sync, Web};
use forebay_protocols::boot_time::{BootTime, wall_micros, wall_offset_micros};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Epoch, Head, Sequence};
use forebay_protocols::sync::join::{JoinString, TokenSecret};
use forebay_protocols::sync::tls::{self, FreshKey, Identity};
use forebay_protocols::sync::wire::{self, sync_answer::Verdict};
use forebay_server::app::App;
use forebay_server::store::{self, FaultKind, NewToken, Query, Store};
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const EPOCH: Epoch = Epoch([42; 16]);

fn config(state: &Path) -> Server {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Server {
        state_dir: state.to_owned(),
        store: StoreConfig::Sqlite { path: state.join("forebay.db") },
        sync: Sync { listen, ..Sync::default() },
        web: Web { listen, ..Web::default() },
        retention: Default::default(),
        alarms: Default::default(),
        access: Default::default(),
        log: Log::default(),
    }
}

async fn post(tls: Arc<ClientConfig>, server: &str, path: &str, message: &impl Message) -> (u16, Bytes) {
    let tcp = TcpStream::connect(server).await.unwrap();
    let stream = TlsConnector::from(tls).connect(tls::server_name(server).unwrap(), tcp).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let body = Full::new(Bytes::from(message.encode_to_vec()));
    let request = Request::post(path).header(header::HOST, server).body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let said = (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes());
    connection.abort();
    said
}

/// A plain HTTP/1.1 configuration for this test's client.
fn http1(tls: Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut tls = ClientConfig::clone(&tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(tls)
}

async fn join(string: &JoinString) -> Identity {
    let key = FreshKey::generate().unwrap();
    let request = wire::JoinRequest {
        secret: string.secret.to_text(),
        site: "north".into(),
        gateway: "gw-1".into(),
        csr: key.request("north/gw-1").unwrap().into(),
        version: "test".into(),
    };
    let tls = tls::pinned_client_config(string.ca_pin, tls::EARLIEST_TIME).unwrap();
    let (status, body) = post(tls, &string.address, "/v1/join", &request).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let answer = wire::JoinAnswer::decode(body).unwrap();
    let mut chain: Vec<_> = answer.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let ca = chain.pop().unwrap();
    Identity::new(string.address.clone(), ca, chain, key.into_der())
}

/// Ten readings of one point, a second apart, the newest of now.
fn batch(sequence: u64) -> Bytes {
    batch_at(sequence, BootTime::now().0)
}

/// The same of another moment of boot time.
fn batch_at(sequence: u64, now: i64) -> Bytes {
    let mut readings: Vec<Reading> = (0..10)
        .map(|n| Reading {
            point: PointId(1),
            stamp: Stamp::boot(BootTime(now - n * 1_000_000)),
            value: Some(Value::Float(20.5 + n as f64)),
            quality: Quality::Good,
        })
        .collect();
    let boot = Boot { counter: 1, id: [1; 8], wall_offset_us: wall_offset_micros(), synchronised: true };
    Encoder::new().encode(&Head { epoch: EPOCH, sequence: Sequence(sequence), boot }, &mut readings).bytes
}

fn request(sequences: &[u64]) -> wire::SyncRequest {
    let point = Point {
        device: "boiler".into(),
        name: "temperature".into(),
        unit: "°C".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Float,
    };
    wire::SyncRequest {
        epoch: Bytes::copy_from_slice(&EPOCH.0),
        dictionary: vec![wire::DictionaryEntry::new(PointId(1), &point)],
        batches: sequences
            .iter()
            .map(|sequence| wire::SentBatch { batch: batch(*sequence), ..Default::default() })
            .collect(),
        report: Some(wire::Report { version: "test".into(), wall_us: wall_micros(), ..Default::default() }),
        ..Default::default()
    }
}

async fn sync(identity: &Identity, request: &wire::SyncRequest) -> Vec<(u64, Verdict)> {
    let answer = answer(identity, request, 200).await;
    answer.outcomes.iter().map(|outcome| (outcome.sequence, outcome.verdict())).collect()
}

async fn answer(identity: &Identity, request: &wire::SyncRequest, expected: u16) -> wire::SyncAnswer {
    let tls = http1(tls::client_config(identity, tls::EARLIEST_TIME).unwrap());
    let (status, body) = post(tls, &identity.server, "/v1/batches", request).await;
    assert_eq!(status, expected, "{}", String::from_utf8_lossy(&body));
    wire::SyncAnswer::decode(body).unwrap()
}

/// A server, and a join string for one gateway.
async fn server(config: Server, store: Arc<dyn Store>) -> (App, JoinString) {
    let app = App::build(config, store.clone()).await.unwrap();
    let secret = TokenSecret::random().unwrap();
    let (created, secret_hash) = (wall_micros(), secret.hash());
    let expires = created + 60_000_000;
    store
        .add_token(NewToken { secret_hash, expires, uses: 1, note: "".into(), approval: false, created })
        .await
        .unwrap();
    let address = app.sync_address().unwrap().to_string();
    let string = JoinString { address, ca_pin: app.authority().pin(), secret };
    (app, string)
}

async fn stored(store: &dyn Store) -> usize {
    let points = store.points(None, "", None, 10).await.unwrap();
    let points = points.iter().map(|point| point.key).collect();
    let now = wall_micros();
    let query = Query { points, from: now - 3_600_000_000, to: now + 60_000_000, step: 0, most: 1_000 };
    store.query(&query).await.unwrap().iter().map(|(_, rows)| rows.len()).sum()
}

async fn metrics(web: SocketAddr) -> String {
    let stream = TokioIo::new(TcpStream::connect(web).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("/metrics").header(header::HOST, "localhost").body(Full::<Bytes>::default());
    let body = sender.send_request(request.unwrap()).await.unwrap().into_body().collect().await.unwrap();
    connection.abort();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

/// The value of one of the server's metrics.
fn count(metrics: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix("forebay_server_")?.strip_prefix(name)?.trim().parse().ok();
    metrics.lines().find_map(value).expect(name)
}

/// Names are API: ours begin alike, those that only grow end alike, and each has its words.
fn assert_names_keep_to_the_house_rules(metrics: &str) {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: Vec<_> = types.collect();
    assert!(types.len() >= 8, "{metrics}");
    for (name, kind) in types {
        assert!(name.starts_with("forebay_server_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} has no words");
    }
}

#[tokio::test]
async fn a_gateways_readings_are_in_the_database_once() {
    tls::install_provider();
    let state = tempfile::tempdir().unwrap();
    let (config, database) = (config(state.path()), state.path().join("forebay.db"));
    let store = store::open(&config.store).await.unwrap();
    let (app, string) = server(config, store.clone()).await;
    let web = app.web_address().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));

    let identity = join(&string).await;
    let committed = |sequence| (sequence, Verdict::Committed);
    let first = request(&[1, 2]);
    assert_eq!(sync(&identity, &first).await, [committed(1), committed(2)]);
    // The answer was lost: sent again, together with something new.
    let mut again = request(&[3]);
    again.batches.insert(0, first.batches[1].clone());
    assert_eq!(sync(&identity, &again).await, [(2, Verdict::Duplicate), committed(3)]);
    assert_eq!(stored(&*store).await, 30);

    // Renewed: the new certificate works.
    let key = FreshKey::generate().unwrap();
    let renewal = wire::JoinRequest { csr: key.request("gw").unwrap().into(), ..Default::default() };
    let tls = http1(tls::client_config(&identity, tls::EARLIEST_TIME).unwrap());
    let (status, body) = post(tls, &identity.server, "/v1/renew", &renewal).await;
    assert_eq!(status, 200);
    let own = CertificateDer::from(wire::JoinAnswer::decode(body).unwrap().chain[0].to_vec());
    let renewed = Identity { chain: vec![own], key: key.into_der(), ..identity.clone() };
    assert_eq!(sync(&renewed, &request(&[4])).await, [committed(4)]);
    // So does the former one: had the answer been lost, the gateway would hold nothing else.
    assert_eq!(sync(&identity, &request(&[5])).await, [committed(5)]);

    // A clock of 1970, and a batch that flash has altered.
    let (lost, altered) = (batch_at(6, -wall_offset_micros()), Bytes::from_static(b"\xff"));
    let mut odd = request(&[]);
    odd.batches = [lost, altered].map(|batch| wire::SentBatch { batch, ..Default::default() }).into();
    assert_eq!(sync(&identity, &odd).await, [committed(6), (0, Verdict::SetAside)]);

    let fleet = store.fleet().await.unwrap();
    assert_eq!((fleet.len(), fleet[0].stored, fleet[0].gateway.as_str()), (1, 60, "gw-1"));
    let (metrics, file) = (metrics(web).await, rusqlite::Connection::open(database).unwrap());
    let rows = |table: &str| -> u64 {
        let sql = format!("select count(*) from {table}");
        u64::from(file.query_row(&sql, [], |row| row.get::<_, u32>(0)).unwrap())
    };
    assert_eq!((rows("readings"), rows("readings_quarantine"), rows("set_aside")), (50, 10, 1));
    assert_eq!(
        count(&metrics, "readings_stored_total"),
        rows("readings") + rows("readings_quarantine"),
        "{metrics}"
    );
    assert_eq!(count(&metrics, "readings_quarantined_total"), rows("readings_quarantine"));
    let verdict = |word: &str| count(&metrics, &format!("batches_total{{verdict=\"{word}\"}}"));
    assert_eq!(["committed", "duplicate", "set_aside", "retry"].map(verdict), [6, 1, rows("set_aside"), 0]);
    assert_eq!((count(&metrics, "joins_total"), count(&metrics, "store_ready")), (2, 1));
    assert_names_keep_to_the_house_rules(&metrics);
    stop.cancel();
    timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_copied_buffer_is_found_with_its_first_batch_and_both_histories_are_there() {
    tls::install_provider();
    let state = tempfile::tempdir().unwrap();
    let config = config(state.path());
    let store = store::open(&config.store).await.unwrap();
    let (app, string) = server(config, store.clone()).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));
    let identity = join(&string).await;
    let opening = |name: u8, first| wire::Opening {
        id: vec![name; 8],
        first,
        dictionary_revision: 1,
        ..Default::default()
    };
    let under = |name: u8, sequences: &[u64]| wire::SyncRequest {
        opening: vec![name; 8].into(),
        ..request(sequences)
    };
    let greeting = |openings: &[wire::Opening]| Some(wire::Greeting { openings: openings.to_vec() });

    let refused = answer(&identity, &under(1, &[1]), 409).await;
    assert!(refused.greet && refused.outcomes.is_empty());
    let first = wire::SyncRequest { greeting: greeting(&[opening(1, 1)]), ..under(1, &[1, 2]) };
    let said = answer(&identity, &first, 200).await;
    assert_eq!((said.committed, said.committed_is_whole, said.fork), (vec![1, 2], true, 0));
    // A second agent on a copy of the folder, from before batch 2; each appends batches of its own.
    let said = wire::SyncRequest { greeting: greeting(&[opening(1, 1), opening(2, 2)]), ..under(2, &[2]) };
    let said = answer(&identity, &said, 200).await;
    assert_eq!((said.fork, said.committed), (1, vec![1, 2]));
    assert_eq!(said.outcomes[0].verdict(), Verdict::Committed);
    assert_eq!(sync(&identity, &under(1, &[3])).await, [(3, Verdict::Committed)]);
    let faults = store.faults(None, 10).await.unwrap();
    assert_eq!(faults.iter().map(|row| row.fault.kind).collect::<Vec<_>>(), [FaultKind::Fork]);
    let mut forks = Vec::new();
    for point in store.points(None, "", None, 10).await.unwrap() {
        let now = wall_micros();
        let query = Query {
            points: vec![point.key],
            from: now - 3_600_000_000,
            to: now + 60_000_000,
            step: 0,
            most: 100,
        };
        forks.push((point.fork, store.query(&query).await.unwrap()[0].1.len()));
    }
    assert_eq!(forks, [(0, 30), (1, 10)]);
    stop.cancel();
    timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
}
