use forebay_config::field::{Mqtt, PointKind as ConfiguredKind};
use tokio::net::TcpListener;

use super::planner::Hole;
use super::scripted::{Asked, Heard, Script, device, now, serve, tcp_link};
use super::*;
use crate::reading::{DataType, PointKind, Quality, Value};

const SECOND: Duration = Duration::from_secs(1);

/// The address of a TCP peer that answers as `script` says on every connection, and what it heard.
async fn peer(
    framing: Framing,
    script: impl Fn(Asked) -> Script + Send + Sync + 'static,
) -> (String, Heard, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Heard::default();
    let log = heard.clone();
    let peer = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream, framing, log.clone(), &script).await;
        }
    });
    (address, heard, peer)
}

/// A source whose peer answers rightly, and what the peer heard.
async fn source_with_peer(framing: Framing) -> (ModbusSource, Heard, tokio::task::JoinHandle<()>) {
    let (address, heard, peer) = peer(framing, |asked| now(asked.addresses())).await;
    let link = tcp_link(&address, framing, SECOND * 5, vec![device(3, &[7, 8], SECOND / 100)]);
    (ModbusSource::new(&link).unwrap(), heard, peer)
}

#[tokio::test]
async fn values_come_over_a_real_connection_in_both_framings() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let (mut source, heard, peer) = source_with_peer(framing).await;
        source.connect().await.unwrap();
        for _ in 0..3 {
            let harvest = source.next().await.unwrap();
            let values: Vec<_> = harvest.samples.iter().map(|s| s.value.clone()).collect();
            assert_eq!(values, [Some(Value::Integer(7)), Some(Value::Integer(8))]);
            assert!(harvest.samples.iter().all(|s| s.quality == Quality::Good));
        }
        assert_eq!(heard.all().len(), 3);
        source.close().await;
        peer.abort();
    }
}

#[tokio::test]
async fn a_lost_connection_is_a_fault_and_a_new_one_goes_on() {
    let (mut source, _, peer) = source_with_peer(Framing::Tcp).await;
    source.connect().await.unwrap();
    source.next().await.unwrap();
    source.connect().await.unwrap();
    source.next().await.unwrap();
    peer.abort();
    assert!(peer.await.unwrap_err().is_cancelled());
    let fault = loop {
        if let Err(fault) = source.next().await {
            break fault;
        }
    };
    assert!(matches!(fault, LinkFault::Lost { .. }), "{fault}");
    assert!(matches!(source.connect().await, Err(LinkFault::Unreachable { .. })), "nobody listens now");
}

#[tokio::test]
async fn a_link_without_points_waits_quietly() {
    let (source, _, peer) = source_with_peer(Framing::Tcp).await;
    let Endpoint::Tcp { address, .. } = &source.endpoint else { panic!("not TCP") };
    let mut empty = ModbusSource::new(&tcp_link(address, Framing::Tcp, SECOND, Vec::new())).unwrap();
    empty.connect().await.unwrap();
    assert!(timeout(SECOND / 50, empty.next()).await.is_err());
    peer.abort();
}

#[test]
fn points_carry_their_configuration() {
    let mut config = device(1, &[1, 2], SECOND);
    config.points[0].meta.scale = Some(0.1);
    config.points[0].meta.unit = "°C".into();
    config.points[1].meta.kind = ConfiguredKind::Counter;
    let source = ModbusSource::new(&tcp_link("plc", Framing::Tcp, SECOND, vec![config])).unwrap();
    let [first, second] = source.points() else { panic!("two points") };
    assert_eq!((&*first.device, &*first.name, &*first.unit), ("unit1", "p1", "°C"));
    assert_eq!((first.kind, first.data_type), (PointKind::Gauge, DataType::Float));
    assert_eq!((second.kind, second.data_type), (PointKind::Counter, DataType::Integer));
}

#[test]
fn the_port_is_502_where_none_is_written() {
    let table = [
        ("plc", "plc:502"),
        ("plc:1502", "plc:1502"),
        ("10.0.0.7", "10.0.0.7:502"),
        ("fe80::1", "[fe80::1]:502"),
        ("[fe80::1]", "[fe80::1]:502"),
        ("[fe80::1]:1502", "[fe80::1]:1502"),
    ];
    for (written, meant) in table {
        assert_eq!(with_port(written), meant);
    }
}

#[test]
fn frames_are_apart_three_and_a_half_characters_or_1750_microseconds() {
    let character = |baud: u32| Duration::from_secs(11) / baud;
    assert_eq!(frame_silence(9_600, character(9_600)).as_micros(), 4_010);
    assert_eq!(frame_silence(19_200, character(19_200)).as_micros(), 2_005);
    assert_eq!(frame_silence(38_400, character(38_400)), Duration::from_micros(1_750));
}

fn on_a_tty(baud: u32, devices: Vec<forebay_config::field::ModbusDevice>) -> ModbusSource {
    let mut link = tcp_link("", Framing::Tcp, SECOND, Vec::new());
    link.protocol = Protocol::ModbusRtu(forebay_config::field::ModbusRtu {
        port: "/dev/ttyUSB0".into(),
        baud,
        parity: forebay_config::field::Parity::Even,
        data_bits: 8,
        stop_bits: 1,
        rs485: None,
        bus: ModbusBus { pause: Duration::ZERO, devices },
    });
    ModbusSource::new(&link).unwrap()
}

