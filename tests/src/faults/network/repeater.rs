//! Requests that come again. TLS stands between road and request, so a repetition is made where a
//! broken agent, or a middlebox with its key, would make it: with the gateway's identity, over a
//! connection of its own, sometimes twice at once, sometimes before the gateway itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_agent::uplink::line::{Line, Peer};
use forebay_agent::uplink::meter::Meter;
use forebay_agent::uplink::state::Reply;
use forebay_demo::dice::Dice;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::gateway::Overheard;

const PATIENCE: Duration = Duration::from_secs(2);

/// Says again what gateways said. Ends when dropped.
pub struct Repeater {
    repeated: Arc<AtomicU64>,
    running: JoinHandle<()>,
}

impl Repeater {
    /// Begins.
    pub fn start(dice: Dice, overheard: &[Arc<Overheard>]) -> Self {
        let repeated = Arc::new(AtomicU64::new(0));
        let running = tokio::spawn(repeat(dice, overheard.to_vec(), repeated.clone()));
        Self { repeated, running }
    }

    /// Requests that a server took and answered.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}

impl Drop for Repeater {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn repeat(mut dice: Dice, overheard: Vec<Arc<Overheard>>, repeated: Arc<AtomicU64>) {
    loop {
        sleep(dice.millis(5..40)).await;
        let Some(gateway) = dice.one_of(&overheard).cloned() else { continue };
        let Some(request) = gateway.any(&mut dice) else { continue };
        let times = dice.within(1..5);
        let taken = if dice.percent(30) {
            let both = tokio::join!(say(&gateway.peer, &request, times), say(&gateway.peer, &request, times));
            both.0 + both.1
        } else {
            say(&gateway.peer, &request, times).await
        };
        repeated.fetch_add(taken, Ordering::Relaxed);
    }
}

/// Posts a request so many times on one connection; how often it was answered.
async fn say(peer: &Peer, request: &Bytes, times: u64) -> u64 {
    let Ok(Ok(mut line)) = timeout(PATIENCE, Line::connect(peer, None, &Meter::default())).await else {
        return 0;
    };
    let mut answered = 0;
    for _ in 0..times {
        match timeout(PATIENCE, line.post("/v1/batches", request.clone().into())).await {
            Ok(Ok(Reply::Answer(_))) => answered += 1,
            _ => break,
        }
    }
    answered
}
