//! The binary: its command line is in the library.

fn main() -> std::process::ExitCode {
    forebay_agent::run_cli(std::env::args_os())
}
