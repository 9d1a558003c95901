//! `forebay-server faults`: what a person should know of, and what to do about it.

use std::collections::HashMap;

use anyhow::{Context, Result};
use clap::Args;
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;

use super::agents::ago;
use crate::ledger::kind_words;
use crate::store::{AgentKey, AgentRow, FaultRow, Micros};

#[derive(Debug, Args)]
pub(super) struct Faults {
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// List the last COUNT faults that are over, too.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    over: usize,
}

impl Faults {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let store = super::open_store(&config).await?;
        let fleet = store.fleet().await.context("list the fleet")?;
        let mut faults = store.faults(None, self.over).await.context("list the faults")?;
        // Stable: the newest stay first of each.
        faults.sort_by_key(|row| row.over.is_some());
        let names = fleet.iter().map(|row| (row.key, name(row))).collect();
        super::print(&if self.json { json(&faults, &names) } else { text(&faults, &names, wall_micros()) })
    }
}

fn name(row: &AgentRow) -> String {
    format!("{}/{}", row.site, row.gateway)
}

fn json(faults: &[FaultRow], names: &HashMap<AgentKey, String>) -> String {
    let line = |row: &FaultRow| {
        serde_json::json!({
            "agent": names.get(&row.fault.agent),
            "kind": kind_words(row.fault.kind),
            "subject": row.fault.subject,
            "words": row.fault.words,
            "remedy": row.fault.remedy,
            "since_us": row.fault.at,
            "last_us": row.last,
            "over_us": row.over,
        })
    };
    faults.iter().map(|row| format!("{}\n", line(row))).collect()
}

/// A paragraph each: words and remedies are sentences, which a table would cut.
fn text(faults: &[FaultRow], names: &HashMap<AgentKey, String>, now: Micros) -> String {
    if faults.is_empty() {
        return "No fault stands.\n".into();
    }
    let ago = |at: Micros| ago(now.saturating_sub(at));
    let paragraph = |row: &FaultRow| {
        let FaultRow { fault, last, over } = row;
        let agent = names.get(&fault.agent).map_or("an agent that is gone", String::as_str);
        let over = over.map_or(String::new(), |over| format!(", over {}", ago(over)));
        let (kind, words, remedy) = (kind_words(fault.kind), &fault.words, &fault.remedy);
        format!(
            "{agent}: {kind}, since {}, last seen {}{over}\n  {words}\n  What to do: {remedy}\n",
            ago(fault.at),
            ago(*last),
        )
    };
    faults.iter().map(paragraph).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Fault, FaultKind};

    const HOUR: Micros = 3_600_000_000;

    fn row(kind: FaultKind, over: Option<Micros>) -> FaultRow {
        let fault = Fault {
            agent: AgentKey(1),
            kind,
            subject: "07".into(),
            words: "It happened.".into(),
            remedy: "Look.".into(),
            at: HOUR,
        };
        FaultRow { fault, last: 2 * HOUR, over }
    }

    #[test]
    fn a_fault_is_told_with_its_age_and_what_to_do() {
        let names = HashMap::from([(AgentKey(1), "north/gw-1".to_owned())]);
        let faults = [row(FaultKind::Fork, None), row(FaultKind::Imbalance, Some(3 * HOUR))];
        assert_eq!(
            text(&faults, &names, 5 * HOUR),
            "north/gw-1: fork, since 4 h ago, last seen 3 h ago\n  It happened.\n  What to do: Look.\n\n\
             north/gw-1: imbalance, since 4 h ago, last seen 3 h ago, over 2 h ago\n  It happened.\n  \
             What to do: Look.\n"
        );
        assert_eq!(text(&[], &names, 0), "No fault stands.\n");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text =
            json(&[row(FaultKind::Wiped, None), row(FaultKind::ServerRestored, Some(7))], &HashMap::new());
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&lines[0]["kind"], &lines[0]["over_us"]),
            (&"buffer wiped".into(), &serde_json::Value::Null)
        );
        assert_eq!((&lines[1]["kind"], &lines[1]["over_us"]), (&"server restored".into(), &7.into()));
    }
}
