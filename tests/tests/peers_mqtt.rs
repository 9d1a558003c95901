//! The MQTT driver and a Mosquitto broker, with Mosquitto's own `mosquitto_pub` as the device:
//! nothing on the other side shares code with us. Each test starts a broker of its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::{
    Broker, DataType, JsonPoint, Link, Mqtt, MqttTopic, MqttVersion, Payload, PointKind, PointMeta, Protocol,
};
use forebay_config::units::{ByteSize, Name, Secret};
use forebay_protocols::field::mqtt::MqttSource;
use forebay_protocols::field::source::{Harvest, LinkFault, Receipt, Sample, Source};
use forebay_protocols::reading::{Clock, Doubt, Fault, Quality, Stamp, Value};
use rustls::pki_types::UnixTime;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio::time::timeout;

use forebay_tests::mosquitto::{Authority, Mosquitto, Security};

const PATIENCE: Duration = Duration::from_secs(20);
const VERSIONS: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn plain(topic: &str) -> MqttTopic {
    let payload = Payload::Plain {
        point: None,
        data_type: DataType::Float,
        unit: "m³/h".into(),
        kind: PointKind::Gauge,
    };
    MqttTopic { topic: topic.into(), device: None, qos: 1, payload }
}

fn document(topic: &str) -> MqttTopic {
    let point = |point: &str, pointer: &str, data_type, scale| JsonPoint {
        meta: PointMeta { name: name(point), unit: "".into(), kind: PointKind::Gauge, scale, offset: None },
        pointer: pointer.into(),
        data_type,
    };
    let points = vec![
        point("temperature", "/raw/0", DataType::Integer, Some(0.1)),
        point("open", "/door/open", DataType::Boolean, None),
        point("mode", "/mode", DataType::Text, None),
    ];
    MqttTopic { payload: Payload::Json { timestamp: Some("/at".into()), points }, ..plain(topic) }
}

fn link(port: u16, version: MqttVersion) -> Mqtt {
    Mqtt {
        broker: Broker { host: "127.0.0.1".into(), port, tls: false },
        version,
        client_id: "forebay-mill-gw1-hall".into(),
        user: None,
        ca: None,
        identity: None,
        keep_alive: Duration::from_secs(30),
        max_packet: ByteSize::kib(1),
        topics: vec![plain("plant/{device}/{point}"), document("sensors/{device}/state")],
    }
}

fn source_by(mqtt: Mqtt, clock: Arc<dyn TimeProvider>) -> MqttSource {
    let link = Link {
        name: name("hall"),
        interval: Duration::from_secs(1),
        timeout: PATIENCE,
        backoff_max: Duration::from_secs(1),
        protocol: Protocol::Mqtt(mqtt),
    };
    MqttSource::new(&link, clock).unwrap()
}

fn source(mqtt: Mqtt) -> MqttSource {
    source_by(mqtt, Arc::new(DefaultTimeProvider))
}

async fn next(source: &mut MqttSource) -> Result<Harvest, LinkFault> {
    timeout(PATIENCE, source.next()).await.expect("something happens")
}

/// Takes harvests until `many` messages have given samples or were discarded.
async fn gather(source: &mut MqttSource, many: u64) -> (Vec<Sample>, Vec<Receipt>, u64) {
    let (mut samples, mut receipts, mut discarded) = (Vec::new(), Vec::new(), 0);
    while (samples.len() as u64) + discarded < many {
        let harvest = next(source).await.unwrap();
        samples.extend(harvest.samples);
        receipts.extend(harvest.receipt);
        discarded += harvest.discarded;
    }
    (samples, receipts, discarded)
}

fn numbers(samples: &[Sample]) -> Vec<f64> {
    samples.iter().filter_map(|sample| sample.value.as_ref()?.as_number()).collect()
}

