//! Tells the linker where to put code that every agent runs, and code that seldom runs.

use std::path::Path;

/// The first that knows a function has it. One script for the linker, since some take one only.
const SCRIPTS: [&str; 2] = ["often.ld", "seldom.ld"];

fn main() -> std::io::Result<()> {
    SCRIPTS.iter().for_each(|script| println!("cargo::rerun-if-changed={script}"));
    // Unoptimised programs are large anyway, and sooner linked without it.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
        && std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux")
        && let Some(folder) = std::env::var_os("OUT_DIR")
    {
        let mut order = String::new();
        for script in SCRIPTS {
            order += &std::fs::read_to_string(script)?;
        }
        let whole = Path::new(&folder).join("order.ld");
        std::fs::write(&whole, order)?;
        println!("cargo::rustc-link-arg-bin=forebay-agent=-Wl,-T,{}", whole.display());
    }
    Ok(())
}
