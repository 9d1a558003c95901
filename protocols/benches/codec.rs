//! What a reading costs: bytes in a batch, nanoseconds to encode and to decode, against what else
//! one might do with it, measured in the same run on the same readings.
//!
//!     cargo bench -p forebay-protocols --bench codec [-- --json]
//!
//! With FOREBAY_BENCH_DATA naming a folder that holds the sensor data (NAB, SURFRAD and MIDC files)
//! real readings are measured as well.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use forebay_protocols::sync::batch::{Boot, Decoder, Encoder, Epoch, Head, MAX_READINGS, Sequence};

#[path = "codec/corpora.rs"]
mod corpora;
#[path = "codec/rivals.rs"]
mod rivals;

use corpora::Corpus;

/// How long each figure is measured.
const PATIENCE: Duration = Duration::from_millis(150);

struct Row {
    corpus: String,
    readings: usize,
    /// Bytes per reading.
    batch: f64,
    json_lines: f64,
    rows: f64,
    /// Nanoseconds per reading.
    encode: f64,
    decode: f64,
    rows_encode: f64,
    rows_decode: f64,
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    if !json {
        println!(
            "{:<34} {:>8} | {:>6} {:>6} {:>6} | {:>6} {:>6} | {:>6} {:>6} | {:>6} {:>6}",
            "", "", "bytes per", "reading", "", "encode", "decode", "rows", "rows", "JSON/", "rows/"
        );
        println!(
            "{:<34} {:>8} | {:>9} {:>7} {:>3} | {:>6} {:>6} | {:>6} {:>6} | {:>6} {:>6}",
            "corpus", "readings", "batch", "JSON", "rows", "ns", "ns", "enc", "dec", "batch", "batch"
        );
    }
    let mut all = corpora::generated();
    if let Some(folder) = std::env::var_os("FOREBAY_BENCH_DATA") {
        all.extend(corpora::recorded(folder.as_ref()));
    }
    for corpus in &all {
        let row = measure(corpus);
        if json { print_json(&row) } else { print_row(&row) }
    }
}

fn measure(corpus: &Corpus) -> Row {
    let head = Head {
        epoch: Epoch([0x5a; 16]),
        sequence: Sequence(123_456),
        boot: Boot { counter: 42, id: [0xa5; 8], wall_offset_us: 1_790_000_000_123_456, synchronised: true },
    };
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let batches: Vec<_> = corpus.readings.chunks(corpus.batch.min(MAX_READINGS)).collect();
    let encoded: Vec<_> =
        batches.iter().map(|readings| encoder.encode(&head, &mut readings.to_vec())).collect();
    let rows: Vec<_> = batches.iter().map(|readings| rivals::rows(readings)).collect();
    let json_lines: usize = batches.iter().map(|readings| rivals::json_lines(readings).len()).sum();

    let count = corpus.readings.len() as f64;
    let per_reading = |bytes: usize| bytes as f64 / count;
    // Encoding sorts in place, so each round gets fresh readings; handing them over is not measured.
    let mut fresh = Vec::new();
    let encode = quickest(|| {
        batches
            .iter()
            .map(|readings| {
                fresh.clear();
                fresh.extend_from_slice(readings);
                timed(|| encoder.encode(&head, &mut fresh))
            })
            .sum()
    });
    let decode = quickest(|| encoded.iter().map(|batch| timed(|| decoder.decode(&batch.bytes))).sum());
    let rows_encode = quickest(|| batches.iter().map(|readings| timed(|| rivals::rows(readings))).sum());
    let rows_decode = quickest(|| rows.iter().map(|bytes| timed(|| rivals::read_rows(bytes))).sum());
    let nanos = |time: Duration| time.as_nanos() as f64 / count;
    Row {
        corpus: corpus.name.clone(),
        readings: corpus.batch,
        batch: per_reading(encoded.iter().map(|batch| batch.bytes.len()).sum()),
        json_lines: per_reading(json_lines),
        rows: per_reading(rows.iter().map(Vec::len).sum()),
        encode: nanos(encode),
        decode: nanos(decode),
        rows_encode: nanos(rows_encode),
        rows_decode: nanos(rows_decode),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

/// The best round: what the work costs when nobody else has the machine.
fn quickest(mut round: impl FnMut() -> Duration) -> Duration {
    let start = Instant::now();
    let mut best = round();
    while start.elapsed() < PATIENCE {
        best = best.min(round());
    }
    best
}

fn print_row(row: &Row) {
    println!(
        "{:<34} {:>8} | {:>9.2} {:>7.2} {:>5.2} | {:>6.1} {:>6.1} | {:>6.1} {:>6.1} | {:>6.1} {:>6.1}",
        row.corpus,
        row.readings,
        row.batch,
        row.json_lines,
        row.rows,
        row.encode,
        row.decode,
        row.rows_encode,
        row.rows_decode,
        row.json_lines / row.batch,
        row.rows / row.batch,
    );
}

fn print_json(row: &Row) {
    let object = serde_json::json!({
        "corpus": row.corpus, "readings_per_batch": row.readings,
        "batch_bytes": row.batch, "json_lines_zstd_bytes": row.json_lines, "row_protobuf_zstd_bytes": row.rows,
        "encode_ns": row.encode, "decode_ns": row.decode,
        "row_protobuf_encode_ns": row.rows_encode, "row_protobuf_decode_ns": row.rows_decode,
    });
    println!("{object}");
}
