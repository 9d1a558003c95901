use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use forebay_protocols::boot_time::wall_offset_micros;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind};
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::ranges::Ranges;
use tokio::sync::Notify;

use super::peer::{Behaviour, Server};
use super::*;
use crate::buffer::{Revived, Status, Stored};
use prost::Message;
use tokio::time::timeout;

const EPOCH: Epoch = Epoch([9; 16]);
const BOOT: [u8; 8] = [7; 8];

/// A buffer in memory.
#[derive(Default)]
struct Shelf {
    batches: Mutex<BTreeMap<u64, Stored>>,
    points: Mutex<Vec<Arc<Point>>>,
    gaps: Mutex<Vec<wire::Gap>>,
    /// What was acknowledged, and is still there or not.
    tail: Mutex<BTreeMap<u64, Option<Stored>>>,
    openings: Mutex<Vec<wire::Opening>>,
    greeted: Mutex<Vec<[u8; 8]>>,
    revived: Mutex<Vec<Revived>>,
    appended: Notify,
    /// Wakes when something was acknowledged.
    forgotten: Notify,
}

impl Shelf {
    /// Appends batches of this many bytes, each needing the dictionary up to `revision`.
    fn append(&self, sequences: RangeInclusive<u64>, bytes: usize, revision: u32) {
        let mut points = self.points.lock().unwrap();
        while points.len() < revision as usize {
            let name = format!("point-{}", points.len()).into();
            let (kind, data_type) = (PointKind::Gauge, DataType::Float);
            points.push(Arc::new(Point { device: "pump".into(), name, unit: "bar".into(), kind, data_type }));
        }
        for sequence in sequences {
            let boot = wire::Boot {
                counter: 1,
                id: BOOT.to_vec().into(),
                wall_offset_us: 1_000,
                synchronised: false,
            };
            let batch = wire::Batch {
                sequence,
                dictionary_revision: revision,
                boot: Some(boot),
                payload: vec![0; bytes].into(),
                ..wire::Batch::default()
            };
            let stored = Stored {
                sequence: Sequence(sequence),
                count: 1_000,
                dictionary_revision: PointId(revision),
                boot_counter: 1,
                thinned: false,
                bytes: batch.encode_to_vec().into(),
            };
            self.batches.lock().unwrap().insert(sequence, stored);
        }
        self.appended.notify_one();
    }

    async fn until_empty(&self) {
        while !self.batches.lock().unwrap().is_empty() {
            self.forgotten.notified().await;
        }
    }
}

impl Backlog for Arc<Shelf> {
    async fn oldest(&self, Sequence(from): Sequence, max: usize) -> Result<Vec<Stored>, BufferError> {
        let batches = self.batches.lock().unwrap();
        let mut room = max;
        let fits =
            batches.range(from..).map(|(_, stored)| stored).enumerate().take_while(|(place, stored)| {
                let fits = *place == 0 || stored.bytes.len() <= room;
                room = room.saturating_sub(stored.bytes.len());
                fits
            });
        Ok(fits.map(|(_, stored)| stored.clone()).collect())
    }
    async fn acknowledge(&self, ranges: Vec<RangeInclusive<u64>>) -> Result<(), BufferError> {
        let mut batches = self.batches.lock().unwrap();
        let known = batches.extract_if(.., |sequence, _| ranges.iter().any(|range| range.contains(sequence)));
        self.tail.lock().unwrap().extend(known.map(|(sequence, stored)| (sequence, Some(stored))));
        self.forgotten.notify_one();
        Ok(())
    }
    async fn dictionary(&self, PointId(after): PointId) -> Result<Vec<(PointId, Arc<Point>)>, BufferError> {
        let points = self.points.lock().unwrap();
        Ok((1..).map(PointId).zip(points.iter().cloned()).skip(after as usize).collect())
    }
    async fn gaps(&self, after: u64, most: usize) -> Result<Vec<wire::Gap>, BufferError> {
        let gaps = self.gaps.lock().unwrap();
        Ok(gaps.iter().filter(|gap| gap.number > after).take(most).cloned().collect())
    }
    fn status(&self) -> Status {
        let newest = self.batches.lock().unwrap().keys().last().copied().map(Sequence);
        Status { newest, ..Status::default() }
    }
    async fn openings(&self) -> Result<Vec<wire::Opening>, BufferError> {
        Ok(self.openings.lock().unwrap().clone())
    }
    async fn greeted(&self, opening: [u8; 8]) -> Result<(), BufferError> {
        self.greeted.lock().unwrap().push(opening);
        Ok(())
    }
    async fn acknowledged(&self) -> Result<Ranges, BufferError> {
        let mut ranges = Ranges::default();
        for &sequence in self.tail.lock().unwrap().keys() {
            ranges.insert(sequence..=sequence);
        }
        Ok(ranges)
    }
    async fn revive(&self, ranges: Vec<RangeInclusive<u64>>) -> Result<Revived, BufferError> {
        let mut revived = Revived::default();
        let (mut tail, mut batches) = (self.tail.lock().unwrap(), self.batches.lock().unwrap());
        for sequence in ranges.into_iter().flatten() {
            match tail.remove(&sequence) {
                Some(Some(stored)) => {
                    batches.insert(sequence, stored);
                    revived.batches += 1;
                }
                Some(None) => revived.lost += 1,
                None => {}
            }
        }
        self.revived.lock().unwrap().push(revived);
        Ok(revived)
    }
    async fn appended(&self) {
        self.appended.notified().await;
    }
}