fn refusal(result: Result<(), LinkFault>) -> String {
    match result {
        Err(fault @ LinkFault::Refused { .. }) => fault.to_string(),
        other => panic!("{other:?} is no refusal"),
    }
}

#[tokio::test]
async fn what_an_independent_publisher_sends_is_what_is_read() {
    for version in VERSIONS {
        let broker = Mosquitto::start(Security::None).await;
        broker.publish(&["-r", "-t", "plant/tank/level", "-m", "7.5"]).await;
        let mut source = source(link(broker.port, version));
        source.connect().await.unwrap();
        broker.publish(&["-t", "plant/feed pump/flow", "-m", "21.5"]).await;
        broker.publish(&["-t", "plant/feed pump/speed", "-m", "fast"]).await;
        broker.publish(&["-q", "0", "-t", "plant/feed pump/power", "-m", "-1e3"]).await;
        let json =
            r#"{"at":"2026-11-21T09:00:00.25+01:00","raw":[3],"door":{"open":"yes"},"mode":"Größe α"}"#;
        broker.publish(&["-t", "sensors/north/state", "-m", json]).await;

        let (samples, receipts, discarded) = gather(&mut source, 7).await;
        receipts.into_iter().for_each(Receipt::confirm);
        assert_eq!(discarded, 0);
        let mut read: BTreeMap<String, (Option<Value>, Quality)> = BTreeMap::new();
        for sample in samples {
            let point = &source.points()[sample.slot];
            match point.device.as_ref() {
                "north" => assert_eq!(sample.stamp, Stamp::device(1_795_248_000_250_000)),
                _ => assert_eq!(sample.stamp.clock, Clock::Boot),
            }
            read.insert(format!("{}/{}", point.device, point.name), (sample.value, sample.quality));
        }
        let expected = [
            ("feed_pump/flow", Some(Value::Float(21.5)), Quality::Good),
            ("feed_pump/power", Some(Value::Float(-1000.0)), Quality::Good),
            ("feed_pump/speed", None, Quality::Bad(Fault::WrongType)),
            ("north/mode", Some(Value::Text("Größe α".into())), Quality::Good),
            ("north/open", Some(Value::Boolean(true)), Quality::Good),
            ("north/temperature", Some(Value::Float(0.3)), Quality::Good),
            ("tank/level", Some(Value::Float(7.5)), Quality::Uncertain(Doubt::LastKnown)),
        ];
        let expected = expected.map(|(path, value, quality)| (path.to_owned(), (value, quality)));
        assert_eq!(read, BTreeMap::from(expected), "{version:?}");
        source.close().await;
    }
}

#[tokio::test]
async fn what_was_not_confirmed_comes_again_and_what_was_does_not() {
    for version in VERSIONS {
        let broker = Mosquitto::start(Security::None).await;
        let mut source = source(link(broker.port, version));
        source.connect().await.unwrap();
        broker.publish(&["-t", "plant/pump/flow", "-m", "1"]).await;
        let (samples, receipts, _) = gather(&mut source, 1).await;
        assert_eq!(numbers(&samples), [1.0]);
        receipts.into_iter().for_each(Receipt::confirm);

        broker.publish(&["-t", "plant/pump/flow", "-m", "2"]).await;
        let (samples, receipts, _) = gather(&mut source, 1).await;
        assert_eq!(numbers(&samples), [2.0]);
        drop(receipts);
        source.close().await;
        broker.publish(&["-t", "plant/pump/flow", "-m", "3"]).await;

        source.connect().await.unwrap();
        let (samples, receipts, _) = gather(&mut source, 2).await;
        assert_eq!(numbers(&samples), [2.0, 3.0], "{version:?}: 1 is durable, 3 came while we were away");
        receipts.into_iter().for_each(Receipt::confirm);
        source.close().await;
    }
}

