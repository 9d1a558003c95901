//! One session with one server: entering, asking, and leaving again.
//!
//! A session that was created is always told goodbye as long as its channel lives, also when it
//! is refused halfway: servers have few, and keep an abandoned one for its whole timeout. One whose
//! channel died is told goodbye over the next channel (OPC UA Part 4, 5.7.3: whoever has its token, and
//! the same certificate and user, may activate it there), before there is another.

use std::time::Duration;

use opcua::core::ResponseMessage;
use opcua::crypto::{X509, create_signature_data, random, verify_signature_data};
use opcua::types::{
    ActivateSessionRequest, ApplicationDescription, ApplicationType, AttributeId, BrowseDescription,
    BrowseNextRequest, BrowsePath, BrowsePathResult, BrowseRequest, BrowseResult, ByteString,
    CloseSessionRequest, CreateSessionRequest, CreateSessionResponse, DataValue, Error, LocalizedText,
    NodeId, ReadRequest, ReadValueId, SignatureData, TimestampsToReturn,
    TranslateBrowsePathsToNodeIdsRequest, UAString, ViewDescription,
};
use tokio::time::timeout;

use super::channel::{Channel, unexpected};
use super::faults::Step;
use super::peer::{Door, Peer};
use super::trust::{Application, Verdict, leaf, thumbprint};
use crate::field::source::LinkFault;

/// What the session may cost a server after we vanished without a goodbye.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);

/// A session, from CreateSession on.
pub(super) struct Session {
    pub channel: Channel,
    /// The server forgets the session after this long without a request.
    pub timeout: Duration,
    limit: Duration,
    /// What the server last gave us to sign (without a policy, nothing); none before we were let in.
    nonce: Option<ByteString>,
}

/// A session that heard no goodbye.
pub(super) struct Abandoned {
    token: NodeId,
    nonce: ByteString,
}

impl Abandoned {
    /// Says goodbye over a channel that has no session yet. An attempt: the server may have forgotten it.
    pub(super) async fn leave(self, peer: &Peer, door: &Door, channel: &mut Channel) {
        channel.enter(self.token);
        let goodbye = async {
            activate(channel, peer, door, &self.nonce).await?;
            let request = |request_header| CloseSessionRequest { request_header, delete_subscriptions: true };
            channel.ask(request, peer.limit).await
        };
        match timeout(peer.limit / 4, goodbye).await {
            Ok(Ok(_)) => tracing::debug!(peer = %peer.url, "Closed the session of a lost connection."),
            Ok(Err(error)) => tracing::debug!(peer = %peer.url, %error, "The lost session stays."),
            Err(_) => tracing::debug!(peer = %peer.url, "No answer about the lost session."),
        }
        channel.enter(NodeId::null());
    }
}

impl Session {
    /// CreateSession. From its answer on there is something to leave.
    pub(super) async fn create(
        peer: &Peer,
        door: &Door,
        mut channel: Channel,
    ) -> Result<(Self, Welcome), LinkFault> {
        let nonce = random::byte_string(32);
        let ours = peer.identity.as_ref().map(|identity| identity.certificate.as_byte_string());
        let request = |request_header| CreateSessionRequest {
            request_header,
            client_description: description(&peer.application),
            server_uri: UAString::null(),
            endpoint_url: door.endpoint.endpoint_url.clone(),
            session_name: UAString::from(peer.session_name.as_str()),
            client_nonce: nonce.clone(),
            client_certificate: ours.unwrap_or_default(),
            requested_session_timeout: SESSION_TIMEOUT.as_secs_f64() * 1e3,
            max_response_message_size: 0,
        };
        match channel.ask(request, peer.limit).await {
            Ok(ResponseMessage::CreateSession(answer)) => {
                channel.enter(answer.authentication_token.clone());
                let timeout = Duration::try_from_secs_f64(answer.revised_session_timeout / 1e3)
                    .unwrap_or(SESSION_TIMEOUT)
                    .clamp(Duration::from_secs(1), Duration::from_secs(3600));
                let session = Self { channel, timeout, limit: peer.limit, nonce: None };
                Ok((session, Welcome { nonce, answer: *answer }))
            }
            Ok(other) => Err(peer.fault(Step::Enter, &unexpected(&other))),
            Err(error) => {
                channel.close().await;
                Err(peer.fault(Step::Enter, &error))
            }
        }
    }

    /// Checks that the server is who it says, then ActivateSession. First contact is remembered
    /// here: the server has just proved that the certificate is its own.
    pub(super) async fn activate(
        &mut self,
        peer: &Peer,
        door: &Door,
        welcome: Welcome,
    ) -> Result<(), LinkFault> {
        let refused = |why: String| LinkFault::Refused { peer: peer.url.clone(), why };
        welcome.verify(peer, door).map_err(refused)?;
        let nonce = activate(&mut self.channel, peer, door, &welcome.answer.server_nonce).await;
        self.nonce = Some(nonce.map_err(|error| peer.fault(Step::Enter, &error))?);
        if door.verdict == Verdict::FirstContact && peer.remembers {
            peer.pin.remember(&door.certificate).map_err(|why| {
                refused(format!("its certificate cannot be remembered, so it is not trusted: {why}"))
            })?;
        }
        Ok(())
    }

    /// Where these paths lead.
    pub(super) async fn translate(&mut self, paths: Vec<BrowsePath>) -> Result<Vec<BrowsePathResult>, Error> {
        let request = |request_header| TranslateBrowsePathsToNodeIdsRequest {
            request_header,
            browse_paths: Some(paths),
        };
        match self.channel.ask(request, self.limit).await? {
            ResponseMessage::TranslateBrowsePathsToNodeIds(answer) => Ok(answer.results.unwrap_or_default()),
            other => Err(unexpected(&other)),
        }
    }

