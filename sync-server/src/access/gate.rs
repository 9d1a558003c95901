//! Finds out who asks: by an API key, by a session's cookie, or not at all where the page is open.
//!
//! Nothing is remembered between requests but how often somebody asked: a user that was removed, a role
//! that changed and a key that is over act at once, on every server of one database.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay_protocols::boot_time::wall_micros;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use tracing::info;

use super::limits::Limits;
use super::passwords::PasswordError;
use super::secrets::{cookie_in, key_in};
use super::{Identity, Passwords, Proof, Role, hash, random};
use crate::store::{
    Access, Act, AgentKey, Change, Micros, Outcome, SessionRow, StoreError, TenantKey, UserRow,
};

/// "Last used" is written down so often.
const NOTED_EVERY: Micros = 60_000_000;
/// However much it is used, a session is over after 30 days.
const LONGEST_SESSION: Micros = 30 * 86_400_000_000;

/// When nobody needs to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openness {
    /// Never.
    Never,
    /// Until the first user is made, for requests from this machine to this machine.
    UntilUsers,
    /// Always: somebody else sees to it.
    Always,
}

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// When nobody needs to log in.
    pub open: Openness,
    /// How long a session that is not used lasts.
    pub session: Duration,
    /// Requests a minute of one user or key.
    pub requests: u32,
    /// Does this server speak TLS itself?
    pub is_tls: bool,
}

/// Why somebody is not let in.
#[derive(Debug)]
pub enum Refusal {
    /// Nobody knows who it is; with what to do.
    Unknown(String),
    /// Too often; with how long to wait.
    TooMany(Duration),
    /// Something stands in the way.
    Conflict(String),
    /// The database.
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<PasswordError> for Refusal {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::TooMany(Duration::from_secs(5)),
            PasswordError::Failed => Self::Store(StoreError::Away(error.to_string())),
        }
    }
}

/// A request, as far as it says who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Where it comes from.
    pub from: Option<IpAddr>,
}

impl<'a> Asked<'a> {
    /// `peer` is who connected. If that is a program on this machine which says that it asks for somebody
    /// else, it is believed.
    pub fn new(headers: &'a HeaderMap, peer: Option<IpAddr>) -> Self {
        let told = headers.get_all("x-forwarded-for").iter().next_back();
        let told = told.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        let from = match peer {
            Some(peer) if peer.to_canonical().is_loopback() => told.or(Some(peer)),
            peer => peer,
        };
        Self { headers, from }
    }

    /// From this machine, and meant for it: not through a proxy, and not from a page of another site
    /// whose name was made to lead here (DNS rebinding).
    fn is_local(&self) -> bool {
        const PROXIED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.from.is_none_or(|from| from.to_canonical().is_loopback())
            && !PROXIED.iter().any(|name| self.headers.contains_key(*name))
            // HTTP/2 has it in the address.
            && host.is_none_or(is_this_machine)
    }
}

/// `localhost:8080`, `127.0.0.1`, `[::1]:8080`.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    access: Access,
    rules: Rules,
    passwords: Passwords,
    limits: Limits,
    /// SHA-256 of the set-up link's secret, while there is one.
    setup: Mutex<Option<[u8; 32]>>,
    /// Agents never change their tenant.
    tenants: Mutex<HashMap<AgentKey, TenantKey>>,
}

impl Gate {
    /// Over the store's users and keys.
    pub fn new(access: Access, rules: Rules) -> Self {
        Self {
            access,
            rules,
            passwords: Passwords::new(),
            limits: Limits::new(rules.requests),
            setup: Mutex::default(),
            tenants: Mutex::default(),
        }
    }

    /// Users and keys as they are kept.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Hashes.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// What was set.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Who asks.
    ///
    /// # Errors
    /// When nobody knows, when it is too often, and when the database does not answer.
    pub async fn identify(&self, asked: &Asked<'_>) -> Result<Identity, Refusal> {
        let now = Instant::now();
        self.limits.stranger(asked.from, now).map_err(Refusal::TooMany)?;
        let key = key_in(asked.headers).map_err(|()| {
            Refusal::Unknown("`Authorization` holds no API key: write `Bearer fbk_…`".into())
        })?;
        let identity = match (key, cookie_in(asked.headers, self.rules.is_tls)) {
            (Some(key), _) => self.by_key(key).await?,
            (None, Some(cookie)) => self.by_cookie(cookie).await?,
            (None, None) => None,
        };
        if let Some(identity) = identity {
            self.limits.request(identity.proof, now).map_err(Refusal::TooMany)?;
            return Ok(identity);
        }
        if key.is_some() {
            self.limits.was_stranger(asked.from, now);
            return Err(Refusal::Unknown("there is no such API key, or its time is over".into()));
        }
        self.openly(asked).await
    }

