//! Takes secrets out of texts: those that are known, and what looks like one.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use forebay_config::agent::Agent;
use forebay_config::field::{OpcUaUser, Protocol};
use forebay_config::redact::{REMOVED, Redacted, without_passwords};

/// Shorter ones are parts of ordinary words and numbers: to take them out everywhere would leave nothing.
const SHORTEST: usize = 3;
/// Where systemd lays the credentials of the service.
const CREDENTIALS: &str = "/run/credentials/forebay-agent.service";
/// Where the service's environment stands.
const ENVIRONMENT: &str = "/etc/default/forebay-agent";
/// A word, then `=` or `:`, then a secret.
const WORDS: [&str; 6] = ["password", "passwd", "passphrase", "secret", "token", "authorization"];

/// What is known to be secret.
#[derive(Clone, Debug, Default)]
pub struct Scrub(BTreeSet<String>);

impl Scrub {
    /// Learns what was secret in a file of the configuration, and what stands behind its references.
    /// Gives its text.
    pub fn learn(&mut self, redacted: Redacted) -> String {
        let Redacted { text, secrets, variables, credentials } = redacted;
        secrets.into_iter().for_each(|secret| self.note(&secret));
        let environment = fs::read_to_string(ENVIRONMENT).unwrap_or_default();
        for variable in variables {
            if let Ok(value) = env::var(&variable) {
                self.note(&value);
            }
            for line in environment.lines() {
                let value = line.trim().trim_start_matches("export ").strip_prefix(&variable);
                if let Some(value) = value.and_then(|rest| rest.trim_start().strip_prefix('=')) {
                    self.note(value.trim().trim_matches(['"', '\'']));
                }
            }
        }
        let folders = env::var("CREDENTIALS_DIRECTORY").into_iter().chain([CREDENTIALS.to_owned()]);
        for folder in folders {
            for credential in &credentials {
                if let Ok(value) = fs::read_to_string(Path::new(&folder).join(credential)) {
                    self.note(&value);
                    self.note(value.trim());
                }
            }
        }
        text
    }

    /// Learns the secrets of the configuration as the agent understands it.
    pub fn learn_of(&mut self, config: &Agent) {
        if let Some((_, password)) = config.uplink.proxy.as_ref().and_then(|proxy| proxy.user.as_ref()) {
            self.note(password.reveal());
        }
        for link in &config.links {
            match &link.protocol {
                Protocol::Mqtt(mqtt) => {
                    mqtt.user.iter().for_each(|(_, password)| self.note(password.reveal()));
                }
                Protocol::OpcUa(opcua) => {
                    if let OpcUaUser::Password { password, .. } = &opcua.user {
                        self.note(password.reveal());
                    }
                }
                Protocol::ModbusTcp(_) | Protocol::ModbusRtu(_) => {}
            }
        }
    }

    fn note(&mut self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.0.insert(secret.to_owned());
            // As JSON and `Debug` write it.
            let escaped = serde_json::to_string(secret).unwrap_or_default();
            self.0.insert(escaped.trim_matches('"').to_owned());
        }
    }

    /// The text without any of it.
    pub fn clean(&self, text: &str) -> String {
        let mut text = without_passwords(text, &mut Vec::new());
        // The longest first: one may be the beginning of another.
        let mut secrets: Vec<_> = self.0.iter().filter(|secret| !secret.is_empty()).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            text = text.replace(secret.as_str(), REMOVED);
        }
        let mut is_key = false;
        let mut clean = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
            if begins || is_key {
                is_key = !line.contains("-----END");
                if begins {
                    clean += "(a private key was here)\n";
                }
                continue;
            }
            clean += &without_join_strings(&without_words(line));
        }
        clean
    }
}

/// `password=abc`, `token: abc`: the word after it is taken out.
fn without_words(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut clean = String::with_capacity(line.len());
    let mut at = 0;
    while let Some((start, word)) = WORDS
        .iter()
        .filter_map(|word| Some((at + lower[at..].find(word)?, word)))
        .min_by_key(|(start, _)| *start)
    {
        let mut end = start + word.len();
        clean += &line[at..end];
        let rest = &line[end..];
        let sign = rest.trim_start_matches(['"', '\'', ' ']);
        if let Some(value) = sign.strip_prefix(['=', ':']) {
            let value = value.trim_start_matches([' ', '"', '\'']);
            let length = value.find([' ', '"', '\'', ',', '\n', ')', '}']).unwrap_or(value.len());
            let value_at = line.len() - value.len();
            // A reference is a name, and what is removed is removed.
            if length > 0 && !value.starts_with("${") && !value.starts_with(REMOVED) {
                clean += &line[end..value_at];
                clean += REMOVED;
                end = value_at + length;
            }
        }
        at = end;
    }
    clean + &line[at..]
}

/// Join strings begin with `fbj` and a number.
fn without_join_strings(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find("fbj") {
        let word = &rest[start..];
        let end = word
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '=')))
            .unwrap_or(word.len());
        clean += &rest[..start];
        clean += if word[..end].len() > 8 { REMOVED } else { &word[..end] };
        rest = &word[end..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_goes_and_the_rest_stays() {
        let mut scrub = Scrub::default();
        scrub.note("hunter2");
        scrub.note("hunter22");
        let text = "user joe hunter22 hunter2x at mqtt://joe:pw@h\n-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n\
                    Password: abc, token=\"d e\" ${password} = \"${credential:x}\" joined with fbj1.AbCdEf.123 and fbj1\n";
        assert_eq!(
            scrub.clean(text),
            "user joe (removed) (removed)x at mqtt://(removed)@h\n(a private key was here)\n\
             Password: (removed), token=\"(removed) e\" ${password} = \"${credential:x}\" joined with (removed) and fbj1\n"
        );
        assert_eq!(scrub.clean("the password of joe is wrong\n"), "the password of joe is wrong\n");
    }
}
