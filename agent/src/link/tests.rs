use std::sync::atomic::{AtomicBool, Ordering};

use forebay_protocols::reading::{DataType, Point, PointKind, Value};

use forebay_config::classes::Pattern;
use forebay_config::processing::Filter;
use forebay_config::units::Name;

use super::*;
use crate::gaps::Lasting;

/// What a scripted peer does next.
enum Step {
    Connect(Result<(), LinkFault>),
    Bring(Result<Harvest, LinkFault>),
    Find(&'static str),
}

/// A source that does what the test says, when the test says it.
struct Scripted {
    points: Vec<Point>,
    script: mpsc::UnboundedReceiver<Step>,
    /// A word for every attempt and for the goodbye.
    deeds: mpsc::UnboundedSender<&'static str>,
    /// Is the peer there?
    there: Arc<AtomicBool>,
}

impl Source for Scripted {
    fn points(&self) -> &[Point] {
        &self.points
    }
    async fn connect(&mut self) -> Result<(), LinkFault> {
        let _ = self.deeds.send("connect");
        match self.script.recv().await {
            Some(Step::Connect(result)) => result,
            _ => std::future::pending().await,
        }
    }
    async fn next(&mut self) -> Result<Harvest, LinkFault> {
        match self.script.recv().await {
            Some(Step::Bring(result)) => result,
            Some(Step::Find(name)) => {
                self.points.push(point(name));
                Ok(Harvest::default())
            }
            _ => std::future::pending().await,
        }
    }
    async fn knock(&mut self) -> bool {
        self.there.load(Ordering::Relaxed)
    }
    fn occupancy(&self) -> Option<Occupancy> {
        None
    }
    async fn close(&mut self) {
        let _ = self.deeds.send("close");
    }
}

fn point(name: &str) -> Point {
    let (kind, data_type) = (PointKind::Gauge, DataType::Integer);
    Point { device: "pump".into(), name: name.into(), unit: "".into(), kind, data_type }
}

struct Bench {
    script: mpsc::UnboundedSender<Step>,
    deeds: mpsc::UnboundedReceiver<&'static str>,
    handovers: mpsc::Receiver<Handover>,
    status: watch::Receiver<LinkStatus>,
    books: Books,
    silences: Silences,
    stop: CancellationToken,
    goodbye: CancellationToken,
    there: Arc<AtomicBool>,
    end: tokio::task::JoinHandle<()>,
}

fn bench(points: &[&str], max_pause: Duration) -> Bench {
    ruled_bench(points, max_pause, [].into())
}

fn ruled_bench(points: &[&str], max_pause: Duration, rules: Arc<[Rule]>) -> Bench {
    let (script, steps) = mpsc::unbounded_channel();
    let (deed, deeds) = mpsc::unbounded_channel();
    let (sender, handovers) = mpsc::channel(64);
    let (status, seen) = watch::channel(LinkStatus::default());
    let (books, silences) = (Books::default(), Silences::default());
    let (stop, goodbye) = (CancellationToken::new(), CancellationToken::new());
    let there = Arc::new(AtomicBool::new(false));
    let points = points.iter().map(|name| point(name)).collect();
    let source = Scripted { points, script: steps, deeds: deed, there: there.clone() };
    let desk = Desk {
        name: "hall".into(),
        index: 3,
        handovers: sender,
        books: books.clone(),
        silences: silences.clone(),
        rules,
        status,
        rate: Rate::default(),
        feed: Feed::default(),
        backoff: Backoff::new(Duration::from_millis(1), max_pause).unwrap(),
        stop: stop.clone(),
        goodbye: goodbye.clone(),
    };
    let end = tokio::spawn(Link { source, desk }.run());
    Bench { script, deeds, handovers, status: seen, books, silences, stop, goodbye, there, end }
}

impl Bench {
    fn play(&self, steps: impl IntoIterator<Item = Step>) {
        steps.into_iter().for_each(|step| self.script.send(step).unwrap());
    }
    /// The values of the next handover: `None` for a hole.
    async fn values(&mut self) -> Vec<(usize, Option<i64>)> {
        let Handover { samples, link, .. } = self.handovers.recv().await.unwrap();
        assert_eq!(link, 3);
        samples.into_iter().map(|sample| (sample.slot, value(&sample))).collect()
    }
    async fn until(&mut self, wanted: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
        self.status.wait_for(|status| wanted(status)).await.unwrap().clone()
    }
}

fn value(sample: &Sample) -> Option<i64> {
    match (&sample.value, sample.quality) {
        (Some(Value::Integer(value)), Quality::Good) => Some(*value),
        (None, Quality::Bad(Fault::NoConnection)) => None,
        other => panic!("a sample nobody made: {other:?}"),
    }
}

fn bring(values: &[(usize, i64)]) -> Step {
    let sample = |&(slot, value)| {
        let value = Some(Value::Integer(value));
        Sample { slot, stamp: Stamp::device(1), value, quality: Quality::Good }
    };
    Step::Bring(Ok(Harvest { samples: values.iter().map(sample).collect(), ..Harvest::default() }))
}

fn lost() -> LinkFault {
    LinkFault::Lost { peer: "10.0.0.7:502".into(), why: "connection reset".into() }
}

fn unreachable_peer() -> LinkFault {
    LinkFault::Unreachable { peer: "10.0.0.7:502".into(), why: "no route".into() }
}

const SOON: Duration = Duration::from_millis(2);

#[tokio::test]
async fn every_loss_is_one_hole_per_point_however_long_it_lasts() {
    let mut bench = bench(&["flow", "speed"], SOON);
    bench.play([
        Step::Connect(Ok(())),
        bring(&[(0, 1), (1, 2)]),
        Step::Bring(Err(lost())),
        Step::Connect(Err(unreachable_peer())),
        Step::Connect(Err(unreachable_peer())),
        Step::Connect(Ok(())),
        Step::Bring(Err(lost())),
        Step::Connect(Ok(())),
        bring(&[(0, 3)]),
        Step::Bring(Err(lost())),
    ]);
    assert_eq!(bench.values().await, [(0, Some(1)), (1, Some(2))]);
    assert_eq!(bench.values().await, [(0, None), (1, None)]);
    assert_eq!(bench.values().await, [(0, Some(3))], "a second hole although nothing came in between");
    assert_eq!(bench.values().await, [(0, None), (1, None)]);
    assert_eq!(bench.books.ledger(Default::default).produced, 7);
}

#[tokio::test]
async fn a_link_that_is_down_from_the_start_marks_its_points_once() {
    let mut bench = bench(&["flow"], SOON);
    bench.play([
        Step::Connect(Err(unreachable_peer())),
        Step::Connect(Err(unreachable_peer())),
        Step::Connect(Ok(())),
    ]);
    assert_eq!(bench.values().await, [(0, None)]);
    bench.play([bring(&[(0, 1)])]);
    assert_eq!(bench.values().await, [(0, Some(1))]);
}

#[tokio::test]
async fn points_are_told_once_and_before_their_first_sample() {
    let mut bench = bench(&["flow"], SOON);
    bench.play([
        Step::Connect(Ok(())),
        bring(&[(0, 1)]),
        Step::Find("speed"),
        bring(&[(1, 2)]),
        bring(&[(1, 3)]),
    ]);
    let told = async |bench: &mut Bench| {
        let Handover { points, first_slot, .. } = bench.handovers.recv().await.unwrap();
        (first_slot, points.iter().map(|point| point.name.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(told(&mut bench).await, (0, vec!["flow".into()]));
    assert_eq!(told(&mut bench).await, (1, vec!["speed".into()]));
    assert_eq!(told(&mut bench).await, (2, vec![]));
}

#[tokio::test]
async fn a_reading_of_no_point_is_discarded_and_never_enters_the_books() {
    let mut bench = bench(&["flow"], SOON);
    bench.play([Step::Connect(Ok(())), bring(&[(0, 1), (9, 2)])]);
    assert_eq!(bench.values().await, [(0, Some(1))]);
    assert_eq!((bench.books.ledger(Default::default).produced, bench.status.borrow().discarded), (1, 1));
}

#[tokio::test]
async fn a_harvest_without_samples_is_confirmed_at_once_and_bothers_nobody() {
    let mut bench = bench(&["flow"], SOON);
    let (sender, confirmed) = oneshot::channel();
    let receipt = Some(Receipt::new(move || _ = sender.send(())));
    bench.play([
        Step::Connect(Ok(())),
        Step::Bring(Ok(Harvest::default())),
        Step::Bring(Ok(Harvest { receipt, ..Harvest::default() })),
    ]);
    confirmed.await.expect("the receipt was dropped");
    assert!(bench.handovers.try_recv().is_err(), "handed over for nothing");
}

/// A harvest whose peer waits for our word.
fn wants_receipt(value: i64) -> (Step, oneshot::Receiver<()>) {
    let (sender, confirmed) = oneshot::channel();
    let receipt = Some(Receipt::new(move || _ = sender.send(())));
    let Step::Bring(Ok(harvest)) = bring(&[(0, value)]) else { panic!("it brings") };
    (Step::Bring(Ok(Harvest { receipt, ..harvest })), confirmed)
}

#[tokio::test]
async fn a_link_hangs_up_when_it_stops_and_closes_when_its_peer_has_our_word() {
    for confirms in [true, false] {
        let mut bench = bench(&["flow"], SOON);
        let (harvest, _confirmed) = wants_receipt(1);
        bench.play([Step::Connect(Ok(())), harvest]);
        assert_eq!(bench.deeds.recv().await, Some("connect"));
        let first = bench.handovers.recv().await.unwrap();
        bench.stop.cancel();
        let last = bench.handovers.recv().await.unwrap();
        assert!(last.last && last.samples.is_empty() && !first.last);
        assert!(bench.handovers.recv().await.is_none(), "the batcher would wait for more");
        assert_eq!(
            bench.deeds.try_recv(),
            Err(mpsc::error::TryRecvError::Empty),
            "closed before the confirmation"
        );
        match confirms {
            true => [first, last].into_iter().filter_map(|it| it.receipt).for_each(Receipt::confirm),
            false => bench.goodbye.cancel(),
        }
        assert_eq!(bench.deeds.recv().await, Some("close"));
    }
}

#[tokio::test]
async fn a_link_whose_peer_waits_for_no_word_closes_at_once() {
    let mut bench = bench(&["flow"], SOON);
    bench.play([Step::Connect(Ok(())), bring(&[(0, 1)])]);
    assert_eq!(bench.deeds.recv().await, Some("connect"));
    bench.until(|status| status.heard).await;
    bench.stop.cancel();
    assert_eq!(bench.values().await, [(0, Some(1))]);
    assert!(bench.handovers.recv().await.is_none(), "the batcher would wait for more");
    assert_eq!(bench.deeds.recv().await, Some("close"));
}

#[tokio::test]
async fn the_status_tells_faults_and_devices_in_words() {
    let mut bench = bench(&["flow"], SOON);
    assert_eq!(bench.until(|status| status.devices.len() == 1).await.device("pump").1, "connecting");
    bench.play([Step::Connect(Ok(()))]);
    let status = bench.until(|status| status.state == LinkState::Connected).await;
    assert_eq!(status.device("pump"), (false, "nothing has arrived yet".into()));
    bench.play([bring(&[(0, 1)])]);
    assert_eq!(bench.until(|status| status.heard).await.device("pump"), (true, String::new()));
    let news = |answers| DeviceNews { device: "pump".into(), answers, words: "unit 7 is silent".into() };
    bench.play([Step::Bring(Ok(Harvest { news: vec![news(false)], ..Harvest::default() }))]);
    let silent = bench.until(|status| !status.device("pump").0).await;
    assert_eq!(silent.device("pump").1, "unit 7 is silent");
    bench.play([Step::Bring(Err(lost()))]);
    let down = bench.until(|status| matches!(status.state, LinkState::BackingOff(_))).await;
    assert_eq!(down.device("pump"), (false, "lost the connection to 10.0.0.7:502: connection reset".into()));
    assert_eq!(down.attempts, 1);
}

/// Device, and whether the silence is longer than nothing.
fn silences(bench: &Bench, lasting: Lasting) -> Vec<(String, bool)> {
    let taken = bench.silences.take(BootTime::now(), lasting);
    taken.into_iter().map(|silence| (silence.device.to_string(), silence.from < silence.to)).collect()
}

#[tokio::test]
async fn a_lost_link_is_a_silence_of_its_devices_until_each_answers_again() {
    let mut bench = bench(&["flow"], SOON);
    bench.play([Step::Connect(Ok(())), bring(&[(0, 1)]), Step::Bring(Err(lost()))]);
    assert_eq!(bench.values().await, [(0, Some(1))]);
    assert_eq!(bench.values().await, [(0, None)]);
    assert_eq!(silences(&bench, Lasting::Pieces), [], "it lasts, and a bad reading of ours is no answer");
    bench.play([Step::Connect(Ok(())), bring(&[(0, 2)])]);
    assert_eq!(bench.values().await, [(0, Some(2))]);
    assert_eq!(silences(&bench, Lasting::Pieces), [("pump".into(), true)]);
    assert_eq!(silences(&bench, Lasting::All), []);
}

#[tokio::test]
async fn a_device_that_the_driver_calls_silent_is_until_a_reading_that_is_not_bad_for_silence() {
    let mut bench = bench(&["flow"], SOON);
    let quality = Quality::Bad(Fault::Silent);
    let timeout = Sample { slot: 0, stamp: Stamp::now(), value: None, quality };
    let refusal = Sample { quality: Quality::Bad(Fault::Refused), ..timeout.clone() };
    let news = DeviceNews { device: "pump".into(), answers: false, words: "unit 7 is silent".into() };
    bench.play([
        Step::Connect(Ok(())),
        Step::Bring(Ok(Harvest { samples: vec![timeout], news: vec![news], ..Harvest::default() })),
    ]);
    assert_eq!(bench.handovers.recv().await.unwrap().samples.len(), 1);
    assert_eq!(silences(&bench, Lasting::Pieces), []);
    assert_eq!(silences(&bench, Lasting::All), [("pump".into(), true)], "what lasts is told at the end");
    let refusal = Sample { stamp: Stamp::now(), ..refusal };
    bench.play([Step::Bring(Ok(Harvest { samples: vec![refusal], ..Harvest::default() }))]);
    assert_eq!(bench.handovers.recv().await.unwrap().samples.len(), 1);
    assert_eq!(silences(&bench, Lasting::All), [("pump".into(), true)], "a device that says no speaks");
}

#[tokio::test]
async fn a_peer_that_refuses_us_is_not_bothered_soon() {
    let mut bench = bench(&[], Duration::from_secs(3600));
    let refusal = LinkFault::Refused { peer: "broker".into(), why: "wrong password".into() };
    bench.play([Step::Connect(Err(unreachable_peer())), Step::Connect(Err(refusal))]);
    assert_eq!(bench.deeds.recv().await, Some("connect"));
    assert_eq!(bench.deeds.recv().await, Some("connect"), "nobody there: tried again soon");
    bench.until(|status| status.attempts == 2).await;
    let third = timeout(Duration::from_millis(50), bench.deeds.recv()).await;
    assert!(third.is_err(), "refused, and tried again at once");
    bench.stop.cancel();
    bench.goodbye.cancel();
    bench.end.await.unwrap();
}

#[tokio::test]
async fn a_stop_says_goodbye_wherever_the_link_is() {
    for steps in [vec![], vec![Step::Connect(Ok(()))], vec![Step::Connect(Err(unreachable_peer()))]] {
        let mut bench = bench(&["flow"], Duration::from_secs(3600));
        let connecting = steps.is_empty();
        bench.play(steps);
        assert_eq!(bench.deeds.recv().await, Some("connect"));
        if !connecting {
            bench.until(|status| status.state != LinkState::Connecting).await;
        }
        bench.stop.cancel();
        bench.goodbye.cancel();
        bench.end.await.unwrap();
        while let Some(deed) = bench.deeds.recv().await {
            assert!(deed == "connect" || deed == "close");
            if deed == "close" {
                break;
            }
        }
        assert_eq!(bench.status.borrow().state, LinkState::Stopped);
    }
}

#[tokio::test]
async fn what_a_window_holds_goes_on_when_it_is_over_though_nothing_arrives_and_before_a_hole() {
    let rule = Rule {
        name: Name::new("calm").unwrap(),
        points: vec![Pattern::new("*/flow").unwrap()],
        round: None,
        filter: Filter { changes: None, min_interval: Some(Duration::from_millis(50)) },
        window: None,
    };
    let mut bench = ruled_bench(&["flow"], SOON, [rule].into());
    bench.play([Step::Connect(Ok(())), bring(&[(0, 1)]), bring(&[(0, 2)]), bring(&[(0, 3)])]);
    assert_eq!(bench.values().await, [(0, Some(1))]);
    assert_eq!(bench.values().await, [(0, Some(3))], "the last of those that came too fast");
    bench.play([bring(&[(0, 4)]), Step::Bring(Err(lost()))]);
    assert_eq!(bench.values().await, [(0, Some(4))]);
    assert_eq!(bench.values().await, [(0, None)]);
    let ledger = bench.books.ledger(Default::default);
    assert_eq!((ledger.produced, ledger.filtered, ledger.in_hand), (5, 1, 4));
}

const A_MINUTE: Duration = Duration::from_secs(60);

/// A link whose peer refuses connections until its pauses are a minute long.
async fn long_away() -> Bench {
    let mut bench = bench(&["flow"], A_MINUTE);
    for _ in 0..20 {
        bench.play([Step::Connect(Err(unreachable_peer()))]);
        assert_eq!(bench.deeds.recv().await, Some("connect"));
    }
    bench
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_back_is_tried_at_once_and_not_at_the_end_of_a_long_pause() {
    let mut bench = long_away().await;
    tokio::time::advance(Duration::from_secs(10)).await;
    for _ in 0..3 {
        bench.there.store(true, Ordering::Relaxed);
        let back = Instant::now();
        bench.play([Step::Connect(Err(unreachable_peer()))]);
        assert_eq!(bench.deeds.recv().await, Some("connect"));
        assert!(back.elapsed() <= absence::KNOCK_EVERY, "tried after {:?}", back.elapsed());
        // It is not ready yet: pauses begin anew, from the shortest.
        let again = Instant::now();
        bench.play([Step::Connect(Err(unreachable_peer()))]);
        assert_eq!(bench.deeds.recv().await, Some("connect"));
        assert!(again.elapsed() <= Duration::from_millis(10), "{:?}", again.elapsed());
        bench.there.store(false, Ordering::Relaxed);
        for _ in 0..20 {
            bench.play([Step::Connect(Err(unreachable_peer()))]);
            assert_eq!(bench.deeds.recv().await, Some("connect"));
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_connections_and_does_nothing_with_them_is_tried_no_more_often() {
    let mut bench = bench(&["flow"], A_MINUTE);
    bench.there.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let mut attempts = 0;
    while begun.elapsed() < 20 * A_MINUTE {
        bench.play([Step::Connect(Err(unreachable_peer()))]);
        assert_eq!(bench.deeds.recv().await, Some("connect"));
        attempts += 1;
    }
    // Sixteen doublings from a millisecond, then one every half to whole minute.
    assert!((30..60).contains(&attempts), "{attempts} attempts in 20 minutes");
}
