//! How many files this process may have open: a connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// For as many agents as the listener takes, pages, and the store.
const WANTED: u64 = 16_384;

/// Raises the limit to what the system allows, where that is below what may be needed. The unit file
/// allows more; a shell allows 1,024 and, asked, more as well.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= WANTED) {
        return;
    }
    let most = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }) {
        Ok(()) if most < WANTED => {
            warn!(
                most,
                "This system allows few open files, and each agent is one; raise it with `ulimit -Hn`."
            );
        }
        Ok(()) => debug!(most, "Raised the limit of open files."),
        Err(error) => warn!(%error, ?current, "Cannot raise the limit of open files; each agent is one."),
    }
}
