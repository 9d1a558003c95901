//! `forebay-server agents`: the gateways that have joined, one a line.

use anyhow::{Context, Result};
use clap::Args;
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;

use crate::store::{AgentRow, Micros};

#[derive(Debug, Args)]
pub(super) struct Agents {
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Agents {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let fleet = super::open_store(&config).await?.fleet().await.context("list the fleet")?;
        super::print(&if self.json { json(&fleet) } else { table(&fleet, wall_micros()) })
    }
}

fn json(fleet: &[AgentRow]) -> String {
    let line = |row: &AgentRow| {
        serde_json::json!({
            "agent": format!("{}/{}", row.site, row.gateway),
            "joined_us": row.joined,
            "last_seen_us": row.last_seen,
            "revoked": row.revoked,
            "readings_stored": row.stored,
            "batches_committed": row.committed_batches,
            "batches_set_aside": row.set_aside,
        })
    };
    fleet.iter().map(|row| format!("{}\n", line(row))).collect()
}

fn table(fleet: &[AgentRow], now: Micros) -> String {
    if fleet.is_empty() {
        return "No gateway has joined yet. Make a join string with `forebay-server token create`.\n".into();
    }
    let name = |row: &AgentRow| format!("{}/{}", row.site, row.gateway);
    let width = fleet.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!("{:width$}  {:14}  {:>14}  {}\n", "AGENT", "LAST HEARD", "READINGS", "NOTE");
    for row in fleet {
        let heard = row.last_seen.map_or("never".into(), |seen| ago(now.saturating_sub(seen)));
        let note = match (row.revoked, row.set_aside) {
            (true, _) => "revoked".into(),
            (false, 0) => String::new(),
            (false, count) => format!("{count} batches set aside"),
        };
        let line = format!("{:width$}  {heard:14}  {:>14}  {note}", name(row), row.stored);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
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
    use super::*;
    use crate::store::AgentKey;

    fn row(gateway: &str, last_seen: Option<Micros>) -> AgentRow {
        AgentRow {
            key: AgentKey(1),
            site: "north".into(),
            gateway: gateway.into(),
            joined: 0,
            last_seen,
            revoked: false,
            certificate: None,
            report: None,
            stored: 1_234,
            committed_batches: 5,
            set_aside: 0,
            epoch: None,
        }
    }

    #[test]
    fn the_fleet_is_listed_with_when_it_was_heard() {
        let hour = 3_600_000_000;
        let mut odd = row("gw-2", None);
        (odd.revoked, odd.stored) = (true, 0);
        assert_eq!(
            table(&[row("gw-1", Some(hour)), odd], 3 * hour),
            "AGENT       LAST HEARD            READINGS  NOTE\n\
             north/gw-1  2 h ago                   1234\n\
             north/gw-2  never                        0  revoked\n"
        );
        assert!(table(&[], 0).contains("token create"));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = json(&[row("gw-1", None), row("gw-2", Some(7))]);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[1]["last_seen_us"], 7);
        assert_eq!(lines[0]["agent"], "north/gw-1");
    }
}
