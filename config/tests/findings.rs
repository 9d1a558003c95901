//! What an operator reads after a mistake.

use std::time::Duration;

use forebay_config::agent::{LogFormat, Order, WhenFull};
use forebay_config::field::{ByteOrder, Parity, Payload, PointKind, Protocol, RawType, Register};
use forebay_config::load::{self, Finding};
use forebay_config::server::Store;
use forebay_config::units::{ByteSize, Secret};

fn refused(text: &str) -> Vec<Finding> {
    load::agent_text("agent.toml", text).expect_err("this configuration has mistakes").0
}

#[test]
fn the_example_of_the_agent_is_accepted_whole() {
    let agent = load::agent_text("agent.toml", include_str!("../examples/agent.toml"))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((agent.site.as_str(), agent.gateway.as_str()), ("north", "boiler-house"));
    assert_eq!(agent.buffer.max_size, ByteSize::mib(1024));
    assert_eq!(agent.buffer.when_full, WhenFull::DropOldest);
    assert_eq!(agent.log.format, LogFormat::Auto);
    let names: Vec<&str> = agent.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["boiler", "meters", "press", "hall"], "links keep the order of the file");

    let Protocol::ModbusTcp(tcp) = &agent.links[0].protocol else { panic!("boiler is Modbus TCP") };
    let pump = &tcp.bus.devices[0];
    assert_eq!(pump.points.len(), 9);
    assert_eq!(pump.points[2].raw, RawType::Float32);
    assert_eq!(pump.points[3].meta.kind, PointKind::Counter);
    assert_eq!(pump.points[3].interval, Duration::from_secs(10));
    assert_eq!((pump.points[4].register, pump.points[4].raw), (Register::Coil, RawType::Bool));
    assert_eq!(pump.points[5].raw, RawType::Bit(3));

    let Protocol::ModbusRtu(rtu) = &agent.links[1].protocol else { panic!("meters is Modbus RTU") };
    assert_eq!((rtu.baud, rtu.parity), (9600, Parity::Even));
    assert_eq!(rtu.bus.devices[0].byte_order, ByteOrder::Cdab);
    assert_eq!(rtu.bus.devices[0].interval, Duration::from_secs(5), "devices inherit the link's interval");

    let Protocol::Mqtt(mqtt) = &agent.links[3].protocol else { panic!("hall is MQTT") };
    assert_eq!(mqtt.client_id, "forebay-north-boiler-house-hall");
    assert!(matches!(&mqtt.topics[1].payload, Payload::Json { points, .. } if points.len() == 2));
}

#[test]
fn the_defaults_in_the_examples_are_the_defaults() {
    let least = "[agent]\nsite = \"north\"\ngateway = \"boiler-house\"\n";
    let bare = load::agent_text("agent.toml", least).expect("the least that is needed");
    let example = load::agent_text("agent.toml", include_str!("../examples/agent.toml")).expect("valid");
    assert_eq!(bare.buffer, example.buffer);
    assert_eq!(bare.uplink, example.uplink);
    assert_eq!(bare.telemetry, example.telemetry);
    assert_eq!(bare.log, example.log);
    assert_eq!(bare.state_dir, example.state_dir);

    let bare = load::server(None).expect("a server needs no configuration");
    let mut example =
        load::server_text("server.toml", include_str!("../examples/server.toml")).expect("valid");
    assert_eq!(example.sync.address.take().as_deref(), Some("forebay.example:8443"));
    assert_eq!(bare, example);
}

