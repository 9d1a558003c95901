//! The other side: one or two real servers on one SQLite file, entered by the router that stands
//! behind their TLS, and the file itself, which can be copied and put back. What the servers said
//! they did is written down beside it, and put back with it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use forebay_agent::uplink::state::Reply;
use forebay_config::server::Store as StoreConfig;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::SyncAnswer;
use forebay_server::identity::Authority;
use forebay_server::ingest::{self, Committer, Ingest, Outage, Parts};
use forebay_server::listener::Peer;
use forebay_server::live::Feed;
use forebay_server::store::{self, FaultKind, FaultRow, LedgerRow, NewToken, Store};
use forebay_server::telemetry::Telemetry;
use forebay_server::watchdog::Progress;
use prost::Message;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// All gateways show this one certificate: they are one, or copies of one.
const CERTIFICATE: [u8; 32] = [7; 32];
const DAY: i64 = 86_400_000_000;

/// Servers and their file.
pub struct House {
    folder: TempDir,
    servers: Vec<Server>,
    /// What the database must hold by what the servers said.
    pub said: Said,
    copies: u64,
}

struct Server {
    router: Router,
    store: Arc<dyn Store>,
    commit: JoinHandle<()>,
}

/// What the servers said they did, as far as the database remembers it.
#[derive(Clone, Default)]
pub struct Said {
    /// Batches stored as readings, by their number.
    pub stored: HashSet<usize>,
    /// Batches set aside.
    pub aside: HashSet<usize>,
    /// Which batches came under a sequence.
    pub arrived: HashMap<(Epoch, u64), HashSet<usize>>,
    pub epochs: HashSet<Epoch>,
    /// The openings that were told, each with the highest sequence its epoch had here before.
    pub heard: HashMap<Vec<u8>, u64>,
    /// The branch of the last delivery.
    pub current: Option<(Epoch, u32)>,
    /// Of each branch: the backlog in its last report, and the readings that came to its epoch since.
    pub told: HashMap<(Epoch, u32), (u64, u64)>,
}

/// The database as it was.
#[derive(Clone)]
pub struct Copy {
    file: PathBuf,
    said: Said,
}

/// A row of readings, or of a batch set aside.
pub struct Row {
    pub value: i64,
    /// Fork and name of the point; nothing of what was set aside.
    pub point: Option<(u32, String)>,
}

impl House {
    /// A new database, and a gateway that may come.
    pub async fn build(servers: u64) -> Result<Self> {
        // In memory if there is such a place: every commit is synced, and disks have families of their own.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory)? } else { TempDir::new()? };
        let mut house = Self { folder, servers: Vec::new(), said: Said::default(), copies: 0 };
        house.open(servers).await?;
        let now = wall_micros();
        let secret_hash = [1; 32];
        let token = NewToken {
            secret_hash,
            expires: now + DAY,
            uses: 1,
            note: String::new(),
            approval: false,
            created: now,
        };
        house.servers[0].store.add_token(token).await?;
        let joined = house.servers[0].store.join(secret_hash, "t", "gateway", CERTIFICATE, now + DAY, now);
        ensure!(joined.await?.1.is_some(), "the gateway may not join");
        Ok(house)
    }

