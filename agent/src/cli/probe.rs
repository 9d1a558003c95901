//! `forebay-agent probe`: look at field devices before configuring them. Needs no configuration and no
//! server, says what it is about to do, and never writes to a device.

mod guess;
mod modbus;
mod opcua;

use std::process::ExitCode;

use clap::Subcommand;

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a range of registers and show what its values might be, with ready-made configuration.
    Modbus(modbus::Look),
    /// Which unit ids answer on a Modbus link?
    ModbusScan(modbus::Scan),
    /// Show the ways into an OPC UA server and what it serves, with ready-made configuration.
    Opcua(opcua::Look),
}

/// Does it.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Modbus(look) => modbus::look(&look),
        Command::ModbusScan(scan) => modbus::scan(&scan),
        Command::Opcua(look) => opcua::look(&look),
    }
}