#[test]
fn the_heaviest_unit_of_an_overloaded_bus_is_named_with_the_reason() {
    let scattered: Vec<u16> = (0..50).map(|i| i * 20).collect();
    let devices = vec![device(3, &[1, 2], SECOND), device(7, &scattered, SECOND)];
    let words = on_a_tty(9_600, devices).overload().unwrap();
    // Fifty requests of 8 + 7 characters of 11 bits and two silences.
    assert!(words.contains("unit 7 needs 1.3 s of every 1 s on this bus: 50.0 requests a second"), "{words}");
    assert!(words.contains("91 % of their time is overhead; let requests join: raise `max_gap`"), "{words}");
}

#[test]
fn a_plan_that_cannot_fit_on_its_line_is_said_before_the_start() {
    let addresses: Vec<u16> = (0..250).collect();
    let source = |baud, interval| on_a_tty(baud, vec![device(1, &addresses, interval)]);
    // Two requests of 8 + 255 characters of 11 bits, and four silences of 3.5 characters.
    let words = source(4_800, SECOND).overload().unwrap();
    assert!(words.contains("1.2 s of every 1 s at 4800 baud"), "{words}");
    assert!(words.contains("2.0 requests a second, 7 % of"), "{words}");
    assert!(words.ends_with("raise `baud` or the intervals"), "{words}");
    assert_eq!(source(9_600, SECOND).overload(), None);
    assert_eq!(source(4_800, SECOND * 2).overload(), None);
}

#[test]
fn a_link_of_another_protocol_is_none_of_ours() {
    let mut link = tcp_link("x", Framing::Tcp, SECOND, Vec::new());
    link.protocol = Protocol::Mqtt(Mqtt {
        broker: forebay_config::field::Broker { host: "x".into(), port: 1, tls: false },
        version: forebay_config::field::MqttVersion::V5,
        client_id: "x".into(),
        user: None,
        ca: None,
        identity: None,
        keep_alive: SECOND,
        max_packet: forebay_config::units::ByteSize(1),
        topics: Vec::new(),
    });
    assert!(ModbusSource::new(&link).is_none());
}

#[tokio::test]
async fn what_was_learnt_in_one_life_saves_the_refusals_of_the_next() {
    let (address, heard, peer) = peer(Framing::Tcp, |asked| {
        let forbidden = (asked.address..asked.address + asked.count).contains(&12);
        now(if forbidden { asked.exception(2) } else { asked.addresses() })
    })
    .await;
    let link =
        tcp_link(&address, Framing::Tcp, SECOND * 5, vec![device(3, &[10, 11, 12, 13], SECOND * 3_600)]);
    let mut first = ModbusSource::new(&link).unwrap();
    assert!(first.learnt().is_empty());
    first.connect().await.unwrap();
    while first.learnt().is_empty() {
        first.next().await.unwrap();
    }
    first.close().await;
    let before = heard.all().len();
    let mut second = ModbusSource::with_learnt(&link, &first.learnt()).unwrap();
    assert_eq!(second.learnt(), first.learnt());
    second.connect().await.unwrap();
    for _ in 0..3 {
        second.next().await.unwrap();
    }
    let spans: Vec<_> = heard.all()[before..].iter().map(|a| (a.address, a.count)).collect();
    assert_eq!(spans, [(10, 2), (12, 1), (13, 1)]);
    peer.abort();
}

#[tokio::test]
async fn a_hole_is_learnt_wherever_it_lies_and_read_around() {
    for (first, length) in (0..12).flat_map(|first| (1..4).map(move |length| (first, length))) {
        let hole = first..first + length;
        let refused = hole.clone();
        let (address, _, peer) = peer(Framing::Tcp, move |asked| {
            let forbidden =
                asked.unit == 1 && asked.address < refused.end && refused.start < asked.address + asked.count;
            now(if forbidden { asked.exception(2) } else { asked.addresses() })
        })
        .await;
        let points: Vec<u16> = (0..12).collect();
        let devices = [1, 2].map(|unit| device(unit, &points, SECOND / 100)).to_vec();
        let mut source = ModbusSource::new(&tcp_link(&address, Framing::Tcp, SECOND * 5, devices)).unwrap();
        source.connect().await.unwrap();
        let mut given = std::collections::BTreeSet::new();
        while source.learnt().is_empty()
            || given.len() < 24 - hole.clone().filter(|address| *address < 12).count()
        {
            let samples = source.next().await.unwrap().samples;
            given.extend(samples.iter().filter(|sample| sample.quality == Quality::Good).map(|s| s.slot));
        }
        assert!(!given.contains(&usize::from(first)));
        source.close().await;
        peer.abort();
    }
}

#[tokio::test]
async fn a_hole_that_is_given_after_all_is_forgotten() {
    let (address, _, peer) = peer(Framing::Tcp, |asked| now(asked.addresses())).await;
    let link = tcp_link(&address, Framing::Tcp, SECOND * 5, vec![device(3, &[10, 11, 12], SECOND * 3_600)]);
    let hole = |at| Hole { table: Register::Holding, first: at, last: at };
    let known = Learnt { max_registers: Some(50), holes: vec![hole(12), hole(700)] };
    let mut source = ModbusSource::with_learnt(&link, &BTreeMap::from([("unit3".into(), known)])).unwrap();
    source.connect().await.unwrap();
    let before = source.lessons();
    source.next().await.unwrap();
    source.next().await.unwrap();
    assert_eq!(source.lessons(), before + 1);
    let left = Learnt { max_registers: Some(50), holes: vec![hole(700)] };
    assert_eq!(source.learnt(), BTreeMap::from([("unit3".into(), left)]), "nobody asked for 700");
    peer.abort();
}
