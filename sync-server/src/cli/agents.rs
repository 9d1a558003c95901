//! `forebay-server agents`: the gateways that have joined, one a line; who waits to be let in; letting in,
//! turning away, and shutting out.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::tls;

use super::columns::columns;
use super::listing::{json, table};
use crate::store::{AgentRow, Application, Micros, Note, Store, TenantKey, Word};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Agents {
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the gateways that wait to be let in.
    Pending {
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Let a gateway in that waits. It comes in when it asks again, within a minute.
    Approve {
        /// Its number, or SITE/GATEWAY where only one of that name waits.
        gateway: String,
    },
    /// Turn a gateway away that waits, or that was approved and has not come yet.
    Reject {
        /// Its number, or SITE/GATEWAY where only one of that name waits.
        gateway: String,
        /// Why; the gateway is told.
        #[arg(long, default_value = "")]
        because: String,
    },
    /// Let in gateways that no network leads here from: answer their requests (`forebay-agent join --offline`).
    #[command(after_help = super::answer::HELP)]
    Answer(super::answer::Answer),
    /// Shut a gateway out, within five seconds. What it stored stays; it goes on collecting, and may join again
    /// with a new token.
    Revoke {
        /// SITE/GATEWAY.
        gateway: String,
        /// Of this tenant, where several have one of that name.
        #[arg(long)]
        tenant: Option<String>,
    },
}

impl Agents {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let store = super::open_store(&config).await?;
        match self.command {
            None => {
                let fleet = store.fleet().await.context("list the fleet")?;
                let left = store.departures().await.context("list who has left")?.into_iter().collect();
                let now = wall_micros();
                super::print(&if self.json { json(&fleet, now) } else { table(&fleet, &left, now) })
            }
            Some(Command::Pending { json }) => {
                let waiting = store.applications().await.context("list who waits")?;
                let fleet = store.fleet().await.context("list the fleet")?;
                let text =
                    if json { json_of(&waiting) } else { waiting_table(&waiting, &fleet, wall_micros()) };
                super::print(&text)
            }
            Some(Command::Approve { gateway }) => {
                let found = decide(&*store, &gateway, Word::Yes).await?;
                super::print(&format!("{found} is approved, and comes in when it asks again.\n"))
            }
            Some(Command::Reject { gateway, because }) => {
                let found = decide(&*store, &gateway, Word::No(because)).await?;
                super::print(&format!("{found} is turned away. Its join token is used up.\n"))
            }
            Some(Command::Answer(answer)) => answer.run(&config, &store).await,
            Some(Command::Revoke { gateway, tenant }) => {
                let store = match tenant {
                    None => store,
                    Some(tenant) => {
                        let tenant = super::tenants::find(&store.access(), &tenant).await?;
                        store.within(tenant)
                    }
                };
                let fleet = store.fleet().await.context("list the fleet")?;
                let agent = the_one(&fleet, &gateway)?.key;
                store.revoke(agent).await.context("revoke it")?;
                let of = store.access().tenant_of(agent).await.context("find its tenant")?;
                let note = Note::new("gateway revoked", gateway.clone());
                record(&*store, of.unwrap_or(TenantKey::MAIN), note).await?;
                super::print(&format!(
                    "{gateway} is revoked: within five seconds nothing it sends is taken, and its connections are \
                     closed.\nIt goes on collecting. To let it in again: `forebay-server token create`, and on the \
                     gateway `forebay-agent join`.\n"
                ))
            }
        }
    }
}

/// The gateway of this name.
fn the_one<'a>(fleet: &'a [AgentRow], gateway: &str) -> Result<&'a AgentRow> {
    let found: Vec<_> = fleet.iter().filter(|row| name(row) == gateway).collect();
    match found.as_slice() {
        [row] => Ok(row),
        [] => bail!("no gateway {gateway} has joined; `forebay-server agents` lists those that have"),
        many => bail!("{} tenants have a gateway {gateway}; say whose is meant: --tenant NAME", many.len()),
    }
}

async fn record(store: &dyn Store, tenant: TenantKey, note: Note) -> Result<()> {
    store.access().record(&super::tenants::act(tenant), note).await.context("write the audit")
}

/// Finds who is meant, and says the word. Gives its name.
async fn decide(store: &dyn Store, wanted: &str, word: Word) -> Result<String> {
    let waiting = store.applications().await.context("list who waits")?;
    let found = choose(&waiting, wanted)?;
    let action = match word {
        Word::Yes => "gateway approved",
        Word::No(_) => "gateway rejected",
    };
    if !store.decide(found.id, word, wall_micros()).await.context("keep the decision")? {
        bail!("{wanted} waits no longer; `forebay-server agents pending` shows who does");
    }
    let (gateway, key) = (format!("{}/{}", found.site, found.gateway), tls::key_words(&found.key_hash));
    let note = Note::new(action, gateway.clone()).from_to("", format!("key {key}"));
    record(store, found.tenant, note).await?;
    Ok(format!("{gateway} (key {key})"))
}

