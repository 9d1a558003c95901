use std::sync::atomic::AtomicUsize;

use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;

const IDLE: Duration = Duration::from_secs(90);
const FIRST: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"POST /pump HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";
const HALF: &[u8] = b"POST /pump HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbo";

/// A server whose answers take `long`.
#[derive(Clone)]
struct House {
    turns: Arc<Semaphore>,
    long: Duration,
    /// Requests read and not yet answered: now, and at most so far.
    inside: Arc<[AtomicUsize; 2]>,
    stop: CancellationToken,
}

struct Peer {
    stream: DuplexStream,
    serving: JoinHandle<hyper::Result<()>>,
}

impl Awaited for BufReader<DuplexStream> {
    async fn comes(&mut self) -> io::Result<()> {
        self.fill_buf().await.map(|_| ())
    }
}

impl House {
    fn new(turns: usize, long: Duration) -> Self {
        let (turns, stop) = (Arc::new(Semaphore::new(turns)), CancellationToken::new());
        Self { turns, long, inside: Arc::default(), stop }
    }

    fn visited(&self) -> Peer {
        let (stream, own) = duplex(64 << 10);
        let answered = Answered::default();
        let (house, answering) = (self.clone(), answered.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let house = house.clone();
            answering.after(async move {
                let [now, most] = &*house.inside;
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let path = request.uri().path().to_owned();
                let read = http_body_util::BodyExt::collect(request.into_body()).await;
                sleep(house.long).await;
                now.fetch_sub(1, Ordering::Relaxed);
                Ok(Response::new(Body::from(if read.is_ok() { path } else { "cut".into() })))
            })
        });
        let mut http = Builder::new();
        http.auto_date_header(false).timer(TokioTimer::new()).header_read_timeout(IDLE);
        let limits = Limits { idle: IDLE, first_request: FIRST, ..Limits::default() };
        let own = Box::new(BufReader::new(own));
        let (turns, stop) = (self.turns.clone(), self.stop.clone());
        let serving = tokio::spawn(serve(http, own, (service, answered), turns, limits, stop));
        Peer { stream, serving }
    }

    fn most_inside(&self) -> usize {
        self.inside[1].load(Ordering::Relaxed)
    }
}

impl Peer {
    async fn say(&mut self, words: &[u8]) {
        self.stream.write_all(words).await.unwrap();
    }

    /// One answer, and how long it took to come.
    async fn answer(&mut self) -> (String, Duration) {
        let (begin, mut text) = (Instant::now(), String::new());
        while !text.ends_with("/pump") {
            let byte = self.stream.read_u8().await.unwrap_or_else(|end| panic!("{end} behind {text:?}"));
            text.push(char::from(byte));
        }
        (text, begin.elapsed())
    }

