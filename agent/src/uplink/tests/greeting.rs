//! Who we are, told once a connection; what the server has, compared with what it had acknowledged.

use super::*;

fn opening(id: u8) -> wire::Opening {
    wire::Opening { id: vec![id; 8], first: u64::from(id), ..wire::Opening::default() }
}

fn ids(greeting: &[wire::Opening]) -> Vec<u8> {
    greeting.iter().map(|opening| opening.id[0]).collect()
}

#[tokio::test]
async fn the_first_request_of_each_connection_says_who_we_are_and_every_one_names_the_opening() {
    let server = Server::start().await;
    // The greeting, two requests; the fourth is cut, and its connection with it.
    let serve = Behaviour::Serve;
    server.behave([serve, serve, serve, Behaviour::CutBeforeReading]);
    let bench = bench(server.peer(), SELDOM, |shelf| {
        shelf.openings.lock().unwrap().extend([opening(1), opening(2)]);
        shelf.append(1..=1, 100, 1);
    });
    for sequence in 2..=4 {
        bench.shelf.until_empty().await;
        bench.shelf.append(sequence..=sequence, 100, 1);
    }
    bench.shelf.until_empty().await;
    let (greetings, openings) = server.look(|ingest| (ingest.greetings.clone(), ingest.openings.clone()));
    let greeted: Vec<_> = greetings.iter().map(|(request, openings)| (*request, ids(openings))).collect();
    assert_eq!(greeted, [(0, vec![1, 2]), (3, vec![1, 2])], "once a connection");
    assert!(openings.iter().all(|opening| *opening == [2; 8]), "{openings:?}");
    assert_eq!(*bench.shelf.greeted.lock().unwrap(), [[2; 8]], "told the buffer once");
    bench.finish().await;
}

#[tokio::test]
async fn what_batches_a_server_reads_is_learnt_anew_with_each_greeting() {
    let server = Server::start().await;
    server.change(|ingest| ingest.batch_format = 2);
    server.behave([Behaviour::Serve, Behaviour::Serve, Behaviour::CutBeforeReading]);
    let peer = server.peer();
    let server_reads = peer.server_reads.clone();
    assert_eq!(server_reads.up_to(), 1, "nobody has said anything");
    let bench = bench(peer, SELDOM, |shelf| shelf.append(1..=1, 100, 1));
    bench.shelf.until_empty().await;
    assert_eq!(server_reads.up_to(), 2);
    // An older one takes its place, and says nothing of formats. The third request is cut.
    server.change(|ingest| ingest.batch_format = 0);
    bench.shelf.append(2..=2, 100, 1);
    bench.shelf.until_empty().await;
    assert_eq!(server.look(|ingest| ingest.greetings.len()), 2, "nothing was cut: the test tests nothing");
    assert_eq!(server_reads.up_to(), 1);
    bench.finish().await;
}

#[tokio::test]
async fn a_greeting_that_came_to_nothing_is_said_again_and_not_believed() {
    let server = Server::start().await;
    server.behave([Behaviour::Status(503, &[]), Behaviour::CaptivePortal, Behaviour::Garbage]);
    let bench = bench(server.peer(), SELDOM, |shelf| {
        shelf.openings.lock().unwrap().push(opening(1));
        shelf.append(1..=1, 100, 1);
    });
    bench.shelf.until_empty().await;
    assert_eq!(server.look(|ingest| ingest.greetings.len()), 1, "those before were not heard");
    assert_eq!(*bench.shelf.greeted.lock().unwrap(), [[1; 8]]);
    bench.finish().await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_opening_is_told_again_on_the_same_connection() {
    let server = Server::start().await;
    server.change(|ingest| ingest.strict = true);
    let bench = bench(server.peer(), SELDOM, |shelf| {
        shelf.openings.lock().unwrap().push(opening(1));
        shelf.append(1..=1, 100, 1);
    });
    bench.shelf.until_empty().await;
    server.change(|ingest| ingest.known.clear());
    bench.shelf.append(2..=3, 100, 1);
    bench.shelf.until_empty().await;
    assert_eq!(server.look(|ingest| ingest.greetings.len()), 2);
    assert_eq!((server.handshakes().len(), server.duplicates()), (1, 0));
    assert_eq!(*bench.status.borrow(), UplinkStatus::Up);
    bench.finish().await;
}

#[tokio::test]
async fn an_opening_that_becomes_durable_later_is_told_when_it_is() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=1, 100, 1));
    bench.shelf.until_empty().await;
    bench.shelf.openings.lock().unwrap().push(opening(5));
    bench.shelf.append(2..=2, 100, 1);
    bench.shelf.until_empty().await;
    let greetings = server.look(|ingest| ingest.greetings.clone());
    let greeted: Vec<_> = greetings.iter().map(|(request, openings)| (*request, ids(openings))).collect();
    assert_eq!(greeted, [(0, vec![]), (2, vec![5])]);
    bench.finish().await;
}

