//! What is kept aside, for a person to look at and to replay: batches that could not be stored, and
//! readings at impossible times. Nothing of it is lost, and nothing of it is in a chart.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use forebay_protocols::reading::{PointId, Quality, Reading, Value};
use forebay_protocols::sync::batch::{Decoded, Decoder, Epoch};

use super::{AgentKey, Micros, PointKey, StoreError, Timed};

/// The part of a store that keeps what is aside.
#[async_trait]
pub trait Quarantine: Send + Sync + 'static {
    /// Batches set aside, the newest first.
    async fn batches_aside(&self, most: usize) -> Result<Vec<AsideRow>, StoreError>;

    /// One of them, with its bytes and the correction of its times.
    async fn batch_aside(&self, id: AsideId) -> Result<Option<(AsideRow, Vec<u8>, Micros)>, StoreError>;

    /// Points with readings at impossible times.
    async fn odd_points(&self, most: usize) -> Result<Vec<OddPoint>, StoreError>;

    /// Those of one point, by time.
    async fn odd_readings(&self, point: PointKey, most: usize) -> Result<Vec<Timed>, StoreError>;

    /// Stores the readings of a batch that was set aside, and removes it from there, in one
    /// transaction. `None`: there is no such batch. Its times are judged anew.
    async fn replay_batch(
        &self,
        id: AsideId,
        readings: Vec<Timed>,
        now: Micros,
    ) -> Result<Option<Replayed>, StoreError>;

    /// Moves the readings of a point by `shift`; those whose times make sense then are stored.
    async fn replay_readings(
        &self,
        point: PointKey,
        shift: Micros,
        now: Micros,
    ) -> Result<Replayed, StoreError>;
}

/// Names a batch set aside: branch, sequence and checksum, `12-345-9af01c22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsideId {
    /// The branch of the buffer.
    pub branch: i64,
    /// Its number; one beyond 2^63 has its bits.
    pub sequence: i64,
    /// CRC32C of its bytes as they came.
    pub checksum: u32,
}

impl fmt::Display for AsideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:08x}", self.branch, self.sequence as u64, self.checksum)
    }
}

impl FromStr for AsideId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not the id of a batch, like 12-345-9af01c22");
        let parts: Vec<&str> = text.split('-').collect();
        let [branch, sequence, checksum] = parts[..] else { return Err(wrong()) };
        Ok(Self {
            branch: branch.parse().map_err(|_| wrong())?,
            sequence: sequence.parse::<u64>().map_err(|_| wrong())? as i64,
            checksum: u32::from_str_radix(checksum, 16).map_err(|_| wrong())?,
        })
    }
}

/// A batch set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsideRow {
    /// Its name.
    pub id: AsideId,
    /// Whose it is.
    pub agent: AgentKey,
    /// The life of the buffer.
    pub epoch: Epoch,
    /// 0, or the number of the fork.
    pub fork: u32,
    /// How long it is.
    pub bytes: u64,
    /// Readings inside, as its envelope says; 0 if that could not be read, or it is from before this
    /// was written down.
    pub readings: u64,
    /// Why it is here, in plain words.
    pub why: String,
    /// When it came.
    pub received: Micros,
}

/// A point with readings at impossible times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OddPoint {
    /// The point.
    pub point: PointKey,
    /// Whose it is.
    pub agent: AgentKey,
    /// The device's name.
    pub device: String,
    /// The point's name.
    pub name: String,
    /// How many readings.
    pub count: u64,
    /// The earliest time; before 1970 it is negative.
    pub from: Micros,
    /// The latest.
    pub to: Micros,
    /// When the last one came.
    pub received: Micros,
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Readings that are stored now.
    pub stored: u64,
    /// Readings whose times are still impossible: they are in quarantine.
    pub odd: u64,
}

