//! Joining without a network: two small texts that somebody carries, on a USB stick say. The gateway writes a
//! request, an operator has the server answer it, the gateway takes the answer.
//!
//! - No secret is in either: not the gateway's key, and of a join string only the hash by which the server knows
//!   its token.
//! - The gateway's key signs all of the request, so that nobody alters it on the way. Whose key it is the
//!   operator sees by its words, which the gateway shows too.
//! - The answer is what the server says over a network, with its address. Who has a join string knows the CA by
//!   its pin; others compare its words. A sum tells an answer that was damaged on the way; that it fits the
//!   gateway's key, and that the CA signed it, the gateway checks.
//!
//! ```text
//! Forebay join request 1                 Forebay join answer 1
//! Gateway: hall/press                    Gateway: hall/press
//! Key: 3f2a-9c1d-77e0-12ab               Key: 3f2a-9c1d-77e0-12ab
//! Made: 2026-11-29T14:02:11Z             Made: 2026-11-29T14:40:00Z
//! Version: 0.1.0                         Server: plant.example:8443
//! Token: (base64url, or empty)           CA: 6c1f09aa51e2b7d3…
//! Request: (base64 of PKCS #10)          Answer: (base64 of JoinAnswer)
//! Signature: (base64)                    Sum: 1a2b3c4d
//! ```

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use forebay_config::units::Name;
use jiff::Timestamp;
use prost::Message;
use rcgen::{CertificateSigningRequestParams, PublicKeyData};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateSigningRequestDer;

use super::tls::{self, FreshKey, IdentityError, key_words};
use super::wire::JoinAnswer;
use crate::hexadecimal::Hexadecimal;

/// Neither text is longer, in bytes; more is not read.
pub const LONGEST: u64 = 64 << 10;
/// How the name of a request's file ends.
pub const REQUEST_ENDS: &str = ".join-request";
/// How the name of an answer's file ends.
pub const ANSWER_ENDS: &str = ".join-answer";

const REQUEST: &str = "Forebay join request ";
const ANSWER: &str = "Forebay join answer ";
const KIND: &str = "1";

/// What a gateway asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineRequest {
    /// Its site.
    pub site: String,
    /// Its name there.
    pub gateway: String,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
    /// Its time when it asked, in microseconds since 1970. It may be wrong.
    pub made_us: i64,
    /// Its version.
    pub version: String,
    /// By which the server knows the token of its join string, if it has one.
    pub token_hash: Option<[u8; 32]>,
    /// DER of the certificate request (PKCS #10).
    pub csr: Vec<u8>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq)]
pub struct OfflineAnswer {
    /// `site/gateway` as it asked.
    pub name: String,
    /// The words of the key that it asked with.
    pub key: String,
    /// The server's time when it answered, in microseconds since 1970.
    pub made_us: i64,
    /// `host:port` agents reach the server by.
    pub server: String,
    /// SHA-256 of the DER of its CA certificate.
    pub ca_pin: [u8; 32],
    /// As over a network.
    pub answer: JoinAnswer,
}

/// Why a text is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError {
    /// Something else.
    #[error("this is no {0}")]
    Foreign(&'static str),
    /// Of a program of another age.
    #[error("this {0} is of a kind this version does not know; both programs should be of one age")]
    UnknownKind(&'static str),
    /// A part is missing or odd.
    #[error("the {0} is damaged: {1}; write it anew")]
    Damaged(&'static str, String),
    /// It is not what the gateway wrote.
    #[error(
        "the join request was altered since the gateway wrote it: its signature does not fit; write it anew, and find \
         out by whom"
    )]
    Altered,
}

/// The name of the file of `site/gateway`, without its end. `+` is in no name.
pub fn stem(site: &str, gateway: &str) -> String {
    format!("{site}+{gateway}")
}

/// The beginning of a CA's pin, as people compare it: what `forebay-server ca status` shows.
pub fn pin_words(pin: &[u8; 32]) -> String {
    Hexadecimal(&pin[..8]).to_string()
}

