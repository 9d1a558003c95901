//! The one subscription of a session: notifications in order, none missed that the server still
//! has, and an end as soon as the server keeps quiet for longer than it promised.

use std::time::Duration;

use opcua::core::ResponseMessage;
use opcua::types::{
    CreateSubscriptionRequest, Error, NotificationMessage, PublishRequest, RepublishRequest, StatusCode,
    SubscriptionAcknowledgement,
};
use tokio::time::{Instant, timeout_at};

use super::channel::{Channel, unexpected};
use super::session::Session;

/// With nothing to report, the server says so about this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Publish requests kept at the server, so that it can report while our next one is on its way.
const CREDITS: usize = 3;
/// The most changes in one message. More come in the next, at once.
const MESSAGE_CHANGES: u32 = 10_000;
/// More messages than this are not asked for again: the server counts otherwise than we think.
const MAX_MISSED: u32 = 64;

/// A subscription and what we know of its progress.
pub(super) struct Subscription {
    pub id: u32,
    order: Order,
    acknowledge: Vec<u32>,
    credits: usize,
    heard: Instant,
    silence: Duration,
}

/// What one answer of the server brought.
#[derive(Default)]
pub(super) struct News {
    /// In the order of the server's reporting. May be none: a sign of life.
    pub messages: Vec<NotificationMessage>,
    /// Messages that were lost for good.
    pub lost: u64,
}

impl Subscription {
    /// Asks for a subscription that reports every `interval`, and posts the first publish requests.
    pub(super) async fn create(
        session: &mut Session,
        interval: Duration,
        limit: Duration,
    ) -> Result<Self, Error> {
        let keep_alive = count(SIGN_OF_LIFE.min(session.timeout / 3), interval);
        // After a cut the server should hold what it has about as long as the session.
        let lifetime = count(session.timeout, interval).max(keep_alive.saturating_mul(3));
        let request = |request_header| CreateSubscriptionRequest {
            request_header,
            requested_publishing_interval: interval.as_secs_f64() * 1e3,
            requested_lifetime_count: lifetime,
            requested_max_keep_alive_count: keep_alive,
            max_notifications_per_publish: MESSAGE_CHANGES,
            publishing_enabled: true,
            priority: 0,
        };
        let answer = match session.channel.ask(request, limit).await? {
            ResponseMessage::CreateSubscription(answer) => answer,
            other => return Err(unexpected(&other)),
        };
        // What the server made of our wishes decides how long its silence may be.
        let revised = Duration::try_from_secs_f64(answer.revised_publishing_interval / 1e3)
            .unwrap_or(interval)
            .max(Duration::from_millis(1));
        let sign_of_life = revised.saturating_mul(answer.revised_max_keep_alive_count.max(1));
        let mut subscription = Self {
            id: answer.subscription_id,
            order: Order::default(),
            acknowledge: Vec::new(),
            credits: CREDITS,
            heard: Instant::now(),
            silence: sign_of_life.saturating_mul(2).saturating_add(limit).min(Duration::from_secs(86_400)),
        };
        subscription.post(&mut session.channel);
        Ok(subscription)
    }

    /// When the server will have been silent for too long.
    pub(super) fn deadline(&self) -> Instant {
        self.heard + self.silence
    }

    /// Time in which nobody listened is not the server's silence.
    pub(super) fn excuse(&mut self, deaf: Duration) {
        self.heard += deaf;
    }

    /// Waits for the server's next answer, at most until `until`. `None` when that time came.
    pub(super) async fn next(
        &mut self,
        session: &mut Session,
        limit: Duration,
        until: Instant,
    ) -> Result<Option<News>, Error> {
        let Ok(answer) = timeout_at(until, session.channel.posted()).await else { return Ok(None) };
        let mut news = News::default();
        match answer {
            Ok(ResponseMessage::Publish(answer)) if answer.subscription_id == self.id => {
                self.heard = Instant::now();
                let message = answer.notification_message;
                let number = message.sequence_number;
                let reports = message.notification_data.as_ref().is_some_and(|data| !data.is_empty());
                let arrival = self.order.note(number, reports);
                for missed in arrival.missed {
                    match self.ask_again(session, missed, limit).await {
                        Ok(message) => {
                            news.messages.push(message);
                            self.acknowledge.push(missed);
                        }
                        Err(error) if gone(error.status()) => news.lost += 1,
                        Err(error) => return Err(error),
                    }
                }
                if reports {
                    self.acknowledge.push(number);
                    if arrival.fresh {
                        news.messages.push(message);
                    }
                }
            }
            // Of a subscription we do not know: it died with an earlier session.
            Ok(ResponseMessage::Publish(_)) => {}
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => match error.status() {
                // The server holds fewer requests than we would like.
                StatusCode::BadTooManyPublishRequests if self.credits > 1 => self.credits -= 1,
                StatusCode::BadTimeout => {}
                _ => return Err(error),
            },
        }
        self.post(&mut session.channel);
        Ok(Some(news))
    }