mod greeting;
pub(super) mod ingest;
mod ways;

struct Bench {
    shelf: Arc<Shelf>,
    joined: Arc<AtomicBool>,
    report: Arc<Mutex<wire::Report>>,
    status: watch::Receiver<UplinkStatus>,
    finish: CancellationToken,
    end: tokio::task::JoinHandle<Result<(), BufferError>>,
    _dir: tempfile::TempDir,
}

/// An uplink to `peer` over a shelf that `stock` filled.
fn bench(peer: Peer, heartbeat: Duration, stock: impl FnOnce(&Shelf)) -> Bench {
    bench_of(peer, true, stock, |settings| settings.heartbeat = heartbeat)
}

fn bench_of(peer: Peer, joined: bool, stock: impl FnOnce(&Shelf), set: impl FnOnce(&mut Settings)) -> Bench {
    let mut settings = Settings {
        request_timeout: Duration::from_secs(20),
        max_request: 1 << 20,
        heartbeat: SELDOM,
        backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(5)).unwrap(),
        look_for_identity: Duration::from_millis(2),
        order: Order::FreshFirst,
        connections: 4,
        limits: Limits::default(),
        proxy: None,
        spread: Duration::ZERO,
    };
    set(&mut settings);
    let dir = tempfile::tempdir().unwrap();
    let shelf = Arc::new(Shelf::default());
    stock(&shelf);
    let joined = Arc::new(AtomicBool::new(joined));
    let report = Arc::new(Mutex::new(wire::Report { synchronised: true, ..wire::Report::default() }));
    let (sender, status) = watch::channel(UplinkStatus::default());
    let finish = CancellationToken::new();
    let uplink = Uplink {
        backlog: shelf.clone(),
        epoch: EPOCH,
        clock: Clock::with_boot_id(dir.path(), 1, BOOT),
        introduction: {
            let joined = joined.clone();
            // Read anew each time, as on a gateway: each remembers no server.
            let introduced = move || {
                let mut tls = rustls::ClientConfig::clone(&peer.tls);
                tls.resumption = rustls::client::Resumption::default();
                Peer { tls: Arc::new(tls), ..peer.clone() }
            };
            Box::new(move || Ok(joined.load(Ordering::SeqCst).then(&introduced)))
        },
        reporter: {
            let report = report.clone();
            Box::new(move || report.lock().unwrap().clone())
        },
        status: sender,
        settings,
        finish: finish.clone(),
        give_up: CancellationToken::new(),
    };
    let end = tokio::spawn(uplink.run());
    Bench { shelf, joined, report, status, finish, end, _dir: dir }
}

const SELDOM: Duration = Duration::from_secs(3600);

