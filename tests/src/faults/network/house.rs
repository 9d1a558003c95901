//! The other side: servers of the real parts on one store, a rough road in front of them and, for
//! PostgreSQL, another one behind. Servers share one CA and one state directory.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use forebay_config::agent::Log;
use forebay_config::server::{Server as Config, Store as StoreConfig, Sync, Web};
use forebay_config::units::Secret;
use forebay_demo::dice::Dice;
use forebay_demo::postgres_road::PostgresRoad;
use forebay_demo::rough_road::RoughRoad;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::reading::Value;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::tls::{FreshKey, Identity};
use forebay_server::app::App;
use forebay_server::identity::Authority;
use forebay_server::store::{self, NewToken, Store, TokenVerdict};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::books::{Row, mark};
use super::{Harm, Place};
use crate::TestDatabase;

/// How often a store that breaks while it is opened is opened again.
const OPENINGS: u32 = 100;
const BETWEEN_OPENINGS: Duration = Duration::from_millis(50);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// One house.
pub struct House {
    state: tempfile::TempDir,
    store: StoreConfig,
    authority: Arc<Authority>,
    servers: Vec<Server>,
    road: RoughRoad,
    /// The database and the road to it.
    database: Option<(TestDatabase, PostgresRoad)>,
    stopped: u64,
}

/// A server that runs.
struct Server {
    address: SocketAddr,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    running: JoinHandle<Result<()>>,
}

impl House {
    /// Servers on a new store, and smooth roads.
    pub async fn build(place: Place, dice: &Dice) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let (store, database, servers) = match place {
            Place::Sqlite => (StoreConfig::Sqlite { path: state.path().join("forebay.db") }, None, 1),
            Place::Timescale => {
                let database = TestDatabase::create().await?;
                let (user, address, name) = parts(&database.url)?;
                // Each connection breaks at its first to third transaction with rows.
                let road = PostgresRoad::start(dice.part(2).throw(), address, 0..3).await?;
                let url = format!("postgres://{user}{}/{name}", road.address());
                (StoreConfig::Postgres { url: Secret::new(url), connections: 4 }, Some((database, road)), 2)
            }
        };
        let authority = Arc::new(Authority::open(state.path())?);
        let road = RoughRoad::start(dice.part(1).throw(), Vec::new()).await?;
        let mut house = Self { state, store, authority, servers: Vec::new(), road, database, stopped: 0 };
        for _ in 0..servers {
            let server = Server::start(house.state.path(), &house.store, house.road.address()).await?;
            house.servers.push(server);
        }
        house.lead();
        Ok(house)
    }

    /// An identity for a gateway, which reaches the servers over the road.
    pub async fn join(&self, site: &str, gateway: &str) -> Result<Identity> {
        let server = self.servers.first().context("a house has a server")?;
        let key = FreshKey::generate()?;
        let signed = self.authority.sign_agent(&key.request(gateway)?, site, gateway)?;
        let secret = TokenSecret::random()?;
        let (created, secret_hash) = (wall_micros(), secret.hash());
        let token = NewToken {
            secret_hash,
            expires: created + 60_000_000,
            uses: 1,
            note: String::new(),
            approval: false,
            created,
        };
        server.store.add_token(token).await?;
        let joining =
            server.store.join(secret_hash, site, gateway, signed.fingerprint, signed.valid_until, created);
        let (verdict, _) = joining.await?;
        ensure!(verdict == TokenVerdict::Valid, "{site}/{gateway} may not join: {verdict:?}");
        let mut chain: Vec<_> = signed.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let ca = chain.pop().context("the chain ends with the CA")?;
        Ok(Identity::new(self.road.address().to_string(), ca, chain, key.into_der()))
    }

    /// Faults begin.
    pub fn roughen(&self, harm: Harm) {
        if harm == Harm::Everywhere {
            self.road.roughen();
        }
        if let Some((_, road)) = &self.database {
            road.roughen();
        }
    }

    /// Faults end.
    pub fn mend(&self) {
        self.road.mend();
        if let Some((_, road)) = &self.database {
            road.mend();
        }
    }

    /// Faults so far.
    pub fn faults(&self) -> u64 {
        self.struck().map(|(_, count)| count).sum()
    }

    /// Faults so far, by kind.
    pub fn struck(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let database = self.database.iter().flat_map(|(_, road)| road.struck());
        self.road.struck().chain(database).chain([("server stopped", self.stopped)])
    }

    /// Ends one server in the middle of whatever it does, and starts another in its place.
    pub async fn stop_one_server(&mut self, dice: &mut Dice) -> Result<()> {
        let place = dice.within(0..self.servers.len() as u64) as usize;
        let ended = self.servers.swap_remove(place);
        self.lead();
        ended.kill().await?;
        self.stopped += 1;
        let server = Server::start(self.state.path(), &self.store, self.road.address()).await?;
        self.servers.push(server);
        self.lead();
        Ok(())
    }

    fn lead(&self) {
        self.road.lead_to(self.servers.iter().map(|server| server.address).collect());
    }

    /// Every reading in the store, those in quarantine included. Asked behind the servers' back.
    pub async fn rows(&self) -> Result<Vec<Row>> {
        match (&self.store, &self.database) {
            (StoreConfig::Sqlite { path }, _) => sqlite_rows(path),
            (_, Some((database, _))) => postgres_rows(&database.url).await,
            (_, None) => Err(anyhow!("PostgreSQL without a database")),
        }
    }

    /// How many lives of buffers the store knows.
    pub async fn epochs(&self) -> Result<u64> {
        let sql = "select count(*) from epochs";
        match (&self.store, &self.database) {
            (StoreConfig::Sqlite { path }, _) => {
                let count: i64 = rusqlite::Connection::open(path)?.query_row(sql, [], |row| row.get(0))?;
                Ok(count as u64)
            }
            (_, Some((database, _))) => {
                let rows = ask(&database.url, sql).await?;
                Ok(rows.first().context("a count is one row")?.try_get::<_, i64>(0)? as u64)
            }
            (_, None) => Err(anyhow!("PostgreSQL without a database")),
        }
    }

    /// Stops the servers in order and drops the database.
    pub async fn close(self) -> Result<()> {
        for server in self.servers {
            server.stop.cancel();
            tokio::time::timeout(STOPPED_WITHIN, server.running).await.context("a server hangs")???;
        }
        match self.database {
            Some((database, _)) => database.drop().await,
            None => Ok(()),
        }
    }
}