fn choose<'a>(waiting: &'a [Application], wanted: &str) -> Result<&'a Application> {
    let is_it = |one: &&Application| {
        one.id.0.to_string() == wanted || format!("{}/{}", one.site, one.gateway) == wanted
    };
    let found: Vec<_> = waiting.iter().filter(is_it).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => bail!("nobody waits as {wanted}; `forebay-server agents pending` shows who does"),
        many => bail!(
            "{} gateways wait as {wanted}: compare their keys with what `forebay-agent join` shows on the gateway, \
             and give the number",
            many.len()
        ),
    }
}

fn json_of(waiting: &[Application]) -> String {
    let line = |one: &Application| {
        serde_json::json!({
            "number": one.id.0,
            "agent": format!("{}/{}", one.site, one.gateway),
            "key": tls::key_words(&one.key_hash),
            "from": one.peer,
            "version": one.version,
            "asked_us": one.asked,
            "last_asked_us": one.last_asked,
            "approved": one.approved,
            "note": one.note,
        })
    };
    waiting.iter().map(|one| format!("{}\n", line(one))).collect()
}

fn waiting_table(waiting: &[Application], fleet: &[AgentRow], now: Micros) -> String {
    if waiting.is_empty() {
        return "Nobody waits.\n".into();
    }
    let mut rows =
        vec![["NUMBER", "GATEWAY", "KEY", "FROM", "LAST ASKED", "NOTE"].map(String::from).to_vec()];
    for one in waiting {
        let gateway = format!("{}/{}", one.site, one.gateway);
        let mut notes = Vec::new();
        if one.approved {
            notes.push("approved".to_owned());
        }
        if fleet.iter().any(|row| name(row) == gateway && !row.revoked) {
            notes.push("TAKES THE PLACE of the gateway of this name".to_owned());
        }
        if !one.note.is_empty() {
            notes.push(one.note.clone());
        }
        rows.push(vec![
            one.id.0.to_string(),
            gateway,
            tls::key_words(&one.key_hash),
            one.peer.clone(),
            ago(now.saturating_sub(one.last_asked)),
            notes.join("; "),
        ]);
    }
    columns(&rows)
}

pub(super) fn name(row: &AgentRow) -> String {
    format!("{}/{}", row.site, row.gateway)
}

/// How long ago, in words.
pub(super) fn ago(micros: Micros) -> String {
    match micros / 1_000_000 {
        ..60 => "just now".into(),
        seconds @ 60..3_600 => format!("{} min ago", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::tests::row;
    use super::*;

    fn application(number: i64, gateway: &str) -> Application {
        Application {
            id: crate::store::ApplicationId(number),
            tenant: TenantKey::MAIN,
            site: "north".into(),
            gateway: gateway.into(),
            key_hash: [number as u8; 32],
            peer: "10.0.0.7".into(),
            version: "0.1.0".into(),
            asked: 0,
            last_asked: 0,
            approved: number == 2,
            note: "hall".into(),
        }
    }

    #[test]
    fn who_waits_is_shown_with_the_key_to_compare_and_whom_it_would_replace() {
        let waiting = [application(1, "gw-1"), application(2, "gw-9")];
        assert_eq!(
            waiting_table(&waiting, &[row("gw-1", None)], 120_000_000),
            "NUMBER  GATEWAY     KEY                  FROM      LAST ASKED  NOTE\n\
             1       north/gw-1  0101-0101-0101-0101  10.0.0.7  2 min ago   TAKES THE PLACE of the gateway of this name; hall\n\
             2       north/gw-9  0202-0202-0202-0202  10.0.0.7  2 min ago   approved; hall\n"
        );
        assert_eq!(waiting_table(&[], &[], 0), "Nobody waits.\n");
    }

    #[test]
    fn who_is_meant_must_be_clear() {
        let waiting = [application(1, "gw-1"), application(2, "gw-1"), application(3, "gw-2")];
        assert_eq!(choose(&waiting, "north/gw-2").unwrap().id.0, 3);
        assert_eq!(choose(&waiting, "2").unwrap().id.0, 2);
        assert!(choose(&waiting, "north/gw-1").unwrap_err().to_string().contains("compare their keys"));
        assert!(choose(&waiting, "9").unwrap_err().to_string().contains("agents pending"));
    }

    #[test]
    fn two_tenants_gateways_of_one_name_are_told_apart() {
        let fleet = [row("gw-1", None), row("gw-1", None), row("gw-2", None)];
        assert_eq!(the_one(&fleet, "north/gw-2").unwrap().gateway, "gw-2");
        assert!(the_one(&fleet, "north/gw-1").unwrap_err().to_string().contains("--tenant"));
        assert!(the_one(&fleet, "north/gw-3").unwrap_err().to_string().contains("agents"));
    }
}
