//! `forebay-server quarantine`: batches that could not be stored and readings at impossible times, to
//! look at, and to replay when what was wrong is mended.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;

use super::agents::ago;
use super::token::parse_duration;
use crate::store::{
    AgentKey, AsideId, AsideRow, Micros, Note, OddPoint, PointKey, Store, TenantKey, Timed, read_batch,
};

/// Looking at what is kept aside.
#[derive(Debug, Subcommand)]
pub(super) enum Quarantine {
    /// List batches set aside, and points with readings at impossible times.
    List(List),
    /// Show what is inside one of them.
    Show(Show),
    /// Store it after all.
    Replay(Replay),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// List so many batches and points at most.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    most: usize,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The id that `list` prints: a batch (12-345-9af01c22) or a point (p17).
    id: Id,
    /// Show so many readings at most.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    most: usize,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The id that `list` prints: a batch (12-345-9af01c22) or a point (p17).
    id: Id,
    /// Move the times of the readings later by this: `20454d`. A batch states its own times.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "earlier")]
    later: Option<Duration>,
    /// Move them earlier by this.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    earlier: Option<Duration>,
}

/// What `list` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Id {
    Batch(AsideId),
    Point(PointKey),
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('p') {
            Some(point) => point.parse().map(PointKey).map(Self::Point).map_err(|_| ()),
            None => text.parse().map(Self::Batch).map_err(|_| ()),
        }
        .map_err(|()| format!("`{text}` is neither a batch (12-345-9af01c22) nor a point (p17)"))
    }
}

impl Quarantine {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let store = super::open_store(&config).await?;
        match self {
            Self::List(list) => list.run(&*store).await,
            Self::Show(show) => show.run(&*store).await,
            Self::Replay(replay) => replay.run(&*store, wall_micros()).await,
        }
    }
}

impl List {
    async fn run(self, store: &dyn Store) -> Result<()> {
        let batches = store.batches_aside(self.most).await.context("list batches set aside")?;
        let points = store.odd_points(self.most).await.context("list readings at impossible times")?;
        let fleet = store.fleet().await.context("list the fleet")?;
        let names = fleet.iter().map(|row| (row.key, format!("{}/{}", row.site, row.gateway))).collect();
        super::print(&match self.json {
            true => json(&batches, &points, &names),
            false => table(&batches, &points, &names, wall_micros()),
        })
    }
}

fn json(batches: &[AsideRow], points: &[OddPoint], names: &HashMap<AgentKey, String>) -> String {
    let batch = |row: &AsideRow| {
        serde_json::json!({
            "id": row.id.to_string(), "agent": names.get(&row.agent), "bytes": row.bytes,
            "readings": row.readings, "why": row.why, "received_us": row.received,
        })
    };
    let point = |row: &OddPoint| {
        serde_json::json!({
            "id": format!("p{}", row.point.0), "agent": names.get(&row.agent), "device": row.device,
            "name": row.name, "readings": row.count, "from_us": row.from, "to_us": row.to,
            "received_us": row.received,
        })
    };
    let lines = batches.iter().map(batch).chain(points.iter().map(point));
    lines.map(|line| format!("{line}\n")).collect()
}

fn table(
    batches: &[AsideRow],
    points: &[OddPoint],
    names: &HashMap<AgentKey, String>,
    now: Micros,
) -> String {
    if batches.is_empty() && points.is_empty() {
        return "Nothing is kept aside.\n".into();
    }
    let name = |agent: &AgentKey| names.get(agent).map_or("a gateway that is gone", String::as_str);
    let ago = |at: Micros| ago(now.saturating_sub(at));
    let mut text = String::new();
    for AsideRow { id, agent, bytes, readings, why, received, .. } in batches {
        text.push_str(&format!(
            "{id}: a batch of {}, {readings} readings, {bytes} bytes, came {}\n  {why}\n",
            name(agent),
            ago(*received)
        ));
    }
    for OddPoint { point, agent, device, name: of, count, from, to, received } in points {
        text.push_str(&format!(
            "p{}: {count} readings of {}, {device}/{of}, the last came {}\n  from {} to {}\n",
            point.0,
            name(agent),
            ago(*received),
            moment(*from),
            moment(*to)
        ));
    }
    text
}

/// RFC 3339, or microseconds for what no calendar holds.
fn moment(time: Micros) -> String {
    jiff::Timestamp::from_microsecond(time)
        .map_or_else(|_| format!("{time} µs since 1970"), |time| time.to_string())
}

