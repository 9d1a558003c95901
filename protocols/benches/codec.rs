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

use forebay_protocols::reading::Reading;
use forebay_protocols::sync::batch::{Boot, Decoder, Encoder, Epoch, Head, MAX_READINGS, Sequence};

#[path = "codec/candidates.rs"]
mod candidates;
#[path = "codec/corpora.rs"]
mod corpora;
#[path = "codec/rivals.rs"]
mod rivals;

use corpora::Corpus;

/// The mean is of the corpora with so many readings in a batch.
const MEAN_OF: usize = 10_000;
/// How long each figure is measured.
const PATIENCE: Duration = Duration::from_millis(150);

#[derive(Clone, Debug, Default)]
struct Row {
    corpus: String,
    readings: usize,
    /// Bytes per reading.
    batch: f64,
    json_gzip: f64,
    json_zstd: f64,
    lines_gzip: f64,
    rows: f64,
    gorilla: f64,
    /// The smallest of the candidates, and its name.
    best: (f64, &'static str),
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
            "{:<34} {:>8} | {:>6} | {:>6} {:>6} {:>6} {:>6} {:>7} | {:>6} {:>5} | {:>6} {:>6} | {:>6} {:>6}  best candidate",
            "corpus",
            "readings",
            "batch",
            "JSON",
            "JSON",
            "lines",
            "rows",
            "Gorilla",
            "best",
            "to it",
            "encode",
            "decode",
            "rows",
            "rows"
        );
        println!(
            "{:<34} {:>8} | {:>6} | {:>6} {:>6} {:>6} {:>6} {:>7} | {:>6} {:>5} | {:>6} {:>6} | {:>6} {:>6}",
            "bytes and ns per reading",
            "a batch",
            "",
            "gzip",
            "zstd",
            "gzip",
            "zstd",
            "",
            "",
            "",
            "ns",
            "ns",
            "enc ns",
            "dec ns"
        );
    }
    let mut all = corpora::generated();
    if let Some(folder) = std::env::var_os("FOREBAY_BENCH_DATA") {
        all.extend(corpora::recorded(folder.as_ref()));
    }
    let mut rows = Vec::new();
    for corpus in &all {
        let row = measure(corpus);
        if json {
            print_json(&row)
        } else {
            print_row(&row)
        }
        rows.extend((corpus.batch == MEAN_OF).then_some(row));
    }
    let mean = mean(&rows);
    if json { print_json(&mean) } else { print_row(&mean) }
}

/// The geometric mean of each column.
fn mean(rows: &[Row]) -> Row {
    let of = |column: fn(&Row) -> f64| {
        (rows.iter().map(|row| column(row).ln()).sum::<f64>() / rows.len().max(1) as f64).exp()
    };
    Row {
        corpus: "geometric mean of these".into(),
        readings: MEAN_OF,
        batch: of(|row| row.batch),
        json_gzip: of(|row| row.json_gzip),
        json_zstd: of(|row| row.json_zstd),
        lines_gzip: of(|row| row.lines_gzip),
        rows: of(|row| row.rows),
        gorilla: of(|row| row.gorilla),
        best: (of(|row| row.best.0), ""),
        encode: of(|row| row.encode),
        decode: of(|row| row.decode),
        rows_encode: of(|row| row.rows_encode),
        rows_decode: of(|row| row.rows_decode),
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
    let sum =
        |bytes: &dyn Fn(&[Reading]) -> usize| batches.iter().map(|readings| bytes(readings)).sum::<usize>();
    let mut candidates = batches.iter().map(|readings| candidates::all(readings));
    let mut candidate = candidates.next().expect("no corpus is empty");
    for more in candidates {
        candidate.iter_mut().zip(more).for_each(|(sum, (_, bytes))| sum.1 += bytes);
    }
    let [(_, gorilla), ..] = candidate;
    let best = candidate.into_iter().min_by_key(|(_, bytes)| *bytes).expect("there are four");

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
        json_gzip: per_reading(sum(&|readings| candidates::gzip(&rivals::json_lines(readings)))),
        json_zstd: per_reading(sum(&|readings| rivals::compress(&rivals::json_lines(readings)).len())),
        lines_gzip: per_reading(sum(&|readings| candidates::gzip(&candidates::line_protocol(readings)))),
        gorilla: per_reading(gorilla),
        best: (per_reading(best.1), best.0),
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
        "{:<34} {:>8} | {:>6.2} | {:>6.2} {:>6.2} {:>6.2} {:>6.2} {:>7.2} | {:>6.2} {:>5.2} | {:>6.1} {:>6.1} | {:>6.1} {:>6.1}  {}",
        row.corpus,
        row.readings,
        row.batch,
        row.json_gzip,
        row.json_zstd,
        row.lines_gzip,
        row.rows,
        row.gorilla,
        row.best.0,
        row.batch / row.best.0,
        row.encode,
        row.decode,
        row.rows_encode,
        row.rows_decode,
        row.best.1,
    );
}

fn print_json(row: &Row) {
    let object = serde_json::json!({
        "corpus": row.corpus, "readings_per_batch": row.readings,
        "batch_bytes": row.batch, "json_lines_gzip_bytes": row.json_gzip, "json_lines_zstd_bytes": row.json_zstd,
        "line_protocol_gzip_bytes": row.lines_gzip, "row_protobuf_zstd_bytes": row.rows, "gorilla_bytes": row.gorilla,
        "best_candidate": row.best.1, "best_candidate_bytes": row.best.0, "to_best_candidate": row.batch / row.best.0,
        "encode_ns": row.encode, "decode_ns": row.decode,
        "row_protobuf_encode_ns": row.rows_encode, "row_protobuf_decode_ns": row.rows_decode,
    });
    println!("{object}");
}
