//! Answers of OPC UA servers.

use std::path::Path;
use std::sync::Arc;

use forebay_config::load;
use forebay_protocols::field::opcua::incoming::Incoming;
use opcua::core::ResponseMessage;
use opcua::core::comms::chunker::Chunker;
use opcua::core::comms::secure_channel::{Role, SecureChannel};
use opcua::core::comms::sequence_number::SequenceNumberHandle;
use opcua::crypto::{CertificateStore, SecurityPolicy};
use opcua::sync::RwLock;
use opcua::types::{
    Array, BrowsePathResult, BrowsePathTarget, BrowseResponse, BrowseResult, ByteString, ByteStringBody,
    ContextOwned, DataValue, DateTime, EndpointDescription, ExtensionObject, GetEndpointsResponse, Guid,
    LocalizedText, MessageSecurityMode, MonitoredItemNotification, NodeClass, NodeId, NotificationMessage,
    PublishResponse, QualifiedName, ReadResponse, ReferenceDescription, ResponseHeader,
    StatusChangeNotification, StatusCode, StructureDefinition, StructureField, StructureType,
    TranslateBrowsePathsToNodeIdsResponse, UAString, UserTokenPolicy, UserTokenType, Variant,
    VariantScalarTypeId,
};

use super::Made;
use crate::faults::Dice;

const LINK: &str = r#"
[agent]
site = "a"
gateway = "b"
[link.l.opcua]
endpoint = "opc.tcp://127.0.0.1"
[link.l.device.d.points]
float = { node = "ns=1;s=a", scale = 0.1 }
integer = { node = "nsu=urn:x;i=7", type = "integer" }
boolean = { node = "/Objects/nsu=urn:x;b", type = "boolean" }
text = { node = "i=2258", type = "text" }
elements = { node = "ns=1;s=c", elements = "0:3" }
cells = { node = "ns=1;s=d", elements = "0:1,0:1" }
x = { node = "ns=1;s=e", field = "Place.X" }
torque = { node = "ns=1;s=e", field = "Axes[0:1].Torque" }
note = { node = "ns=1;s=e", field = "Note", type = "text" }
grip = { node = "ns=1;s=f", elements = "0:1", field = "Tool.Grip" }
"#;

fn values() -> Vec<Variant> {
    let list = vec![Variant::from("urn:a"), Variant::from("urn:x")];
    vec![
        Variant::from(1.5f64),
        Variant::from(-7i64),
        Variant::from(true),
        Variant::from("text"),
        Variant::from(LocalizedText::new("", "läuft")),
        Variant::from(Guid::null()),
        Variant::from(DateTime::null()),
        Variant::from(NodeId::new(2, "node")),
        Variant::from(QualifiedName::new(1, "name")),
        Variant::from(ExtensionObject::from_message(StatusChangeNotification::default())),
        Array::new(VariantScalarTypeId::String, list).map_or(Variant::Empty, Variant::from),
        Variant::Variant(Box::new(Variant::from(3u8))),
    ]
}

fn value(value: Variant) -> DataValue {
    DataValue {
        value: Some(value),
        status: Some(StatusCode::from(0x0480)),
        source_timestamp: Some(DateTime::ymd(2026, 11, 29)),
        ..DataValue::default()
    }
}

