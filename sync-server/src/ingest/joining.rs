//! Letting a gateway in: a token and a certificate request for a certificate; later a certificate
//! for a newer one.

use std::time::Duration;

use forebay_config::units::Name;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::tls;
use forebay_protocols::sync::wire::{JoinAnswer, JoinRequest};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::named::Named;
use super::outage::Outage;
use super::standing::Member;
use crate::identity::{Authority, Signed, SigningError};
use crate::listener::Peer;
use crate::store::{Store, StoreError, TokenVerdict};

/// How long the store may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What both ways to a certificate need.
pub(super) struct Registry<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) authority: &'a Authority,
    pub(super) outage: &'a Outage,
    /// Whom the log has named as refused.
    pub(super) named: &'a Named,
}

impl Registry<'_> {
    /// A gateway shows a token and asks for a certificate.
    pub(super) async fn join(&self, peer: Peer, request: JoinRequest) -> Result<JoinAnswer, Problem> {
        let JoinRequest { secret, site, gateway, csr, version } = request;
        for name in [&site, &gateway] {
            Name::new(name).map_err(|why| Problem::new(Kind::BadName, why))?;
        }
        let who = tls::fingerprint(format!("{site}/{gateway} {secret}").as_bytes());
        let admit = |verdict| {
            admit(verdict).inspect_err(|problem| {
                if self.named.is_news(who, problem.kind) {
                    warn!(peer = %peer.address, site, gateway, "A gateway could not join. {problem}");
                }
            })
        };
        // What is no secret at all hashes to something nobody was given.
        let hash = TokenSecret::from_text(&secret).map_or([0; 32], |secret| secret.hash());
        let now = wall_micros();
        // A look before signing: whoever has no token makes us do no work.
        admit(self.ask(self.store.token(hash, now)).await?)?;
        let signed = sign(self.authority, &csr, &site, &gateway)?;
        // The token is used up in the transaction that makes the agent: of two gateways racing for
        // its last use one is refused here.
        let joining = self.store.join(hash, &site, &gateway, signed.fingerprint, signed.valid_until, now);
        let (verdict, agent) = self.ask(joining).await?;
        admit(verdict)?;
        let number = agent.map(|key| key.0);
        info!(site, gateway, version, number, peer = %peer.address, "A gateway joined.");
        Ok(answer(signed, format!("{site}/{gateway}")))
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

fn sign(authority: &Authority, csr: &[u8], site: &str, gateway: &str) -> Result<Signed, Problem> {
    authority.sign_agent(csr, site, gateway).map_err(|error| match error {
        SigningError::Request(why) => Problem::new(Kind::BadCertificateRequest, why),
        SigningError::Ours(why) => {
            error!(why, "Cannot sign certificates.");
            Problem::new(Kind::Internal, "the server cannot sign certificates now; its log has the reason")
        }
    })
}

fn answer(signed: Signed, agent: String) -> JoinAnswer {
    JoinAnswer { chain: signed.chain, agent, server_time_us: wall_micros() }
}

fn admit(verdict: TokenVerdict) -> Result<(), Problem> {
    let (kind, what) = match verdict {
        TokenVerdict::Valid => return Ok(()),
        TokenVerdict::Unknown => (Kind::UnknownToken, "this server made no such join token"),
        TokenVerdict::Expired => (Kind::ExpiredToken, "the join token's time is over"),
        TokenVerdict::UsedUp => (Kind::UsedToken, "the join token was used already"),
    };
    Err(Problem::new(kind, format!("{what}; make a new one with `forebay-server token create`")))
}
