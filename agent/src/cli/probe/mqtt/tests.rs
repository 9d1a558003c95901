//! From what is said to a configuration that `check` and the driver accept, and that reads it.

use std::sync::Arc;

use bytes::Bytes;
use forebay_protocols::field::mqtt::MqttSource;
use forebay_protocols::field::source::Source;
use rustls::time_provider::DefaultTimeProvider;

use super::*;

fn listen() -> Listen {
    Listen {
        broker: "mqtt://127.0.0.1:1883".into(),
        time: Duration::from_secs(1),
        topic: "#".into(),
        mqtt_version: "3.1.1".into(),
        username: None,
        password_file: None,
        ca: None,
        certificate: None,
        key: None,
    }
}

fn tree(said: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (topic, payload) in said {
        let payload = Some(Bytes::copy_from_slice(payload.as_bytes()));
        tree.note(Heard { topic: (*topic).into(), payload, retained: false });
    }
    tree
}

/// What the printed configuration reads of the same messages: `device/point`, and the topics.
fn read_back(said: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let text = toml(&tree(said), &listen());
    let toml = format!("[agent]\nsite = \"a\"\ngateway = \"b\"\n{text}");
    let agent = load::agent_text("printed.toml", &toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    let mut source = MqttSource::new(&agent.links[0], Arc::new(DefaultTimeProvider))
        .unwrap_or_else(|error| panic!("{error}\n{toml}"));
    let mut read = Vec::new();
    for (topic, payload) in said {
        let harvest = source.read(topic, payload.as_bytes());
        for sample in harvest.samples {
            let point = &source.points()[sample.slot];
            assert!(sample.value.is_some(), "{topic} {payload}: {sample:?}\n{toml}");
            read.push(format!("{}/{}", point.device, point.name));
        }
    }
    let Protocol::Mqtt(mqtt) = &agent.links[0].protocol else { panic!("an MQTT link") };
    (read, mqtt.topics.iter().map(|topic| topic.topic.clone()).collect())
}

#[test]
fn topics_for_each_value_become_one_template() {
    let (read, topics) = read_back(&[
        ("plant/pump-1/flow", "31.5"),
        ("plant/pump-1/speed", "1450"),
        ("plant/pump-2/flow", "30.1"),
        ("plant/pump-2/speed", "1448"),
        ("plant/pump-2/mode", "auto"),
    ]);
    assert_eq!(topics, ["plant/pump-2/mode", "plant/{device}/{point}"], "the exception before the rule");
    assert_eq!(read, ["pump-1/flow", "pump-1/speed", "pump-2/flow", "pump-2/speed", "pump-2/mode"]);
}

#[test]
fn one_device_and_one_point_have_the_names_of_their_levels() {
    let (read, topics) = read_back(&[("site/oven/zone1", "200"), ("site/oven/zone2", "210")]);
    assert_eq!(
        (topics, read),
        (vec!["site/oven/{point}".into()], vec!["oven/zone1".into(), "oven/zone2".into()])
    );
    let (read, topics) = read_back(&[("a/1/temp", "1"), ("a/2/temp", "2")]);
    assert_eq!((topics, read), (vec!["a/{device}/temp".into()], vec!["1/temp".into(), "2/temp".into()]));
    assert_eq!(read_back(&[("temperature", "20")]).0, ["temperature/temperature"]);
}

#[test]
fn documents_that_say_the_same_become_one_template_with_its_time() {
    let json = |t: f64| format!(r#"{{"at":1795248000,"air":{{"temp":{t}}},"door":"open","l":[1,2]}}"#);
    let said = [
        ("sensors/north/state", json(20.5)),
        ("sensors/south/state", json(21.5)),
        ("sensors/south/info", r#"{"firmware":"1.2","uptime":5}"#.to_owned()),
    ];
    let said: Vec<_> = said.iter().map(|(topic, text)| (*topic, text.as_str())).collect();
    let (read, topics) = read_back(&said);
    assert_eq!(topics, ["sensors/south/info", "sensors/{device}/state"]);
    assert_eq!(read[..4], ["north/temp", "north/door", "north/l_0", "north/l_1"]);
    assert!(read.contains(&"info/firmware".to_owned()), "{read:?}");
    let text = toml(&tree(&said), &listen());
    assert!(text.contains("timestamp = \"/at\"") && text.contains("# 21.5"), "{text}");
}

#[test]
fn odd_topics_make_no_configuration_that_is_refused() {
    read_back(&[
        ("/", "1"),
        ("//x", "2"),
        ("a/b c/\u{1b}[2J", "3"),
        ("a/\"quoted\"/x", "4"),
        ("x/t", r#"{"a":{"v":1},"b":{"v":2},"c d":3,"c_d":4}"#),
        ("x/u", "on"),
        ("x/v", "off"),
        ("y/t", "7"),
    ]);
    // Both readings of one topic stay in order: now this, now that.
    let text = toml(&tree(&[("a/{device}", "1"), ("b/+", "1")]), &listen());
    assert!(text.contains("nothing to configure"), "{text}");
}

#[test]
fn the_tree_shows_samples_and_cannot_be_used_to_write_on_the_screen() {
    let mut tree = tree(&[("plant/pump/flow", "1"), ("plant/pump/flow", "2\x1b[2J"), ("plant/fan", "off")]);
    tree.note(Heard {
        topic: "plant/raw".into(),
        payload: Some(Bytes::from_static(b"\xff\xfe")),
        retained: true,
    });
    let text = shown(&tree, &listen());
    let lines: Vec<&str> = text.lines().take(5).collect();
    assert_eq!(
        lines,
        [
            "plant",
            "  fan     off",
            "  pump",
            "    flow  2\\u{1b}[2J  (2 messages)",
            "  raw     (2 bytes that are no text)  (kept by the broker)",
        ]
    );
}

#[test]
fn a_broker_with_millions_of_topics_does_not_fill_the_memory() {
    let mut tree = Tree::default();
    for n in 0..MOST_TOPICS + 5 {
        tree.note(Heard {
            topic: format!("t/{n}"),
            payload: Some(Bytes::from_static(b"1")),
            retained: false,
        });
    }
    assert_eq!((tree.topics.len(), tree.passed_over), (MOST_TOPICS, 5));
    let large = Bytes::from(vec![b'1'; MOST_BYTES + 1]);
    tree.note(Heard { topic: "t/1".into(), payload: Some(large), retained: false });
    assert!(tree.topics["t/1"].sample.ends_with("(16385 bytes)"), "{}", tree.topics["t/1"].sample);
}

#[test]
fn a_wrong_broker_is_told_with_the_way_out() {
    let why = link(&Listen { broker: "10.0.0.5".into(), ..listen() }).unwrap_err();
    assert!(why.contains("mqtt://"), "{why}");
    let missing = Some("/nowhere/password".into());
    let with_user = Listen { username: Some("me".into()), password_file: missing, ..listen() };
    assert!(link(&with_user).unwrap_err().contains("/nowhere/password"));
}
