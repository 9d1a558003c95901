//! Waiting for a site of real programs, with an end to it.

use std::time::Duration;

use anyhow::{Result, ensure};
use forebay_demo::site::Site;
use tokio::time::{Instant, sleep, timeout};

/// The longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// An agent's sections: quick to give up on a cut road, quick to be durable.
pub const HASTY: &str = "[uplink]\nrequest_timeout = \"2s\"\nbackoff_max = \"1s\"\nheartbeat = \"5s\"\n\
                         [buffer]\ndurability_window = \"100ms\"";
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks again and again until it is so.
///
/// # Errors
/// When it is not within [`PATIENCE`], with the last words of both programs.
pub async fn until(site: &Site, what: &str, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !timeout(PATIENCE, done()).await?? {
        ensure!(begun.elapsed() < PATIENCE, "waited too long for {what}:\n{}", site.log_tails());
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
