//! Secrets that are random: session cookies, API keys, set-up links. 256 bits each, so that a plain
//! SHA-256 is enough to keep of them, and looking one up by its hash tells nothing by its time.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};

/// What API keys begin with: whoever finds one in a file knows what it is.
pub const KEY_PREFIX: &str = "fbk_";
/// The name of the cookie over TLS. Browsers take a `__Host-` one from this very host only.
const SECURE: &str = "__Host-forebay";
/// The name without TLS.
const PLAIN: &str = "forebay";

/// A new secret that begins with `prefix`, and its hash.
///
/// # Errors
/// When the system has no random numbers.
pub fn random(prefix: &str) -> io::Result<(String, [u8; 32])> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let secret = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash = hash(&secret);
    Ok((secret, hash))
}

/// What is kept of a secret.
pub fn hash(secret: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()).as_ref());
    out
}

/// The `Set-Cookie` of a session that a browser keeps for so many seconds.
pub fn cookie(secret: &str, seconds: u64, secure: bool) -> String {
    let (name, more) = if secure { (SECURE, "; Secure") } else { (PLAIN, "") };
    format!("{name}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{more}")
}

/// The `Set-Cookie` that makes a browser forget it.
pub fn no_cookie(secure: bool) -> String {
    cookie("", 0, secure)
}

/// The session's cookie in a request. Without TLS of our own a proxy may have it, so both names count.
pub(super) fn cookie_in(headers: &HeaderMap, is_tls: bool) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == SECURE || (!is_tls && *name == PLAIN)).map(|(_, value)| value)
}

/// The key in `Authorization: Bearer`. `Err`: there is something else in it.
pub(super) fn key_in(headers: &HeaderMap) -> Result<Option<&str>, ()> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let (scheme, key) = value.to_str().map_err(|_| ())?.split_once(' ').ok_or(())?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(key.trim())) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_closed_to_scripts_and_other_sites() {
        let told = cookie("abc", 60, true);
        assert_eq!(told, "__Host-forebay=abc; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure");
        assert_eq!(no_cookie(false), "forebay=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "a=b; forebay=one; c".parse().unwrap());
        assert_eq!((cookie_in(&headers, false), cookie_in(&headers, true)), (Some("one"), None));
        headers.append(header::COOKIE, "__Host-forebay=two".parse().unwrap());
        assert_eq!(cookie_in(&headers, true), Some("two"));
    }

    #[test]
    fn a_key_is_a_bearers() {
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            key_in(&headers).map(|key| key.map(str::to_owned))
        };
        assert_eq!(asked("bearer fbk_1"), Ok(Some("fbk_1".into())));
        assert_eq!((asked("Basic YTpi"), asked("fbk_1")), (Err(()), Err(())));
        assert_eq!(key_in(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn secrets_are_long_and_different() {
        let ((one, hashed), (two, _)) = (random(KEY_PREFIX).unwrap(), random(KEY_PREFIX).unwrap());
        assert!(one.starts_with("fbk_") && one.len() == 4 + 43 && one != two);
        assert_eq!(hash(&one), hashed);
    }
}