#[tokio::test]
async fn a_restarted_broker_sends_again_what_was_not_confirmed() {
    let mut broker = Mosquitto::start(Security::None).await;
    let mut source = source(link(broker.port, MqttVersion::V311));
    source.connect().await.unwrap();
    broker.publish(&["-t", "plant/pump/flow", "-m", "1"]).await;
    let (_, receipts, _) = gather(&mut source, 1).await;
    broker.stop().await;
    assert!(matches!(next(&mut source).await, Err(LinkFault::Lost { .. })));
    assert!(matches!(source.connect().await, Err(LinkFault::Unreachable { .. })));
    receipts.into_iter().for_each(Receipt::confirm);

    broker.restart().await;
    source.connect().await.unwrap();
    let (samples, receipts, _) = gather(&mut source, 1).await;
    assert_eq!(numbers(&samples), [1.0], "the confirmation came too late for that connection");
    receipts.into_iter().for_each(Receipt::confirm);
    source.close().await;
}

#[tokio::test]
async fn tls_trusts_the_named_authority_and_shows_a_certificate() {
    let authority = Authority::new();
    let broker = Mosquitto::start(Security::Certificates(&authority)).await;
    for version in VERSIONS {
        let (cert, key) = authority.issue("gateway 1");
        let mut mqtt = link(broker.port, version);
        mqtt.broker.tls = true;
        mqtt.ca = Some(authority.file());
        mqtt.identity = Some((cert, key));
        let mut trusted = source(mqtt.clone());
        trusted.connect().await.unwrap();
        broker.publish(&["-t", "plant/pump/flow", "-m", "1"]).await;
        let (samples, receipts, _) = gather(&mut trusted, 1).await;
        assert_eq!(numbers(&samples), [1.0]);
        receipts.into_iter().for_each(Receipt::confirm);
        trusted.close().await;

        let mut nameless = source(Mqtt { identity: None, ..mqtt.clone() });
        assert!(refusal(nameless.connect().await).contains("certificate"));

        let stranger = Authority::new();
        let mut distrusted = source(Mqtt { ca: Some(stranger.file()), ..mqtt.clone() });
        assert!(refusal(distrusted.connect().await).contains("is `ca` the broker's authority"));

        let mut by_system_list = source(Mqtt { ca: None, ..mqtt.clone() });
        assert!(refusal(by_system_list.connect().await).contains("`ca`"));

        let mut woke_in_1970 = source_by(mqtt.clone(), Arc::new(Since1970));
        assert!(refusal(woke_in_1970.connect().await).contains("TLS"));

        let missing = PathBuf::from("/nonexistent/ca.pem");
        let mut mistyped = source(Mqtt { ca: Some(missing), ..mqtt.clone() });
        assert!(refusal(mistyped.connect().await).contains("/nonexistent/ca.pem"));

        mqtt.broker.tls = false;
        let fault = source(mqtt).connect().await.unwrap_err();
        assert!(fault.to_string().contains("with or without TLS"), "{fault}");
    }
}

/// The clock of a gateway without a battery, before anybody told it the time.
#[derive(Debug)]
struct Since1970;

impl TimeProvider for Since1970 {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(60)))
    }
}

#[tokio::test]
async fn a_password_opens_and_a_wrong_one_is_refused() {
    let broker = Mosquitto::start(Security::Password { user: "gateway", password: "right" }).await;
    for version in VERSIONS {
        let as_user = |password: &str| {
            let user = Some(("gateway".to_owned(), Secret::new(password)));
            source(Mqtt { user, ..link(broker.port, version) })
        };
        let mut welcome = as_user("right");
        welcome.connect().await.unwrap();
        broker.publish(&["-u", "gateway", "-P", "right", "-t", "plant/pump/flow", "-m", "1"]).await;
        let (samples, receipts, _) = gather(&mut welcome, 1).await;
        assert_eq!(numbers(&samples), [1.0]);
        receipts.into_iter().for_each(Receipt::confirm);
        welcome.close().await;
        let words = refusal(as_user("wrong").connect().await);
        assert!(words.contains("authorised") || words.contains("password"), "{words}");
        assert!(!words.contains("wrong"), "a secret is not for logs: {words}");
    }
}

