//! TLS set-up of both sides: one crypto provider, keys and certificate requests, the pinned CA,
//! and the clock TLS judges certificates by.
//!
//! - TLS 1.3 only. An agent trusts one CA, its server's, and nothing the machine trusts; for a while two,
//!   where the server changes it.
//! - The server lets every client certificate through the handshake (possession of its key is
//!   proven there) and judges afterwards, in words: a TLS alert tells nobody what to do.
//! - A gateway without a battery wakes in 1970. Certificates are judged by the later of the
//!   system's clock and a floor, and [`ALWAYS_VALID_FROM`] lies before any floor. One that wakes ten
//!   years ahead judges what has expired by then by the floor alone.

mod application;
mod errand;
mod identity;
mod kept;
mod succession;
mod verifiers;

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use application::Application;
pub use errand::Errand;
pub use identity::{FreshKey, Identity, IdentityError, key_words, pem_block};
pub use succession::{SuccessionError, prove_succession, signed_under};
pub use verifiers::PinMismatch;

/// No clock that shows less can be right: this code was not written yet (2026-11-01 UTC).
/// The floor of an agent that has never known the time.
pub const EARLIEST_TIME: i64 = 1_793_491_200;

/// Servers date their CA and certificate from here (2025-01-01 UTC), so that no gateway, however
/// far behind its clock, finds them "not valid yet". A late beginning would protect nothing: we
/// hand out no certificate before we make it.
pub const ALWAYS_VALID_FROM: i64 = 1_735_689_600;

/// HTTP/2 and HTTP/1.1 as ALPN names them.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Makes ring the process's crypto provider. Call it first thing in `main`; calling it again does
/// nothing. With two providers linked rustls panics at the first handshake otherwise.
pub fn install_provider() {
    // An error means that a provider is installed already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// SHA-256: how certificates are named in the store and CAs in join strings.
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
    out
}

/// The name to verify of `host:port`, where host is a name, an IPv4 or a bracketed IPv6 address.
pub fn server_name(address: &str) -> Result<ServerName<'static>, String> {
    let wrong = || format!("`{address}` is not host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).map_err(|_| wrong())
}

/// The time as a gateway knows it.
pub trait GatewayClock: TimeProvider {
    /// The earliest that it can be, while nobody has vouched for the time.
    fn earliest(&self) -> Option<UnixTime>;
}

/// TLS for a joined agent: trusts its server's CA only and shows its certificate. `floor` is the
/// earliest believable wall time, in seconds since 1970.
pub fn client_config(identity: &Identity, floor: i64) -> Result<Arc<ClientConfig>, rustls::Error> {
    gateway_config(identity, Arc::new(FlooredClock { floor }))
}

/// The same for long, by a clock that may lie.
pub fn gateway_config(
    identity: &Identity,
    clock: Arc<dyn GatewayClock>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca.clone())?;
    if let Some(former) = &identity.former_ca {
        roots.add(former.clone())?;
    }
    let verifier = Arc::new(verifiers::UnsureOfTime::new(roots, provider(), clock.clone())?);
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // rustls' word for any verifier of one's own
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

/// TLS for the first contact: the server's chain must end in the CA whose SHA-256 the join string
/// holds; a [`PinMismatch`] is found inside the error otherwise. HTTP/1.1 only.
pub fn pinned_client_config(ca_pin: [u8; 32], floor: i64) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = provider();
    let verifier = Arc::new(verifiers::PinnedServer::new(ca_pin, provider.clone()));
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(FlooredClock { floor }))
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // rustls' word for any verifier of one's own
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN[1].to_vec()];
    Ok(Arc::new(config))
}

/// TLS for the server. `chain` holds its certificate and the CA that signed it: a joining gateway
/// knows the CA's hash only and must be shown the rest.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = provider();
    let verifier = Arc::new(verifiers::AnyClient::new(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The later of the system's clock and the earliest believable time.
#[derive(Debug)]
struct FlooredClock {
    floor: i64,
}

impl TimeProvider for FlooredClock {
    fn current_time(&self) -> Option<UnixTime> {
        let floor = UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.floor.max(0) as u64));
        // UnixTime::now() panics on a clock before 1970; such a clock has no say here.
        let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Some(system.map_or(floor, |since| UnixTime::since_unix_epoch(since).max(floor)))
    }
}

impl GatewayClock for FlooredClock {
    fn earliest(&self) -> Option<UnixTime> {
        None
    }
}

#[cfg(test)]
mod tests;
