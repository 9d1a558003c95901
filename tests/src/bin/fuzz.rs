//! `tests/fuzz`: altered bytes against every decoder that reads from outside, with a table at the end.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_tests::fuzz::targets::TARGETS;
use forebay_tests::fuzz::{Memory, Target, Until, fuzz};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Feeds altered bytes to decoders: no panic, no hang, no memory beyond the bound.
#[derive(Parser)]
#[command(name = "tests/fuzz", after_help = about_targets())]
struct Arguments {
    /// Targets; `all` is every one.
    #[arg(default_value = "all")]
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Inputs for each target, instead of a time.
    #[arg(long)]
    inputs: Option<u64>,
    /// Plays an earlier run again. The seed of a failure with `--inputs 1` plays that input alone.
    #[arg(long)]
    seed: Option<u64>,
}

struct Counted;

impl Memory for Counted {
    fn reset(&self) {
        ALLOCATOR.reset_peak_usage();
    }
    fn peak(&self) -> usize {
        ALLOCATOR.peak_usage()
    }
    fn current(&self) -> usize {
        ALLOCATOR.current_usage()
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    for name in &arguments.targets {
        let known = name == "all" || TARGETS.iter().any(|target| target.name == name);
        ensure!(known, "{name} is no target; there are: all, {}", names());
    }
    let seed = match arguments.seed {
        Some(seed) => seed,
        // Short enough to be typed.
        None => getrandom::u64().context("random seed")? >> 24,
    };
    let until = arguments.inputs.map_or(Until::For(Duration::from_secs(arguments.seconds)), Until::Inputs);
    let named = |word: &str| arguments.targets.iter().any(|name| name == word);
    println!("seed {seed}");
    println!(
        "{:<14} {:>12} {:>10} {:>12} {:>12} {:>10} {:>7}",
        "target", "inputs", "accepted", "memory", "bound", "slowest", "broken"
    );
    let mut failed = false;
    for target in TARGETS.iter().filter(|target| named("all") || named(target.name)) {
        let mut made = (target.make)();
        // Panics are told in the table, not as they happen.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = fuzz(target, &mut made, seed, until, &Counted);
        std::panic::set_hook(hook);
        println!(
            "{:<14} {:>12} {:>9.1}% {:>8} KiB {:>8} KiB {:>7} ms {:>7}",
            target.name,
            outcome.inputs,
            outcome.accepted as f64 * 100.0 / outcome.inputs.max(1) as f64,
            outcome.memory >> 10,
            target.memory >> 10,
            outcome.slowest.as_millis(),
            outcome.broken.len()
        );
        for words in &outcome.broken {
            println!("{} BROKEN, {words}", target.name);
        }
        failed |= !outcome.broken.is_empty();
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn names() -> String {
    TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ")
}

fn about_targets() -> String {
    let line = |target: &Target| format!("  {:<14} {}\n", target.name, target.about);
    TARGETS.iter().map(line).fold("Targets:\n".into(), |all, line| all + &line)
}