/// Types of `ns=3`: a robot, the place where it is, one of its axes, and its tool.
fn definitions() -> Vec<StructureDefinition> {
    let field = |name: &str, namespace: u16, number: u32, value_rank, is_optional| StructureField {
        name: UAString::from(name),
        data_type: NodeId::new(namespace, number),
        value_rank,
        is_optional,
        ..StructureField::default()
    };
    let structure = |structure_type, fields| StructureDefinition {
        structure_type,
        fields: Some(fields),
        ..StructureDefinition::default()
    };
    vec![
        structure(
            StructureType::StructureWithOptionalFields,
            vec![
                field("Note", 0, 12, -1, true),
                field("Place", 3, 3001, -1, false),
                field("Axes", 3, 3002, 1, false),
                field("Tool", 3, 3003, -1, false),
                field("Grid", 0, 4, 2, false),
                field("Extra", 0, 22, -1, false),
                field("Any", 0, 24, -1, false),
            ],
        ),
        structure(StructureType::Structure, vec![field("X", 0, 11, -1, false)]),
        structure(
            StructureType::Structure,
            vec![field("Torque", 0, 10, -1, false), field("Inner", 3, 3002, 1, false)],
        ),
        structure(
            StructureType::Union,
            vec![field("Speed", 0, 6, -1, false), field("Grip", 0, 1, -1, false)],
        ),
    ]
}

/// One of those robots, as it is encoded.
fn robot() -> ExtensionObject {
    let mut body = vec![1u8, 0, 0, 0, 3, 0, 0, 0, b'o', b'a', b'k'];
    body.extend(1.5f64.to_le_bytes());
    body.extend(2i32.to_le_bytes());
    for torque in [0.5f32, 0.75] {
        body.extend(torque.to_le_bytes());
        body.extend(0i32.to_le_bytes());
    }
    body.extend([2u8, 0, 0, 0, 1]);
    [2i32, 1, 2].iter().for_each(|number| body.extend(number.to_le_bytes()));
    body.extend([7u8, 0, 8, 0]);
    // A place, said to be one: four bytes of a node id, its form and its length.
    body.extend([1u8, 3, 0x89, 0x13, 1, 8, 0, 0, 0]);
    body.extend(2.5f64.to_le_bytes());
    body.extend([3u8, 42]);
    ExtensionObject::new(ByteStringBody::new(ByteString::from(body), NodeId::new(3, 5000u32)))
}

/// Arrays and structures for the points that read parts, and what describes them.
fn compounds() -> Vec<DataValue> {
    let array = |values: Vec<Variant>, kind, sides: Vec<u32>| {
        Array::new_multi(kind, values, sides).map_or(Variant::Empty, Variant::from)
    };
    let numbers = |count: u8| (0..count).map(|number| Variant::from(f64::from(number))).collect();
    let objects = vec![Variant::from(robot()), Variant::from(robot())];
    let plain = (0u8..4).map(|number| Variant::from(f64::from(number)));
    let parts = [
        array(numbers(4), VariantScalarTypeId::Double, vec![4]),
        array(numbers(4), VariantScalarTypeId::Double, vec![2, 2]),
        Variant::from(robot()),
        array(objects, VariantScalarTypeId::ExtensionObject, vec![2]),
    ];
    let definitions =
        definitions().into_iter().map(|each| Variant::from(ExtensionObject::from_message(each)));
    plain.chain(parts).chain(definitions).map(value).collect()
}

