//! `forebay-server backup` and `restore`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use forebay_config::server::{Server, Store};

use crate::backup::{self, restore};

/// Where to.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// A folder that is not there yet. It will hold the CA's key: keep it as you keep passwords.
    folder: PathBuf,
}

/// Where from.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The folder that `backup` made.
    folder: PathBuf,
    /// Put it in the place of a database that is there; that one is kept under another name.
    #[arg(long)]
    replace: bool,
    /// Only look whether the backup is whole.
    #[arg(long)]
    check: bool,
}

impl Backup {
    pub(super) fn run(self, config: &Server) -> Result<()> {
        let manifest = backup::make(config, &self.folder)?;
        let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
        let folder = self.folder.display();
        let mut words = format!("{folder} holds the CA's key and {bytes} bytes in all.\n");
        if let Store::Postgres { .. } = &config.store {
            words.push_str(&format!(
                "READINGS ARE NOT IN IT. {}",
                dump_words("pg_dump --format=custom", &format!("--file={folder}/forebay.pgdump"))
            ));
        }
        super::print(&words)
    }
}

impl Restore {
    pub(super) fn run(self, config: &Server) -> Result<()> {
        if self.check {
            let manifest = backup::check(&self.folder)?;
            return super::print(&format!("The backup of {} is whole.\n", moment(manifest.made_us)));
        }
        let restored = restore::restore(config, &self.folder, self.replace)?;
        let mut words = format!("Restored the backup of {}.\n", moment(restored.manifest.made_us));
        for path in &restored.moved {
            words.push_str(&format!("What was there is now {}.\n", path.display()));
        }
        if restored.kept_ca {
            words.push_str("The CA that is here is newer than the backup's, and stays.\n");
        }
        match &config.store {
            Store::Sqlite { .. } => words.push_str(
                "Start the server. Gateways send again what they brought since the backup, as far back as their \
                 `buffer.tail` reaches; `forebay-server faults` says what they no longer had.\n",
            ),
            Store::Postgres { .. } => words.push_str(&format!(
                "ONLY THE CA. Before the server starts: {}",
                dump_words("pg_restore --clean --if-exists", &format!("{}/forebay.pgdump", self.folder.display()))
            )),
        }
        super::print(&words)
    }
}

/// What a PostgreSQL server's own tools must do.
fn dump_words(program: &str, file: &str) -> String {
    format!(
        "With PostgreSQL's own tools, for the database of `store.url`:\n\n  {program} --dbname=\"$URL\" {file}\n\n\
         With TimescaleDB a restore stands between `select timescaledb_pre_restore()` and `select \
         timescaledb_post_restore()`, in a database with the same version of the extension.\n"
    )
}

fn moment(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros)
        .map_or_else(|_| "an unknown time".into(), |time| format!("{time:.0}"))
}