    /// May who came with this proof stay? For what hangs on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn stays(&self, proof: Proof) -> Result<bool, StoreError> {
        let now = wall_micros();
        match proof {
            Proof::Open => Ok(self.rules.open == Openness::Always || !self.access.has_users().await?),
            Proof::Session { hash, .. } => {
                Ok(self.access.session(hash).await?.is_some_and(|row| now < row.expires))
            }
            Proof::Key { hash, .. } => Ok(self.access.key(hash).await?.is_some_and(|row| now < row.expires)),
        }
    }

    async fn by_key(&self, key: &str) -> Result<Option<Identity>, Refusal> {
        let (hash, now) = (hash(key), wall_micros());
        let Some(row) = self.access.key(hash).await?.filter(|row| now < row.expires) else { return Ok(None) };
        if row.seen.is_none_or(|seen| now.saturating_sub(seen) > NOTED_EVERY) {
            self.access.key_used(row.key, now).await?;
        }
        Ok(Some(Identity::of_key(hash, &row)))
    }

    async fn by_cookie(&self, cookie: &str) -> Result<Option<Identity>, Refusal> {
        let (hash, now) = (hash(cookie), wall_micros());
        let found = self.access.session(hash).await?;
        let Some(row) = found.filter(|row| now < row.expires) else { return Ok(None) };
        if now.saturating_sub(row.seen) > NOTED_EVERY {
            self.access.session_used(hash, now, self.expiry(&row, now)).await?;
        }
        Ok(Some(Identity::of_session(hash, &row)))
    }

    fn expiry(&self, row: &SessionRow, now: Micros) -> Micros {
        now.saturating_add(self.session_micros()).min(row.created.saturating_add(LONGEST_SESSION))
    }

    fn session_micros(&self) -> Micros {
        Micros::try_from(self.rules.session.as_micros()).unwrap_or(LONGEST_SESSION)
    }

    async fn openly(&self, asked: &Asked<'_>) -> Result<Identity, Refusal> {
        const LOG_IN: &str = "log in at /, or send an API key: `Authorization: Bearer fbk_…`";
        match self.rules.open {
            Openness::Always => Ok(Identity::open()),
            Openness::Never => Err(Refusal::Unknown(LOG_IN.into())),
            Openness::UntilUsers if self.access.has_users().await? => Err(Refusal::Unknown(LOG_IN.into())),
            Openness::UntilUsers if asked.is_local() => Ok(Identity::open()),
            Openness::UntilUsers => Err(Refusal::Unknown(
                "without users this page is for its own machine only, at 127.0.0.1 and not through a proxy; \
                 make the first user with `forebay-server user add NAME --role admin`"
                    .into(),
            )),
        }
    }

    /// The user of this name and password.
    ///
    /// # Errors
    /// When there is none, or it was tried too often.
    pub async fn check(&self, name: &str, password: &str, from: Option<IpAddr>) -> Result<UserRow, Refusal> {
        let name = name.to_ascii_lowercase();
        self.limits.log_in(&name, from, Instant::now()).map_err(Refusal::TooMany)?;
        let found = self.access.user(&name).await?;
        let kept = found.as_ref().map(|(_, kept)| kept.as_str());
        let is_right = self.passwords.verify(password, kept).await?;
        match found {
            Some((row, _)) if is_right => {
                self.limits.logged_in(&name, from);
                Ok(row)
            }
            // Which of the two it was is not told. The name is not logged: people type passwords there.
            _ => {
                info!(from = from.map(tracing::field::display), "A log-in was refused.");
                Err(Refusal::Unknown("there is no user of this name with this password".into()))
            }
        }
    }

    /// A session of this user: the cookie's secret, and for how many seconds a browser keeps it.
    ///
    /// # Errors
    /// When the database does not answer, or the user is gone meanwhile.
    pub async fn open_session(&self, user: &UserRow, from: Option<IpAddr>) -> Result<(String, u64), Refusal> {
        let (secret, hash) = random("").map_err(|error| StoreError::Away(error.to_string()))?;
        let at = wall_micros();
        let act = Act {
            tenant: user.tenant,
            who: format!("user {}", user.name),
            origin: from.map_or_else(String::new, |from| from.to_string()),
            at,
        };
        let expires = at.saturating_add(self.session_micros());
        match self.access.change(&act, Change::OpenSession { user: user.user, hash, expires }).await? {
            // The server knows when it is over; the browser keeps it as long as it can be good.
            Outcome::Done(_) => Ok((secret, (LONGEST_SESSION / 1_000_000) as u64)),
            _ => Err(Refusal::Unknown("the user was removed just now".into())),
        }
    }

    /// The secret of a link by which the first user is made, if there are no users. Good until it is used,
    /// the server stops, or there is a user otherwise.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn setup_secret(&self) -> Result<Option<String>, StoreError> {
        if self.access.has_users().await? {
            return Ok(None);
        }
        let (secret, hash) = random("").map_err(|error| StoreError::Away(error.to_string()))?;
        *self.setup.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash);
        Ok(Some(secret))
    }

    /// Makes the first user, an admin of the main tenant, by the link's secret.
    ///
    /// # Errors
    /// When it is not the secret, or there is a user already.
    pub async fn set_up(
        &self,
        secret: &str,
        name: String,
        password: &str,
        from: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        self.limits.log_in("", from, Instant::now()).map_err(Refusal::TooMany)?;
        let kept = *self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let is_right = kept.is_some_and(|kept| bool::from(kept.ct_eq(&hash(secret))));
        if !is_right {
            return Err(Refusal::Unknown(
                "the link is not good any more: it is used up, or the server was started again since, and \
                 its log has another; or run `forebay-server user add NAME --role admin`"
                    .into(),
            ));
        }
        let act = Act {
            tenant: TenantKey::MAIN,
            who: "set-up link".into(),
            origin: from.map_or_else(String::new, |from| from.to_string()),
            at: wall_micros(),
        };
        let password = self.passwords.hash(password).await?;
        let change = Change::AddUser { name, role: Role::Admin, password, only_first: true };
        let outcome = self.access.change(&act, change).await?;
        *self.setup.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match outcome {
            Outcome::Done(_) => Ok(()),
            _ => Err(Refusal::Conflict("there is a user already: log in".into())),
        }
    }

    /// Is the agent this tenant's? Asks the database once for each agent.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_of(&self, agent: AgentKey, tenant: TenantKey) -> Result<bool, StoreError> {
        let tenants = || self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tenants().get(&agent).copied();
        if let Some(owner) = known {
            return Ok(owner == tenant);
        }
        let found = self.access.tenant_of(agent).await?;
        if let Some(owner) = found {
            tenants().insert(agent, owner);
        }
        Ok(found == Some(tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_page_without_users_is_for_its_own_machine_only() {
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        let is_local = |pairs: &[_], peer| Asked::new(&headers(pairs), peer).is_local();
        for host in ["localhost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:8080", "LOCALHOST"] {
            assert!(is_local(&[("host", host)], local), "{host}");
        }
        for host in [
            "plant.example",
            "127.0.0.1.evil.example:8080",
            "192.0.2.1",
            "localhost.evil",
            "[2001:db8::1]",
            "",
        ] {
            assert!(!is_local(&[("host", host)], local), "{host}");
        }
        for proxied in ["x-forwarded-for", "forwarded", "x-real-ip"] {
            assert!(!is_local(&[("host", "localhost"), (proxied, "127.0.0.1")], local), "{proxied}");
        }
        assert!(!is_local(&[("host", "localhost")], Some(IpAddr::from([192, 0, 2, 1]))));
    }

    #[test]
    fn a_proxy_on_this_machine_is_believed_and_no_other() {
        let told = headers(&[("x-forwarded-for", "10.9.9.9, 192.0.2.7")]);
        let from = |peer: [u8; 4]| Asked::new(&told, Some(IpAddr::from(peer))).from;
        assert_eq!(from([127, 0, 0, 1]), Some(IpAddr::from([192, 0, 2, 7])), "what the proxy itself saw");
        assert_eq!(from([192, 0, 2, 9]), Some(IpAddr::from([192, 0, 2, 9])));
    }
}
