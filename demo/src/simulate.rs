//! `cargo demo -- simulate modbus|opcua|mqtt`: one simulated device to try a configuration on, or another
//! program, and faults at will: planned with `--fault`, or typed while it runs.

mod device;
pub mod script;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep_until};

use self::device::Device;
use self::script::{Fault, Planned};

const HELP: &str = "Faults, all devices: cut, drop, stalled, slow=500ms. \
Modbus, of one unit with :UNIT: silent, slow=500ms, late=3s, exception=4, garbage, short, wrong-unit, limit=16, hole=20-29. \
OPC UA: down, renumbered, sessions=1. \
MQTT: forgets, quiet, garbage.

`--fault silent:2@10..20` begins 10 s after the start and ends at 20 s. On standard input a line with a fault begins it, \
`mend` ends all, `quit` ends the device.";

/// A simulated device with faults at will.
#[derive(Debug, Parser)]
#[command(name = "forebay-demo simulate", after_help = HELP)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Boilers behind Modbus TCP, or with --serial power meters on a serial line (a pseudo terminal).
    Modbus {
        /// Unit ids.
        #[arg(long, value_delimiter = ',', default_value = "1,2")]
        units: Vec<u8>,
        /// Meters on a serial line.
        #[arg(long)]
        serial: bool,
        #[command(flatten)]
        common: Common,
    },
    /// An OPC UA server with sixty moving signals, a robot's array and its structure; user `demo`, password
    /// `demo`, or anybody.
    Opcua {
        #[command(flatten)]
        common: Common,
    },
    /// An MQTT 3.1.1 broker, and a pump, a hall sensor and a meter that publish to it.
    Mqtt {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Where to listen. Port 0 takes a free one.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
    /// A fault with its time, more than once if wanted.
    #[arg(long, value_name = script::GRAMMAR, value_parser = Planned::parse)]
    fault: Vec<Planned>,
    /// End after so many seconds; without it at Ctrl-C.
    #[arg(long)]
    seconds: Option<u64>,
}

/// Does what the command line says; `arguments` begin with the word `simulate`.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            // Help is an "error" too, with exit code 0. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let done = runtime.block_on(simulate(options));
    // Somebody may still be waited for on standard input.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("forebay-demo simulate: {error:#}");
    ExitCode::FAILURE
}

#[expect(clippy::print_stdout, reason = "the configuration is printed")]
async fn simulate(options: Options) -> Result<()> {
    let (mut device, common) = match options.what {
        What::Modbus { units, serial: false, common } => {
            (Device::modbus(common.listen, &units).await?, common)
        }
        What::Modbus { units, serial: true, common } => (Device::serial(&units)?, common),
        What::Opcua { common } => (Device::opcua(common.listen).await?, common),
        What::Mqtt { common } => (Device::mqtt(common.listen).await?, common),
    };
    for planned in &common.fault {
        device.knows(&planned.fault).map_err(anyhow::Error::msg)?;
    }
    println!("{}\n# Ready.", device.link_toml()?.trim_end());
    eprintln!("Runs until Ctrl-C. A line with a fault begins it (`--help` lists them), `mend` ends all.");
    play(&mut device, &common).await?;
    device.end().await;
    Ok(())
}

/// What happens when.
enum Deed {
    Begin(Fault),
    End(Fault),
    Quit,
}

async fn play(device: &mut Device, common: &Common) -> Result<()> {
    let start = Instant::now();
    let mut plan: Vec<(Duration, Deed)> = Vec::new();
    for Planned { fault, from, to } in &common.fault {
        plan.push((*from, Deed::Begin(fault.clone())));
        plan.extend(to.map(|to| (to, Deed::End(fault.clone()))));
    }
    plan.extend(common.seconds.map(|seconds| (Duration::from_secs(seconds), Deed::Quit)));
    plan.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut typed = BufReader::new(tokio::io::stdin()).lines();
    let mut is_typing = true;
    let mut active: Vec<Fault> = Vec::new();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("listen for signals")?;
    loop {
        let next = plan.last().map(|(at, _)| start + *at);
        let deed = tokio::select! {
            _ = &mut interrupted => Deed::Quit,
            _ = terminated.recv() => Deed::Quit,
            () = sleep_until(next.unwrap_or(start)), if next.is_some() => match plan.pop() {
                Some((_, deed)) => deed,
                None => continue,
            },
            // Cancel-safe: a line comes whole or not at all.
            line = typed.next_line(), if is_typing => match line {
                Ok(Some(line)) => match line.trim() {
                    "" => continue,
                    "quit" => Deed::Quit,
                    "mend" => {
                        for fault in active.drain(..) {
                            device.mend(&fault).await?;
                        }
                        eprintln!("{:.1} s: all is mended", start.elapsed().as_secs_f64());
                        continue;
                    }
                    words => match Fault::parse(words).and_then(|fault| device.knows(&fault).map(|()| fault)) {
                        Ok(fault) => Deed::Begin(fault),
                        Err(why) => {
                            eprintln!("{why}");
                            continue;
                        }
                    },
                },
                // Nobody types any more; what is planned goes on.
                Ok(None) | Err(_) => {
                    is_typing = false;
                    continue;
                }
            },
        };
        let now = start.elapsed().as_secs_f64();
        match deed {
            Deed::Quit => return Ok(()),
            Deed::Begin(fault) => {
                eprintln!("{now:.1} s: {fault:?} begins");
                device.begin(&fault).await?;
                active.push(fault);
            }
            Deed::End(fault) => {
                eprintln!("{now:.1} s: {fault:?} ends");
                device.mend(&fault).await?;
                active.retain(|other| *other != fault);
            }
        }
    }
}
