//! A backup in a folder: the database as it was at one moment, taken while the server runs, the CA,
//! and a manifest by which a restore knows that all of it is whole.
//!
//! ```text
//! FOLDER/manifest.json   format, version, time, CA, sums
//! FOLDER/ca.pem          the CA with its key (0600)
//! FOLDER/forebay.db      the SQLite file; PostgreSQL has pg_dump for that
//! ```
//! What agents sent after the backup they send again when they meet the restored server: each keeps
//! what it brought last (`buffer.tail`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use forebay_config::server::{Server, Store};
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::hexadecimal::Hexadecimal;
use forebay_protocols::private_files;
use ring::digest::{Context as Digest, SHA256};
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::identity::Authority;

pub(crate) mod restore;

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const CA: &str = "ca.pem";
const DATABASE: &str = "forebay.db";
/// Room to leave beside the copy.
const SPARE: u64 = 64 << 20;

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Of the server that made it.
    pub version: String,
    /// When, in microseconds since 1970.
    pub made_us: i64,
    /// `sqlite` or `postgres`.
    pub store: String,
    /// SHA-256 of the CA's certificate, in hex.
    pub ca_pin: String,
    /// Of the CA.
    pub ca_generation: u32,
    /// Each file beside the manifest.
    pub files: Vec<Kept>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256, in hex.
    pub sha256: String,
}

/// Makes a backup in the folder `to`, which must not be there yet. It is there when it is whole, and
/// not before.
pub fn make(config: &Server, to: &Path) -> Result<Manifest> {
    ensure!(!to.exists(), "{} is there already: give a folder that is not", to.display());
    let name = to.file_name().context("the path names no folder")?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(".partial");
    let partial = to.with_file_name(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}, left behind", partial.display()))?;
    }
    let outcome = fill(config, &partial).and_then(|manifest| {
        fs::rename(&partial, to).with_context(|| format!("name it {}", to.display()))?;
        sync_folder(to.parent())?;
        Ok(manifest)
    });
    if outcome.is_err() {
        // What could not be finished would be taken for a backup.
        let _ = fs::remove_dir_all(&partial);
    }
    outcome
}

fn fill(config: &Server, folder: &Path) -> Result<Manifest> {
    private_files::private_folder(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut files = Vec::new();
    let store = match &config.store {
        Store::Sqlite { path } => {
            let copy = folder.join(DATABASE);
            copy_database(path, &copy)?;
            files.push(kept(folder, DATABASE)?);
            "sqlite"
        }
        Store::Postgres { .. } => "postgres",
    };
    // After the database: a CA newer than it does no harm, an older one would.
    let authority = Authority::open(&config.state_dir)?;
    let pem = fs::read(config.state_dir.join("ca").join(CA)).context("read the CA")?;
    private_files::replace(&folder.join(CA), &pem, 0o600).context("write the CA")?;
    files.push(kept(folder, CA)?);
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        made_us: wall_micros(),
        store: store.into(),
        ca_pin: Hexadecimal(&authority.pin()).to_string(),
        ca_generation: authority.generation(),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest)?;
    private_files::replace(&folder.join(MANIFEST), &text, 0o600).context("write the manifest")?;
    Ok(manifest)
}

/// The database as it is at one moment, others writing meanwhile, as one file without a log beside it.
fn copy_database(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::metadata(from).with_context(|| format!("look at {}", from.display()))?.len();
    let room = rustix::fs::statvfs(to.parent().unwrap_or(Path::new("."))).context("ask for free room")?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    ensure!(
        free > bytes + SPARE,
        "the database has {bytes} bytes and there is room for {free}: take another disk"
    );
    // Made here, so that nobody else may read it; SQLite writes into an empty file.
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create_new(true).mode(0o600).open(to).context("make the copy")?;
    let database = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .with_context(|| format!("open {}", from.display()))?;
    database.busy_timeout(std::time::Duration::from_secs(30))?;
    let name = to.to_str().context("the folder's name is not text")?;
    database.execute("vacuum into ?", [name]).context("copy the database")?;
    File::open(to)?.sync_all().context("make the copy durable")?;
    check_database(to).context("the copy just made is not whole")
}

/// Is this a whole database of ours, of a version we know?
fn check_database(path: &Path) -> Result<()> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let verdict: String = database.query_row("pragma quick_check(1)", [], |row| row.get(0))?;
    ensure!(verdict == "ok", "SQLite says: {verdict}");
    let schema: i64 = database
        .query_row("select max(version) from forebay_schema", [], |row| row.get(0))
        .context("read its version")?;
    let newest = i64::from(crate::store::newest_sqlite_schema());
    ensure!(
        schema <= newest,
        "its tables are of version {schema}, made by a newer server; this one knows {newest}: update it first"
    );
    Ok(())
}

fn kept(folder: &Path, name: &str) -> Result<Kept> {
    let path = folder.join(name);
    let (bytes, sha256) = sum(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(Kept { name: name.into(), bytes, sha256 })
}

fn sum(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut digest, mut bytes, mut piece) = (Digest::new(&SHA256), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut piece)?;
        let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
        digest.update(read);
        bytes += read.len() as u64;
    }
    Ok((bytes, Hexadecimal(digest.finish().as_ref()).to_string()))
}

fn sync_folder(folder: Option<&Path>) -> io::Result<()> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads the manifest and holds every file against it.
pub fn check(folder: &Path) -> Result<Manifest> {
    let text = fs::read(folder.join(MANIFEST))
        .with_context(|| format!("{} holds no whole backup: read its {MANIFEST}", folder.display()))?;
    let manifest: Manifest = serde_json::from_slice(&text).context("the manifest is damaged")?;
    ensure!(manifest.format == FORMAT, "its format is {}; update this server", manifest.format);
    for Kept { name, bytes, sha256 } in &manifest.files {
        ensure!([CA, DATABASE].contains(&name.as_str()), "{name} is no part of a backup");
        let (found, sum) = sum(&folder.join(name)).with_context(|| format!("read {name} of the backup"))?;
        if (found, &sum) != (*bytes, sha256) {
            bail!(
                "{name} of the backup is damaged ({found} of {bytes} bytes, or others): take another backup"
            );
        }
    }
    if manifest.files.iter().any(|file| file.name == DATABASE) {
        check_database(&folder.join(DATABASE)).context("the backup's database cannot be used")?;
    }
    Ok(manifest)
}

/// `PATH.before-restore-1`, `-2` …: a name that is free.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".before-restore-");
    for number in 1u32.. {
        let mut full = name.clone();
        full.push(number.to_string());
        if !Path::new(&full).exists() {
            return full.into();
        }
    }
    name.into()
}
