//! What the database can do, found at start by looking and, where its name does not tell, by trying.
//!
//! The statements that only TimescaleDB's Community edition takes are made by [`community_plan`] and
//! brought about by a reconciler that runs at every start and changes nothing that is as wanted. An
//! edition that lacks one of them says so with SQLSTATE 0A000; the tier is then what the database
//! really is.

use deadpool_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::{info, warn};

use super::super::StoreError;
use super::super::upkeep::Tier;

/// Older chunks are compressed: late data is rare by then.
const COMPRESS_AFTER: &str = "7 days";

/// A statement of the Community edition, and the query that tells whether it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Yields true where the database is as wanted already.
    pub is_so: String,
    /// Makes it so.
    pub make: String,
}

/// What the Community edition is asked for: columnstore for readings, by point and time, and a policy that
/// brings chunks into it. Retention stays our own, in every edition: it must not overtake rollups.
/// (Rollups stay our own too: a continuous aggregate knows no first value of mixed types, and is
/// refreshed by time and not by what late data touched.)
pub fn community_plan() -> [Wanted; 2] {
    [
        Wanted {
            is_so: "select exists (select from timescaledb_information.hypertables \
                    where hypertable_schema = current_schema() and hypertable_name = 'readings' \
                    and compression_enabled)"
                .into(),
            make: "alter table readings set (timescaledb.enable_columnstore, \
                   timescaledb.segmentby = 'point', timescaledb.orderby = 'time')"
                .into(),
        },
        Wanted {
            is_so: "select exists (select from timescaledb_information.jobs \
                    where hypertable_schema = current_schema() and hypertable_name = 'readings' \
                    and proc_name in ('policy_compression', 'policy_columnstore'))"
                .into(),
            make: format!("call add_columnstore_policy('readings', after => interval '{COMPRESS_AFTER}')"),
        },
    ]
}

/// Told to each connection that stores readings in the Community edition: rows sorted by (point, time),
/// as ours are, go into the columnstore at once. Only where no unique index and no trigger stands.
pub const DIRECT_COMPRESS: &str = "set timescaledb.enable_direct_compress_copy = on; \
                                   set timescaledb.enable_direct_compress_copy_client_sorted = on";

/// Brings the plan about, as far as the edition goes, and says which edition that is.
pub async fn reconcile(client: &Client) -> Result<Tier, StoreError> {
    for Wanted { is_so, make } in community_plan() {
        let asked = async {
            if !client.query_one(&is_so, &[]).await?.try_get::<_, bool>(0)? {
                client.batch_execute(&make).await?;
                info!(statement = make, "Made use of TimescaleDB's Community edition.");
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        match asked.await {
            Ok(()) => {}
            Err(error) if is_lacking(&error) => return Ok(Tier::Apache),
            Err(error) if error.as_db_error().is_some() => {
                // An older release spells it otherwise: chunks stay as they are, and all else works.
                warn!(%error, statement = make, "The columnstore cannot be set up; going on without it.");
                return Ok(Tier::Apache);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Tier::Community)
}

/// "This edition lacks it."
pub fn is_lacking(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_community_edition_is_asked_for_a_columnstore_by_point_and_time_and_its_policy() {
        let [columnstore, policy] = community_plan();
        assert_eq!(
            columnstore.make,
            "alter table readings set (timescaledb.enable_columnstore, timescaledb.segmentby = 'point', \
             timescaledb.orderby = 'time')"
        );
        assert_eq!(policy.make, "call add_columnstore_policy('readings', after => interval '7 days')");
        // Each is asked for before it is made, so that a start changes nothing that is as wanted.
        assert!(columnstore.is_so.contains("compression_enabled") && policy.is_so.contains("jobs"));
        assert!(DIRECT_COMPRESS.contains("client_sorted"));
    }
}
