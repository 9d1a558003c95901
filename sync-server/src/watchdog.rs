//! Tells systemd that the server still works: fed while the committer goes round, which it does with
//! or without deliveries, whether the database answers or not. A server whose tasks hang is started
//! again; one whose database is away is not, for that would help nobody.

pub use forebay_protocols::progress::Progress;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Feeds the watchdog, if systemd keeps one, while `progress` advances.
pub async fn run(progress: Progress, stop: CancellationToken) {
    let Some(silence) = sd_notify::watchdog_enabled() else { return stop.cancelled().await };
    // A third of the allowed silence: one missed round is not the end.
    let mut round = interval(silence / 3);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    while stop.run_until_cancelled(round.tick()).await.is_some() {
        if went_on(&mut seen, &progress)
            && let Err(error) = sd_notify::notify(&[NotifyState::Watchdog])
        {
            debug!("systemd was not told: {error}");
        }
    }
}

/// Whether anything went on since the last look.
fn went_on(seen: &mut Option<u64>, progress: &Progress) -> bool {
    let now = progress.count();
    seen.replace(now) != Some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_starves_when_nothing_goes_on() {
        let (progress, mut seen) = (Progress::default(), None);
        progress.advance();
        assert!(went_on(&mut seen, &progress));
        assert!(!went_on(&mut seen, &progress), "fed without progress");
        progress.advance();
        assert!(went_on(&mut seen, &progress));
    }
}
