//! Making join strings: on the command line and on the page. The secret in one is shown once; the store keeps
//! its hash.

use std::sync::Arc;
use std::time::Duration;

use forebay_protocols::sync::join::{JoinString, TokenSecret};
use forebay_protocols::sync::tls;

use crate::identity::Authority;
use crate::store::{Act, NewToken, Note, Store, StoreError};

/// What a join string tells a gateway of this server.
#[derive(Clone, Debug)]
pub struct Inviter {
    /// Whose word a gateway believes from then on.
    pub authority: Arc<Authority>,
    /// `host:port` agents reach this server by.
    pub address: String,
}

/// Who is invited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// For how long.
    pub expires: Duration,
    /// How many gateways; at least 1.
    pub uses: u32,
    /// A word to remember what it was for.
    pub note: String,
    /// Does each of them wait for an operator?
    pub approval: bool,
}

/// Why there is no join string.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// No gateway could reach it; with the setting to change.
    #[error("{0}; set `sync.address` to the host:port agents reach this server by")]
    Address(String),
    /// There are no random numbers now.
    #[error("cannot make a secret: {0}")]
    Secret(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Inviter {
    /// Makes one for gateways of `act.tenant`, and writes it down in the audit. `act.at` is now.
    ///
    /// # Errors
    /// When the address is none, and when the database is away or refuses.
    pub async fn invite(
        &self,
        store: &dyn Store,
        invitation: Invitation,
        act: &Act,
    ) -> Result<JoinString, InviteError> {
        tls::server_name(&self.address).map_err(InviteError::Address)?;
        let secret = TokenSecret::random().map_err(|error| InviteError::Secret(error.to_string()))?;
        let Invitation { expires, uses, note, approval } = invitation;
        let life = i64::try_from(expires.as_micros()).unwrap_or(i64::MAX);
        let audit = Note::new("join token made", note.clone()).from_to("", format!("{uses} uses"));
        let (secret_hash, created) = (secret.hash(), act.at);
        let expires = created.saturating_add(life);
        store.add_token(NewToken { secret_hash, expires, uses, note, approval, created }).await?;
        store.access().give_token(secret_hash, act.tenant).await?;
        store.access().record(act, audit).await?;
        Ok(JoinString { address: self.address.clone(), ca_pin: self.authority.pin(), secret })
    }
}
