//! Carries the present boot's true offset to the buffer, so that it is known after the next boot
//! what this one was. Only what the server confirmed: a clock that merely claims to be synchronised
//! may have been set by hand, and batches say themselves that they believed it.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Clock;

/// How often the system's clock is looked at: nobody tells us when NTP has moved it.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// An offset that changed by less is not told again.
const NEWS_US: u64 = 100_000;

/// Tells the offset when it becomes known, and again when it changed, until `stop`. Looks every
/// `every` and whenever the server was heard.
pub async fn keep<F>(clock: Clock, every: Duration, tell: impl Fn(i64) -> F, stop: CancellationToken)
where
    F: Future<Output = ()> + Send,
{
    let mut told: Option<i64> = None;
    loop {
        clock.ask_keeper().await;
        clock.follow();
        let news = |offset: &i64| told.is_none_or(|told| told.abs_diff(*offset) > NEWS_US);
        if let Some(offset) = clock.confirmed_us().filter(news) {
            tell(offset).await;
            told = Some(offset);
        }
        // Dropping the wait is safe: an answer that is missed is found by the next look.
        if stop.run_until_cancelled(timeout(every, clock.news())).await.is_none() {
            return;
        }
    }
}
