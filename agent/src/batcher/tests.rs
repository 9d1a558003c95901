use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use forebay_config::units::ByteSize;
use forebay_protocols::field::source::Receipt;
use forebay_protocols::reading::{DataType, PointKind, Quality, Stamp, Value};
use forebay_protocols::sync::batch::{Decoder, MAX_READINGS};
use tokio::sync::Semaphore;

use super::*;
use crate::buffer::{Counts, Status};
use crate::fittings;
use crate::uplink::line::ServerReads;

/// A disk that can be told to refuse and to wait.
#[derive(Clone)]
struct Disk(Arc<Shelf>);

struct Shelf {
    points: Mutex<Vec<Arc<Point>>>,
    batches: Mutex<Vec<Encoded>>,
    refusals: Mutex<VecDeque<BufferError>>,
    /// Appends that may go on.
    gate: Semaphore,
    /// A word for every append that was tried.
    tried: mpsc::UnboundedSender<()>,
}

impl Disk {
    fn new(refusals: Vec<BufferError>) -> (Self, mpsc::UnboundedReceiver<()>) {
        let (tried, events) = mpsc::unbounded_channel();
        let shelf = Shelf {
            points: Mutex::default(),
            batches: Mutex::default(),
            refusals: Mutex::new(refusals.into()),
            gate: Semaphore::new(1_000),
            tried,
        };
        (Self(Arc::new(shelf)), events)
    }

    fn refuse(&self) -> Result<(), BufferError> {
        self.0.refusals.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    /// What lies there: sequence and words of each batch.
    fn batches(&self) -> Vec<(u64, String)> {
        let batches = self.0.batches.lock().unwrap();
        batches
            .iter()
            .map(|batch| (batch.sequence.0, String::from_utf8(batch.bytes.to_vec()).unwrap()))
            .collect()
    }
}

impl Flash for Disk {
    async fn define(&mut self, points: &[Arc<Point>]) -> Result<Vec<PointId>, BufferError> {
        self.refuse()?;
        let mut known = self.0.points.lock().unwrap();
        let ids = points.iter().map(|point| {
            let place = known.iter().position(|other| other == point).unwrap_or_else(|| {
                known.push(point.clone());
                known.len() - 1
            });
            PointId(place as u32 + 1)
        });
        Ok(ids.collect())
    }

    fn next_sequence(&self) -> Sequence {
        Sequence(self.0.batches.lock().unwrap().len() as u64 + 1)
    }

    async fn append(&mut self, batches: Vec<Encoded>) -> Result<(), BufferError> {
        let _ = self.0.tried.send(());
        self.0.gate.acquire().await.unwrap().forget();
        self.refuse()?;
        self.0.batches.lock().unwrap().extend(batches);
        Ok(())
    }
}

/// Batches in words: "1=7 2=8". Takes at most `most` readings at a time.
fn in_words(most: usize) -> impl Encode {
    move |head: &Head, readings: &mut [Reading]| {
        let part = &readings[..most.min(readings.len())];
        let words: Vec<_> = part
            .iter()
            .map(|reading| {
                format!(
                    "{}={}",
                    reading.point.0,
                    reading.value.as_ref().map_or("none".into(), Value::to_string)
                )
            })
            .collect();
        Encoded {
            sequence: head.sequence,
            count: part.len() as u32,
            dictionary_revision: part.iter().map(|reading| reading.point).max().unwrap_or(PointId(0)),
            span_us: (0, 0),
            bytes: words.join(" ").into(),
        }
    }
}

struct Bench {
    disk: Disk,
    tried: mpsc::UnboundedReceiver<()>,
    books: Books,
    hurry: CancellationToken,
    give_up: CancellationToken,
    handovers: mpsc::Sender<Handover>,
    end: tokio::task::JoinHandle<Result<(), BatcherError>>,
    _dir: tempfile::TempDir,
}

fn bench(window: Duration, refusals: Vec<BufferError>) -> Bench {
    bench_with(window, refusals, usize::MAX, 16)
}

fn bench_with(window: Duration, refusals: Vec<BufferError>, most: usize, channel: usize) -> Bench {
    bench_of(window, refusals, in_words(most), channel)
}

fn bench_of(
    window: Duration,
    refusals: Vec<BufferError>,
    encode: impl Encode + Sync,
    channel: usize,
) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (disk, tried) = Disk::new(refusals);
    let (handovers, receiver) = mpsc::channel(channel);
    let books = Books::default();
    let (hurry, give_up) = (CancellationToken::new(), CancellationToken::new());
    let batcher = Batcher {
        flash: disk.clone(),
        encode,
        epoch: Epoch([1; 16]),
        clock: Clock::open(dir.path()),
        window,
        books: books.clone(),
        progress: Progress::default(),
        backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(4)).unwrap(),
        hurry: hurry.clone(),
        give_up: give_up.clone(),
    };
    Bench {
        disk,
        tried,
        books,
        hurry,
        give_up,
        handovers,
        end: tokio::spawn(batcher.run(receiver)),
        _dir: dir,
    }
}

