//! One POST to one address, over TCP or TLS. No redirects: who configured the address meant that one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::alarms::Webhook;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Name look-up, connection, TLS, request and the head of the answer together.
const WITHIN: Duration = Duration::from_secs(15);

/// Reaches one address.
pub struct Post {
    webhook: Webhook,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// The head of an answer.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Seconds, if the receiver said so.
    pub retry_after: Option<u64>,
}

impl Post {
    /// Reads the certificates it needs.
    ///
    /// # Errors
    /// In plain words: a file that cannot be read, a name that cannot be in a certificate.
    pub fn new(webhook: Webhook) -> Result<Self, String> {
        let tls = match webhook.url.tls {
            false => None,
            true => {
                let name = ServerName::try_from(webhook.url.host.clone())
                    .map_err(|_| format!("{} is no name for a certificate", webhook.url.host))?;
                let config = client(&webhook)?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
        };
        Ok(Self { webhook, tls })
    }

    /// Whose it is.
    pub fn webhook(&self) -> &Webhook {
        &self.webhook
    }

    /// Sends `body` with the three headers of a signed webhook.
    ///
    /// # Errors
    /// When no answer came: in plain words, without the path of the address.
    pub async fn send(&self, id: &str, seconds: i64, body: Bytes) -> Result<Answer, String> {
        let signature = super::sign(self.webhook.secret.reveal(), id, seconds, &body);
        let header = |text: &str| HeaderValue::from_str(text).map_err(|_| "a header is not text".to_owned());
        let request = Request::post(&self.webhook.url.path)
            .header(HOST, header(&self.webhook.url.authority())?)
            .header(USER_AGENT, concat!("forebay-server/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", header(id)?)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", header(&signature)?)
            .body(Full::new(body))
            .map_err(|_| "the path of the address is not valid".to_owned())?;
        let within = |_| format!("no answer from {} within {} s", self.webhook.url, WITHIN.as_secs());
        timeout(WITHIN, self.exchange(request)).await.map_err(within)?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let url = &self.webhook.url;
        let failed = |error: &dyn std::fmt::Display| format!("cannot reach {url}: {error}");
        let stream =
            TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|error| failed(&error))?;
        match &self.tls {
            None => answer(stream, request).await,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await.map_err(|error| failed(&error))?;
                answer(stream, request).await
            }
        }
        .map_err(|error| failed(&error))
    }
}

async fn answer<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let answered = sender.send_request(request);
    tokio::pin!(answered, connection);
    // The connection moves the bytes while the answer is waited for; both end here.
    let response = tokio::select! {
        response = &mut answered => response,
        // A receiver that closes behind its answer: that has come all the same.
        ended = &mut connection => match ended {
            Ok(()) => answered.await,
            Err(error) => Err(error),
        },
    };
    let response = response.map_err(|error| error.to_string())?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Answer { status: response.status().as_u16(), retry_after })
}

fn client(webhook: &Webhook) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &webhook.ca {
        Some(path) => {
            let bad = |why: String| format!("ca = {}: {why}", path.display());
            let found = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
            for certificate in found {
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad("holds no certificate".into()));
            }
        }
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "the system has no CA certificates: install ca-certificates, or name a `ca`".into()
                );
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
