//! The whole server, started and stopped, with a database in memory.

use std::path::Path;

use forebay_config::agent::Log;
use forebay_config::server::{Store as StoreConfig, Sync, Web};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::*;
use crate::ingest::tests::memory::Memory;

fn config(state: &Path) -> Server {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Server {
        alarms: Default::default(),
        state_dir: state.to_owned(),
        store: StoreConfig::Sqlite { path: state.join("unused.db") },
        sync: Sync { listen, ..Sync::default() },
        web: Web { listen },
        retention: Default::default(),
        log: Log::default(),
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    connection.abort();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_server_starts_tells_how_it_is_and_stops() {
    let state = tempfile::tempdir().unwrap();
    let store = Arc::new(Memory::default());
    let app = App::build(config(state.path()), store.clone()).await.unwrap();
    let (sync, web) = (app.sync_address().unwrap(), app.web_address().unwrap());
    assert!(sync.port() != 0 && web.port() != 0 && sync != web);
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));
    assert_eq!(get(web, "/livez").await.0, 200);
    assert_eq!(get(web, "/readyz").await, (200, "ready: memory\n".into()));
    store.set_away(true);
    let (status, words) = get(web, "/readyz").await;
    assert_eq!(status, 503);
    assert!(words.contains("out of reach"), "{words}");
    assert_eq!(get(web, "/livez").await.0, 200, "alive without a database");
    let (status, metrics) = get(web, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("forebay_server_store_ready 0"), "{metrics}");
    assert!(metrics.contains("# HELP forebay_server_readings_stored_total"), "{metrics}");
    stop.cancel();
    timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_setting() {
    let state = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(state.path());
    config.sync.listen = taken.local_addr().unwrap();
    let refused = App::build(config, Arc::new(Memory::default())).await;
    let words = format!("{:#}", refused.err().unwrap());
    assert!(
        words.contains("sync.listen") && words.contains(&taken.local_addr().unwrap().to_string()),
        "{words}"
    );
}

#[tokio::test]
async fn a_task_that_ends_on_its_own_ends_the_server() {
    let stop = CancellationToken::new();
    let mut tasks = Tasks::default();
    let patient = stop.clone();
    tasks.add("patient one", async move { patient.cancelled().await });
    tasks.add("weak one", async {});
    let error = tasks.run(stop).await.unwrap_err();
    assert!(error.to_string().contains("weak one"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_at_start_is_waited_for() {
    let mut tries = 0;
    let open = || {
        tries += 1;
        let away = tries < 5;
        async move {
            let store: Arc<dyn Store> = Arc::new(Memory::default());
            if away { Err(StoreError::Away("not yet".into())) } else { Ok(store) }
        }
    };
    let stop = CancellationToken::new();
    assert!(wait_for_store(open, &stop).await.unwrap().is_some());
    assert_eq!(tries, 5);
    let refused = wait_for_store(|| async { Err(StoreError::Refused("no".into())) }, &stop);
    assert!(refused.await.is_err());
    stop.cancel();
    let stopped = wait_for_store(|| async { Err(StoreError::Away("never".into())) }, &stop);
    assert!(stopped.await.unwrap().is_none());
}

#[test]
fn gateways_are_told_an_address_they_can_reach() {
    let mut config = config(Path::new("/nowhere"));
    config.sync.listen = "0.0.0.0:8443".parse().unwrap();
    assert_eq!(address(&config), format!("{}:8443", hostname().unwrap()));
    config.sync.listen = "10.1.2.3:8443".parse().unwrap();
    assert_eq!(address(&config), "10.1.2.3:8443");
    config.sync.address = Some("plant.example:443".into());
    assert_eq!(address(&config), "plant.example:443");
}
