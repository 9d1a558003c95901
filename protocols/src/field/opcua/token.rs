//! Telling a server who we are (OPC UA Part 4, 7.40): which of its ways to take, and the token.
//!
//! A password goes out in clear only where the configuration says so. The list of ways comes from
//! a server that has proved nothing yet, so a man in the middle may have shortened it: what is left
//! is judged by what it protects, not by what else there should have been. Pure, but for the files.

use std::fs;
use std::path::Path;

use forebay_config::field::OpcUaUser;
use forebay_config::units::Secret;
use opcua::crypto::{PrivateKey, SecurityPolicy, X509, create_signature_data, legacy_encrypt_secret};
use opcua::types::{
    AnonymousIdentityToken, ByteString, Error, ExtensionObject, MessageSecurityMode, SignatureData,
    StatusCode, UAString, UserNameIdentityToken, UserTokenPolicy, UserTokenType, X509IdentityToken,
};

use super::peer::name;
use super::trust::{TrustError, read_certificate};

/// Security policy and mode of a channel.
pub(super) type Guard = (SecurityPolicy, MessageSecurityMode);

/// Who we are to one server.
pub(super) enum User {
    Anonymous,
    Password { name: String, password: Secret, in_clear: bool },
    Certificate { certificate: Box<X509>, key: Box<PrivateKey> },
}

impl User {
    /// Reads the files of a user who has some.
    pub(super) fn load(configured: &OpcUaUser) -> Result<Self, TrustError> {
        Ok(match configured {
            OpcUaUser::Anonymous => Self::Anonymous,
            OpcUaUser::Password { name, password, in_clear } => {
                Self::Password { name: name.clone(), password: password.clone(), in_clear: *in_clear }
            }
            OpcUaUser::Certificate { certificate, key } => Self::Certificate {
                certificate: Box::new(read_certificate(certificate)?),
                key: Box::new(read_key(key)?),
            },
        })
    }
}

fn read_key(path: &Path) -> Result<PrivateKey, TrustError> {
    let bytes = fs::read(path).map_err(|why| TrustError::new(path, why))?;
    PrivateKey::from_pem(&bytes)
        .map_err(|_| TrustError::new(path, "not an RSA key in PEM without a password (`BEGIN PRIVATE KEY`)"))
}

/// What keeps a password from being read on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Protection {
    Encrypted(SecurityPolicy),
    /// The channel it goes through.
    Channel,
    None,
}

/// One of the server's ways to be told who we are.
pub(super) struct Token {
    policy: UserTokenPolicy,
    /// Of a password: how it is protected. Of a certificate: by which policy it signs.
    protection: Protection,
}

impl Token {
    /// The best way for `user` among those that are `offered` on an endpoint with this guard. If
    /// there is none that may be taken: why, and the way out.
    pub(super) fn choose(
        user: &User,
        offered: &[UserTokenPolicy],
        guard: Guard,
        allow_deprecated: bool,
    ) -> Result<Self, String> {
        let (wanted, missing) = match user {
            User::Anonymous => (
                UserTokenType::Anonymous,
                "it lets nobody in without a name: set `username` and `password`, or `user_certificate` and `user_key`",
            ),
            User::Password { .. } => {
                (UserTokenType::UserName, "it takes no user name and password on this endpoint")
            }
            User::Certificate { .. } => {
                (UserTokenType::Certificate, "it takes no user certificates on this endpoint")
            }
        };
        let mut reason = missing.to_owned();
        let mut best: Option<(u8, Self)> = None;
        for policy in offered.iter().filter(|policy| policy.token_type == wanted) {
            let token = Self { policy: policy.clone(), protection: protection(policy, guard) };
            match token.rank(user, guard, allow_deprecated) {
                Ok(rank) if best.as_ref().is_none_or(|(other, _)| rank > *other) => {
                    best = Some((rank, token))
                }
                Ok(_) => {}
                Err(why) => reason = why,
            }
        }
        best.map(|(_, token)| token).ok_or(reason)
    }

