//! `/fleet`: every agent the server knows, online or not, in pages. Agents never vanish.

mod backlog;
mod order;

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use forebay_protocols::sync::wire;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::faults::fault;
use super::guard::Caller;
use super::ledger::dropped_by;
use super::parameters::{Nothing, Parameters, within};
use super::problem::Problem;
use super::roster::Muster;
use super::words::{agent_name, no_such_agent, now, time};
use crate::ledger::Dropped;
use crate::live::Refusal;
use crate::store::{AgentRow, FaultRow, Micros, SILENT_AFTER, TenantKey};

use backlog::Backlog;
pub(super) use backlog::TRENDS;
pub(super) use order::keys as sort_keys;
use order::{Order, name_in};

/// What `fields` may name: the keys of an agent.
const FIELDS: [&str; 22] = [
    "agent",
    "site",
    "gateway",
    "state",
    "joined",
    "last_seen",
    "newest",
    "lag_s",
    "version",
    "uptime_s",
    "clock",
    "certificate_valid_until",
    "certificate_days",
    "bytes_today",
    "backlog",
    "ledger",
    "batches",
    "device_counts",
    "devices",
    "faults",
    "refused",
    "epoch",
];

/// None is overlooked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`: this one alone.
    agent: Option<String>,
    site: Option<String>,
    /// A part of `site/gateway`, any case.
    search: Option<String>,
    /// A state, or `faulty`.
    state: Option<String>,
    sort: Option<String>,
    /// Keys of an agent, separated by commas.
    fields: Option<String>,
    limit: Option<usize>,
    /// `next` of the page before.
    after: Option<String>,
    /// Agents to pass over.
    offset: Option<usize>,
}

pub(super) async fn fleet(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Problem> {
    let limit = within("limit", wanted.limit, 200, 1..=1_000)?;
    let offset = within("offset", wanted.offset, 0, 0..=usize::MAX)?;
    let fields = wanted.fields.as_deref().map(fields).transpose()?;
    let sort = wanted.sort.as_deref().map_or(Ok(Order::default()), Order::parse)?;
    let filter = Filter::of(&wanted)?;
    let after = wanted.after.as_deref().map(name_in);
    let muster = caller.fleet.with(wanted.agent.as_deref().or(after)).await?;
    let now = now();
    let mut found: Vec<&AgentRow> =
        muster.agents.iter().filter(|row| filter.takes(row, &muster, now)).collect();
    sort.apply(&mut found, now);
    let matching = found.len();
    let first = match &wanted.after {
        None => 0,
        Some(cursor) => {
            let name = name_in(cursor);
            let last = muster.agent(name).ok_or_else(|| no_such_agent(name))?;
            let last = sort.place_of(cursor, last, now)?;
            found.partition_point(|row| sort.compare(sort.place(row, now), last).is_le())
        }
    };
    let page: Vec<&AgentRow> = found.into_iter().skip(first.saturating_add(offset)).take(limit).collect();
    let is_last = first.saturating_add(offset).saturating_add(page.len()) >= matching;
    let next = page.last().filter(|_| !is_last).map(|row| sort.cursor(row, now));
    let fields = fields.as_deref().unwrap_or(&FIELDS);
    let agents: Vec<Agent<'_>> = page
        .iter()
        .map(|row| Agent {
            fields,
            seen: Seen { row, faults: muster.faults(row.key), refusal: caller.feed.refusal(row.key), now },
        })
        .collect();
    let answer = Answer {
        // Where the database lies is for those who run the server.
        store: Some(caller.store.describe()).filter(|_| caller.identity.tenant == TenantKey::MAIN),
        time: time(now),
        summary: Summary::of(muster.agents.iter(), &muster, now).json(),
        matching,
        agents,
        next,
    };
    // Written straight from the rows: a tree of a thousand agents costs more than their text. Writing to
    // memory does not fail.
    let text = serde_json::to_vec(&answer).unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// `/sites`: the same counts, site by site.
pub(super) async fn sites(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let (muster, now) = (caller.fleet.muster().await?, now());
    let of_site = muster.agents.chunk_by(|a, b| a.site == b.site);
    let sites: Vec<Value> = of_site
        .filter_map(|agents| {
            let mut counts = Summary::of(agents.iter(), &muster, now).json();
            counts.as_object_mut()?.insert("site".into(), agents.first()?.site.clone().into());
            Some(counts)
        })
        .collect();
    Ok(Json(json!({ "time": time(now), "sites": sites })))
}

/// How many agents are how.
#[derive(Default)]
struct Summary {
    agents: u64,
    online: u64,
    silent: u64,
    never_seen: u64,
    revoked: u64,
    faulty: u64,
    stored: u64,
    backlog_readings: u64,
}

impl Summary {
    fn of<'a>(rows: impl Iterator<Item = &'a AgentRow>, muster: &Muster, now: Micros) -> Self {
        let mut counts = Self::default();
        for row in rows {
            counts.agents += 1;
            match state(row, now) {
                "online" => counts.online += 1,
                "silent" => counts.silent += 1,
                "revoked" => counts.revoked += 1,
                _ => counts.never_seen += 1,
            }
            counts.faulty += u64::from(!muster.faults(row.key).is_empty());
            counts.stored = counts.stored.saturating_add(row.stored);
            let backlog = row.report.as_ref().map_or(0, |report| report.backlog_readings);
            counts.backlog_readings = counts.backlog_readings.saturating_add(backlog);
        }
        counts
    }

    fn json(&self) -> Value {
        let Self { agents, online, silent, never_seen, revoked, faulty, stored, backlog_readings } = self;
        json!({
            "agents": agents, "online": online, "silent": silent, "never_seen": never_seen, "revoked": revoked,
            "faulty": faulty, "stored": stored, "backlog_readings": backlog_readings,
        })
    }
}

/// Which agents are asked for.
struct Filter<'a> {
    agent: Option<&'a str>,
    site: Option<&'a str>,
    search: Option<String>,
    state: Option<&'a str>,
}

