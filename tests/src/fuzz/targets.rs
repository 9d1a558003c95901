//! The decoders: each with valid inputs, and with the bound that its input cannot lift.

use forebay_config::field::{ByteOrder, ModbusPoint, Protocol, RawType, Register};
use forebay_config::load;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::field::modbus::frame::{self, Query, Reply};
use forebay_protocols::field::modbus::registers::Format;
use forebay_protocols::field::mqtt::MqttSource;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Decoder, Encoder, Epoch, Head, MAX_PAYLOAD, Sequence};
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::offline::{OfflineAnswer, OfflineRequest};
use forebay_protocols::sync::problem::Problem;
use forebay_protocols::sync::wire;
use prost::Message;

use super::{Made, Target};
use crate::faults::Dice;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Every target there is.
pub const TARGETS: &[Target] = &[
    Target {
        name: "modbus-tcp",
        about: "answers with an MBAP header, and the values in them",
        memory: 16 * KIB,
        make: modbus_tcp,
    },
    Target {
        name: "modbus-rtu",
        about: "answers on a serial line, checksums repaired every other time",
        memory: 16 * KIB,
        make: modbus_rtu,
    },
    Target {
        name: "mqtt",
        about: "payloads, plain and JSON, on topics of a template",
        // 10,000 points at the most, and a document of 256 KiB.
        memory: 32 * MIB,
        make: mqtt,
    },
    Target {
        name: "opcua",
        about: "answers of OPC UA servers in their frames, down to values and endpoints",
        // The library makes room for as many elements as are announced.
        memory: 192 * MIB,
        make: super::opcua::make,
    },
    Target {
        name: "batch",
        about: "batches, damaged outside and inside their checksum",
        // The payload, and 65,536 readings of it, twice while a list grows.
        memory: MAX_PAYLOAD + 48 * MIB,
        make: batch,
    },
    Target {
        name: "request",
        about: "requests of agents and answers of servers",
        memory: 4 * MIB,
        make: request,
    },
    Target { name: "joining", about: "join strings and problem documents", memory: 8 * MIB, make: joining },
    Target {
        name: "carried",
        about: "requests and answers of joins by file",
        memory: 8 * MIB,
        make: carried,
    },
    Target {
        name: "configuration",
        about: "agent.toml and server.toml",
        memory: 16 * MIB,
        make: configuration,
    },
];

const QUERIES: [Query; 3] = [
    Query { unit: 1, table: Register::Holding, address: 0, count: 10 },
    Query { unit: 7, table: Register::Coil, address: 100, count: 13 },
    Query { unit: 247, table: Register::Input, address: 65_411, count: 125 },
];

/// What a device would answer.
fn answer(query: &Query) -> Vec<u8> {
    let values = query.rtu_answer_length() - 5;
    let mut pdu = vec![query.function(), values as u8];
    pdu.extend((0..values).map(|n| n as u8));
    pdu
}

fn formats() -> Vec<Format> {
    let toml = "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.l.modbus-tcp]\naddress = \"a\"\n\
                [link.l.device.d.points]\np = { address = 1 }\n";
    let agent = load::agent_text("fuzz.toml", toml).expect("it is valid");
    let Some(Protocol::ModbusTcp(tcp)) = agent.links.first().map(|link| &link.protocol) else {
        return Vec::new();
    };
    let plain = &tcp.bus.devices[0].points[0];
    let raws = [
        RawType::Bool,
        RawType::Bit(3),
        RawType::Int8,
        RawType::Uint16,
        RawType::Int32,
        RawType::Uint64,
        RawType::Float16,
        RawType::Float32,
        RawType::Float64,
        RawType::Bcd32,
        RawType::String { registers: 9 },
    ];
    let orders = [ByteOrder::Abcd, ByteOrder::Dcba, ByteOrder::Badc, ByteOrder::Cdab];
    let plain = |raw| ModbusPoint { raw, ..plain.clone() };
    let words = |raw| {
        let labels = [(i64::MIN, "least"), (-1, "fault"), (0, "off"), (1, "on"), (i64::MAX, "most")];
        ModbusPoint { labels: labels.map(|(number, word)| (number, word.into())).into(), ..plain(raw) }
    };
    let counter = |raw| ModbusPoint { rollover: true, ..plain(raw) };
    let of_words = [RawType::Int8, RawType::Uint16, RawType::Int32, RawType::Uint64, RawType::Bcd16];
    let counters =
        [RawType::Uint8, RawType::Uint16, RawType::Uint32, RawType::Bcd16, RawType::Bcd32].map(counter);
    let points = raws.map(plain).into_iter().chain(of_words.map(words)).chain(counters);
    points.zip(orders.iter().cycle()).map(|(point, order)| Format::new(&point, *order)).collect()
}

