//! Lets go what has been kept for as long as was asked for (`[retention]`), and no earlier than it is
//! rolled up; the store sees to that.
//!
//! Nothing is removed by a clock that nobody confirms: at least one gateway heard lately must agree
//! within a day on what day it is. A server that wakes in 2036 keeps everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_config::retention::{Kept, Retention};
use forebay_protocols::boot_time::wall_micros;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Outage, paced};
use crate::store::{AgentRow, Grain, Micros, PointKey, Removal, Source, Store, StoreError};
use crate::telemetry::Telemetry;

/// How often some points are tried again while somebody is at rollups; then the next pass has them.
const PATIENCE: u32 = 30;
const EVERY: Duration = Duration::from_secs(60);
/// Rounds between two passes of retention: what is removed is a day long.
const ROUNDS: u64 = 10;
const DAY: Micros = 86_400_000_000;
/// Points of one step, and of one page of them.
const POINTS: usize = 100;
const PAGE: usize = 1_000;
/// A stretch of a step, in seconds of readings: the first, and bounds for those after.
const FIRST: u64 = 3_600;
const LEAST: u64 = 60;
const MOST: u64 = 366 * 86_400;
/// How far the clock of a gateway that confirms ours may be off, and how long ago it was heard.
const AGREES: Micros = DAY;
const HEARD: Micros = 3_600_000_000;

/// Removes what is over, and tells how large the store is. One task of its own; see [`Retainer::run`].
pub struct Retainer {
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
    retention: Retention,
    stretch: u64,
    outage: Outage,
    doubted: bool,
}

/// Sources in the order in which they go.
const SOURCES: [Source; 4] = [
    Source::Readings,
    Source::Rollup(Grain::Minutes),
    Source::Rollup(Grain::Hours),
    Source::Rollup(Grain::Days),
];

fn kept(kept: &Kept, source: Source) -> Option<Duration> {
    match source {
        Source::Readings => kept.readings,
        Source::Rollup(Grain::Minutes) => kept.minutes,
        Source::Rollup(Grain::Hours) => kept.hours,
        Source::Rollup(Grain::Days) => kept.days,
    }
}

/// The midnight before which rows of this source go.
fn before(of: &Kept, source: Source, now: Micros) -> Option<Micros> {
    let kept = i64::try_from(kept(of, source)?.as_micros()).ok()?;
    Some(now.saturating_sub(kept).div_euclid(DAY) * DAY)
}

impl Retainer {
    /// One that has removed nothing yet.
    pub fn new(store: Arc<dyn Store>, telemetry: Arc<Telemetry>, retention: Retention) -> Self {
        let outage = Outage::new("retention");
        Self { store, telemetry, retention, stretch: FIRST, outage, doubted: false }
    }

