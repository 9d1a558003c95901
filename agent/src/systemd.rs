//! What systemd is told: when we are ready, how we are in words, and that we still make progress.
//!
//! The watchdog is fed only after the batcher went round since the last time: an agent whose tasks
//! hang is restarted, even if its runtime still ticks. Without systemd all of this does nothing.

use std::time::Duration;

pub use forebay_protocols::progress::Progress;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How often the words of `systemctl status` are looked at anew, without a watchdog.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Says that the agent collects.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the configuration is being read again, until [`reloaded`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!("systemd was not told of the reload: {error}"),
    }
}

/// Says that what was read is done with, and how the agent is.
pub fn reloaded(words: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(words)]);
}

/// Says that the agent ends, and how long that may take.
pub fn stopping(within: Duration) {
    let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status("Stopping.")]);
}

/// Tells `words` when they change and feeds the watchdog while `progress` advances.
pub async fn run(words: impl Fn() -> String, progress: Progress, stop: CancellationToken) {
    // A third of the allowed silence: one missed round is not the end.
    let every = sd_notify::watchdog_enabled()
        .map_or(STATUS_EVERY, |silence| (silence / 3).max(Duration::from_millis(10)));
    let mut round = interval(every);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut teller = Teller::default();
    while stop.run_until_cancelled(round.tick()).await.is_some() {
        let news = teller.news(words(), progress.count());
        if news.feed {
            tell(&[NotifyState::Watchdog]);
        }
        if let Some(words) = news.words {
            tell(&[NotifyState::Status(&words)]);
        }
    }
}

/// Remembers what systemd knows already.
#[derive(Default)]
struct Teller {
    words: String,
    seen: Option<u64>,
}

struct News {
    feed: bool,
    words: Option<String>,
}

impl Teller {
    fn news(&mut self, words: String, progress: u64) -> News {
        let feed = self.seen != Some(progress);
        self.seen = Some(progress);
        let changed = words != self.words;
        self.words.clone_from(&words);
        News { feed, words: changed.then_some(words) }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("systemd was not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_starves_when_the_batcher_stands_still() {
        let progress = Progress::default();
        let mut teller = Teller::default();
        progress.advance();
        assert!(teller.news(String::new(), progress.count()).feed);
        assert!(!teller.news(String::new(), progress.count()).feed, "fed without progress");
        progress.advance();
        assert!(teller.news(String::new(), progress.count()).feed);
    }

    #[test]
    fn the_same_words_are_told_once() {
        let mut teller = Teller::default();
        assert_eq!(teller.news("Collecting.".into(), 1).words.as_deref(), Some("Collecting."));
        assert_eq!(teller.news("Collecting.".into(), 2).words, None);
        assert!(teller.news("Offline.".into(), 3).words.is_some());
    }
}
