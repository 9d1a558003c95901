//! Which requests carry a report. Pure.
//!
//! A report has some 60 bytes for each device, often more than the readings beside it, and the
//! server keeps the last one. So it goes along when something changed that people look at, and
//! otherwise now and then, for its counts.

use std::time::Duration;

use forebay_protocols::sync::wire;
use tokio::time::Instant;

/// While nothing but counts changes, reports that go along with readings are this far apart.
const EVERY: Duration = Duration::from_secs(20);

/// What the server was told last.
#[derive(Debug, Default)]
pub struct Bulletin {
    told: Option<(Instant, wire::Report)>,
}

impl Bulletin {
    /// Should `report` go along with the request that is sent `now`?
    pub fn is_due(&self, report: &wire::Report, now: Instant) -> bool {
        let Some((at, told)) = &self.told else { return true };
        // By a report beside them the server knows batches whose times can still be corrected.
        !report.synchronised || now.duration_since(*at) >= EVERY || face(report) != face(told)
    }

    /// Would the server learn another count from `report`?
    pub fn is_behind(&self, report: &wire::Report) -> bool {
        self.told.as_ref().is_none_or(|(_, told)| counts(told) != counts(report))
    }

    /// The server has taken `report`.
    pub fn told(&mut self, report: wire::Report, now: Instant) {
        self.told = Some((now, report));
    }

    /// There is a new connection: whoever is at its other end may know nothing.
    pub fn forget(&mut self) {
        self.told = None;
    }
}

/// What people act on.
fn face(report: &wire::Report) -> impl PartialEq + '_ {
    let wire::Report { version, boot_counter, synchronised, dropped, buffer_limit_bytes, devices, .. } =
        report;
    (version, boot_counter, synchronised, dropped, buffer_limit_bytes, devices, report.ca_generation)
}

/// The ledger.
fn counts(report: &wire::Report) -> [u64; 7] {
    let wire::Report { produced, filtered, in_hand, appended, dropped, acknowledged, .. } = *report;
    [produced, filtered, in_hand, appended, dropped, acknowledged, report.backlog_readings]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(produced: u64, answers: bool) -> wire::Report {
        let device = wire::report::Device {
            link: "hall".into(),
            device: "pump".into(),
            answers,
            words: String::new(),
        };
        wire::Report { produced, synchronised: true, devices: vec![device], ..wire::Report::default() }
    }

    #[test]
    fn counts_alone_are_told_now_and_then_and_everything_else_at_once() {
        let (mut bulletin, start) = (Bulletin::default(), Instant::now());
        assert!(bulletin.is_due(&report(1, true), start), "the server knows nothing");
        bulletin.told(report(1, true), start);
        let soon = start + EVERY / 2;
        assert!(!bulletin.is_due(&report(2, true), soon));
        assert!(bulletin.is_due(&report(2, false), soon), "a device fell silent");
        assert!(
            bulletin.is_due(&wire::Report { dropped: 1, ..report(2, true) }, soon),
            "readings were dropped"
        );
        assert!(bulletin.is_due(&report(2, true), start + EVERY));
        bulletin.forget();
        assert!(bulletin.is_due(&report(1, true), soon));
    }

    #[test]
    fn a_gateway_that_does_not_know_the_time_reports_always() {
        let (mut bulletin, now) = (Bulletin::default(), Instant::now());
        let lost = wire::Report { synchronised: false, ..report(1, true) };
        bulletin.told(lost.clone(), now);
        assert!(bulletin.is_due(&lost, now));
    }

    #[test]
    fn the_ledger_is_told_whole_when_any_count_moved() {
        let (mut bulletin, now) = (Bulletin::default(), Instant::now());
        assert!(bulletin.is_behind(&report(1, true)));
        bulletin.told(report(1, true), now);
        assert!(!bulletin.is_behind(&wire::Report { uptime_s: 9, ..report(1, true) }));
        assert!(bulletin.is_behind(&wire::Report { acknowledged: 1, ..report(1, true) }));
    }
}
