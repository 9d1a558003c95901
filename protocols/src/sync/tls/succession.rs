//! One CA takes the place of another. Whoever knows the former one believes the new one because the
//! former signed its key: the server's word alone, whose key lies on a machine in a network, would
//! not do.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::provider;

/// The new CA is not the successor of the one we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server shows a new CA that the one we know did not sign: {0}")]
pub struct SuccessionError(String);

/// Proves that `former` signed the key of `ca`: `own`, a gateway's certificate that `ca` signed, is good
/// under `former` by way of `cross`, and under `ca` alone. All of them DER.
pub fn prove_succession(
    former: &CertificateDer<'_>,
    cross: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    own: &CertificateDer<'_>,
) -> Result<(), SuccessionError> {
    let failed = |error: &dyn std::fmt::Display| SuccessionError(error.to_string());
    // Signatures are what counts here; dates are judged by a clock that may lie, and in every handshake.
    let (_, parsed) = x509_parser::parse_x509_certificate(own).map_err(|error| failed(&error))?;
    let from = parsed.validity().not_before.timestamp();
    let under = |root: &CertificateDer<'_>, between: &[CertificateDer<'_>]| {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned()).map_err(|error| failed(&error))?;
        verify(roots, own, between, from).map_err(|error| failed(&error))
    };
    under(former, std::slice::from_ref(cross))?;
    under(ca, &[])
}

/// Is `own` a gateway's certificate that one of `roots` signed? Judged at `at`, seconds since 1970.
pub fn signed_under(roots: RootCertStore, own: &CertificateDer<'_>, at: i64) -> Result<(), String> {
    verify(roots, own, &[], at)
}

fn verify(
    roots: RootCertStore,
    own: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    at: i64,
) -> Result<(), String> {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at).unwrap_or(0)));
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| error.to_string())?
        .verify_client_cert(own, between, at)
        .map(drop)
        .map_err(|error| error.to_string())
}