    /// Looks after the store's size until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        for round in 0u64.. {
            // A step that is cut short did nothing, or all of it.
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.look(round.is_multiple_of(ROUNDS)) => outcome,
            };
            self.outage.tell(outcome);
            if timeout(EVERY, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn look(&mut self, is_time: bool) -> Result<(), StoreError> {
        self.telemetry.store_bytes(self.store.facts().await?.bytes);
        let now = wall_micros();
        if is_time {
            self.store.prepare_for(now).await?;
            self.pass(now).await?;
        }
        Ok(())
    }

    /// Removes everything that is over at `now`.
    pub async fn pass(&mut self, now: Micros) -> Result<(), StoreError> {
        if self.retention.is_endless() {
            return Ok(());
        }
        let is_confirmed = is_confirmed(&self.store.fleet().await?, now);
        if !is_confirmed && !self.doubted {
            warn!("Nothing is removed: no gateway heard lately agrees on what day it is.");
        }
        self.doubted = !is_confirmed;
        if !is_confirmed {
            return Ok(());
        }
        self.drop_whole(now).await?;
        let classes = self.classes().await?;
        for source in SOURCES {
            for (class, points) in &classes {
                let kept = class.map_or(&self.retention.kept, |class| &self.retention.classes[class].kept);
                let Some(before) = before(kept, source, now) else { continue };
                for points in points.chunks(POINTS) {
                    self.remove(source, points, before).await?;
                }
            }
        }
        Ok(())
    }

    /// Readings that no class keeps, in whole chunks.
    async fn drop_whole(&self, now: Micros) -> Result<(), StoreError> {
        let all = std::iter::once(&self.retention.kept).chain(self.retention.classes.iter().map(|c| &c.kept));
        let befores: Option<Vec<Micros>> = all.map(|kept| before(kept, Source::Readings, now)).collect();
        let Some(before) = befores.and_then(|befores| befores.into_iter().min()) else { return Ok(()) };
        match self.store.drop_before(before).await? {
            Some(0) | None => {}
            Some(chunks) => info!(chunks, "Readings that were kept long enough are gone."),
        }
        Ok(())
    }

    /// All points by class.
    async fn classes(&self) -> Result<BTreeMap<Option<usize>, Vec<PointKey>>, StoreError> {
        let (mut classes, mut after) = (BTreeMap::<_, Vec<PointKey>>::new(), None);
        loop {
            let page = self.store.points(None, "", after, PAGE).await?;
            for row in &page {
                classes.entry(self.retention.class_of(&row.device, &row.name)).or_default().push(row.key);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key),
                _ => return Ok(classes),
            }
        }
    }

    async fn remove(
        &mut self,
        source: Source,
        points: &[PointKey],
        before: Micros,
    ) -> Result<(), StoreError> {
        let mut patience = PATIENCE;
        loop {
            let stretch = self.stretch as Micros * 1_000_000;
            let removal = Removal { source, points: points.to_vec(), before, stretch };
            let begin = Instant::now();
            let removed = self.store.remove(&removal).await?;
            let took = begin.elapsed();
            self.telemetry.removed(removed.rows);
            if removed.busy && patience > 0 {
                patience -= 1;
                super::pause(Duration::from_secs(1)).await;
                continue;
            }
            if removed.waits || removed.busy {
                return Ok(());
            }
            if removed.rows > 0 {
                self.stretch = paced(self.stretch, took, LEAST, MOST);
                super::pause(took).await;
            }
            if !removed.more {
                return Ok(());
            }
        }
    }
}

/// Does a gateway that was heard lately agree on what day it is?
fn is_confirmed(fleet: &[AgentRow], now: Micros) -> bool {
    let near = |time: Micros, within: Micros| now.saturating_sub(time).saturating_abs() <= within;
    fleet.iter().any(|row| {
        let report = row.report.as_ref();
        row.last_seen.is_some_and(|seen| near(seen, HEARD))
            && report.is_some_and(|report| near(report.wall_us, AGREES))
    })
}

#[cfg(test)]
mod tests {
    use forebay_protocols::sync::wire::Report;

    use super::*;
    use crate::store::AgentKey;

    const NOW: Micros = 1_795_219_200_000_000;

    fn heard(last_seen: Micros, wall_us: i64) -> AgentRow {
        AgentRow {
            key: AgentKey(1),
            site: "north".into(),
            gateway: "gate".into(),
            joined: 0,
            last_seen: Some(last_seen),
            revoked: false,
            certificate: None,
            report: Some(Report { wall_us, ..Report::default() }),
            stored: 0,
            committed_batches: 0,
            set_aside: 0,
            epoch: None,
            pulse: crate::store::Pulse::default(),
        }
    }

    #[test]
    fn a_clock_that_nobody_confirms_removes_nothing() {
        assert!(is_confirmed(&[heard(NOW, NOW - 5), heard(NOW, 0)], NOW));
        let decade = 3_650 * DAY;
        assert!(!is_confirmed(&[heard(NOW + decade, NOW)], NOW + decade), "the server's clock is wrong");
        assert!(!is_confirmed(&[heard(NOW - DAY, NOW - DAY)], NOW), "nobody was heard lately");
        assert!(!is_confirmed(&[], NOW));
    }

    #[test]
    fn what_goes_ends_at_a_midnight() {
        let kept = Kept { readings: Some(Duration::from_secs(2 * 86_400)), ..Kept::default() };
        assert_eq!(before(&kept, Source::Readings, NOW + 7), Some(NOW - 2 * DAY));
        assert_eq!(before(&kept, Source::Rollup(Grain::Minutes), NOW), None);
    }
}
