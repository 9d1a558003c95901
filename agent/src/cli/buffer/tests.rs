//! The words, letter by letter: people search for them and programs read them.

use std::sync::Arc;

use forebay_config::agent::Buffer as Budget;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::Gap;
use forebay_protocols::sync::wire::gap::Reason;

use super::status::{Page, paragraph};
use super::*;
use crate::buffer::DroppedBy;
use crate::buffer::inspect::{
    Backlog, Edge, Extracted, Lost, OnDisk, Overview, Row, TimeSource, Trouble, User, What,
};

/// 2023-11-14 22:13:20 UTC.
const AT_US: i64 = 1_700_000_000_000_000;

fn overview() -> Overview {
    let oldest = Edge { sequence: 101, wall_us: AT_US, synchronised: Some(false) };
    let newest = Edge { sequence: 1334, wall_us: AT_US + 86_400_000_000, synchronised: Some(true) };
    let gap = Gap { number: 9, from_us: AT_US, to_us: AT_US + 1_000_000, count: 12, ..Gap::default() };
    Overview {
        folder: "/var/lib/forebay/buffer".into(),
        user: User::Process(812),
        epoch: Some(Epoch([0xab; 16])),
        boot: Some(3),
        closed: false,
        backlog: Backlog {
            batches: 1234,
            readings: 1_234_567,
            bytes: 3 << 20,
            oldest: Some(oldest),
            newest: Some(newest),
        },
        next_sequence: 1335,
        appended: 2_000_000,
        acknowledged: 765_421,
        dropped: 12,
        dropped_by: DroppedBy { full: 0, corrupt: 12, thinned: 0 },
        disk: OnDisk { segments: 4 << 20, logbook: 1 << 20, catalogue: 2 << 20, damaged: 1 << 20, other: 0 },
        free: Some(10 << 30),
        segments: 3,
        finished_segments: 1,
        points: 1200,
        gaps: 9,
        latest_gaps: vec![(Gap { reason: Reason::Corrupt.into(), ..gap }, None)],
        damaged: vec![("damaged/segment-0000000001-320".into(), 1 << 20)],
        rate: Some(1024.0),
        troubles: Vec::new(),
    }
}

#[test]
fn the_status_of_a_buffer_in_use_letter_by_letter() {
    let page = Page { overview: &overview(), budget: Some(&Budget::default()) };
    assert_eq!(
        page.to_string(),
        "\
buffer        /var/lib/forebay/buffer
in use        yes, by process 812
epoch         abababababababababababababababab
boot          number 3

waiting       1,234 batches with 1,234,567 readings, 3.0 MiB
  sequences   101 to 1334
  from        2023-11-14 22:13:20 UTC as the gateway believed: its clock was not synchronised
  to          2023-11-15 22:13:20 UTC
next          batch 1335

appended      2,000,000 readings since the epoch began
acknowledged  765,421
dropped       12 (12 damaged)

on the disk   8.0 MiB of 1.0 GiB (1 %)
full in       about 12 days if nothing is acknowledged, at 1.0 KiB/s
segments      3, 4.0 MiB; 1 of them acknowledged and kept
points        1,200
gaps          9 records, the latest:
              #9 2023-11-14 22:13:20 UTC to 2023-11-14 22:13:21 UTC, all points: damaged on the disk (12 readings)
damaged parts 1.0 MiB set aside in damaged/segment-0000000001-320
"
    );
}

#[test]
fn the_status_of_a_copy_says_what_it_cannot_know() {
    let overview = Overview {
        user: User::Nobody,
        epoch: None,
        boot: None,
        backlog: Backlog::default(),
        gaps: 0,
        latest_gaps: Vec::new(),
        damaged: Vec::new(),
        rate: None,
        troubles: vec![Trouble { file: "logbook".into(), bytes: None, what: What::LogbookGone }],
        ..overview()
    };
    let text = Page { overview: &overview, budget: None }.to_string();
    for line in [
        "in use        no; it was not closed in good order, so the next start reads its newest segment\n",
        "epoch         not known\nboot          not known\n",
        "waiting       0 batches with 0 readings, 0 B\nnext          batch 1335\n",
        "on the disk   8.0 MiB; the budget is not known here: --config names the configuration\n",
        "full in       not known: there is too little to tell a rate from\n",
        "gaps          none\ndamaged parts none set aside\n",
        "\nNot as it was written (`forebay-agent buffer verify` reads everything):\n\nlogbook\n  The logbook is gone.\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn a_file_system_with_little_room_is_full_before_the_budget_is() {
    let overview = Overview { free: Some(Budget::default().reserve.0 + 600 * 1024), ..overview() };
    let text = Page { overview: &overview, budget: Some(&Budget::default()) }.to_string();
    assert!(text.contains("full in       about 10 minutes if nothing is acknowledged"), "{text}");
}

#[test]
fn a_trouble_says_where_what_and_what_then() {
    let lost = Lost { first: 12, last: 14, readings: 310, waiting: true };
    let what = What::Damaged { lost: Some(lost), tail: false, at_start: false };
    let trouble = Trouble { file: "segment-0000000007".into(), bytes: Some((4096, 9000)), what };
    assert_eq!(
        paragraph(&trouble),
        "\
segment-0000000007, bytes 4096 to 9000
  These bytes are not what was written. Here stood batches 12 to 14 with 310 readings: not acknowledged yet, and lost.
  When their turn comes the agent keeps what is there in damaged/, counts what is lost, writes a gap record and goes \
         on with the next batch.
"
    );
    let missing = Trouble {
        bytes: Some((5, 5)),
        what: What::Missing(Lost { first: 1, last: 1, readings: 1, ..lost }),
        ..trouble
    };
    let words = paragraph(&missing);
    assert!(words.starts_with("segment-0000000007, at byte 5\n"), "{words}");
    assert!(words.contains("Here stood batch 1 with 1 reading: not acknowledged yet, and lost."), "{words}");
}

fn point(device: &str, unit: &str) -> Point {
    let (kind, data_type) = (PointKind::Gauge, DataType::Float);
    Point { device: device.into(), name: "speed".into(), unit: unit.into(), kind, data_type }
}

/// A reading as a row in both formats.
fn written(device: &str, unit: &str, value: Option<Value>) -> (String, String) {
    let quality = if value.is_some() { Quality::Good } else { Quality::from_code(130) };
    let reading = Reading { point: PointId(1), stamp: Stamp::device(0), value, quality };
    let point = point(device, unit);
    let time = TimeSource::Believed;
    let row = Row { point: &point, reading: &reading, wall_us: AT_US + 5, time, sequence: 7 };
    let (mut csv, mut json) = (Vec::new(), Vec::new());
    export::csv(&mut csv, &row).unwrap();
    export::json(&mut json, &row).unwrap();
    (String::from_utf8(csv).unwrap(), String::from_utf8(json).unwrap())
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(Arc::from(text)))
}

