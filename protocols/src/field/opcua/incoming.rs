//! What becomes of a server's bytes between the socket and the readings, without a socket: for those
//! who want to feed it bytes (`tests/fuzz`). Unsecured, for behind encryption stands the same.

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use forebay_config::field::{Link, OpcUaUser, Protocol, Timestamp};
use forebay_config::units::Secret;
use opcua::core::ResponseMessage;
use opcua::core::comms::chunker::Chunker;
use opcua::core::comms::secure_channel::{Role, SecureChannel};
use opcua::core::comms::tcp_codec::{Message, TcpCodec};
use opcua::crypto::{CertificateStore, SecurityPolicy};
use opcua::sync::RwLock;
use opcua::types::{MessageSecurityMode, NodeId};
use tokio_util::codec::Decoder;

use super::browse::Walk;
use super::channel::{context, limits};
use super::folders::{digests, mark};
use super::guard::Frames;
use super::items::{Item, strings};
use super::paths::{BrowsePath, target};
use super::reports::{gather, sample};
use super::token::{Token, User};
use super::trust::{leaf, thumbprint};
use super::{SetupError, points_and_items};
use crate::field::source::Harvest;
use crate::reading::Stamp;

/// Takes a server's answers apart as a link does.
pub struct Incoming {
    items: Vec<Item>,
    channel: SecureChannel,
    user: User,
}

impl Incoming {
    /// For the points of `link`.
    ///
    /// # Errors
    /// As [`super::OpcUaSource::new`].
    pub fn new(link: &Link) -> Result<Self, SetupError> {
        let Protocol::OpcUa(opcua) = &link.protocol else {
            return Err(SetupError::Protocol { link: link.name.to_string() });
        };
        let (_, items) = points_and_items(link, opcua)?;
        let trust = |why| SetupError::Trust { link: link.name.to_string(), why };
        let somebody =
            OpcUaUser::Password { name: "user".into(), password: Secret::new("password"), in_clear: true };
        let user = User::load(&somebody).map_err(trust)?;
        let store = Arc::new(RwLock::new(CertificateStore::new(Path::new("/nowhere"))));
        let context = Arc::new(RwLock::new(context()));
        Ok(Self { items, channel: SecureChannel::new(store, Role::Client, context), user })
    }

    /// One answer, as it comes from the socket, in frames. What it tells; `None` if it is none.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Harvest> {
        Frames::new(0).pass(bytes).ok()?;
        let mut codec = TcpCodec::new(limits());
        let mut rest = BytesMut::from(bytes);
        let mut chunks = Vec::new();
        while let Some(message) = codec.decode(&mut rest).ok()? {
            if let Message::Chunk(chunk) = message {
                chunks.push(self.channel.verify_and_remove_security(chunk.data).ok()?);
            }
        }
        if chunks.is_empty() {
            return None;
        }
        Chunker::validate_chunks(&self.channel, &chunks).ok()?;
        let answer: ResponseMessage = Chunker::decode(&chunks, &self.channel, None).ok()?;
        self.unfold(answer)
    }

    fn unfold(&self, answer: ResponseMessage) -> Option<Harvest> {
        let mut harvest = Harvest::default();
        match answer {
            ResponseMessage::Publish(answer) => {
                gather(
                    &self.items,
                    Timestamp::Source,
                    answer.notification_message,
                    |time| time,
                    &mut harvest,
                )
                .ok()?;
            }
            ResponseMessage::Read(answer) => {
                let results = answer.results.unwrap_or_default();
                let namespaces = strings(results.first().and_then(|first| first.value.clone()));
                for (slot, (item, value)) in self.items.iter().zip(results).enumerate() {
                    let (timestamp, now) = (Timestamp::Source, Stamp::now());
                    harvest.samples.push(sample(slot, item, value, timestamp, |time| time, now));
                }
                for item in &self.items {
                    let _ = item.address.find(&namespaces);
                }
            }
            ResponseMessage::GetEndpoints(answer) => {
                for endpoint in answer.endpoints.unwrap_or_default() {
                    let _ = thumbprint(leaf(endpoint.server_certificate.as_ref()));
                    let offered = endpoint.user_identity_tokens.unwrap_or_default();
                    let policy = SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref());
                    for guard in
                        [(policy, endpoint.security_mode), (SecurityPolicy::None, MessageSecurityMode::None)]
                    {
                        let _ = Token::choose(&self.user, &offered, guard, false);
                    }
                }
            }
            ResponseMessage::TranslateBrowsePathsToNodeIds(answer) => {
                answer.results.unwrap_or_default().iter().for_each(|result| drop(target(result)));
            }
            ResponseMessage::Browse(answer) => {
                let mut walk = Walk::new(NodeId::null(), 4, 1_000);
                let results = answer.results.unwrap_or_default();
                let parents = vec![None; results.len()];
                walk.take(&parents, results, |way| !way.is_empty());
                let namespaces = ["urn:a".to_owned(), "urn:x".to_owned()];
                let digests = digests(&namespaces);
                for at in 0..walk.findings().len() {
                    let _ = walk.path(at, &BrowsePath::objects(), &namespaces).to_string();
                    let _ = mark("", walk.way(at), &digests);
                }
            }
            _ => {}
        }
        Some(harvest)
    }
}
