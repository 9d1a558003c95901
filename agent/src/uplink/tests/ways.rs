//! Several requests under way, in order, within a budget, through a proxy, on resumed TLS.

use forebay_config::agent::Hours;
use forebay_config::units::{ByteSize, Secret};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn while_one_request_is_stuck_the_others_go_on_and_nothing_is_sent_twice() {
    let server = Server::start().await;
    // On loopback all is round trip: by then several lanes are open.
    server.behave(std::iter::repeat_n(Behaviour::Serve, 40).chain([Behaviour::Hold]));
    let bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=1000, 1_000, 3),
        |settings| settings.max_request = 8 << 10,
    );
    server.held().await;
    let stuck_at = server.committed().len();
    // All but what is stuck arrives meanwhile: seven batches fit into a request.
    server.until(|ingest| ingest.committed.len() >= 990).await;
    assert!(stuck_at < 900, "the backlog was over: the test tests nothing");
    server.release();
    bench.shelf.until_empty().await;
    assert_eq!((server.committed().len(), server.duplicates()), (1000, 0));
    bench.finish().await;
}

#[tokio::test]
async fn whichever_of_several_requests_fails_every_batch_arrives() {
    let server = Server::start().await;
    let faults = [
        Behaviour::SwallowAnswer,
        Behaviour::CutBeforeReading,
        Behaviour::Serve,
        Behaviour::HalfAnAnswer,
        Behaviour::Status(503, &[]),
        Behaviour::Status(413, &[]),
        Behaviour::Serve,
    ];
    server.behave(std::iter::repeat_n(Behaviour::Serve, 30).chain(faults.into_iter().cycle().take(70)));
    server.change(|ingest| ingest.put_off = (1..=1500).step_by(7).collect());
    let bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=1500, 1_000, 30),
        |settings| settings.max_request = 8 << 10,
    );
    bench.shelf.until_empty().await;
    assert_eq!(server.committed(), (1..=1500).collect::<BTreeSet<_>>());
    assert!(server.is_well_behaved() && server.handshakes().len() > 10, "faults were left over");
    bench.finish().await;
}

#[tokio::test]
async fn without_a_backlog_there_is_one_connection() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |_| ());
    for sequence in 1..=100 {
        bench.shelf.append(sequence..=sequence, 2_000, 1);
        bench.shelf.until_empty().await;
    }
    assert_eq!(server.handshakes().len(), 1);
    bench.finish().await;
}

#[tokio::test]
async fn in_order_sequences_only_rise() {
    let server = Server::start().await;
    server.behave([Behaviour::Serve, Behaviour::Serve, Behaviour::CutBeforeReading, Behaviour::Hold]);
    let bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=60, 1_000, 3),
        |settings| {
            settings.order = Order::InOrder;
            settings.max_request = 8 << 10;
        },
    );
    server.held().await;
    bench.shelf.append(61..=70, 1_000, 3);
    server.release();
    bench.shelf.until_empty().await;
    let order: Vec<u64> = server.requests().into_iter().flatten().map(|(sequence, _)| sequence).collect();
    assert_eq!(order, (1..=70).collect::<Vec<_>>());
    let live: Vec<u64> = server
        .requests()
        .into_iter()
        .flatten()
        .filter(|(_, backlog)| !backlog)
        .map(|(sequence, _)| sequence)
        .collect();
    assert!(live.is_empty() || live == (61..=70).collect::<Vec<_>>(), "{live:?}");
    bench.finish().await;
}

#[tokio::test]
async fn outside_its_hours_the_backlog_waits_for_the_end_of_the_agent_and_beyond() {
    let server = Server::start().await;
    // Ten minutes that are far from now.
    let minute = (forebay_protocols::boot_time::wall_micros() / 60_000_000).rem_euclid(24 * 60) as u16;
    let hours = Hours::new((minute + 600) % Hours::DAY, (minute + 610) % Hours::DAY);
    let bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=5, 1_000, 1),
        |settings| {
            settings.limits.hours = hours;
            settings.heartbeat = Duration::from_millis(5);
        },
    );
    // A heartbeat after the greeting: by now what is there counts as backlog.
    server.until_requests(2).await;
    bench.shelf.append(6..=6, 100, 1);
    server.until(|ingest| ingest.committed.contains(&6)).await;
    let shelf = bench.shelf.clone();
    bench.finish().await;
    assert_eq!(shelf.batches.lock().unwrap().keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_spent_day_leaves_readings_in_the_buffer_and_says_so() {
    let server = Server::start().await;
    let mut bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=10, 1_000, 1),
        // Less than one connection takes.
        |settings| settings.limits.daily = Some(ByteSize(2_000)),
    );
    let but = |status: &UplinkStatus| matches!(status, UplinkStatus::UpBut(_));
    let status = bench.status.wait_for(but).await.unwrap().clone();
    let UplinkStatus::UpBut(words) = status else { panic!("{status:?}") };
    assert!(words.contains("uplink.daily") && words.contains("a heartbeat an hour"), "{words}");
    bench.shelf.append(11..=11, 100, 1);
    let shelf = bench.shelf.clone();
    bench.finish().await;
    assert_eq!((server.committed().len(), shelf.batches.lock().unwrap().len()), (0, 11));
}

