//! What a failed exchange means for the link: which of the three link faults, and in which words.
//! Pure.

use opcua::types::{Error, StatusCode, SubStatusCode};

use crate::field::source::LinkFault;

/// What we were about when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Opening TCP and asking for the list of endpoints.
    Discover,
    /// Opening the secure channel.
    Secure,
    /// CreateSession and ActivateSession.
    Enter,
    /// Namespaces, limits and the subscription.
    Prepare,
    /// Everything after that.
    Run,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Self::Discover => "asked for its endpoints",
            Self::Secure => "asked for a secure channel",
            Self::Enter => "asked for a session",
            Self::Prepare => "asked for a subscription",
            Self::Run => "working",
        }
    }
}

/// The fault of an exchange with `peer` that ended in `status` while at `step`. `ours` is the
/// thumbprint of our certificate where one was shown.
pub(super) fn fault(peer: &str, step: Step, error: &Error, ours: Option<&str>) -> LinkFault {
    let status = error.status();
    let peer = peer.to_owned();
    if step == Step::Run {
        return LinkFault::Lost { peer, why: plain(status) };
    }
    match refusal(step, status, ours) {
        Some(why) => LinkFault::Refused { peer, why },
        None => LinkFault::Unreachable { peer, why: format!("{}, when {}", plain(status), step.words()) },
    }
}

/// The way out of what the server will not change its mind about by itself.
fn refusal(step: Step, status: StatusCode, ours: Option<&str>) -> Option<String> {
    use SubStatusCode as Code;

    let accept = |ours: &str| {
        format!(
            "accept the certificate with the thumbprint {ours} (own/cert.der in the key folder) on the server"
        )
    };
    let (way_out, code) = (plain(status), status.sub_code());
    Some(match code {
        Code::BadUserAccessDenied | Code::BadIdentityTokenRejected | Code::BadIdentityTokenInvalid => {
            format!("{way_out}: check `username` and `password`")
        }
        Code::BadTooManySessions => format!(
            "{way_out}: close other clients or raise its limit; sessions of a client that vanished end by themselves"
        ),
        Code::BadSecurityPolicyRejected | Code::BadSecurityModeRejected => {
            format!("{way_out}: check `security_policy`")
        }
        Code::BadCertificateUriInvalid => {
            format!(
                "{way_out}: our certificate was made for another gateway name; delete own/cert.der in the key folder"
            )
        }
        Code::BadCertificateTimeInvalid => {
            format!("{way_out}: compare the clocks of the server and this gateway")
        }
        Code::BadSecurityChecksFailed
        | Code::BadCertificateInvalid
        | Code::BadCertificateUntrusted
        | Code::BadCertificateUseNotAllowed
        | Code::BadCertificateChainIncomplete
        | Code::BadCertificateIssuerUseNotAllowed
        | Code::BadNoValidCertificates => match ours {
            Some(ours) => format!("{way_out}: {}", accept(ours)),
            None => way_out,
        },
        Code::BadTcpEndpointUrlInvalid | Code::BadServiceUnsupported | Code::BadTooManySubscriptions => {
            way_out
        }
        // Many servers close the connection without a word on a certificate they do not know.
        Code::BadConnectionClosed | Code::BadCommunicationError if step == Step::Secure => match ours {
            Some(ours) => format!("it closed the connection when it saw our certificate: {}", accept(ours)),
            None => return None,
        },
        _ => return None,
    })
}

/// "The server does not have enough resources (BadTooManySessions)".
pub(super) fn plain(status: StatusCode) -> String {
    let code = status.sub_code();
    match code {
        SubStatusCode::Invalid => format!("the server answered with status {:#010x}", status.bits()),
        // Ours, not the server's: the description in the standard would mislead.
        SubStatusCode::BadTimeout => "no answer in time".to_owned(),
        SubStatusCode::BadConnectionClosed | SubStatusCode::BadCommunicationError | SubStatusCode::Good => {
            "the connection was closed".to_owned()
        }
        _ => {
            let text = code.description().trim().trim_end_matches('.');
            let mut letters = text.chars();
            let first = letters.next().map(|c| c.to_lowercase().collect::<String>()).unwrap_or_default();
            format!("{first}{} ({})", letters.as_str(), code.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: Step, status: StatusCode, ours: Option<&str>) -> LinkFault {
        fault("opc.tcp://plc", step, &Error::new(status, "test"), ours)
    }

    #[test]
    fn refusals_name_the_way_out() {
        for (step, status, word) in [
            (Step::Enter, StatusCode::BadUserAccessDenied, "`username` and `password`"),
            (Step::Enter, StatusCode::BadIdentityTokenRejected, "`username` and `password`"),
            (Step::Enter, StatusCode::BadTooManySessions, "close other clients"),
            (Step::Enter, StatusCode::BadSecurityPolicyRejected, "`security_policy`"),
            (
                Step::Secure,
                StatusCode::BadCertificateUntrusted,
                "accept the certificate with the thumbprint AB12",
            ),
            (
                Step::Secure,
                StatusCode::BadSecurityChecksFailed,
                "accept the certificate with the thumbprint AB12",
            ),
            (
                Step::Secure,
                StatusCode::BadConnectionClosed,
                "accept the certificate with the thumbprint AB12",
            ),
        ] {
            match at(step, status, Some("AB12")) {
                LinkFault::Refused { why, .. } => assert!(why.contains(word), "{status}: {why}"),
                other => panic!("{status}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_may_mend_itself_is_tried_again_soon() {
        for (step, status) in [
            (Step::Discover, StatusCode::BadConnectionClosed),
            (Step::Secure, StatusCode::BadTimeout),
            (Step::Enter, StatusCode::BadServerHalted),
            (Step::Enter, StatusCode::BadTimeout),
            (Step::Prepare, StatusCode::BadConnectionClosed),
        ] {
            assert!(matches!(at(step, status, Some("AB12")), LinkFault::Unreachable { .. }), "{status}");
        }
        // Without a certificate of ours, a closed connection says nothing about certificates.
        let fault = at(Step::Secure, StatusCode::BadConnectionClosed, None);
        assert!(matches!(fault, LinkFault::Unreachable { .. }), "{fault:?}");
    }

    #[test]
    fn a_running_link_is_lost_whatever_the_status() {
        for status in [StatusCode::BadSessionIdInvalid, StatusCode::BadUserAccessDenied, StatusCode::Good] {
            assert!(matches!(at(Step::Run, status, None), LinkFault::Lost { .. }), "{status}");
        }
    }

    #[test]
    fn statuses_are_told_in_words_with_their_name() {
        assert_eq!(plain(StatusCode::BadTimeout), "no answer in time");
        let words = plain(StatusCode::BadTooManySessions);
        assert!(words.ends_with("(BadTooManySessions)") && words.starts_with("the "), "{words}");
        assert_eq!(plain(StatusCode::from(0x8FFF_0000)), "the server answered with status 0x8fff0000");
    }
}