impl Bench {
    async fn finish(self) {
        self.finish.cancel();
        self.end.await.unwrap().unwrap();
    }
    async fn until_troubled(&mut self) -> String {
        let troubled = |status: &UplinkStatus| matches!(status, UplinkStatus::Troubled(_));
        match &*self.status.wait_for(troubled).await.unwrap() {
            UplinkStatus::Troubled(words) => words.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn every_batch_arrives_once_though_answers_are_swallowed_and_requests_cut() {
    let server = Server::start().await;
    // The greeting fails in each way as well.
    let faults = [
        Behaviour::CutBeforeReading,
        Behaviour::SwallowAnswer,
        Behaviour::Serve,
        Behaviour::SwallowAnswer,
        Behaviour::Status(500, &[]),
        Behaviour::CaptivePortal,
        Behaviour::SwallowAnswer,
        Behaviour::CutBeforeReading,
        Behaviour::Garbage,
        Behaviour::Status(503, &[]),
        Behaviour::Status(413, &[]),
        Behaviour::HalfAnAnswer,
    ];
    server.behave(faults);
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=200, 5_000, 3));
    bench.shelf.until_empty().await;
    assert_eq!(server.committed(), (1..=200).collect::<BTreeSet<_>>());
    assert!(server.duplicates() > 0, "no answer was swallowed: the test tests nothing");
    assert!(server.is_well_behaved(), "faults were left over");
    bench.finish().await;
}

#[tokio::test]
async fn a_backlog_drains_in_few_requests_and_fresh_batches_go_first() {
    let server = Server::start().await;
    server.behave([Behaviour::Serve, Behaviour::Hold]);
    // 300,000 readings, 1.3 bytes each.
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=300, 1_300, 3));
    server.held().await;
    bench.shelf.append(301..=302, 1_300, 3);
    server.release();
    bench.shelf.until_empty().await;
    let requests = server.requests();
    assert!(requests.len() <= 6, "{} requests for a backlog of 400 kB", requests.len());
    let lanes = |request: &[(u64, bool)]| {
        request.iter().map(|(sequence, backlog)| (*sequence, *backlog)).take(3).collect::<Vec<_>>()
    };
    assert_eq!(lanes(&requests[0]), [], "the greeting carries no batch");
    assert_eq!(lanes(&requests[1])[0], (1, true));
    assert_eq!(
        lanes(&requests[2])[..2],
        [(301, false), (302, false)],
        "fresh batches wait behind the backlog"
    );
    assert!(lanes(&requests[2])[2].1);
    bench.finish().await;
}

#[tokio::test]
async fn a_server_restored_from_a_backup_gets_the_dictionary_again() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=3, 100, 5));
    bench.shelf.until_empty().await;
    server.forget_dictionary();
    bench.shelf.append(4..=6, 100, 7);
    bench.shelf.until_empty().await;
    assert_eq!(server.dictionary(), 7);
    assert_eq!(server.committed(), (1..=6).collect::<BTreeSet<_>>());
    bench.finish().await;
}

#[tokio::test]
async fn a_dictionary_larger_than_a_request_arrives_before_the_batches_that_need_it() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |shelf| {
        shelf.append(1..=2, 100, 10);
        shelf.append(3..=4, 100, 30_000);
    });
    bench.shelf.until_empty().await;
    assert_eq!(server.dictionary(), 30_000);
    assert!(server.requests().len() > 3, "it fitted into one request: the test tests nothing");
    bench.finish().await;
}

#[tokio::test]
async fn a_gateway_that_joins_later_needs_no_restart() {
    let server = Server::start().await;
    let bench = bench_of(server.peer(), false, |shelf| shelf.append(1..=3, 100, 1), |_| ());
    let early = timeout(Duration::from_millis(30), server.until_requests(1)).await;
    assert!(early.is_err(), "sent without an identity");
    assert_eq!(*bench.status.borrow(), UplinkStatus::NotJoined);
    bench.joined.store(true, Ordering::SeqCst);
    bench.shelf.until_empty().await;
    assert_eq!(*bench.status.borrow(), UplinkStatus::Up);
    bench.finish().await;
}

#[tokio::test]
async fn a_gateway_that_never_joins_ends_when_it_is_asked_to() {
    let server = Server::start().await;
    bench_of(server.peer(), false, |_| (), |_| ()).finish().await;
}

#[tokio::test]
async fn a_revoked_gateway_keeps_everything_and_says_what_to_do() {
    let server = Server::start().await;
    server.behave([Behaviour::Serve, Behaviour::Revoked, Behaviour::Status(403, &[]), Behaviour::Hold]);
    let mut bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=3, 100, 1));
    let words = bench.until_troubled().await;
    assert!(words.contains("the certificate of hall/pump was revoked"), "{words}");
    assert!(words.contains("forebay-agent join"), "{words}");
    server.held().await;
    assert_eq!(bench.shelf.batches.lock().unwrap().len(), 3, "forgotten because of a 403");
    server.release();
    bench.shelf.until_empty().await;
    bench.finish().await;
}