    /// What stands below these nodes, node by node.
    pub(super) async fn browse(
        &mut self,
        nodes: Vec<BrowseDescription>,
        most_references: u32,
    ) -> Result<Vec<BrowseResult>, Error> {
        let request = |request_header| BrowseRequest {
            request_header,
            view: ViewDescription::default(),
            requested_max_references_per_node: most_references,
            nodes_to_browse: Some(nodes),
        };
        match self.channel.ask(request, self.limit).await? {
            ResponseMessage::Browse(answer) => Ok(answer.results.unwrap_or_default()),
            other => Err(unexpected(&other)),
        }
    }

    /// More of what did not fit into an answer, or only word that the rest is not wanted.
    pub(super) async fn browse_on(
        &mut self,
        points: Vec<ByteString>,
        release: bool,
    ) -> Result<Vec<BrowseResult>, Error> {
        let request = |request_header| BrowseNextRequest {
            request_header,
            release_continuation_points: release,
            continuation_points: Some(points),
        };
        match self.channel.ask(request, self.limit).await? {
            ResponseMessage::BrowseNext(answer) => Ok(answer.results.unwrap_or_default()),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads the values of some nodes, with their source's time.
    pub(super) async fn read(&mut self, nodes: &[NodeId]) -> Result<Vec<DataValue>, Error> {
        self.attributes(nodes.iter().map(|node| (node.clone(), AttributeId::Value)).collect()).await
    }

    /// Reads attributes of some nodes.
    pub(super) async fn attributes(
        &mut self,
        asked: Vec<(NodeId, AttributeId)>,
    ) -> Result<Vec<DataValue>, Error> {
        let asked = asked.into_iter().map(|(node_id, attribute)| ReadValueId {
            node_id,
            attribute_id: attribute as u32,
            ..ReadValueId::default()
        });
        self.read_all(asked.collect()).await
    }

    /// Reads whatever is asked for.
    pub(super) async fn read_all(&mut self, nodes: Vec<ReadValueId>) -> Result<Vec<DataValue>, Error> {
        let request = |request_header| ReadRequest {
            request_header,
            max_age: 0.0,
            timestamps_to_return: TimestampsToReturn::Source,
            nodes_to_read: Some(nodes),
        };
        match self.channel.ask(request, self.limit).await? {
            ResponseMessage::Read(answer) => Ok(answer.results.unwrap_or_default()),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the session with its subscriptions, then channel and connection. Ends within two
    /// seconds, whatever the server does. If it did not hear it, what is left of the session.
    pub(super) async fn leave(mut self) -> Option<Abandoned> {
        let goodbye = self.channel.ask(
            |request_header| CloseSessionRequest { request_header, delete_subscriptions: true },
            self.limit,
        );
        let heard = matches!(timeout(Duration::from_secs(1), goodbye).await, Ok(Ok(_)));
        let token = self.channel.token().clone();
        self.channel.close().await;
        self.nonce.filter(|_| !heard).map(|nonce| Abandoned { token, nonce })
    }
}

/// ActivateSession, signing the server's `nonce`; gives its next one.
async fn activate(
    channel: &mut Channel,
    peer: &Peer,
    door: &Door,
    nonce: &ByteString,
) -> Result<ByteString, Error> {
    let server = &door.endpoint.server_certificate;
    let (user_identity_token, user_token_signature) = door.token.make(&peer.user, server, nonce)?;
    let (policy, _) = peer.wanted();
    let client_signature = match &peer.identity {
        Some(identity) => create_signature_data(&identity.key, policy, server, nonce)?,
        None => SignatureData::null(),
    };
    let request = |request_header| ActivateSessionRequest {
        request_header,
        client_signature,
        client_software_certificates: None,
        locale_ids: None,
        user_identity_token,
        user_token_signature,
    };
    match channel.ask(request, peer.limit).await? {
        ResponseMessage::ActivateSession(answer) => Ok(answer.server_nonce),
        other => Err(unexpected(&other)),
    }
}

/// The server's answer to CreateSession, with the nonce it had to sign.
pub(super) struct Welcome {
    nonce: ByteString,
    answer: CreateSessionResponse,
}

impl Welcome {
    fn verify(&self, peer: &Peer, door: &Door) -> Result<(), String> {
        let Some(identity) = &peer.identity else { return Ok(()) };
        let shown = leaf(self.answer.server_certificate.as_ref());
        if shown != door.certificate {
            return Err(format!(
                "its session shows another certificate (thumbprint {}) than its endpoint (thumbprint {}): \
                 somebody may be in between",
                thumbprint(shown),
                thumbprint(&door.certificate)
            ));
        }
        let (policy, _) = peer.wanted();
        let signer = X509::from_der(shown).map_err(|_| "its certificate cannot be read".to_owned())?;
        verify_signature_data(
            &self.answer.server_signature,
            policy,
            &signer,
            &identity.certificate,
            self.nonce.as_ref(),
        )
        .map_err(|_| {
            "it could not prove that its certificate is its own: somebody may be in between".to_owned()
        })
    }
}

fn description(application: &Application) -> ApplicationDescription {
    ApplicationDescription {
        application_uri: UAString::from(application.uri.as_str()),
        product_uri: UAString::from("urn:forebay"),
        application_name: LocalizedText::from(application.name.as_str()),
        application_type: ApplicationType::Client,
        ..ApplicationDescription::default()
    }
}
