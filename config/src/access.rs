//! `[access]`: who needs to log in at the page and the API.

use std::time::Duration;

/// `[access]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// `mode`. Default `auto`.
    pub mode: AccessMode,
    /// `session`: how long a log-in that is not used lasts. Default 12 h.
    pub session: Duration,
    /// `requests_per_minute`: of one user or key; more get 429. Default 1200.
    pub requests_per_minute: u32,
}

/// When nobody needs to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// `auto`: on a loopback listener until the first user is made; never on another one.
    Auto,
    /// `users`: everybody logs in, always.
    Users,
    /// `open`: nobody does; a loopback listener behind something that sees to it.
    Open,
}

impl Default for Access {
    fn default() -> Self {
        Self { mode: AccessMode::Auto, session: Duration::from_secs(12 * 3_600), requests_per_minute: 1_200 }
    }
}