    async fn open(&mut self, servers: u64) -> Result<()> {
        for _ in 0..servers {
            self.servers.push(Server::start(&self.file()).await?);
        }
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("forebay.db")
    }

    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// A request, and what the uplink would make of the answer.
    pub async fn sync(&self, server: usize, body: Bytes) -> Result<Reply> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/v1/batches".parse()?;
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        request.extensions_mut().insert(Peer { address, certificate: Some(CERTIFICATE) });
        let server = self.servers.get(server).context("no such server")?;
        let (head, body) = server.router.clone().oneshot(request).await?.into_parts();
        let body = to_bytes(body, usize::MAX).await?;
        Ok(match head.status {
            StatusCode::OK => Reply::Answer(SyncAnswer::decode(body)?),
            StatusCode::CONFLICT => match SyncAnswer::decode(body)? {
                SyncAnswer { greet: true, .. } => Reply::Stranger,
                answer => Reply::Lacking(answer),
            },
            status => Reply::Strange(format!("{status}: {}", String::from_utf8_lossy(&body))),
        })
    }

    /// All servers stop and start again.
    pub async fn restart(&mut self) -> Result<()> {
        let servers = self.stop().await?;
        self.open(servers).await
    }

    async fn stop(&mut self) -> Result<u64> {
        let servers = self.servers.len() as u64;
        for Server { router, store, commit } in self.servers.drain(..) {
            // With the router goes the last way to the committer, and with that the store.
            drop((router, store));
            commit.await?;
        }
        Ok(servers)
    }

    /// A backup of the database.
    pub fn back_up(&mut self) -> Result<Copy> {
        let sql = self.sql()?;
        sql.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))?;
        drop(sql);
        self.copies += 1;
        let file = self.folder.path().join(format!("copy-{}", self.copies));
        // Nobody writes meanwhile.
        fs::copy(self.file(), &file)?;
        Ok(Copy { file, said: self.said.clone() })
    }

    /// The servers stop, the database is put back, the servers start.
    pub async fn put_back(&mut self, copy: &Copy) -> Result<()> {
        let servers = self.stop().await?;
        for end in ["", "-wal", "-shm"] {
            let file = self.folder.path().join(format!("forebay.db{end}"));
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
        fs::copy(&copy.file, self.file())?;
        self.said = copy.said.clone();
        self.open(servers).await
    }

    /// What people should know, or should have known.
    pub async fn faults(&self) -> Result<Vec<FaultRow>> {
        Ok(self.servers[0].store.faults(None, 10_000).await?)
    }

    /// Does such a fault stand, of the epoch if one is named?
    pub async fn stands(&self, kind: FaultKind, epoch: Epoch) -> Result<bool> {
        let subject = epoch.to_string();
        let faults = self.faults().await?;
        Ok(faults.iter().any(|row| {
            row.over.is_none() && row.fault.kind == kind && row.fault.subject.starts_with(&subject)
        }))
    }

    pub async fn ledgers(&self) -> Result<Vec<LedgerRow>> {
        Ok(self.servers[0].store.ledgers(None).await?)
    }

    fn sql(&self) -> Result<Connection> {
        Ok(Connection::open(self.file())?)
    }

    /// Counts of the gap records of an epoch for this reason.
    pub fn gaps(&self, epoch: Epoch, reason: i32) -> Result<Vec<u64>> {
        let sql = self.sql()?;
        let mut find = sql
            .prepare("select count from gaps join epochs using (epoch_key) where epoch = ? and reason = ?")?;
        let counts = find.query_map((epoch.0, reason), |row| row.get::<_, i64>(0))?;
        counts.map(|count| Ok(count? as u64)).collect()
    }

    /// Device, reason and count of the gap records that gateways made in an epoch.
    pub fn gap_records(&self, epoch: Epoch) -> Result<Vec<(String, i32, u64)>> {
        let sql = self.sql()?;
        let mut find = sql.prepare(
            "select device, reason, count from gaps join epochs using (epoch_key) where epoch = ? and number > 0",
        )?;
        let found =
            find.query_map([epoch.0], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)? as u64)))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Everything that is kept.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let sql = self.sql()?;
        let mut rows = Vec::new();
        for table in ["readings", "readings_quarantine"] {
            let mut find =
                sql.prepare(&format!("select value, fork, name from {table} join points using (point)"))?;
            let found = find.query_map([], |row| {
                Ok(Row { value: row.get(0)?, point: Some((row.get(1)?, row.get(2)?)) })
            })?;
            for row in found {
                rows.push(row?);
            }
        }
        let mut find = sql.prepare("select bytes from set_aside")?;
        for bytes in find.query_map([], |row| row.get::<_, Vec<u8>>(0))? {
            let lines = String::from_utf8(bytes?).context("what was set aside is in lines")?;
            for line in lines.lines() {
                let value = line.rsplit('\t').next().context("a line has a value")?.parse()?;
                rows.push(Row { value, point: None });
            }
        }
        Ok(rows)
    }
}

impl Server {
    async fn start(file: &Path) -> Result<Self> {
        let store = store::open(&StoreConfig::Sqlite { path: file.into() }).await?;
        let telemetry = Arc::new(Telemetry::new());
        let outage = Arc::new(Outage::new(telemetry.clone()));
        let (committer, commit) =
            Committer::new(store.clone(), outage.clone(), telemetry.clone(), Progress::default());
        let ingest = Ingest::new(Parts {
            store: store.clone(),
            authority: authority()?,
            outage,
            committer,
            feed: Feed::new(),
            telemetry,
            max_request: ByteSize::mib(1),
            approval: false,
        });
        Ok(Self { router: ingest::router(ingest), store, commit: tokio::spawn(commit) })
    }
}

/// Nobody joins by it: one is enough for all.
fn authority() -> Result<Arc<Authority>> {
    static AUTHORITY: OnceLock<Arc<Authority>> = OnceLock::new();
    if let Some(authority) = AUTHORITY.get() {
        return Ok(authority.clone());
    }
    let folder = tempfile::tempdir()?;
    let authority = Arc::new(Authority::open(folder.path())?);
    Ok(AUTHORITY.get_or_init(|| authority).clone())
}