    /// The more the better.
    fn rank(&self, user: &User, guard: Guard, allow_deprecated: bool) -> Result<u8, String> {
        let deprecated = |policy: SecurityPolicy| policy.is_deprecated() && !allow_deprecated;
        match (user, self.protection) {
            (User::Anonymous, _) => Ok(1),
            (_, Protection::Encrypted(SecurityPolicy::Unknown)) => {
                let uri = self.policy.security_policy_uri.as_ref();
                Err(format!("it wants to be told by a policy that is not known here: {}", name(uri)))
            }
            // An encrypted channel protects what is not protected well inside.
            (User::Password { .. }, Protection::Encrypted(policy))
                if deprecated(policy) && guard.1 != MessageSecurityMode::SignAndEncrypt =>
            {
                Err(format!(
                    "it takes the password only by {}, which was given up by the standard: set \
                     `security_policy`, or say `allow_deprecated = true`",
                    name(policy.to_uri())
                ))
            }
            (User::Password { .. }, Protection::Encrypted(policy)) => Ok(if policy.is_deprecated() { 2 } else { 4 }),
            (User::Password { .. }, Protection::Channel) => Ok(3),
            (User::Password { in_clear: true, .. }, Protection::None) => Ok(1),
            (User::Password { .. }, Protection::None) => Err(
                "it takes the password only where everybody on the way can read it: set `security_policy`, or \
                 say `password_in_clear = true`"
                    .to_owned(),
            ),
            (User::Certificate { .. }, Protection::Encrypted(policy)) if deprecated(policy) => Err(format!(
                "it takes user certificates only by {}, which was given up by the standard: say \
                 `allow_deprecated = true`",
                name(policy.to_uri())
            )),
            (User::Certificate { .. }, Protection::Encrypted(policy)) => {
                Ok(if policy.is_deprecated() { 1 } else { 2 })
            }
            (User::Certificate { .. }, _) => {
                Err("it takes user certificates, but asks for no signature by them: set `security_policy`".to_owned())
            }
        }
    }

    /// The policy by which the server's certificate protects the token, if it does.
    pub(super) fn rests_on(&self) -> Option<SecurityPolicy> {
        match (self.policy.token_type, self.protection) {
            (UserTokenType::UserName | UserTokenType::Certificate, Protection::Encrypted(policy)) => {
                Some(policy)
            }
            _ => None,
        }
    }

    /// The token for ActivateSession and the signature that goes with it. `server` is the server's
    /// certificate, `nonce` what it made up for this session.
    pub(super) fn make(
        &self,
        user: &User,
        server: &ByteString,
        nonce: &ByteString,
    ) -> Result<(ExtensionObject, SignatureData), Error> {
        let policy_id = self.policy.policy_id.clone();
        match user {
            User::Anonymous => {
                let token = AnonymousIdentityToken { policy_id };
                Ok((ExtensionObject::from_message(token), SignatureData::null()))
            }
            User::Password { name, password, .. } => {
                let (secret, encryption_algorithm) = match self.protection {
                    Protection::Encrypted(policy) => {
                        encrypted(policy, &self.policy, server, nonce, password)?
                    }
                    Protection::Channel | Protection::None => {
                        (ByteString::from(password.reveal().as_bytes()), UAString::null())
                    }
                };
                let token = UserNameIdentityToken {
                    policy_id,
                    user_name: UAString::from(name.as_str()),
                    password: secret,
                    encryption_algorithm,
                };
                Ok((ExtensionObject::from_message(token), SignatureData::null()))
            }
            User::Certificate { certificate, key } => {
                let Protection::Encrypted(policy) = self.protection else {
                    return Err(Error::new(StatusCode::BadSecurityPolicyRejected, "no signature"));
                };
                let signature = create_signature_data(key, policy, server, nonce)?;
                let token = X509IdentityToken { policy_id, certificate_data: certificate.as_byte_string() };
                Ok((ExtensionObject::from_message(token), signature))
            }
        }
    }
}

/// OPC UA Part 4, 7.41, Table 193: where a way has no policy of its own, the channel's counts.
fn protection(token: &UserTokenPolicy, guard: Guard) -> Protection {
    let uri = token.security_policy_uri.as_ref();
    let own = (!uri.is_empty()).then(|| SecurityPolicy::from_uri(uri));
    match (own, guard) {
        (Some(SecurityPolicy::None), (_, MessageSecurityMode::SignAndEncrypt)) => Protection::Channel,
        (Some(SecurityPolicy::None), _) | (None, (SecurityPolicy::None, _)) => Protection::None,
        (Some(policy), _) | (None, (policy, _)) => Protection::Encrypted(policy),
    }
}

fn encrypted(
    policy: SecurityPolicy,
    token: &UserTokenPolicy,
    server: &ByteString,
    nonce: &ByteString,
    password: &Secret,
) -> Result<(ByteString, UAString), Error> {
    let certificate = X509::from_der(server.as_ref())
        .map_err(|_| Error::new(StatusCode::BadCertificateInvalid, "no certificate to encrypt with"))?;
    // The policy is settled, so it does not matter to the library what the channel is.
    let token = UserTokenPolicy { security_policy_uri: UAString::from(policy.to_uri()), ..token.clone() };
    let secret = legacy_encrypt_secret(
        policy,
        MessageSecurityMode::SignAndEncrypt,
        &token,
        nonce.as_ref(),
        &Some(certificate),
        password.reveal().as_bytes(),
    )?;
    Ok((secret.secret, secret.encryption_algorithm))
}

#[cfg(test)]
mod tests {
    use MessageSecurityMode::{Sign, SignAndEncrypt};

    use super::*;

