//! Logs as configured: to journald with fields, or to standard error as text or JSON. Standard
//! output belongs to the commands' answers.

use std::io::IsTerminal;

use forebay_config::agent::{Log, LogFormat, LogLevel};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Starts logging. Called again in one process it does nothing.
pub fn start(log: &Log) -> std::io::Result<()> {
    let level = match log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    // Libraries talk in their own words; below WARN they are for those who ask for TRACE.
    let others = if level == Level::TRACE { LevelFilter::TRACE } else { LevelFilter::WARN };
    let filter = Targets::new().with_default(others).with_target("forebay", level);
    // systemd connects a service's standard error to the journal and says so in JOURNAL_STREAM.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Journald => journald()?,
        LogFormat::Auto if under_systemd => journald().unwrap_or_else(|_| text()),
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
        LogFormat::Auto | LogFormat::Text => text(),
    };
    // An error means that somebody (a test, the demo) logs in this process already.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}

fn journald() -> std::io::Result<Box<dyn Layer<Registry> + Send + Sync>> {
    Ok(tracing_journald::layer()?.boxed())
}

fn text() -> Box<dyn Layer<Registry> + Send + Sync> {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr).boxed()
}
