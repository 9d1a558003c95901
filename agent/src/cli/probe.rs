//! `forebay-agent probe`: look at field devices before configuring them. Needs no configuration and no
//! server, says what it is about to do, and never writes to a device.

mod guess;
mod modbus;
mod mqtt;
mod opcua;

use std::process::ExitCode;

use clap::Subcommand;

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a range of registers and show what its values might be, with ready-made configuration;
    /// or `scan`: which unit ids answer on a link?
    #[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
    Modbus(modbus::Look),
    /// Listen at a broker: topics, samples, ready-made configuration. Publishes nothing.
    Mqtt(mqtt::Listen),
    /// Show the ways into an OPC UA server and what it serves, with ready-made configuration.
    Opcua(opcua::Look),
}

/// Does it.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Modbus(look) => modbus::run(&look),
        Command::Mqtt(listen) => mqtt::listen(&listen),
        Command::Opcua(look) => opcua::look(&look),
    }
}
