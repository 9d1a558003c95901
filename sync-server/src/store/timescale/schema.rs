//! The schema, and what the database can do. Runs at every start, under an advisory lock, so that
//! several servers may start at once. Migrations hold what plain PostgreSQL understands; what only
//! TimescaleDB has is brought about here, by looking at what is there.

use deadpool_postgres::{Client, Pool};
use forebay_protocols::boot_time::wall_micros;
use tracing::warn;

use super::super::StoreError;
use super::super::upkeep::Tier;
use super::{partitions, tier};

refinery::embed_migrations!("src/store/migrations/postgres");

/// The number of the lock: "forebay" in ASCII.
const LOCK: i64 = 0x66_6f72_6562_6179;
/// A chunk a day: small enough that the index of the newest one stays in memory, large enough that a
/// year is a few hundred.
const CHUNK: &str = "1 day";

/// Brings the schema up to date and says what the database is, in words and by what it can do.
pub async fn prepare(pool: &Pool) -> Result<(String, Tier), StoreError> {
    let mut holder = pool.get().await?;
    // Others may be at it for longer than a common lock may take, and so may we.
    holder.batch_execute("set lock_timeout = 0; set statement_timeout = 0").await?;
    holder.batch_execute(&format!("select pg_advisory_lock({LOCK})")).await?;
    let words = prepare_alone(pool, &mut holder).await;
    // The lock goes with its connection, also where that is broken by now.
    drop(Client::take(holder));
    words
}

async fn prepare_alone(pool: &Pool, holder: &mut Client) -> Result<(String, Tier), StoreError> {
    // A database that keeps partitions goes on with them: a hypertable must not have any.
    let kept = "select exists (select from pg_partitioned_table p join pg_class c on c.oid = p.partrelid \
                where c.relname = 'readings' and pg_table_is_visible(c.oid))";
    let is_partitioned: bool = holder.query_one(kept, &[]).await?.try_get(0)?;
    if is_partitioned {
        // The tables are made already, and the extension would be of no use to them.
    } else if let Err(words) = make_extension(pool).await {
        warn!(reason = %words, "TimescaleDB is available but cannot be used; going on without it.");
    }
    let mut runner = migrations::runner();
    runner.set_migration_table_name("forebay_schema");
    runner.run_async(&mut ***holder).await.map_err(|error| {
        StoreError::Refused(format!("cannot bring the schema up to date: {}", chain(&error)))
    })?;

    let found = "select split_part(current_setting('server_version'), ' ', 1), \
                 (select extversion from pg_extension where extname = 'timescaledb'), \
                 current_setting('timescaledb.license', true)";
    let row = holder.query_one(found, &[]).await?;
    let postgres: String = row.try_get(0)?;
    let timescale: Option<String> = row.try_get(1)?;
    let license: Option<String> = row.try_get(2)?;
    let Some(timescale) = timescale.filter(|_| !is_partitioned) else {
        let words = format!("PostgreSQL {postgres} without TimescaleDB");
        return Ok(match partitions::make(holder).await? {
            true => {
                partitions::prepare(holder, wall_micros()).await?;
                (format!("{words}, readings in partitions"), Tier::Partitions)
            }
            false => (format!("{words}, readings in a plain table"), Tier::PlainTable),
        });
    };
    let is_community = license.as_deref() == Some("timescale");
    let words =
        |edition: &str| format!("TimescaleDB {timescale} ({edition} edition) on PostgreSQL {postgres}");
    if let Err(why) = make_hypertable(holder).await {
        warn!(reason = %why, "Readings stay in a plain table.");
        let edition = if is_community { "Community" } else { "Apache" };
        return Ok((format!("{}, readings in a plain table", words(edition)), Tier::PlainTable));
    }
    // The licence says what may be asked for; the answers say what is there.
    let tier = if is_community { tier::reconcile(holder).await? } else { Tier::Apache };
    Ok((words(if tier == Tier::Community { "Community" } else { "Apache" }), tier))
}

/// On a connection of its own: a TimescaleDB that is not preloaded ends the one that asks.
async fn make_extension(pool: &Pool) -> Result<(), String> {
    let asked = async {
        let client = pool.get().await?;
        let missing = "select from pg_available_extensions \
                       where name = 'timescaledb' and installed_version is null";
        if !client.query(missing, &[]).await?.is_empty() {
            client.batch_execute("create extension if not exists timescaledb").await?;
        }
        Ok::<_, StoreError>(())
    };
    asked.await.map_err(|error| error.to_string())
}

/// Only an empty table: moving years of readings is the operator's decision, not a start's.
async fn make_hypertable(client: &Client) -> Result<(), String> {
    let make = format!(
        "do $$ begin \
         if not exists (select from timescaledb_information.hypertables \
                        where hypertable_schema = current_schema() and hypertable_name = 'readings') then \
           if exists (select from readings) then \
             raise exception 'the table holds readings from before TimescaleDB was there'; \
           end if; \
           perform create_hypertable('readings', 'time', chunk_time_interval => interval '{CHUNK}', \
                                     create_default_indexes => false); \
         end if; end $$"
    );
    client.batch_execute(&make).await.map_err(|error| StoreError::from(error).to_string())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
