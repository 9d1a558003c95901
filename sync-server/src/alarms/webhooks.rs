//! Tells webhooks what happened to alarms of their tenant, each in order and from a position that the database keeps. A
//! receiver that is away is tried again with growing pauses for a day; one that refuses is not. An event
//! may come twice, if a server ends between the answer and the note of it: its id tells.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::alarms::{MAIN_TENANT, Priority, Webhook};
use forebay_protocols::boot_time::wall_micros;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::post::Post;
use super::{micros, words};
use crate::live::Feed;
use crate::store::alarms::{AlarmEvent, AlarmSummary};
use crate::store::{Store, StoreError, TenantKey};
use crate::telemetry::Telemetry;

/// Longer than one attempt takes: until then no other server tries.
const LEASE: Duration = Duration::from_secs(60);
/// Another server's events are found so late.
const LOOK: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(900);
/// The most that a receiver may ask for by `Retry-After`.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);

/// All webhooks. One task of its own; see [`Webhooks::run`].
pub struct Webhooks {
    store: Arc<dyn Store>,
    feed: Feed,
    telemetry: Arc<Telemetry>,
    posts: Vec<Post>,
}

/// What became of one attempt.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// 2xx.
    Told,
    /// The receiver does not want it, and never will.
    Refused(String),
    /// Another time, not before the pause the receiver asked for.
    Failed(String, Option<Duration>),
}

impl Webhooks {
    /// Reads the certificates that are needed.
    ///
    /// # Errors
    /// In plain words, with the name of the webhook.
    pub fn new(
        store: Arc<dyn Store>,
        feed: Feed,
        telemetry: Arc<Telemetry>,
        webhooks: Vec<Webhook>,
    ) -> Result<Self, String> {
        let post = |webhook: Webhook| {
            let name = webhook.name.clone();
            Post::new(webhook).map_err(|why| format!("[webhook.{name}]: {why}"))
        };
        Ok(Self { store, feed, telemetry, posts: webhooks.into_iter().map(post).collect::<Result<_, _>>()? })
    }

    /// Makes them known to the database: from here on they miss nothing.
    ///
    /// # Errors
    /// When the database is away or refuses.
    pub async fn register(&self) -> Result<(), StoreError> {
        for post in &self.posts {
            let Webhook { name, tenant, .. } = post.webhook();
            self.store.add_webhook(name.as_str()).await?;
            if self.key_of(tenant).await?.is_none() {
                warn!(webhook = %name, tenant, "There is no tenant of this name, so the webhook is told nothing until `forebay-server tenant add` makes it.");
            }
        }
        Ok(())
    }

    /// The tenant of this name, if there is one.
    async fn key_of(&self, tenant: &str) -> Result<Option<TenantKey>, StoreError> {
        if tenant == MAIN_TENANT {
            return Ok(Some(TenantKey::MAIN));
        }
        let tenants = self.store.access().tenants().await?;
        Ok(tenants.iter().find(|row| row.name == tenant).map(|row| row.tenant))
    }

