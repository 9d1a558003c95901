use forebay_protocols::boot_time::BootTime;
use tokio::sync::watch;

use super::*;
use crate::buffer::{Counts, DroppedBy, Status};
use crate::clock::Clock;
use crate::gaps::Tally;
use crate::ledger::Books;
use crate::link::{LinkState, LinkStatus};
use crate::uplink::UplinkStatus;

fn window(dir: &std::path::Path) -> (Window, Books, watch::Sender<LinkStatus>) {
    let counts = Counts { appended: 100, dropped: 10, acknowledged: 60 };
    let books = Books::default();
    books.open(counts);
    let (link, links) = watch::channel(LinkStatus::default());
    let (_, uplink) = watch::channel(UplinkStatus::Troubled("no route".into()));
    let dropped_by = DroppedBy { full: 7, corrupt: 2, thinned: 1 };
    let status = Status {
        counts,
        dropped_by,
        backlog_readings: 30,
        disk_bytes: 4096,
        tail_bytes: 512,
        writable: true,
        ..Status::default()
    };
    let clock = Clock::open(dir);
    clock.place(7, &[]);
    let (_, config) = watch::channel(crate::status::ConfigShown { refused: 2, ..Default::default() });
    let roster = crate::roster::Roster::default();
    roster.enlist(crate::roster::Entry::of("hall", 0, links));
    let board = Board {
        books: books.clone(),
        buffer: Box::new(move || Some(status)),
        links: roster,
        config,
        uplink,
        clock,
        gaps: Tally::default(),
        started: BootTime::now(),
    };
    (Window { board: Arc::new(board), ending: CancellationToken::new() }, books, link)
}

fn get(window: &Window, path: &str) -> (StatusCode, String) {
    let response = window.answer(&Request::get(path).body(()).unwrap());
    let status = response.status();
    let body = futures::executor::block_on(http_body_util::BodyExt::collect(response.into_body())).unwrap();
    (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

#[test]
fn metrics_are_the_ledger_at_the_moment_of_the_look() {
    let dir = tempfile::tempdir().unwrap();
    let (window, books, link) = window(dir.path());
    let (_, first) = get(&window, "/metrics");
    for line in [
        "forebay_agent_readings_produced_total 100",
        "forebay_agent_readings_appended_total 100",
        "forebay_agent_readings_dropped_total{reason=\"full\"} 7",
        "forebay_agent_readings_dropped_total{reason=\"corrupt\"} 2",
        "forebay_agent_readings_dropped_total{reason=\"thinned\"} 1",
        "forebay_agent_buffer_tail_bytes 512",
        "forebay_agent_buffer_open 1",
        "forebay_agent_ledger_imbalance_readings 0",
        "forebay_agent_gaps_recorded_total{reason=\"device_silent\"} 0",
        "forebay_agent_clock_source{source=\"server\"} 0",
        "forebay_agent_clock_boots_unsure 0",
        "forebay_agent_readings_acknowledged_total 60",
        "forebay_agent_backlog_readings 30",
        "forebay_agent_buffer_bytes 4096",
        "forebay_agent_link_up{link=\"hall\"} 0",
        "forebay_agent_uplink_up 0",
        "forebay_agent_config_reload_failed 0",
        "forebay_agent_config_reloads_total{outcome=\"refused\"} 2",
    ] {
        assert!(first.lines().any(|other| other == line), "no line `{line}` in\n{first}");
    }
    assert!(first.contains("forebay_agent_memory_peak_bytes "), "{first}");
    books.harvested(5, 2);
    link.send_modify(|status| status.state = LinkState::Connected);
    let (_, second) = get(&window, "/metrics");
    for line in [
        "forebay_agent_readings_produced_total 105",
        "forebay_agent_readings_filtered_total 2",
        "forebay_agent_readings_in_hand 3",
        "forebay_agent_link_up{link=\"hall\"} 1",
    ] {
        assert!(second.lines().any(|other| other == line), "no line `{line}` in\n{second}");
    }
}

#[test]
fn a_ledger_that_does_not_close_is_a_figure() {
    let dir = tempfile::tempdir().unwrap();
    let (window, books, _) = window(dir.path());
    books.appended(4);
    let (_, metrics) = get(&window, "/metrics");
    let line = "forebay_agent_ledger_imbalance_readings 8";
    assert!(metrics.lines().any(|other| other == line), "4 were never produced, and lie nowhere:\n{metrics}");
}

#[test]
fn until_the_buffer_is_open_everybody_sees_that_it_is_being_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (mut window, ..) = window(dir.path());
    Arc::get_mut(&mut window.board).unwrap().buffer = Box::new(|| None);
    let (code, words) = get(&window, "/readyz");
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(words.starts_with("opening the buffer"), "{words}");
    let status: serde_json::Value = serde_json::from_str(&get(&window, "/status").1).unwrap();
    assert_eq!(
        (&status["buffer"]["state"], &status["uplink"]["state"]),
        (&"opening".into(), &"waiting".into())
    );
    assert!(window.board.words().ends_with("The buffer is being opened; readings are held."));
    assert_eq!(get(&window, "/livez").0, StatusCode::OK);
}

#[test]
fn ready_until_the_end_begins() {
    let dir = tempfile::tempdir().unwrap();
    let (window, ..) = window(dir.path());
    assert_eq!(get(&window, "/readyz").0, StatusCode::OK);
    window.ending.cancel();
    assert_eq!(get(&window, "/readyz").0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&window, "/livez").0, StatusCode::OK);
}

