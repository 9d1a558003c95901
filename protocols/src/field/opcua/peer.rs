//! Whom a link talks to: choosing one of the server's endpoints, and opening a channel to it.

use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::{OpcUaMode, OpcUaPolicy, OpcUaSecurity};
use opcua::core::ResponseMessage;
use opcua::crypto::{CertificateStore, SecurityPolicy, X509};
use opcua::sync::RwLock;
use opcua::types::{
    ByteString, EndpointDescription, Error, GetEndpointsRequest, MessageSecurityMode, UAString,
};

use tokio::time::timeout;

use super::channel::{Channel, dial, unexpected};
use super::faults::{Step, fault};
use super::token::{Token, User};
use super::trust::{Application, Identity, Pin, Verdict, leaf};
use crate::field::source::LinkFault;

/// On the same floor a connection takes milliseconds.
const KNOCK: Duration = Duration::from_secs(1);
const BINARY_OVER_TCP: &str = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary";

/// Everything about a link's server that does not change.
pub(super) struct Peer {
    /// The endpoint as configured. Also how faults name the peer.
    pub url: String,
    pub host: String,
    pub port: u16,
    pub security: OpcUaSecurity,
    /// May what rests on SHA-1 protect anything?
    pub allow_deprecated: bool,
    pub user: User,
    pub application: Application,
    /// Shown in the server's list of sessions.
    pub session_name: String,
    /// The longest wait for one answer.
    pub limit: Duration,
    pub pin: Pin,
    /// Is a certificate seen for the first time to be trusted from then on?
    pub remembers: bool,
    /// Only with a security policy.
    pub identity: Option<Identity>,
    pub store: Arc<RwLock<CertificateStore>>,
}

/// The endpoint chosen, and what is to be known to enter it.
pub(super) struct Door {
    pub endpoint: EndpointDescription,
    /// How the server is to be told who we are.
    pub token: Token,
    /// The server's own certificate, one DER; empty if it shows none.
    pub certificate: Vec<u8>,
    pub verdict: Verdict,
}

impl Peer {
    /// Asks the server for its endpoints and chooses one. Refuses what the pin refuses.
    pub(super) async fn find_door(&self) -> Result<Door, LinkFault> {
        let endpoints = self.endpoints().await?;
        let refused = |why: String| LinkFault::Refused { peer: self.url.clone(), why };
        let (policy, mode) = self.wanted();
        let fits = |e: &&EndpointDescription| {
            SecurityPolicy::from_uri(e.security_policy_uri.as_ref()) == policy && e.security_mode == mode
        };
        let Some(endpoint) = endpoints.iter().find(fits) else {
            let wanted = match mode {
                MessageSecurityMode::None => "without security".to_owned(),
                mode => format!(
                    "with `security_policy = \"{}\"` and `security_mode = \"{mode:?}\"`",
                    name(policy.to_uri())
                ),
            };
            let offers = offers(&endpoints);
            return Err(refused(format!("it offers no endpoint {wanted}; it offers {offers}")));
        };
        let mut endpoint = endpoint.clone();
        // Servers advertise names that a gateway cannot resolve. The address that was configured
        // is the one that works.
        endpoint.endpoint_url = UAString::from(self.url.as_str());
        let offered = endpoint.user_identity_tokens.as_deref().unwrap_or_default();
        let token =
            Token::choose(&self.user, offered, (policy, mode), self.allow_deprecated).map_err(refused)?;

        let certificate = leaf(endpoint.server_certificate.as_ref()).to_vec();
        endpoint.server_certificate = ByteString::from(certificate.clone());
        let mut verdict = Verdict::Known;
        // What the server's certificate protects: the channel, and a secret of ours in it.
        let channel = Some(policy).filter(|policy| *policy != SecurityPolicy::None);
        let uses: Vec<SecurityPolicy> = channel.into_iter().chain(token.rests_on()).collect();
        if !uses.is_empty() {
            if certificate.is_empty() {
                return Err(refused("it shows no certificate, and encryption needs one".to_owned()));
            }
            let bits = X509::from_der(&certificate).ok().and_then(|shown| shown.key_length().ok());
            let too_much =
                |policy: &&SecurityPolicy| !bits.is_some_and(|bits| policy.is_valid_keylength(bits));
            if let Some(policy) = uses.iter().find(too_much) {
                return Err(refused(format!(
                    "its certificate cannot be used with {}: no RSA key, or one of the wrong length",
                    name(policy.to_uri())
                )));
            }
            verdict = self.pin.judge(&certificate).map_err(refused)?;
        }
        Ok(Door { endpoint, token, certificate, verdict })
    }

