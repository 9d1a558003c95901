//! A gateway that has asked to join and waits for an operator's word. Its key is kept, because the
//! operator's word is for this key. One file beside the identity, `application.pem` (0600), removed
//! when the gateway is let in or refused for good.
//!
//! ```text
//! Forebay application 1
//! Name: site/gateway
//! Join string: fbj1.…
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

const FILE: &str = "application.pem";
const FIRST_LINE: &str = "Forebay application 1";

/// What a gateway asked with.
pub struct Application {
    /// `site/gateway` as it asked.
    pub name: String,
    /// The join string, secret and all.
    pub join: JoinString,
    key: PrivateKeyDer<'static>,
}

impl Application {
    /// One with this key.
    pub fn new(name: String, join: JoinString, key: FreshKey) -> Self {
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
        let block = pem_block("PRIVATE KEY", key.secret_der());
        let text = format!("{FIRST_LINE}\nName: {name}\nJoin string: {join}\n\n{block}");
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
        let mut line = |prefix: &str| {
            let found = lines.next().and_then(|line| line.strip_prefix(prefix));
            found.map(str::to_owned).ok_or_else(|| format!("the line `{prefix}…` is missing"))
        };
        let name = line("Name: ")?;
        let join = line("Join string: ")?.parse().map_err(|_| "its join string is damaged")?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("key: {error}"))?;
        Ok(Self { name, join, key })
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::join::TokenSecret;

    #[test]
    fn an_application_is_kept_with_its_key_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let join = JoinString { address: "plant:8443".into(), ca_pin: [7; 32], secret: TokenSecret([9; 32]) };
        let key = FreshKey::generate().unwrap();
        let fingerprint = key.fingerprint();
        assert!(Application::load(folder.path()).unwrap().is_none());
        Application::new("hall/gate".into(), join.clone(), key).save(folder.path()).unwrap();
        let kept = Application::load(folder.path()).unwrap().unwrap();
        assert_eq!((kept.name.as_str(), &kept.join), ("hall/gate", &join));
        assert_eq!(kept.key().unwrap().fingerprint(), fingerprint);
        assert!(!format!("{kept:?}").contains("fbj1"), "{kept:?}");
        assert!(Application::forget(folder.path()).unwrap());
        assert!(!Application::forget(folder.path()).unwrap(), "there is none any more");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(folder.path().join(FILE), "Forebay application 1\nName: x\n").unwrap();
        let words = Application::load(folder.path()).unwrap_err().to_string();
        assert!(words.contains("application.pem") && words.contains("Join string"), "{words}");
    }
}