#[tokio::test]
async fn a_server_restored_from_a_backup_gets_back_what_is_still_there() {
    let server = Server::start().await;
    let cut = Behaviour::CutBeforeReading;
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=20, 100, 1));
    bench.shelf.until_empty().await;
    // Yesterday's backup ends at 8; of the rest, 9 and 10 have left the tail.
    server.change(|ingest| ingest.committed.retain(|sequence| *sequence <= 8));
    bench.shelf.tail.lock().unwrap().extend([(9, None), (10, None)]);
    server.behave([cut]);
    bench.shelf.append(21..=21, 100, 1);
    server.until(|ingest| ingest.committed.len() == 19).await;
    let expected: BTreeSet<u64> = (1..=8).chain(11..=21).collect();
    assert_eq!((server.committed(), server.duplicates()), (expected, 0));
    assert_eq!(*bench.shelf.revived.lock().unwrap(), [Revived { batches: 10, lost: 2 }]);
    bench.finish().await;
}

#[tokio::test]
async fn a_server_that_lists_only_its_newest_is_not_taken_to_have_lost_the_rest() {
    let server = Server::start().await;
    // With holes that this buffer never had acknowledged, so that there are three ranges.
    let bench = bench(server.peer(), SELDOM, |shelf| {
        shelf.append(1..=5, 100, 1);
        shelf.append(8..=10, 100, 1);
        shelf.append(12..=20, 100, 1);
    });
    bench.shelf.until_empty().await;
    server.change(|ingest| {
        ingest.lists = Some(2);
        ingest.committed.remove(&14);
        ingest.committed.remove(&2);
    });
    server.behave([Behaviour::CutBeforeReading]);
    bench.shelf.append(21..=21, 100, 1);
    server.until(|ingest| ingest.committed.contains(&14)).await;
    assert_eq!(*bench.shelf.revived.lock().unwrap(), [Revived { batches: 1, lost: 0 }], "2 is not judged");
    bench.finish().await;
}

#[tokio::test]
async fn a_server_that_has_everything_makes_nobody_send_twice() {
    let server = Server::start().await;
    let cuts = [Behaviour::Serve, Behaviour::SwallowAnswer, Behaviour::Serve, Behaviour::CutBeforeReading];
    server.behave(cuts);
    let bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=50, 5_000, 1));
    bench.shelf.until_empty().await;
    assert!(server.look(|ingest| ingest.greetings.len()) > 1, "one connection: the test tests nothing");
    assert!(bench.shelf.revived.lock().unwrap().is_empty());
    bench.finish().await;
}

#[tokio::test]
async fn a_copied_buffer_says_so_and_goes_on_sending() {
    let server = Server::start().await;
    server.change(|ingest| ingest.fork = 2);
    let mut bench = bench(server.peer(), SELDOM, |shelf| shelf.append(1..=3, 100, 1));
    let but = |status: &UplinkStatus| matches!(status, UplinkStatus::UpBut(_));
    let status = bench.status.wait_for(but).await.unwrap().clone();
    let UplinkStatus::UpBut(words) = status else { panic!("{status:?}") };
    assert!(words.contains("copied to another gateway") && words.contains("fork 2"), "{words}");
    assert!(words.contains("delete the folder `buffer`"), "it leaves people without a way out: {words}");
    bench.shelf.until_empty().await;
    bench.finish().await;
}

#[tokio::test]
async fn gaps_travel_only_when_the_time_is_known_and_without_the_clocks_they_were_written_by() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |shelf| {
        let end = wire::GapEnd { boot: 1, wall_offset_us: 5, synchronised: false };
        let gap = wire::Gap { number: 1, start: Some(end), end: Some(end), ..wire::Gap::default() };
        shelf.gaps.lock().unwrap().push(gap);
        shelf.append(1..=1, 100, 1);
    });
    bench.shelf.until_empty().await;
    let gaps = server.look(|ingest| ingest.gaps_in.clone());
    assert_eq!((gaps[0].len(), gaps[1].len()), (0, 1), "before the first answer nobody knows the time");
    assert_eq!((gaps[1][0].start, gaps[1][0].end), (None, None));
    bench.finish().await;
}

#[tokio::test]
async fn an_envelope_says_where_its_times_come_from_and_whether_readings_were_left_out() {
    let server = Server::start().await;
    let bench = bench(server.peer(), SELDOM, |shelf| {
        shelf.append(1..=2, 100, 1);
        shelf.batches.lock().unwrap().get_mut(&2).unwrap().thinned = true;
    });
    bench.shelf.until_empty().await;
    let envelopes = server.look(|ingest| ingest.envelopes.clone());
    assert_eq!(envelopes.iter().map(|sent| sent.thinned).collect::<Vec<_>>(), [false, true]);
    assert!(envelopes.iter().all(|sent| sent.clock() == wire::sent_batch::Clock::Corrected), "{envelopes:?}");
    bench.finish().await;
}
