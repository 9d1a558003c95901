//! `probe mqtt`: what is said at a broker, as a tree with samples, and a configuration that reads it.

mod guess;
mod shapes;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use forebay_config::field::{Link, MqttVersion, Protocol};
use forebay_config::load;
use forebay_config::units::Secret;
use forebay_protocols::field::mqtt::look::{Heard, Listener};
use tokio::time::{Instant, timeout_at};

use self::guess::Meaning;
use self::shapes::topics_toml;
use crate::cli::run::runtime;
use crate::cli::table::harmless;
use crate::cli::{BAD_CONFIG, FAILED, complain, print, span};
use crate::clock::Clock;

/// Topics that are remembered. A broker may have millions.
const MOST_TOPICS: usize = 2_000;
/// Of a payload, so much is kept. A longer document is not understood.
const MOST_BYTES: usize = 16 << 10;

#[derive(Debug, Args)]
pub struct Listen {
    /// Where: mqtt://HOST[:PORT] or mqtts://HOST[:PORT].
    broker: String,
    /// How long to listen: "30s", "5m". Ctrl-C ends it earlier.
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = span)]
    time: Duration,
    /// The filter to subscribe to; `+` and `#` as in MQTT.
    #[arg(long, default_value = "#")]
    topic: String,
    /// The version of MQTT: 3.1.1 or 5.
    #[arg(long, default_value = "3.1.1", value_parser = ["3.1.1", "5"])]
    mqtt_version: String,
    /// User name. Its password is read from --password-file.
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// A file whose first line is the password.
    #[arg(long, value_name = "PATH", requires = "username")]
    password_file: Option<PathBuf>,
    /// PEM file with the broker's authority, for mqtts.
    #[arg(long, value_name = "PATH")]
    ca: Option<PathBuf>,
    /// PEM file with a certificate to show to the broker.
    #[arg(long, value_name = "PATH", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file with its key.
    #[arg(long, value_name = "PATH", requires = "certificate")]
    key: Option<PathBuf>,
}

/// What was said on one topic.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// Messages.
    count: u64,
    /// Was one of them kept by the broker?
    retained: bool,
    /// The last one, in a line for people.
    sample: String,
    /// What it means.
    meaning: Meaning,
}

/// Listens and shows.
pub fn listen(listen: &Listen) -> ExitCode {
    let link = match link(listen) {
        Ok(link) => link,
        Err(why) => {
            complain(&why);
            return ExitCode::from(BAD_CONFIG);
        }
    };
    // Where nothing is installed yet there is no last good time either: the system's clock judges.
    let clock = Clock::open("/var/lib/forebay".as_ref());
    let heard =
        Listener::new(&link, Arc::new(clock)).map_err(|error| error.to_string()).and_then(|listener| {
            let runtime = runtime().map_err(|error| format!("cannot start: {error}"))?;
            let heard = runtime.block_on(hear(listener, listen));
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
            heard
        });
    match heard {
        Ok(Tree { topics, .. }) if topics.is_empty() => {
            complain(&format!(
                "nothing was said on {} within {:?}; do devices speak more seldom, or may this user not read it?",
                listen.topic, listen.time
            ));
            ExitCode::from(FAILED)
        }
        Ok(tree) => print(&shown(&tree, listen)).unwrap_or(ExitCode::SUCCESS),
        Err(why) => {
            complain(&why);
            ExitCode::from(FAILED)
        }
    }
}

/// Everything that was heard.
#[derive(Debug, Default)]
struct Tree {
    topics: BTreeMap<String, Said>,
    /// Messages of topics beyond [`MOST_TOPICS`], and such as came too fast.
    passed_over: u64,
}

async fn hear(mut listener: Listener, Listen { time, topic, .. }: &Listen) -> Result<Tree, String> {
    listener.connect(topic).await.map_err(|fault| fault.to_string())?;
    complain(&format!("Listens to {topic} at {} for {time:?}. Nothing is published.", listener.peer()));
    let until = Instant::now() + *time;
    let mut tree = Tree::default();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        // Dropping next() loses nothing that matters once the time is over.
        let next = tokio::select! {
            _ = &mut interrupt => break,
            next = timeout_at(until, listener.next()) => next,
        };
        match next {
            Err(_) => break,
            Ok(Ok((messages, dropped))) => {
                tree.passed_over += dropped;
                messages.into_iter().for_each(|message| tree.note(message));
            }
            Ok(Err(fault)) if tree.topics.is_empty() => return Err(fault.to_string()),
            Ok(Err(fault)) => {
                complain(&format!("{fault}; what was heard until then:"));
                break;
            }
        }
    }
    listener.close().await;
    Ok(tree)
}

