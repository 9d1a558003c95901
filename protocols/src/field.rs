//! Devices to readings. `source` is the boundary; everything else in this room is one protocol.

mod fine_timer;
pub mod modbus;
pub mod mqtt;
pub mod occupancy;
pub mod opcua;
mod points;
mod scaling;
pub mod serial;
pub mod source;
