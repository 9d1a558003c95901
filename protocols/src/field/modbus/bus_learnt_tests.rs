//! What was learnt is put to the test again: seldom, and with one request.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);

fn known(learnt: Learnt) -> BTreeMap<Arc<str>, Learnt> {
    BTreeMap::from([("unit1".into(), learnt)])
}

fn most(registers: u16) -> Learnt {
    Learnt { max_registers: Some(registers), holes: Vec::new() }
}

/// Three requests of a hundred registers.
fn long() -> Vec<ModbusDevice> {
    let addresses: Vec<u16> = (0..3).flat_map(|block| block * 1_000..block * 1_000 + 100).collect();
    vec![device(1, &addresses, MINUTE)]
}

/// The minutes after `began` at which more than `registers` were asked for.
fn trials(rig: &Rig, began: Instant, registers: u16) -> Vec<u64> {
    let heard = rig.heard.all();
    let long = heard.iter().filter(|asked| asked.count > registers);
    long.map(|asked| (asked.at - began).as_secs() / 60).collect()
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_still_holds_costs_one_refusal_after_pauses_that_double_up_to_a_week() {
    for in_flight in [1, 4] {
        let began = Instant::now();
        let mut rig = Rig::with_known(&known(most(50)), in_flight, Framing::Tcp, long(), |asked| {
            now(if asked.count > 50 { asked.exception(3) } else { asked.addresses() })
        });
        rig.run(HOUR * 8).await.unwrap();
        assert_eq!(trials(&rig, began, 50), [60, 180, 420], "{in_flight} in flight");
        rig.assert_no_value_is_false();
        assert!(rig.samples.iter().all(|sample| sample.quality == Quality::Good), "a trial costs no reading");
        assert_eq!(rig.samples.len(), 300 * 8 * 60);
        assert_eq!((rig.bus.learnt(0), rig.bus.lessons()), (most(50), 0), "nothing to write down");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_gives_more_after_all_is_read_in_the_fewest_requests_again() {
    let began = Instant::now();
    let mut rig = Rig::with_known(&known(most(10)), 1, Framing::Tcp, long(), |asked| now(asked.addresses()));
    rig.run(HOUR + MINUTE * 3).await.unwrap();
    assert_eq!(trials(&rig, began, 10)[..3], [60, 60, 60], "the first that is given tells of the others");
    let last = rig.heard.all().split_off(rig.heard.all().len() - 3);
    assert_eq!(last.iter().map(|asked| asked.count).collect::<Vec<_>>(), [100; 3]);
    assert_eq!(rig.bus.learnt(0), Learnt::default());
    assert!(rig.bus.lessons() >= 1, "it is to be written down");
    rig.assert_no_value_is_false();
}

#[tokio::test(start_paused = true)]
async fn a_hole_that_is_given_when_it_is_asked_for_alone_is_tried_in_its_whole_at_once() {
    let began = Instant::now();
    let hole = Hole { table: Register::Holding, first: 1_020, last: 1_020 };
    let learnt = Learnt { max_registers: None, holes: vec![hole] };
    let mut rig = Rig::with_known(&known(learnt), 1, Framing::Tcp, long(), |asked| now(asked.addresses()));
    rig.run(MINUTE * 3 / 2).await.unwrap();
    let spans: Vec<_> = rig.heard.all().iter().map(|asked| (asked.address, asked.count)).collect();
    assert_eq!(spans.iter().filter(|span| **span == (1_020, 1)).count(), 1, "{spans:?}");
    assert_eq!(trials(&rig, began, 99).len(), 2 * 2 + 2, "{spans:?}");
    assert_eq!(rig.bus.learnt(0), Learnt::default());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_fell_meanwhile_is_learnt_anew_at_the_trial() {
    let began = Instant::now();
    let mut rig = Rig::with_known(&known(most(50)), 1, Framing::Tcp, long(), move |asked| {
        let most = if began.elapsed() < MINUTE * 10 { 50 } else { 20 };
        now(if asked.count > most { asked.exception(3) } else { asked.addresses() })
    });
    rig.run(HOUR + MINUTE * 2).await.unwrap();
    let Learnt { max_registers, holes } = rig.bus.learnt(0);
    assert!(max_registers.is_some_and(|most| (10..=20).contains(&most)), "{max_registers:?}");
    assert!(holes.is_empty());
    rig.assert_no_value_is_false();
    assert!(rig.samples.iter().all(|sample| sample.quality == Quality::Good));
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_was_away_is_tried_when_it_is_back_but_no_more_than_once_an_hour() {
    let began = Instant::now();
    let mut rig = Rig::with_known(&known(most(50)), 1, Framing::Rtu, long(), move |asked| {
        let minute = began.elapsed().as_secs() / 60;
        match () {
            // For twenty minutes of the seventh hour, and from the ninth on of every ten minutes five.
            () if (400..420).contains(&minute) || minute > 540 && minute % 10 < 5 => Vec::new(),
            () if asked.count > 50 => now(asked.exception(3)),
            () => now(asked.addresses()),
        }
    });
    rig.run(HOUR * 15).await.unwrap();
    let trials = trials(&rig, began, 50);
    // 60, 180; the next would be due at 420, when it has just come back; then 900.
    assert_eq!(trials[..2], [60, 180], "{trials:?}");
    assert!(trials.windows(2).all(|two| two[1] >= two[0] + 60), "{trials:?}");
    assert!(trials.iter().any(|minute| (481..900).contains(minute)), "it was away since: {trials:?}");
    rig.assert_no_value_is_false();
}
