//! A place for one test: a store on a database of its own, and a door to the database itself.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_config::{server, units::Secret};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Value};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_server::store::{self, AgentKey, Arrived, Content, Delivery, Micros, NewToken, Store, Timed};
use futures::FutureExt;
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// 2026-11-21T00:00:00Z: when the tests take place.
pub const NOW: Micros = 1_795_219_200_000_000;
/// A second.
pub const SECOND: Micros = 1_000_000;

/// Where one test happens.
pub enum Place {
    Sqlite { folder: TempDir },
    Postgres { server: String, database: String, user: Option<&'static str> },
}

/// Who cannot make an extension, and so has plain PostgreSQL.
const PLAIN: &str = "forebay_plain";

impl Place {
    pub fn sqlite() -> Arc<Self> {
        Arc::new(Self::Sqlite { folder: tempfile::tempdir().unwrap() })
    }

    /// A copy of the server's template, if it has one: making the extension anew is slow.
    pub async fn postgres() -> Arc<Self> {
        let template =
            "select datname::text from pg_database where datname = 'forebay_template' and datistemplate";
        let client = connect(&server_url()).await;
        let template = client.query_opt(template, &[]).await.unwrap();
        let template = template.map_or("template1".to_string(), |row| row.get(0));
        Self::postgres_from(&template).await
    }

    /// A copy of another database of the server.
    pub async fn postgres_from(template: &str) -> Arc<Self> {
        static TESTS: AtomicU64 = AtomicU64::new(1);
        let server = server_url();
        let number = TESTS.fetch_add(1, Ordering::Relaxed);
        let database = format!("forebay_test_{}_{number}", std::process::id());
        let client = connect(&server).await;
        // A test killed long ago may have had our process number.
        client.batch_execute(&format!("drop database if exists {database} with (force)")).await.unwrap();
        client.batch_execute(&format!("create database {database} template {template}")).await.unwrap();
        Arc::new(Self::Postgres { server, database, user: None })
    }

    /// A database that refuses its owner every extension: plain PostgreSQL, though the server has
    /// TimescaleDB.
    pub async fn plain_postgres() -> Arc<Self> {
        let place = Self::postgres_from("template0").await;
        let Self::Postgres { server, database, .. } = &*place else { return place };
        let client = connect(server).await;
        // Other tests make the role at the same moment.
        let role = format!(
            "do $$ begin create role {PLAIN} login; \
             exception when duplicate_object or unique_violation then null; end $$; \
             alter database {database} owner to {PLAIN}"
        );
        client.batch_execute(&role).await.unwrap();
        let refuse = "create function refuse() returns event_trigger language plpgsql as \
                      'begin raise exception ''no extensions here''; end'; \
                      create event trigger refuse on ddl_command_start when tag in ('CREATE EXTENSION') \
                      execute function refuse()";
        connect(&place.url()).await.batch_execute(refuse).await.unwrap();
        Arc::new(Self::Postgres { server: server.clone(), database: database.clone(), user: Some(PLAIN) })
    }

    /// Lets `test` happen, and takes the place away whatever came of it.
    pub async fn live<F: Future<Output = ()>>(self: Arc<Self>, test: impl FnOnce(Arc<Self>) -> F) {
        let outcome = AssertUnwindSafe(test(self.clone())).catch_unwind().await;
        if let Self::Postgres { server, database, .. } = &*self {
            let drop = format!("drop database if exists {database} with (force)");
            connect(server).await.batch_execute(&drop).await.unwrap();
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    }

    pub fn config(&self) -> server::Store {
        match self {
            Self::Sqlite { folder } => server::Store::Sqlite { path: folder.path().join("store/forebay.db") },
            Self::Postgres { .. } => server::Store::Postgres { url: Secret::new(self.url()), connections: 4 },
        }
    }

    /// The database's URL.
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite { .. } => String::new(),
            Self::Postgres { server, database, user } => {
                let (host, _) = server.rsplit_once('/').expect("a database URL has a path");
                match (user, host.rsplit_once('@')) {
                    (Some(user), Some((_, host))) => format!("postgres://{user}@{host}/{database}"),
                    _ => format!("{host}/{database}"),
                }
            }
        }
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        store::open(&self.config()).await.unwrap()
    }

