//! Bytes that came from agents and are in no books yet: bodies of requests with batches, as they arrive,
//! whatever becomes of the request. The next delivery of the agent that is committed takes them along, so
//! they are in the database once, together with what they brought. Those of an agent that nothing is
//! committed of are forgotten when the server ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt;

use crate::store::{AgentKey, Delivery};

/// Who sent how much. Clones are the same. No larger than the fleet: only members are counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<HashMap<AgentKey, u64>>>);

impl Arrivals {
    /// The request, of whose body every byte counts as it arrives.
    pub(super) fn counted(&self, agent: AgentKey, request: Request) -> Request {
        let arrivals = self.clone();
        request.map(|body| {
            Body::new(body.map_frame(move |frame| {
                arrivals.add(agent, frame.data_ref().map_or(0, |piece| piece.len() as u64));
                frame
            }))
        })
    }

    /// Lets each delivery take along what came from its agent.
    pub(super) fn hand_to<'a>(&self, deliveries: impl Iterator<Item = &'a mut Delivery>) {
        let mut held = self.lock();
        for delivery in deliveries {
            let came = held.remove(&delivery.agent).unwrap_or_default();
            delivery.bytes = delivery.bytes.saturating_add(came);
        }
    }

    /// What `delivery` took along is in no books after all.
    pub(super) fn take_back(&self, delivery: &Delivery) {
        self.add(delivery.agent, delivery.bytes);
    }

    fn add(&self, agent: AgentKey, bytes: u64) {
        if bytes > 0 {
            let mut held = self.lock();
            let came = held.entry(agent).or_default();
            *came = came.saturating_add(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentKey, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_protocols::sync::batch::Epoch;

    use super::*;

    const ONE: AgentKey = AgentKey(1);

    fn handed(arrivals: &Arrivals, agent: AgentKey) -> Delivery {
        let mut delivery = Delivery::empty(agent, Epoch([1; 16]), 0);
        arrivals.hand_to(std::iter::once(&mut delivery));
        delivery
    }

    #[tokio::test]
    async fn every_byte_that_arrives_counts_once_for_its_agent() {
        let arrivals = Arrivals::default();
        let pieces = ["four", "and", "more"].map(|text| Ok::<_, std::io::Error>(Bytes::from(text)));
        let body = Body::from_stream(futures::stream::iter(pieces));
        let mut body = arrivals.counted(ONE, Request::new(body)).into_body();
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        // The rest is never read: it breaks off here.
        drop(body);
        assert_eq!(handed(&arrivals, AgentKey(2)).bytes, 0);
        let taken = handed(&arrivals, ONE);
        assert_eq!(taken.bytes, 7);
        assert_eq!(handed(&arrivals, ONE).bytes, 0, "once");
        arrivals.take_back(&taken);
        assert_eq!(handed(&arrivals, ONE).bytes, 7, "it was not committed");
    }
}
