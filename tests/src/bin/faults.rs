//! `tests/faults`: random trouble against Forebay's promises, with a table of zeros at the end.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use forebay_tests::faults::{FAMILIES, Family, append_until_killed, report};

/// Injects faults and counts what they cost. Every column but the first two must be zero.
#[derive(Parser)]
#[command(name = "tests/faults", after_help = families())]
struct Arguments {
    /// Families to play; `all` is every one that needs no privilege.
    #[arg(default_value = "all")]
    families: Vec<String>,
    /// Faults to inject in each family.
    #[arg(long)]
    rounds: Option<u64>,
    /// Plays an earlier run again. The seed of a failure with `--rounds 1` plays that scenario alone.
    #[arg(long)]
    seed: Option<u64>,
    /// The power cuts on a real file system too; needs root and a loop device.
    #[arg(long)]
    device: bool,
    /// The table as JSON.
    #[arg(long)]
    json: bool,
    /// What `device` runs as a child: appends here and prints what is confirmed, until it is killed.
    #[arg(long, hide = true)]
    append_in: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(folder) = arguments.append_in {
        append_until_killed(&folder, arguments.seed.unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(&arguments)?;
    let seed = match arguments.seed {
        Some(seed) => seed,
        // Short enough to be typed.
        None => getrandom::u64().context("random seed")? >> 24,
    };
    // The store catches panics of its catalogue, and the suite those of the store: both are told in
    // the table, not as they happen.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut rows = Vec::new();
    for family in chosen {
        eprintln!("{}: {} (--seed {seed})", family.name, family.about);
        rows.push(family.run(seed, arguments.rounds));
    }
    std::panic::set_hook(hook);
    println!("{}", report(&rows, arguments.json).trim_end());
    let failed = rows.iter().any(|row| row.tally.failures() > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn chosen(arguments: &Arguments) -> Result<Vec<&'static Family>> {
    let named = |word: &str| arguments.families.iter().any(|name| name == word);
    for name in &arguments.families {
        let known = name == "all" || FAMILIES.iter().any(|family| family.name == name);
        anyhow::ensure!(known, "{name} is no family; there are: all, {}", names());
    }
    let device = |family: &Family| arguments.device && family.name == "device";
    let wanted = |family: &&Family| named(family.name) || (family.in_all && named("all")) || device(family);
    Ok(FAMILIES.iter().filter(wanted).collect())
}

fn names() -> String {
    FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>().join(", ")
}

fn families() -> String {
    let line = |family: &Family| format!("  {:<10} {} ({})\n", family.name, family.about, family.rounds);
    FAMILIES
        .iter()
        .map(line)
        .fold("Families, and the faults they inject unless told:\n".into(), |a, b| a + &b)
}