    async fn ended(mut self) -> Duration {
        let begin = Instant::now();
        assert_eq!(self.stream.read(&mut [0; 16]).await.unwrap(), 0, "it says nothing more");
        self.serving.await.unwrap().unwrap();
        begin.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_rested_answers_the_next_request() {
    let house = House::new(1, Duration::ZERO);
    let mut peer = house.visited();
    for pause in [0, 1, 7, 60, 88, 2] {
        sleep(Duration::from_secs(pause)).await;
        assert_eq!(house.turns.available_permits(), 1, "it has no turn while it rests");
        peer.say(REQUEST).await;
        let (answer, _) = peer.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("close"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_in_pieces_and_several_at_once_are_answered_all() {
    let house = House::new(1, Duration::ZERO);
    let mut peer = house.visited();
    for byte in REQUEST {
        sleep(Duration::from_secs(1)).await;
        peer.say(&[*byte]).await;
    }
    peer.answer().await;
    // The next head has begun when this one is answered.
    peer.say(&[REQUEST, &REQUEST[..9]].concat()).await;
    peer.answer().await;
    sleep(Duration::from_secs(2)).await;
    peer.say(&REQUEST[9..]).await;
    let (answer, _) = peer.answer().await;
    assert!(!answer.contains("close"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_at_once_are_answered_by_turns() {
    let house = House::new(8, Duration::from_millis(10));
    let mut peers: Vec<_> = (0..1_000).map(|_| house.visited()).collect();
    for peer in &mut peers {
        peer.say(REQUEST).await;
    }
    let begin = Instant::now();
    for peer in &mut peers {
        peer.answer().await;
    }
    assert_eq!(house.most_inside(), 8);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(house.turns.available_permits(), 8);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_of_a_request_before_its_turn() {
    let house = House::new(1, Duration::from_secs(60));
    let (mut first, mut second) = (house.visited(), house.visited());
    first.say(REQUEST).await;
    sleep(Duration::from_millis(1)).await;
    // More than fits into the pipe: while nothing is read it cannot all be said.
    let head = format!("POST /pump HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 256 << 10);
    second.say(head.as_bytes()).await;
    let long = vec![0; 256 << 10];
    let begin = Instant::now();
    second.say(&long).await;
    let waited = begin.elapsed();
    assert!(waited + Duration::from_millis(2) > LASTS && waited < LASTS * 2, "{waited:?}");
    second.answer().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_comes_and_holds_no_turn_for_long() {
    let house = House::new(1, Duration::from_secs(60));
    let (mut slow, mut next) = (house.visited(), house.visited());
    slow.say(REQUEST).await;
    sleep(Duration::from_millis(1)).await;
    next.say(REQUEST).await;
    let (answer, _) = slow.answer().await;
    assert!(!answer.contains("close"), "{answer}");
    let (_, after) = next.answer().await;
    assert!(after <= LASTS, "{after:?} behind the first");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_goes_away_or_is_cut_off_gives_its_turn_back() {
    let house = House::new(1, Duration::ZERO);
    let other = async || {
        let mut other = house.visited();
        other.say(REQUEST).await;
        other.answer().await.1
    };
    // It stalls: its turn is over, and its request is not.
    let mut stalls = house.visited();
    stalls.say(HALF).await;
    let waited = other().await;
    assert!(waited > LASTS / 2 && waited < LASTS * 2, "{waited:?}");
    stalls.say(b"dy").await;
    stalls.answer().await;
    // It goes away.
    let mut gone = house.visited();
    gone.say(HALF).await;
    sleep(LASTS / 2).await;
    assert_eq!(house.turns.available_permits(), 0);
    drop(gone.stream);
    assert!(other().await < LASTS / 10);
    let _outcome = gone.serving.await.unwrap();
    // It is cut off, as by a revocation, with a turn and while it waits for one.
    let (mut cut, mut waits) = (house.visited(), house.visited());
    cut.say(HALF).await;
    sleep(LASTS / 5).await;
    waits.say(REQUEST).await;
    sleep(LASTS / 5).await;
    waits.serving.abort();
    cut.serving.abort();
    assert!(other().await < LASTS / 10);
    assert_eq!(house.turns.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_silent_for_too_long_is_let_go() {
    let house = House::new(1, Duration::ZERO);
    let about = |after: Duration, limit: Duration| after >= limit && after < limit + Duration::from_secs(1);
    let after = house.visited().ended().await;
    assert!(about(after, FIRST), "it never asked: {after:?}");
    let mut peer = house.visited();
    peer.say(REQUEST).await;
    peer.answer().await;
    let after = peer.ended().await;
    assert!(about(after, IDLE), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn the_stop_ends_at_once_whoever_rests_or_waits_and_answers_what_is_under_way() {
    let house = House::new(1, Duration::from_millis(200));
    let (mut rests, mut asks, mut waits) = (house.visited(), house.visited(), house.visited());
    rests.say(REQUEST).await;
    rests.answer().await;
    asks.say(REQUEST).await;
    sleep(Duration::from_millis(100)).await;
    waits.say(REQUEST).await;
    sleep(Duration::from_millis(10)).await;
    house.stop.cancel();
    assert_eq!(rests.ended().await, Duration::ZERO);
    assert_eq!(waits.ended().await, Duration::ZERO);
    assert!(asks.answer().await.0.contains("connection: close"));
    asks.ended().await;
}
