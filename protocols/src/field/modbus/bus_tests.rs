use std::collections::BTreeMap;

use forebay_config::field::{Framing, ModbusBus, ModbusDevice, Register};
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::super::planner::{Cost, Hole, Learnt};
use super::super::scripted::{Asked, Heard, Script, device, now, serve};
use super::super::transport::LineTiming;
use super::*;
use crate::reading::{Point, Value};

const SECOND: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_millis(4);
const COST: Cost = Cost { per_request: SECOND, per_register: SILENCE };

/// A bus on a pipe whose other end follows a script, with paused time.
struct Rig {
    bus: Bus,
    points: Vec<Point>,
    heard: Heard,
    peer: JoinHandle<()>,
    samples: Vec<Sample>,
    news: Vec<DeviceNews>,
    discarded: u64,
}

impl Rig {
    fn new(
        framing: Framing,
        devices: Vec<ModbusDevice>,
        script: impl FnMut(Asked) -> Script + Send + 'static,
    ) -> Self {
        Self::with_in_flight(1, framing, devices, script)
    }

    fn with_in_flight(
        in_flight: usize,
        framing: Framing,
        devices: Vec<ModbusDevice>,
        script: impl FnMut(Asked) -> Script + Send + 'static,
    ) -> Self {
        Self::with_known(&Default::default(), in_flight, framing, devices, script)
    }

    fn with_known(
        known: &BTreeMap<Arc<str>, Learnt>,
        in_flight: usize,
        framing: Framing,
        devices: Vec<ModbusDevice>,
        script: impl FnMut(Asked) -> Script + Send + 'static,
    ) -> Self {
        let settings = Settings {
            in_flight,
            peer: "the test".into(),
            timeout: SECOND,
            backoff_max: SECOND * 60,
            cost: COST,
            lost_in_silence: framing == Framing::Tcp,
        };
        let (points, mut bus) =
            super::super::equip(settings, &ModbusBus { pause: Duration::ZERO, devices }, known);
        let (ours, theirs) = tokio::io::duplex(4096);
        let heard = Heard::default();
        let peer = tokio::spawn(serve(theirs, framing, heard.clone(), script));
        bus.attach(match framing {
            Framing::Tcp => Transport::mbap(Box::new(ours), Duration::ZERO),
            Framing::Rtu => Transport::rtu(
                Box::new(ours),
                LineTiming { silence: SILENCE, character: Duration::from_micros(1) },
            ),
        });
        Self { bus, points, heard, peer, samples: Vec::new(), news: Vec::new(), discarded: 0 }
    }

    async fn turn(&mut self) -> Result<(), LinkFault> {
        let harvest = self.bus.turn().await?;
        self.samples.extend(harvest.samples);
        self.news.extend(harvest.news);
        self.discarded += harvest.discarded;
        Ok(())
    }

    async fn run(&mut self, time: Duration) -> Result<(), LinkFault> {
        let end = Instant::now() + time;
        while let Ok(turn) = timeout_at(end, self.turn()).await {
            turn?;
        }
        Ok(())
    }

    fn of_unit(&self, unit: u8) -> Vec<&Sample> {
        let name = format!("unit{unit}");
        self.samples.iter().filter(|s| *self.points[s.slot].device == *name).collect()
    }

