//! Databases go away and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_config::{server, units::Secret};
use forebay_protocols::sync::wire::sync_answer::Verdict;
use forebay_server::store::{self, StoreError};
use futures::future::{join, try_join_all};

use crate::place::{NOW, Place, SECOND, agent, batch, connect, delivery_of, float};

pub async fn what_was_acknowledged_is_there_after_a_restart(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let sent = delivery_of(agent, 1, vec![batch(1, vec![float(1, NOW, 1.0)])]);
    store.ingest(vec![sent.clone()]).await.unwrap();
    drop(store);
    let store = place.open().await;
    assert_eq!(store.ingest(vec![sent]).await.unwrap()[0].verdicts[0].1, Verdict::Duplicate);
    assert_eq!(store.points(None, "", None, 1).await.unwrap()[0].latest.as_ref().unwrap().time, NOW);
    store.ready().await.unwrap();
    let words = store.describe();
    assert!(words.starts_with("SQLite 3.") || words.contains("PostgreSQL 1"), "{words}");
}

pub async fn several_servers_start_at_once_on_an_empty_database(place: Arc<Place>) {
    let config = place.config();
    let stores = try_join_all((0..4).map(|_| store::open(&config))).await.unwrap();
    agent(&stores[0], "gate").await;
    assert_eq!(stores[3].fleet().await.unwrap().len(), 1);
}

/// Every connection of the place's database is cut, again and again, while readings come in. The test's
/// own connections are to another database.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_connection_loses_and_doubles_nothing() {
    Place::postgres().await.live(killed_again_and_again).await;
}

async fn killed_again_and_again(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let done = AtomicBool::new(false);
    let (server, database) = match &*place {
        Place::Postgres { server, database, .. } => (server, database),
        Place::Sqlite { .. } => unreachable!("made above"),
    };
    let killer = connect(server).await;
    let kill = async {
        let sql = format!(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity \
             where datname = '{database}' and application_name = 'forebay-server'"
        );
        let mut kills: i64 = 0;
        while !done.load(Ordering::Relaxed) {
            kills += killer.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0);
        }
        kills
    };
    let send = async {
        let (mut committed, mut away) = (0, 0);
        // Until it has been hit often enough to mean something.
        for sequence in 1..=2_000u64 {
            let readings = (0..50).map(|n| float(1, NOW + sequence as i64 * SECOND + n, n as f64)).collect();
            let sent = delivery_of(agent, 1, vec![batch(sequence, readings)]);
            loop {
                match store.ingest(vec![sent.clone()]).await {
                    Ok(_) => break,
                    Err(StoreError::Away(_)) => away += 1,
                    Err(error) => panic!("a cut connection is no refusal: {error}"),
                }
                assert!(away < 100_000, "it never came back");
                // The killer must not starve the sender: after many failures in a row let it rest.
                tokio::task::yield_now().await;
                if away % 20 == 0 {
                    done.store(true, Ordering::Relaxed);
                }
            }
            committed += 1;
            if done.load(Ordering::Relaxed) && committed >= 20 {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        (committed, away)
    };
    let (kills, (committed, away)) = join(kill, send).await;
    assert!(kills > 0 && away > 0, "{kills} connections cut, {away} calls failed");
    assert_eq!(place.number("select count(*) from readings").await, committed * 50);
    assert_eq!(store.fleet().await.unwrap()[0].stored, committed as u64 * 50);
    assert_eq!(place.committed().await, (1, committed));
}

#[tokio::test]
async fn a_postgres_that_is_not_there_is_away() {
    // A port that was free a moment ago, on which nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = Secret::new(format!("postgres://nobody:secret@127.0.0.1:{port}/nothing"));
    let error = store::open(&server::Store::Postgres { url, connections: 2 }).await.err().unwrap();
    assert!(matches!(error, StoreError::Away(_)), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_database_without_the_extension_gets_it_where_it_can_be_had() {
    let place = Place::postgres_from("template0").await;
    place
        .live(async |place| {
            let available = "select count(*) from pg_available_extensions where name = 'timescaledb'";
            let store = place.open().await;
            let available = place.number(available).await == 1;
            assert_eq!(store.describe().starts_with("TimescaleDB 2."), available, "{}", store.describe());
            if available {
                let made = "select count(*) from timescaledb_information.hypertables \
                            where hypertable_name = 'readings'";
                assert_eq!(place.number(made).await, 1);
                assert!(!store.describe().contains("plain"), "{}", store.describe());
            }
        })
        .await;
}
