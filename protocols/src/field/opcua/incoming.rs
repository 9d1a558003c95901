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
use opcua::types::{DataValue, MessageSecurityMode, NodeId, StructureDefinition, Variant};
use tokio_util::codec::Decoder;

use super::browse::Walk;
use super::channel::{context, limits};
use super::folders::{digests, mark};
use super::guard::Frames;
use super::items::{Item, strings};
use super::monitored::Handle;
use super::paths::{BrowsePath, target};
use super::reports::{Report, gather};
use super::structures::{Kind, Structure, Types};
use super::token::{Token, User};
use super::trust::{leaf, thumbprint};
use super::unfold::Unfolder;
use super::{SetupError, points_and_items};
use crate::field::source::Harvest;
use crate::reading::Stamp;

/// Takes a server's answers apart as a link does.
pub struct Incoming {
    items: Vec<Item>,
    channel: SecureChannel,
    user: User,
    types: Types,
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
        let channel = SecureChannel::new(store, Role::Client, context);
        Ok(Self { items, channel, user, types: Types::default() })
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

    /// What a report says of the points of its item, as often as there is something to be said.
    fn take(&self, report: Report, harvest: &mut Harvest) {
        let Some(item) = self.items.get(report.handle.item) else { return };
        let first = item.span().filter(|_| report.handle.is_range).map_or(0, |(first, _)| first);
        let unfolded = report.unfold(item, first, &self.types, Timestamp::Source, |time| time);
        harvest.samples.extend(Unfolder::new(true).news(item, unfolded));
    }

    /// Descriptions of types, if there are some among these: the first is of `ns=3;i=3000` and of what is encoded as
    /// `ns=3;i=5000`, the next of 3001 and 5001, and so on.
    fn learn(&mut self, results: &[DataValue]) {
        self.types.clear();
        let definition = |told: &DataValue| match &told.value {
            Some(Variant::ExtensionObject(object)) => object.inner_as::<StructureDefinition>().cloned(),
            _ => None,
        };
        for (number, definition) in (0u32..100).zip(results.iter().filter_map(definition)) {
            let data_type = NodeId::new(3, 3000 + number);
            self.types.note_encoding(NodeId::new(3, 5000 + number), Ok(data_type.clone()));
            self.types.note(data_type, Kind::Structure(Arc::new(Structure::new(definition).0)));
        }
    }

    fn unfold(&mut self, answer: ResponseMessage) -> Option<Harvest> {
        let mut harvest = Harvest::default();
        match answer {
            ResponseMessage::Publish(answer) => {
                let reports =
                    gather(self.items.len(), answer.notification_message, &mut harvest.discarded).ok()?;
                reports.into_iter().for_each(|report| self.take(report, &mut harvest));
            }
            ResponseMessage::Read(answer) => {
                let results = answer.results.unwrap_or_default();
                let namespaces = strings(results.first().and_then(|first| first.value.clone()));
                self.learn(&results);
                for (item, told) in results.into_iter().enumerate().take(self.items.len()) {
                    let handle = Handle { item, is_range: false };
                    self.take(Report { handle, told, arrival: Stamp::now() }, &mut harvest);
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