#[test]
fn five_mistakes_are_told_at_once_with_line_and_column() {
    let text = r#"[agent]
site = "north"
gateway = "a/b"

[link.boiler.modbus-tcp]
adress = "10.0.0.5:502"

[link.boiler.device.pump.points]
speed = { address = 70000 }
flow = { address = 1, type = "float23" }

[buffer]
durability_window = 10
"#;
    let found = refused(text);
    let places: Vec<(usize, usize, &str)> =
        found.iter().map(|f| (f.line, f.column, f.key.as_str())).collect();
    assert_eq!(
        places,
        [
            (3, 11, "agent.gateway"),
            (5, 14, "link.boiler.modbus-tcp"),
            (6, 1, "link.boiler.modbus-tcp.adress"),
            (9, 21, "link.boiler.device.pump.points.speed.address"),
            (10, 30, "link.boiler.device.pump.points.flow.type"),
            (13, 21, "buffer.durability_window"),
        ]
    );
    assert_eq!(found[2].hint, "did you mean `address`?");
    assert_eq!(found[3].message, "70000 is not between 0 and 65535");
    assert_eq!(found[4].hint, "did you mean \"float32\"?");
    assert!(found[5].message.starts_with("10 is not a duration"), "{}", found[5].message);
}

#[test]
fn words_of_other_collectors_name_ours() {
    let text = "[agent]\nsite = \"n\"\ngateway = \"g\"\n[link.b.modbus-rtu]\nport = \"/dev/ttyS0\"\nbaud_rate = 9600\n\
                [link.b.device.d]\nslave_id = 3\npoints.p = { address = 1 }\n";
    let hints: Vec<String> = refused(text).into_iter().map(|f| f.hint).collect();
    assert_eq!(hints, ["did you mean `baud`?", "did you mean `unit_id`?"]);
}

#[test]
fn a_rate_no_port_knows_is_refused_in_the_words_of_the_house() {
    let text = "[agent]\nsite = \"n\"\ngateway = \"g\"\n[link.boiler.modbus-rtu]\nport = \"/dev/ttyS0\"\nbaud = 9500\n\
                [link.boiler.device.d]\npoints.p = { address = 1 }\n";
    let found = refused(text);
    assert_eq!(
        found[0].to_string(),
        "link.boiler.modbus-rtu.baud: 9500 is not a standard rate (agent.toml:6:8)\n  hint: did you mean 9600?"
    );
}

/// The points of a device with these points, by the words of the manual.
fn modicon(points: &str) -> Result<Vec<(Register, u16, RawType)>, Vec<Finding>> {
    let text = format!(
        "[agent]\nsite = \"n\"\ngateway = \"g\"\n[link.b.modbus-tcp]\naddress = \"h\"\n\
         [link.b.device.d]\naddressing = \"modicon\"\n[link.b.device.d.points]\n{points}"
    );
    let agent = load::agent_text("agent.toml", &text).map_err(|found| found.0)?;
    let Protocol::ModbusTcp(tcp) = &agent.links[0].protocol else { return Ok(Vec::new()) };
    Ok(tcp.bus.devices[0].points.iter().map(|p| (p.register, p.address, p.raw)).collect())
}

#[test]
fn addresses_may_be_written_as_in_the_manual() {
    let points = "a = { address = 40001 }\nb = { address = 49999 }\nc = { address = 400001 }\n\
                  d = { address = 465536 }\ne = { address = 30010, type = \"bcd32\" }\n\
                  f = { address = 10001 }\ng = { address = 1, register = \"coil\" }\nh = { address = 165536 }\n";
    assert_eq!(
        modicon(points).expect("valid"),
        [
            (Register::Holding, 0, RawType::Uint16),
            (Register::Holding, 9_998, RawType::Uint16),
            (Register::Holding, 0, RawType::Uint16),
            (Register::Holding, 65_535, RawType::Uint16),
            (Register::Input, 9, RawType::Bcd32),
            (Register::Discrete, 0, RawType::Bool),
            (Register::Coil, 0, RawType::Bool),
            (Register::Discrete, 65_535, RawType::Bool),
        ]
    );
}

#[test]
fn an_address_of_another_table_than_the_one_named_is_told_with_its_place() {
    let found = modicon("p = { address = 30001, register = \"holding\" }\n").expect_err("two tables");
    assert_eq!(
        found[0].to_string(),
        "link.b.device.d.points.p.register: the address is one of the \"input\" table (agent.toml:9:35)\n  \
         hint: leave `register` away, or correct the address"
    );
    assert_eq!(found.len(), 1);
}