    /// Opens the secure channel behind `door`.
    pub(super) async fn open(&self, door: &Door) -> Result<Channel, LinkFault> {
        let socket = self.dial().await?;
        let opened = Channel::open(socket, door.endpoint.clone(), self.store.clone()).await;
        opened.map_err(|error| self.fault(Step::Secure, &error))
    }

    /// Does anybody take connections there? It gets one that is closed at once, without a word.
    pub(super) async fn knock(&self) -> bool {
        matches!(timeout(KNOCK, dial(&self.host, self.port)).await, Ok(Ok(_)))
    }

    /// The fault of an exchange that ended in `error` while at `step`.
    pub(super) fn fault(&self, step: Step, error: &Error) -> LinkFault {
        let ours = self.identity.as_ref().map(|identity| identity.certificate.thumbprint().as_hex_string());
        fault(&self.url, step, error, ours.as_deref())
    }

    /// What the server offers to everybody who asks.
    pub(super) async fn endpoints(&self) -> Result<Vec<EndpointDescription>, LinkFault> {
        let plain = EndpointDescription::from((
            self.url.as_str(),
            SecurityPolicy::None.to_uri(),
            MessageSecurityMode::None,
        ));
        let socket = self.dial().await?;
        let discover = |error: &Error| fault(&self.url, Step::Discover, error, None);
        let mut channel =
            Channel::open(socket, plain, self.store.clone()).await.map_err(|error| discover(&error))?;
        let answer = channel
            .ask(
                |request_header| GetEndpointsRequest {
                    request_header,
                    endpoint_url: UAString::from(self.url.as_str()),
                    locale_ids: None,
                    profile_uris: None,
                },
                self.limit,
            )
            .await;
        channel.close().await;
        match answer {
            Ok(ResponseMessage::GetEndpoints(answer)) => Ok(answer
                .endpoints
                .unwrap_or_default()
                .into_iter()
                .filter(|e| {
                    let profile = e.transport_profile_uri.as_ref();
                    profile.is_empty() || profile == BINARY_OVER_TCP
                })
                .collect()),
            Ok(other) => Err(discover(&unexpected(&other))),
            Err(error) => Err(discover(&error)),
        }
    }

    async fn dial(&self) -> Result<tokio::net::TcpStream, LinkFault> {
        dial(&self.host, self.port)
            .await
            .map_err(|why| LinkFault::Unreachable { peer: self.url.clone(), why: why.to_string() })
    }

    /// Security policy and mode of the channel.
    pub(super) fn wanted(&self) -> (SecurityPolicy, MessageSecurityMode) {
        let OpcUaSecurity::Secured { policy, mode } = self.security else {
            return (SecurityPolicy::None, MessageSecurityMode::None);
        };
        let policy = match policy {
            OpcUaPolicy::Basic256Sha256 => SecurityPolicy::Basic256Sha256,
            OpcUaPolicy::Aes128Sha256RsaOaep => SecurityPolicy::Aes128Sha256RsaOaep,
            OpcUaPolicy::Aes256Sha256RsaPss => SecurityPolicy::Aes256Sha256RsaPss,
            OpcUaPolicy::Basic256 => SecurityPolicy::Basic256,
            OpcUaPolicy::Basic128Rsa15 => SecurityPolicy::Basic128Rsa15,
        };
        let mode = match mode {
            OpcUaMode::Sign => MessageSecurityMode::Sign,
            OpcUaMode::SignAndEncrypt => MessageSecurityMode::SignAndEncrypt,
        };
        (policy, mode)
    }
}

fn offers(endpoints: &[EndpointDescription]) -> String {
    let mut offers: Vec<String> = endpoints
        .iter()
        .map(|e| {
            let uri = e.security_policy_uri.as_ref();
            format!("{} ({:?})", name(uri), e.security_mode)
        })
        .collect();
    offers.sort();
    offers.dedup();
    if offers.is_empty() { "none at all".to_owned() } else { offers.join(", ") }
}

/// The name of a policy, as the configuration writes it: the end of its URI.
pub(super) fn name(uri: &str) -> &str {
    uri.rsplit('#').next().unwrap_or(uri)
}