impl OfflineRequest {
    /// What `key` asks for, signed by it, as text.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn write(
        key: &FreshKey,
        (site, gateway): (&str, &str),
        token_hash: Option<[u8; 32]>,
        (version, made_us): (&str, i64),
    ) -> Result<String, IdentityError> {
        let csr = key.request(&format!("{site}/{gateway}"))?;
        let token = token_hash.map_or_else(String::new, |hash| URL_SAFE_NO_PAD.encode(hash));
        let text = format!(
            "{REQUEST}{KIND}\nGateway: {site}/{gateway}\nKey: {}\nMade: {}\nVersion: {version}\nToken: {token}\n\
             Request: {}\n",
            key_words(&key.fingerprint()),
            moment(made_us),
            STANDARD.encode(csr)
        );
        let signature = key.sign(text.as_bytes())?;
        Ok(format!("{text}Signature: {}\n", STANDARD.encode(signature)))
    }

    /// Reads one and checks that the key in it signed all of it.
    ///
    /// # Errors
    /// When it is none, damaged or altered.
    pub fn read(text: &str) -> Result<Self, OfflineError> {
        const WHAT: &str = "join request";
        let damaged = |why: &str| OfflineError::Damaged(WHAT, why.into());
        let text = unix(text);
        kind(&text, REQUEST, WHAT)?;
        let (signed, signature) =
            text.split_once("Signature: ").ok_or_else(|| damaged("its end is missing"))?;
        let signature =
            STANDARD.decode(signature.trim_end()).map_err(|_| damaged("its signature cannot be read"))?;
        let field = |name: &str| {
            field(signed, name).ok_or_else(|| damaged(&format!("the line `{name}:` is missing")))
        };
        let csr = STANDARD.decode(field("Request")?).map_err(|_| damaged("its request cannot be read"))?;
        let parsed =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr.as_slice()))
                .map_err(|error| damaged(&error.to_string()))?;
        let public = parsed.public_key.der_bytes();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| OfflineError::Altered)?;
        let (site, gateway) = named(field("Gateway")?).map_err(|why| damaged(&why))?;
        let made_us = moment_of(field("Made")?).ok_or_else(|| damaged("its time is none"))?;
        let token_hash = match field("Token")? {
            "" => None,
            token => {
                let hash = URL_SAFE_NO_PAD.decode(token).ok().and_then(|hash| hash.try_into().ok());
                Some(hash.ok_or_else(|| damaged("its token cannot be read"))?)
            }
        };
        let version = field("Version")?.chars().take(64).collect();
        Ok(Self { site, gateway, key: tls::fingerprint(public), made_us, version, token_hash, csr })
    }
}

impl OfflineAnswer {
    /// As text.
    pub fn write(&self) -> String {
        let Self { name, key, made_us, server, ca_pin, answer } = self;
        let text = format!(
            "{ANSWER}{KIND}\nGateway: {name}\nKey: {key}\nMade: {}\nServer: {server}\nCA: {}\nAnswer: {}\n",
            moment(*made_us),
            Hexadecimal(ca_pin),
            STANDARD.encode(answer.encode_to_vec())
        );
        format!("{text}Sum: {:08x}\n", crc32c::crc32c(text.as_bytes()))
    }

    /// Reads one. What it says is to be checked still.
    ///
    /// # Errors
    /// When it is none, or damaged.
    pub fn read(text: &str) -> Result<Self, OfflineError> {
        const WHAT: &str = "join answer";
        let damaged = |why: &str| OfflineError::Damaged(WHAT, why.into());
        let text = unix(text);
        kind(&text, ANSWER, WHAT)?;
        let (summed, sum) = text.split_once("Sum: ").ok_or_else(|| damaged("its end is missing"))?;
        if u32::from_str_radix(sum.trim_end(), 16) != Ok(crc32c::crc32c(summed.as_bytes())) {
            return Err(damaged("its sum does not fit"));
        }
        let field = |name: &str| {
            field(summed, name).ok_or_else(|| damaged(&format!("the line `{name}:` is missing")))
        };
        let answer = STANDARD.decode(field("Answer")?).map_err(|_| damaged("its answer cannot be read"))?;
        let server = field("Server")?.to_owned();
        tls::server_name(&server).map_err(|why| damaged(&why))?;
        // What is shown to people is nothing but names.
        named(field("Gateway")?).map_err(|why| damaged(&why))?;
        let key = field("Key")?;
        if !key.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
            return Err(damaged("its key is none"));
        }
        Ok(Self {
            name: field("Gateway")?.into(),
            key: key.into(),
            made_us: moment_of(field("Made")?).ok_or_else(|| damaged("its time is none"))?,
            server,
            ca_pin: pin(field("CA")?).ok_or_else(|| damaged("its CA is none"))?,
            answer: JoinAnswer::decode(answer.as_slice()).map_err(|error| damaged(&error.to_string()))?,
        })
    }
}

/// Editors and mail of other systems end lines as they like.
fn unix(text: &str) -> String {
    text.trim_start_matches('\u{feff}').replace("\r\n", "\n")
}

fn kind(text: &str, first: &str, what: &'static str) -> Result<(), OfflineError> {
    match text.lines().next().and_then(|line| line.strip_prefix(first)) {
        Some(KIND) => Ok(()),
        Some(_) => Err(OfflineError::UnknownKind(what)),
        None => Err(OfflineError::Foreign(what)),
    }
}

