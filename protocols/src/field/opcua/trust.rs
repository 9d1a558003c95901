//! Who we are to OPC UA servers, and which certificate each server must show.
//!
//! Everything lies below one folder: `private/private.pem` (mode 0600) and `own/cert.der` are
//! ours, made once; `servers/ENDPOINT.der` is what a server showed when its first session was
//! made, `refused/ENDPOINT.der` the last one that was refused, for a person to judge. A remembered certificate is compared byte by byte and for as long as it lies there.
//! Authorities, host names and dates are not looked at: servers in plants are self-signed, move,
//! outlive their certificates, and a gateway's clock may be wrong. A changed certificate is
//! refused until a person says that it is right.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use opcua::crypto::{CertificateStore, PrivateKey, X509, X509Data};
use opcua::sync::RwLock;

use crate::private_files::{create_once, replace};
use crate::sync::tls::pem_block;

/// How long our own certificate lasts. Renewing it would need a person at every server.
const OWN_DAYS: u32 = 20 * 365;

/// Who this gateway is to OPC UA servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Folder of keys and certificates, shared by all OPC UA links; made when it is needed.
    pub pki_dir: PathBuf,
    /// Shown to people in the server's list of sessions and certificates.
    pub name: String,
    /// Stands in our certificate, and must not change as long as it is to be trusted:
    /// `urn:forebay:SITE:GATEWAY`.
    pub uri: String,
}

impl Application {
    /// Named as the certificate in the folder says, if there is one: for somebody who borrows it.
    pub fn with_uri_of_certificate(mut self) -> Self {
        let file = CertificateStore::new(&self.pki_dir).own_certificate_path();
        let uri = fs::read(file).ok().and_then(|der| uri_of(&der));
        self.uri = uri.unwrap_or(self.uri);
        self
    }
}

/// The URI a certificate is made for.
fn uri_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// What went wrong with a file of the folder.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct TrustError {
    path: PathBuf,
    why: String,
}

impl TrustError {
    pub(super) fn new(path: &Path, why: impl ToString) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

/// Our key and the certificate over it.
pub(super) struct Identity {
    pub key: PrivateKey,
    pub certificate: X509,
}

impl Identity {
    /// Reads key and certificate, and makes what is missing. Making an RSA key takes up to some
    /// seconds on a small gateway, once.
    pub(super) fn load_or_make(application: &Application) -> Result<Self, TrustError> {
        let files = CertificateStore::new(&application.pki_dir);
        let (key_path, certificate_path) = (files.own_private_key_path(), files.own_certificate_path());
        let wish = wish(application);
        if !key_path.exists() {
            let (_, key) = X509::cert_and_pkey(&wish).map_err(|why| TrustError::new(&key_path, why))?;
            let der = key.to_der().map_err(|why| TrustError::new(&key_path, why))?;
            write_once(&key_path, pem_block("PRIVATE KEY", der.as_bytes()).as_bytes())?;
        }
        // Read back even if just made: another link may have been quicker.
        let key = CertificateStore::read_pkey(&key_path).map_err(|_| {
            TrustError::new(&key_path, "not a private key in PEM; delete it to have a new one made")
        })?;
        if !certificate_path.exists() {
            let made = X509::from_pkey(&key, &wish).map_err(|why| TrustError::new(&certificate_path, why))?;
            let der = made.to_der().map_err(|why| TrustError::new(&certificate_path, why))?;
            write_once(&certificate_path, &der)?;
        }
        let certificate = CertificateStore::read_cert(&certificate_path).map_err(|_| {
            TrustError::new(&certificate_path, "not a DER certificate; delete it to have a new one made")
        })?;
        if certificate.is_application_uri_valid(&application.uri).is_err() {
            let why = format!(
                "made for another name than `{}`, and servers check that; delete it to have a new one made, \
                 then accept that one on the servers",
                application.uri
            );
            return Err(TrustError::new(&certificate_path, why));
        }
        Ok(Self { key, certificate })
    }
}

/// The library's view of the folder, from which it takes our key and certificate.
pub(super) fn store(application: &Application) -> Arc<RwLock<CertificateStore>> {
    Arc::new(RwLock::new(CertificateStore::new(&application.pki_dir)))
}

fn wish(application: &Application) -> X509Data {
    X509Data {
        key_size: 2048,
        common_name: plain(&application.name),
        organization: "Forebay".to_owned(),
        organizational_unit: String::new(),
        country: String::new(),
        state: String::new(),
        alt_host_names: X509Data::alt_host_names(&application.uri, None, false, true, false),
        certificate_duration_days: OWN_DAYS,
    }
}

/// A name that cannot be taken for the syntax of a distinguished name.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || " -_.".contains(c) { c } else { '-' }).collect()
}

