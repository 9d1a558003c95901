//! Whom a link talks to, and as whom: choosing one of the server's endpoints, and the token that
//! says who we are.

use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::OpcUaSecurity;
use forebay_config::units::Secret;
use opcua::core::ResponseMessage;
use opcua::crypto::{CertificateStore, SecurityPolicy, X509, legacy_encrypt_secret};
use opcua::sync::RwLock;
use opcua::types::{
    AnonymousIdentityToken, ByteString, EndpointDescription, Error, ExtensionObject, GetEndpointsRequest,
    MessageSecurityMode, StatusCode, UAString, UserNameIdentityToken, UserTokenPolicy, UserTokenType,
};

use super::channel::{Channel, dial, unexpected};
use super::faults::{Step, fault};
use super::trust::{Application, Identity, Pin, Verdict, leaf};
use crate::field::source::LinkFault;

const BINARY_OVER_TCP: &str = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary";

/// Everything about a link's server that does not change.
pub(super) struct Peer {
    /// The endpoint as configured. Also how faults name the peer.
    pub url: String,
    pub host: String,
    pub port: u16,
    pub security: OpcUaSecurity,
    pub user: Option<(String, Secret)>,
    pub application: Application,
    /// Shown in the server's list of sessions.
    pub session_name: String,
    /// The longest wait for one answer.
    pub limit: Duration,
    pub pin: Pin,
    /// Only with a security policy.
    pub identity: Option<Identity>,
    pub store: Arc<RwLock<CertificateStore>>,
}

/// The endpoint chosen, and what is to be known to enter it.
pub(super) struct Door {
    pub endpoint: EndpointDescription,
    token: UserTokenPolicy,
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
            let why = format!(
                "it offers no endpoint with `security_policy = \"{policy}\"`; it offers {}",
                offers(&endpoints)
            );
            return Err(refused(why));
        };
        let mut endpoint = endpoint.clone();
        // Servers advertise names that a gateway cannot resolve. The address that was configured
        // is the one that works.
        endpoint.endpoint_url = UAString::from(self.url.as_str());
        let token = self.token_policy(&endpoint).map_err(refused)?;

        let certificate = leaf(endpoint.server_certificate.as_ref()).to_vec();
        endpoint.server_certificate = ByteString::from(certificate.clone());
        let mut verdict = Verdict::Known;
        if let Some(secret_policy) = self.uses_certificate(&token) {
            if certificate.is_empty() {
                return Err(refused("it shows no certificate, and encryption needs one".to_owned()));
            }
            let key_length = X509::from_der(&certificate).and_then(|shown| shown.key_length());
            if !key_length.is_ok_and(|bits| secret_policy.is_valid_keylength(bits)) {
                return Err(refused(format!(
                    "its certificate cannot be used with {secret_policy}: no RSA key, or one of the wrong length"
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

    /// The fault of an exchange that ended in `error` while at `step`.
    pub(super) fn fault(&self, step: Step, error: &Error) -> LinkFault {
        let ours = self.identity.as_ref().map(|identity| identity.certificate.thumbprint().as_hex_string());
        fault(&self.url, step, error, ours.as_deref())
    }

    async fn endpoints(&self) -> Result<Vec<EndpointDescription>, LinkFault> {
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
        match self.security {
            OpcUaSecurity::None => (SecurityPolicy::None, MessageSecurityMode::None),
            OpcUaSecurity::Basic256Sha256 => {
                (SecurityPolicy::Basic256Sha256, MessageSecurityMode::SignAndEncrypt)
            }
        }
    }

    /// How the server wants to be told who we are; of several ways, the one that hides a password
    /// best.
    fn token_policy(&self, endpoint: &EndpointDescription) -> Result<UserTokenPolicy, String> {
        let (wanted, missing) = match self.user {
            Some(_) => (UserTokenType::UserName, "it takes no user name and password on this endpoint"),
            None => {
                (UserTokenType::Anonymous, "it lets nobody in without a name: set `username` and `password`")
            }
        };
        endpoint
            .user_identity_tokens
            .iter()
            .flatten()
            .filter(|policy| policy.token_type == wanted)
            .max_by_key(|policy| match secret_policy(policy) {
                Some(SecurityPolicy::Unknown) => 0,
                None | Some(SecurityPolicy::None) => 1,
                Some(_) => 2,
            })
            .cloned()
            .ok_or_else(|| missing.to_owned())
    }

    /// The policy by which the server's certificate protects anything of ours, if it does.
    fn uses_certificate(&self, token: &UserTokenPolicy) -> Option<SecurityPolicy> {
        let (policy, _) = self.wanted();
        if policy != SecurityPolicy::None {
            return Some(policy);
        }
        let secret = secret_policy(token).filter(|policy| *policy != SecurityPolicy::None);
        self.user.as_ref().and(secret).filter(|policy| *policy != SecurityPolicy::Unknown)
    }

    /// Tells the server who we are; a password is encrypted together with the server's `nonce`.
    pub(super) fn token(&self, door: &Door, nonce: &ByteString) -> Result<ExtensionObject, Error> {
        let Some((name, password)) = &self.user else {
            let policy_id = door.token.policy_id.clone();
            return Ok(ExtensionObject::from_message(AnonymousIdentityToken { policy_id }));
        };
        let (policy, mode) = self.wanted();
        let certificate = X509::from_der(&door.certificate).ok();
        // The library takes the certificate for granted where it encrypts with it.
        if certificate.is_none() && self.uses_certificate(&door.token).is_some() {
            return Err(Error::new(StatusCode::BadCertificateInvalid, "no certificate"));
        }
        let secret = legacy_encrypt_secret(
            policy,
            mode,
            &door.token,
            nonce.as_ref(),
            &certificate,
            password.reveal().as_bytes(),
        )?;
        Ok(ExtensionObject::from_message(UserNameIdentityToken {
            policy_id: secret.policy,
            user_name: UAString::from(name.as_str()),
            password: secret.secret,
            encryption_algorithm: secret.encryption_algorithm,
        }))
    }
}

/// By which policy a token's secret is encrypted, where the policy says so itself.
fn secret_policy(token: &UserTokenPolicy) -> Option<SecurityPolicy> {
    let uri = token.security_policy_uri.as_ref();
    (!uri.is_empty()).then(|| SecurityPolicy::from_uri(uri))
}

fn offers(endpoints: &[EndpointDescription]) -> String {
    let mut offers: Vec<String> = endpoints
        .iter()
        .map(|e| {
            let uri = e.security_policy_uri.as_ref();
            format!("{} ({:?})", uri.rsplit('#').next().unwrap_or(uri), e.security_mode)
        })
        .collect();
    offers.sort();
    offers.dedup();
    if offers.is_empty() { "none at all".to_owned() } else { offers.join(", ") }
}