    const OPEN: Guard = (SecurityPolicy::None, MessageSecurityMode::None);

    fn way(token_type: UserTokenType, policy: Option<SecurityPolicy>) -> UserTokenPolicy {
        UserTokenPolicy {
            policy_id: UAString::from(policy.map_or("own", |policy| policy.to_str())),
            token_type,
            security_policy_uri: policy.map_or_else(UAString::null, |policy| UAString::from(policy.to_uri())),
            ..UserTokenPolicy::default()
        }
    }

    fn password(in_clear: bool) -> User {
        User::Password { name: "u".into(), password: Secret::new("p"), in_clear }
    }

    /// How a password would go out by the ways with these policies.
    fn sent(
        user: &User,
        ways: &[Option<SecurityPolicy>],
        guard: Guard,
        old: bool,
    ) -> Result<Protection, String> {
        let ways: Vec<_> = ways.iter().map(|policy| way(UserTokenType::UserName, *policy)).collect();
        Token::choose(user, &ways, guard, old).map(|token| token.protection)
    }

    #[test]
    fn a_password_goes_out_in_clear_only_if_that_was_asked_for() {
        use SecurityPolicy::{Basic128Rsa15, Basic256Sha256};

        let user = password(false);
        let none = Some(SecurityPolicy::None);
        for guard in [OPEN, (Basic256Sha256, Sign)] {
            let why = sent(&user, &[none], guard, false).unwrap_err();
            assert!(why.contains("`password_in_clear = true`"), "{why}");
            assert_eq!(sent(&password(true), &[none], guard, false), Ok(Protection::None));
            // Of several ways the one that hides it best, whatever their order.
            let best = Ok(Protection::Encrypted(Basic256Sha256));
            let ways = [none, Some(Basic256Sha256), Some(Basic128Rsa15)];
            assert_eq!(sent(&password(true), &ways, guard, true), best);
        }
        let why = sent(&user, &[None], OPEN, false).unwrap_err();
        assert!(why.contains("`password_in_clear = true`"), "{why}");
        assert_eq!(
            sent(&user, &[None], (Basic256Sha256, Sign), false),
            Ok(Protection::Encrypted(Basic256Sha256))
        );
        assert_eq!(sent(&user, &[none], (Basic256Sha256, SignAndEncrypt), false), Ok(Protection::Channel));
        let why = sent(&user, &[Some(Basic128Rsa15)], OPEN, false).unwrap_err();
        assert!(why.contains("Basic128Rsa15") && why.contains("`allow_deprecated = true`"), "{why}");
        assert!(sent(&user, &[Some(Basic128Rsa15)], OPEN, true).is_ok());
        assert!(sent(&user, &[Some(Basic128Rsa15)], (Basic256Sha256, SignAndEncrypt), false).is_ok());
        let why = sent(&user, &[], OPEN, false).unwrap_err();
        assert!(why.contains("no user name and password"), "{why}");
    }

    #[test]
    fn a_policy_of_the_future_is_told_by_its_name() {
        let mut future = way(UserTokenType::UserName, None);
        future.security_policy_uri = UAString::from("http://opcfoundation.org/UA/SecurityPolicy#Quantum");
        let why = Token::choose(&password(true), &[future], OPEN, true).err().unwrap();
        assert!(why.contains("Quantum"), "{why}");
    }

    #[test]
    fn a_user_certificate_always_signs() {
        let folder = tempfile::tempdir().unwrap();
        let application = super::super::trust::Application {
            pki_dir: folder.path().to_owned(),
            name: "user".into(),
            uri: "urn:user".into(),
        };
        let made = super::super::trust::Identity::load_or_make(&application).unwrap();
        let files = [folder.path().join("own/cert.der"), folder.path().join("private/private.pem")];
        let [certificate, key] = files.clone();
        let user = User::load(&OpcUaUser::Certificate { certificate, key }).unwrap();
        let choose =
            |policy, guard| Token::choose(&user, &[way(UserTokenType::Certificate, policy)], guard, false);
        assert!(choose(Some(SecurityPolicy::None), OPEN).err().unwrap().contains("no signature"));
        assert!(choose(Some(SecurityPolicy::Basic256), OPEN).err().unwrap().contains("allow_deprecated"));
        let token = choose(None, (SecurityPolicy::Basic256Sha256, Sign)).unwrap();
        let server = made.certificate.as_byte_string();
        let (_, signature) = token.make(&user, &server, &ByteString::from(vec![1; 32])).unwrap();
        assert_eq!(signature.signature.as_ref().len(), 256);

        let [certificate, _] = files;
        let swapped = OpcUaUser::Certificate { certificate: certificate.clone(), key: certificate };
        let why = User::load(&swapped).err().unwrap().to_string();
        assert!(why.contains("cert.der") && why.contains("BEGIN PRIVATE KEY"), "{why}");
    }
}
