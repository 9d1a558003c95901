//! Where the log goes and what stands in it: our own words at the configured level, other crates'
//! warnings, and nothing of those that cry at every expected fault.

use std::io::{IsTerminal, stderr};

use forebay_config::agent::{Log, LogFormat, LogLevel};
use tracing::warn;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Our crates, at the configured level.
const OURS: [&str; 3] = ["forebay_agent", "forebay_protocols", "forebay_config"];
/// async-opcua logs at ERROR whenever a server is away; the link task says that once, in our words.
const SILENT: [&str; 6] =
    ["opcua", "opcua_client", "opcua_core", "opcua_crypto", "opcua_nodes", "opcua_types"];
/// These warn on every lost connection.
const ERRORS_ONLY: [&str; 3] = ["rumqttc", "tokio_modbus", "sled"];

/// How much is logged, while the program runs.
pub struct Level(Handle<Targets, Registry>);

impl Level {
    /// From now on this much.
    pub fn set(&self, level: LogLevel) {
        if let Err(error) = self.0.reload(targets(level)) {
            warn!("The log's level stays as it was: {error}.");
        }
    }
}

/// Starts logging. To be called once in a process.
pub fn start(log: &Log) -> Result<Level, TryInitError> {
    let Log { format, level } = log;
    let (filter, handle) = Layer::new(targets(*level));
    let registry = tracing_subscriber::registry().with(filter);
    match resolve(*format, std::env::var_os("JOURNAL_STREAM").is_some()) {
        LogFormat::Json => {
            registry.with(tracing_subscriber::fmt::layer().json().with_writer(stderr)).try_init()
        }
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(journal) => registry.with(journal.with_syslog_identifier("forebay-agent".into())).try_init(),
            // No journal to be had: what we say must still be seen.
            Err(_) => registry
                .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(stderr))
                .try_init(),
        },
        LogFormat::Text | LogFormat::Auto => {
            let text = tracing_subscriber::fmt::layer().with_target(false).with_ansi(stderr().is_terminal());
            registry.with(text.with_writer(stderr)).try_init()
        }
    }?;
    Ok(Level(handle))
}

/// systemd sets `JOURNAL_STREAM` where standard error goes to the journal.
fn resolve(format: LogFormat, to_journal: bool) -> LogFormat {
    match format {
        LogFormat::Auto if to_journal => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        chosen => chosen,
    }
}

/// Plain names and levels: a filter that also takes patterns of fields brings a regular expression engine.
fn targets(level: LogLevel) -> Targets {
    let (level, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::INFO),
    };
    Targets::new()
        .with_default(others)
        .with_targets(OURS.map(|target| (target, level)))
        .with_targets(SILENT.map(|target| (target, LevelFilter::OFF)))
        .with_targets(ERRORS_ONLY.map(|target| (target, LevelFilter::ERROR)))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Collects what would be logged.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, words: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(words);
            Ok(words.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn opcua_cannot_cry_wolf_and_our_own_words_stand() {
        let paper = Paper::default();
        let sink = paper.clone();
        let subscriber = tracing_subscriber::registry()
            .with(targets(LogLevel::Info))
            .with(tracing_subscriber::fmt::layer().with_writer(move || sink.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "opcua_client::session", "wolf");
            tracing::warn!(target: "rumqttc::state", "wolf");
            tracing::info!(target: "hyper", "wolf");
            tracing::debug!(target: "forebay_agent", "wolf");
            tracing::warn!(target: "rustls", "foreign warning");
            tracing::info!(target: "forebay_agent", "our words");
        });
        let words = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        assert!(words.contains("our words") && words.contains("foreign warning"), "{words}");
        assert!(!words.contains("wolf"), "{words}");
    }

    #[test]
    fn auto_is_the_journal_only_where_systemd_listens() {
        assert_eq!(resolve(LogFormat::Auto, true), LogFormat::Journald);
        assert_eq!(resolve(LogFormat::Auto, false), LogFormat::Text);
        assert_eq!(resolve(LogFormat::Json, true), LogFormat::Json);
    }
}
