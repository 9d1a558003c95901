//! What the server answers when it says no: `application/problem+json` (RFC 9457). The kind is for
//! programs and never changes its name; title and detail are for people.

use std::fmt;

/// The content type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";
const URN: &str = "urn:forebay:problem:";

/// Why a request was not done, sorted by what the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The body is not what the address expects.
    BadRequest,
    /// A site or gateway name that cannot be one.
    BadName,
    /// A certificate request whose signature or form is wrong.
    BadCertificateRequest,
    /// No client certificate was shown.
    NoCertificate,
    /// The certificate is not one this server gave.
    UnknownCertificate,
    /// The certificate was revoked: join again.
    RevokedCertificate,
    /// The certificate ran out: renew with it.
    ExpiredCertificate,
    /// No such join token.
    UnknownToken,
    /// The token's time is over.
    ExpiredToken,
    /// The token has let in as many as it was made for.
    UsedToken,
    /// An operator must approve the join: ask again later, with the same key.
    PendingApproval,
    /// An operator has said no to the join.
    RejectedJoin,
    /// The request is larger than the server takes: split it.
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// The server has its hands full: wait.
    Busy,
    /// The database is away: wait.
    StoreAway,
    /// The database refuses: wait, a person must look.
    StoreRefuses,
    /// A fault of the server's own.
    Internal,
}

impl Kind {
    const ALL: [Self; 18] = [
        Self::BadRequest,
        Self::BadName,
        Self::BadCertificateRequest,
        Self::NoCertificate,
        Self::UnknownCertificate,
        Self::RevokedCertificate,
        Self::ExpiredCertificate,
        Self::UnknownToken,
        Self::ExpiredToken,
        Self::UsedToken,
        Self::PendingApproval,
        Self::RejectedJoin,
        Self::TooLarge,
        Self::TooSlow,
        Self::Busy,
        Self::StoreAway,
        Self::StoreRefuses,
        Self::Internal,
    ];

    /// The last part of the problem's `type`.
    pub fn slug(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status it comes with.
    pub fn status(self) -> u16 {
        self.facts().1
    }

    /// The same few words every time.
    pub fn title(self) -> &'static str {
        self.facts().2
    }

    fn facts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", 400, "The request cannot be read"),
            Self::BadName => ("bad-name", 400, "Not a name for a site or gateway"),
            Self::BadCertificateRequest => {
                ("bad-certificate-request", 400, "The certificate request is not valid")
            }
            Self::NoCertificate => ("no-certificate", 403, "No client certificate"),
            Self::UnknownCertificate => ("unknown-certificate", 403, "Unknown certificate"),
            Self::RevokedCertificate => ("revoked-certificate", 403, "Revoked certificate"),
            Self::ExpiredCertificate => ("expired-certificate", 403, "Expired certificate"),
            Self::UnknownToken => ("unknown-token", 403, "Unknown join token"),
            Self::ExpiredToken => ("expired-token", 403, "Expired join token"),
            Self::UsedToken => ("used-token", 403, "Used join token"),
            Self::PendingApproval => ("pending-approval", 403, "Waiting for approval"),
            Self::RejectedJoin => ("rejected-join", 403, "Join rejected"),
            Self::TooLarge => ("too-large", 413, "The request is too large"),
            Self::TooSlow => ("too-slow", 408, "The request did not arrive in time"),
            Self::Busy => ("busy", 503, "The server has its hands full"),
            Self::StoreAway => ("store-away", 503, "The database is out of reach"),
            Self::StoreRefuses => ("store-refuses", 503, "The database refuses"),
            Self::Internal => ("internal", 500, "A fault in the server"),
        }
    }
}

/// One refusal: the kind, and what is special about this time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// Why.
    pub kind: Kind,
    /// Plain words with the way out.
    pub detail: String,
}

impl Problem {
    /// A problem of `kind`, explained by `detail`.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The body to send.
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "type": format!("{URN}{}", self.kind.slug()),
            "title": self.kind.title(),
            "status": self.kind.status(),
            "detail": self.detail,
        })
        .to_string()
    }

    /// A body read back; nothing when it is no problem of ours (a proxy's page, say).
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let slug = value.get("type")?.as_str()?.strip_prefix(URN)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.slug() == slug)?;
        let detail = value.get("detail").and_then(|words| words.as_str()).unwrap_or_default();
        Some(Self::new(kind, detail))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.title(), self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_understood_by_the_other_side() {
        for kind in Kind::ALL {
            let problem = Problem::new(kind, "it is so");
            assert_eq!(Problem::from_json(problem.to_json().as_bytes()), Some(problem));
        }
    }

    #[test]
    fn a_proxys_page_is_no_problem_of_ours() {
        assert_eq!(Problem::from_json(b"<html>502</html>"), None);
        assert_eq!(Problem::from_json(br#"{"type":"about:blank","detail":"x"}"#), None);
    }
}