/// Where the certificates of one endpoint lie.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub trusted: PathBuf,
    pub refused: PathBuf,
}

impl Places {
    /// Those of `endpoint`, an `opc.tcp` URL.
    pub(super) fn of(application: &Application, endpoint: &str) -> Self {
        let file = format!("{}.der", file_name(endpoint.strip_prefix("opc.tcp://").unwrap_or(endpoint)));
        let place = |folder: &str| application.pki_dir.join(folder).join(&file);
        Self { trusted: place("servers"), refused: place("refused") }
    }

    /// Keeps what was refused, for a person to judge. The flash is written only if it is another one.
    fn set_aside(&self, shown: &[u8]) -> Result<(), TrustError> {
        if fs::read(&self.refused).is_ok_and(|kept| kept == shown) {
            return Ok(());
        }
        // Made by the service's user, whoever moves a file there later.
        let folder = self.trusted.parent().unwrap_or(Path::new("."));
        make_folder(folder).map_err(|why| TrustError::new(folder, why))?;
        let folder = self.refused.parent().unwrap_or(Path::new("."));
        let kept = make_folder(folder).and_then(|()| replace(&self.refused, shown, 0o600));
        kept.map_err(|why| TrustError::new(&self.refused, why))
    }
}

/// The certificate one server must show.
pub(super) struct Pin {
    places: Places,
    /// The link whose server it is.
    link: String,
    /// Without a known one: trust the first that proves to be the server's own?
    trusts_first: bool,
    /// By `server_certificate` in the configuration: overrides what is remembered.
    configured: Option<(PathBuf, Vec<u8>)>,
}

/// What a pin says of a certificate it does not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The one that is expected.
    Known,
    /// Nothing is expected yet. To be remembered once the server has proved that it is its own.
    FirstContact,
}

impl Pin {
    /// The pin of a link's server.
    pub(super) fn new(
        application: &Application,
        link: &str,
        endpoint: &str,
        trusts_first: bool,
        configured: Option<&Path>,
    ) -> Result<Self, TrustError> {
        let configured = match configured {
            None => None,
            Some(path) => {
                let der = read_certificate(path)?.to_der().map_err(|why| TrustError::new(path, why))?;
                Some((path.to_owned(), der))
            }
        };
        let places = Places::of(application, endpoint);
        Ok(Self { places, link: link.to_owned(), trusts_first, configured })
    }

