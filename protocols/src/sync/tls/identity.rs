//! Who a gateway is to its server: a private key made here, the certificate the server signed for
//! it, the CA to trust and the address. One file, `identity.pem`, replaced as a whole: a renewal
//! cut by a power failure leaves the old identity or the new one, never a key without its
//! certificate.
//!
//! The file is PEM with a few lines above it (RFC 7468 allows text there):
//! ```text
//! Forebay identity 1
//! Server: plant.example:8443
//! CA generation: 1               (if it is not 0)
//! Former CA: (base64 of DER)     (while it is trusted still)
//! (empty)
//! PRIVATE KEY (PKCS #8), CERTIFICATE (ours), CERTIFICATE (the CA)
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::private_files::{self, Folder, Place};

const FILE: &str = "identity.pem";
const FIRST_LINE: &str = "Forebay identity 1";
const GENERATION: &str = "CA generation: ";
const FORMER: &str = "Former CA: ";

/// A gateway's identity at its server.
pub struct Identity {
    /// `host:port` of the server.
    pub server: String,
    /// The CA to trust.
    pub ca: CertificateDer<'static>,
    /// The one before it, while servers may still show certificates of it.
    pub former_ca: Option<CertificateDer<'static>>,
    /// The server's count of such changes when it gave us this.
    pub ca_generation: u32,
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
    /// One under the first CA of its server.
    pub fn new(
        server: String,
        ca: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        Self { server, ca, former_ca: None, ca_generation: 0, chain, key }
    }

    /// Reads the identity kept in `folder`; `None` if this gateway has not joined yet.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        Self::load_from(&Place::new(folder), folder)
    }

    /// Keeps the identity in `folder` (0700) as one file (0600), durable when this returns.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        private_files::private_folder(folder).map_err(|source| IdentityError::File {
            doing: "make",
            path: folder.to_owned(),
            source,
        })?;
        self.save_to(&Place::new(folder), folder)
    }

    /// Forgets the identity kept in `folder`, and drafts of it that a power cut left behind: the server
    /// lets it in no more.
    pub fn forget(folder: &Path) -> Result<(), IdentityError> {
        let place = Place::new(folder);
        private_files::remove_from(&place, FILE)
            .and_then(|()| private_files::sweep(&place, FILE))
            .map_err(|source| IdentityError::File { doing: "remove", path: folder.join(FILE), source })
    }

    /// [`Self::load`] from any folder; `shown` is its name in errors.
    pub fn load_from(folder: &dyn Folder, shown: &Path) -> Result<Option<Self>, IdentityError> {
        let path = shown.join(FILE);
        let bytes = match folder.read(FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { doing: "read", path, source }),
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| "it is not text".to_owned());
        text.and_then(Self::parse).map(Some).map_err(|why| IdentityError::Damaged { path, why })
    }

    /// [`Self::save`] to any folder that is there.
    pub fn save_to(&self, folder: &dyn Folder, shown: &Path) -> Result<(), IdentityError> {
        private_files::replace_in(folder, FILE, self.to_text().as_bytes(), 0o600)
            .map_err(|source| IdentityError::File { doing: "write", path: shown.join(FILE), source })
    }

    /// Removes drafts with keys in them that a power cut in the middle of [`Self::save`] left behind.
    pub fn sweep(folder: &dyn Folder) -> io::Result<()> {
        private_files::sweep(folder, FILE)
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
        let (mut ca_generation, mut former_ca) = (0, None);
        for line in lines.take_while(|line| !line.is_empty()) {
            if let Some(number) = line.strip_prefix(GENERATION) {
                ca_generation = number.parse().map_err(|_| "the CA's generation is no number")?;
            } else if let Some(der) = line.strip_prefix(FORMER) {
                let der = STANDARD.decode(der).map_err(|_| "the former CA is damaged")?;
                former_ca = Some(CertificateDer::from(der));
            }
        }
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("key: {error}"))?;
        let mut certificates = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("certificate: {error}"))?;
        let ca = certificates.pop().ok_or("it holds no certificate")?;
        if certificates.is_empty() {
            return Err("it holds one certificate, not our own and the CA's".into());
        }
        Ok(Self { server, ca, former_ca, ca_generation, chain: certificates, key })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nServer: {}\n", self.server);
        if self.ca_generation != 0 {
            text.push_str(&format!("{GENERATION}{}\n", self.ca_generation));
        }
        if let Some(former) = &self.former_ca {
            text.push_str(&format!("{FORMER}{}\n", STANDARD.encode(former)));
        }
        text.push('\n');
        text.push_str(&pem_block("PRIVATE KEY", self.key.secret_der()));
        for certificate in self.chain.iter().chain([&self.ca]) {
            text.push_str(&pem_block("CERTIFICATE", certificate));
        }
        text
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        let Self { server, ca, former_ca, ca_generation, chain, key } = self;
        Self {
            server: server.clone(),
            ca: ca.clone(),
            former_ca: former_ca.clone(),
            ca_generation: *ca_generation,
            chain: chain.clone(),
            key: key.clone_key(),
        }
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

    /// A signature over `message` (ECDSA with SHA-256, ASN.1).
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        SigningKey::sign(&self.0, message).map_err(|error| IdentityError::Key(error.to_string()))
    }

    /// One that was kept.
    pub fn from_der(key: &PrivateKeyDer<'_>) -> Result<Self, IdentityError> {
        KeyPair::try_from(key).map(Self).map_err(|error| IdentityError::Key(error.to_string()))
    }

    /// SHA-256 of the public key: by it an operator tells this gateway from another that has its join
    /// string too. For people: [`key_words`].
    pub fn fingerprint(&self) -> [u8; 32] {
        super::fingerprint(self.0.public_key_raw())
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

/// The beginning of a key's fingerprint, as people compare it: `3f2a-9c1d-77e0-12ab`.
pub fn key_words(fingerprint: &[u8; 32]) -> String {
    let [a, b, c, d, e, f, g, h, ..] = fingerprint;
    format!("{a:02x}{b:02x}-{c:02x}{d:02x}-{e:02x}{f:02x}-{g:02x}{h:02x}")
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
