//! The schema, brought up to date at every start. One process at a time: refinery looks and applies
//! in transactions of their own, so a lock file beside the database stands around both.

use std::fs::File;
use std::path::Path;

use super::super::StoreError;

refinery::embed_migrations!("src/store/migrations/sqlite");

/// Makes the file if need be, and its tables.
pub fn prepare(path: &Path) -> Result<(), StoreError> {
    let failed =
        |error: std::io::Error| StoreError::Refused(format!("cannot make or open the file: {error}"));
    super::make_file(path).map_err(failed)?;
    // A file of its own: closing a second handle of the database would drop SQLite's locks on it.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".migration-lock");
    let lock = File::options().create(true).append(true).open(&beside).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut connection = super::connect(path)?;
    // A table made anew is dropped and renamed, and what refers to it stays.
    connection.pragma_update(None, "foreign_keys", false)?;
    let mut runner = migrations::runner();
    runner.set_migration_table_name("forebay_schema");
    let refused = |words: String| StoreError::Refused(format!("cannot bring the schema up to date: {words}"));
    let done = runner.run(&mut connection).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        refused(format!("{error}{cause}"))
    })?;
    if !done.applied_migrations().is_empty() && connection.prepare("pragma foreign_key_check")?.exists([])? {
        return Err(refused("a row refers to one that is not there".into()));
    }
    // Whoever waits for the lock now holds a file without a name, and finds the schema up to date; so
    // does who makes the next one. A file that cannot be removed harms nobody.
    let _ = std::fs::remove_file(&beside);
    Ok(())
}

/// The newest version this program knows.
pub fn newest() -> i32 {
    migrations::runner().get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}
