//! The fleet as `forebay-server agents` prints it: a table for people, JSON for programs.

use std::collections::HashMap;

use forebay_config::units::ByteSize;

use super::agents::{ago, name};
use super::columns::columns;
use crate::alarms::words::{count, span};
use crate::store::{AgentKey, AgentRow, Drain, Micros};

/// One object a line.
pub(super) fn json(fleet: &[AgentRow], now: Micros) -> String {
    let line = |row: &AgentRow| {
        let drain = row.drain(now);
        serde_json::json!({
            "agent": name(row),
            "joined_us": row.joined,
            "last_seen_us": row.last_seen,
            "newest_us": row.pulse.newest,
            "revoked": row.revoked,
            "version": row.report.as_ref().map(|report| &report.version),
            "backlog_readings": row.report.as_ref().map(|report| report.backlog_readings),
            "drained_us": match drain {
                Some(Drain::Nothing) => Some(now),
                Some(Drain::Until(at)) => Some(at),
                Some(Drain::Never) | None => None,
            },
            "bytes_today": row.bytes_today(now),
            "certificate_until_us": row.certificate.map(|(_, until)| until),
            "readings_stored": row.stored,
            "batches_committed": row.committed_batches,
            "batches_set_aside": row.set_aside,
        })
    };
    fleet.iter().map(|row| format!("{}\n", line(row))).collect()
}

/// One row a gateway.
pub(super) fn table(fleet: &[AgentRow], left: &HashMap<AgentKey, Micros>, now: Micros) -> String {
    if fleet.is_empty() {
        return "No gateway has joined yet. Make a join string with `forebay-server token create`.\n".into();
    }
    let headings = ["AGENT", "LAST HEARD", "LAG", "BACKLOG", "TODAY", "CERTIFICATE", "READINGS", "NOTE"];
    let mut rows = vec![headings.map(String::from).to_vec()];
    for row in fleet {
        let note = match (row.revoked, row.set_aside) {
            (true, _) if left.contains_key(&row.key) => "has left".into(),
            (true, _) => "revoked".into(),
            (false, 0) => String::new(),
            (false, batches) => format!("{batches} batches set aside"),
        };
        rows.push(vec![
            name(row),
            row.last_seen.map_or("never".into(), |seen| ago(now.saturating_sub(seen))),
            row.lag(now).map_or("-".into(), span),
            backlog(row, now),
            ByteSize(row.bytes_today(now)).to_string(),
            certificate(row, now),
            count(row.stored),
            note,
        ]);
    }
    columns(&rows)
}

fn backlog(row: &AgentRow, now: Micros) -> String {
    let Some(report) = &row.report else { return "-".into() };
    let waiting = count(report.backlog_readings);
    match row.drain(now) {
        Some(Drain::Until(at)) => format!("{waiting}, {} to go", span(at.saturating_sub(now).max(0))),
        Some(Drain::Never) => format!("{waiting}, growing"),
        Some(Drain::Nothing) | None => waiting,
    }
}

fn certificate(row: &AgentRow, now: Micros) -> String {
    match row.certificate_days(now) {
        None => "-".into(),
        Some(days) if days < 0 => "EXPIRED".into(),
        Some(1) => "1 day".into(),
        Some(days) => format!("{days} days"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use forebay_protocols::sync::wire::Report;

    use super::*;
    use crate::store::{Pace, Pulse, Traffic};

    pub fn row(gateway: &str, last_seen: Option<Micros>) -> AgentRow {
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
            pulse: Pulse::default(),
        }
    }

    const HOUR: Micros = 3_600_000_000;

    #[test]
    fn the_fleet_is_listed_with_how_far_it_is_behind_and_what_waits() {
        let now = 50 * HOUR;
        let mut busy = row("gw-1", Some(now));
        busy.certificate = Some(([0; 32], now + 41 * 24 * HOUR));
        busy.pulse = Pulse {
            newest: Some(now - 3_000_000),
            traffic: Traffic::of(now, 2_048),
            waiting: 12_000,
            pace: Some(Pace { came: 150.0, shrank: 50.0 }),
        };
        busy.report = Some(Report { backlog_readings: 12_000, received_us: now, ..Report::default() });
        let mut grows = AgentRow { set_aside: 3, ..busy.clone() };
        grows.gateway = "gw-2".into();
        grows.pulse.pace = Some(Pace { came: 50.0, shrank: -50.0 });
        let mut odd = row("gw-3", None);
        (odd.revoked, odd.stored) = (true, 0);
        odd.certificate = Some(([0; 32], now - 1));
        assert_eq!(
            table(&[busy, grows, odd], &HashMap::new(), now),
            "AGENT       LAST HEARD  LAG  BACKLOG              TODAY    CERTIFICATE  READINGS  NOTE\n\
             north/gw-1  just now    3 s  12,000, 4 min to go  2.0 KiB  41 days      1,234\n\
             north/gw-2  just now    3 s  12,000, growing      2.0 KiB  41 days      1,234     3 batches set aside\n\
             north/gw-3  never       -    -                    0 B      EXPIRED      0         revoked\n"
        );
        assert!(table(&[], &HashMap::new(), 0).contains("token create"));
        let mut gone = row("gw-1", None);
        gone.revoked = true;
        assert!(table(&[gone], &HashMap::from([(AgentKey(1), 5)]), HOUR).contains("has left"));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = json(&[row("gw-1", None), row("gw-2", Some(7))], HOUR);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&lines[1]["last_seen_us"], &lines[1]["newest_us"]),
            (&7.into(), &serde_json::Value::Null)
        );
        assert_eq!(lines[0]["agent"], "north/gw-1");
    }
}
