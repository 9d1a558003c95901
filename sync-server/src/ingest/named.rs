//! Refusals the log has named. A gateway that is refused asks again for as long as it lives, and a
//! stranger can make as many certificates and tokens as it likes: each is one line in the log, up to
//! a number of lines. All of them are counted in `forebay_server_requests_refused_total`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use forebay_protocols::sync::problem::Kind;
use tokio::time::Instant;
use tracing::warn;

/// Refusals remembered at a time.
const MOST: usize = 1_000;
/// One that has not come again for so long makes room for others.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Who was refused, by a SHA-256 of what they showed.
#[derive(Debug, Default)]
pub(super) struct Named {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    refused: HashMap<[u8; 32], (Kind, Instant)>,
    is_full: bool,
}

impl Named {
    /// Notes a refusal; true if the log should name it: the first of its kind of whoever this is.
    pub(super) fn is_news(&self, who: [u8; 32], kind: Kind) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((before, seen)) = known.refused.get_mut(&who) {
            *seen = now;
            return std::mem::replace(before, kind) != kind;
        }
        if known.refused.len() >= MOST {
            known.refused.retain(|_, (_, seen)| now.duration_since(*seen) < FORGOTTEN_AFTER);
        }
        if known.refused.len() >= MOST {
            if !std::mem::replace(&mut known.is_full, true) {
                warn!("{MOST} refused gateways are named above; others are counted from here on.");
            }
            return false;
        }
        known.is_full = false;
        known.refused.insert(who, (kind, now));
        true
    }

    /// Whoever this is was let in; true if it was refused before.
    pub(super) fn let_in(&self, who: [u8; 32]) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).refused.remove(&who).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(number: usize) -> [u8; 32] {
        let mut who = [0; 32];
        who[..8].copy_from_slice(&number.to_le_bytes());
        who
    }

    #[test]
    fn a_refusal_is_news_once_and_again_for_another_reason_or_after_being_let_in() {
        let named = Named::default();
        assert!(named.is_news(who(1), Kind::UnknownCertificate));
        assert!(!named.is_news(who(1), Kind::UnknownCertificate));
        assert!(named.is_news(who(1), Kind::RevokedCertificate), "another reason");
        assert!(named.is_news(who(2), Kind::UnknownCertificate), "somebody else");
        assert!(named.let_in(who(1)));
        assert!(!named.let_in(who(1)));
        assert!(named.is_news(who(1), Kind::RevokedCertificate));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_without_end_do_not_fill_the_log_nor_the_memory() {
        let named = Named::default();
        let news = |numbers: std::ops::Range<usize>| {
            numbers.filter(|n| named.is_news(who(*n), Kind::UnknownCertificate)).count()
        };
        assert_eq!(news(0..3 * MOST), MOST);
        tokio::time::advance(FORGOTTEN_AFTER / 2).await;
        assert_eq!(news(0..10), 0, "these are still there");
        tokio::time::advance(FORGOTTEN_AFTER / 2).await;
        assert_eq!(news(MOST..3 * MOST), MOST - 10, "the others have made room");
    }
}