    /// Is `shown`, one DER certificate, what the server must show? If not: what changed, and what
    /// to do, in plain words.
    pub(super) fn judge(&self, shown: &[u8]) -> Result<Verdict, String> {
        if let Some((path, wanted)) = &self.configured {
            return if wanted == shown {
                Ok(Verdict::Known)
            } else {
                Err(format!(
                    "its certificate has the thumbprint {}, and `server_certificate` ({}) has {}; if the \
                     server's certificate was changed on purpose, put the new one into that file",
                    thumbprint(shown),
                    path.display(),
                    thumbprint(wanted),
                ))
            };
        }
        let why = match fs::read(&self.places.trusted) {
            Ok(known) if known == shown => return Ok(Verdict::Known),
            Ok(known) => format!(
                "its certificate changed since the first contact: the thumbprint was {}, now it is {}; if the \
                 server was replaced or renewed its certificate, say so with `{}`, if not, somebody may be in \
                 between",
                thumbprint(&known),
                thumbprint(shown),
                self.command(),
            ),
            Err(why) if why.kind() == io::ErrorKind::NotFound && self.trusts_first => {
                return Ok(Verdict::FirstContact);
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => format!(
                "its certificate is not trusted yet; its thumbprint is {}: compare it with what the server \
                 itself shows, then `{}`",
                thumbprint(shown),
                self.command(),
            ),
            Err(why) => {
                return Err(format!(
                    "the certificate remembered for it cannot be read, so nothing is trusted: {}: {why}",
                    self.places.trusted.display()
                ));
            }
        };
        Err(match self.places.set_aside(shown) {
            Ok(()) => why,
            Err(error) => format!("{why} (it cannot be kept for that: {error})"),
        })
    }

    fn command(&self) -> String {
        format!("forebay-agent opcua trust {}", self.link)
    }

    /// Remembers what the first contact showed. The first one stays, should two links race.
    pub(super) fn remember(&self, shown: &[u8]) -> Result<(), TrustError> {
        write_once(&self.places.trusted, shown)
    }
}

/// A certificate from a file, DER or PEM.
pub(super) fn read_certificate(path: &Path) -> Result<X509, TrustError> {
    let bytes = fs::read(path).map_err(|why| TrustError::new(path, why))?;
    let read =
        if bytes.starts_with(b"-----") { X509::from_pem(&bytes) } else { X509::from_der(leaf(&bytes)) };
    read.map_err(|_| TrustError::new(path, "neither a DER nor a PEM certificate"))
}

/// The first certificate of a chain as servers send it: DER after DER.
pub(super) fn leaf(chain: &[u8]) -> &[u8] {
    // X.690, 8.1.3: 0x30, then the length in one byte, or how many bytes hold it.
    let length = match *chain {
        [0x30, short @ 0..=0x7F, ..] => Some(2 + usize::from(short)),
        [0x30, long @ 0x81..=0x84, ref rest @ ..] => {
            let digits = usize::from(long & 0x0F);
            rest.get(..digits).map(|digits| {
                digits.iter().fold(0usize, |sum, digit| (sum << 8) | usize::from(*digit)) + 2 + digits.len()
            })
        }
        _ => None,
    };
    length.and_then(|length| chain.get(..length)).unwrap_or(chain)
}

/// What OPC UA tools show of a certificate: its SHA-1 in hexadecimal. For people to compare;
/// we compare all bytes.
pub(super) fn thumbprint(der: &[u8]) -> String {
    match X509::from_der(der) {
        Ok(certificate) => certificate.thumbprint().as_hex_string(),
        Err(_) => "(unreadable)".to_owned(),
    }
}

/// A file name for each endpoint, and never the same for two.
fn file_name(endpoint: &str) -> String {
    let mut name = String::with_capacity(endpoint.len());
    for byte in endpoint.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || (byte == b'.' && !name.is_empty()) {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "_{byte:02x}");
        }
    }
    name
}

