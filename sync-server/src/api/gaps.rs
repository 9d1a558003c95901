//! `/gaps`: where readings are missing, and why; and the same as a file.

use std::fmt::Write as _;

use axum::Json;
use axum::http::header;
use axum::response::IntoResponse;
use forebay_protocols::sync::wire::gap::Reason;
use serde::Deserialize;
use serde_json::{Value, json};

use super::csv::cell;
use super::guard::Caller;
use super::parameters::{Parameters, range, within};
use super::problem::Problem;
use super::words::{agent_in, agent_names, now, time};
use crate::store::{GapQuery, GapRow, rfc3339};

/// Gaps in one file.
const MOST: usize = 100_000;

/// Each with its word, and what it means.
const REASONS: [(Reason, &str, &str); 9] = [
    (Reason::DeviceSilent, "device silent", "the device did not answer"),
    (
        Reason::AgentDown,
        "agent down",
        "the agent did not run: it was stopped, or the gateway was without power",
    ),
    (
        Reason::BufferFull,
        "buffer full",
        "the gateway's buffer was full: the oldest readings made room for new ones",
    ),
    (
        Reason::Thinned,
        "thinned out",
        "the gateway's buffer was full: every second reading made room for new ones",
    ),
    (Reason::Corrupt, "corrupt", "what the gateway had kept was damaged on its disk"),
    (Reason::Clock, "clock", "the gateway did not know the time"),
    (
        Reason::ServerLost,
        "server lost it",
        "the server's database was restored to an older state, and the gateway had forgotten",
    ),
    (
        Reason::Wiped,
        "buffer wiped",
        "the gateway came back with a new buffer: what the old one still held is gone",
    ),
    (Reason::Unspecified, "unspecified", "nobody knows why"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: Option<String>,
    /// Of this device, or a point of it.
    device: Option<String>,
    /// A word of [`REASONS`].
    reason: Option<String>,
    /// Default `-1d`.
    from: Option<String>,
    /// Default `now`.
    to: Option<String>,
    /// `from`, or `-from`: the latest first.
    sort: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn gaps(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let limit = within("limit", wanted.limit, 200, 1..=1_000)?;
    let (rows, more, names) = find(&caller, wanted, limit).await?;
    let gaps: Vec<Value> = rows.iter().zip(&names).map(|(row, name)| gap(name.as_deref(), row)).collect();
    Ok(Json(json!({ "gaps": gaps, "more": more })))
}

pub(super) async fn gaps_csv(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<impl IntoResponse, Problem> {
    let limit = within("limit", wanted.limit, MOST, 1..=MOST)?;
    let is_limited = wanted.limit.is_some();
    let (rows, more, names) = find(&caller, wanted, limit).await?;
    if more && !is_limited {
        return Err(Problem::BadRequest(format!(
            "the range holds more than {MOST} gaps: ask for less time, for one agent, or for one reason"
        )));
    }
    let mut text = String::from("from,to,seconds,gateway,device,point,readings,reason,words\r\n");
    for (row, name) in rows.iter().zip(&names) {
        let GapRow { gap, .. } = row;
        let (device, point) = whose(row);
        let (word, words) = told(gap.reason());
        let [from, to] = [gap.from_us, gap.to_us].map(|at| rfc3339(at).unwrap_or_default());
        let _ = write!(
            text,
            "{from},{to},{},{},{},{},{},{word},{}\r\n",
            gap.to_us.saturating_sub(gap.from_us) as f64 / 1e6,
            cell(name.as_deref().unwrap_or_default()),
            cell(device.unwrap_or_default()),
            cell(point.unwrap_or_default()),
            if gap.count == 0 { String::new() } else { gap.count.to_string() },
            cell(words),
        );
    }
    let fixed = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"forebay-gaps.csv\""),
    ];
    Ok((fixed, text))
}

/// Rows, whether the limit cut some off, and the names of their agents.
async fn find(
    caller: &Caller,
    wanted: Wanted,
    limit: usize,
) -> Result<(Vec<GapRow>, bool, Vec<Option<String>>), Problem> {
    let Wanted { agent, device, reason, from, to, sort, .. } = wanted;
    let (from, to) = range(from.as_deref().unwrap_or("-1d"), to.as_deref().unwrap_or("now"), now())?;
    let reason = reason.map(|word| parsed(&word)).transpose()?;
    let latest_first = match sort.as_deref() {
        None | Some("from") => false,
        Some("-from") => true,
        Some(other) => {
            return Err(Problem::BadRequest(format!("sort: `{other}` is neither `from` nor `-from`")));
        }
    };
    let fleet = caller.fleet.with(agent.as_deref()).await?;
    let agent = agent.map(|name| agent_in(&fleet, &name)).transpose()?;
    let names = agent_names(&fleet.agents);
    // One more than asked for tells whether that was all.
    let query = GapQuery { agent, from, to, reason, device, latest_first, most: limit + 1 };
    let mut rows = caller.store.find_gaps(&query).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let names = rows.iter().map(|row| names.get(&row.agent).cloned()).collect();
    Ok((rows, more, names))
}

fn gap(agent: Option<&str>, row: &GapRow) -> Value {
    let GapRow { gap, .. } = row;
    let (device, name) = whose(row);
    let (word, words) = told(gap.reason());
    json!({
        "agent": agent,
        "point": (gap.point != 0).then_some(gap.point),
        "device": device,
        "name": name,
        "from": time(gap.from_us),
        "to": time(gap.to_us),
        "count": (gap.count != 0).then_some(gap.count),
        "reason": word,
        "words": words,
    })
}

/// Device and point.
fn whose(row: &GapRow) -> (Option<&str>, Option<&str>) {
    match &row.point {
        Some((device, name)) => (Some(device), Some(name)),
        None => (Some(row.gap.device.as_str()).filter(|device| !device.is_empty()), None),
    }
}

fn told(reason: Reason) -> (&'static str, &'static str) {
    REASONS
        .into_iter()
        .find(|(of, ..)| *of == reason)
        .map_or(("unspecified", ""), |(_, word, words)| (word, words))
}

fn parsed(word: &str) -> Result<Reason, Problem> {
    let found = REASONS.into_iter().find(|(_, of, _)| *of == word).map(|(reason, ..)| reason);
    found.ok_or_else(|| {
        let known: Vec<String> = REASONS.iter().map(|(_, word, _)| format!("`{word}`")).collect();
        Problem::BadRequest(format!("reason: `{word}` is none of {}", known.join(", ")))
    })
}
