//! The server's own CA: made on first start, kept in `state_dir/ca`, or taken from there if the
//! operator put one in. It signs the server's certificate and those of gateways that join.
//!
//! - `ca.pem` (0600) holds key and certificate in one file, so that one is never without the
//!   other; several instances share a CA by sharing this file. `ca.crt` is the public half.
//! - The server's own key and certificate are made at every start and never stored; the timer of
//!   [`keep_fresh`] replaces them when a third of their life is left.
//! - TLS sessions go on after a restart, and at another instance: `tickets`.
//! - Of a gateway's request only the key is taken. Name and dates are ours to say.

pub mod page;
mod tickets;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::private_files;
use forebay_protocols::sync::tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::store::Micros;
use tickets::Tickets;

const DAY: i64 = 86_400;
const CA_LIFE: i64 = 20 * 365 * DAY;
const AGENT_LIFE: i64 = 365 * DAY;
const SERVER_LIFE: i64 = 90 * DAY;

/// The CA, ready to sign.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    tickets: Arc<Tickets>,
}

/// A gateway's new certificate.
#[derive(Clone, Debug)]
pub struct Signed {
    /// DER: the gateway's own, then the CA.
    pub chain: Vec<Bytes>,
    /// SHA-256 of the gateway's own.
    pub fingerprint: [u8; 32],
    /// When it runs out.
    pub valid_until: Micros,
}

/// The server's side of TLS for the coming weeks.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    /// Ready for the listener.
    pub tls: Arc<ServerConfig>,
    /// From when on to make the next one, in seconds since 1970.
    pub renew_from: i64,
}

/// A certificate of ours, its key, and from when on to make the next one.
struct Issued {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    renew_from: i64,
}

/// Why the CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The disk said no.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// "read", "write", "make".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and is no CA.
    #[error(
        "{path} does not hold a CA's key and certificate: {why}; restore it from a backup, or move it away \
         to start with a new CA (every gateway must then join again)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of the page's certificate is there and does not hold it.
    #[error("{path} cannot be used for the page: {why}; see `web.certificate` and `web.key`")]
    Page {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Making(String),
}

/// Why a certificate request was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The request is at fault.
    #[error("the certificate request is not valid: {0}")]
    Request(String),
    /// We are.
    #[error("cannot sign: {0}")]
    Ours(String),
}

/// Makes the state directory if it is not there, and closes it to everybody else: the CA's key and
/// every reading will lie in it. One that is there keeps the mode its owner gave it.
pub fn make_state_folder(state_dir: &Path) -> Result<(), AuthorityError> {
    if state_dir.is_dir() {
        return Ok(());
    }
    let failed = |source| AuthorityError::File { doing: "make", path: state_dir.to_owned(), source };
    private_files::private_folder(state_dir).map_err(failed)
}

