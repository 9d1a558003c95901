//! Forebay's agent as a library: the binary, the demo and the tests run the same code.
//!
//! `app` is where everything meets. A reading goes `link` → `processing` → `batcher` → `buffer` →
//! `uplink`; `supervisor` owns the tasks, `roster` knows the links there are,
//! `reload` what a new configuration changes in them, `ledger` knows where every reading is, `gaps` where none
//! was taken, `clock` what time it is, `learnt` what Modbus units taught, and `status`, `telemetry`, `systemd` and `log` let others see.

pub mod app;
pub mod backoff;
pub mod batcher;
pub mod buffer;
pub mod cli;
pub mod clock;
pub mod fittings;
pub mod gaps;
pub mod learnt;
pub mod ledger;
pub mod link;
pub mod live;
pub mod log;
pub mod processing;
pub mod rate;
pub mod reload;
pub mod roster;
pub mod status;
pub mod supervisor;
pub mod systemd;
pub mod telemetry;
pub mod uplink;

pub use cli::run_cli;
