//! The table at the end.

use std::time::Duration;

use serde_json::{Value, json};

use super::Tally;

/// A family's line.
pub struct Row {
    /// Which.
    pub family: &'static str,
    /// The seed it began with.
    pub seed: u64,
    /// What came of it.
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
}

/// The table in words, or as JSON.
pub fn report(rows: &[Row], as_json: bool) -> String {
    if as_json {
        return json!({ "families": rows.iter().map(Row::json).collect::<Vec<_>>() }).to_string();
    }
    let mut text = String::from(
        "family     faults injected  readings produced  lost  twice  stores not opened  gaps unaccounted  other  seconds\n",
    );
    for row in rows {
        let tally = &row.tally;
        text += &match &tally.skipped {
            Some(why) => format!("{:<10} not tried: {why}\n", row.family),
            None => format!(
                "{:<10} {:>15}  {:>17}  {:>4}  {:>5}  {:>17}  {:>16}  {:>5}  {:>7.1}\n",
                row.family,
                tally.faults,
                tally.produced,
                tally.lost,
                tally.twice,
                tally.unopened,
                tally.unaccounted,
                tally.other,
                row.took.as_secs_f64()
            ),
        };
    }
    for row in rows {
        for note in &row.tally.notes {
            text += &format!("{}: {note}\n", row.family);
        }
        for broken in &row.tally.broken {
            text += &format!("{} BROKEN, {broken}\n", row.family);
        }
    }
    text
}

impl Row {
    fn json(&self) -> Value {
        let tally = &self.tally;
        json!({
            "family": self.family, "seed": self.seed, "faults": tally.faults, "readings": tally.produced,
            "lost": tally.lost, "twice": tally.twice, "not_opened": tally.unopened,
            "unaccounted": tally.unaccounted, "other": tally.other, "broken": tally.broken,
            "skipped": tally.skipped, "notes": tally.notes, "seconds": self.took.as_secs_f64(),
            "slowest_opening_ms": tally.slowest_opening.as_secs_f64() * 1e3,
        })
    }
}