#[tokio::test]
async fn bandwidth_is_kept_on_the_wire_with_all_its_overhead() {
    let server = Server::start().await;
    let began = Instant::now();
    let bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=50, 1_000, 1),
        |settings| settings.limits.bandwidth = Some(ByteSize::kib(16)),
    );
    bench.shelf.until_empty().await;
    // 50 kB at 16 KiB/s, of which one second's worth lay in the bucket and the last is overdrawn.
    let least = Duration::from_millis(1000);
    assert!(began.elapsed() > least, "{:?}", began.elapsed());
    assert_eq!(server.committed().len(), 50);
    bench.finish().await;
}

#[tokio::test]
async fn the_second_connection_goes_on_where_the_first_was() {
    let server = Server::start().await;
    let cut = Behaviour::CutBeforeReading;
    // Twice: after the second one the uplink rests, and looks at its identity meanwhile.
    server.behave([Behaviour::Serve, Behaviour::Serve, cut, cut]);
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=1, 100, 1));
    bench.shelf.until_empty().await;
    bench.shelf.append(2..=2, 100, 1);
    bench.shelf.until_empty().await;
    let resumed = HandshakeKind::Resumed;
    assert_eq!(server.handshakes(), [HandshakeKind::Full, resumed, resumed]);
    bench.finish().await;
}

/// A small CONNECT proxy. `admits` is what it wants in Proxy-Authorization.
async fn proxy(admits: Option<&'static str>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut tunnels = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            tunnels.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
                if admits
                    .is_some_and(|pair| !head.contains(&format!("Proxy-Authorization: Basic {pair}\r\n")))
                {
                    let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
                    near.write_all(refusal).await.unwrap();
                    return;
                }
                let mut far = TcpStream::connect(target).await.unwrap();
                near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                // An error is the connection that one of them cut.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn a_proxy_on_the_way_is_passed_with_its_password() {
    let server = Server::start().await;
    // pump:secret
    let (address, _tasks) = proxy(Some("cHVtcDpzZWNyZXQ=")).await;
    let user = Some(("pump".to_owned(), Secret::new("secret")));
    let bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=20, 1_000, 1),
        |settings| settings.proxy = Some(Proxy { address, user }),
    );
    bench.shelf.until_empty().await;
    assert_eq!(server.committed().len(), 20);
    bench.finish().await;
}

#[tokio::test]
async fn a_proxy_that_wants_a_password_says_so_in_the_status() {
    let server = Server::start().await;
    let (address, _tasks) = proxy(Some("cHVtcDpzZWNyZXQ=")).await;
    let mut bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=3, 1_000, 1),
        |settings| settings.proxy = Some(Proxy { address, user: None }),
    );
    let words = bench.until_troubled().await;
    assert!(words.contains("wants a user name and password (407)"), "{words}");
    assert_eq!((server.handshakes().len(), bench.shelf.batches.lock().unwrap().len()), (0, 3));
    bench.finish().await;
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let server = Server::start().await;
    let mut bench = bench_of(
        server.peer(),
        true,
        |_| (),
        |settings| settings.proxy = Some(Proxy { address: "127.0.0.1:1".into(), user: None }),
    );
    let words = bench.until_troubled().await;
    assert!(words.contains("cannot reach the proxy 127.0.0.1:1"), "{words}");
    bench.finish().await;
}

#[tokio::test]
async fn a_cut_connection_is_replaced_after_a_random_time_and_at_the_end_at_once() {
    let server = Server::start().await;
    server.behave([Behaviour::Serve, Behaviour::Serve, Behaviour::CutBeforeReading]);
    let bench = bench_of(
        server.peer(),
        true,
        |shelf| shelf.append(1..=1, 100, 1),
        // A part of a thousand hours: surely more than this test takes.
        |settings| settings.spread = Duration::from_secs(3_600_000),
    );
    bench.shelf.until_empty().await;
    bench.shelf.append(2..=2, 100, 1);
    let soon = timeout(Duration::from_millis(200), server.until(|ingest| ingest.committed.len() == 2)).await;
    assert!(soon.is_err(), "all agents of a server that restarts come back as one");
    bench.finish().await;
    assert_eq!(server.committed().len(), 2);
}
