//! `forebay-agent opcua trust`: which certificate each OPC UA server must show. An agent may run
//! meanwhile, and finds what was decided at its next attempt.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Subcommand;
use forebay_config::agent::Agent;
use forebay_config::field::{OpcUa, Protocol};
use forebay_protocols::field::opcua::{Shown, Trust};

use super::{ConfigPath, FAILED, complain, say, with_config};
use crate::fittings::opcua_application;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show which certificates are trusted and which were refused; with a thumbprint, trust one.
    Trust {
        /// Only of this link.
        link: Option<String>,
        /// Trust the refused certificate with this thumbprint. Compare it with what the server itself
        /// shows first.
        #[arg(long, requires = "link", value_name = "HEX")]
        thumbprint: Option<String>,
        #[command(flatten)]
        config: ConfigPath,
    },
}

/// Does it.
pub fn run(command: Command) -> ExitCode {
    let Command::Trust { link, thumbprint, config: ConfigPath { config } } = command;
    with_config(&config, |config| match answer(&config, link.as_deref(), thumbprint.as_deref()) {
        Ok(words) => say(words.trim_end()),
        Err(why) => {
            complain(&why);
            ExitCode::from(FAILED)
        }
    })
}

fn answer(config: &Agent, wanted: Option<&str>, thumbprint: Option<&str>) -> Result<String, String> {
    let links: Vec<(&str, &OpcUa)> = config
        .links
        .iter()
        .filter_map(|link| match &link.protocol {
            Protocol::OpcUa(opcua) => Some((link.name.as_str(), opcua)),
            _ => None,
        })
        .collect();
    let chosen: Vec<_> =
        links.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = links.iter().map(|(name, _)| *name).collect();
        return Err(match (wanted, names.as_slice()) {
            (_, []) => "there is no OPC UA link in the configuration".to_owned(),
            (Some(wanted), names) => {
                format!("there is no OPC UA link `{wanted}`; there are {}", names.join(", "))
            }
            (None, _) => "there is no OPC UA link".to_owned(),
        });
    }
    let application = opcua_application(&config.site, &config.gateway, &config.state_dir);
    let mut text = String::new();
    for (name, opcua) in chosen {
        let trust = Trust::of(&application, &opcua.endpoint).map_err(|why| why.to_string())?;
        if let Some(thumbprint) = thumbprint {
            return accept(name, opcua, &trust, thumbprint);
        }
        let _ = writeln!(text, "link {name}, {}", opcua.endpoint);
        if let Some(file) = &opcua.server_certificate {
            let _ = writeln!(text, "  must show {} (`server_certificate`)", file.display());
            continue;
        }
        let line = |word: &str, shown: &Shown| format!("  {word} {}  {}\n", shown.thumbprint, shown.words);
        match (&trust.trusted, opcua.trust_first_contact) {
            (Some(shown), _) => text += &line("trusted", shown),
            (None, true) => {
                text += "  nothing is known yet; the first certificate is trusted and remembered\n"
            }
            (None, false) => text += "  nothing is trusted yet\n",
        }
        if let Some(shown) = &trust.refused {
            text += &line("refused", shown);
            let _ = writeln!(
                text,
                "  Compare it with what the server itself shows, then:\n  \
                 forebay-agent opcua trust {name} --thumbprint {}",
                shown.thumbprint
            );
        }
    }
    Ok(text)
}

fn accept(name: &str, opcua: &OpcUa, trust: &Trust, thumbprint: &str) -> Result<String, String> {
    if opcua.server_certificate.is_some() {
        return Err(format!(
            "link {name} must show the certificate of `server_certificate`: put the new one into that file"
        ));
    }
    let Some(refused) = &trust.refused else {
        return Err(format!("no certificate of link {name} was refused"));
    };
    match trust.accept(thumbprint) {
        Ok(true) => Ok(format!("Link {name} trusts {} from its next attempt on.", refused.thumbprint)),
        Ok(false) => Err(format!(
            "the refused certificate of link {name} has another thumbprint: {}. Nothing was changed",
            refused.thumbprint
        )),
        Err(why) => Err(why.to_string()),
    }
}