#[test]
fn addresses_of_no_table_are_refused() {
    for wrong in ["0", "10000", "20001", "40000", "50000", "400000", "465537", "-1", "1000000"] {
        let found = modicon(&format!("p = {{ address = {wrong} }}\n")).expect_err("no such address");
        assert_eq!((found.len(), found[0].line, found[0].column), (1, 9, 17), "{wrong}: {found:?}");
    }
    let found = modicon("p = { address = 465536, type = \"uint32\" }\n").expect_err("beyond the end");
    assert!(found[0].message.contains("beyond 65535"), "{found:?}");
    let hint = &modicon("p = { address = 50000 }\n").expect_err("no table")[0].hint;
    assert!(hint.contains("410000"), "{hint}");
}

#[test]
fn a_number_of_the_manual_in_zero_based_addressing_names_the_way_to_write_it() {
    let text = "[agent]\nsite = \"n\"\ngateway = \"g\"\n[link.b.modbus-tcp]\naddress = \"h\"\n\
                [link.b.device.d]\npoints.p = { address = 400001 }\n";
    assert!(refused(text)[0].hint.contains("addressing = \"modicon\""));
}

#[test]
fn requests_in_flight_need_numbers_and_no_pause() {
    let load = |keys: &str| {
        let text = format!(
            "[agent]\nsite = \"n\"\ngateway = \"g\"\n[link.b.modbus-tcp]\naddress = \"h\"\n{keys}\n\
             [link.b.device.d]\npoints.p = {{ address = 1 }}\n"
        );
        load::agent_text("agent.toml", &text).map_err(|found| found.0)
    };
    for (keys, expected) in [
        ("", 4),
        ("in_flight = 16", 16),
        ("framing = \"rtu\"", 1),
        ("pause = \"5ms\"", 1),
        ("pause = \"5ms\"\nin_flight = 1", 1),
    ] {
        let agent = load(keys).expect("valid");
        assert!(
            matches!(&agent.links[0].protocol, Protocol::ModbusTcp(t) if t.in_flight == expected),
            "{keys}"
        );
    }
    for keys in [
        "in_flight = 2\nframing = \"rtu\"",
        "in_flight = 2\npause = \"5ms\"",
        "in_flight = 0",
        "in_flight = 17",
    ] {
        let found = load(keys).expect_err("one at a time");
        assert_eq!((found.len(), found[0].line, found[0].column), (1, 6, 13), "{keys}: {found:?}");
    }
}

#[test]
fn broken_syntax_has_a_place_too() {
    let found = refused("[agent]\nsite = \"north\ngateway = \"g\"\n");
    assert_eq!(found[0].line, 2, "{found:?}");
    assert!(!found[0].message.is_empty());
}

#[test]
fn a_secret_never_reaches_a_finding() {
    let text = "[store]\nurl = \"mysql://user:hunter2@db/forebay\"\n";
    let found = load::server_text("server.toml", text).expect_err("no PostgreSQL address");
    assert!(!found.to_string().contains("hunter2"), "{found}");
    assert!(!format!("{found:?}").contains("hunter2"));
    assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    let good =
        load::server_text("server.toml", "[store]\nurl = \"postgres://u:hunter2@db/f\"\n").expect("valid");
    assert!(matches!(good.store, Store::Postgres { .. }));
    assert!(!format!("{good:?}").contains("hunter2"));
}

#[test]
fn a_page_beyond_this_machine_has_users_and_tls() {
    let all = "[web]\nlisten = \"0.0.0.0:8080\"\n";
    let server = load::server_text("server.toml", all).expect("by default everybody logs in there");
    assert!(server.web.is_tls() && !load::server(None).expect("defaults").web.is_tls());
    let found = load::server_text("server.toml", &format!("{all}[access]\nmode = \"open\"\n"))
        .expect_err("open to all");
    assert!(found.0[0].message.contains("lets everybody in"), "{found}");
    assert_eq!((found.0[0].line, found.0.len()), (4, 1), "{found}");
    let own = "[web]\ncertificate = \"/etc/web.crt\"\nkey = \"/etc/web.key\"\n";
    assert!(load::server_text("server.toml", own).expect("a pair").web.is_tls());
    let half = load::server_text("server.toml", "[web]\nkey = \"/etc/web.key\"\n").expect_err("half a pair");
    assert!(half.0[0].message.contains("belong together"), "{half}");
    let words = "[access]\nmode = \"opened\"\nsession = \"1s\"\nrequests_per_minute = 0\n";
    assert_eq!(load::server_text("server.toml", words).expect_err("three mistakes").0.len(), 3);
}

