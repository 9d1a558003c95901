//! The driver against a scripted broker on a real socket: refusals, silence, lies, lost
//! connections. Bytes are written by hand, so that nothing here shares code with the client.

use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::{
    Broker, DataType, Link, Mqtt, MqttTopic, MqttVersion, Payload, PointKind, Protocol,
};
use forebay_config::units::{ByteSize, Name};
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::MqttSource;
use crate::field::source::{Harvest, LinkFault, Source};
use crate::reading::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const CONNECT: u8 = 1;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// What a web server says to a CONNECT.
const HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n";

/// A broker that does what the test says.
struct Peer(TcpListener);

/// One of its connections.
struct Wire(TcpStream);

impl Peer {
    async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn link(&self, version: MqttVersion) -> Link {
        let port = self.0.local_addr().unwrap().port();
        let topic = MqttTopic {
            topic: "plant/{device}/{point}".into(),
            device: None,
            qos: 1,
            payload: Payload::Plain {
                point: None,
                data_type: DataType::Integer,
                unit: String::new(),
                kind: PointKind::Gauge,
            },
        };
        Link {
            name: Name::new("hall").unwrap(),
            interval: Duration::from_secs(1),
            timeout: PATIENCE,
            backoff_max: Duration::from_secs(1),
            protocol: Protocol::Mqtt(Mqtt {
                broker: Broker { host: "127.0.0.1".into(), port, tls: false },
                version,
                client_id: "forebay-test".into(),
                user: None,
                ca: None,
                identity: None,
                keep_alive: Duration::from_secs(5),
                max_packet: ByteSize(1_000),
                topics: vec![topic],
            }),
        }
    }

    fn source(&self, version: MqttVersion) -> MqttSource {
        source(&self.link(version))
    }

    async fn accept(&self) -> Wire {
        Wire(timeout(PATIENCE, self.0.accept()).await.expect("somebody connects").unwrap().0)
    }

    /// Accepts a connection and grants its subscription.
    async fn welcome(&self, version: MqttVersion) -> Wire {
        let mut wire = self.accept().await;
        wire.hear(CONNECT).await;
        match version {
            MqttVersion::V311 => {
                wire.say(&[0x20, 2, 0, 0]).await;
                wire.grant(1).await;
            }
            MqttVersion::V5 => {
                wire.say(&[0x20, 3, 0, 0, 0]).await;
                let body = wire.hear(SUBSCRIBE).await;
                wire.say(&[0x90, 4, body[0], body[1], 0, 1]).await;
            }
        }
        wire
    }
}

impl Wire {
    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Reads the next packet, which must be of `kind`; gives its body.
    async fn hear(&mut self, kind: u8) -> Vec<u8> {
        timeout(PATIENCE, async {
            let first = self.0.read_u8().await.expect("a packet");
            assert_eq!(first >> 4, kind, "another packet was expected");
            let (mut length, mut shift) = (0usize, 0);
            loop {
                let byte = self.0.read_u8().await.unwrap();
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            body
        })
        .await
        .expect("the client speaks")
    }

    /// Answers a 3.1.1 subscription.
    async fn grant(&mut self, code: u8) {
        let body = self.hear(SUBSCRIBE).await;
        self.say(&[0x90, 3, body[0], body[1], code]).await;
    }

    async fn hear_puback(&mut self) -> u16 {
        let body = self.hear(PUBACK).await;
        u16::from_be_bytes([body[0], body[1]])
    }
}

fn source(link: &Link) -> MqttSource {
    MqttSource::new(link, Arc::new(DefaultTimeProvider)).unwrap()
}

/// A 3.1.1 PUBLISH of `payload` on `plant/pump/flow`; QoS 1 if it has an identifier.
fn publish(packet_id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let topic = b"plant/pump/flow";
    let mut body = vec![0, topic.len() as u8];
    body.extend_from_slice(topic);
    body.extend(packet_id.iter().flat_map(|id| id.to_be_bytes()));
    body.extend_from_slice(payload);
    let mut bytes = vec![if packet_id.is_some() { 0x32 } else { 0x30 }];
    bytes.extend(remaining_length(body.len()));
    bytes.extend(body);
    bytes
}

/// A 3.1.1 PUBLISH at QoS 1 in the form of `version`, which may have properties, none here.
fn of(version: MqttVersion, mut bytes: Vec<u8>) -> Vec<u8> {
    if version == MqttVersion::V5 {
        // Short packets have one byte of length; the properties stand behind the packet identifier.
        let behind = 2 + 2 + usize::from(bytes[3]) + 2;
        bytes.insert(behind, 0);
        bytes[1] += 1;
    }
    bytes
}

fn remaining_length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = length > 127;
        bytes.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            return bytes;
        }
    }
}