    /// Tells until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // With nobody to tell the task must not end all the same.
        let until_stop = stop.cancelled();
        let all = join_all(self.posts.iter().map(|post| self.follow(post, &stop)));
        tokio::join!(until_stop, all);
    }

    async fn follow(&self, post: &Post, stop: &CancellationToken) {
        let (mut is_failing, mut is_silent) = (false, false);
        let tenant = &post.webhook().tenant;
        // A tenant may be made later than its webhook.
        let key = loop {
            match self.key_of(tenant).await {
                Ok(Some(key)) => break key,
                Ok(None) | Err(_) => {
                    if timeout(LOOK, stop.cancelled()).await.is_ok() {
                        return;
                    }
                }
            }
        };
        let (mut bell, store) = (self.feed.alarms(key), self.store.clone().within(key));
        while !stop.is_cancelled() {
            // An attempt that is cut short is made again after its lease.
            let told = tokio::select! {
                () = stop.cancelled() => return,
                told = self.tell_one(&*store, post, &mut is_failing) => told,
            };
            let is_more = match told {
                Ok(is_more) => {
                    is_silent = false;
                    is_more
                }
                Err(error) => {
                    if !is_silent {
                        warn!(webhook = %post.webhook().name, %error, "A webhook waits for the database.");
                    }
                    is_silent = true;
                    false
                }
            };
            if !is_more {
                wait(&mut bell, stop).await;
            }
        }
    }

    /// One attempt at the next event, if one is due. True: look again at once.
    async fn tell_one(
        &self,
        store: &dyn Store,
        post: &Post,
        is_failing: &mut bool,
    ) -> Result<bool, StoreError> {
        let Webhook { name, priority, .. } = post.webhook();
        let least = match priority {
            Priority::Low => 0,
            Priority::Medium => 1,
            Priority::High => 2,
        };
        let now = wall_micros();
        let next = store.next_for_webhook(name.as_str(), least, now, micros(LEASE)).await?;
        let Some((event, attempts)) = next else { return Ok(false) };
        let seconds = now.div_euclid(1_000_000);
        let id = format!("forebay-alarm-{}", event.event);
        let outcome = outcome(post.send(&id, seconds, message(&event)).await);
        self.telemetry.webhook(match outcome {
            Outcome::Told => "told",
            Outcome::Refused(_) => "refused",
            Outcome::Failed(..) => "failed",
        });
        match outcome {
            Outcome::Told => {
                if std::mem::take(is_failing) {
                    info!(webhook = %name, "The webhook is answered again.");
                }
                store.webhook_told(name.as_str(), event.event).await?;
                Ok(true)
            }
            Outcome::Refused(why) => {
                warn!(webhook = %name, event = event.event, why, "A webhook was refused; this event is not tried again.");
                store.webhook_told(name.as_str(), event.event).await?;
                Ok(true)
            }
            Outcome::Failed(why, asked) => {
                if !std::mem::replace(is_failing, true) {
                    warn!(webhook = %name, why, "A webhook is not answered; it is tried again for a day.");
                }
                let pause = pause(attempts, random()).max(asked.unwrap_or_default());
                let due = wall_micros().saturating_add(micros(pause));
                store.webhook_failed(name.as_str(), event.event, due, &why).await?;
                Ok(false)
            }
        }
    }
}

/// Until something happened, or for a while.
async fn wait(bell: &mut watch::Receiver<AlarmSummary>, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        rung = timeout(LOOK, bell.changed()) => if let Ok(Err(_)) = rung {
            // The feed is gone: the server stops.
            stop.cancelled().await;
        },
    }
}

/// `{type, timestamp, data}`, as Standard Webhooks has it.
fn message(event: &AlarmEvent) -> Bytes {
    let alarm: Value = serde_json::from_str(&event.alarm).unwrap_or(Value::Null);
    let kind = format!("alarm.{}", event.kind.word());
    Bytes::from(json!({ "type": kind, "timestamp": words::time(event.at), "data": alarm }).to_string())
}

fn outcome(answer: Result<super::post::Answer, String>) -> Outcome {
    match answer {
        Err(why) => Outcome::Failed(why, None),
        Ok(answer) => {
            let words = format!("the receiver answered {}", answer.status);
            let asked = answer.retry_after.map(|seconds| Duration::from_secs(seconds).min(LONGEST_ASKED));
            match answer.status {
                200..300 => Outcome::Told,
                // Timeout, too early, too many: a matter of time.
                408 | 425 | 429 => Outcome::Failed(words, asked),
                400..500 => Outcome::Refused(words),
                _ => Outcome::Failed(words, asked),
            }
        }
    }
}

/// Full jitter below a bound that doubles. `random` is of all 64 bits.
fn pause(attempts: u32, random: u64) -> Duration {
    let bound = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(attempts.min(20))).min(LONGEST_PAUSE);
    let share = random as f64 / u64::MAX as f64;
    FIRST_PAUSE / 2 + bound.mul_f64(share)
}

fn random() -> u64 {
    // Without random numbers the pause is a fixed one.
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarms::post::Answer;

    #[test]
    fn pauses_grow_are_bounded_and_never_nothing() {
        assert_eq!(pause(0, 0), Duration::from_secs(1));
        assert_eq!(pause(0, u64::MAX), Duration::from_secs(3));
        assert_eq!(pause(3, u64::MAX), Duration::from_secs(17));
        assert_eq!(pause(u32::MAX, u64::MAX), LONGEST_PAUSE + Duration::from_secs(1));
    }

    #[test]
    fn a_refusal_is_final_and_trouble_is_not() {
        let answered = |status, retry_after| outcome(Ok(Answer { status, retry_after }));
        assert_eq!(answered(204, None), Outcome::Told);
        assert!(matches!(answered(404, None), Outcome::Refused(_)));
        assert!(matches!(answered(302, None), Outcome::Failed(_, None)));
        assert!(matches!(answered(500, None), Outcome::Failed(_, None)));
        let hour = Some(Duration::from_secs(3_600));
        assert!(matches!(answered(429, Some(1_000_000)), Outcome::Failed(_, asked) if asked == hour));
    }
}