#[test]
fn links_may_stand_in_drop_in_files_but_each_in_one() {
    let dir = tempfile::tempdir().expect("temp dir");
    let main = dir.path().join("agent.toml");
    let link = "[link.b.modbus-tcp]\naddress = \"h\"\n[link.b.device.d]\npoints.p = { address = 1 }\n";
    std::fs::write(&main, "[agent]\nsite = \"n\"\ngateway = \"g\"\n").expect("write");
    std::fs::create_dir(dir.path().join("agent.d")).expect("mkdir");
    std::fs::write(dir.path().join("agent.d/10-b.toml"), link).expect("write");
    let agent = load::agent(&main).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(agent.links.len(), 1);

    std::fs::write(dir.path().join("agent.d/20-b.toml"), link).expect("write");
    let found = load::agent(&main).expect_err("the link stands twice");
    assert_eq!(found.0[0].message, "this link stands in two files");
    assert!(found.0[0].hint.contains("10-b.toml:1"), "{found}");
}

#[test]
fn two_links_cannot_name_a_device_alike() {
    let text = "[agent]\nsite = \"n\"\ngateway = \"g\"\n\
                [link.a.modbus-tcp]\naddress = \"h\"\n[link.a.device.pump]\npoints.p = { address = 1 }\n\
                [link.b.modbus-tcp]\naddress = \"i\"\n[link.b.device.pump]\npoints.p = { address = 1 }\n";
    let found = refused(text);
    assert_eq!((found[0].line, found[0].message.as_str()), (8, "device `pump` stands in link `a` too"));
}

