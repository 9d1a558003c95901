//! One codec for everything: what our columns choose between, or what others would take. Each gets the series of
//! the points, sorted, as plain numbers; point numbers and qualities are free for them, and integers and booleans
//! are numbers. The best of them is what ours is held against.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use forebay_protocols::reading::{Reading, Value};

/// zstd's level, as for our batches.
const LEVEL: i32 = 3;

/// Times and values of one point.
struct Series {
    times: Vec<i64>,
    values: Vec<f64>,
    /// The values are whole numbers, and a codec may know it.
    is_whole: bool,
}

fn series(readings: &[Reading]) -> Vec<Series> {
    let mut sorted: Vec<&Reading> = readings.iter().collect();
    sorted.sort_by_key(|reading| (reading.point, reading.stamp));
    let number = |reading: &&Reading| match &reading.value {
        Some(Value::Float(value)) => *value,
        Some(Value::Integer(value)) => *value as f64,
        Some(Value::Boolean(value)) => f64::from(u8::from(*value)),
        Some(Value::Text(_)) | None => 0.0,
    };
    sorted
        .chunk_by(|a, b| a.point == b.point)
        .map(|series| Series {
            times: series.iter().map(|reading| reading.stamp.micros).collect(),
            values: series.iter().map(number).collect(),
            is_whole: series.iter().all(|reading| !matches!(reading.value, Some(Value::Float(_)))),
        })
        .collect()
}

/// Names and bytes of all candidates.
pub fn all(readings: &[Reading]) -> [(&'static str, usize); 4] {
    let series = series(readings);
    [
        ("Gorilla", series.iter().map(gorilla).sum()),
        ("columns of f64, zstd", compressed(&columns(&series, false))),
        ("columns of XOR, shuffled, zstd", compressed(&columns(&series, true))),
        ("pco per point, zstd", compressed(&pco_per_point(&series))),
    ]
}

/// The bytes of `text` in gzip.
pub fn gzip(text: &[u8]) -> usize {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
    gzip.write_all(text).and_then(|()| gzip.finish()).map_or(0, |bytes| bytes.len())
}

/// InfluxDB's line protocol, the points of one poll in one line.
pub fn line_protocol(readings: &[Reading]) -> Vec<u8> {
    let mut lines = Vec::new();
    for poll in readings.chunk_by(|a, b| a.stamp == b.stamp) {
        let mut separator = "plant ";
        for reading in poll {
            let point = reading.point.0;
            let field = match &reading.value {
                Some(Value::Float(value)) => format!("{separator}p{point}={value}"),
                Some(Value::Integer(value)) => format!("{separator}p{point}={value}i"),
                Some(Value::Boolean(value)) => format!("{separator}p{point}={value}"),
                Some(Value::Text(value)) => format!("{separator}p{point}={value:?}"),
                None => continue,
            };
            lines.extend(field.into_bytes());
            separator = ",";
        }
        lines.extend(format!(" {}\n", poll[0].stamp.micros).into_bytes());
    }
    lines
}

fn compressed(bytes: &[u8]) -> usize {
    zstd::bulk::compress(bytes, LEVEL).map_or(0, |bytes| bytes.len())
}

/// All times, then all values, eight bytes each; with `xor` each minus (times) or against (values) the one before,
/// and byte by byte.
fn columns(series: &[Series], xor: bool) -> Vec<u8> {
    let mut words = Vec::new();
    for Series { times, .. } in series {
        let mut last = 0;
        words.extend(times.iter().map(|time| {
            let before = std::mem::replace(&mut last, *time);
            if xor { time.wrapping_sub(before) as u64 } else { *time as u64 }
        }));
    }
    for Series { values, .. } in series {
        let mut last = 0;
        words.extend(values.iter().map(|value| {
            let before = std::mem::replace(&mut last, value.to_bits());
            if xor { value.to_bits() ^ before } else { value.to_bits() }
        }));
    }
    if xor {
        (0..8).flat_map(|byte| words.iter().map(move |word| (word >> (8 * byte)) as u8)).collect()
    } else {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

fn pco_per_point(series: &[Series]) -> Vec<u8> {
    let config = pco::ChunkConfig::default();
    let mut bytes = Vec::new();
    for Series { times, values, is_whole } in series {
        let whole: Vec<i64>;
        let packed = if *is_whole {
            whole = values.iter().map(|value| *value as i64).collect();
            pco::standalone::simple_compress(&whole, &config)
        } else {
            pco::standalone::simple_compress(values, &config)
        };
        bytes.extend(pco::standalone::simple_compress(times, &config).expect("a valid configuration"));
        bytes.extend(packed.expect("a valid configuration"));
    }
    bytes
}

/// Pelkonen et al., "Gorilla: A Fast, Scalable, In-Memory Time Series Database", 4.1: bits of the delta of deltas of
/// the times, in microseconds, and of the XOR of the values.
fn gorilla(series: &Series) -> usize {
    let mut bits = 128;
    let (mut last_time, mut last_step) = (series.times.first().copied().unwrap_or(0), 0);
    for time in series.times.iter().skip(1) {
        let step = time - last_time;
        bits += match step - last_step {
            0 => 1,
            -63..=64 => 2 + 7,
            -255..=256 => 3 + 9,
            -2_047..=2_048 => 4 + 12,
            // Microseconds need more than the 32 bits of the paper's seconds.
            _ => 4 + 64,
        };
        (last_time, last_step) = (*time, step);
    }
    let (mut last, mut lead, mut trail) = (series.values.first().map_or(0, |value| value.to_bits()), 65, 0);
    for value in series.values.iter().skip(1) {
        let xor = value.to_bits() ^ std::mem::replace(&mut last, value.to_bits());
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        bits += if xor == 0 {
            1
        } else if lead <= leading && trail <= trailing {
            2 + 64 - lead - trail
        } else {
            (lead, trail) = (leading, trailing);
            2 + 5 + 6 + 64 - leading - trailing
        } as usize;
    }
    bits.div_ceil(8)
}
