//! `forebay-server ca`: the CA that gateways trust, and how a new one takes its place.
//!
//! Exit code 1 of `retire`: some gateways do not trust the new one yet, and would have to join again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::offline::pin_words;

use super::token::parse_duration;
use crate::identity::{Authority, Handover};
use crate::store::{Micros, Note, Store, TenantKey};

/// Of gateways that do not trust the new CA yet so many are named.
const NAMED: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the CA, and who trusts it already while it takes the place of another.
    Status {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Put a new CA in the place of this one. Running servers and gateways take it over by themselves; both are
    /// trusted until the overlap is over. The former key is deleted.
    Rotate {
        /// For how long gateways that know only the former one are let in and brought over: 90d.
        #[arg(long, default_value = "180d", value_parser = parse_duration)]
        overlap: Duration,
        /// A CA of your own: a PEM file with its key and certificate.
        #[arg(long, value_name = "PATH")]
        with: Option<PathBuf>,
        /// Even while an earlier change is not over: gateways that know only the CA before must join again.
        #[arg(long)]
        force: bool,
    },
    /// End the trust in the former CA before its time.
    Retire {
        /// Even if some gateways must then join again.
        #[arg(long)]
        force: bool,
    },
}

impl Command {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let store = super::open_store(&config).await?;
        let authority = Authority::open(&config.state_dir)?;
        let fleet = store.fleet().await.context("list the fleet")?;
        let handover = authority.handover(&fleet);
        match self {
            Self::Status { json: true } => super::print(&format!("{}\n", json(&authority, &handover))),
            Self::Status { json: false } => super::print(&words(&authority, &handover, wall_micros())),
            Self::Rotate { overlap, with, force } => {
                if authority.former().is_some() && !force {
                    bail!(
                        "a former CA is still trusted, and there can be one only; see `forebay-server ca status`, end \
                         it with `forebay-server ca retire`, or use --force"
                    );
                }
                let own = with
                    .map(|path| {
                        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
                    })
                    .transpose()?;
                let seconds = i64::try_from(overlap.as_secs()).unwrap_or(i64::MAX / 2);
                let was = pin_words(&authority.pin());
                authority.rotate(own.as_deref(), seconds)?;
                let note = Note::new("CA changed", "").from_to(was, pin_words(&authority.pin()));
                record(&*store, note).await?;
                let handover = authority.handover(&fleet);
                super::print(&format!(
                    "{}\nServers that run take it over within seconds, if they share this ca.pem; copy it to those \
                     that do not. Back it up: `forebay-server backup`.\n",
                    words(&authority, &handover, wall_micros()).trim_end()
                ))
            }
            Self::Retire { force } => {
                if authority.former().is_none() {
                    return super::print("There is no former CA.\n");
                }
                if !handover.awaited.is_empty() && !force {
                    bail!(
                        "{} gateways do not trust the new CA yet, and would have to join again:\n{}Wait until they \
                         have been heard of, or use --force",
                        handover.awaited.len(),
                        named(&handover, wall_micros())
                    );
                }
                authority.retire()?;
                record(&*store, Note::new("former CA retired", "")).await?;
                super::print("The former CA is trusted no more.\n")
            }
        }
    }
}

async fn record(store: &dyn Store, note: Note) -> Result<()> {
    store.access().record(&super::tenants::act(TenantKey::MAIN), note).await.context("write the audit")
}

fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "ever".into(), |time| time.strftime("%F").to_string())
}

fn words(authority: &Authority, handover: &Handover, now: Micros) -> String {
    let mut text =
        format!("CA          {}…, generation {}\n", pin_words(&authority.pin()), authority.generation());
    let Some(former) = authority.former() else {
        text.push_str("Former CA   none\n");
        return text;
    };
    text.push_str(&format!(
        "Former CA   {}…, trusted until {}\n",
        pin_words(&former.pin),
        date(former.until)
    ));
    let (arrived, all) = (handover.arrived.len(), handover.arrived.len() + handover.awaited.len());
    text.push_str(&format!("Gateways    {arrived} of {all} trust the new one\n"));
    match handover.awaited.is_empty() {
        true => text.push_str("The former one can go: `forebay-server ca retire`.\n"),
        false => text.push_str(&format!("Not yet:\n{}", named(handover, now))),
    }
    text
}

fn named(handover: &Handover, now: Micros) -> String {
    let heard = |seen: Option<Micros>| seen.map_or("never".into(), |seen| super::agents::ago(now - seen));
    let mut text: String = handover
        .awaited
        .iter()
        .take(NAMED)
        .map(|(name, seen)| format!("  {name}, last heard of: {}\n", heard(*seen)))
        .collect();
    if let Some(more @ 1..) = handover.awaited.len().checked_sub(NAMED) {
        text.push_str(&format!("  and {more} more\n"));
    }
    text
}

fn json(authority: &Authority, handover: &Handover) -> serde_json::Value {
    serde_json::json!({
        "pin": pin_words(&authority.pin()),
        "generation": authority.generation(),
        "former": authority.former().map(|former| serde_json::json!({
            "pin": pin_words(&former.pin), "until": date(former.until),
        })),
        "arrived": handover.arrived,
        "awaited": handover.awaited.iter().map(|(name, seen)| serde_json::json!({
            "agent": name, "last_seen_us": seen,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_trust_the_new_ca_yet_is_named() {
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(state.path()).unwrap();
        let nobody = Handover { arrived: vec![], awaited: vec![] };
        assert!(words(&authority, &nobody, 0).contains("none"));
        authority.rotate(None, 86_400).unwrap();
        let awaited = (0..22).map(|n| (format!("hall/gw-{n}"), (n == 0).then_some(0))).collect();
        let handover = Handover { arrived: vec!["hall/here".into()], awaited };
        let text = words(&authority, &handover, 7_200_000_000);
        for part in [
            "generation 1",
            "1 of 23",
            "hall/gw-0, last heard of: 2 h ago",
            "gw-1, last heard of: never",
            "and 2 more",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(words(&authority, &nobody, 0).contains("ca retire"));
        assert_eq!(json(&authority, &handover)["awaited"][0]["agent"], "hall/gw-0");
    }
}
