//! A plant on a desk: simulated devices with scriptable faults, a lossy link, and our own programs
//! run on them. The demo and the system tests use the same parts.

pub mod dice;
pub mod fleet;
pub mod http;
pub mod ledger;
pub mod long_link;
pub mod lossy_link;
pub mod modbus;
pub mod mqtt;
pub mod opcua;
pub mod paced_bus;
pub mod plant;
pub mod postgres_road;
pub mod process;
pub mod pty;
pub mod rough_road;
pub mod signals;
pub mod simulate;
pub mod site;
pub mod thin_link;