impl<'a> Filter<'a> {
    fn of(wanted: &'a Wanted) -> Result<Self, Problem> {
        let state = wanted.state.as_deref();
        const STATES: [&str; 5] = ["online", "silent", "never seen", "revoked", "faulty"];
        if let Some(state) = state.filter(|state| !STATES.contains(state)) {
            return Err(Problem::BadRequest(format!("state: `{state}` is none of {}", STATES.join(", "))));
        }
        let search = wanted.search.as_deref().filter(|search| !search.is_empty()).map(str::to_lowercase);
        Ok(Self { agent: wanted.agent.as_deref(), site: wanted.site.as_deref(), search, state })
    }

    fn takes(&self, row: &AgentRow, muster: &Muster, now: Micros) -> bool {
        self.agent.is_none_or(|name| name.split_once('/') == Some((&row.site, &row.gateway)))
            && self.site.is_none_or(|site| site == row.site)
            && self.search.as_ref().is_none_or(|part| agent_name(row).to_lowercase().contains(part))
            && match self.state {
                None => true,
                Some("faulty") => !muster.faults(row.key).is_empty(),
                Some(wanted) => wanted == state(row, now),
            }
    }
}

/// The keys asked for.
fn fields(text: &str) -> Result<Vec<&'static str>, Problem> {
    text.split(',')
        .map(|word| {
            FIELDS.into_iter().find(|field| *field == word.trim()).ok_or_else(|| {
                let all = FIELDS.join(", ");
                Problem::BadRequest(format!("fields: an agent has no `{word}`; it has {all}"))
            })
        })
        .collect()
}

/// What is known of an agent.
struct Seen<'a> {
    row: &'a AgentRow,
    faults: &'a [FaultRow],
    refusal: Option<Refusal>,
    now: Micros,
}

#[derive(Serialize)]
struct Answer<'a> {
    store: Option<String>,
    time: Value,
    summary: Value,
    matching: usize,
    agents: Vec<Agent<'a>>,
    next: Option<String>,
}

/// An agent, and which of its keys are told.
struct Agent<'a> {
    fields: &'a [&'static str],
    seen: Seen<'a>,
}

impl Serialize for Agent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields.iter().map(|&key| (key, Field { key, seen: &self.seen })))
    }
}

struct Field<'a> {
    key: &'static str,
    seen: &'a Seen<'a>,
}

#[derive(Serialize)]
struct Clock {
    synchronised: Option<bool>,
    offset_ms: Option<i64>,
}

