//! Devices to readings. `source` is the boundary; everything else in this room is one protocol.

pub mod modbus;
pub mod mqtt;
pub mod opcua;
mod points;
mod scaling;
pub mod serial;
pub mod source;