#[test]
fn a_missing_file_is_said_plainly() {
    let found = load::agent(std::path::Path::new("/nonexistent/agent.toml")).expect_err("no such file");
    assert!(found.0[0].message.starts_with("cannot read the file"), "{found}");
    assert_eq!(found.0.len(), 1, "nothing follows from a file that is not there: {found}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC{0,200}") {
        let _ = load::agent_text("x", &text);
        let _ = load::server_text("x", &text);
    }

    #[test]
    fn no_edit_of_the_example_makes_the_loader_panic(at in 0usize..5000, cut in 0usize..40, put in "[\\[\\]{}=\"\\.a-z0-9\n]{0,6}") {
        let text = include_str!("../examples/agent.toml");
        let start = (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let end = (start + cut..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
        let _ = load::agent_text("x", &format!("{}{put}{}", &text[..start], &text[end.max(start)..]));
    }
}

fn uplink(keys: &str) -> Result<forebay_config::agent::Uplink, Vec<Finding>> {
    let text = format!("[agent]\nsite = \"n\"\ngateway = \"g\"\n[uplink]\n{keys}\n");
    load::agent_text("agent.toml", &text).map(|agent| agent.uplink).map_err(|findings| findings.0)
}

#[test]
fn a_budget_is_written_as_people_say_it() {
    let found =
        uplink("bandwidth = \"64KiB/s\"\ndaily = \"50MiB\"\nhours = \"22:00-06:30\"\nconnections = 1")
            .unwrap();
    assert_eq!((found.bandwidth, found.daily), (Some(ByteSize::kib(64)), Some(ByteSize::mib(50))));
    let hours = found.hours.unwrap();
    let inside =
        [(21 * 60 + 59, false), (22 * 60, true), (0, true), (6 * 60 + 29, true), (6 * 60 + 30, false)];
    for (minute, expected) in inside {
        assert_eq!(hours.contains(minute), expected, "{minute}");
    }
    let day = uplink("hours = \"08:00-24:00\"").unwrap().hours.unwrap();
    assert!(day.contains(23 * 60 + 59) && !day.contains(0));
    assert_eq!(uplink("order = \"in_order\"").unwrap().order, Order::InOrder);
}

#[test]
fn a_budget_that_makes_no_sense_is_refused_with_the_way_out() {
    let table = [
        ("bandwidth = \"fast\"", "bytes a second"),
        ("bandwidth = \"10B/s\"", "10 B/s is too small"),
        ("daily = \"20KiB\"", "20.0 KiB is too small"),
        ("hours = \"22-6\"", "\"22-6\" are no hours of the day"),
        ("hours = \"22:00-22:00\"", "are no hours of the day"),
        ("hours = \"25:00-06:00\"", "are no hours of the day"),
        ("hours = \"+1:00-06:00\"", "are no hours of the day"),
        ("connections = 0", "0 is not between 1 and 16"),
        ("order = \"random\"", "\"random\" is not known here"),
        ("order = \"in_order\"\nhours = \"22:00-06:00\"", "in order nothing passes it"),
    ];
    for (keys, words) in table {
        let found = uplink(keys).unwrap_err();
        assert!(found.len() == 1 && found[0].message.contains(words), "{keys}: {found:?}");
        assert!(!found[0].hint.is_empty() || keys.starts_with("conn"), "{keys} is left without a hint");
    }
}

#[test]
fn a_proxy_is_a_url_and_its_password_stays_secret() {
    let proxy = uplink("proxy = \"http://pump%40hall:hun:ter%2F2@10.0.0.1:3128/\"").unwrap().proxy.unwrap();
    assert_eq!(proxy.address, "10.0.0.1:3128");
    let (user, password) = proxy.user.clone().unwrap();
    assert_eq!((user.as_str(), password.reveal()), ("pump@hall", "hun:ter/2"));
    assert!(!format!("{proxy:?}").contains("hun"), "{proxy:?}");
    assert_eq!(uplink("proxy = \"http://[fd00::1]:3128\"").unwrap().proxy.unwrap().user, None);
    for bad in [
        "https://u:hunter2@p:3128",
        "socks5://u:hunter2@p:1080",
        "u:hunter2@p:3128",
        "http://u:hunter2@p",
        "http://u:hunter2@:1",
        "http://u:hunter2@p:0",
        "http://u:hunter2%@p:1",
        "http://hunter2@p:1",
        "http://u:hunter2@p /:1",
        "http://u:hunter2@a:b:1",
    ] {
        let found = uplink(&format!("proxy = \"{bad}\"")).unwrap_err();
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        assert!(found[0].message.starts_with("this is no proxy"), "{found:?}");
    }
}

#[test]
fn a_tail_leaves_room_for_what_was_not_sent_yet() {
    let text = |buffer: &str| format!("[agent]\nsite = \"n\"\ngateway = \"g\"\n[buffer]\n{buffer}\n");
    let found = refused(&text("max_size = \"8MiB\"\ntail = \"5MiB\""));
    assert_eq!((found[0].line, found[0].key.as_str()), (6, "buffer.tail"));
    assert_eq!(found[0].message, "5.0 MiB leaves too little of max_size = 8.0 MiB to what was not sent yet");
    assert_eq!(found[0].hint, "at most half of it, 4.0 MiB; or \"0B\" to keep nothing");
    let tail = |buffer: &str| load::agent_text("agent.toml", &text(buffer)).expect("valid").buffer.tail;
    assert_eq!(tail("max_size = \"8MiB\""), ByteSize::mib(2), "the default shrinks with the budget");
    assert_eq!(tail("max_size = \"8MiB\"\ntail = \"4MiB\""), ByteSize::mib(4));
    assert_eq!(tail("tail = \"0B\""), ByteSize(0));
}

#[test]
fn a_full_buffer_may_thin() {
    let text = "[agent]\nsite = \"n\"\ngateway = \"g\"\n[buffer]\nwhen_full = \"thin\"\n";
    assert_eq!(load::agent_text("agent.toml", text).expect("valid").buffer.when_full, WhenFull::Thin);
}

#[test]
fn a_point_belongs_to_the_first_class_that_names_it_and_patterns_are_judged() {
    let least = "[agent]\nsite = \"n\"\ngateway = \"g\"\n[buffer]\nwhen_full = \"stop\"\n";
    let text = format!(
        "{least}[class.urgent]\npoints = [\"*/alarm_*\"]\n[class.trends]\nwhen_full = \"drop_oldest\"\npoints = [\"pump/*\"]\n"
    );
    let agent = load::agent_text("agent.toml", &text).expect("valid");
    let of = |device: &str, point: &str| {
        agent.classes.iter().find(|class| class.holds(device, point)).map(|class| class.name.as_str())
    };
    assert_eq!(
        (of("pump", "alarm_1"), of("pump", "speed"), of("fan", "speed")),
        (Some("urgent"), Some("trends"), None)
    );
    assert_eq!(agent.classes[0].when_full, WhenFull::Stop, "a class without a rule has the buffer's");

    let found = refused(&format!("{least}[class.alarms]\npoints = [\"pump\"]\nwhen = 1\n"));
    let words: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(words[0].contains("\"pump\" is not device/point"), "{words:?}");
    assert!(words[1].contains("unknown key `when`"), "{words:?}");
}

/// The one Modbus point `p` with these keys, and what is said of it.
fn modbus_point(keys: &str) -> Result<forebay_config::field::ModbusPoint, String> {
    let text = format!(
        "[agent]\nsite = \"n\"\ngateway = \"g\"\n[link.b.modbus-tcp]\naddress = \"h\"\n\
         [link.b.device.d]\npoints.p = {{ address = 1, {keys} }}\n"
    );
    let agent = load::agent_text("agent.toml", &text).map_err(|findings| findings.to_string())?;
    let Protocol::ModbusTcp(tcp) = &agent.links[0].protocol else { return Err("not Modbus TCP".into()) };
    Ok(tcp.bus.devices[0].points[0].clone())
}

#[test]
fn words_for_numbers_make_a_state_and_need_whole_numbers() {
    let point = modbus_point("enum = { 0 = \"off\", -1 = \"fault\" }, type = \"int16\"").unwrap();
    let labels: Vec<_> = point.labels.iter().map(|(number, word)| (*number, word.as_str())).collect();
    assert_eq!((labels, point.meta.kind), (vec![(-1, "fault"), (0, "off")], PointKind::State));
    for (keys, words) in [
        ("enum = { on = \"on\" }", "`on` is not a whole number"),
        ("enum = { 0 = 1 }", "p.enum: "),
        ("enum = { 0 = \"\" }", "the word for 0 is empty"),
        ("enum = { 0 = \"a\", 00 = \"b\" }", "0 stands twice"),
        ("enum = {}", "0 words; 1 to 256"),
        ("enum = \"off\"", "enum = { 0 = \"off\", 1 = \"on\" }"),
        ("enum = { 0 = \"off\" }, type = \"float32\"", "`enum` needs a type of whole numbers"),
        ("enum = { 0 = \"off\" }, scale = 0.1", "`scale` needs a number"),
    ] {
        let said = modbus_point(keys).unwrap_err();
        assert!(said.contains(words), "{keys}: {said}");
    }
}

#[test]
fn a_rollover_needs_a_counter_of_a_known_width() {
    let point = modbus_point("rollover = true, scale = 0.1").unwrap();
    assert_eq!((point.rollover, point.meta.kind), (true, PointKind::Counter));
    for (keys, words) in [
        ("rollover = true, type = \"int16\"", "only uint8, uint16, uint32, bcd16 and bcd32"),
        ("rollover = true, type = \"uint64\"", "begin again at 0"),
        ("rollover = 1", "rollover = true"),
        ("rollover = true, enum = { 0 = \"a\" }", "a counter has no words"),
    ] {
        let said = modbus_point(keys).unwrap_err();
        assert!(said.contains(words), "{keys}: {said}");
    }
}

#[test]
fn a_shared_subscription_names_its_group_and_a_topic() {
    let text = |topic: &str| {
        format!(
            "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.hall.mqtt]\nbroker = \"mqtt://h\"\n\
             [[link.hall.topic]]\ntopic = \"{topic}\"\n"
        )
    };
    load::agent_text("t.toml", &text("$share/gateways/plant/{device}/{point}"))
        .expect("a shared subscription");
    for topic in [
        "$share/gateways",
        "$share//{device}/{point}",
        "$share/{device}/{point}",
        "$share/+/{device}/{point}",
    ] {
        let found = load::agent_text("t.toml", &text(topic)).expect_err(topic).to_string();
        assert!(found.contains("$share/GROUP/TOPIC") && found.contains("t.toml:7:9"), "{topic}: {found}");
    }
}

#[test]
fn the_direction_of_a_transceiver_is_told_in_whole_milliseconds() {
    let rtu = |keys: &str| {
        let text = format!(
            "[agent]\nsite = \"n\"\ngateway = \"g\"\n[link.b.modbus-rtu]\nport = \"/dev/ttyS0\"\n{keys}\n\
             [link.b.device.d]\npoints.p = {{ address = 1 }}\n"
        );
        let agent = load::agent_text("agent.toml", &text).map_err(|findings| findings.to_string())?;
        let Protocol::ModbusRtu(rtu) = &agent.links[0].protocol else { panic!("not Modbus RTU") };
        Ok::<_, String>(rtu.rs485)
    };
    assert_eq!(rtu(""), Ok(None));
    let set = rtu("rs485 = { rts_on_send = \"low\", delay_after = \"2ms\" }").unwrap().unwrap();
    assert_eq!(
        (set.rts_high_on_send, set.delay_before, set.delay_after.as_millis()),
        (false, Duration::ZERO, 2)
    );
    assert!(rtu("rs485 = {}").unwrap().unwrap().rts_high_on_send);
    for (keys, words) in [
        ("rs485 = { delay_before = \"500us\" }", "whole milliseconds up to 100ms"),
        ("rs485 = { delay_after = \"1s\" }", "1s is not a number of whole milliseconds"),
        ("rs485 = { rts = \"low\" }", "unknown key `rts`"),
        ("rs485 = true", "rs485: "),
    ] {
        let said = rtu(keys).unwrap_err();
        assert!(said.contains(words), "{keys}: {said}");
    }
}

#[test]
fn retention_is_by_class_and_what_a_class_does_not_say_is_as_for_all() {
    let text = "[retention]\nreadings = \"90d\"\nminutes = \"730d\"\n\
                [retention.class.alarms]\npoints = [\"*/alarm_*\"]\nreadings = \"forever\"\nminutes = \"forever\"\n";
    let server = load::server_text("server.toml", text).unwrap_or_else(|e| panic!("{e}"));
    let days = |days: u64| Some(Duration::from_secs(days * 86_400));
    let retention = &server.retention;
    assert_eq!(
        (retention.kept.readings, retention.kept.minutes, retention.kept.hours),
        (days(90), days(730), None)
    );
    assert_eq!((retention.classes[0].kept.readings, retention.classes[0].kept.days), (None, None));
    assert_eq!(retention.class_of("pump", "alarm_1"), Some(0));
    assert_eq!(retention.class_of("pump", "speed"), None);
    assert!(!retention.is_endless());
    assert!(load::server(None).expect("no configuration").retention.is_endless());
}

#[test]
fn retention_that_cannot_be_kept_is_refused_with_the_way_out() {
    let text = "[retention]\nreadings = \"1d\"\nhours = \"90\"\n[retention.class.meters]\npoints = [\"meter/*\"]\n\
                readings = \"400d\"\nminutes = \"365d\"\n";
    let found = load::server_text("server.toml", text).expect_err("three mistakes").0;
    let told: Vec<(usize, &str)> = found.iter().map(|f| (f.line, f.message.as_str())).collect();
    assert_eq!(
        told,
        [
            (2, "\"1d\" is too short"),
            (3, "\"90\" is not a duration"),
            (7, "minutes would go before the readings they are made from"),
        ]
    );
    assert!(found[0].hint.contains("2d") && found[2].hint.contains("forever"), "{found:?}");
}
