//! A person's view of what is trusted: the certificate an endpoint must show, the one it was refused
//! for, and the word that makes the second the first.

use std::fs::{self, File};
use std::io;

use opcua::crypto::X509;

use super::trust::{Application, Places, TrustError, thumbprint};

/// What is known of one endpoint's certificates.
pub struct Trust {
    places: Places,
    /// The one it must show, if any is remembered.
    pub trusted: Option<Shown>,
    /// The last one it was refused for, if any.
    pub refused: Option<Shown>,
}

/// A certificate as people compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// SHA-1 in hexadecimal, as OPC UA tools show it.
    pub thumbprint: String,
    /// Whose it says to be, and when it is valid. Nothing of that is proved.
    pub words: String,
}

impl Trust {
    /// Of `endpoint`, as configured.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn of(application: &Application, endpoint: &str) -> Result<Self, TrustError> {
        let places = Places::of(application, endpoint);
        let read = |path: &std::path::Path| match fs::read(path) {
            Ok(der) => Ok(Some(shown(&der))),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(TrustError::new(path, why)),
        };
        let (trusted, refused) = (read(&places.trusted)?, read(&places.refused)?);
        Ok(Self { places, trusted, refused })
    }

    /// From now on the endpoint must show the certificate it was refused for. `thumbprint` is that
    /// one's, as a person typed it; false if it is another's. Durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be moved.
    pub fn accept(&self, thumbprint: &str) -> Result<bool, TrustError> {
        let failed = |why: io::Error| TrustError::new(&self.places.trusted, why);
        // Looked at again: the agent may have been shown another one meanwhile.
        let der = fs::read(&self.places.refused).map_err(|why| TrustError::new(&self.places.refused, why))?;
        if letters(&shown(&der).thumbprint) != letters(thumbprint) {
            return Ok(false);
        }
        fs::rename(&self.places.refused, &self.places.trusted).map_err(failed)?;
        for path in [&self.places.trusted, &self.places.refused] {
            let folder = path.parent().unwrap_or(std::path::Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        // What was read may not be what was moved.
        let moved = fs::read(&self.places.trusted).map_err(failed)?;
        if moved != der {
            fs::rename(&self.places.trusted, &self.places.refused).map_err(failed)?;
            return Ok(false);
        }
        Ok(true)
    }
}

/// Thumbprints are written with and without colons and spaces, in capitals or not.
fn letters(thumbprint: &str) -> String {
    thumbprint.chars().filter(char::is_ascii_hexdigit).map(|letter| letter.to_ascii_lowercase()).collect()
}

fn shown(der: &[u8]) -> Shown {
    let words = match X509::from_der(der) {
        Ok(certificate) => {
            let day = |time: Option<String>| time.and_then(|time| time.get(..10).map(str::to_owned));
            let from = day(certificate.not_before().ok().map(|time| time.to_string()));
            let to = day(certificate.not_after().ok().map(|time| time.to_string()));
            let unknown = || "?".to_owned();
            format!(
                "{}, valid from {} to {}",
                certificate.subject_name(),
                from.unwrap_or_else(unknown),
                to.unwrap_or_else(unknown)
            )
        }
        Err(_) => "not a certificate that can be read".to_owned(),
    };
    Shown { thumbprint: thumbprint(der), words }
}

#[cfg(test)]
mod tests {
    use super::super::trust::Pin;
    use super::*;

    #[test]
    fn a_refused_certificate_becomes_the_trusted_one_by_its_thumbprint_only() {
        let folder = tempfile::tempdir().unwrap();
        let application =
            Application { pki_dir: folder.path().to_owned(), name: "gw".into(), uri: "urn:gw".into() };
        let endpoint = "opc.tcp://plc:4840";
        let der = |name: &str| {
            rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.der().to_vec()
        };
        let (first, second) = (der("one"), der("two"));
        let pin = Pin::new(&application, "press", endpoint, true, None).unwrap();
        pin.remember(&first).unwrap();
        let trust = Trust::of(&application, endpoint).unwrap();
        assert_eq!((trust.refused.as_ref(), trust.trusted.clone()), (None, Some(shown(&first))));
        assert!(trust.accept(&shown(&first).thumbprint).is_err(), "there is nothing to accept");

        pin.judge(&second).unwrap_err();
        let trust = Trust::of(&application, endpoint).unwrap();
        let refused = trust.refused.clone().unwrap();
        assert_eq!(refused, shown(&second));
        assert!(refused.words.contains("valid from"), "{refused:?}");
        for wrong in [shown(&first).thumbprint.as_str(), "", "12"] {
            assert!(!trust.accept(wrong).unwrap(), "{wrong}");
            pin.judge(&second).unwrap_err();
        }
        // As other tools write it.
        let mut typed = refused.thumbprint.to_uppercase();
        typed.insert(2, ':');
        typed.insert(5, ' ');
        assert!(trust.accept(&typed).unwrap());
        pin.judge(&second).unwrap();
        pin.judge(&first).unwrap_err();
    }
}