    /// Each good value must be the address of its point: nothing was taken for something else.
    fn assert_no_value_is_false(&self) {
        for sample in self.samples.iter().filter(|s| s.quality == Quality::Good) {
            let Some(Value::Integer(value)) = sample.value else { panic!("{sample:?}") };
            assert_eq!(*self.points[sample.slot].name, *format!("p{value}"), "{sample:?}");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.peer.abort();
    }
}

fn qualities(samples: &[&Sample]) -> Vec<Quality> {
    samples.iter().map(|s| s.quality).collect()
}

#[tokio::test(start_paused = true)]
async fn late_rtu_reply_is_not_taken_for_the_next_one() {
    for delay in [1_050, 1_500, 2_100, 2_900, 3_100, 3_500, 4_100, 5_000, 7_900, 13_000, 31_000] {
        let devices = vec![device(1, &[10, 20, 30], SECOND), device(2, &[40], SECOND)];
        let mut rig = Rig::new(Framing::Rtu, devices, move |asked| {
            let late = if asked.unit == 1 { Duration::from_millis(delay) } else { Duration::ZERO };
            vec![(late, asked.addresses())]
        });
        rig.run(SECOND * 300).await.unwrap();
        rig.assert_no_value_is_false();
        let good = rig.of_unit(2).iter().filter(|s| s.quality == Quality::Good).count();
        assert!(good > 240, "unit 2 was read {good} times beside a unit {delay} ms late");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_of_any_lateness_below_three_timeouts_are_never_mistaken() {
    // Two of three answers are prompt, the third is anywhere up to just below three timeouts.
    let mut walk = 0u64;
    let devices = vec![device(1, &[10, 20, 30], SECOND), device(2, &[40, 50], SECOND)];
    let mut rig = Rig::new(Framing::Rtu, devices, move |asked| {
        walk = (walk + 1_117) % 8_700;
        let late = if walk < 5_800 { walk / 100 } else { walk - 5_800 };
        vec![(Duration::from_millis(late), asked.addresses())]
    });
    rig.run(SECOND * 1_500).await.unwrap();
    rig.assert_no_value_is_false();
    assert!(rig.samples.iter().filter(|s| s.quality == Quality::Good).count() > 500);
    assert!(rig.samples.iter().any(|s| s.quality == Quality::Bad(Fault::Silent)));
}

#[tokio::test(start_paused = true)]
async fn late_replies_behind_a_gateway_are_skipped_and_the_connection_stays() {
    let devices = vec![device(1, &[10, 20], SECOND), device(2, &[40], SECOND)];
    let mut rig = Rig::new(Framing::Tcp, devices, |asked| {
        let late = if asked.unit == 1 { SECOND * 3 / 2 } else { Duration::ZERO };
        vec![(late, asked.addresses())]
    });
    rig.run(SECOND * 60).await.unwrap();
    rig.assert_no_value_is_false();
    assert_eq!(qualities(&rig.of_unit(1)), [Quality::Bad(Fault::Silent); 2]);
    assert!(rig.of_unit(2).iter().all(|s| s.quality == Quality::Good));
    assert!(rig.discarded >= 4, "{} late frames counted", rig.discarded);
}

#[tokio::test(start_paused = true)]
async fn a_dead_unit_costs_one_timeout_per_pause_and_one_bad_reading_per_point() {
    let often = Duration::from_millis(100);
    let devices = vec![device(1, &[10, 20, 30], often), device(2, &[40], often)];
    let mut rig = Rig::new(Framing::Rtu, devices, |asked| match asked.unit {
        1 => Vec::new(),
        _ => now(asked.addresses()),
    });
    rig.run(SECOND * 120).await.unwrap();
    // Pauses of 2, 4, 8, 16, 32 s and a timeout each: 6 attempts in two minutes.
    let attempts = rig.heard.of_unit(1);
    assert_eq!(attempts.len(), 6);
    assert_eq!(qualities(&rig.of_unit(1)), [Quality::Bad(Fault::Silent); 3]);
    assert_eq!(rig.news.iter().filter(|n| !n.answers).count(), 1);
    assert_eq!(rig.news[0].words, "unit 1 did not answer within 1s");
    // 1200 deadlines, ten lost per timeout.
    assert!(rig.of_unit(2).len() >= 1_200 - 6 * 11, "{}", rig.of_unit(2).len());
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_comes_back_is_news_and_is_read_at_once() {
    let mut heard_of_one = 0;
    let devices = vec![device(1, &[10, 20], SECOND * 3_600), device(2, &[40], SECOND)];
    let mut rig = Rig::new(Framing::Rtu, devices, move |asked| {
        heard_of_one += u32::from(asked.unit == 1);
        if asked.unit == 1 && heard_of_one <= 2 { Vec::new() } else { now(asked.addresses()) }
    });
    rig.run(SECOND * 30).await.unwrap();
    let good = Quality::Good;
    let silent = Quality::Bad(Fault::Silent);
    assert_eq!(qualities(&rig.of_unit(1)), [silent, silent, good, good], "an hour early, both points");
    let news: Vec<bool> = rig.news.iter().filter(|n| *n.device == *"unit1").map(|n| n.answers).collect();
    assert_eq!(news, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn one_or_three_registers_for_two_asked_are_bad_readings() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        for wrong in [&[1u16][..], &[1, 2, 3]] {
            let devices = vec![device(1, &[10, 11], SECOND), device(1, &[20], SECOND)];
            let mut rig = Rig::new(framing, devices, |asked| {
                now(if asked.count == 2 { asked.words(wrong) } else { asked.addresses() })
            });
            rig.run(SECOND * 5).await.unwrap();
            rig.assert_no_value_is_false();
            let (good, bad): (Vec<_>, Vec<_>) = rig.samples.iter().partition(|s| s.slot == 2);
            assert!(bad.iter().all(|s| s.quality == Quality::Bad(Fault::WrongType) && s.value.is_none()));
            assert!(good.iter().all(|s| s.quality == Quality::Good));
            assert_eq!((good.len(), bad.len()), (5, 10), "{framing:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_another_unit_is_discarded() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let devices = vec![device(1, &[10], SECOND), device(2, &[20], SECOND)];
        let mut rig = Rig::new(framing, devices, |asked| match asked.unit {
            1 => now(asked.frame(7, &[3, 2, 0, 10])),
            _ => now(asked.addresses()),
        });
        rig.run(SECOND * 5).await.unwrap();
        assert_eq!(qualities(&rig.of_unit(1)), [Quality::Bad(Fault::Silent)]);
        assert!(rig.discarded > 0);
        rig.assert_no_value_is_false();
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_transaction_id_written_last_is_an_answer() {
    let mut rig = Rig::new(Framing::Tcp, vec![device(1, &[10], SECOND)], |asked| {
        let stranger = |id| Asked { id, ..asked }.words(&[99]);
        let ids = [asked.id.wrapping_sub(1), asked.id.wrapping_add(1), 0x7777];
        now([ids.map(stranger).concat(), asked.addresses(), stranger(asked.id)].concat())
    });
    rig.run(SECOND * 5 / 2).await.unwrap();
    assert_eq!(qualities(&rig.of_unit(1)), [Quality::Good; 3]);
    rig.assert_no_value_is_false();
    assert!(rig.discarded >= 3 * 3);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_stops_talking_cannot_hold_an_exchange() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let mut rig = Rig::new(framing, vec![device(1, &[10], SECOND)], |asked| {
            let stranger = Asked { id: 0x7777, unit: 9, ..asked }.words(&[99]);
            (0..2_500).map(|n| (Duration::from_millis(1) * n, stranger.clone())).collect()
        });
        let began = Instant::now();
        rig.turn().await.unwrap();
        assert!(began.elapsed() <= SECOND + SILENCE * 2, "{framing:?} took {:?}", began.elapsed());
        rig.turn().await.unwrap();
        assert!(rig.samples.iter().all(|s| s.quality != Quality::Good));
        assert!(rig.discarded > 500);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_answers_as_unit_0_or_255_is_understood() {
    for unit in [0, 255] {
        let mut rig = Rig::new(Framing::Tcp, vec![device(1, &[10], SECOND)], move |asked| {
            now(asked.frame(unit, &[3, 2, 0, 10]))
        });
        rig.run(SECOND * 3).await.unwrap();
        assert_eq!(rig.samples.len(), 3);
        rig.assert_no_value_is_false();
    }
}

#[tokio::test(start_paused = true)]
async fn an_mbap_length_of_65535_drops_the_connection_without_waiting() {
    let began = Instant::now();
    let mut rig = Rig::new(Framing::Tcp, vec![device(1, &[10], SECOND)], |asked| {
        let mut frame = asked.addresses();
        frame[4..6].copy_from_slice(&[0xff, 0xff]);
        now(frame)
    });
    let fault = rig.run(SECOND * 10).await.unwrap_err();
    assert!(matches!(&fault, LinkFault::Lost { why, .. } if why.contains("65535")), "{fault}");
    assert!(began.elapsed() < SECOND);
    assert!(matches!(rig.turn().await, Err(LinkFault::Lost { .. })), "the connection is let go");
}

#[tokio::test(start_paused = true)]
async fn a_link_on_which_nobody_answers_is_lost_on_tcp_and_kept_on_a_tty() {
    let devices = || vec![device(1, &[10], SECOND), device(2, &[20], SECOND), device(3, &[30], SECOND)];
    let mut tcp = Rig::new(Framing::Tcp, devices(), |_| Vec::new());
    let fault = tcp.run(SECOND * 60).await.unwrap_err();
    assert!(matches!(fault, LinkFault::Lost { .. }));
    assert_eq!(qualities(&tcp.samples.iter().collect::<Vec<_>>()), [Quality::Bad(Fault::Silent); 3]);
    assert_eq!(tcp.heard.all().len(), 3);
    Rig::new(Framing::Rtu, devices(), |_| Vec::new()).run(SECOND * 60).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_gets_no_answer_makes_its_unit_silent_and_stays() {
    let devices = vec![device(1, &[10], SECOND), device(2, &[20], SECOND)];
    let mut rig = Rig::new(Framing::Tcp, devices, |asked| now(asked.exception(0x0a + asked.unit % 2)));
    rig.run(SECOND * 100).await.unwrap();
    assert_eq!(qualities(&rig.samples.iter().collect::<Vec<_>>()), [Quality::Bad(Fault::Silent); 2]);
    assert!(rig.news[0].words.contains("gateway"), "{:?}", rig.news);
    assert!(rig.heard.all().len() < 14, "the breaker holds");
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_address_is_found_and_leaves_its_neighbours_together() {
    let addresses: Vec<u16> = (100..116).collect();
    for code in [2, 3] {
        let devices = vec![device(1, &addresses, SECOND)];
        let mut rig = Rig::new(Framing::Rtu, devices, move |asked| {
            let forbidden = (asked.address..asked.address + asked.count).contains(&109);
            now(if forbidden { asked.exception(code) } else { asked.addresses() })
        });
        rig.run(SECOND * 11 / 10).await.unwrap();
        rig.assert_no_value_is_false();
        let fault = if code == 2 { Fault::NotFound } else { Fault::Refused };
        for sample in &rig.samples {
            let expected = if sample.slot == 9 { Quality::Bad(fault) } else { Quality::Good };
            assert_eq!(sample.quality, expected);
        }
        assert_eq!(rig.samples.len(), 32, "sixteen points, twice");
        // 16, 8+8, 4+4, 2+2, 1+1: then the hole is known, and the second round goes around it.
        let second_round: Vec<_> = rig.heard.all().split_off(9);
        let spans: Vec<_> = second_round.iter().map(|a| (a.address, a.count)).collect();
        assert_eq!(spans.iter().map(|s| s.1).sum::<u16>(), 16);
        assert!(spans.contains(&(109, 1)));
        if code == 2 {
            assert_eq!(spans, [(100, 9), (109, 1), (110, 6)]);
            let hole = Hole { table: Register::Holding, first: 109, last: 109 };
            assert_eq!(rig.bus.learnt(0), Learnt { max_registers: None, holes: vec![hole] });
        } else {
            // A refused number is about no address: each piece as it was found to be given.
            assert_eq!(spans.len(), 5, "{spans:?}");
            assert_eq!(rig.bus.learnt(0), Learnt::default());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unused_registers_that_may_not_be_read_are_learnt_and_not_asked_for_again() {
    let mut gappy = device(1, &[0, 1, 4, 7, 8], SECOND);
    gappy.max_gap = 10;
    let mut rig = Rig::new(Framing::Rtu, vec![gappy], |asked| {
        let forbidden = (asked.address..asked.address + asked.count).any(|a| a == 5);
        now(if forbidden { asked.exception(2) } else { asked.addresses() })
    });
    rig.run(SECOND * 5 / 2).await.unwrap();
    rig.assert_no_value_is_false();
    assert!(rig.samples.iter().all(|s| s.quality == Quality::Good));
    let spans: Vec<_> = rig.heard.all().iter().map(|a| (a.address, a.count)).collect();
    assert_eq!(spans[..4], [(0, 9), (0, 2), (4, 1), (7, 2)]);
    assert_eq!(spans[4..], [(0, 2), (4, 1), (7, 2), (0, 2), (4, 1), (7, 2)]);
    assert_eq!(rig.bus.learnt(0).holes.len(), 2, "which of the two gaps it is was not asked");
}

#[tokio::test(start_paused = true)]
async fn the_most_registers_a_device_gives_are_learnt() {
    for code in [2, 3] {
        let addresses: Vec<u16> = (0..100).collect();
        let mut rig = Rig::new(Framing::Rtu, vec![device(1, &addresses, SECOND)], move |asked| {
            now(if asked.count > 60 { asked.exception(code) } else { asked.addresses() })
        });
        rig.run(SECOND * 3 / 2).await.unwrap();
        rig.assert_no_value_is_false();
        assert_eq!(rig.samples.len(), 200);
        assert_eq!(rig.bus.learnt(0), Learnt { max_registers: Some(50), holes: Vec::new() });
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_refused_everything_while_it_started_is_read_in_one_request_again() {
    let addresses: Vec<u16> = (100..116).collect();
    let began = Instant::now();
    let devices = vec![device(1, &addresses, SECOND * 10), device(2, &[40], SECOND * 10)];
    let mut rig = Rig::new(Framing::Rtu, devices, move |asked| match asked.unit {
        1 if began.elapsed() < SECOND * 25 => now(asked.exception(2)),
        1 => now(asked.addresses()),
        // Silent for good: its breaker must not mind what happens to the others' requests.
        _ => Vec::new(),
    });
    rig.run(SECOND * 3_500).await.unwrap();
    assert_eq!(rig.heard.of_unit(1).last().map(|a| a.count), Some(1));
    assert_eq!(rig.bus.learnt(0), Learnt::default(), "that it was not ready says nothing of it");
    rig.run(SECOND * 200).await.unwrap();
    assert_eq!(rig.heard.of_unit(1).last().map(|a| (a.address, a.count)), Some((100, 16)));
    rig.assert_no_value_is_false();
    let refused = rig.of_unit(1).iter().filter(|s| s.quality == Quality::Bad(Fault::NotFound)).count();
    assert_eq!(refused, 3 * 16);
    assert_eq!(qualities(&rig.of_unit(2)), [Quality::Bad(Fault::Silent)]);
}

#[tokio::test(start_paused = true)]
async fn exceptions_are_bad_readings_and_touch_nobody_else() {
    for (code, fault) in
        [(1, Fault::Refused), (2, Fault::NotFound), (4, Fault::DeviceFailure), (6, Fault::Refused)]
    {
        let devices = vec![device(1, &[10], SECOND), device(2, &[20], SECOND)];
        let mut rig = Rig::new(Framing::Tcp, devices, move |asked| match asked.unit {
            1 => now(asked.exception(code)),
            _ => now(asked.addresses()),
        });
        rig.run(SECOND * 3).await.unwrap();
        assert_eq!(qualities(&rig.of_unit(1)), [Quality::Bad(fault); 3], "exception {code}");
        assert_eq!(qualities(&rig.of_unit(2)), [Quality::Good; 3]);
        assert!(rig.news.iter().all(|n| n.answers), "a refusal is an answer");
    }
}

#[tokio::test(start_paused = true)]
async fn noise_on_the_line_is_a_bad_reading_and_the_next_poll_is_good() {
    let mut polls = 0;
    let mut rig = Rig::new(Framing::Rtu, vec![device(1, &[10], SECOND)], move |asked| {
        polls += 1;
        now(if polls == 2 { vec![0x55; 700] } else { asked.addresses() })
    });
    rig.run(SECOND * 4).await.unwrap();
    let good = Quality::Good;
    assert_eq!(qualities(&rig.of_unit(1)), [good, Quality::Bad(Fault::WrongType), good, good]);
    assert_eq!(rig.discarded, 1);
}

#[tokio::test(start_paused = true)]
async fn noise_cut_short_and_wrong_checksums_end_in_silence_not_in_values() {
    let mut rig = Rig::new(Framing::Rtu, vec![device(1, &[10], SECOND)], |asked| {
        let mut answer = asked.addresses();
        answer[3] ^= 1;
        now(answer)
    });
    rig.run(SECOND * 10).await.unwrap();
    let (garbled, silent) = (Quality::Bad(Fault::WrongType), Quality::Bad(Fault::Silent));
    assert_eq!(qualities(&rig.of_unit(1)), [garbled, silent]);
    assert!(rig.news[0].words.contains("wiring"), "{:?}", rig.news);
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_single_bytes_behind_its_own_echo_is_read() {
    let mut rig = Rig::new(Framing::Rtu, vec![device(1, &[10, 11], SECOND)], |asked| {
        let echo = [1, 3, 0, 10, 0, 2];
        let checksum = super::super::frame::crc(&echo).to_le_bytes();
        let bytes = [&echo[..], &checksum, &asked.addresses()].concat();
        (1u32..).zip(bytes).map(|(n, byte)| (Duration::from_millis(1) * n, vec![byte])).collect()
    });
    rig.run(SECOND * 2).await.unwrap();
    assert_eq!(rig.samples.len(), 4);
    rig.assert_no_value_is_false();
}

#[tokio::test(start_paused = true)]
async fn the_line_is_silent_between_frames() {
    let devices = vec![device(1, &[10, 20], SECOND), device(2, &[30], SECOND)];
    let mut rig = Rig::new(Framing::Rtu, devices, |asked| now(asked.addresses()));
    rig.run(SECOND * 3).await.unwrap();
    let heard = rig.heard.all();
    assert_eq!(heard.len(), 9);
    for pair in heard.windows(2) {
        assert!(pair[1].at - pair[0].at >= SILENCE, "{pair:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn missed_deadlines_are_skipped_not_caught_up() {
    let often = Duration::from_millis(100);
    let devices = vec![device(1, &[10], SECOND * 3_600), device(2, &[20], often)];
    let mut rig = Rig::new(Framing::Rtu, devices, |asked| match asked.unit {
        1 => vec![(Duration::from_millis(950), asked.addresses())],
        _ => now(asked.addresses()),
    });
    rig.run(Duration::from_millis(2_050)).await.unwrap();
    let asked: Vec<u128> =
        rig.heard.of_unit(2).iter().map(|a| (a.at - rig.heard.all()[0].at).as_millis()).collect();
    let burst = asked.windows(2).filter(|w| w[1] - w[0] < 40).count();
    assert!(burst <= 1, "one late, then in step again: {asked:?}");
    assert!(asked.len() <= 13, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_talkative_unit_does_not_starve_the_others() {
    // Both together need twice the time there is.
    let often = Duration::from_millis(10);
    let addresses: Vec<u16> = (0..20).map(|i| i * 10).collect();
    let devices = vec![device(1, &addresses, often), device(2, &[1], often)];
    let mut rig =
        Rig::new(Framing::Rtu, devices, |asked| vec![(Duration::from_millis(20), asked.addresses())]);
    rig.run(SECOND * 60).await.unwrap();
    let (one, two) = (rig.heard.of_unit(1).len(), rig.heard.of_unit(2).len());
    assert!(one.abs_diff(two) <= 1, "{one} and {two}");
    let least = (0..20).map(|slot| rig.samples.iter().filter(|s| s.slot == slot).count()).min();
    assert!(least >= Some(two / 20 - 1), "every point of the talkative unit has its turn: {least:?}");
}

#[tokio::test(start_paused = true)]
async fn points_beyond_the_last_register_are_not_found_once() {
    let mut far = device(1, &[65_534, 65_535], SECOND);
    far.points[1].raw = forebay_config::field::RawType::Uint32;
    let mut rig = Rig::new(Framing::Tcp, vec![far], |asked| now(asked.addresses()));
    rig.run(SECOND * 2).await.unwrap();
    let found: Vec<_> = rig.samples.iter().map(|s| (s.slot, s.quality)).collect();
    assert_eq!(found, [(1, Quality::Bad(Fault::NotFound)), (0, Quality::Good), (0, Quality::Good)]);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_ends_at_65535_is_read() {
    let mut last = device(1, &[65_534], SECOND);
    last.points[0].raw = forebay_config::field::RawType::Uint32;
    let mut rig = Rig::new(Framing::Tcp, vec![last], |asked| now(asked.addresses()));
    rig.run(SECOND / 2).await.unwrap();
    assert_eq!(rig.samples[0].value, Some(Value::Integer(0xfffe_ffff)));
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_stamped_once() {
    let mut rig = Rig::new(Framing::Tcp, vec![device(1, &[1, 2, 3], SECOND)], |a| now(a.addresses()));
    rig.turn().await.unwrap();
    assert_eq!(rig.samples.len(), 3);
    assert!(rig.samples.iter().all(|s| s.stamp == rig.samples[0].stamp));
}

#[test]
fn deadlines_keep_their_phase() {
    let due = Instant::now();
    assert_eq!(next_deadline(due, SECOND, due), due + SECOND);
    assert_eq!(next_deadline(due, SECOND, due + SECOND * 5 / 2), due + SECOND * 3);
    assert_eq!(next_deadline(due + SECOND, SECOND, due), due + SECOND * 2);
    let tiny = next_deadline(due, Duration::ZERO, due + SECOND * 1_000);
    assert!(tiny > due + SECOND * 1_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_is_survived_and_gives_no_good_reading(
        garbage in proptest::collection::vec(any::<u8>(), 1..400), is_rtu in any::<bool>(), many in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let framing = if is_rtu { Framing::Rtu } else { Framing::Tcp };
            let in_flight = if many && !is_rtu { 4 } else { 1 };
            let devices = vec![device(1, &[10, 20], SECOND)];
            let mut rig = Rig::with_in_flight(in_flight, framing, devices, move |_| now(garbage.clone()));
            let end = rig.run(SECOND * 20).await;
            assert!(end.is_ok() || !is_rtu, "only TCP gets lost");
            assert!(rig.samples.iter().all(|s| s.quality != Quality::Good));
        });
    }
}

#[path = "bus_learnt_tests.rs"]
mod learnt;

#[path = "bus_company_tests.rs"]
mod company;

#[tokio::test(start_paused = true)]
async fn a_bus_is_busy_while_it_waits_for_an_answer_alone_or_in_company() {
    for in_flight in [1, 4] {
        let devices = vec![device(1, &[10, 20], SECOND)];
        let late = SECOND / 5;
        let mut rig = Rig::with_in_flight(in_flight, Framing::Tcp, devices, move |asked| {
            vec![(late, asked.addresses())]
        });
        rig.run(SECOND * 60).await.unwrap();
        // One after the other, or both at once.
        let expected = if in_flight == 1 { 0.4 } else { 0.2 };
        let share = rig.bus.occupancy().share();
        assert!((share - expected).abs() < 0.02, "{in_flight} in flight: {share}");
        rig.bus.detach();
        let busy = rig.bus.occupancy().busy();
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!(rig.bus.occupancy().busy(), busy, "a line that is not there is not in use");
    }
}