/// One answer of each service whose answers are taken apart.
fn answers() -> Vec<ResponseMessage> {
    // The same in every run.
    let header = || ResponseHeader { timestamp: DateTime::null(), ..ResponseHeader::new_good(1u32) };
    let changes = values()
        .into_iter()
        .enumerate()
        .map(|(slot, each)| MonitoredItemNotification { client_handle: slot as u32 % 4, value: value(each) })
        .collect();
    let publish = PublishResponse {
        response_header: header(),
        subscription_id: 1,
        notification_message: NotificationMessage::data_change(3, DateTime::null(), changes, Vec::new()),
        ..PublishResponse::default()
    };
    let read = ReadResponse {
        response_header: header(),
        results: Some(values().into_iter().rev().map(value).collect()),
        diagnostic_infos: None,
    };
    let unfolded =
        ReadResponse { response_header: header(), results: Some(compounds()), diagnostic_infos: None };
    let token = UserTokenPolicy {
        policy_id: UAString::from("p"),
        token_type: UserTokenType::UserName,
        security_policy_uri: UAString::from(SecurityPolicy::Basic256Sha256.to_uri()),
        ..UserTokenPolicy::default()
    };
    let mut endpoint = EndpointDescription::from((
        "opc.tcp://plc:4840",
        SecurityPolicy::Basic256Sha256.to_uri(),
        MessageSecurityMode::SignAndEncrypt,
    ));
    endpoint.user_identity_tokens = Some(vec![token]);
    endpoint.server_certificate = vec![0x30, 3, 1, 2, 3, 0x30].into();
    let endpoints = GetEndpointsResponse { response_header: header(), endpoints: Some(vec![endpoint]) };
    let to = BrowsePathTarget { target_id: NodeId::new(2, 7u32).into(), remaining_path_index: u32::MAX };
    let paths = TranslateBrowsePathsToNodeIdsResponse {
        response_header: header(),
        results: Some(vec![BrowsePathResult { status_code: StatusCode::Good, targets: Some(vec![to]) }]),
        diagnostic_infos: None,
    };
    let reference = |class, id: u32| ReferenceDescription {
        node_id: NodeId::new(2, id).into(),
        browse_name: QualifiedName::new(2, "a/b&c"),
        node_class: class,
        ..ReferenceDescription::default()
    };
    let below = vec![reference(NodeClass::Object, 7), reference(NodeClass::Variable, 8)];
    let result = BrowseResult {
        continuation_point: vec![1u8, 2].into(),
        references: Some(below),
        ..BrowseResult::default()
    };
    let results = Some(vec![result, BrowseResult::default()]);
    let browse = BrowseResponse { response_header: header(), results, diagnostic_infos: None };
    vec![publish.into(), read.into(), unfolded.into(), endpoints.into(), paths.into(), browse.into()]
}

/// As a server sends them: whole, and in frames.
fn frames() -> Vec<Vec<u8>> {
    let store = Arc::new(RwLock::new(CertificateStore::new(Path::new("/nowhere"))));
    let context = Arc::new(RwLock::new(ContextOwned::default()));
    let channel = SecureChannel::new(store, Role::Server, context);
    let mut frames = Vec::new();
    for answer in answers() {
        let sequence = SequenceNumberHandle::new(true);
        let chunks = Chunker::encode(sequence, 1, 0, 0, &channel, &answer).expect("a valid answer");
        frames.push(chunks.iter().flat_map(|chunk| chunk.data.to_vec()).collect());
    }
    frames
}

pub(super) fn make() -> Made {
    let agent = load::agent_text("fuzz.toml", LINK).expect("it is valid");
    let mut incoming = Incoming::new(&agent.links[0]).expect("it is an OPC UA link");
    let read = move |input: &mut Vec<u8>, dice: &mut Dice| {
        // Every other time the length is right again, so that damage reaches what lies behind it.
        if input.len() >= 8 && dice.once_in(2) {
            let length = (input.len() as u32).to_le_bytes();
            input[4..8].copy_from_slice(&length);
        }
        incoming.read(input).is_some()
    };
    (frames(), Box::new(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_taken_apart() {
        let agent = load::agent_text("fuzz.toml", LINK).expect("it is valid");
        let mut incoming = Incoming::new(&agent.links[0]).expect("it is an OPC UA link");
        for (at, frame) in frames().iter().enumerate() {
            assert!(incoming.read(frame).is_some(), "answer {at}");
        }
        // Guards the guard: structures are taken apart, down to the last part that is there.
        let harvest = incoming.read(&frames()[2]).expect("it is an answer");
        let values: Vec<String> =
            harvest.samples.iter().filter_map(|sample| Some(sample.value.as_ref()?.to_string())).collect();
        let parts = ["0", "1", "2", "3", "0", "1", "2", "3", "1.5", "0.5", "0.75", "oak"];
        assert_eq!(values[values.len() - 14..values.len() - 2], parts, "{harvest:?}");
        // Booleans are numbers to a point of floats.
        assert_eq!(values[values.len() - 2..], ["1", "1"], "{harvest:?}");
    }
}
