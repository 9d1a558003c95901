//! One CA takes the place of another, by an operator's word. The running servers find the new file by
//! themselves.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use forebay_protocols::private_files;
use forebay_protocols::sync::tls;

use super::ca::Ca;
use super::{Authority, AuthorityError, now_seconds, write_public};
use crate::store::AgentRow;

/// The CA before the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// SHA-256 of its certificate.
    pub pin: [u8; 32],
    /// Until when it is trusted, in seconds since 1970.
    pub until: i64,
}

/// How far a change of CA has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Agents that have said that they trust the present CA.
    pub arrived: Vec<String>,
    /// Agents that have not, with when they were heard of last (microseconds since 1970).
    pub awaited: Vec<(String, Option<i64>)>,
}

impl Authority {
    /// The former CA, while it is trusted.
    pub fn former(&self) -> Option<Former> {
        let ca = self.ca();
        ca.former_at(now_seconds())
            .map(|former| Former { pin: tls::fingerprint(&former.certificate), until: former.until })
    }

    /// Puts a new CA in the place of the present one, or the one whose key and certificate `with` holds.
    /// The present one is trusted for `overlap` seconds more, and its key is gone.
    pub fn rotate(&self, with: Option<&str>, overlap: i64) -> Result<(), AuthorityError> {
        let given = Path::new("the given file");
        let damaged = |why| AuthorityError::Damaged { path: given.to_owned(), why };
        let next = with.map(Ca::parse).transpose().map_err(damaged)?;
        let until = now_seconds().saturating_add(overlap);
        self.replace(&self.ca().succeeded_by(next, until).map_err(AuthorityError::Making)?)
    }

    /// Ends the trust in the former CA. False if there is none.
    pub fn retire(&self) -> Result<bool, AuthorityError> {
        let present = Ca::parse(&self.ca().to_text()).map_err(AuthorityError::Making)?;
        if self.former().is_none() {
            return Ok(false);
        }
        self.replace(&present.alone()).map(|()| true)
    }

    /// Who of the fleet trusts the present CA already. Revoked agents do not count.
    pub fn handover(&self, fleet: &[AgentRow]) -> Handover {
        let born = self.ca().born();
        let (mut arrived, mut awaited) = (Vec::new(), Vec::new());
        for row in fleet.iter().filter(|row| !row.revoked) {
            let name = format!("{}/{}", row.site, row.gateway);
            let trusts = row.report.as_ref().map_or(0, |report| report.ca_generation);
            match trusts >= born {
                true => arrived.push(name),
                false => awaited.push((name, row.last_seen)),
            }
        }
        Handover { arrived, awaited }
    }

    fn replace(&self, ca: &Ca) -> Result<(), AuthorityError> {
        let owner = std::fs::metadata(&self.path).ok();
        private_files::replace(&self.path, ca.to_text().as_bytes(), 0o600)
            .map_err(|source| AuthorityError::File { doing: "write", path: self.path.clone(), source })?;
        // A new file is of whoever wrote it. If that was root, the server could not read it; nobody else may
        // give it away, and nobody else needs to.
        if let Some(owner) = owner {
            let _ = chown(&self.path, Some(owner.uid()), Some(owner.gid()));
        }
        write_public(&self.path, ca)?;
        self.refresh().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use forebay_protocols::sync::tls::FreshKey;
    use rustls::pki_types::CertificateDer;

    use super::*;

    #[test]
    fn a_gateway_that_knows_the_former_ca_gets_the_new_one_with_a_proof() {
        tls::install_provider();
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(state.path()).unwrap();
        let running = Authority::open(state.path()).unwrap();
        let former = authority.pin();
        let request = FreshKey::generate().unwrap().request("x").unwrap();
        let before = authority.sign_agent(&request, "hall", "gate").unwrap();
        assert!(before.former.is_none() && before.generation == 0);
        authority.rotate(None, 1_000).unwrap();
        assert_eq!((running.refresh().unwrap(), running.refresh().unwrap()), (true, false));
        assert_eq!((running.generation(), running.former().unwrap().pin), (1, former));
        let after = running.sign_agent(&request, "hall", "gate").unwrap();
        let (cross, old) = after.former.clone().unwrap();
        let der = |bytes: &bytes::Bytes| CertificateDer::from(bytes.to_vec());
        let [own, ca] = [&after.chain[0], &after.chain[1]].map(der);
        assert_ne!(tls::fingerprint(&ca), former);
        tls::prove_succession(&der(&old), &der(&cross), &ca, &own).unwrap();
        // Nobody else's word makes a successor.
        let elsewhere = tempfile::tempdir().unwrap();
        let stranger = Authority::open(elsewhere.path()).unwrap();
        stranger.rotate(None, 1_000).unwrap();
        let theirs = stranger.sign_agent(&request, "hall", "gate").unwrap();
        let [their_own, their_ca] = [&theirs.chain[0], &theirs.chain[1]].map(der);
        let their_cross = der(&theirs.former.unwrap().0);
        tls::prove_succession(&der(&old), &their_cross, &their_ca, &their_own).unwrap_err();
        tls::prove_succession(&der(&old), &der(&cross), &their_ca, &their_own).unwrap_err();
        // Certificates of both are known by their names.
        for certificate in [&before.chain[0], &after.chain[0]] {
            assert_eq!(running.signed(&der(certificate)).unwrap().gateway, "gate");
            assert!(stranger.signed(&der(certificate)).is_none());
        }
        assert!(running.retire().unwrap() && !running.retire().unwrap());
        assert_eq!((running.generation(), running.former()), (2, None));
        assert!(running.signed(&der(&before.chain[0])).is_none());
        assert!(running.sign_agent(&request, "hall", "gate").unwrap().former.is_none());
    }
}
