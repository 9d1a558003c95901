//! The database's URL: `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
//! TLS that is asked for is verified, always: `sslmode=require` means what libpq calls `verify-full`.
//! Without it the connection is plain, which is right on one machine or one trusted network.

use forebay_config::units::Secret;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio_postgres::{Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::StoreError;

/// Where a system keeps the certificate authorities it trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How to connect, and with what TLS. Errors never hold the URL, which may hold a password.
pub fn parse(url: &Secret) -> Result<(Config, Option<MakeRustlsConnect>), StoreError> {
    let (address, parameters) = url.reveal().split_once('?').unwrap_or((url.reveal(), ""));
    let mut roots = SYSTEM_ROOTS.to_string();
    let mut kept = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslrootcert", "system")) => {}
            Some(("sslrootcert", file)) => roots = file.replace("%2F", "/").replace("%2f", "/"),
            Some(("sslmode", "verify-ca" | "verify-full")) => kept.push("sslmode=require"),
            _ => kept.push(parameter),
        }
    }
    let url = if kept.is_empty() { address.to_string() } else { format!("{address}?{}", kept.join("&")) };
    let config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        StoreError::Refused(format!(
            "store.url is not a database URL ({error}{source}); \
             write postgres://user:password@host:port/database"
        ))
    })?;
    let tls = match config.get_ssl_mode() {
        SslMode::Require => Some(verified(&roots)?),
        _ => None,
    };
    Ok((config, tls))
}

fn verified(roots: &str) -> Result<MakeRustlsConnect, StoreError> {
    let refused = |words: String| {
        StoreError::Refused(format!("{words}; name the database's CA in store.url as sslrootcert=FILE"))
    };
    let mut trusted = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(roots)
        .map_err(|error| refused(format!("cannot read certificates from {roots}: {error}")))?;
    trusted.add_parsable_certificates(certificates.flatten());
    if trusted.is_empty() {
        return Err(refused(format!("{roots} holds no certificate")));
    }
    let provider = rustls::crypto::ring::default_provider().into();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(format!("cannot set up TLS: {error}")))?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_url_do_not_show_its_password() {
        for url in ["postgres://u:hunter2@h/d?nonsense=1", "hunter2", "postgres://u:hunter2@h:notaport/d"] {
            let error = parse(&Secret::new(url)).err().unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn tls_that_is_asked_for_needs_a_ca_and_is_never_unverified() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("ca.pem");
        std::fs::write(&empty, "").unwrap();
        for mode in ["require", "verify-ca", "verify-full"] {
            let url = format!("postgres://u@h/d?sslmode={mode}&sslrootcert={}", empty.display());
            let error = parse(&Secret::new(url)).err().unwrap().to_string();
            assert!(error.contains("holds no certificate"), "{error}");
        }
        assert!(parse(&Secret::new("postgres://u@h/d")).unwrap().1.is_none());
    }
}
