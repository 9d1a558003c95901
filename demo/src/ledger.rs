//! The books, closed from outside: what the agent says it appended against the rows that stand in
//! the database, counted in SQL.

use anyhow::{Context, Result};
use forebay_agent::buffer::{Buffer, Settings};
use forebay_config::agent::Buffer as BufferConfig;
use std::path::Path;

/// Where the server under test keeps its readings.
#[derive(Clone, Debug)]
pub enum Database {
    /// The SQLite file.
    Sqlite(std::path::PathBuf),
    /// The PostgreSQL URL.
    Postgres(String),
}

/// What the database holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Rows, quarantined ones included.
    pub rows: u64,
    /// Rows that equal another in point, time, value and quality.
    pub twice: u64,
}

/// What the agent's buffer says for itself, in readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Ever appended.
    pub appended: u64,
    /// Dropped since, by policy or damage.
    pub dropped: u64,
    /// Still waiting.
    pub backlog: u64,
}

impl Database {
    /// Counts rows and duplicates.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn count(&self) -> Result<Stored> {
        match self {
            Self::Sqlite(path) => count_sqlite(path).with_context(|| format!("count in {}", path.display())),
            Self::Postgres(url) => count_postgres(url).await.context("count in PostgreSQL"),
        }
    }
}

/// The buffer of the agent with this state directory, as it is without configuration.
pub fn buffer_of(state_dir: &Path) -> Settings {
    let default = BufferConfig::default();
    Settings {
        dir: state_dir.join("buffer"),
        max_size: default.max_size,
        reserve: default.reserve,
        when_full: default.when_full,
        tail: default.tail,
        classes: Vec::new(),
    }
}

/// Opens the buffer of an agent that has ended, and reads its counters.
///
/// # Errors
/// When there is no buffer.
pub async fn kept(state_dir: &Path) -> Result<Kept> {
    let (buffer, _appender, _opening) =
        Buffer::open(buffer_of(state_dir)).await.context("open the agent's buffer")?;
    let status = buffer.status();
    Ok(Kept {
        appended: status.counts.appended,
        dropped: status.counts.dropped,
        backlog: status.backlog_readings,
    })
}

/// Rows of both tables, and how many different ones there are.
fn counting(columns: &str, time_of_readings: &str, time_of_quarantine: &str) -> String {
    format!(
        "with everything as (
             select point, {time_of_readings} as at, {columns} from readings
             union all
             select point, {time_of_quarantine}, {columns} from readings_quarantine
         )
         select (select count(*) from everything), (select count(*) from (select distinct * from everything) as different)"
    )
}

fn count_sqlite(path: &Path) -> Result<Stored> {
    let database = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = counting("quality, value", "time", "time");
    let (rows, different) = database.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(stored(rows, different))
}

async fn count_postgres(url: &str) -> Result<Stored> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let sql = counting(
        "quality, value, whole, state, text",
        "(extract(epoch from time) * 1000000)::bigint",
        "time_us",
    );
    let row = client.query_one(&sql, &[]).await?;
    let found = stored(row.get(0), row.get(1));
    drop(client);
    connection.await??;
    Ok(found)
}

fn stored(rows: i64, different: i64) -> Stored {
    Stored { rows: rows.max(0) as u64, twice: (rows - different).max(0) as u64 }
}
