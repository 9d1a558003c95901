//! How busy a line is: the share of time in which something was asked and not yet answered, with the
//! silences that belong to it. Nobody else can be asked meanwhile on a serial bus.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The share is that of the last one to two of these.
const WINDOW: Duration = Duration::from_secs(30);

/// The occupancy of one line. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Occupancy(Arc<Mutex<Course>>);

#[derive(Debug)]
struct Course {
    /// Busy since then, as far as it is not in `window` yet.
    since: Option<Instant>,
    /// In all windows.
    total: Duration,
    began: Instant,
    window: Duration,
    /// How long the window before was, and how busy.
    before: (Duration, Duration),
}

impl Default for Occupancy {
    fn default() -> Self {
        let (since, total, window) = (None, Duration::ZERO, Duration::ZERO);
        let course = Course { since, total, began: Instant::now(), window, before: (total, window) };
        Self(Arc::new(Mutex::new(course)))
    }
}

impl Occupancy {
    /// From now on the line is in use.
    pub fn begin(&self) {
        self.at(Instant::now(), |course, now| course.since = course.since.or(Some(now)));
    }

    /// The line is free again.
    pub fn end(&self) {
        self.at(Instant::now(), |course, _| course.since = None);
    }

    /// How long it was busy since the start, in all.
    pub fn busy(&self) -> Duration {
        self.at(Instant::now(), |course, _| course.total)
    }

    /// The share of about the last minute in which it was busy, 0 to 1.
    pub fn share(&self) -> f64 {
        self.at(Instant::now(), |course, now| {
            let (length, busy) = course.before;
            let length = length + now.saturating_duration_since(course.began);
            if length.is_zero() { 0.0 } else { (busy + course.window).div_duration_f64(length).min(1.0) }
        })
    }

    /// Brings the course up to `now` and changes it.
    fn at<T>(&self, now: Instant, change: impl FnOnce(&mut Course, Instant) -> T) -> T {
        let mut course = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = &mut course.since {
            let busy = now.saturating_duration_since(*since);
            *since = now;
            course.total += busy;
            course.window += busy;
        }
        let length = now.saturating_duration_since(course.began);
        if length >= WINDOW {
            course.before = (length, std::mem::take(&mut course.window));
            course.began = now;
        }
        change(&mut course, now)
    }
}

/// Is it the same line?
impl PartialEq for Occupancy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Occupancy {}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_share_follows_the_last_minute_and_the_sum_forgets_nothing() {
        let line = Occupancy::default();
        assert_eq!(line.share(), 0.0);
        for _ in 0..100 {
            line.begin();
            advance(SECOND / 4).await;
            line.end();
            advance(SECOND * 3 / 4).await;
        }
        assert!((line.share() - 0.25).abs() < 0.01, "{}", line.share());
        assert_eq!(line.busy(), SECOND * 25);
        advance(SECOND * 61).await;
        line.share();
        advance(SECOND * 31).await;
        assert!(line.share() < 0.1, "{}", line.share());
        assert_eq!(line.busy(), SECOND * 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_still_under_way_counts_and_a_second_one_beside_it_does_not() {
        let line = Occupancy::default();
        line.begin();
        advance(SECOND * 45).await;
        line.begin();
        advance(SECOND * 45).await;
        assert_eq!((line.share(), line.busy()), (1.0, SECOND * 90));
        line.end();
        line.end();
        advance(SECOND).await;
        assert_eq!(line.busy(), SECOND * 90);
    }
}
