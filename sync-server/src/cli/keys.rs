//! `forebay-server key`: API keys, for programs. A key is printed once; the store keeps its hash.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;

use super::agents::ago;
use super::tenants::{self, MAIN, act};
use super::token::parse_duration;
use crate::access::{KEY_PREFIX, Right, random};
use crate::store::{Access, Change, KeyRow, Micros, Outcome};

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make a key and print it, alone on its line.
    Add(Add),
    /// List the keys.
    List(List),
    /// Remove a key.
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// What it is called.
    name: String,
    /// What it may do: read (the API), metrics, operate, manage; separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "read", value_parser = parse_right)]
    rights: Vec<Right>,
    /// For how long it is good: 24h, 90d.
    #[arg(long, default_value = "365d", value_parser = parse_duration)]
    expires: Duration,
    /// Whose gateways it sees.
    #[arg(long, value_name = "TENANT", default_value = MAIN)]
    tenant: String,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Whose.
    #[arg(long, value_name = "TENANT", default_value = MAIN)]
    tenant: String,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// What it is called.
    name: String,
    /// Whose.
    #[arg(long, value_name = "TENANT", default_value = MAIN)]
    tenant: String,
}

fn parse_right(word: &str) -> Result<Right, String> {
    Right::of(word.trim()).ok_or_else(|| format!("`{word}` is not read, metrics, operate or manage"))
}

impl Key {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let access = super::open_store(&config).await?.access();
        let told = match self {
            Self::Add(add) => add.run(&access).await?,
            Self::List(List { json: as_json, tenant }) => {
                let tenant = tenants::find(&access, &tenant).await?;
                let keys = access.keys(Some(tenant)).await.context("list the keys")?;
                if as_json { json(&keys) } else { table(&keys, wall_micros()) }
            }
            Self::Remove(Remove { name, tenant }) => {
                let tenant = tenants::find(&access, &tenant).await?;
                let keys = access.keys(Some(tenant)).await.context("look for the key")?;
                let Some(row) = keys.iter().find(|row| row.name == name) else {
                    bail!("there is no key `{name}`; `key list` tells all");
                };
                match access.change(&act(tenant), Change::RemoveKey { key: row.key }).await? {
                    Outcome::Done(_) => format!("{name} is good for nothing from now on.\n"),
                    _ => bail!("`{name}` was removed meanwhile"),
                }
            }
        };
        super::print(&told)
    }
}

impl Add {
    async fn run(mut self, access: &Access) -> Result<String> {
        let tenant = tenants::find(access, &self.tenant).await?;
        let (key, hash) = random(KEY_PREFIX).context("make a key")?;
        let act = act(tenant);
        let life = Micros::try_from(self.expires.as_micros()).unwrap_or(Micros::MAX);
        self.rights.sort();
        self.rights.dedup();
        let change = Change::AddKey {
            hash,
            hint: key.chars().take(KEY_PREFIX.len() + 5).collect(),
            name: self.name.clone(),
            rights: self.rights,
            expires: act.at.saturating_add(life),
        };
        match access.change(&act, change).await.context("store the key")? {
            Outcome::Done(_) => Ok(format!("{key}\n")),
            _ => bail!("there is a key `{}` already", self.name),
        }
    }
}

fn words(row: &KeyRow) -> String {
    row.rights.iter().map(|right| right.word()).collect::<Vec<_>>().join(" ")
}

fn json(keys: &[KeyRow]) -> String {
    let line = |row: &KeyRow| {
        serde_json::json!({
            "name": row.name,
            "begins": row.hint,
            "rights": words(row),
            "maker": row.maker,
            "created_us": row.created,
            "expires_us": row.expires,
            "used_us": row.seen,
        })
    };
    keys.iter().map(|row| format!("{}\n", line(row))).collect()
}

fn table(keys: &[KeyRow], now: Micros) -> String {
    if keys.is_empty() {
        return "There are no keys.\n".into();
    }
    let width = keys.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text =
        format!("{:width$}  {:10}  {:28}  {:12}  {}\n", "KEY", "BEGINS", "RIGHTS", "UNTIL", "USED");
    for row in keys {
        let until = match row.expires {
            until if until <= now => "expired".to_owned(),
            until => {
                jiff::Timestamp::from_microsecond(until).map_or("?".into(), |t| t.strftime("%F").to_string())
            }
        };
        let used = row.seen.map_or("never".into(), |seen| ago(now.saturating_sub(seen)));
        text.push_str(&format!(
            "{:width$}  {:10}  {:28}  {until:12}  {used}\n",
            row.name,
            row.hint,
            words(row)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{KeyKey, TenantKey};

    #[test]
    fn a_key_is_listed_without_itself() {
        let row = KeyRow {
            key: KeyKey(1),
            tenant: TenantKey::MAIN,
            name: "grafana".into(),
            hint: "fbk_abcde".into(),
            rights: vec![Right::Read, Right::Metrics],
            maker: "user anna".into(),
            created: 0,
            expires: 90 * 86_400_000_000,
            seen: None,
        };
        let told = table(std::slice::from_ref(&row), 0);
        let line = told.lines().nth(1).unwrap();
        assert_eq!(line, "grafana  fbk_abcde   read metrics                  1970-04-01    never");
        assert!(table(std::slice::from_ref(&row), row.expires).contains("expired"));
        assert!(json(&[row]).contains("\"rights\":\"read metrics\""));
        assert!(parse_right("write").is_err());
    }
}