impl Tree {
    fn note(&mut self, Heard { topic, payload, retained }: Heard) {
        let is_new = !self.topics.contains_key(&topic);
        if is_new && self.topics.len() >= MOST_TOPICS {
            self.passed_over += 1;
            return;
        }
        let bytes = payload.as_deref().map(|payload| payload.get(..MOST_BYTES).unwrap_or(payload));
        let size = payload.as_ref().map_or(0, |payload| payload.len());
        let (meaning, sample) = match bytes {
            // Clears a kept message.
            Some([]) => (Meaning::Nothing, "(empty)".to_owned()),
            Some(bytes) if bytes.len() == size => (guess::meaning(bytes), sample(bytes)),
            Some(bytes) => (Meaning::Nothing, format!("{} ({size} bytes)", sample(bytes))),
            None => (Meaning::Nothing, "(too large)".to_owned()),
        };
        let said = self.topics.entry(topic).or_insert_with(|| Said {
            count: 0,
            retained,
            sample: String::new(),
            meaning: Meaning::Nothing,
        });
        said.count += 1;
        said.retained |= retained;
        said.sample = sample;
        // A device sends now this part of its document, now that one.
        said.meaning = std::mem::replace(&mut said.meaning, Meaning::Nothing).and(meaning);
    }
}

fn sample(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => harmless(text),
        Err(_) => format!("({} bytes that are no text)", bytes.len()),
    }
}

/// The tree, and the configuration.
fn shown(tree: &Tree, listen: &Listen) -> String {
    let mut text = String::new();
    let width =
        tree.topics.keys().map(|topic| line(topic, usize::MAX).chars().count()).max().unwrap_or(0).min(48);
    let mut above: Vec<&str> = Vec::new();
    for (topic, said) in &tree.topics {
        let levels: Vec<&str> = topic.split('/').collect();
        let shared = above.iter().zip(&levels).take_while(|(a, b)| a == b).count().min(levels.len() - 1);
        for (depth, level) in levels.iter().enumerate().take(levels.len() - 1).skip(shared) {
            let _ = writeln!(text, "{}", indented(depth, level));
        }
        let last = indented(levels.len() - 1, levels[levels.len() - 1]);
        let kept = if said.retained { ", kept by the broker" } else { "" };
        let times =
            if said.count == 1 { String::new() } else { format!("  ({} messages{kept})", said.count) };
        let times =
            if said.count == 1 && said.retained { "  (kept by the broker)".to_owned() } else { times };
        let _ = writeln!(text, "{last:<width$}  {}{times}", said.sample);
        above = levels;
    }
    if tree.passed_over > 0 {
        let _ = writeln!(
            text,
            "… and {} messages that were not looked at: they came too fast, or there are more than \
             {MOST_TOPICS} topics; --topic narrows it",
            tree.passed_over
        );
    }
    text + &toml(tree, listen)
}

fn indented(depth: usize, level: &str) -> String {
    format!(
        "{}{}",
        "  ".repeat(depth),
        if level.is_empty() { "(empty level)".into() } else { harmless(level) }
    )
}

/// The last level as it will stand in the tree.
fn line(topic: &str, most: usize) -> String {
    let depth = topic.matches('/').count();
    indented(depth, topic.rsplit('/').next().unwrap_or(topic)).chars().take(most).collect()
}

fn toml(tree: &Tree, listen: &Listen) -> String {
    let Some(topics) = topics_toml(tree.topics.iter().map(|(topic, said)| (topic.as_str(), &said.meaning)))
    else {
        return "\nNo message held a number, a word or a JSON object: there is nothing to configure.\n"
            .into();
    };
    let mut text = "\n# Guesses, to be held against the devices' manuals:\n[link.probed.mqtt]\n".to_owned();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut key = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = {}", quoted(value));
    };
    key("broker", &listen.broker);
    key("version", &listen.mqtt_version);
    if let Some(username) = &listen.username {
        key("username", username);
        key("password", "${credential:mqtt-password}");
    }
    let files = [("ca", &listen.ca), ("certificate", &listen.certificate), ("key", &listen.key)];
    for (name, file) in files {
        if let Some(path) = file {
            key(name, &path.to_string_lossy());
        }
    }
    text + &topics
}

/// The link that stands for a broker, by the same rules as one in agent.toml, with a name that is
/// nobody else's.
fn link(listen: &Listen) -> Result<Link, String> {
    let Listen { broker, mqtt_version, username, password_file, ca, certificate, key, .. } = listen;
    let quoted = serde_json::Value::from(broker.as_str());
    let toml = format!(
        "[agent]\nsite = \"probe\"\ngateway = \"probe\"\n[link.probed.mqtt]\nbroker = {quoted}\n\
         [[link.probed.topic]]\ntopic = \"probe\"\ndevice = \"probe\"\npoint = \"probe\"\n"
    );
    let agent = load::agent_text("what was asked for", &toml).map_err(|findings| findings.to_string())?;
    let mut link = agent.links.into_iter().next().map(Arc::unwrap_or_clone).ok_or("no link")?;
    if let Protocol::Mqtt(mqtt) = &mut link.protocol {
        // Up to 23 characters, which every broker takes (MQTT 3.1.1, 3.1.3.1).
        mqtt.client_id =
            format!("forebay-probe-{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id()));
        mqtt.version = if mqtt_version == "5" { MqttVersion::V5 } else { MqttVersion::V311 };
        mqtt.ca.clone_from(ca);
        mqtt.identity = certificate.clone().zip(key.clone());
        if let (Some(user), Some(path)) = (username, password_file) {
            let text = std::fs::read_to_string(path)
                .map_err(|why| format!("the password cannot be read: {}: {why}", path.display()))?;
            mqtt.user = Some((user.clone(), Secret::new(text.lines().next().unwrap_or_default())));
        }
    }
    Ok(link)
}

#[cfg(test)]
mod tests;