#[test]
fn status_is_json_and_the_report_is_the_same_truth() {
    let dir = tempfile::tempdir().unwrap();
    let (window, ..) = window(dir.path());
    let status: serde_json::Value = serde_json::from_str(&get(&window, "/status").1).unwrap();
    assert_eq!(status["ledger"]["backlog"], 30);
    assert_eq!(status["uplink"]["words"], "no route");
    assert_eq!((&status["buffer"]["tail_bytes"], &status["imbalance"]), (&512.into(), &0.into()));
    assert_eq!(status["links"][0]["state"], "connecting");
    let report = window.board.report();
    assert_eq!((report.dropped_full, report.dropped_corrupt, report.dropped_thinned), (7, 2, 1));
    assert_eq!((report.appended, report.backlog_readings, report.boot_counter), (100, 30, 7));
    assert_eq!(
        window.board.words(),
        "0 of 1 links up, 30 readings in the buffer, uplink: server out of reach."
    );
}

#[test]
fn strangers_get_a_hint_and_no_method_but_get() {
    let dir = tempfile::tempdir().unwrap();
    let (window, ..) = window(dir.path());
    assert_eq!(get(&window, "/").0, StatusCode::NOT_FOUND);
    let post = window.answer(&Request::post("/status").body(()).unwrap());
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_silent_visitor_does_not_block_the_next() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let (window, ..) = window(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, window.board.clone(), CancellationToken::new(), stop.clone()));
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut visitor = tokio::net::TcpStream::connect(address).await.unwrap();
    visitor.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
    stop.cancel();
    serving.await.unwrap();
}

#[test]
fn a_bus_tells_how_busy_it_is_and_other_links_say_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (window, _, link) = window(dir.path());
    assert!(!get(&window, "/metrics").1.contains("forebay_agent_bus_utilisation_ratio{"));
    let line = forebay_protocols::field::occupancy::Occupancy::default();
    link.send_modify(|status| status.occupancy = Some(line.clone()));
    line.begin();
    std::thread::sleep(Duration::from_millis(20));
    let (_, text) = get(&window, "/metrics");
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{link=\"hall\"}}"))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let share = value("forebay_agent_bus_utilisation_ratio");
    assert!(share > 0.5 && share <= 1.0, "{text}");
    assert_eq!(value("forebay_agent_bus_busy_seconds_total"), 0.0);
    assert!(get(&window, "/status").1.contains("\"bus\":{\"utilisation\":"));
}