/// The readings of a batch set aside, in wall time and sorted by (point, time), if it can be read by now.
/// `correction` is what is added to the offset it states.
///
/// # Errors
/// Why it cannot be read.
pub fn read_batch(bytes: &[u8], correction: Micros) -> Result<Vec<Timed>, String> {
    let mut readings = match Decoder::new().decode(bytes) {
        Ok(Decoded { head, readings, .. }) => {
            let offset = head.boot.wall_offset_us.saturating_add(correction);
            let timed = |Reading { point, stamp, value, quality }| Timed {
                point,
                time: stamp.wall(offset),
                value,
                quality,
            };
            readings.into_iter().map(timed).collect()
        }
        Err(why) => read_lines(bytes).ok_or_else(|| why.to_string())?,
    };
    readings.sort_by_key(|reading: &Timed| (reading.point, reading.time));
    Ok(readings)
}

/// Lines as a batch is kept that decoded and could not be stored (see `plan/pieces.rs`).
fn read_lines(bytes: &[u8]) -> Option<Vec<Timed>> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.ends_with('\n'))?;
    text.lines().map(read_line).collect()
}

fn read_line(line: &str) -> Option<Timed> {
    let mut parts = line.splitn(5, '\t');
    let mut next = || parts.next();
    let (point, time, quality) = (next()?, next()?, next()?);
    let value = match (next()?, next()?) {
        ("none", "") => None,
        ("integer", value) => Some(Value::Integer(value.parse().ok()?)),
        ("boolean", value) => Some(Value::Boolean(value.parse().ok()?)),
        ("text", value) => Some(Value::Text(unquoted(value)?.as_str().into())),
        ("float", value) => Some(Value::Float(match value.strip_prefix("0x") {
            Some(bits) => f64::from_bits(u64::from_str_radix(bits, 16).ok()?),
            None => value.parse().ok()?,
        })),
        _ => return None,
    };
    Some(Timed {
        point: PointId(point.parse().ok()?),
        time: time.parse().ok()?,
        value,
        quality: Quality::from_code(quality.parse().ok()?),
    })
}

/// What `{:?}` made of a text.
fn unquoted(text: &str) -> Option<String> {
    let mut letters = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut whole = String::new();
    while let Some(letter) = letters.next() {
        whole.push(match letter {
            '\\' => match letters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let code: String = letters.by_ref().skip(1).take_while(|letter| *letter != '}').collect();
                    char::from_u32(u32::from_str_radix(&code, 16).ok()?)?
                }
                quoted => quoted,
            },
            letter => letter,
        });
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Content;
    use super::super::plan::bytes_aside;
    use super::*;

    fn value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            Just(None),
            any::<i64>().prop_map(|v| Some(Value::Integer(v))),
            any::<bool>().prop_map(|v| Some(Value::Boolean(v))),
            any::<f64>().prop_map(|v| Some(Value::Float(v))),
            any::<String>().prop_map(|v| Some(Value::Text(v.as_str().into()))),
        ]
    }

    proptest! {
        #[test]
        fn what_was_set_aside_as_lines_is_read_back(
            values in prop::collection::vec((1..9u32, any::<i64>(), value(), any::<u8>()), 1..20)
        ) {
            let timed = |(point, time, value, code)| Timed {
                point: PointId(point), time, value, quality: Quality::from_code(code),
            };
            let mut readings: Vec<Timed> = values.into_iter().map(timed).collect();
            readings.sort_by_key(|reading| (reading.point, reading.time));
            let bytes = bytes_aside(&Content::Readings(readings.clone().into()));
            let found = read_batch(&bytes, 0).unwrap();
            // Bits, because NaN is not equal to itself.
            let told = |readings: &[Timed]| -> Vec<String> {
                let bits = |value: &Option<Value>| match value {
                    Some(Value::Float(v)) => format!("{:x}", v.to_bits()),
                    value => format!("{value:?}"),
                };
                readings.iter().map(|r| format!("{:?} {} {:?} {}", r.point, r.time, r.quality, bits(&r.value))).collect()
            };
            prop_assert_eq!(told(&found), told(&readings));
        }

        #[test]
        fn any_bytes_are_a_batch_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_batch(&bytes, 0);
        }
    }

    #[test]
    fn an_id_is_read_as_it_is_told() {
        let id = AsideId { branch: 12, sequence: -1, checksum: 0x9af0 };
        assert_eq!(id.to_string(), "12-18446744073709551615-00009af0");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "1-2", "1-2-3-4", "a-2-3", "1-2-x"] {
            assert!(wrong.parse::<AsideId>().is_err(), "{wrong}");
        }
    }
}