/// Connects `source` while `script` plays the broker.
async fn connect<T>(source: &mut MqttSource, script: impl Future<Output = T>) -> (Result<(), LinkFault>, T) {
    tokio::join!(source.connect(), script)
}

async fn next(source: &mut MqttSource) -> Result<Harvest, LinkFault> {
    timeout(PATIENCE, source.next()).await.expect("something happens")
}

fn integers(harvest: &Harvest) -> Vec<i64> {
    let integer = |value: &Option<Value>| match value {
        Some(Value::Integer(whole)) => *whole,
        other => panic!("{other:?} is not an integer"),
    };
    harvest.samples.iter().map(|sample| integer(&sample.value)).collect()
}

#[tokio::test]
async fn a_refusal_is_sorted_by_what_the_link_task_must_do() {
    for (version, answer, word, refused) in [
        (MqttVersion::V311, &[0x20, 2, 0, 1][..], "version = \"5\"", true),
        (MqttVersion::V311, &[0x20, 2, 0, 2], "client_id", true),
        (MqttVersion::V311, &[0x20, 2, 0, 3], "unavailable", false),
        (MqttVersion::V311, &[0x20, 2, 0, 4], "password", true),
        (MqttVersion::V311, &[0x20, 2, 0, 5], "authorised", true),
        (MqttVersion::V311, HTTP, "does not speak", true),
        (MqttVersion::V5, &[0x20, 3, 0, 0x86, 0], "password", true),
        (MqttVersion::V5, &[0x20, 3, 0, 0x84, 0], "version = \"3.1.1\"", true),
        (MqttVersion::V5, &[0x20, 3, 0, 0x89, 0], "ServerBusy", false),
        (MqttVersion::V5, &[0x20, 2, 0, 1], "does it speak this `version`", false),
    ] {
        let peer = Peer::listen().await;
        let mut source = peer.source(version);
        let (result, ()) = connect(&mut source, async {
            let mut wire = peer.accept().await;
            wire.hear(CONNECT).await;
            wire.say(answer).await;
        })
        .await;
        let fault = result.unwrap_err();
        assert_eq!(matches!(fault, LinkFault::Refused { .. }), refused, "{answer:?}: {fault:?}");
        assert!(fault.to_string().contains(word), "{answer:?}: {fault}");
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    drop(peer);
    let fault = source.connect().await.unwrap_err();
    assert!(matches!(fault, LinkFault::Unreachable { .. }), "{fault:?}");
}

#[tokio::test]
async fn a_silent_broker_costs_no_more_than_the_timeout() {
    let peer = Peer::listen().await;
    let mut link = peer.link(MqttVersion::V311);
    link.timeout = Duration::from_millis(200);
    let (result, _wire) = connect(&mut source(&link), peer.accept()).await;
    let fault = result.unwrap_err();
    assert!(matches!(&fault, LinkFault::Unreachable { why, .. } if why.contains("200ms")), "{fault:?}");
}

#[tokio::test]
async fn one_connect_is_one_attempt() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, _) = connect(&mut source, async { drop(peer.accept().await) }).await;
    assert!(result.is_err());
    assert!(source.next().await.is_err(), "not connected");
    let ours = TcpStream::connect(peer.0.local_addr().unwrap()).await.unwrap();
    let (_, from) = peer.0.accept().await.unwrap();
    assert_eq!(from, ours.local_addr().unwrap(), "the next to connect is the test, not the client");
}

#[tokio::test]
async fn a_refused_subscription_names_its_topic() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, _wire) = connect(&mut source, async {
        let mut wire = peer.accept().await;
        wire.hear(CONNECT).await;
        wire.say(&[0x20, 2, 0, 0]).await;
        wire.grant(0x80).await;
        wire
    })
    .await;
    let fault = result.unwrap_err();
    assert!(matches!(&fault, LinkFault::Refused { why, .. } if why.contains("plant/+/+")), "{fault:?}");
}

#[tokio::test]
async fn a_session_that_goes_on_may_speak_before_the_subscription_is_granted() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, _wire) = connect(&mut source, async {
        let mut wire = peer.accept().await;
        wire.hear(CONNECT).await;
        wire.say(&[0x20, 2, 1, 0]).await;
        wire.say(&publish(Some(3), b"33")).await;
        wire.grant(1).await;
        wire
    })
    .await;
    result.unwrap();
    assert_eq!(integers(&next(&mut source).await.unwrap()), [33]);
}

#[tokio::test]
async fn the_broker_hears_of_a_message_only_through_its_receipt() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    wire.say(&publish(Some(1), b"10")).await;
    drop(next(&mut source).await.unwrap().receipt.expect("QoS 1 gives a receipt"));
    wire.say(&publish(Some(2), b"20")).await;
    next(&mut source).await.unwrap().receipt.unwrap().confirm();
    assert_eq!(wire.hear_puback().await, 2, "1 was never durable");
    wire.say(&publish(None, b"30")).await;
    assert!(next(&mut source).await.unwrap().receipt.is_none(), "QoS 0 waits for nothing");
}

