//! Readings to batches, batches to a server.

pub mod batch;
pub mod join;
pub mod offline;
pub mod problem;
pub mod ranges;
pub mod tls;
pub mod wire;