impl Show {
    async fn run(self, store: &dyn Store) -> Result<()> {
        let (mut text, readings) = match self.id {
            Id::Point(point) => (String::new(), store.odd_readings(point, self.most).await?),
            Id::Batch(id) => {
                let found = store.batch_aside(id).await.context("read the batch")?;
                let Some((row, bytes, correction)) = found else { bail!("no batch {id} is set aside") };
                let mut text = format!("{} bytes, came {}\n{}\n", row.bytes, moment(row.received), row.why);
                match read_batch(&bytes, correction) {
                    Ok(readings) => (text, readings),
                    Err(why) => {
                        let head: Vec<String> =
                            bytes.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
                        text.push_str(&format!("It cannot be read: {why}\n{}\n", head.join(" ")));
                        (text, Vec::new())
                    }
                }
            }
        };
        text.extend(readings.iter().take(self.most).map(line));
        if readings.len() > self.most {
            text.push_str(&format!("… and {} more\n", readings.len() - self.most));
        }
        super::print(&text)
    }
}

fn line(reading: &Timed) -> String {
    let Timed { point, time, value, quality } = reading;
    let value = value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let number = if point.0 == 0 { String::new() } else { format!("  point {}", point.0) };
    format!("{}{number}  {value}  {}\n", moment(*time), quality.words())
}

impl Replay {
    async fn run(self, store: &dyn Store, now: Micros) -> Result<()> {
        let micros = |time: Option<Duration>| time.map_or(0, |time| time.as_micros() as Micros);
        let shift = micros(self.later) - micros(self.earlier);
        let owner;
        let replayed = match self.id {
            Id::Point(point) => {
                let odd = store.odd_points(usize::MAX).await.context("look for the point")?;
                owner = odd.iter().find(|row| row.point == point).map(|row| row.agent);
                store.replay_readings(point, shift, now).await.context("replay the readings")?
            }
            Id::Batch(id) => {
                let found = store.batch_aside(id).await.context("read the batch")?;
                let Some((row, bytes, correction)) = found else { bail!("no batch {id} is set aside") };
                owner = Some(row.agent);
                let readings = read_batch(&bytes, correction.saturating_add(shift))
                    .map_err(|why| anyhow::anyhow!("the batch cannot be read: {why}"))?;
                let replayed = store.replay_batch(id, readings, now).await.context("replay the batch")?;
                replayed.with_context(|| format!("batch {id} was taken away meanwhile"))?
            }
        };
        if let Some(agent) = owner {
            let access = store.access();
            let tenant = access.tenant_of(agent).await?.unwrap_or(TenantKey::MAIN);
            let became =
                format!("{} readings stored, {} with impossible times", replayed.stored, replayed.odd);
            let id = match self.id {
                Id::Point(point) => point.0.to_string(),
                Id::Batch(id) => id.to_string(),
            };
            let note = Note::new("quarantine replayed", id).from_to("", became);
            access.record(&super::tenants::act(tenant), note).await.context("write the audit")?;
        }
        let mut text = format!("{} readings are stored.\n", replayed.stored);
        if replayed.odd > 0 {
            text.push_str(&format!(
                "{} have impossible times and are in quarantine; --later and --earlier move them.\n",
                replayed.odd
            ));
        }
        super::print(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use forebay_protocols::sync::batch::Epoch;

    use super::*;

    #[test]
    fn what_is_aside_is_listed_with_its_id_and_why() {
        let names = HashMap::from([(AgentKey(1), "north/gw-1".to_owned())]);
        let id = AsideId { branch: 3, sequence: 12, checksum: 0xabcd };
        let batch = AsideRow {
            id,
            agent: AgentKey(1),
            epoch: Epoch([0; 16]),
            fork: 0,
            bytes: 90,
            readings: 7,
            why: "It is cut short.".into(),
            received: 0,
        };
        let point = OddPoint {
            point: PointKey(17),
            agent: AgentKey(2),
            device: "boiler".into(),
            name: "temp".into(),
            count: 2,
            from: -1_000_000,
            to: i64::MAX,
            received: 0,
        };
        assert_eq!(
            table(from_ref(&batch), from_ref(&point), &names, 7_200_000_000),
            "3-12-0000abcd: a batch of north/gw-1, 7 readings, 90 bytes, came 2 h ago\n  It is cut short.\n\
             p17: 2 readings of a gateway that is gone, boiler/temp, the last came 2 h ago\n  \
             from 1969-12-31T23:59:59Z to 9223372036854775807 µs since 1970\n"
        );
        assert_eq!(json(&[batch], &[point], &names).lines().count(), 2);
        assert_eq!(table(&[], &[], &names, 0), "Nothing is kept aside.\n");
        assert_eq!("3-12-0000abcd".parse(), Ok(Id::Batch(id)));
        assert_eq!("p17".parse(), Ok(Id::Point(PointKey(17))));
        assert!("17".parse::<Id>().is_err());
    }
}