/// What stands behind `name: ` in a line of its own.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn named(name: &str) -> Result<(String, String), String> {
    let (site, gateway) = name.split_once('/').ok_or("it names no site and gateway")?;
    Ok((Name::new(site)?.to_string(), Name::new(gateway)?.to_string()))
}

/// RFC 3339 in whole seconds.
fn moment(at_us: i64) -> String {
    let second = Timestamp::from_second(at_us.div_euclid(1_000_000));
    second.map_or_else(|_| "1970-01-01T00:00:00Z".into(), |second| second.to_string())
}

fn moment_of(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

fn pin(text: &str) -> Option<[u8; 32]> {
    let digit = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_795_953_600_000_000;

    fn request(key: &FreshKey, token: Option<[u8; 32]>) -> String {
        OfflineRequest::write(key, ("hall", "press"), token, ("0.1.0", NOON)).unwrap()
    }

    #[test]
    fn a_request_says_who_asks_and_holds_no_key() {
        let key = FreshKey::generate().unwrap();
        for token in [None, Some([7; 32])] {
            let text = request(&key, token);
            let read = OfflineRequest::read(&text).unwrap();
            assert_eq!((read.site.as_str(), read.gateway.as_str()), ("hall", "press"));
            assert_eq!((read.key, read.token_hash, read.made_us), (key.fingerprint(), token, NOON));
            assert!(text.contains(&key_words(&key.fingerprint())));
            assert_eq!(
                OfflineRequest::read(&text.replace('\n', "\r\n")).unwrap(),
                read,
                "from another system"
            );
        }
        // The key's file holds the public half too, which is in the request: 04 20 stands before the other one.
        let (text, der) = (request(&key, None), key.into_der());
        let at = der.secret_der().windows(2).position(|pair| pair == [4, 32]).unwrap() + 2;
        let secret = &der.secret_der()[at..at + 32];
        let decoded = text.split_whitespace().filter_map(|word| STANDARD.decode(word).ok());
        assert!(decoded.into_iter().all(|bytes| !bytes.windows(32).any(|part| part == secret)));
    }

    #[test]
    fn whatever_is_altered_in_a_request_is_found() {
        let (key, other) = (FreshKey::generate().unwrap(), FreshKey::generate().unwrap());
        let text = request(&key, None);
        for (from, to) in
            [("hall/press", "hall/other"), ("0.1.0", "0.1.1"), ("Token: ", "Token: AAAA"), ("2026-", "2025-")]
        {
            assert_eq!(OfflineRequest::read(&text.replace(from, to)), Err(OfflineError::Altered), "{to}");
        }
        // Another key's request with this one's words and signature.
        let theirs = request(&other, None);
        let line = |text: &str| text.lines().find(|line| line.starts_with("Request: ")).unwrap().to_owned();
        let swapped = text.replace(&line(&text), &line(&theirs));
        assert_eq!(OfflineRequest::read(&swapped), Err(OfflineError::Altered));
        assert_eq!(OfflineRequest::read("PK\x03\x04"), Err(OfflineError::Foreign("join request")));
        let newer = text.replace("request 1", "request 2");
        assert_eq!(OfflineRequest::read(&newer), Err(OfflineError::UnknownKind("join request")));
        assert!(matches!(OfflineRequest::read(&text[..200]), Err(OfflineError::Damaged(..))));
    }

    fn answer() -> OfflineAnswer {
        OfflineAnswer {
            name: "hall/press".into(),
            key: "3f2a-9c1d-77e0-12ab".into(),
            made_us: NOON,
            server: "plant.example:8443".into(),
            ca_pin: [0xA5; 32],
            answer: JoinAnswer { agent: "hall/press".into(), ca_generation: 3, ..JoinAnswer::default() },
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written_or_not_at_all() {
        let text = answer().write();
        assert_eq!(OfflineAnswer::read(&text), Ok(answer()));
        for end in 0..text.len() - 1 {
            assert!(OfflineAnswer::read(&text[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(
            OfflineAnswer::read(&request(&FreshKey::generate().unwrap(), None)),
            Err(OfflineError::Foreign("join answer"))
        );
        assert_eq!(pin_words(&[0xA5; 32]), "a5a5a5a5a5a5a5a5");
    }

    proptest! {
        #[test]
        fn any_text_is_a_request_or_an_error(text in "(Forebay join request 1\n)?(\\PC{0,20}: ?\\PC{0,40}\n){0,9}") {
            let _ = OfflineRequest::read(&text);
        }

        #[test]
        fn an_answer_with_another_letter_is_damaged(at in 0_usize..300, letter in "[a-z0-9]") {
            let text = answer().write();
            let at = at % text.len();
            let altered = format!("{}{letter}{}", &text[..at], &text[at + 1..]);
            prop_assert!(altered == text || OfflineAnswer::read(&altered).is_err(), "{}", altered);
        }
    }
}
