//! The way back. Nothing is deleted: what stood there before is renamed.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use forebay_config::server::{Server, Store};
use forebay_protocols::private_files;

use super::{CA, DATABASE, Manifest, aside, check, sync_folder};
use crate::identity::{self, Authority};

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// What was restored.
    pub manifest: Manifest,
    /// What stood there before, under its new names.
    pub moved: Vec<PathBuf>,
    /// The CA that was there is newer than the backup's, and stays.
    pub kept_ca: bool,
}

/// Puts the backup in `from` in the place of what `config` names. The server must not run.
pub fn restore(config: &Server, from: &Path, replace: bool) -> Result<Restored> {
    let manifest = check(from)?;
    let kind = match &config.store {
        Store::Sqlite { .. } => "sqlite",
        Store::Postgres { .. } => "postgres",
    };
    ensure!(
        manifest.store == kind,
        "the backup is of a server on {}, and `[store]` names {kind}: change the configuration",
        manifest.store
    );
    for address in [config.sync.listen, config.web.listen] {
        is_free(address)?;
    }
    identity::make_state_folder(&config.state_dir)?;
    let mut moved = Vec::new();
    if let Store::Sqlite { path } = &config.store {
        let old = beside(path);
        if old.iter().any(|path| path.exists()) && !replace {
            bail!("{} is there: use --replace, which keeps it under another name", path.display());
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        // The copy first: if the disk is too small for it, nothing has changed.
        let copy = path.with_extension("restored");
        copy_private(&from.join(DATABASE), &copy)?;
        let new_name = aside(path);
        for (old, new) in old.iter().zip(beside(&new_name)) {
            if old.exists() {
                fs::rename(old, &new).with_context(|| format!("rename {}", old.display()))?;
                moved.push(new);
            }
        }
        fs::rename(&copy, path).with_context(|| format!("name it {}", path.display()))?;
        sync_folder(Some(folder))?;
    }
    let kept_ca = restore_ca(config, from, &manifest, &mut moved)?;
    Ok(Restored { manifest, moved, kept_ca })
}

/// True if the one that is there stays: gateways may trust it already, and it trusts the backup's.
fn restore_ca(config: &Server, from: &Path, manifest: &Manifest, moved: &mut Vec<PathBuf>) -> Result<bool> {
    let folder = config.state_dir.join("ca");
    let path = folder.join(CA);
    let pem = fs::read(from.join(CA)).context("read the backup's CA")?;
    if path.exists() {
        if fs::read(&path).is_ok_and(|there| there == pem) {
            return Ok(false);
        }
        if Authority::open(&config.state_dir).is_ok_and(|there| there.generation() > manifest.ca_generation) {
            return Ok(true);
        }
        let new = aside(&path);
        fs::rename(&path, &new).with_context(|| format!("rename {}", path.display()))?;
        moved.push(new);
    }
    private_files::private_folder(&folder)?;
    private_files::replace(&path, &pem, 0o600).context("write the CA")?;
    Authority::open(&config.state_dir).context("use the restored CA")?;
    Ok(false)
}

/// The file and what SQLite keeps beside it.
fn beside(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

fn copy_private(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut into = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .with_context(|| format!("write {}", to.display()))?;
    let mut source = fs::File::open(from).with_context(|| format!("read {}", from.display()))?;
    std::io::copy(&mut source, &mut into).with_context(|| format!("copy to {}", to.display()))?;
    into.sync_all().context("make the copy durable")
}

/// A server that runs holds its ports.
fn is_free(address: SocketAddr) -> Result<()> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("something listens on {address}: stop the server first (`systemctl stop forebay-server`)")
        }
        _ => Ok(()),
    }
}