impl Bench {
    async fn hand(&self, handover: Handover) {
        self.books.harvested(handover.samples.len() as u64, 0);
        self.handovers.send(handover).await.unwrap();
    }

    /// Hangs up and waits for the end; what lies on the disk then.
    async fn finish(self) -> (Result<(), BatcherError>, Vec<(u64, String)>) {
        drop(self.handovers);
        let end = self.end.await.unwrap();
        (end, self.disk.batches())
    }
}

const AGES: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(1);

fn point(name: &str) -> Arc<Point> {
    let (kind, data_type) = (PointKind::Gauge, DataType::Integer);
    Arc::new(Point { device: "pump".into(), name: name.into(), unit: "".into(), kind, data_type })
}

fn samples(values: &[(usize, i64)]) -> Vec<Sample> {
    let sample = |&(slot, value)| Sample {
        slot,
        stamp: Stamp::device(1),
        value: Some(Value::Integer(value)),
        quality: Quality::Good,
    };
    values.iter().map(sample).collect()
}

fn handover(link: usize, points: &[&str], values: &[(usize, i64)]) -> Handover {
    let points = points.iter().map(|name| point(name)).collect();
    Handover { link, points, first_slot: 0, samples: samples(values), receipt: None, last: false }
}

fn disk_error() -> BufferError {
    BufferError::Disk("no space left on device".into())
}

#[tokio::test]
async fn readings_of_all_links_become_one_batch_with_the_numbers_of_their_points() {
    let bench = bench(AGES, vec![]);
    bench.hand(handover(0, &["flow", "speed"], &[(1, 10), (0, 11)])).await;
    bench.hand(handover(1, &["level"], &[(0, 12)])).await;
    bench.hand(handover(0, &[], &[(0, 13)])).await;
    let (end, batches) = bench.finish().await;
    end.unwrap();
    assert_eq!(batches, [(1, "2=10 1=11 3=12 1=13".into())], "one append when the last link hangs up");
}

#[tokio::test]
async fn points_found_later_take_the_next_slots_and_a_new_source_begins_again() {
    let bench = bench(AGES, vec![]);
    bench.hand(handover(0, &["flow"], &[(0, 1)])).await;
    bench.hand(Handover { first_slot: 1, ..handover(0, &["speed"], &[(1, 2)]) }).await;
    bench.hand(handover(0, &["speed", "level"], &[(0, 3), (1, 4)])).await;
    let (_, batches) = bench.finish().await;
    assert_eq!(batches, [(1, "1=1 2=2 2=3 3=4".into())]);
}

#[tokio::test]
async fn a_harvest_is_confirmed_after_its_append_and_never_before() {
    let mut bench = bench(MOMENT, vec![]);
    let confirmed = Arc::new(AtomicUsize::new(0));
    let counter = confirmed.clone();
    let receipt = Some(Receipt::new(move || _ = counter.fetch_add(1, Ordering::SeqCst)));
    bench.disk.0.gate.forget_permits(1_000);
    bench.hand(Handover { receipt, ..handover(0, &["flow"], &[(0, 1)]) }).await;
    bench.tried.recv().await.unwrap();
    assert_eq!(confirmed.load(Ordering::SeqCst), 0, "confirmed while the append is under way");
    bench.disk.0.refusals.lock().unwrap().push_back(disk_error());
    bench.disk.0.gate.add_permits(1);
    bench.tried.recv().await.unwrap();
    assert_eq!(confirmed.load(Ordering::SeqCst), 0, "confirmed though the disk refused");
    bench.disk.0.gate.add_permits(1);
    let (end, batches) = bench.finish().await;
    end.unwrap();
    assert_eq!((confirmed.load(Ordering::SeqCst), batches.len()), (1, 1));
}

#[tokio::test]
async fn a_message_without_a_reading_is_confirmed_too() {
    let bench = bench(MOMENT, vec![]);
    let (sender, confirmed) = tokio::sync::oneshot::channel();
    let receipt = Some(Receipt::new(move || _ = sender.send(())));
    bench.hand(Handover { receipt, ..handover(0, &[], &[]) }).await;
    confirmed.await.expect("the receipt was dropped");
    assert_eq!(bench.finish().await.1, [], "there was nothing to append");
}