#[tokio::test]
async fn mqtt_5_sends_all_ahead_and_3_1_1_sends_on_as_receipts_are_confirmed() {
    const MANY: u64 = 100;
    let broker = Mosquitto::start(Security::None).await;
    let lines: String = (0..MANY).map(|n| format!("{n}\n")).collect();
    let expected: Vec<f64> = (0..MANY).map(|n| n as f64).collect();

    let mut modern = source(link(broker.port, MqttVersion::V5));
    modern.connect().await.unwrap();
    broker.publish_lines("plant/pump/flow", &lines).await;
    let (samples, receipts, _) = gather(&mut modern, MANY).await;
    assert_eq!(numbers(&samples), expected, "all without one confirmation");
    receipts.into_iter().for_each(Receipt::confirm);
    modern.close().await;

    let mut old = source(Mqtt { client_id: "old".into(), ..link(broker.port, MqttVersion::V311) });
    old.connect().await.unwrap();
    broker.publish_lines("plant/pump/flow", &lines).await;
    // `max_inflight_messages` is 20: without a confirmation no more than that would come.
    let mut seen = Vec::new();
    while (seen.len() as u64) < MANY {
        let (samples, receipts, _) = gather(&mut old, 20.min(MANY - seen.len() as u64)).await;
        seen.extend(numbers(&samples));
        receipts.into_iter().for_each(Receipt::confirm);
    }
    assert_eq!(seen, expected, "in order, each once");
    old.close().await;
}

#[tokio::test]
async fn a_message_that_is_far_too_large_stops_the_link_until_max_packet_is_raised() {
    let broker = Mosquitto::start(Security::None).await;
    let mqtt = link(broker.port, MqttVersion::V311);
    let mut small = source(mqtt.clone());
    small.connect().await.unwrap();
    broker.publish(&["-t", "plant/pump/flow", "-m", &" ".repeat(20_000)]).await;
    broker.publish(&["-t", "plant/pump/flow", "-m", "2"]).await;
    assert!(refusal(next(&mut small).await.map(drop)).contains("raise `max_packet`"));

    let mut large = source(Mqtt { max_packet: ByteSize::kib(2), ..mqtt });
    large.connect().await.unwrap();
    let (samples, receipts, discarded) = gather(&mut large, 2).await;
    assert_eq!((numbers(&samples), discarded), (vec![2.0], 1));
    receipts.into_iter().for_each(Receipt::confirm);
    large.close().await;
}

#[tokio::test]
async fn messages_of_a_topic_taken_out_of_the_configuration_do_not_pile_up() {
    let broker = Mosquitto::start(Security::None).await;
    let mqtt = link(broker.port, MqttVersion::V5);
    let mut before = source(mqtt.clone());
    before.connect().await.unwrap();
    before.close().await;

    let only_sensors = vec![document("sensors/{device}/state")];
    let mut after = source(Mqtt { topics: only_sensors, ..mqtt.clone() });
    after.connect().await.unwrap();
    broker.publish(&["-t", "plant/pump/flow", "-m", "1"]).await;
    let (samples, receipts, discarded) = gather(&mut after, 1).await;
    assert_eq!((samples.len(), discarded), (0, 1));
    receipts.into_iter().for_each(Receipt::confirm);
    after.close().await;

    let mut again = source(mqtt);
    again.connect().await.unwrap();
    broker.publish(&["-t", "plant/pump/flow", "-m", "2"]).await;
    assert_eq!(numbers(&gather(&mut again, 1).await.0), [2.0], "1 was acknowledged although it gave nothing");
    again.close().await;
}

/// A member of the group `gateways`.
fn member(port: u16, version: MqttVersion, client: &str) -> MqttSource {
    let topics = vec![plain("$share/gateways/plant/{device}/{point}")];
    source(Mqtt { client_id: client.into(), topics, ..link(port, version) })
}