#[derive(Serialize)]
struct Ledger {
    produced: Option<u64>,
    filtered: Option<u64>,
    in_hand: Option<u64>,
    appended: Option<u64>,
    dropped: Option<u64>,
    dropped_by: Option<Value>,
    acknowledged: Option<u64>,
    stored: u64,
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Seen { row, faults, refusal, now } = self.seen;
        let report = row.report.as_ref();
        // What no report told is unknown, and must not look like a zero.
        let told = |count: fn(&wire::Report) -> u64| report.map(count);
        match self.key {
            "agent" => to.collect_str(&format_args!("{}/{}", row.site, row.gateway)),
            "site" => row.site.serialize(to),
            "gateway" => row.gateway.serialize(to),
            "state" => state(row, *now).serialize(to),
            "joined" => time(row.joined).serialize(to),
            "last_seen" => row.last_seen.map(time).serialize(to),
            "newest" => row.pulse.newest.map(time).serialize(to),
            "lag_s" => row.lag(*now).map(|lag| lag / 1_000_000).serialize(to),
            "version" => report.map(|report| &report.version).serialize(to),
            "uptime_s" => told(|report| report.uptime_s).serialize(to),
            "clock" => {
                let synchronised = report.map(|report| report.synchronised);
                Clock { synchronised, offset_ms: offset_ms(row) }.serialize(to)
            }
            "certificate_valid_until" => row.certificate.map(|(_, until)| time(until)).serialize(to),
            "certificate_days" => row.certificate_days(*now).serialize(to),
            "bytes_today" => row.bytes_today(*now).serialize(to),
            "backlog" => Backlog::of(row, *now).serialize(to),
            "ledger" => Ledger {
                produced: told(|report| report.produced),
                filtered: told(|report| report.filtered),
                in_hand: told(|report| report.in_hand),
                appended: told(|report| report.appended),
                dropped: told(|report| report.dropped),
                dropped_by: report.map(|report| dropped_by(Dropped::of(report))),
                acknowledged: told(|report| report.acknowledged),
                stored: row.stored,
            }
            .serialize(to),
            "batches" => Batches { committed: row.committed_batches, set_aside: row.set_aside }.serialize(to),
            "device_counts" => device_counts(report).serialize(to),
            "devices" => to.collect_seq(devices(report).iter().map(Device::of)),
            "faults" => to.collect_seq(faults.iter().map(|one| fault(Some(&agent_name(row)), one))),
            "refused" => {
                let told = |Refusal { at, words }: &Refusal| json!({ "time": time(*at), "words": words });
                refusal.as_ref().map(told).serialize(to)
            }
            "epoch" => row.epoch.map(|epoch| epoch.to_string()).serialize(to),
            _ => to.serialize_unit(),
        }
    }
}

#[derive(Serialize)]
struct Batches {
    committed: u64,
    set_aside: u64,
}

fn devices(report: Option<&wire::Report>) -> &[wire::report::Device] {
    report.map_or(&[], |report| &report.devices)
}

/// How many there are, how many are silent, and the words of the first of those.
#[derive(Serialize)]
struct DeviceCounts<'a> {
    all: usize,
    silent: usize,
    first_silent: Option<Device<'a>>,
}

fn device_counts(report: Option<&wire::Report>) -> DeviceCounts<'_> {
    let devices = devices(report);
    let mut silent = devices.iter().filter(|device| !device.answers);
    let first = silent.next();
    DeviceCounts {
        all: devices.len(),
        silent: silent.count() + usize::from(first.is_some()),
        first_silent: first.map(Device::of),
    }
}

#[derive(Serialize)]
struct Device<'a> {
    link: &'a str,
    device: &'a str,
    answers: bool,
    words: &'a str,
}

impl<'a> Device<'a> {
    fn of(told: &'a wire::report::Device) -> Self {
        let wire::report::Device { link, device, answers, words } = told;
        Self { link, device, answers: *answers, words }
    }
}

/// The gateway's clock less ours, when its last report came in: it is heard of more often than it
/// reports. A gateway may believe in any moment at all.
fn offset_ms(row: &AgentRow) -> Option<i64> {
    let report = row.report.as_ref().filter(|report| report.wall_us != 0 && report.received_us != 0)?;
    Some(report.wall_us.saturating_sub(report.received_us) / 1_000)
}

/// "never seen" is not "silent": nobody knows yet.
fn state(row: &AgentRow, now: Micros) -> &'static str {
    match row.last_seen {
        _ if row.revoked => "revoked",
        None => "never seen",
        Some(seen) if now.saturating_sub(seen) > SILENT_AFTER => "silent",
        Some(_) => "online",
    }
}
