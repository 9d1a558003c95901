//! TLS towards a broker: whom we trust and what we show. The files are read at every connect, so
//! that a renewed certificate counts from the next connection on, without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_config::field::Mqtt;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What `[link.NAME.mqtt]` says about TLS.
#[derive(Clone)]
pub(super) struct Trust {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    /// The clock that certificates are judged by.
    clock: Arc<dyn TimeProvider>,
}

impl Trust {
    /// `None` for a broker without TLS.
    pub(super) fn new(mqtt: &Mqtt, clock: Arc<dyn TimeProvider>) -> Option<Self> {
        mqtt.broker.tls.then(|| Self { ca: mqtt.ca.clone(), identity: mqtt.identity.clone(), clock })
    }

    /// Reads the files. The error names the setting, the file and what is wrong with it.
    pub(super) async fn load(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_details(provider, self.clock.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?
            .with_root_certificates(self.roots().await?);
        let Some((certificate, key)) = &self.identity else {
            return Ok(Arc::new(builder.with_no_client_auth()));
        };
        let chain = certificates("certificate", certificate).await?;
        let pem = read("key", key).await?;
        let secret = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| format!("key: {} holds no private key in PEM form", key.display()))?;
        let config = builder.with_client_auth_cert(chain, secret).map_err(|error| {
            format!("key: {} does not fit {}: {error}", key.display(), certificate.display())
        })?;
        Ok(Arc::new(config))
    }

    async fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let (found, place) = match &self.ca {
            Some(path) => (certificates("ca", path).await?, path.display().to_string()),
            None => {
                let native = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
                let found = native.map_err(|error| format!("the system's authorities: {error}"))?;
                (found.certs, "the system's list".into())
            }
        };
        let (taken, _) = roots.add_parsable_certificates(found);
        if taken == 0 {
            return Err(format!("ca: {place} holds no authority that can be used; set `ca` to a PEM file"));
        }
        Ok(roots)
    }
}

async fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(setting, path).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{setting}: {} holds no certificate in PEM form", path.display())),
    }
}

async fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| format!("{setting}: cannot read {}: {error}", path.display()))
}