#[tokio::test]
async fn two_agents_of_a_group_get_each_message_once() {
    const MANY: u32 = 100;
    for version in VERSIONS {
        let broker = Mosquitto::start(Security::None).await;
        let mut members = [member(broker.port, version, "one"), member(broker.port, version, "two")];
        for member in &mut members {
            member.connect().await.unwrap();
        }
        let lines: String = (0..MANY).map(|n| format!("{n}\n")).collect();
        broker.publish_lines("plant/feed pump/flow", &lines).await;
        let mut seen = [Vec::new(), Vec::new()];
        while seen.iter().map(Vec::len).sum::<usize>() < MANY as usize {
            let [one, two] = &mut members;
            let (harvest, who) = tokio::select! {
                harvest = next(one) => (harvest.unwrap(), 0),
                harvest = next(two) => (harvest.unwrap(), 1),
            };
            seen[who].extend(numbers(&harvest.samples));
            harvest.receipt.into_iter().for_each(Receipt::confirm);
        }
        assert!(seen.iter().all(|numbers| !numbers.is_empty()), "{version:?}: both work: {seen:?}");
        let mut all = seen.concat();
        all.sort_by(f64::total_cmp);
        assert_eq!(all, (0..MANY).map(f64::from).collect::<Vec<_>>(), "{version:?}: each once");
        let point = &members[0].points()[0];
        assert_eq!(
            (&*point.device, &*point.name),
            ("feed_pump", "flow"),
            "the group is no part of the topic"
        );
        for member in &mut members {
            let more = timeout(Duration::from_millis(100), member.next()).await;
            assert!(more.is_err(), "{version:?}: nothing comes twice: {more:?}");
            member.close().await;
        }
    }
}

#[tokio::test]
async fn what_a_broker_gave_a_member_that_is_away_comes_when_it_is_back() {
    for version in VERSIONS {
        let broker = Mosquitto::start(Security::None).await;
        let mut members = [member(broker.port, version, "one"), member(broker.port, version, "two")];
        for member in &mut members {
            member.connect().await.unwrap();
        }
        members[1].close().await;
        broker.publish_lines("plant/pump/flow", "0\n1\n2\n3\n4\n5\n").await;
        let mut seen = Vec::new();
        // What belongs to the other one does not come here, and how much that is the broker decides.
        while let Ok(harvest) = timeout(Duration::from_millis(500), members[0].next()).await {
            let harvest = harvest.unwrap();
            seen.extend(numbers(&harvest.samples));
            harvest.receipt.into_iter().for_each(Receipt::confirm);
        }
        members[1].connect().await.unwrap();
        if seen.len() < 6 {
            let (samples, receipts, _) = gather(&mut members[1], 6 - seen.len() as u64).await;
            seen.extend(numbers(&samples));
            receipts.into_iter().for_each(Receipt::confirm);
        }
        seen.sort_by(f64::total_cmp);
        assert_eq!(seen, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{version:?}");
        members[1].close().await;
    }
}

#[tokio::test]
async fn an_mqtt_5_broker_keeps_back_what_is_too_large_and_the_link_goes_on() {
    let broker = Mosquitto::start(Security::None).await;
    let mut source = source(link(broker.port, MqttVersion::V5));
    source.connect().await.unwrap();
    broker.publish(&["-t", "plant/pump/flow", "-m", "1"]).await;
    broker.publish(&["-t", "plant/pump/flow", "-m", &" ".repeat(20_000)]).await;
    broker.publish(&["-t", "plant/pump/flow", "-m", "2"]).await;
    let (samples, receipts, discarded) = gather(&mut source, 2).await;
    assert_eq!((numbers(&samples), discarded), (vec![1.0, 2.0], 0));
    receipts.into_iter().for_each(Receipt::confirm);
    source.close().await;
}
