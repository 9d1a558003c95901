//! What an operator may write, and why it was refused.
//!
//! `load` reads and judges files and gives either a typed configuration or every finding at once,
//! each with file, line, column, value and a hint. No I/O besides reading the files named; no
//! async, no drivers. `agent`, `field` and `server` are the typed configurations; `units` the
//! words they are made of.

pub mod agent;
pub mod alarms;
pub mod classes;
pub mod field;
pub mod load;
pub mod processing;
pub mod redact;
pub mod retention;
pub mod server;
pub mod units;