impl Server {
    async fn start(state: &Path, store: &StoreConfig, through: SocketAddr) -> Result<Self> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut openings = 0;
        let opened = loop {
            match store::open(store).await {
                Ok(opened) => break opened,
                Err(error) if openings >= OPENINGS => return Err(error).context("open the store"),
                Err(_) => openings += 1,
            }
            tokio::time::sleep(BETWEEN_OPENINGS).await;
        };
        let config = Config {
            alarms: Default::default(),
            state_dir: state.to_owned(),
            store: store.clone(),
            sync: Sync { listen, address: Some(through.to_string()), ..Sync::default() },
            web: Web { listen, ..Web::default() },
            retention: Default::default(),
            access: Default::default(),
            log: Log::default(),
        };
        let app = App::build(config, opened.clone()).await?;
        let (address, stop) = (app.sync_address()?, CancellationToken::new());
        let running = tokio::spawn(app.run(stop.clone()));
        Ok(Self { address, store: opened, stop, running })
    }

    /// Its tasks end wherever they are.
    async fn kill(self) -> Result<()> {
        self.running.abort();
        match self.running.await {
            Err(ended) if ended.is_cancelled() => Ok(()),
            Err(panicked) => Err(panicked).context("a server panicked"),
            Ok(outcome) => outcome.context("a server had ended by itself"),
        }
    }
}

/// The parts of `postgres://user@host:port/name`: with its `@`, the address, the name.
fn parts(url: &str) -> Result<(&str, SocketAddr, &str)> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let (server, name) = rest.and_then(|rest| rest.rsplit_once('/')).context("a database URL")?;
    let (user, host) = server.split_at(server.rfind('@').map_or(0, |at| at + 1));
    let address = std::net::ToSocketAddrs::to_socket_addrs(host)
        .with_context(|| format!("{host} is no host:port"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    Ok((user, address, name))
}

/// Columns of one reading, whichever table it stands in.
const EVERYTHING: &str = "select a.gateway, p.name, r.* from (TABLES) r \
                          join points p on p.point = r.point join agents a on a.agent = p.agent";

fn sqlite_rows(path: &Path) -> Result<Vec<Row>> {
    let tables = "select point, time, value from readings \
                  union all select point, time, value from readings_quarantine";
    let connection = rusqlite::Connection::open(path)?;
    let mut statement = connection.prepare(&EVERYTHING.replace("TABLES", tables))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        use rusqlite::types::ValueRef;
        let value = match row.get_ref(4)? {
            ValueRef::Null => None,
            ValueRef::Integer(integer) => Some(Value::Integer(integer)),
            ValueRef::Real(float) => Some(Value::Float(float)),
            ValueRef::Text(text) => Some(Value::Text(std::str::from_utf8(text)?.into())),
            ValueRef::Blob([boolean]) => Some(Value::Boolean(*boolean != 0)),
            ValueRef::Blob(bits) => Some(Value::Float(f64::from_be_bytes(bits.try_into()?))),
        };
        let (gateway, name): (String, String) = (row.get(0)?, row.get(1)?);
        found.push(Row {
            gateway: number(&gateway)?,
            point: number(&name)?,
            time: row.get(3)?,
            value: mark(value.as_ref()),
        });
    }
    Ok(found)
}

async fn postgres_rows(url: &str) -> Result<Vec<Row>> {
    let tables = "select point, (extract(epoch from time) * 1000000)::bigint, value, whole, state, text \
                  from readings \
                  union all select point, time_us, value, whole, state, text from readings_quarantine";
    let mut found = Vec::new();
    for row in ask(url, &EVERYTHING.replace("TABLES", tables)).await? {
        let float = row.try_get::<_, Option<f64>>(4)?.map(Value::Float);
        let integer = row.try_get::<_, Option<i64>>(5)?.map(Value::Integer);
        let boolean = row.try_get::<_, Option<bool>>(6)?.map(Value::Boolean);
        let text = row.try_get::<_, Option<&str>>(7)?.map(|text| Value::Text(text.into()));
        let value = float.or(integer).or(boolean).or(text);
        found.push(Row {
            gateway: number(row.try_get(0)?)?,
            point: number(row.try_get(1)?)?,
            time: row.try_get(3)?,
            value: mark(value.as_ref()),
        });
    }
    Ok(found)
}

async fn ask(url: &str, sql: &str) -> Result<Vec<tokio_postgres::Row>> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let rows = client.query(sql, &[]).await?;
    drop(client);
    connection.await??;
    Ok(rows)
}

/// The number in a name such as `g7`.
fn number(name: &str) -> Result<u32> {
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse().with_context(|| format!("{name} holds no number"))
}