#[test]
fn a_row_letter_by_letter() {
    let (csv, json) = written("pump", "rpm", Some(Value::Float(21.5)));
    assert_eq!(csv, "2023-11-14T22:13:20.000005Z,pump,speed,21.5,rpm,good,7,believed\r\n");
    assert_eq!(
        json,
        "{\"time\":\"2023-11-14T22:13:20.000005Z\",\"device\":\"pump\",\"point\":\"speed\",\"value\":21.5,\
         \"unit\":\"rpm\",\"quality\":\"good\",\"sequence\":7,\"clock\":\"believed\"}\n"
    );
}

#[test]
fn csv_keeps_apart_what_would_look_alike() {
    let value = |value| written("pump", "", value).0.split(',').nth(3).unwrap().to_owned();
    assert_eq!(value(None), "");
    assert_eq!(value(text("")), "\"\"");
    assert_eq!(value(text("1")), "\"1\"");
    assert_eq!(value(Some(Value::Integer(1))), "1");
    assert_eq!(value(Some(Value::Float(1.0))), "1.0");
    assert_eq!(value(Some(Value::Float(1e300))), "1e300");
    assert_eq!(value(Some(Value::Float(f64::NAN))), "NaN");
    assert_eq!(value(Some(Value::Boolean(true))), "true");
}

#[test]
fn csv_quotes_as_rfc_4180_says() {
    let (csv, json) = written("a,b", "\"", text("say \"on\",\r\nor off"));
    assert!(csv.contains(",\"a,b\",speed,\"say \"\"on\"\",\r\nor off\",\"\"\"\",good,"), "{csv}");
    assert!(json.contains(r#""value":"say \"on\",\r\nor off""#), "{json}");
    assert_eq!(json.lines().count(), 1, "one object a line");
}

#[test]
fn json_has_a_word_for_every_value() {
    let value = |value| {
        let line = written("pump", "", value).1;
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["value"].clone()
    };
    assert_eq!(value(None), serde_json::Value::Null);
    assert_eq!(value(Some(Value::Float(f64::NEG_INFINITY))), "-inf");
    assert_eq!(value(Some(Value::Float(f64::NAN))), "NaN");
    assert_eq!(value(Some(Value::Integer(i64::MIN))), i64::MIN);
    assert_eq!(value(Some(Value::Boolean(false))), false);
}

#[test]
fn moments_are_understood_as_people_write_them() {
    let day = 1_763_683_200_000_000;
    assert_eq!(export::moment("2025-11-21"), Ok(day));
    assert_eq!(export::moment("2025-11-21T08:30"), Ok(day + (8 * 60 + 30) * 60_000_000));
    assert_eq!(export::moment("2025-11-21T08:30:00+01:00"), Ok(day + (7 * 60 + 30) * 60_000_000));
    assert_eq!(export::moment("1969-12-31T23:59:59Z"), Ok(-1_000_000));
    for nonsense in ["", "yesterday", "21.11.2025", "2025-02-30"] {
        assert!(export::moment(nonsense).is_err(), "{nonsense}");
    }
}

#[test]
fn an_export_into_the_buffers_own_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = dir.path().join("buffer");
    std::fs::create_dir_all(buffer.join("damaged")).unwrap();
    for inside in ["segment-0000000001", "damaged/x.csv", "../buffer/x.csv"] {
        let path = buffer.join(inside);
        let refusal = export::create(&path, &buffer).err().unwrap();
        assert!(
            refusal.words.ends_with("where only the agent writes: choose another place"),
            "{}",
            refusal.words
        );
        assert!(!path.exists() && refusal.code == UNREADABLE);
    }
    assert!(export::create(&dir.path().join("x.csv"), &buffer).is_ok());
    let nowhere = dir.path().join("nowhere/x.csv");
    let words = export::create(&nowhere, &buffer).err().unwrap().words;
    assert!(words.starts_with(&format!("cannot write {}: ", nowhere.display())), "{words}");
}

#[test]
fn an_export_says_what_was_left_out_and_why() {
    let extracted = Extracted {
        readings: 1200,
        believed: 1,
        damaged: 2,
        finished: 1,
        unknown: vec!["device `pmp`".into()],
    };
    assert_eq!(
        export::remarks(&extracted, true),
        [
            "1,200 readings; 1 with times that the gateway could only believe",
            "no point of this buffer is of device `pmp`",
            "1 segment was acknowledged and deleted meanwhile; the server has what was in it",
            "2 damaged parts were left out: `forebay-agent buffer verify` tells which",
        ]
    );
    assert_eq!(export::remarks(&Extracted::default(), false), Vec::<String>::new());
}
