//! TLS of the page: by a certificate of our own CA, or by one that was given to us as files. Browsers are
//! not asked for a certificate of theirs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::server::Certificate;
use forebay_protocols::sync::tls;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Authority, AuthorityError, now_seconds};

/// How often to look whether it must be another one.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Where the page's certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Our own CA, under these names.
    Own(Arc<Authority>, Vec<String>),
    /// Files, which somebody may replace at any time.
    Files(Certificate),
}

/// TLS of the page, and what tells that it must be made anew.
#[derive(Debug)]
pub struct PageTls {
    source: Source,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// From when on, and what was trusted when it was made.
    RenewFrom(i64, (u32, [u8; 32])),
    Read {
        certificate: Vec<u8>,
        key: Vec<u8>,
    },
}

impl PageTls {
    /// Reads or makes it.
    ///
    /// # Errors
    /// When files cannot be read or hold no certificate and its key.
    pub fn open(source: Source) -> Result<(Self, Arc<ServerConfig>), AuthorityError> {
        let (config, state) = make(&source)?;
        Ok((Self { source, state }, config))
    }

    /// Replaces it before it runs out, or when its files are others, until `stop`.
    pub async fn keep_fresh(mut self, listener: watch::Sender<Arc<ServerConfig>>, stop: CancellationToken) {
        let mut told = String::new();
        while timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
            if let (State::RenewFrom(due, trusted), Source::Own(authority, _)) = (&self.state, &self.source)
                && now_seconds() < *due
                && authority.trusted() == *trusted
            {
                continue;
            }
            match make(&self.source) {
                Ok((_, state)) if state == self.state => {}
                Ok((config, state)) => {
                    self.state = state;
                    told.clear();
                    listener.send_replace(config);
                    info!("The page has a newer certificate.");
                }
                // A file that is being replaced is whole the next time.
                Err(failed) => {
                    let words = failed.to_string();
                    if words != told {
                        error!(error = %words, "The page's certificate cannot be renewed; the one it has stays.");
                    }
                    told = words;
                }
            }
        }
    }
}

fn make(source: &Source) -> Result<(Arc<ServerConfig>, State), AuthorityError> {
    match source {
        Source::Own(authority, names) => {
            let trusted = authority.trusted();
            let issued = authority.issue(names)?;
            let config = config(issued.chain, issued.key).map_err(AuthorityError::Making)?;
            Ok((config, State::RenewFrom(issued.renew_from, trusted)))
        }
        Source::Files(Certificate { certificate, key }) => {
            let state = State::Read { certificate: read(certificate)?, key: read(key)? };
            let State::Read { certificate: chain, key: secret } = &state else { return make(source) };
            let damaged = |path: &Path, why: String| AuthorityError::Page { path: path.to_owned(), why };
            let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
                .collect::<Result<_, _>>()
                .map_err(|error| damaged(certificate, error.to_string()))?;
            let secret =
                PrivateKeyDer::from_pem_slice(secret).map_err(|error| damaged(key, error.to_string()))?;
            let config = config(chain, secret).map_err(|why| damaged(certificate, why))?;
            Ok((config, state))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    std::fs::read(path).map_err(|source| AuthorityError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let built = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = built.map_err(|error| error.to_string())?;
    config.alpn_protocols = tls::ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn another_ca_means_another_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(folder.path()).unwrap());
        let own = Source::Own(authority.clone(), vec!["localhost".into()]);
        let (page, first) = PageTls::open(own).unwrap();
        let (sender, mut receiver) = watch::channel(first);
        let stop = CancellationToken::new();
        let task = tokio::spawn(page.keep_fresh(sender, stop.clone()));
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert!(!receiver.has_changed().unwrap(), "nothing has happened");
        authority.rotate(None, 1_000).unwrap();
        timeout(LOOK_EVERY * 3, receiver.changed()).await.unwrap().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_were_replaced_are_taken_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let files =
            Certificate { certificate: folder.path().join("web.crt"), key: folder.path().join("web.key") };
        let write = || {
            let issued = authority.issue(&["localhost".to_owned()]).unwrap();
            let chain: String = issued.chain.iter().map(|der| tls::pem_block("CERTIFICATE", der)).collect();
            std::fs::write(&files.certificate, chain).unwrap();
            std::fs::write(&files.key, tls::pem_block("PRIVATE KEY", issued.key.secret_der())).unwrap();
        };
        let refused = PageTls::open(Source::Files(files.clone())).unwrap_err().to_string();
        assert!(refused.contains("web.crt"), "{refused}");
        write();
        let (page, first) = PageTls::open(Source::Files(files.clone())).unwrap();
        let (sender, mut receiver) = watch::channel(first.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(page.keep_fresh(sender, stop.clone()));
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert!(!receiver.has_changed().unwrap(), "the same files are the same certificate");
        let key = std::fs::read(&files.key).unwrap();
        std::fs::write(&files.key, "half a key").unwrap();
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert!(!receiver.has_changed().unwrap(), "the one it has stays");
        std::fs::write(&files.key, key).unwrap();
        write();
        receiver.changed().await.unwrap();
        assert!(!Arc::ptr_eq(&receiver.borrow(), &first));
        stop.cancel();
        task.await.unwrap();
    }
}
