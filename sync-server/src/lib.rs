//! Forebay's sync-server as a library: the binary, the demo and the tests run the same code.

pub mod access;
pub mod alarms;
pub mod api;
pub mod app;
pub mod backup;
pub mod cli;
pub mod doors;
pub mod files;
pub mod headers;
pub mod health;
pub mod identity;
pub mod ingest;
pub mod invitation;
pub mod joining;
pub mod ledger;
pub mod listener;
pub mod live;
pub mod logs;
pub mod store;
pub mod telemetry;
pub mod ui;
pub mod upkeep;
pub mod watchdog;

pub use cli::run_cli;
