//! What has not reached the server, in words. An agent that runs knows best: the disk learns of an acknowledgement
//! up to a minute later. Of one that does not, the disk tells.

use forebay_config::units::ByteSize;
use serde_json::Value as Json;

use super::super::buffer::words::{count, grouped, moment};
use super::super::sight::{Seen, number, text};
use super::super::table::age;
use crate::buffer::inspect::Backlog;

/// A request is answered within seconds: what was appended no longer ago is on its way.
const ON_ITS_WAY_S: f64 = 10.0;

/// What is appended and not acknowledged.
struct Waiting {
    readings: u64,
    batches: u64,
    bytes: u64,
    /// Wall time of the oldest, microseconds since 1970.
    oldest_us: Option<i64>,
}

/// "up to date" with what is under way, or what waits and since when. `now_us` is wall time, microseconds since 1970.
pub fn words(agent: &Seen, on_disk: &Backlog, now_us: i64) -> String {
    let Backlog { readings, batches, bytes, oldest, newest: _ } = *on_disk;
    let on_disk = Waiting { readings, batches, bytes, oldest_us: oldest.map(|edge| edge.wall_us) };
    let Seen::Running(agent) = agent else { return on_disk.words(now_us) };
    let (buffer, ledger) = (&agent["buffer"], &agent["ledger"]);
    if buffer["state"] != "open" {
        return on_disk.words(now_us);
    }
    let oldest_s = buffer["oldest_s"].as_f64();
    let waiting = Waiting {
        readings: number(ledger, "backlog"),
        batches: number(buffer, "backlog_batches"),
        bytes: number(buffer, "backlog_bytes"),
        oldest_us: oldest_s.map(|seconds| now_us - (seconds * 1e6) as i64).or(on_disk.oldest_us),
    };
    let is_fresh = waiting.batches == 0 || oldest_s.is_some_and(|seconds| seconds < ON_ITS_WAY_S);
    match is_fresh && is_well(&agent["uplink"]) {
        true => up_to_date(waiting.readings, number(ledger, "in_hand")),
        false => waiting.words(now_us),
    }
}

/// Was the last request answered well, and is nothing else to be said of it?
fn is_well(uplink: &Json) -> bool {
    text(uplink, "state") == "up" && text(uplink, "words").is_empty()
}

fn up_to_date(on_their_way: u64, in_hand: u64) -> String {
    let is = |number: u64| format!("{} {}", grouped(number), if number == 1 { "is" } else { "are" });
    let readings = |number: u64| {
        format!("{} {}", count(number, "reading", "readings"), if number == 1 { "is" } else { "are" })
    };
    match (on_their_way, in_hand) {
        (0, 0) => "up to date".into(),
        (0, hand) => format!("up to date; {} being collected for the next batch", readings(hand)),
        (way, 0) => format!("up to date; {} on the way", readings(way)),
        (way, hand) => {
            format!(
                "up to date; {} on the way, {} being collected for the next batch",
                readings(way),
                is(hand)
            )
        }
    }
}

impl Waiting {
    fn words(&self, now_us: i64) -> String {
        if self.readings == 0 {
            return "nothing waits".into();
        }
        let oldest = self.oldest_us.map_or_else(String::new, |wall_us| {
            let seconds = (now_us - wall_us) as f64 / 1e6;
            format!(", the oldest from {} ({} ago)", moment(wall_us), age(seconds))
        });
        format!(
            "{} in {} wait ({}){oldest}",
            count(self.readings, "reading", "readings"),
            count(self.batches, "batch", "batches"),
            ByteSize(self.bytes)
        )
    }
}