/// The verdict on an answer, and every value in it. Was it what was asked for?
fn judge(query: &Query, pdu: &[u8], formats: &mut [Format]) -> bool {
    let Reply::Words(words) = query.judge(pdu) else { return false };
    assert_eq!(words.len(), usize::from(query.count), "as many as asked for");
    for format in formats {
        for start in 0..words.len() {
            // Counters go on from one answer to the next.
            let _ = format.value(&words[start..]);
        }
    }
    true
}

fn modbus_tcp() -> Made {
    let frames = QUERIES.iter().map(|query| {
        let pdu = answer(query);
        let length = (pdu.len() as u16 + 1).to_be_bytes();
        [&[0, 1, 0, 0][..], &length, &[query.unit], &pdu].concat()
    });
    let mut formats = formats();
    let read = move |input: &mut Vec<u8>, _: &mut Dice| {
        let Ok(Some(found)) = frame::mbap(input) else { return false };
        assert!(found.length <= input.len() && found.pdu.len() < found.length, "within what came");
        QUERIES.iter().any(|query| judge(query, found.pdu, &mut formats))
    };
    (frames.collect(), Box::new(read))
}

fn modbus_rtu() -> Made {
    let close = |body: &mut Vec<u8>| body.extend(frame::crc(body).to_le_bytes());
    let frames = QUERIES.iter().map(|query| {
        let mut body = [&[query.unit][..], &answer(query)].concat();
        close(&mut body);
        body
    });
    let mut formats = formats();
    let read = move |input: &mut Vec<u8>, dice: &mut Dice| {
        if input.len() > 2 && dice.once_in(2) {
            input.truncate(input.len() - 2);
            close(input);
        }
        let Some(found) = frame::rtu(input) else { return false };
        assert!(found.start < found.end && found.end <= input.len(), "within what came");
        QUERIES.iter().any(|query| judge(query, found.pdu, &mut formats))
    };
    (frames.collect(), Box::new(read))
}

const MQTT: &str = r#"
[agent]
site = "a"
gateway = "b"
[link.l.mqtt]
broker = "mqtt://127.0.0.1"
[[link.l.topic]]
topic = "plain/{device}/{point}"
[[link.l.topic]]
topic = "json/{device}"
timestamp = "/t"
points = { a = { pointer = "/a/0" }, b = { pointer = "/b", type = "text" }, c = { pointer = "/c~1d", type = "integer" }, d = { pointer = "/d", type = "boolean" } }
"#;

fn mqtt() -> Made {
    let corpus = [
        "plain/pump/speed\n21.5",
        "plain/pump/state\ntrue",
        "json/pump\n{\"a\":[1.5,2],\"b\":\"open\",\"c/d\":12345678901,\"d\":true,\"t\":\"2026-11-29T04:20:36.5Z\"}",
        "json/pump\n{\"a\":[\"-1e300\"],\"t\":1795926036123,\"d\":0}",
    ];
    let agent = load::agent_text("fuzz.toml", MQTT).expect("it is valid");
    let source =
        || MqttSource::new(&agent.links[0], std::sync::Arc::new(rustls::time_provider::DefaultTimeProvider));
    let mut source = source().expect("it is an MQTT link");
    let read = move |input: &mut Vec<u8>, _: &mut Dice| {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let topic = String::from_utf8_lossy(&input[..end]).into_owned();
        let harvest = source.read(&topic, input.get(end + 1..).unwrap_or_default());
        harvest
            .samples
            .iter()
            .any(|sample| sample.quality == Quality::Good || topic.starts_with("plain/pump"))
    };
    (corpus.iter().map(|words| words.as_bytes().to_vec()).collect(), Box::new(read))
}

/// Batches of all kinds of values.
fn batches() -> Vec<Vec<u8>> {
    let value = |kind: u64, n: i64| match kind {
        0 => Value::Float(n as f64 / 10.0),
        1 => Value::Float((n as f64).sin()),
        2 => Value::Integer(n * n),
        3 => Value::Boolean(n % 3 == 0),
        // Format 2: beside a decimal by a few units in the last place.
        4 => Value::Float(n as f64 * 0.001 + 0.1),
        _ => Value::Text(format!("state {}", n % 4).as_str().into()),
    };
    let mut encoder = Encoder::new();
    let boot = Boot { counter: 3, id: [1; 8], wall_offset_us: 1_795_219_200_000_000, synchronised: true };
    [(1, 1), (5, 10), (40, 60)]
        .iter()
        .map(|(points, length)| {
            let mut readings: Vec<Reading> = (0..*points)
                .flat_map(|point: u64| {
                    (0..*length).map(move |n: i64| Reading {
                        point: PointId(point as u32 + 1),
                        stamp: Stamp::boot(BootTime(n * 1_000_000)),
                        value: Some(value(point % 6, n)),
                        quality: Quality::Good,
                    })
                })
                .collect();
            let head = Head { epoch: Epoch([7; 16]), sequence: Sequence(9), boot };
            encoder.encode(&head, &mut readings).bytes.to_vec()
        })
        .collect()
}

