//! `[retention]` and `[retention.class.NAME]`.

use std::time::Duration;

use super::field::{all, checked_name};
use super::findings::Complaint;
use super::processing::patterns;
use super::table::{Item, Table};
use super::words::duration;
use crate::retention::{Kept, Retention, RetentionClass};

/// A rollup must be made of readings before they go, and a gateway's backlog may be days old.
const SHORTEST: Duration = Duration::from_secs(2 * 86_400);

pub(super) fn retention(t: &Table<'_>) -> Option<Retention> {
    let kept = kept(t, Kept::default());
    let classes = t.table("class").map_or_else(|| Some(Vec::new()), |t| classes(&t, kept));
    t.finish();
    Some(Retention { kept, classes: classes? })
}

fn classes(t: &Table<'_>, usual: Kept) -> Option<Vec<RetentionClass>> {
    all(t.named_tables().into_iter().map(|(name, t)| {
        let name = checked_name(name, &t);
        let points = t.required("points", "points = [\"*/alarm_*\", \"meter/*\"]", patterns);
        let kept = kept(&t, usual);
        t.finish();
        Some(RetentionClass { name: name?, points: points?, kept })
    }))
}

fn kept(t: &Table<'_>, usual: Kept) -> Kept {
    let kept = Kept {
        readings: t.or("readings", usual.readings, time),
        minutes: t.or("minutes", usual.minutes, time),
        hours: t.or("hours", usual.hours, time),
        days: t.or("days", usual.days, time),
    };
    let order =
        [("readings", kept.readings), ("minutes", kept.minutes), ("hours", kept.hours), ("days", kept.days)];
    for pair in order.windows(2) {
        let [(finer, longer), (key, shorter)] = pair else { continue };
        let is_longer = shorter.is_some_and(|shorter| longer.is_none_or(|longer| longer > shorter));
        if is_longer && (t.has(key) || t.has(finer)) {
            let place = if t.has(key) { key } else { finer };
            let words = format!("{key} would go before the {finer} they are made from");
            let hint = format!("keep {key} at least as long as {finer}, or \"forever\"");
            t.complain_of(place, Complaint::new(words, hint));
        }
    }
    kept
}

/// "90d", or "forever".
fn time(item: &Item<'_>) -> Result<Option<Duration>, Complaint> {
    if item.value.as_str() == Some("forever") {
        return Ok(None);
    }
    let wrong = |complaint: Complaint| {
        Complaint::new(complaint.message, "write a number of days, \"90d\", at least \"2d\", or \"forever\"")
    };
    duration(SHORTEST)(item).map(Some).map_err(wrong)
}