#[tokio::test]
async fn a_link_that_hangs_up_waits_for_no_window() {
    let mut bench = bench(AGES, vec![]);
    let (sender, confirmed) = tokio::sync::oneshot::channel();
    let receipt = Some(Receipt::new(move || _ = sender.send(())));
    bench.hand(handover(0, &["flow"], &[(0, 1)])).await;
    bench.hand(Handover { receipt, last: true, ..handover(0, &[], &[]) }).await;
    bench.tried.recv().await.unwrap();
    confirmed.await.expect("the receipt was dropped");
    assert_eq!(bench.finish().await.1, [(1, "1=1".into())]);
}

#[tokio::test]
async fn a_disk_that_refuses_costs_time_and_no_reading() {
    let full = BufferError::Full { used: ByteSize(2), limit: ByteSize(1) };
    let bench = bench(MOMENT, vec![disk_error(), full, disk_error(), disk_error()]);
    bench.hand(handover(0, &["flow"], &[(0, 1), (0, 2)])).await;
    bench.hand(handover(0, &[], &[(0, 3)])).await;
    let books = bench.books.clone();
    let (end, batches) = bench.finish().await;
    end.unwrap();
    let words: Vec<_> = batches.iter().map(|(_, words)| words.as_str()).collect();
    assert_eq!(words.join(" "), "1=1 1=2 1=3");
    let counts = Counts { appended: 3, ..Counts::default() };
    let status = || Status { counts, backlog_readings: 3, ..Status::default() };
    assert_eq!(books.ledger(status).closes(), Ok(()));
}

#[tokio::test]
async fn while_the_disk_refuses_the_links_wait() {
    let mut bench = bench_with(MOMENT, (0..100_000).map(|_| disk_error()).collect(), usize::MAX, 1);
    // The first define is refused as well, so the batcher holds one and takes no more.
    bench.hand(handover(0, &[], &[])).await;
    bench.hand(handover(0, &["flow"], &[(0, 1)])).await;
    bench.hand(handover(0, &[], &[(0, 2)])).await;
    let third = bench.handovers.try_send(handover(0, &[], &[(0, 3)]));
    assert!(matches!(third, Err(mpsc::error::TrySendError::Full(_))), "{third:?}");
    assert!(bench.tried.try_recv().is_err(), "appended without numbers");
    bench.give_up.cancel();
    let (end, batches) = bench.finish().await;
    assert!(matches!(end, Err(BatcherError::GaveUp { readings: 1, .. })), "{end:?}");
    assert_eq!(batches, []);
}

#[tokio::test]
async fn a_stopped_buffer_ends_the_batcher() {
    let bench = bench(MOMENT, vec![BufferError::Stopped]);
    bench.hand(handover(0, &["flow"], &[(0, 1)])).await;
    let (end, _) = bench.finish().await;
    assert!(matches!(end, Err(BatcherError::Buffer(BufferError::Stopped))), "{end:?}");
}

#[tokio::test]
async fn a_full_collection_does_not_wait_for_the_window() {
    let mut bench = bench(AGES, vec![]);
    let many: Vec<_> = (0..FULL_READINGS as i64).map(|value| (0, value)).collect();
    bench.hand(handover(0, &["flow"], &many)).await;
    bench.tried.recv().await.unwrap();
    bench.finish().await.0.unwrap();
}

#[tokio::test]
async fn the_end_waits_for_no_window_even_while_a_link_has_not_hung_up() {
    let bench = bench(AGES, vec![]);
    let receipt = || {
        let (sender, confirmed) = tokio::sync::oneshot::channel();
        (Some(Receipt::new(move || _ = sender.send(()))), confirmed)
    };
    let ((first, first_confirmed), (second, second_confirmed)) = (receipt(), receipt());
    bench.hand(Handover { receipt: first, ..handover(0, &["flow"], &[(0, 1)]) }).await;
    bench.hurry.cancel();
    first_confirmed.await.unwrap();
    bench.hand(Handover { receipt: second, ..handover(0, &[], &[(0, 2)]) }).await;
    second_confirmed.await.unwrap();
    assert_eq!(bench.finish().await.1.len(), 2);
}

#[tokio::test]
async fn texts_fill_a_batch_by_their_length() {
    let mut bench = bench(AGES, vec![]);
    let mut long = handover(0, &["note"], &[(0, 1)]);
    long.samples[0].value = Some(Value::Text("x".repeat(FULL_BYTES).into()));
    bench.hand(long).await;
    bench.tried.recv().await.unwrap();
    bench.finish().await.0.unwrap();
}

