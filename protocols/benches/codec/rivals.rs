//! What else one might do: JSON lines, and one protobuf message per reading; both compressed by
//! zstd at the level of our batches. They know points by number, as a batch does.

use forebay_protocols::reading::{Clock, Reading, Value};
use prost::Message;
use serde_json::json;

const LEVEL: i32 = 3;

/// One JSON object a line.
pub fn json_lines(readings: &[Reading]) -> Vec<u8> {
    let mut lines = String::new();
    for reading in readings {
        let value = reading.value.as_ref().map(|value| match value {
            Value::Float(value) => json!(value),
            Value::Integer(value) => json!(value),
            Value::Boolean(value) => json!(value),
            Value::Text(value) => json!(value.as_ref()),
        });
        lines += &json!({"p": reading.point.0, "t": reading.stamp.micros, "v": value, "q": reading.quality.code()}).to_string();
        lines.push('\n');
    }
    lines.into_bytes()
}

#[derive(Clone, PartialEq, Message)]
struct Rows {
    #[prost(message, repeated, tag = "1")]
    rows: Vec<Row>,
}

#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(uint32, tag = "1")]
    point: u32,
    /// Since the row before.
    #[prost(sint64, tag = "2")]
    micros: i64,
    #[prost(bool, tag = "3")]
    device: bool,
    #[prost(uint32, tag = "4")]
    quality: u32,
    #[prost(oneof = "Field", tags = "5, 6, 7, 8")]
    value: Option<Field>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Field {
    #[prost(double, tag = "5")]
    Float(f64),
    #[prost(sint64, tag = "6")]
    Integer(i64),
    #[prost(bool, tag = "7")]
    Boolean(bool),
    #[prost(string, tag = "8")]
    Text(String),
}

/// One protobuf message a reading, zstd.
pub fn rows(readings: &[Reading]) -> Vec<u8> {
    let mut last = 0;
    let row = |reading: &Reading| Row {
        point: reading.point.0,
        micros: reading.stamp.micros - std::mem::replace(&mut last, reading.stamp.micros),
        device: reading.stamp.clock == Clock::Device,
        quality: reading.quality.code().into(),
        value: reading.value.as_ref().map(|value| match value {
            Value::Float(value) => Field::Float(*value),
            Value::Integer(value) => Field::Integer(*value),
            Value::Boolean(value) => Field::Boolean(*value),
            Value::Text(value) => Field::Text(value.to_string()),
        }),
    };
    compress(&Rows { rows: readings.iter().map(row).collect() }.encode_to_vec())
}

/// The number of rows, read back.
pub fn read_rows(bytes: &[u8]) -> usize {
    let plain = zstd::bulk::decompress(bytes, 64 << 20).expect("our own bytes");
    Rows::decode(plain.as_slice()).expect("our own bytes").rows.len()
}

/// By zstd at the level of our batches.
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, LEVEL).expect("compress makes its own room")
}