    /// Statements behind the store's back.
    pub async fn sql(&self, sql: &str) {
        match self.config() {
            server::Store::Sqlite { path } => {
                rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap()
            }
            server::Store::Postgres { .. } => connect(&self.url()).await.batch_execute(sql).await.unwrap(),
        }
    }

    /// The one number a query yields.
    pub async fn number(&self, sql: &str) -> i64 {
        match self.config() {
            server::Store::Sqlite { path } => {
                rusqlite::Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
            }
            server::Store::Postgres { .. } => {
                connect(&self.url()).await.query_one(sql, &[]).await.unwrap().get(0)
            }
        }
    }

    /// Ranges in the one epoch there is, and how many sequences they hold.
    pub async fn committed(&self) -> (i64, i64) {
        match self.config() {
            server::Store::Sqlite { path } => {
                let read = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
                let connection = rusqlite::Connection::open(path).unwrap();
                let bytes = connection.query_row("select committed from epochs", [], read).unwrap();
                // Pairs of LEB128 numbers: the distance from the range before, and the length less one.
                let (mut numbers, mut number, mut shift) = (Vec::new(), 0i64, 0);
                for byte in bytes {
                    number |= i64::from(byte & 0x7f) << shift;
                    shift += 7;
                    if byte < 0x80 {
                        numbers.push(number);
                        (number, shift) = (0, 0);
                    }
                }
                let ranges = numbers.len() as i64 / 2;
                (ranges, numbers.iter().skip(1).step_by(2).map(|length| length + 1).sum())
            }
            server::Store::Postgres { .. } => {
                let sql = "select count(*), sum(upper(range) - lower(range))::bigint \
                           from epochs, unnest(committed) as range";
                let row = connect(&self.url()).await.query_one(sql, &[]).await.unwrap();
                (row.get(0), row.get(1))
            }
        }
    }
}

fn server_url() -> String {
    std::env::var("FOREBAY_TEST_DATABASE_URL").unwrap_or_else(|_| {
        panic!(
            "FOREBAY_TEST_DATABASE_URL is not set: run tests/run, or set it to what \
             `tests/timescale up DIR PORT` prints"
        )
    })
}

/// A connection whose task ends with it.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// An agent that has joined.
pub async fn agent(store: &Arc<dyn Store>, gateway: &str) -> AgentKey {
    let mut secret_hash = [0; 32];
    getrandom::fill(&mut secret_hash).unwrap();
    let token = NewToken {
        secret_hash,
        expires: NOW + SECOND,
        uses: 1,
        note: "test".into(),
        approval: false,
        created: NOW,
    };
    store.add_token(token).await.unwrap();
    let (_, agent) =
        store.join(secret_hash, "hall", gateway, secret_hash, NOW + 1_000 * SECOND, NOW).await.unwrap();
    agent.unwrap()
}

pub const EPOCH: Epoch = Epoch([7; 16]);

/// A delivery with nothing in it.
pub fn delivery(agent: AgentKey) -> Delivery {
    Delivery::empty(agent, EPOCH, NOW)
}

/// A delivery with the dictionary of `points` points (p1, p2 … of a boiler) and these batches.
pub fn delivery_of(agent: AgentKey, points: u32, batches: Vec<Arrived>) -> Delivery {
    let dictionary = (1..=points).map(|n| (PointId(n), point("boiler", &format!("p{n}")))).collect();
    Delivery { dictionary, batches, ..delivery(agent) }
}

pub fn point(device: &str, name: &str) -> Arc<Point> {
    Arc::new(Point {
        device: device.into(),
        name: name.into(),
        unit: "°C".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Float,
    })
}

pub fn batch(sequence: u64, readings: Vec<Timed>) -> Arrived {
    let highest = readings.iter().map(|reading| reading.point).max().unwrap_or(PointId(0));
    Arrived::plain(Sequence(sequence), highest, Content::Readings(Arc::new(readings)))
}

pub fn float(point: u32, time: Micros, value: f64) -> Timed {
    reading(point, time, Some(Value::Float(value)), Quality::Good)
}

pub fn reading(point: u32, time: Micros, value: Option<Value>, quality: Quality) -> Timed {
    Timed { point: PointId(point), time, value, quality }
}
