//! Tells the linker where to put code that seldom runs.

fn main() {
    println!("cargo::rerun-if-changed=seldom.ld");
    // Unoptimised programs are large anyway, and sooner linked without it.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
        && std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux")
        && let Ok(folder) = std::env::var("CARGO_MANIFEST_DIR")
    {
        println!("cargo::rustc-link-arg-bin=forebay-agent=-Wl,-T,{folder}/seldom.ld");
    }
}
