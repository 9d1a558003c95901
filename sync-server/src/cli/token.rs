//! `forebay-server token create`: makes a join string. The secret in it is shown once; the store
//! keeps its hash.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use forebay_config::server::Server;
use forebay_protocols::sync::join::JoinString;

use crate::app;
use crate::identity::Authority;
use crate::invitation::{Invitation, Inviter};
use crate::store::Store;

/// Making join strings.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Print a join string to run `forebay-agent join` with.
    Create(Create),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// For how long it can be used: 30m, 24h, 7d.
    #[arg(long, default_value = "24h", value_parser = parse_duration)]
    expires: Duration,
    /// How many gateways it lets in.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Whose the gateways are that it lets in.
    #[arg(long, value_name = "TENANT", default_value = super::tenants::MAIN)]
    tenant: String,
    /// A word to remember what it was for.
    #[arg(long, default_value = "")]
    note: String,
    /// Whoever joins with it waits for `forebay-server agents approve`.
    #[arg(long)]
    approval: bool,
}

impl Create {
    /// Makes one and prints it, alone on its line.
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let store = super::open_store(&config).await?;
        let authority = Arc::new(Authority::open(&config.state_dir)?);
        let inviter = Inviter { authority, address: app::address(&config) };
        let join = self.make(&*store, &inviter).await?;
        super::print(&format!("{join}\n"))
    }

    async fn make(self, store: &dyn Store, inviter: &Inviter) -> Result<JoinString> {
        let tenant = super::tenants::find(&store.access(), &self.tenant).await?;
        let Self { expires, uses, note, approval, .. } = self;
        let invitation = Invitation { expires, uses, note, approval };
        inviter.invite(store, invitation, &super::tenants::act(tenant)).await.context("make a join string")
    }
}

/// A time that passes, as the configuration writes it.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    forebay_config::load::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("`{text}` is not a duration like 30m, 24h or 7d"))
}

#[cfg(test)]
mod tests {
    use forebay_protocols::boot_time::wall_micros;

    use super::*;
    use crate::ingest::tests::memory::Memory;
    use crate::store::TokenVerdict;

    #[tokio::test]
    async fn a_join_string_holds_what_the_store_and_the_ca_know() {
        let state = tempfile::tempdir().unwrap();
        let (store, authority) = (Memory::default(), Arc::new(Authority::open(state.path()).unwrap()));
        let create = Create {
            expires: Duration::from_secs(60),
            uses: 1,
            tenant: "main".into(),
            note: "north gate".into(),
            approval: false,
        };
        let join = create
            .make(&store, &Inviter { authority: authority.clone(), address: "plant:8443".into() })
            .await
            .unwrap();
        let copied: JoinString = join.to_string().parse().unwrap();
        assert_eq!(copied.ca_pin, authority.pin());
        let verdict = async |at| store.token(copied.secret.hash(), at).await.unwrap();
        assert_eq!(verdict(wall_micros()).await, TokenVerdict::Valid);
        assert_eq!(verdict(wall_micros() + 61_000_000).await, TokenVerdict::Expired);
    }

    #[tokio::test]
    async fn an_address_no_gateway_can_reach_is_refused_with_the_setting_to_change() {
        let state = tempfile::tempdir().unwrap();
        let (store, authority) = (Memory::default(), Arc::new(Authority::open(state.path()).unwrap()));
        let create = Create {
            expires: Duration::from_secs(60),
            uses: 1,
            tenant: "main".into(),
            note: String::new(),
            approval: false,
        };
        let refused =
            create.make(&store, &Inviter { authority, address: "0.0.0.0:0".into() }).await.unwrap_err();
        assert!(format!("{refused:#}").contains("sync.address"), "{refused:#}");
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "7", "d", "0h", "-1h", "1 w", "24ч", "99999999999999999999d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