impl Authority {
    /// Opens the CA below `state_dir`, making it if there is none. When two processes make one at
    /// the same moment both end up with the first one's.
    pub fn open(state_dir: &Path) -> Result<Self, AuthorityError> {
        let folder = state_dir.join("ca");
        let path = folder.join("ca.pem");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let write = |source| AuthorityError::File { doing: "write", path: path.clone(), source };
                private_files::private_folder(&folder).map_err(write)?;
                if private_files::create_once(&path, new_ca()?.as_bytes(), 0o600).map_err(write)? {
                    info!(path = %path.display(), "Made a new CA.");
                }
                std::fs::read_to_string(&path).map_err(write)?
            }
            Err(source) => return Err(AuthorityError::File { doing: "read", path, source }),
        };
        let authority = Self::parse(&text).map_err(|why| AuthorityError::Damaged { path, why })?;
        let path = folder.join("ca.crt");
        let public = tls::pem_block("CERTIFICATE", &authority.certificate);
        if std::fs::read(&path).ok().as_deref() != Some(public.as_bytes()) {
            private_files::replace(&path, public.as_bytes(), 0o644)
                .map_err(|source| AuthorityError::File { doing: "write", path, source })?;
        }
        Ok(authority)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(text).map_err(|error| format!("key: {error}"))?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|error| format!("certificate: {error}"))?
            .into_owned();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| format!("certificate: {error}"))?;
        if !parsed.is_ca() {
            return Err("its certificate is not a CA's".into());
        }
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err("its key does not belong to its certificate".into());
        }
        let tickets = Arc::new(Tickets::new(key.serialized_der()));
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| error.to_string())?;
        Ok(Self { certificate, issuer, tickets })
    }

    /// SHA-256 of the CA certificate: what join strings hold.
    pub fn pin(&self) -> [u8; 32] {
        tls::fingerprint(&self.certificate)
    }

    /// A key and certificate for the server under these names and addresses.
    pub fn server_certificate(&self, names: &[String]) -> Result<ServerCertificate, AuthorityError> {
        let Issued { chain, key, renew_from } = self.issue(names)?;
        let tls =
            tls::server_config(chain, key).map_err(|error| AuthorityError::Making(error.to_string()))?;
        let mut tls = Arc::unwrap_or_clone(tls);
        // Agents remember their sessions, so that the server need not. A ticket is used once, and each
        // connection brings the next one.
        tls.ticketer = self.tickets.clone();
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 1;
        Ok(ServerCertificate { tls: Arc::new(tls), renew_from })
    }

    fn issue(&self, names: &[String]) -> Result<Issued, AuthorityError> {
        let making = |error: rcgen::Error| AuthorityError::Making(error.to_string());
        let now = now_seconds();
        let mut params = CertificateParams::new(names).map_err(making)?;
        params.distinguished_name = common_name("Forebay server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let until = now.saturating_add(SERVER_LIFE);
        date(&mut params, tls::ALWAYS_VALID_FROM, until).map_err(AuthorityError::Making)?;
        let key = KeyPair::generate().map_err(making)?;
        let own = params.signed_by(&key, &self.issuer).map_err(making)?;
        let chain = vec![own.der().clone(), self.certificate.clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(Issued { chain, key, renew_from: until - SERVER_LIFE / 3 })
    }

    /// Signs a gateway's request for one year. That the gateway holds the key is checked (the
    /// request is signed with it); whatever else the request asks for is not taken.
    pub fn sign_agent(&self, request: &[u8], site: &str, gateway: &str) -> Result<Signed, SigningError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|error| SigningError::Request(error.to_string()))?;
        let now = now_seconds();
        let until = now.saturating_add(AGENT_LIFE);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("{site}/{gateway}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        date(&mut params, now, until).map_err(SigningError::Ours)?;
        let own = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|error| SigningError::Ours(error.to_string()))?;
        Ok(Signed {
            fingerprint: tls::fingerprint(own.der()),
            chain: [own.der(), &self.certificate].map(|der| Bytes::copy_from_slice(der)).to_vec(),
            valid_until: until.saturating_mul(1_000_000),
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// The names the server's certificate bears: the host agents reach it by, the machine's own name,
/// and the loopback ones for a look from the machine itself.
pub fn names(address: &str, hostname: Option<&str>) -> Vec<String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut names: Vec<String> = Vec::new();
    for name in
        [Some(host), hostname, Some("localhost"), Some("127.0.0.1"), Some("::1")].into_iter().flatten()
    {
        let usable = rustls::pki_types::ServerName::try_from(name).is_ok();
        if usable && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Replaces the listener's certificate before it runs out, until `stop`. Looks every few hours by
/// the monotonic clock, because the wall clock may jump.
pub async fn keep_fresh(
    authority: Arc<Authority>,
    names: Vec<String>,
    mut renew_from: i64,
    listener: watch::Sender<Arc<ServerConfig>>,
    stop: CancellationToken,
) {
    const LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);
    while tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
        if now_seconds() < renew_from {
            continue;
        }
        match authority.server_certificate(&names) {
            Ok(fresh) => {
                renew_from = fresh.renew_from;
                listener.send_replace(fresh.tls);
                info!("Renewed the server's certificate.");
            }
            Err(error) => error!(%error, "Could not renew the server's certificate; will try again."),
        }
    }
}

fn new_ca() -> Result<String, AuthorityError> {
    let making = |error: rcgen::Error| AuthorityError::Making(error.to_string());
    let key = KeyPair::generate().map_err(making)?;
    let mut params = CertificateParams::default();
    // The number tells the CAs of two servers apart in a list.
    let number = getrandom::u32().map_err(|error| AuthorityError::Making(error.to_string()))?;
    params.distinguished_name = common_name(&format!("Forebay CA {number:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    date(&mut params, tls::ALWAYS_VALID_FROM, now_seconds().saturating_add(CA_LIFE))
        .map_err(AuthorityError::Making)?;
    let certificate = params.self_signed(&key).map_err(making)?;
    Ok(tls::pem_block("PRIVATE KEY", key.serialized_der())
        + &tls::pem_block("CERTIFICATE", certificate.der()))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Sets the dates (seconds since 1970) and a random serial number: rcgen's own is the key's hash,
/// the same for every certificate of one key.
fn date(params: &mut CertificateParams, from: i64, until: i64) -> Result<(), String> {
    let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.max(0) as u64);
    (params.not_before, params.not_after) = (at(from), at(until));
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| error.to_string())?;
    serial[0] &= 0x7F; // serial numbers are positive (RFC 5280, 4.1.2.2)
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

/// A server whose clock has not been set yet must not sign certificates that ended in 1971.
fn now_seconds() -> i64 {
    (wall_micros() / 1_000_000).max(tls::EARLIEST_TIME)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use forebay_protocols::sync::tls::FreshKey;

    use super::*;

    #[test]
    fn the_ca_is_made_once_and_only_its_owner_can_read_its_key() {
        let state = tempfile::tempdir().unwrap();
        let first = Authority::open(state.path()).unwrap();
        let second = Authority::open(state.path()).unwrap();
        assert_eq!(first.pin(), second.pin());
        let mode = |name: &str| {
            let path = state.path().join("ca").join(name);
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("."), mode("ca.pem"), mode("ca.crt")), (0o700, 0o600, 0o644));
    }

    #[test]
    fn processes_that_start_together_share_one_ca() {
        let state = tempfile::tempdir().unwrap();
        let pins: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Authority::open(state.path()).unwrap().pin())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(pins.iter().all(|pin| *pin == pins[0]));
    }

    #[test]
    fn a_damaged_ca_is_named_and_never_replaced() {
        let state = tempfile::tempdir().unwrap();
        Authority::open(state.path()).unwrap();
        let path = state.path().join("ca/ca.pem");
        let text = std::fs::read_to_string(&path).unwrap();
        let other = new_ca().unwrap();
        let (key, _) = text.split_once("-----BEGIN CERT").unwrap();
        let (_, foreign) = other.split_once("-----BEGIN CERT").unwrap();
        for damage in [String::new(), text[..80].to_owned(), format!("{key}-----BEGIN CERT{foreign}")] {
            std::fs::write(&path, &damage).unwrap();
            let error = Authority::open(state.path()).unwrap_err().to_string();
            assert!(error.contains("ca.pem") && error.contains("backup"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damage);
        }
    }

    #[test]
    fn a_gateways_certificate_bears_our_words_for_a_year() {
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(state.path()).unwrap();
        let request = FreshKey::generate().unwrap().request("emperor of everything").unwrap();
        let signed = authority.sign_agent(&request, "north", "gw-7").unwrap();
        let (_, own) = x509_parser::parse_x509_certificate(&signed.chain[0]).unwrap();
        assert_eq!(own.subject().to_string(), "CN=north/gw-7");
        assert!(!own.is_ca());
        let days = (own.validity().not_after.timestamp() - own.validity().not_before.timestamp()) / DAY;
        assert_eq!(days, 365);
        assert_eq!(signed.fingerprint, tls::fingerprint(&signed.chain[0]));
        assert_eq!(tls::fingerprint(&signed.chain[1]), authority.pin());
    }

    #[test]
    fn a_request_not_signed_by_its_key_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(state.path()).unwrap();
        let mut request = FreshKey::generate().unwrap().request("gw").unwrap();
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(matches!(authority.sign_agent(&request, "s", "g"), Err(SigningError::Request(_))));
        assert!(matches!(authority.sign_agent(b"nonsense", "s", "g"), Err(SigningError::Request(_))));
    }

    #[test]
    fn the_servers_certificate_bears_every_name_once() {
        assert_eq!(
            names("plant.example:8443", Some("srv")),
            ["plant.example", "srv", "localhost", "127.0.0.1", "::1"]
        );
        assert_eq!(names("[::1]:8443", Some("not a name!")), ["::1", "localhost", "127.0.0.1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_certificate_is_renewed_by_timer() {
        let state = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(state.path()).unwrap());
        let names = names("localhost:1", None);
        let first = authority.server_certificate(&names).unwrap();
        let (sender, mut receiver) = watch::channel(first.tls.clone());
        let stop = CancellationToken::new();
        // "Due since 1970": the first look, hours of paused time away, renews it.
        let task = tokio::spawn(keep_fresh(authority, names, 0, sender, stop.clone()));
        receiver.changed().await.unwrap();
        assert!(!Arc::ptr_eq(&receiver.borrow(), &first.tls));
        stop.cancel();
        task.await.unwrap();
    }
}
