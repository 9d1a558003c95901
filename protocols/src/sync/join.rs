//! The join string: all a gateway needs to find its server, know it and be let in, as one token
//! to copy and paste. `fbj1.` + base64url of: CA pin (32 bytes), secret (32), address, CRC32C (4).
//!
//! The checksum is there for people: a string cut short by a narrow terminal is told apart from
//! one the server does not know.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::tls;

const PREFIX: &str = "fbj1.";

/// Where the server is, the CA it must prove, and the secret that lets a gateway in once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinString {
    /// `host:port` agents reach the server by.
    pub address: String,
    /// SHA-256 of the DER of the server's CA certificate.
    pub ca_pin: [u8; 32],
    /// The token. The server keeps only its hash.
    pub secret: TokenSecret,
}

/// 256 random bits that let a gateway join. `Debug` never shows them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenSecret(pub [u8; 32]);

impl TokenSecret {
    /// A new secret from the kernel's random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// As `JoinRequest.secret` carries it.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The reverse of [`Self::to_text`]; nothing for anything else.
    pub fn from_text(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// What the server stores instead of the secret: SHA-256.
    pub fn hash(&self) -> [u8; 32] {
        tls::fingerprint(&self.0)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(…)")
    }
}

impl fmt::Debug for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinString").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Display for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(68 + self.address.len());
        bytes.extend_from_slice(&self.ca_pin);
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(self.address.as_bytes());
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Why a text is not a join string. The text itself is secret and never repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinStringError {
    /// Something else was pasted.
    #[error(
        "this is not a join string: it must begin with `fbj1.`; copy the line printed by `forebay-server token create`"
    )]
    NotAJoinString,
    /// Made by a server of another age.
    #[error("this join string is of a kind this agent does not know; update the agent")]
    UnknownKind,
    /// Cut short or mistyped.
    #[error("the join string is damaged: a part is missing or altered; copy the whole line again")]
    Damaged,
    /// Whole, but the address inside is none.
    #[error(
        "the join string names the server `{0}`, which is not `host:port`; set `sync.address` on the server and make a new one"
    )]
    Address(String),
}

impl FromStr for JoinString {
    type Err = JoinStringError;

    fn from_str(text: &str) -> Result<Self, JoinStringError> {
        // Terminals and mail wrap long lines, and people copy the quotes too.
        let text: String =
            text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '\'' | '"' | '`')).collect();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let other_kind = text.strip_prefix("fbj").is_some_and(|rest| rest.contains('.'));
            return Err(if other_kind {
                JoinStringError::UnknownKind
            } else {
                JoinStringError::NotAJoinString
            });
        };
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| JoinStringError::Damaged)?;
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(JoinStringError::Damaged)?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*sum) {
            return Err(JoinStringError::Damaged);
        }
        let (ca_pin, rest) = content.split_first_chunk::<32>().ok_or(JoinStringError::Damaged)?;
        let (secret, address) = rest.split_first_chunk::<32>().ok_or(JoinStringError::Damaged)?;
        let address = String::from_utf8(address.to_vec()).map_err(|_| JoinStringError::Damaged)?;
        if tls::server_name(&address).is_err() {
            return Err(JoinStringError::Address(address));
        }
        Ok(Self { address, ca_pin: *ca_pin, secret: TokenSecret(*secret) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> JoinString {
        JoinString { address: "plant.example:8443".into(), ca_pin: [7; 32], secret: TokenSecret([0xEE; 32]) }
    }

    #[test]
    fn a_wrapped_and_quoted_join_string_is_understood() {
        let text = sample().to_string();
        let (head, tail) = text.split_at(40);
        assert_eq!(format!("  '{head}\n   {tail}'\n").parse(), Ok(sample()));
    }

    #[test]
    fn a_join_string_cut_short_is_damaged_not_unknown() {
        let text = sample().to_string();
        for end in PREFIX.len()..text.len() {
            assert_eq!(text[..end].parse::<JoinString>(), Err(JoinStringError::Damaged), "cut at {end}");
        }
    }

    #[test]
    fn other_texts_get_other_words() {
        assert_eq!("https://plant:8443".parse::<JoinString>(), Err(JoinStringError::NotAJoinString));
        assert_eq!("fbj9.AAAA".parse::<JoinString>(), Err(JoinStringError::UnknownKind));
        let nowhere = JoinString { address: "plant".into(), ..sample() };
        assert_eq!(nowhere.to_string().parse::<JoinString>(), Err(JoinStringError::Address("plant".into())));
    }

    #[test]
    fn debug_and_errors_keep_the_secret() {
        let join = sample();
        assert!(!format!("{join:?}").contains("238"), "{join:?}");
        assert!(!format!("{:?}", join.secret).contains("238"));
    }

    proptest! {
        #[test]
        fn every_join_string_survives_its_text(pin: [u8; 32], secret: [u8; 32], host in "[a-z][a-z0-9]{0,20}(\\.[a-z]{2,5})?", port in 1u16..) {
            let join = JoinString { address: format!("{host}:{port}"), ca_pin: pin, secret: TokenSecret(secret) };
            prop_assert_eq!(join.to_string().parse::<JoinString>(), Ok(join));
        }

        #[test]
        fn any_text_gives_a_join_string_or_an_error(text in "(fbj1\\.)?\\PC{0,200}") {
            let _ = text.parse::<JoinString>();
        }
    }
}
