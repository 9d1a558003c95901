//! Readings to batches, batches to a server.

pub mod batch;
pub mod tls;
pub mod wire;
