//! Letting gateways in, and out again. A gateway applies with a token and the hash of its key; an
//! application that needs an operator's word waits for it; one that is approved is admitted.
//!
//! - The token is used up by the application, so a token lets in as many keys as it was made for,
//!   however long their operators take. Who asks again with the same key is known again.
//! - An answer that got lost costs nothing: within [`ASK_AGAIN`] the same key is admitted again.
//! - Who was revoked, or has left, needs a new token.

use async_trait::async_trait;

use super::{AgentKey, Micros, StoreError, TenantKey, TokenVerdict};

/// For so long after it was admitted a key that asks again is answered again.
pub(super) const ASK_AGAIN: Micros = 3_600 * 1_000_000;
/// Revocations are told by [`Admission::revoked_lately`] for so long, in seconds.
pub(super) const LATELY: i64 = 600;

/// The part of a store that knows who may come in.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// A gateway asks to be let in. Uses the token up by one for a key that is new.
    async fn apply(&self, application: NewApplication) -> Result<Applied, StoreError>;

    /// Applications that wait for an operator, or were approved and not fetched yet, oldest first.
    async fn applications(&self) -> Result<Vec<Application>, StoreError>;

    /// An operator's word on one that waits or was approved. False: there is no such application.
    async fn decide(&self, id: ApplicationId, word: Word, now: Micros) -> Result<bool, StoreError>;

    /// Makes or finds the agent of an approved application and stores its certificate. An agent that was
    /// revoked is welcome again with this certificate; its earlier ones stay revoked. `None`: the
    /// application is not approved (any more).
    async fn admit(
        &self,
        id: ApplicationId,
        certificate: [u8; 32],
        valid_until: Micros,
        now: Micros,
    ) -> Result<Option<AgentKey>, StoreError>;

    /// The agent leaves: all its certificates are revoked, and what it stored stays.
    async fn leave(&self, agent: AgentKey, now: Micros) -> Result<(), StoreError>;

    /// Agents that have left and did not come back, with the moment.
    async fn departures(&self) -> Result<Vec<(AgentKey, Micros)>, StoreError>;

    /// Fingerprints of certificates that were revoked during the last ten minutes.
    async fn revoked_lately(&self) -> Result<Vec<[u8; 32]>, StoreError>;

    /// Takes in a certificate that this server's CA signed and the store has never heard of: it was
    /// restored from a backup of before. Makes the agent if need be. `None` for an agent that is revoked, and
    /// where there is more than one tenant: the certificate does not tell whose it is.
    async fn adopt(&self, adopted: Adopted, now: Micros) -> Result<Option<AgentKey>, StoreError>;

    /// Applies and admits in one go, for whoever needs no approval.
    async fn join(
        &self,
        secret_hash: [u8; 32],
        site: &str,
        gateway: &str,
        certificate: [u8; 32],
        valid_until: Micros,
        now: Micros,
    ) -> Result<(TokenVerdict, Option<AgentKey>), StoreError> {
        let application = NewApplication {
            secret_hash,
            // A key of its own for each certificate.
            key_hash: certificate,
            site: site.into(),
            gateway: gateway.into(),
            peer: String::new(),
            version: String::new(),
            approval: false,
            now,
        };
        match self.apply(application).await? {
            Applied::Approved(id) => {
                Ok((TokenVerdict::Valid, self.admit(id, certificate, valid_until, now).await?))
            }
            Applied::Refused(verdict) => Ok((verdict, None)),
            Applied::Pending { .. } | Applied::Rejected(_) => Ok((TokenVerdict::Valid, None)),
        }
    }
}

/// The store's number of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApplicationId(pub i64);

/// What a gateway asks with.
#[derive(Clone, Debug)]
pub struct NewApplication {
    /// SHA-256 of the token's secret.
    pub secret_hash: [u8; 32],
    /// SHA-256 of the gateway's public key.
    pub key_hash: [u8; 32],
    /// The site it says it is of.
    pub site: String,
    /// The name it goes by there.
    pub gateway: String,
    /// The address it comes from.
    pub peer: String,
    /// Its version.
    pub version: String,
    /// Must an operator approve, whatever the token says?
    pub approval: bool,
    /// The server's time.
    pub now: Micros,
}

/// What becomes of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The token is worth nothing.
    Refused(TokenVerdict),
    /// It waits for an operator.
    Pending {
        /// Its number.
        id: ApplicationId,
        /// It is here for the first time.
        is_new: bool,
    },
    /// To be admitted.
    Approved(ApplicationId),
    /// An operator said no, for this reason, if any was given.
    Rejected(String),
}

/// What an operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Let it in.
    Yes,
    /// Do not, for this reason, which the gateway is told.
    No(String),
}

/// An application as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its number.
    pub id: ApplicationId,
    /// Whose gateway it would be: that of its token.
    pub tenant: TenantKey,
    /// The site it says it is of.
    pub site: String,
    /// The name it goes by there.
    pub gateway: String,
    /// SHA-256 of its public key.
    pub key_hash: [u8; 32],
    /// The address it came from last.
    pub peer: String,
    /// Its version.
    pub version: String,
    /// When it asked first.
    pub asked: Micros,
    /// When it asked last.
    pub last_asked: Micros,
    /// An operator has approved it; it has not been back since.
    pub approved: bool,
    /// The note of its token.
    pub note: String,
}

/// A certificate to take in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The site in it.
    pub site: String,
    /// The gateway in it.
    pub gateway: String,
    /// SHA-256 of its DER.
    pub certificate: [u8; 32],
    /// When it runs out.
    pub valid_until: Micros,
}

/// How far an application is, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Pending,
    Approved,
    Rejected,
    Joined,
}

impl Stage {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Joined => "joined",
        }
    }

    pub(crate) fn of(word: &str) -> Option<Self> {
        [Self::Pending, Self::Approved, Self::Rejected, Self::Joined]
            .into_iter()
            .find(|stage| stage.word() == word)
    }
}

/// A known application, and what is to be known of it when it comes again.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: ApplicationId,
    pub(crate) stage: Stage,
    pub(crate) words: String,
    pub(crate) decided: Option<Micros>,
    pub(crate) site: String,
    pub(crate) gateway: String,
    /// Its token wants an operator's word.
    pub(crate) approval: bool,
}

impl Known {
    /// Its stage from now on, and the answer.
    pub(crate) fn asks_again(self, with: &NewApplication) -> (Stage, Applied) {
        let Self { id, stage, words, decided, site, gateway, approval } = self;
        let is_renamed = (&site, &gateway) != (&with.site, &with.gateway);
        let is_late = decided.is_none_or(|decided| with.now.saturating_sub(decided) > ASK_AGAIN);
        match stage {
            Stage::Rejected => (stage, Applied::Rejected(words)),
            // One use of a token is one agent.
            Stage::Joined if is_renamed || is_late => (stage, Applied::Refused(TokenVerdict::UsedUp)),
            // The operator's word was for the name too.
            Stage::Approved if is_renamed && (approval || with.approval) => {
                (Stage::Pending, Applied::Pending { id, is_new: true })
            }
            Stage::Joined | Stage::Approved => (stage, Applied::Approved(id)),
            Stage::Pending => (stage, Applied::Pending { id, is_new: false }),
        }
    }
}
