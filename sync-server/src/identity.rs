//! The server's own CA: made on first start, kept in `state_dir/ca`, or taken from there if the
//! operator put one in. It signs the server's certificate and those of gateways that join.
//!
//! - `ca.pem` (0600) holds key and certificate (see `ca.rs`); several instances share a CA by sharing
//!   this file, and take over a new one within seconds. `ca.crt` is the public half.
//! - The server's own key and certificate are made at every start and never stored; the timer of
//!   [`keep_fresh`] replaces them when a third of their life is left, and when the CA has changed.
//! - TLS sessions go on after a restart, and at another instance: `tickets`. A new CA ends them.
//! - A CA takes the place of another with both trusted for a while: the server shows a chain that leads
//!   to either, and agents hear of the new generation with their next answer and renew.
//! - Of a gateway's request only the key is taken. Name and dates are ours to say.

mod ca;
pub mod page;
mod succession;
mod tickets;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use forebay_config::units::Name;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::private_files;
use forebay_protocols::sync::tls;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::ca::{Ca, DAY, common_name, date};
pub use self::succession::{Former, Handover};
use crate::store::{Adopted, Micros};
use tickets::Tickets;

const AGENT_LIFE: i64 = 365 * DAY;
const SERVER_LIFE: i64 = 90 * DAY;

/// The CA, ready to sign. Knows its file and takes over what is new in it.
pub struct Authority {
    path: PathBuf,
    loaded: RwLock<Loaded>,
}

struct Loaded {
    ca: Arc<Ca>,
    /// The text it was read from.
    text: String,
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
    /// While a CA takes the place of another: the new one's key signed by the former, and the former.
    pub former: Option<(Bytes, Bytes)>,
    /// Of what agents should trust.
    pub generation: u32,
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
    /// Of the CA that signed it.
    tickets: Arc<Tickets>,
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
                let new = Ca::generate().map_err(AuthorityError::Making)?.to_text();
                if private_files::create_once(&path, new.as_bytes(), 0o600).map_err(write)? {
                    info!(path = %path.display(), "Made a new CA.");
                }
                std::fs::read_to_string(&path).map_err(write)?
            }
            Err(source) => return Err(AuthorityError::File { doing: "read", path, source }),
        };
        let damaged = |why| AuthorityError::Damaged { path: path.clone(), why };
        let ca = Arc::new(Ca::parse(&text).map_err(damaged)?);
        write_public(&path, &ca)?;
        Ok(Self { path, loaded: RwLock::new(Loaded { ca, text }) })
    }

    fn ca(&self) -> Arc<Ca> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).ca.clone()
    }

    /// Looks whether the file has changed, and takes over what is new. A file that cannot be used
    /// changes nothing. True if there is another CA now.
    pub fn refresh(&self) -> Result<bool, AuthorityError> {
        let read = std::fs::read_to_string(&self.path);
        let text =
            read.map_err(|source| AuthorityError::File { doing: "read", path: self.path.clone(), source })?;
        if self.loaded.read().unwrap_or_else(PoisonError::into_inner).text == text {
            return Ok(false);
        }
        let damaged = |why| AuthorityError::Damaged { path: self.path.clone(), why };
        let ca = Arc::new(Ca::parse(&text).map_err(damaged)?);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Loaded { ca, text };
        Ok(true)
    }

    /// SHA-256 of the CA certificate: what join strings hold.
    pub fn pin(&self) -> [u8; 32] {
        tls::fingerprint(&self.ca().certificate)
    }

    /// Counts the changes of what agents should trust.
    pub fn generation(&self) -> u32 {
        self.ca().generation_at(now_seconds())
    }

    /// What agents should trust: another value, another certificate to show them. An operator may put a
    /// CA in place whose file tells no generation.
    fn trusted(&self) -> (u32, [u8; 32]) {
        let ca = self.ca();
        (ca.generation_at(now_seconds()), tls::fingerprint(&ca.certificate))
    }

    /// A key and certificate for the server under these names and addresses.
    pub fn server_certificate(&self, names: &[String]) -> Result<ServerCertificate, AuthorityError> {
        let Issued { chain, key, renew_from, tickets } = self.issue(names)?;
        let tls =
            tls::server_config(chain, key).map_err(|error| AuthorityError::Making(error.to_string()))?;
        let mut tls = Arc::unwrap_or_clone(tls);
        // Agents remember their sessions, so that the server need not. A ticket is used once, and each
        // connection brings the next one.
        tls.ticketer = tickets;
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
        let ca = self.ca();
        let own = params.signed_by(&key, &ca.issuer).map_err(making)?;
        let mut chain = vec![own.der().clone()];
        chain.extend(ca.chain(now));
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let tickets = ca.tickets.clone();
        Ok(Issued { chain, key, renew_from: until - SERVER_LIFE / 3, tickets })
    }

    /// SHA-256 of the public key in a gateway's request, which is signed with that key.
    pub fn key_of(request: &[u8]) -> Result<[u8; 32], SigningError> {
        Ok(tls::fingerprint(parsed(request)?.public_key.der_bytes()))
    }

    /// Signs a gateway's request for one year. That the gateway holds the key is checked (the
    /// request is signed with it); whatever else the request asks for is not taken.
    pub fn sign_agent(&self, request: &[u8], site: &str, gateway: &str) -> Result<Signed, SigningError> {
        let request = parsed(request)?;
        let (ca, now) = (self.ca(), now_seconds());
        let until = now.saturating_add(AGENT_LIFE);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("{site}/{gateway}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        date(&mut params, now, until).map_err(SigningError::Ours)?;
        let own = params
            .signed_by(&request.public_key, &ca.issuer)
            .map_err(|error| SigningError::Ours(error.to_string()))?;
        let bytes = |der: &CertificateDer<'_>| Bytes::copy_from_slice(der);
        Ok(Signed {
            fingerprint: tls::fingerprint(own.der()),
            chain: vec![bytes(own.der()), bytes(&ca.certificate)],
            valid_until: until.saturating_mul(1_000_000),
            former: ca.former_at(now).map(|former| (bytes(&former.cross), bytes(&former.certificate))),
            generation: ca.generation_at(now),
        })
    }

    /// Whose certificate this is, if this CA (or the former, while it is trusted) signed it. Says
    /// nothing of its dates.
    pub fn signed(&self, shown: &CertificateDer<'_>) -> Option<Adopted> {
        let (_, parsed) = x509_parser::parse_x509_certificate(shown).ok()?;
        let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
        let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
        let (site, gateway) = name.split_once('/')?;
        let [site, gateway] = [Name::new(site).ok()?, Name::new(gateway).ok()?];
        let ca = self.ca();
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate.clone()).ok()?;
        if let Some(former) = ca.former_at(now_seconds()) {
            roots.add(former.certificate.clone()).ok()?;
        }
        tls::signed_under(roots, shown, from.timestamp()).ok()?;
        Some(Adopted {
            site: site.to_string(),
            gateway: gateway.to_string(),
            certificate: tls::fingerprint(shown),
            valid_until: until.timestamp().saturating_mul(1_000_000),
        })
    }
}

