//! Who a gateway is to its server: a private key made here, the certificate the server signed for
//! it, the CA to trust and the address. One file, `identity.pem`, replaced as a whole: a renewal
//! cut by a power failure leaves the old identity or the new one, never a key without its
//! certificate.
//!
//! The file is PEM with three lines above it (RFC 7468 allows text there):
//! ```text
//! Forebay identity 1
//! Server: plant.example:8443
//! (empty)
//! PRIVATE KEY (PKCS #8), CERTIFICATE (ours), CERTIFICATE (the CA)
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::private_files;

const FILE: &str = "identity.pem";
const FIRST_LINE: &str = "Forebay identity 1";

/// A gateway's identity at its server.
pub struct Identity {
    /// `host:port` of the server.
    pub server: String,
    /// The only CA to trust.
    pub ca: CertificateDer<'static>,
    /// Our certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Our key. It never leaves this machine.
    pub key: PrivateKeyDer<'static>,
}

/// Why an identity cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk said no.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// "read", "write".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and is no identity.
    #[error("{path} is not a Forebay identity: {why}; move it away and join again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Key or request could not be made.
    #[error("cannot make a key: {0}")]
    Key(String),
}

impl Identity {
    /// Reads the identity kept in `folder`; `None` if this gateway has not joined yet.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { doing: "read", path, source }),
        };
        Self::parse(&text).map(Some).map_err(|why| IdentityError::Damaged { path, why })
    }

    /// Keeps the identity in `folder` (0700) as one file (0600), durable when this returns.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let path = folder.join(FILE);
        private_files::private_folder(folder)
            .and_then(|()| private_files::replace(&path, self.to_text().as_bytes(), 0o600))
            .map_err(|source| IdentityError::File { doing: "write", path, source })
    }

    /// From when and until when our certificate is valid, in seconds since 1970.
    pub fn validity(&self) -> Option<(i64, i64)> {
        let (_, certificate) = x509_parser::parse_x509_certificate(self.chain.first()?).ok()?;
        let validity = certificate.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }

    /// Have two thirds of the certificate's life gone by at `now` (seconds since 1970)? True also
    /// when its dates cannot be read: a new one cannot be worse.
    pub fn renewal_due(&self, now: i64) -> bool {
        self.validity().is_none_or(|(from, until)| now >= from + (until - from) / 3 * 2)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        match lines.next() {
            Some(FIRST_LINE) => {}
            Some(line) if line.starts_with("Forebay identity ") => {
                return Err(format!("it is of a kind this version does not know (`{line}`)"));
            }
            _ => return Err(format!("the first line is not `{FIRST_LINE}`")),
        }
        let server = lines.next().and_then(|line| line.strip_prefix("Server: "));
        let server = server.ok_or("the second line does not name the server")?.to_owned();
        super::server_name(&server)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("key: {error}"))?;
        let mut certificates = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("certificate: {error}"))?;
        let ca = certificates.pop().ok_or("it holds no certificate")?;
        if certificates.is_empty() {
            return Err("it holds one certificate, not our own and the CA's".into());
        }
        Ok(Self { server, ca, chain: certificates, key })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nServer: {}\n\n", self.server);
        text.push_str(&pem_block("PRIVATE KEY", self.key.secret_der()));
        for certificate in self.chain.iter().chain([&self.ca]) {
            text.push_str(&pem_block("CERTIFICATE", certificate));
        }
        text
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        let Self { server, ca, chain, key } = self;
        Self { server: server.clone(), ca: ca.clone(), chain: chain.clone(), key: key.clone_key() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A private key just made on this machine (ECDSA, P-256), not yet certified.
pub struct FreshKey(KeyPair);

impl FreshKey {
    /// Makes one.
    pub fn generate() -> Result<Self, IdentityError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|error| IdentityError::Key(error.to_string()))
    }

    /// The certificate request (PKCS #10, DER) that proves possession of the key. The server takes
    /// only the key from it; `name` is for whoever looks at the request.
    pub fn request(&self, name: &str) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let request = params.serialize_request(&self.0).map_err(|e| IdentityError::Key(e.to_string()))?;
        Ok(request.der().to_vec())
    }

    /// The key for rustls and [`Identity`].
    pub fn into_der(self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl fmt::Debug for FreshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreshKey(…)")
    }
}

/// One PEM block (RFC 7468).
pub fn pem_block(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // base64 is ASCII, so every index is a boundary.
        let (line, tail) = rest.split_at(rest.len().min(64));
        block.push_str(line);
        block.push('\n');
        rest = tail;
    }
    block.push_str(&format!("-----END {label}-----\n"));
    block
}
