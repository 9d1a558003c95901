//! Writes man pages and completions of the command line into a folder, for the packages. Not a
//! command of the program, which would carry their writers to every gateway.
//!
//! `cargo run --package forebay-agent --example agent-manual -- FOLDER`

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap_complete::{Shell, generate_to};

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("say which folder to write into")?;
    let command = forebay_agent::cli::command();
    let name = command.get_name().to_owned();
    fs::create_dir_all(&folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command.clone(), &name, &folder)?;
    }
    clap_mangen::generate_to(command, &folder)?;
    Ok(())
}