fn parsed(request: &[u8]) -> Result<CertificateSigningRequestParams, SigningError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(|error| SigningError::Request(error.to_string()))
}

/// Writes `ca.crt` beside `ca.pem`, if something else stands there.
fn write_public(path: &Path, ca: &Ca) -> Result<(), AuthorityError> {
    let path = path.with_extension("crt");
    let public = tls::pem_block("CERTIFICATE", &ca.certificate);
    if std::fs::read(&path).ok().as_deref() == Some(public.as_bytes()) {
        return Ok(());
    }
    private_files::replace(&path, public.as_bytes(), 0o644).map_err(|source| AuthorityError::File {
        doing: "write",
        path,
        source,
    })
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

/// Replaces the listener's certificate before it runs out and when the CA has changed, until `stop`.
/// Looks by the monotonic clock, because the wall clock may jump.
pub async fn keep_fresh(
    authority: Arc<Authority>,
    names: Vec<String>,
    mut renew_from: i64,
    listener: watch::Sender<Arc<ServerConfig>>,
    stop: CancellationToken,
) {
    const LOOK_EVERY: Duration = Duration::from_secs(3);
    let mut trusted = authority.trusted();
    let mut told = false;
    while tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
        match authority.refresh() {
            Ok(true) => info!(generation = authority.generation(), "Took over another CA."),
            Ok(false) => told = false,
            Err(error) if !std::mem::replace(&mut told, true) => {
                warn!(%error, "The CA's file cannot be used now; going on with what was read from it.");
            }
            Err(_) => {}
        }
        if now_seconds() < renew_from && authority.trusted() == trusted {
            continue;
        }
        let now_trusted = authority.trusted();
        match authority.server_certificate(&names) {
            Ok(fresh) => {
                (renew_from, trusted) = (fresh.renew_from, now_trusted);
                listener.send_replace(fresh.tls);
                info!("Renewed the server's certificate.");
            }
            Err(error) => error!(%error, "Could not renew the server's certificate; will try again."),
        }
    }
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
        let other = Ca::generate().unwrap().to_text();
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
