use forebay_config::agent::WhenFull;
use forebay_config::units::ByteSize;
use wire::gap::Reason;

use super::*;
use crate::buffer::Settings;

const SECOND: i64 = 1_000_000;

fn at(seconds: i64) -> BootTime {
    BootTime(seconds * SECOND)
}

fn silences(devices: &[&str]) -> Silences {
    let silences = Silences::default();
    devices.iter().for_each(|device| silences.expect(&Arc::from(*device), at(0)));
    silences
}

impl Silences {
    fn answers(&self, device: &str, seconds: i64) {
        self.heard([(Arc::from(device), at(seconds))], at(seconds));
    }
    /// Device, from and to in seconds.
    fn over(&self, now: i64) -> Vec<(String, i64, i64)> {
        in_seconds(self.take(at(now), Lasting::Pieces))
    }
    fn all(&self, now: i64) -> Vec<(String, i64, i64)> {
        in_seconds(self.take(at(now), Lasting::All))
    }
}

fn in_seconds(taken: Vec<Silence>) -> Vec<(String, i64, i64)> {
    taken
        .into_iter()
        .map(|silence| (silence.device.to_string(), silence.from.0 / SECOND, silence.to.0 / SECOND))
        .collect()
}

#[test]
fn a_silence_lasts_from_the_last_answer_to_the_first_and_is_told_once() {
    let silences = silences(&["pump", "valve"]);
    silences.answers("pump", 5);
    silences.answers("valve", 8);
    silences.silent("pump");
    silences.silent("pump");
    silences.answers("valve", 9);
    assert_eq!(silences.over(20), [], "it is not over");
    silences.answers("pump", 30);
    silences.answers("pump", 31);
    assert_eq!(silences.over(40), [("pump".into(), 5, 30)]);
    assert_eq!(silences.all(50), []);
}

#[test]
fn a_device_that_never_answered_is_silent_since_it_was_expected() {
    let silences = silences(&["pump"]);
    silences.silent("pump");
    silences.silent("a device nobody expects");
    assert_eq!(silences.all(7), [("pump".into(), 0, 7)]);
}

#[test]
fn a_link_that_is_lost_silences_its_devices_from_when_it_was_heard_last() {
    let silences = silences(&["pump", "meter"]);
    silences.answers("meter", 10);
    silences.answers("pump", 3_000);
    silences.link_lost();
    silences.link_lost();
    silences.answers("pump", 3_100);
    silences.answers("meter", 3_500);
    let expected = [("pump".into(), 3_000, 3_100), ("meter".into(), 3_000, 3_500)];
    assert_eq!(silences.over(4_000), expected, "the meter speaks once an hour and was not silent before");
}

#[test]
fn a_long_silence_is_told_in_pieces_that_join() {
    let silences = silences(&["pump"]);
    silences.answers("pump", 100);
    silences.silent("pump");
    let mut pieces = Vec::new();
    for now in 101..10_000 {
        pieces.extend(silences.over(now).into_iter().map(|(_, from, to)| (from - 100, to - 100)));
    }
    let minutes = [0, 1, 2, 4, 8, 16, 32, 64, 124].map(|minute| 60 * minute);
    assert!(minutes.windows(2).map(|pair| (pair[0], pair[1])).eq(pieces.iter().copied()), "{pieces:?}");
    silences.answers("pump", 10_000);
    assert_eq!(silences.all(10_001), [("pump".into(), 7_540, 10_000)]);
}

#[test]
fn what_waits_for_the_buffer_is_bounded_and_no_silence_is_left_out() {
    let silences = silences(&["pump", "valve"]);
    for n in 0..1_000 {
        silences.silent("pump");
        silences.answers("pump", 10 * n + 5);
    }
    silences.silent("valve");
    silences.answers("valve", 20_000);
    let over = silences.over(30_000);
    assert_eq!(over.len(), MOST_WAITING + 1);
    assert_eq!(over[MOST_WAITING - 1].2, 9_995, "the last one stands for those that found no room");
    assert_eq!(over[MOST_WAITING], ("valve".into(), 0, 20_000));
}