#[tokio::test]
async fn what_the_codec_leaves_becomes_the_next_batch_of_the_same_append() {
    let mut bench = bench_with(AGES, vec![], 2, 16);
    bench.hand(handover(0, &["flow"], &[(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)])).await;
    bench.handovers = mpsc::channel(1).0;
    bench.tried.recv().await.unwrap();
    let (end, batches) = bench.finish().await;
    end.unwrap();
    assert_eq!(batches, [(1, "1=1 1=2".into()), (2, "1=3 1=4".into()), (3, "1=5".into())]);
}

#[tokio::test]
async fn a_harvest_above_the_codecs_limit_arrives_whole_in_several_batches() {
    let count = MAX_READINGS as i64 + 4_465;
    let bench = bench_of(AGES, vec![], fittings::encoder(ServerReads::default()), 16);
    let (books, disk) = (bench.books.clone(), bench.disk.clone());
    bench.hand(handover(0, &["flow"], &(0..count).map(|value| (0, value)).collect::<Vec<_>>())).await;
    drop(bench.handovers);
    bench.end.await.unwrap().unwrap();
    let batches = disk.0.batches.lock().unwrap().clone();
    let mut values = Vec::new();
    for (batch, sequence) in batches.iter().zip(1..) {
        let decoded = Decoder::new().decode(&batch.bytes).unwrap();
        assert_eq!((decoded.head.sequence, batch.sequence), (Sequence(sequence), Sequence(sequence)));
        assert_eq!(decoded.readings.len(), batch.count as usize);
        values.extend(decoded.readings.into_iter().map(|reading| reading.value));
    }
    assert_eq!(batches.len(), 2);
    assert!(values.into_iter().eq((0..count).map(|value| Some(Value::Integer(value)))), "lost or doubled");
    let ledger = books.ledger(Default::default);
    assert_eq!((ledger.appended, ledger.in_hand), (count as u64, 0));
}

#[tokio::test]
async fn a_codec_that_takes_nothing_costs_the_reading_and_hangs_nobody() {
    let bench = bench_with(AGES, vec![], 0, 16);
    let books = bench.books.clone();
    bench.hand(handover(0, &["flow"], &[(0, 1), (0, 2)])).await;
    let (end, batches) = bench.finish().await;
    end.unwrap();
    assert_eq!(batches, []);
    assert_eq!(books.ledger(Status::default).closes(), Ok(()));
}

#[tokio::test]
async fn a_buffer_that_opens_slowly_does_not_starve_the_watchdog() {
    let progress = Progress::default();
    let (opened, opening) = tokio::sync::oneshot::channel();
    let mut waiting = std::pin::pin!(while_opening(opening, &progress));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    assert_eq!(progress.count(), 1, "no sign of life before it is open");
    opened.send(7).unwrap();
    assert_eq!(waiting.await, Ok(7));
}

#[test]
fn what_is_read_once_a_window_is_appended_at_once_and_appends_stay_a_window_apart() {
    let (window, ms) = (Duration::from_secs(1), Duration::from_millis);
    let start = Instant::now();
    let wait = |now: u64, last: Option<u64>| {
        until(start + ms(now), last.map(|last| start + ms(last)), window).duration_since(start).as_millis()
    };
    // now | the last append | until when to collect
    for (now, last, due) in [
        (0, None, 1_000),
        (2_000, Some(1_000), 2_050),
        (2_000, Some(1_050), 2_050),
        // It came late once: the next ones catch up.
        (2_000, Some(1_300), 2_200),
        (1_500, Some(1_050), 1_950),
        (1_060, Some(1_050), 1_950),
        (9_000, Some(1_050), 9_050),
    ] {
        assert_eq!(wait(now, last), due, "{now} {last:?}");
    }
    let short = until(start, Some(start), ms(10)).duration_since(start);
    assert_eq!(short, ms(10), "never longer than the window");
}

#[tokio::test(start_paused = true)]
async fn a_poll_once_a_second_is_on_the_flash_soon_and_one_ten_times_a_second_once_a_second() {
    for (every, polls, appends) in [(1_000, 20, 15..=20), (100, 200, 18..=23)] {
        let bench = bench(Duration::from_secs(1), vec![]);
        for poll in 0..polls {
            bench.hand(handover(0, if poll == 0 { &["flow"] } else { &[] }, &[(0, poll)])).await;
            tokio::time::sleep(Duration::from_millis(every)).await;
            // The first ones wait for a window, and then it has settled.
            if every == 1_000 && poll > 5 {
                let words = bench.disk.batches().last().unwrap().1.clone();
                assert!(words.ends_with(&format!("1={poll}")), "{poll} waits: {words}");
            }
        }
        let (end, batches) = bench.finish().await;
        end.unwrap();
        assert!(appends.contains(&batches.len()), "{} appends of polls every {every} ms", batches.len());
    }
}
