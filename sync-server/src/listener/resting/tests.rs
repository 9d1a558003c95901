use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;

const QUIET: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(90);
const REQUEST: &[u8] = b"POST /pump HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";

struct Served {
    peer: DuplexStream,
    asked: Arc<Asked>,
    stop: CancellationToken,
    serving: JoinHandle<hyper::Result<()>>,
}

/// A peer of a connection whose answers take `long`.
fn served(long: Duration) -> Served {
    let (peer, stream) = duplex(64 << 10);
    let (asked, stop) = (Arc::new(Asked::default()), CancellationToken::new());
    let counted = asked.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        counted.count(async move {
            sleep(long).await;
            Ok(Response::new(Body::from(request.uri().path().to_owned())))
        })
    });
    let mut http = Builder::new();
    http.auto_date_header(false).timer(TokioTimer::new()).header_read_timeout(IDLE);
    let limits = Limits { quiet: QUIET, idle: IDLE, ..Limits::default() };
    let serving = tokio::spawn(serve(http, stream, service, asked.clone(), limits, stop.clone()));
    Served { peer, asked, stop, serving }
}

impl Served {
    async fn say(&mut self, words: &[u8]) {
        self.peer.write_all(words).await.unwrap();
    }

    async fn answer(&mut self) -> String {
        let mut text = String::new();
        while !text.ends_with("/pump") {
            let mut some = [0; 1024];
            let read = self.peer.read(&mut some).await.unwrap();
            assert!(read > 0, "the connection ended behind {text:?}");
            text.push_str(std::str::from_utf8(&some[..read]).unwrap());
        }
        text
    }

    async fn ended(mut self) -> Duration {
        let begin = Instant::now();
        assert_eq!(self.peer.read(&mut [0; 16]).await.unwrap(), 0, "it says nothing more");
        self.serving.await.unwrap().unwrap();
        begin.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_rested_answers_the_next_request() {
    let mut served = served(Duration::ZERO);
    for pause in [0, 1, 7, 60, 88, 2] {
        sleep(Duration::from_secs(pause)).await;
        served.say(REQUEST).await;
        let answer = served.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("close"), "{answer}");
    }
    assert_eq!(served.asked.answered(), Some(6));
}

#[tokio::test(start_paused = true)]
async fn half_a_head_is_not_lost_when_the_connection_would_rest() {
    let mut served = served(Duration::ZERO);
    served.say(REQUEST).await;
    served.answer().await;
    for byte in REQUEST {
        sleep(Duration::from_secs(1)).await;
        served.say(&[*byte]).await;
    }
    served.answer().await;
    assert_eq!(served.asked.answered(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_is_waited_for() {
    let mut served = served(QUIET * 5);
    for _ in 0..2 {
        served.say(REQUEST).await;
        let answer = served.answer().await;
        assert!(!answer.contains("close"), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_silent_for_too_long_is_let_go() {
    let mut served = served(Duration::ZERO);
    served.say(REQUEST).await;
    served.answer().await;
    let after = served.ended().await;
    assert!(after > IDLE - QUIET && after <= IDLE + QUIET * 2, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn the_stop_ends_a_connection_that_rests_at_once() {
    let mut served = served(Duration::ZERO);
    served.say(REQUEST).await;
    served.answer().await;
    sleep(QUIET * 3).await;
    served.stop.cancel();
    assert_eq!(served.ended().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_at_the_stop_is_answered() {
    let mut served = served(Duration::from_secs(2));
    served.say(REQUEST).await;
    sleep(Duration::from_secs(1)).await;
    served.stop.cancel();
    assert!(served.answer().await.contains("connection: close"));
    served.ended().await;
}