/// Puts a file there whole, durable and for us alone, or leaves the one that is there.
fn write_once(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = make_folder(folder).and_then(|()| create_once(path, bytes, 0o600));
    written.map(drop).map_err(|why| TrustError::new(path, why))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn application(pki_dir: &Path) -> Application {
        Application {
            pki_dir: pki_dir.to_owned(),
            name: "Forebay on gw-1".into(),
            uri: "urn:forebay:site:gw-1".into(),
        }
    }

    fn pin(application: &Application, endpoint: &str, trusts_first: bool) -> Pin {
        Pin::new(application, "press", endpoint, trusts_first, None).unwrap()
    }

    #[test]
    fn key_and_certificate_are_made_once_and_the_key_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let application = application(folder.path());
        let made = Identity::load_or_make(&application).unwrap();
        let again = Identity::load_or_make(&application).unwrap();
        assert_eq!(made.certificate.to_der().unwrap(), again.certificate.to_der().unwrap());

        let files = CertificateStore::new(folder.path());
        let mode = fs::metadata(files.own_private_key_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let folder_mode = fs::metadata(folder.path().join("private")).unwrap().permissions().mode();
        assert_eq!(folder_mode & 0o777, 0o700);
        assert!(files.read_own_pkey().is_ok() && files.read_own_cert().is_ok(), "the library finds them");
        assert_eq!(fs::read_dir(folder.path().join("private")).unwrap().count(), 1, "no draft is left");

        // A renamed gateway is told so, instead of being refused by every server.
        let renamed = Application { uri: "urn:forebay:site:gw-2".into(), ..application.clone() };
        let why = Identity::load_or_make(&renamed).err().unwrap().to_string();
        assert!(why.contains("gw-2") && why.contains("delete it"), "{why}");

        // A torn key file is named, and not overwritten.
        fs::write(files.own_private_key_path(), "torn").unwrap();
        let why = Identity::load_or_make(&application).err().unwrap().to_string();
        assert!(why.contains("private.pem") && why.contains("delete it"), "{why}");
    }

    #[test]
    fn the_first_certificate_stays_and_another_one_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let application = application(folder.path());
        let pin = pin(&application, "opc.tcp://plc:4840/a", true);
        assert_eq!(pin.judge(b"first"), Ok(Verdict::FirstContact));
        assert_eq!(pin.judge(b"first"), Ok(Verdict::FirstContact), "looking is not trusting");
        pin.remember(b"first").unwrap();
        assert_eq!(pin.judge(b"first"), Ok(Verdict::Known));
        let why = pin.judge(b"second").unwrap_err();
        assert!(why.contains("changed") && why.contains("`forebay-agent opcua trust press`"), "{why}");
        assert_eq!(fs::read(&pin.places.refused).unwrap(), b"second", "kept for a person to judge");
        pin.remember(b"second").unwrap();
        assert_eq!(pin.judge(b"first"), Ok(Verdict::Known), "the first one stays");

        let other = self::pin(&application, "opc.tcp://plc:4841/a", true);
        assert_eq!(other.judge(b"second"), Ok(Verdict::FirstContact), "another endpoint, another pin");
    }

    #[test]
    fn a_first_contact_waits_for_a_person_where_that_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let application = application(folder.path());
        let careful = pin(&application, "opc.tcp://plc", false);
        let why = careful.judge(b"first").unwrap_err();
        assert!(why.contains("not trusted yet") && why.contains("opcua trust press"), "{why}");
        assert_eq!(fs::read(&careful.places.refused).unwrap(), b"first");
        careful.judge(b"second").unwrap_err();
        assert_eq!(fs::read(&careful.places.refused).unwrap(), b"second", "only the last one is kept");
        let drafts = fs::read_dir(folder.path().join("refused")).unwrap().count();
        assert_eq!(drafts, 1, "no draft is left");
        fs::rename(&careful.places.refused, &careful.places.trusted).unwrap();
        assert_eq!(careful.judge(b"second"), Ok(Verdict::Known));
    }

    #[test]
    fn a_configured_certificate_overrides_what_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["plc".to_owned()]).unwrap();
        let der = made.cert.der().to_vec();
        for (file, bytes) in [("plc.der", der.clone()), ("plc.pem", made.cert.pem().into_bytes())] {
            let path = folder.path().join(file);
            fs::write(&path, bytes).unwrap();
            let pin =
                Pin::new(&application(folder.path()), "press", "opc.tcp://plc", true, Some(&path)).unwrap();
            assert_eq!(pin.judge(&der), Ok(Verdict::Known), "{file}");
            let why = pin.judge(b"other").unwrap_err();
            assert!(why.contains("server_certificate") && why.contains(file), "{why}");
        }
        let broken = folder.path().join("broken.pem");
        fs::write(&broken, "-----BEGIN nothing").unwrap();
        assert!(
            Pin::new(&application(folder.path()), "press", "opc.tcp://plc", true, Some(&broken)).is_err()
        );
    }

    #[test]
    fn the_leaf_of_a_chain_is_its_first_certificate() {
        let made = rcgen::generate_simple_self_signed(vec!["plc".to_owned()]).unwrap();
        let der = made.cert.der().to_vec();
        let chain = [der.clone(), der.clone()].concat();
        assert_eq!(leaf(&chain), der);
        assert_eq!(leaf(&der), der);
        // Nonsense stays what it is, and is refused later.
        for nonsense in [&b""[..], b"0", b"\x30\x84\xff", b"\x30\x82\xff\xff", b"\x30\x05a", b"abc"] {
            assert_eq!(leaf(nonsense), nonsense);
        }
    }

    #[test]
    fn endpoints_and_their_file_names_are_one_to_one() {
        assert_eq!(file_name("plc:4840/a_b"), "plc_3a4840_2fa_5fb");
        assert_ne!(file_name("plc/a"), file_name("plc_2fa"));
        assert!(!file_name("../../etc").contains('/') && !file_name("..").starts_with('.'));
    }
}