    fn post(&mut self, channel: &mut Channel) {
        while channel.outstanding() < self.credits {
            let subscription_id = self.id;
            let acknowledge: Vec<_> = self
                .acknowledge
                .drain(..)
                .map(|sequence_number| SubscriptionAcknowledgement { subscription_id, sequence_number })
                .collect();
            channel.post(|request_header| PublishRequest {
                request_header,
                subscription_acknowledgements: (!acknowledge.is_empty()).then_some(acknowledge),
            });
        }
    }

    async fn ask_again(
        &self,
        session: &mut Session,
        missed: u32,
        limit: Duration,
    ) -> Result<NotificationMessage, Error> {
        let subscription_id = self.id;
        let request = |request_header| RepublishRequest {
            request_header,
            subscription_id,
            retransmit_sequence_number: missed,
        };
        match session.channel.ask(request, limit).await? {
            ResponseMessage::Republish(answer) => Ok(answer.notification_message),
            other => Err(unexpected(&other)),
        }
    }
}

/// How many intervals of `step` make up `span`: at least one.
fn count(span: Duration, step: Duration) -> u32 {
    let intervals = span.as_millis().div_ceil(step.as_millis().max(1));
    u32::try_from(intervals).unwrap_or(u32::MAX).max(1)
}

fn gone(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadMessageNotAvailable
            | StatusCode::BadServiceUnsupported
            | StatusCode::BadNotImplemented
    )
}

/// The sequence numbers of notification messages (OPC UA Part 4, 5.13.1.1): 1, 2, 3 … and after
/// the greatest 1 again. A sign of life names the number of the next message.
#[derive(Debug, Default)]
struct Order {
    next: Option<u32>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Arrival {
    /// Numbers that should have come before.
    missed: Vec<u32>,
    /// Not seen before.
    fresh: bool,
}

impl Order {
    fn note(&mut self, number: u32, reports: bool) -> Arrival {
        let expected = self.next.unwrap_or(1);
        let ahead = distance(expected, number);
        if self.next.is_some() && ahead > u32::MAX / 2 {
            // Behind us: a message that was given up for lost, or sent twice.
            return Arrival::default();
        }
        self.next = Some(if reports { successor(number) } else { number });
        let mut missed = Vec::new();
        if ahead <= MAX_MISSED {
            let mut each = expected;
            while each != number {
                missed.push(each);
                each = successor(each);
            }
        }
        Arrival { missed, fresh: true }
    }
}

fn successor(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(1)
}

/// How many steps of `successor` lead from one number to another.
fn distance(from: u32, to: u32) -> u32 {
    if to >= from { to - from } else { to.wrapping_sub(from).wrapping_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(missed: &[u32]) -> Arrival {
        Arrival { missed: missed.to_vec(), fresh: true }
    }

    #[test]
    fn messages_in_order_miss_nothing() {
        let mut order = Order::default();
        assert_eq!(order.note(1, false), fresh(&[]), "a sign of life names the next message");
        for number in 1..10 {
            assert_eq!(order.note(number, true), fresh(&[]));
        }
        assert_eq!(order.note(10, false), fresh(&[]));
        assert_eq!(order.note(10, true), fresh(&[]));
    }

    #[test]
    fn what_was_skipped_is_asked_for_again_and_the_late_one_is_not_taken_twice() {
        let mut order = Order::default();
        order.note(1, true);
        assert_eq!(order.note(4, true), fresh(&[2, 3]));
        assert_eq!(order.note(3, true), Arrival::default(), "came late, was republished already");
        assert_eq!(order.note(6, false), fresh(&[5]), "a sign of life shows a loss, too");
        assert_eq!(order.note(6, true), fresh(&[]));
    }

    #[test]
    fn the_first_message_may_be_missing_too() {
        assert_eq!(Order::default().note(2, true), fresh(&[1]));
    }

    #[test]
    fn numbers_start_over_after_the_greatest() {
        let mut order = Order { next: Some(u32::MAX) };
        assert_eq!(order.note(u32::MAX, true), fresh(&[]));
        assert_eq!(order.note(1, true), fresh(&[]), "0 is never used");
        let mut order = Order { next: Some(u32::MAX) };
        assert_eq!(order.note(2, true), fresh(&[u32::MAX, 1]));
    }

    #[test]
    fn a_server_that_counts_in_its_own_way_loses_no_message() {
        let mut order = Order::default();
        assert_eq!(order.note(0, true), fresh(&[]));
        let mut order = Order::default();
        assert_eq!(order.note(1_000_000, true), fresh(&[]));
        assert_eq!(order.note(1_000_001, true), fresh(&[]));
    }

    #[test]
    fn counts_cover_the_span() {
        assert_eq!(count(Duration::from_secs(5), Duration::from_millis(300)), 17);
        assert_eq!(count(Duration::from_secs(5), Duration::from_secs(60)), 1);
        assert_eq!(count(Duration::from_secs(5), Duration::ZERO), 5000);
    }
}