#[tokio::test]
async fn a_late_receipt_does_not_acknowledge_another_message_of_the_next_connection() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    wire.say(&publish(Some(1), b"10")).await;
    let late = next(&mut source).await.unwrap().receipt.unwrap();
    drop(wire);
    assert!(matches!(next(&mut source).await, Err(LinkFault::Lost { .. })));

    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    late.confirm();
    wire.say(&publish(Some(1), b"99")).await;
    drop(next(&mut source).await.unwrap().receipt.expect("1 waits for its own receipt"));
    wire.say(&publish(Some(2), b"98")).await;
    next(&mut source).await.unwrap().receipt.unwrap().confirm();
    assert_eq!(wire.hear_puback().await, 2, "nobody confirmed 1 on this connection");
}

#[tokio::test]
async fn thousands_of_acknowledgements_at_once_all_go_out_in_order() {
    const MANY: u16 = 5_000;
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    let flood: Vec<u8> = (1..=MANY).flat_map(|id| publish(Some(id), b"1")).collect();
    wire.say(&flood).await;
    let (mut receipts, mut samples) = (Vec::new(), 0);
    while samples < usize::from(MANY) {
        let harvest = next(&mut source).await.unwrap();
        assert!(harvest.samples.len() <= super::MOST_AT_ONCE);
        samples += harvest.samples.len();
        receipts.extend(harvest.receipt);
    }
    receipts.into_iter().for_each(|receipt| receipt.confirm());
    for packet_id in 1..=MANY {
        assert_eq!(wire.hear_puback().await, packet_id);
    }
}

#[tokio::test]
async fn acknowledgements_leave_in_the_order_of_the_messages_whatever_was_durable_first() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let peer = Peer::listen().await;
        let mut source = peer.source(version);
        let (result, mut wire) = connect(&mut source, peer.welcome(version)).await;
        result.unwrap();
        let mut receipts = Vec::new();
        for packet_id in 1..=3 {
            wire.say(&of(version, publish(Some(packet_id), b"1"))).await;
            receipts.push(next(&mut source).await.unwrap().receipt.unwrap());
        }
        // As a message of no topic of ours, which needs no disk, overtakes one that waits for it.
        receipts.remove(1).confirm();
        receipts.into_iter().for_each(|receipt| receipt.confirm());
        for packet_id in 1..=3 {
            assert_eq!(wire.hear_puback().await, packet_id, "{version:?}");
        }
    }
}

#[tokio::test]
async fn an_mqtt_5_broker_is_told_how_many_messages_and_how_large_ones_we_take() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V5);
    let (_, body) = connect(&mut source, async {
        let mut wire = peer.accept().await;
        wire.hear(CONNECT).await
    })
    .await;
    // Name, level, flags, keep-alive: ten bytes; then the properties (MQTT 5, 3.1.2.11).
    let properties = &body[11..11 + usize::from(body[10])];
    let has = |wanted: &[u8]| properties.windows(wanted.len()).any(|bytes| bytes == wanted);
    assert!(has(&[0x21, 0x20, 0x00]), "receive maximum 8,192: {properties:x?}");
    assert!(has(&[0x27, 0, 0, 0x03, 0xe8]), "maximum packet size 1,000: {properties:x?}");
    assert!(has(&[0x11, 0xff, 0xff, 0xff, 0xff]), "a session without end: {properties:x?}");
    assert_eq!(body[7] & 2, 0, "the session goes on");
}

#[tokio::test]
async fn what_came_before_the_end_is_delivered_before_the_fault() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    // A packet type that does not exist ends the conversation in the middle of a read.
    let mut bytes: Vec<u8> = (0..25).flat_map(|n: u8| publish(None, n.to_string().as_bytes())).collect();
    bytes.extend([0x00, 0x00]);
    wire.say(&bytes).await;
    let mut heard = Vec::new();
    let fault = loop {
        match next(&mut source).await {
            Ok(harvest) => heard.extend(integers(&harvest)),
            Err(fault) => break fault,
        }
    };
    assert_eq!(heard, (0..25).collect::<Vec<i64>>());
    assert!(matches!(fault, LinkFault::Lost { .. }), "{fault:?}");
}

#[tokio::test]
async fn a_message_above_max_packet_is_discarded_and_acknowledged() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    wire.say(&publish(Some(9), &[b'1'; 10_000])).await;
    let harvest = next(&mut source).await.unwrap();
    assert_eq!((harvest.samples.len(), harvest.discarded), (0, 1));
    harvest.receipt.unwrap().confirm();
    assert_eq!(wire.hear_puback().await, 9, "or it would come again for ever");
}

