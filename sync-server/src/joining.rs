//! Letting a gateway in, whichever way it asks: over the network (`ingest`) or by a file that an operator brings
//! (`cli`). The store decides about the token and the application; the CA signs; only then is the gateway in.

use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::wire::JoinAnswer;
use tracing::error;

use crate::identity::{Authority, Signed, SigningError};
use crate::store::{AgentKey, ApplicationId, Applied, NewApplication, Store, StoreError, TokenVerdict, Word};

/// What becomes of a gateway that asks.
#[derive(Clone, Debug)]
pub enum LetIn {
    /// It is one of ours.
    Admitted(JoinAnswer, AgentKey),
    /// It waits for an operator.
    Waits {
        /// Its number.
        id: ApplicationId,
        /// It asks for the first time.
        is_new: bool,
    },
    /// No.
    Refused(Problem),
}

/// Does all that a join needs. `word` is what an operator who stands by says of one that has to wait.
///
/// # Errors
/// When the store cannot be asked; then nothing was promised, and the same question may be asked again.
pub async fn let_in(
    store: &dyn Store,
    authority: &Authority,
    application: NewApplication,
    csr: &[u8],
    word: Option<Word>,
) -> Result<LetIn, StoreError> {
    let NewApplication { site, gateway, now, .. } = application.clone();
    let id = match (store.apply(application).await?, word) {
        (Applied::Approved(id), _) => id,
        (Applied::Pending { id, .. }, Some(word)) => {
            store.decide(id, word, now).await?;
            id
        }
        (Applied::Pending { id, is_new }, None) => return Ok(LetIn::Waits { id, is_new }),
        (Applied::Refused(verdict), _) => return Ok(LetIn::Refused(worthless(verdict))),
        (Applied::Rejected(words), _) => {
            let why = if words.is_empty() { String::new() } else { format!(": {words}") };
            let detail = format!("an operator of the server rejected {site}/{gateway}{why}");
            return Ok(LetIn::Refused(Problem::new(Kind::RejectedJoin, detail)));
        }
    };
    let signed = match sign(authority, csr, &site, &gateway) {
        Ok(signed) => signed,
        Err(problem) => return Ok(LetIn::Refused(problem)),
    };
    let Some(agent) = store.admit(id, signed.fingerprint, signed.valid_until, now).await? else {
        let detail = "an operator is deciding on this gateway now; ask again";
        return Ok(LetIn::Refused(Problem::new(Kind::Busy, detail)));
    };
    Ok(LetIn::Admitted(answer(signed, format!("{site}/{gateway}")), agent))
}

/// Of a token that lets nobody in.
pub fn worthless(verdict: TokenVerdict) -> Problem {
    let (kind, what) = match verdict {
        TokenVerdict::Valid => {
            return Problem::new(Kind::Internal, "a good token was refused; this is a bug");
        }
        TokenVerdict::Unknown => (Kind::UnknownToken, "this server made no such join token"),
        TokenVerdict::Expired => (Kind::ExpiredToken, "the join token's time is over"),
        TokenVerdict::UsedUp => (Kind::UsedToken, "the join token was used already"),
    };
    Problem::new(kind, format!("{what}; make a new one with `forebay-server token create`"))
}

/// A certificate for the key in the request.
pub fn sign(authority: &Authority, csr: &[u8], site: &str, gateway: &str) -> Result<Signed, Problem> {
    authority.sign_agent(csr, site, gateway).map_err(unsigned)
}

/// Why a request was not signed, in words for its sender.
pub fn unsigned(error: SigningError) -> Problem {
    match error {
        SigningError::Request(why) => Problem::new(Kind::BadCertificateRequest, why),
        SigningError::Ours(why) => {
            error!(why, "Cannot sign certificates.");
            Problem::new(Kind::Internal, "the server cannot sign certificates now; its log has the reason")
        }
    }
}

/// What a gateway is told with its certificate.
pub fn answer(signed: Signed, agent: String) -> JoinAnswer {
    let Signed { chain, former, generation, .. } = signed;
    let (cross, former) = former.unwrap_or_default();
    JoinAnswer { chain, agent, server_time_us: wall_micros(), cross, former, ca_generation: generation }
}