struct Bench {
    buffer: Buffer,
    recorder: Recorder,
    _dir: tempfile::TempDir,
}

async fn bench(link: Silences) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (max_size, reserve) = (ByteSize(16 << 20), ByteSize(0));
    let store = Settings {
        dir: dir.path().join("buffer"),
        max_size,
        reserve,
        when_full: WhenFull::DropOldest,
        tail: ByteSize(0),
        classes: Vec::new(),
    };
    let (buffer, _, _) = Buffer::open(store).await.unwrap();
    let clock = Clock::with_boot_id(dir.path(), 3, [3; 8]);
    let (_, status) = tokio::sync::watch::channel(Default::default());
    let links = Roster::default();
    links.enlist(crate::roster::Entry { silences: link, ..crate::roster::Entry::of("hall", 0, status) });
    let recorder = Recorder { links, clock, tally: Tally::default() };
    Bench { buffer, recorder, _dir: dir }
}

#[tokio::test]
async fn silences_reach_the_buffer_with_the_clock_they_were_written_down_by() {
    let silences = silences(&["pump"]);
    let bench = bench(silences.clone()).await;
    let stop = CancellationToken::new();
    let recording = {
        let (recorder, buffer, stop) = (bench.recorder.clone(), bench.buffer.clone(), stop.clone());
        tokio::spawn(async move { recorder.run(&buffer, Duration::from_millis(1), &stop).await })
    };
    silences.silent("pump");
    silences.answers("pump", 1);
    let gaps = loop {
        let gaps = bench.buffer.gaps(0, 9).await.unwrap();
        if !gaps.is_empty() {
            break gaps;
        }
        tokio::task::yield_now().await;
    };
    stop.cancel();
    recording.await.unwrap().unwrap();
    silences.silent("pump");
    bench.recorder.finish(&bench.buffer).await.unwrap();
    let last = bench.buffer.gaps(gaps[0].number, 9).await.unwrap();
    assert_eq!((gaps.len(), last.len(), bench.recorder.tally.device_silent()), (1, 1, 2));
    for gap in [&gaps[0], &last[0]] {
        assert_eq!((gap.reason(), gap.device.as_str(), gap.point), (Reason::DeviceSilent, "pump", 0));
        assert_eq!((gap.start.unwrap().boot, gap.start), (3, gap.end));
    }
    assert_eq!(gaps[0].to_us - gaps[0].from_us, SECOND);
    assert_eq!(last[0].from_us - last[0].start.unwrap().wall_offset_us, SECOND, "from the last answer on");
}

#[tokio::test]
async fn the_time_between_two_lives_is_a_gap_and_a_first_start_is_none() {
    let bench = bench(Silences::default()).await;
    let started = at(100);
    let last_run = |boot, until| LastRun {
        boot,
        until_us: until * SECOND,
        wall_offset_us: 7,
        synchronised: true,
        clean: true,
    };
    bench.recorder.agent_was_down(&bench.buffer, None, started).await.unwrap();
    bench.recorder.agent_was_down(&bench.buffer, Some(last_run(3, 99)), started).await.unwrap();
    assert_eq!(bench.buffer.gaps(0, 9).await.unwrap(), [], "nothing was missed");
    bench.recorder.agent_was_down(&bench.buffer, Some(last_run(3, 40)), started).await.unwrap();
    bench.recorder.agent_was_down(&bench.buffer, Some(last_run(2, 100)), started).await.unwrap();
    let gaps = bench.buffer.gaps(0, 9).await.unwrap();
    let start = |gap: &wire::Gap| gap.start.unwrap();
    assert_eq!((gaps[0].reason(), gaps[0].from_us, gaps[0].count), (Reason::AgentDown, 40 * SECOND + 7, 0));
    assert_eq!((start(&gaps[0]).boot, start(&gaps[1]).boot), (3, 2), "over a boot, however short");
    assert!(gaps.iter().all(|gap| gap.end.unwrap().boot == 3 && gap.device.is_empty()));
    assert_eq!(bench.recorder.tally.agent_down(), 2);
}
