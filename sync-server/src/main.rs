//! `forebay-server`.

fn main() -> std::process::ExitCode {
    forebay_server::run_cli(std::env::args_os())
}