fn batch() -> Made {
    let mut decoder = Decoder::new();
    let read = move |input: &mut Vec<u8>, dice: &mut Dice| {
        if let Some(inside) = wire::Batch::decode(input.as_slice()).ok().filter(|_| dice.once_in(2)) {
            *input = damaged_inside(inside, dice);
        }
        decoder.decode(input).is_ok()
    };
    (batches(), Box::new(read))
}

/// Opens the payload, alters it, and makes length and checksum right again.
fn damaged_inside(mut batch: wire::Batch, dice: &mut Dice) -> Vec<u8> {
    if let Ok(mut payload) = zstd::bulk::decompress(&batch.payload, MIB) {
        if !dice.once_in(8) {
            payload = super::alter::altered(&[payload], dice);
        }
        batch.payload_length = payload.len() as u32;
        batch.payload = zstd::bulk::compress(&payload, 1).unwrap_or_default().into();
    }
    batch.payload_crc32c = crc32c::crc32c(&batch.payload);
    batch.encode_to_vec()
}

fn request() -> Made {
    let sent =
        batches().into_iter().map(|batch| wire::SentBatch { batch: batch.into(), ..Default::default() });
    let opening = wire::Opening { id: vec![1; 8], first: 1, ..Default::default() };
    let asked = wire::SyncRequest {
        epoch: vec![7; 16].into(),
        batches: sent.collect(),
        greeting: Some(wire::Greeting { openings: vec![opening] }),
        report: Some(wire::Report { backlog_readings: 5, ..Default::default() }),
        ..Default::default()
    };
    let answered = wire::SyncAnswer { fork: 1, ..Default::default() };
    let corpus = vec![asked.encode_to_vec(), answered.encode_to_vec()];
    let read = |input: &mut Vec<u8>, _: &mut Dice| {
        let asked = wire::SyncRequest::decode(input.as_slice()).is_ok();
        wire::SyncAnswer::decode(input.as_slice()).is_ok() || asked
    };
    (corpus, Box::new(read))
}

fn joining() -> Made {
    let secret = forebay_protocols::sync::join::TokenSecret([5; 32]);
    let join = JoinString { address: "forebay.example:8443".into(), ca_pin: [9; 32], secret };
    let problem = Problem::new(forebay_protocols::sync::problem::Kind::UsedToken, "it was used");
    let corpus = vec![join.to_string().into_bytes(), problem.to_json().into_bytes()];
    let read = |input: &mut Vec<u8>, _: &mut Dice| {
        let joins = std::str::from_utf8(input).is_ok_and(|text| text.parse::<JoinString>().is_ok());
        Problem::from_json(input).is_some() || joins
    };
    (corpus, Box::new(read))
}

fn carried() -> Made {
    let answer = OfflineAnswer {
        name: "hall/press".into(),
        key: "3f2a-9c1d-77e0-12ab".into(),
        made_us: 1_795_953_600_000_000,
        server: "plant.example:8443".into(),
        ca_pin: [9; 32],
        answer: wire::JoinAnswer { chain: vec![vec![7; 400].into(); 2], ..Default::default() },
    };
    // As a gateway wrote it, whose key is gone: a fresh one would make every run another.
    let request = include_str!("carried.join-request");
    let corpus = vec![request.into(), answer.write().into_bytes()];
    let read = |input: &mut Vec<u8>, _: &mut Dice| {
        let text = String::from_utf8_lossy(input);
        // Its sum repaired, so that damage reaches what lies behind it.
        let repaired = text
            .split_once("Sum: ")
            .map(|(summed, _)| format!("{summed}Sum: {:08x}\n", crc32c::crc32c(summed.as_bytes())));
        let answer = OfflineAnswer::read(repaired.as_deref().unwrap_or(&text));
        OfflineRequest::read(&text).is_ok() || answer.is_ok()
    };
    (corpus, Box::new(read))
}

fn configuration() -> Made {
    let corpus = [
        include_str!("../../../config/examples/agent.toml"),
        include_str!("../../../config/examples/server.toml"),
        MQTT,
    ];
    let read = |input: &mut Vec<u8>, _: &mut Dice| {
        let text = String::from_utf8_lossy(input);
        let agent = load::agent_text("agent.toml", &text);
        let server = load::server_text("server.toml", &text);
        for findings in [agent.as_ref().err(), server.as_ref().err()].into_iter().flatten() {
            assert!(!findings.to_string().is_empty(), "a refusal says why");
        }
        agent.is_ok() || server.is_ok()
    };
    (corpus.iter().map(|text| text.as_bytes().to_vec()).collect(), Box::new(read))
}
