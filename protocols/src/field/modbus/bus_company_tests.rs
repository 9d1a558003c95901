//! Several requests under way at once.

use super::*;

/// Four requests to one unit.
fn four_requests() -> Vec<ModbusDevice> {
    vec![device(1, &[10, 20, 30, 40], SECOND)]
}

/// The most queries heard within `time` of each other.
fn most_at_once(heard: &[Asked], time: Duration) -> usize {
    let after = |first: &Asked| heard.iter().filter(|a| a.at >= first.at && a.at - first.at < time).count();
    heard.iter().map(after).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_share_the_wait_and_are_told_apart_in_any_order() {
    let late = Duration::from_millis(100);
    let mut rig = Rig::with_in_flight(3, Framing::Tcp, four_requests(), move |asked| {
        // The later it is asked, the sooner it answers.
        vec![(late - Duration::from_millis(u64::from(asked.address)), asked.addresses())]
    });
    rig.run(SECOND * 10 - late).await.unwrap();
    assert_eq!(qualities(&rig.of_unit(1)), [Quality::Good; 40]);
    rig.assert_no_value_is_false();
    let heard = rig.heard.all();
    assert_eq!(most_at_once(&heard, late / 2), 3);
    assert!(heard[1].at >= heard[0].at + late / 2, "a unit not known to answer is asked alone");
    assert_eq!(rig.discarded, 0);
}

#[tokio::test(start_paused = true)]
async fn late_foreign_and_short_frames_never_satisfy_another_request_in_flight() {
    let mut count = 0;
    let mut rig = Rig::with_in_flight(4, Framing::Tcp, four_requests(), move |asked| {
        count += 1;
        let strangers = [
            Asked { id: asked.id.wrapping_add(100), ..asked }.words(&[99]),
            Asked { unit: 9, ..asked }.words(&[99]),
        ];
        let answer = match count % 7 {
            3 => vec![(SECOND * 3 / 2, asked.addresses())],
            5 => now(asked.frame(1, &[3, 2, 0])),
            _ => vec![(Duration::from_millis(7), asked.addresses())],
        };
        [now(strangers.concat()), answer].concat()
    });
    rig.run(SECOND * 300).await.unwrap();
    rig.assert_no_value_is_false();
    assert!(rig.samples.iter().filter(|s| s.quality == Quality::Good).count() > 200);
    assert!(rig.discarded > 300);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_answers_one_request_at_a_time_is_asked_so_and_no_reading_is_bad() {
    let busy = Duration::from_millis(50);
    for what_it_does in ["nothing", "another id", "a short frame"] {
        let mut free_at = Instant::now();
        let mut rig = Rig::with_in_flight(4, Framing::Tcp, four_requests(), move |asked| {
            if asked.at < free_at {
                return match what_it_does {
                    "another id" => now(Asked { id: asked.id ^ 0x4000, ..asked }.addresses()),
                    "a short frame" => now(asked.frame(1, &[3])),
                    _ => Vec::new(),
                };
            }
            free_at = asked.at + busy;
            vec![(busy, asked.addresses())]
        });
        rig.run(SECOND * 50).await.unwrap();
        rig.assert_no_value_is_false();
        assert!(rig.samples.iter().all(|s| s.quality == Quality::Good), "{what_it_does}");
        assert!(rig.samples.len() >= 180, "{what_it_does}: {}", rig.samples.len());
        let settled: Vec<_> = rig.heard.all().into_iter().skip(20).collect();
        assert_eq!(most_at_once(&settled, busy), 1, "{what_it_does}");
        rig.run(SECOND * 30).await.unwrap();
        let later = rig.heard.all().split_off(20 + settled.len());
        assert!(most_at_once(&later, busy) > 1, "{what_it_does}: it is tried again after a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_with_several_requests_is_used_for_one() {
    let late = Duration::from_millis(20);
    let mut last = Instant::now() - SECOND;
    let mut rig = Rig::with_in_flight(4, Framing::Tcp, four_requests(), move |asked| {
        let is_together = asked.at - last < late;
        last = asked.at;
        // A length that ends the connection stands for closing it.
        if is_together { now(vec![0, 1, 0, 0, 0xff, 0xff, 1]) } else { vec![(late, asked.addresses())] }
    });
    let fault = rig.run(SECOND * 10).await.unwrap_err();
    assert!(matches!(fault, LinkFault::Lost { .. }));
    let (ours, theirs) = tokio::io::duplex(4096);
    let again = Heard::default();
    let peer = tokio::spawn(serve(theirs, Framing::Tcp, again.clone(), move |a| vec![(late, a.addresses())]));
    rig.bus.attach(Transport::mbap(Box::new(ours), Duration::ZERO));
    rig.run(SECOND * 10).await.unwrap();
    assert_eq!(most_at_once(&again.all(), late), 1);
    rig.assert_no_value_is_false();
    peer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_dies_behind_a_gateway_takes_no_other_with_it_when_requests_are_in_flight() {
    // The gateway asks one unit after the other and waits its own timeout for the dead one.
    let began = Instant::now();
    let mut free_at = began;
    let devices: Vec<_> = (1..=4).map(|unit| device(unit, &[u16::from(unit)], SECOND * 5)).collect();
    let mut rig = Rig::with_in_flight(4, Framing::Tcp, devices, move |asked| {
        let is_dead = asked.unit == 2 && asked.at - began > SECOND * 12;
        let takes = if is_dead { SECOND * 3 / 2 } else { Duration::from_millis(10) };
        free_at = free_at.max(asked.at) + takes;
        if is_dead { Vec::new() } else { vec![(free_at - asked.at, asked.addresses())] }
    });
    rig.run(SECOND * 120).await.unwrap();
    rig.assert_no_value_is_false();
    for unit in [1, 3, 4] {
        let bad = rig.of_unit(unit).iter().filter(|s| s.quality != Quality::Good).count();
        assert!(bad <= 1, "unit {unit} had {bad} bad readings");
        assert!(rig.of_unit(unit).len() >= 22, "unit {unit} was read {} times", rig.of_unit(unit).len());
    }
    assert_eq!(rig.of_unit(2).last().map(|s| s.quality), Some(Quality::Bad(Fault::Silent)));
}

#[tokio::test(start_paused = true)]
async fn a_hole_is_learnt_although_requests_are_always_under_way() {
    let addresses: Vec<u16> = (100..116).collect();
    let often = Duration::from_millis(20);
    let devices = vec![device(1, &addresses, often)];
    let mut rig = Rig::with_in_flight(4, Framing::Tcp, devices, move |asked| {
        let forbidden = (asked.address..asked.address + asked.count).contains(&109);
        vec![(often * 2, if forbidden { asked.exception(2) } else { asked.addresses() })]
    });
    rig.run(SECOND * 2).await.unwrap();
    rig.assert_no_value_is_false();
    assert_eq!(rig.bus.learnt(0).holes, [Hole { table: Register::Holding, first: 109, last: 109 }]);
    let mut last: Vec<_> = rig.heard.all().iter().rev().take(3).map(|a| (a.address, a.count)).collect();
    last.sort_unstable();
    assert_eq!(last, [(100, 9), (109, 1), (110, 6)]);
}
