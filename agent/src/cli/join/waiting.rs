//! A gateway that waits for an operator's word finds out by itself: whoever ran `forebay-agent join` on
//! it may have left.

use std::path::PathBuf;
use std::time::Duration;

use forebay_config::agent::Proxy;
use forebay_protocols::sync::tls::Application;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Applicant, JoinError, attempt, identity_folder};
use crate::backoff::{Waited, full_jitter, wait};

/// How often it asks, about.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// Asks for the operator's word as long as an application is kept.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The application is kept below it.
    pub state_dir: PathBuf,
    /// The gateway's site.
    pub site: String,
    /// Its name there.
    pub gateway: String,
    /// `uplink.proxy`.
    pub proxy: Option<Proxy>,
}

impl Waiting {
    /// Until `stop`.
    pub async fn keep_asking(self, stop: CancellationToken) {
        let mut told = String::new();
        while wait(ASK_EVERY / 3 + full_jitter(ASK_EVERY), &stop).await == Waited::Over {
            let folder = identity_folder(&self.state_dir);
            let loaded = spawn_blocking(move || Application::load(&folder)).await;
            // One that cannot be read is for whoever runs `join` again.
            let Ok(Ok(Some(application))) = loaded else { continue };
            let applicant = Applicant {
                state_dir: &self.state_dir,
                site: &self.site,
                gateway: &self.gateway,
                proxy: self.proxy.as_ref(),
            };
            let text = application.join.to_string();
            let Some((_, outcome)) = stop.run_until_cancelled(attempt(applicant, &text)).await else {
                return;
            };
            match outcome {
                Ok(()) => info!(server = %application.join.address, "An operator has let this gateway in."),
                Err(JoinError::Pending(_)) => debug!("Still waiting for an operator's word."),
                Err(error) => {
                    let words = error.to_string();
                    if words != told {
                        warn!("This gateway has asked to join, and was not let in: {words}");
                        told = words;
                    }
                }
            }
        }
    }
}