#[tokio::test]
async fn a_message_far_above_max_packet_is_a_fault_with_the_way_out() {
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let peer = Peer::listen().await;
        let mut source = peer.source(version);
        let (result, mut wire) = connect(&mut source, peer.welcome(version)).await;
        result.unwrap();
        wire.say(&publish(Some(9), &[b'1'; 20_000])[..64]).await;
        let fault = next(&mut source).await.unwrap_err();
        assert!(
            matches!(&fault, LinkFault::Refused { why, .. } if why.contains("raise `max_packet`")),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn a_client_with_our_name_elsewhere_is_told_apart_from_a_bad_line() {
    // The short form without properties is valid too, but `rumqttc` waits for the rest of it.
    for (goodbye, told_apart) in [(&[0xe0, 2, 0x8e, 0][..], true), (&[0xe0, 1, 0x8e], false)] {
        let peer = Peer::listen().await;
        let mut source = peer.source(MqttVersion::V5);
        let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V5)).await;
        result.unwrap();
        wire.say(goodbye).await;
        drop(wire);
        let fault = next(&mut source).await.unwrap_err();
        let refused = matches!(&fault, LinkFault::Refused { why, .. } if why.contains("client_id"));
        assert!(refused == told_apart && (refused || matches!(fault, LinkFault::Lost { .. })), "{fault:?}");
    }
}

#[tokio::test]
async fn a_session_that_somebody_began_at_qos_2_is_served_to_its_end() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    let mut exactly_once = publish(Some(6), b"1");
    exactly_once[0] = 0x34;
    wire.say(&exactly_once).await;
    let harvest = next(&mut source).await.unwrap();
    assert_eq!(integers(&harvest), [1]);
    harvest.receipt.unwrap().confirm();
    assert_eq!(wire.hear(PUBREC).await, [0, 6]);
    wire.say(&[0x62, 2, 0, 6]).await;
    assert_eq!(wire.hear(PUBCOMP).await, [0, 6]);
}

#[tokio::test]
async fn closing_acknowledges_what_is_confirmed_and_says_goodbye() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    wire.say(&publish(Some(4), b"1")).await;
    next(&mut source).await.unwrap().receipt.unwrap().confirm();
    source.close().await;
    assert_eq!(wire.hear_puback().await, 4);
    wire.hear(DISCONNECT).await;
}

#[tokio::test]
async fn what_a_broker_sends_while_we_say_goodbye_does_not_reset_the_connection() {
    let peer = Peer::listen().await;
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let mut source = peer.source(version);
        let (result, mut wire) = connect(&mut source, peer.welcome(version)).await;
        result.unwrap();
        let closing = tokio::spawn(async move { source.close().await });
        wire.hear(DISCONNECT).await;
        // A broker is in the middle of something; then it hangs up.
        for packet_id in 1..=200 {
            wire.say(&of(version, publish(Some(packet_id), b"1"))).await;
        }
        wire.0.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let heard = timeout(PATIENCE, wire.0.read_to_end(&mut rest)).await.expect("it hangs up, too");
        assert_eq!(heard.expect("no reset"), 0, "{version:?}: nothing is acknowledged behind a goodbye");
        closing.await.unwrap();
    }
}

#[tokio::test]
async fn pings_go_out_while_nobody_takes_messages_and_a_dead_line_is_noticed() {
    let peer = Peer::listen().await;
    let mut source = peer.source(MqttVersion::V311);
    let (result, mut wire) = connect(&mut source, peer.welcome(MqttVersion::V311)).await;
    result.unwrap();
    // Nobody calls next() for a whole keep-alive period of 5 s.
    wire.hear(PINGREQ).await;
    wire.say(&publish(None, b"1")).await;
    assert_eq!(integers(&next(&mut source).await.unwrap()), [1]);
    // That ping is never answered, although the socket stays open.
    let fault = next(&mut source).await.unwrap_err();
    assert!(matches!(&fault, LinkFault::Lost { why, .. } if why.contains("pings")), "{fault:?}");
}

#[tokio::test]
async fn settings_that_the_client_library_would_panic_on_are_mended_or_refused() {
    let peer = Peer::listen().await;
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let mut link = peer.link(version);
        if let Protocol::Mqtt(mqtt) = &mut link.protocol {
            mqtt.keep_alive = Duration::ZERO;
        }
        let mut source = source(&link);
        let (_, keep_alive) = connect(&mut source, async {
            let mut wire = peer.accept().await;
            let body = wire.hear(CONNECT).await;
            wire.say(&[0x20, 2, 0, 5]).await;
            u16::from_be_bytes([body[8], body[9]])
        })
        .await;
        assert_eq!(keep_alive, 5);
        if let Protocol::Mqtt(mqtt) = &mut link.protocol {
            mqtt.client_id.clear();
        }
        assert!(MqttSource::new(&link, Arc::new(DefaultTimeProvider)).is_err());
    }
}
