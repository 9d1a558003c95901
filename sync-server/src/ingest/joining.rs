//! Letting a gateway in: a token and a certificate request for a certificate, at once or when an
//! operator has said yes; later a certificate for a newer one; in the end leave to go.

use std::time::Duration;

use forebay_config::units::Name;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::tls;
use forebay_protocols::sync::wire::{JoinAnswer, JoinRequest};
use tokio::time::timeout;
use tracing::{info, warn};

use super::named::Named;
use super::outage::Outage;
use super::standing::Member;
use crate::identity::Authority;
use crate::joining::{LetIn, answer, let_in, sign, unsigned, worthless};
use crate::listener::{Peer, Shown};
use crate::store::{ApplicationId, NewApplication, Store, StoreError, TokenVerdict};

/// How long the store may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What all ways to a certificate need.
pub(super) struct Registry<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) authority: &'a Authority,
    pub(super) outage: &'a Outage,
    /// Whom the log has named as refused.
    pub(super) named: &'a Named,
    /// `sync.approval`: every join waits for an operator.
    pub(super) approval: bool,
}

impl Registry<'_> {
    /// A gateway shows a token and asks for a certificate.
    pub(super) async fn join(&self, peer: Peer, request: JoinRequest) -> Result<JoinAnswer, Problem> {
        let JoinRequest { secret, site, gateway, csr, version } = request;
        for name in [&site, &gateway] {
            Name::new(name).map_err(|why| Problem::new(Kind::BadName, why))?;
        }
        let who = tls::fingerprint(format!("{site}/{gateway} {secret}").as_bytes());
        let told = |problem: Problem| {
            let of_token = [Kind::UnknownToken, Kind::ExpiredToken, Kind::UsedToken].contains(&problem.kind);
            if of_token && self.named.is_news(who, problem.kind) {
                warn!(peer = %peer.address, site, gateway, "A gateway could not join. {problem}");
            }
            problem
        };
        // What is no secret at all hashes to something nobody was given.
        let secret_hash = TokenSecret::from_text(&secret).map_or([0; 32], |secret| secret.hash());
        let now = wall_micros();
        // A look before the work: whoever has no token makes us do none.
        if self.ask(self.store.token(secret_hash, now)).await? == TokenVerdict::Unknown {
            return Err(told(worthless(TokenVerdict::Unknown)));
        }
        let key_hash = Authority::key_of(&csr).map_err(unsigned)?;
        let application = NewApplication {
            secret_hash,
            key_hash,
            site: site.clone(),
            gateway: gateway.clone(),
            peer: peer.address.ip().to_string(),
            version: version.clone(),
            approval: self.approval,
            now,
        };
        match self.ask(let_in(self.store, self.authority, application, &csr, None)).await? {
            LetIn::Admitted(answer, agent) => {
                info!(site, gateway, version, number = agent.0, peer = %peer.address, "A gateway joined.");
                Ok(answer)
            }
            LetIn::Waits { id, is_new } => Err(pending(&site, &gateway, &key_hash, id, is_new)),
            LetIn::Refused(problem) => Err(told(problem)),
        }
    }

    /// A member wants to be one no more.
    pub(super) async fn leave(&self, member: &Member) -> Result<JoinAnswer, Problem> {
        self.ask(self.store.leave(member.key, wall_micros())).await?;
        info!(agent = %member, "A gateway left; what it stored stays.");
        let (agent, server_time_us) = (member.to_string(), wall_micros());
        Ok(JoinAnswer { agent, server_time_us, ..JoinAnswer::default() })
    }

    /// A certificate that our CA signed and the store has never heard of: takes it in. False if it is
    /// not ours, or of an agent that was revoked.
    pub(super) async fn adopt(&self, shown: &Shown) -> Result<bool, Problem> {
        let Some(adopted) = self.authority.signed(&shown.0) else { return Ok(false) };
        let name = format!("{}/{}", adopted.site, adopted.gateway);
        let key = self.ask(self.store.adopt(adopted, wall_micros())).await?;
        if key.is_some() {
            warn!(
                agent = name,
                "A certificate of our CA was not in the database, which was restored from a backup, it \
                 seems. Its gateway is known again."
            );
        }
        Ok(key.is_some())
    }

    /// A member asks for a newer certificate.
    pub(super) async fn renew(&self, member: &Member, csr: &[u8]) -> Result<JoinAnswer, Problem> {
        let signed = sign(self.authority, csr, &member.site, &member.gateway)?;
        self.ask(self.store.renew(member.key, signed.fingerprint, signed.valid_until)).await?;
        info!(agent = %member, "A gateway renewed its certificate.");
        Ok(answer(signed, member.to_string()))
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
        let answer = timeout(ANSWER_WITHIN, question).await;
        answer
            .unwrap_or_else(|_| Err(StoreError::Away("no answer in time".into())))
            .map_err(|error| self.outage.problem(&error))
    }
}

fn pending(site: &str, gateway: &str, key: &[u8; 32], id: ApplicationId, is_new: bool) -> Problem {
    let ApplicationId(number) = id;
    let key = tls::key_words(key);
    if is_new {
        info!(site, gateway, number, key, "A gateway asks to join and waits for an operator.");
    }
    Problem::new(
        Kind::PendingApproval,
        format!(
            "{site}/{gateway} (key {key}) waits for an operator: `forebay-server agents approve {number}` on the \
             server lets it in"
        ),
    )
}
