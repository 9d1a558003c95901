//! Questions to a database of whose files nothing is in memory, as after a restart, or as with a database
//! much larger than memory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use forebay_config::server;
use rustix::fs::{Advice, Mode, OFlags, fadvise, open};

use super::asking::{http, millis};
use super::filling::connect;
use super::served::Served;
use super::{Scene, charts};

/// Questions of each kind: it takes seconds to forget a large database.
const ASKED: usize = 20;

/// What is to be forgotten.
pub struct Cold {
    files: PathBuf,
    database: Option<tokio_postgres::Client>,
}

impl Cold {
    /// The files of a store. Error: why they cannot be found.
    pub async fn of(config: &server::Store) -> Result<Self, String> {
        match config {
            server::Store::Sqlite { path } => {
                Ok(Self { files: path.parent().unwrap().to_owned(), database: None })
            }
            server::Store::Postgres { url, .. } => {
                let database = connect(url.reveal()).await;
                let made = database.batch_execute("create extension if not exists pg_buffercache").await;
                made.map_err(|error| format!("pg_buffercache: {error}"))?;
                let sql = "select current_setting('data_directory') || '/base/' || oid from pg_database \
                           where datname = current_database()";
                let row = database.query_one(sql, &[]).await.map_err(|error| error.to_string())?;
                let files = PathBuf::from(row.get::<_, String>(0));
                std::fs::read_dir(&files).map_err(|error| format!("{}: {error}", files.display()))?;
                Ok(Self { files, database: Some(database) })
            }
        }
    }

    /// Brings what is dirty to the disk: it is not forgotten else.
    async fn settle(&self) {
        if let Some(database) = &self.database {
            database.batch_execute("checkpoint").await.unwrap();
        }
        let files = self.files.clone();
        let settle = move || {
            each(&files, |file| {
                let _ = rustix::fs::fdatasync(file);
            });
        };
        tokio::task::spawn_blocking(settle).await.unwrap();
    }

    /// Takes all that is on the disk out of memory.
    async fn forget(&self) {
        if let Some(database) = &self.database {
            let sql = "select count(pg_buffercache_evict(bufferid)) from pg_buffercache where reldatabase = \
                       (select oid from pg_database where datname = current_database())";
            database.query_one(sql, &[]).await.unwrap();
        }
        let files = self.files.clone();
        let forget = move || {
            each(&files, |file| {
                let _ = fadvise(file, 0, None, Advice::DontNeed);
            });
        };
        tokio::task::spawn_blocking(forget).await.unwrap();
    }
}

fn each(folder: &Path, visit: impl Fn(&OwnedFd)) {
    for file in std::fs::read_dir(folder).unwrap() {
        // One that has gone meanwhile is forgotten.
        if let Ok(file) = open(file.unwrap().path(), OFlags::RDONLY, Mode::empty()) {
            visit(&file);
        }
    }
}

/// Charts, each of a point and days that nobody has asked for, with all files out of memory before each.
pub async fn ask(scene: &Scene, served: &Served, cold: &Cold) {
    let http = http();
    cold.settle().await;
    for question in charts(scene, served) {
        let mut times = Vec::new();
        for n in 0..ASKED {
            cold.forget().await;
            times.push(millis(question.ask(&http, n).await.0));
        }
        scene.teller.times(
            &format!("{}, from the disk", question.what),
            times,
            "nothing in memory before each",
        );
    }
}
