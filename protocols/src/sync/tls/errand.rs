//! A gateway that has written a request for somebody to carry, and waits for the answer. Its key is kept, because
//! the answer is for this key. One file beside the identity, `errand.pem` (0600), removed when the answer was taken.
//!
//! ```text
//! Forebay errand 1
//! Name: site/gateway
//! Join string: fbj1.…            (if there was one)
//! (empty)
//! PRIVATE KEY (PKCS #8)
//! ```

use std::fmt;
use std::path::Path;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::identity::{FreshKey, IdentityError, pem_block};
use super::kept;
use crate::sync::join::JoinString;

const FILE: &str = "errand.pem";
const FIRST_LINE: &str = "Forebay errand 1";

/// What a gateway asked with.
pub struct Errand {
    /// `site/gateway` as it asked.
    pub name: String,
    /// The join string, if it was given one.
    pub join: Option<JoinString>,
    key: PrivateKeyDer<'static>,
}

impl Errand {
    /// One with this key.
    pub fn new(name: String, join: Option<JoinString>, key: FreshKey) -> Self {
        Self { name, join, key: key.into_der() }
    }

    /// The key.
    pub fn key(&self) -> Result<FreshKey, IdentityError> {
        FreshKey::from_der(&self.key)
    }

    /// The one kept in `folder`; `None` if there is none. A damaged one is an error that names it.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        kept::load(folder, FILE, Self::parse)
    }

    /// Keeps it in `folder`, durable when this returns.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let Self { name, join, key } = self;
        let join = join.as_ref().map_or_else(String::new, |join| format!("Join string: {join}\n"));
        let block = pem_block("PRIVATE KEY", key.secret_der());
        let text = format!("{FIRST_LINE}\nName: {name}\n{join}\n{block}");
        kept::save(folder, FILE, &text)
    }

    /// Removes the one kept in `folder`, damaged or not. False if there was none.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget(folder: &Path) -> Result<bool, IdentityError> {
        kept::forget(folder, FILE)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(format!("the first line is not `{FIRST_LINE}`"));
        }
        let name = lines
            .next()
            .and_then(|line| line.strip_prefix("Name: "))
            .ok_or("the line `Name: …` is missing")?;
        let join = lines.next().and_then(|line| line.strip_prefix("Join string: "));
        let join = join.map(str::parse).transpose().map_err(|_| "its join string is damaged")?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("key: {error}"))?;
        Ok(Self { name: name.to_owned(), join, key })
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errand").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::join::TokenSecret;

    #[test]
    fn the_key_is_kept_until_the_answer_was_taken() {
        let folder = tempfile::tempdir().unwrap();
        let string =
            JoinString { address: "plant:8443".into(), ca_pin: [7; 32], secret: TokenSecret([9; 32]) };
        assert!(Errand::load(folder.path()).unwrap().is_none());
        for join in [None, Some(string)] {
            let key = FreshKey::generate().unwrap();
            let fingerprint = key.fingerprint();
            Errand::new("hall/gate".into(), join.clone(), key).save(folder.path()).unwrap();
            let kept = Errand::load(folder.path()).unwrap().unwrap();
            assert_eq!((kept.name.as_str(), &kept.join), ("hall/gate", &join));
            assert_eq!(kept.key().unwrap().fingerprint(), fingerprint);
            assert!(!format!("{kept:?}").contains("fbj1"), "{kept:?}");
        }
        assert!(Errand::forget(folder.path()).unwrap());
        assert!(!Errand::forget(folder.path()).unwrap(), "there is none any more");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(folder.path().join(FILE), "Forebay errand 1\n").unwrap();
        let words = Errand::load(folder.path()).unwrap_err().to_string();
        assert!(words.contains("errand.pem") && words.contains("Name"), "{words}");
    }
}