#[tokio::test]
async fn a_server_of_another_authority_learns_nothing() {
    let (ours, other) = (Server::start().await, Server::start().await);
    let mut peer = ours.peer();
    peer.server = other.peer().server;
    let mut bench = bench(peer, SELDOM, |shelf| shelf.append(1..=3, 100, 1));
    let words = bench.until_troubled().await;
    assert!(words.contains("TLS"), "{words}");
    assert_eq!((other.requests().len(), bench.shelf.batches.lock().unwrap().len()), (0, 3));
    bench.finish().await;
}

#[tokio::test]
async fn silence_is_broken_by_a_heartbeat_with_a_report() {
    let server = Server::start().await;
    let bench = bench(server.peer(), Duration::from_millis(5), |_| ());
    server.until_requests(4).await;
    assert_eq!(server.reported(), [true; 4]);
    bench.finish().await;
}

#[tokio::test]
async fn readings_travel_without_a_report_until_people_would_see_a_change() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |_| ());
    server.until_requests(1).await;
    let send = async |sequence| {
        bench.shelf.append(sequence..=sequence, 100, 1);
        bench.shelf.until_empty().await;
    };
    send(1).await;
    send(2).await;
    bench.report.lock().unwrap().devices.push(wire::report::Device::default());
    send(3).await;
    send(4).await;
    assert_eq!(server.reported(), [true, false, false, true, false]);
    bench.finish().await;
}

#[tokio::test]
async fn the_last_request_carries_the_counts_that_close_the_ledger() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=1, 100, 1));
    bench.shelf.until_empty().await;
    bench.report.lock().unwrap().produced = 1_000;
    bench.finish().await;
    assert_eq!(server.report().produced, 1_000);
}

#[tokio::test]
async fn the_end_sends_what_is_left_and_a_dead_server_does_not_hold_it_up() {
    let server = Server::start().await;
    server.behave([Behaviour::Serve, Behaviour::Hold]);
    let alive = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=3, 100, 1));
    server.held().await;
    alive.finish.cancel();
    alive.shelf.append(4..=4, 100, 1);
    server.release();
    alive.end.await.unwrap().unwrap();
    assert_eq!(server.committed(), (1..=4).collect::<BTreeSet<_>>());

    let mut peer = server.peer();
    peer.server = "127.0.0.1:1".into();
    let dead = bench(peer, SELDOM, |shelf| shelf.append(1..=3, 100, 1));
    let shelf = dead.shelf.clone();
    dead.finish().await;
    assert_eq!(shelf.batches.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn the_end_tries_once_more_when_a_request_was_cut() {
    let server = Server::start().await;
    // A kept connection that is dead is replaced at once, so it takes two cuts to fail.
    let cut = Behaviour::CutBeforeReading;
    server.behave([Behaviour::Serve, Behaviour::Hold, cut, cut]);
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=3, 100, 1));
    server.held().await;
    bench.shelf.append(4..=4, 100, 1);
    bench.finish.cancel();
    server.release();
    bench.end.await.unwrap().unwrap();
    assert!(server.is_well_behaved(), "nothing was cut: the test tests nothing");
    assert_eq!(server.committed(), (1..=4).collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn gaps_are_told_until_the_server_has_them() {
    let server = Server::start().await;
    server.behave([Behaviour::Serve, Behaviour::CutBeforeReading]);
    let bench = bench(server.peer(), SELDOM, |shelf| {
        let gap = |number| wire::Gap { number, from_us: 1, to_us: 2, ..wire::Gap::default() };
        shelf.gaps.lock().unwrap().extend((1..=450).map(gap));
    });
    server.until(|server| server.gaps == 450).await;
    bench.finish().await;
}

#[tokio::test]
async fn a_gateway_that_woke_without_the_time_corrects_every_batch_from_the_first_on() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=3, 100, 1));
    bench.shelf.until_empty().await;
    let truth = wall_offset_micros();
    let corrections = server.corrections();
    assert_eq!(corrections.len(), 3);
    for correction in corrections {
        assert!((correction + 1_000 - truth).abs() < 5_000_000, "{correction} does not lead to {truth}");
    }
    bench.finish().await;
}
