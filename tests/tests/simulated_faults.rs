//! The simulator's faults end to end: the device as a user starts it, the agent's own program with the
//! configuration that was printed, and what an operator sees of it afterwards.

use std::time::Duration;

use anyhow::{Result, ensure};
use forebay_tests::simulated::{Simulated, now, qualities, staleness};
use tokio::time::sleep;

const SETTINGS: &str = "interval = \"500ms\"\ntimeout = \"1s\"\nbackoff_max = \"1s\"";
const MOMENT: Duration = Duration::from_millis(1_500);
const SILENT: &str = "bad: the device did not answer in time";
const NO_CONNECTION: &str = "bad: no connection to the device";
const WRONG_TYPE: &str = "bad: the value is not of the configured type";
const REFUSED: &str = "bad: the device refused the request";
/// Of `heat_energy` and `energy_import`, a second.
const HEAT: f64 = 190.0;
const IMPORT: f64 = 5.6;
/// A busy machine's delay between a register and its stamp. Less than `late` is late.
const FRESH: f64 = 1.4;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_a_late_and_a_short_unit_spoil_nothing_but_their_own_readings() -> Result<()> {
    let mut plant = Simulated::start(&["modbus", "--units", "1,2"], SETTINGS).await?;
    sleep(seconds(2)).await;
    let slow = plant.suffer("slow=300ms:2", seconds(3), MOMENT / 2).await?;
    let late = plant.suffer("late=2500ms:2", seconds(5), MOMENT).await?;
    plant.until_good("boiler-2/heat_energy", now() + 0.5).await?;
    let short = plant.suffer("short:1", seconds(3), MOMENT).await?;
    plant.until_good("boiler-1/heat_energy", now() + 0.5).await?;
    let limit = plant.suffer("limit=4:1", seconds(4), MOMENT * 2).await?;
    plant.until_good("boiler-1/serial_number", now()).await?;
    assert_eq!(plant.connections().await?, 1.0, "nothing of this is the connection's fault");

    let (one, two) = (plant.kept("boiler-1/heat_energy").await?, plant.kept("boiler-2/heat_energy").await?);
    assert_eq!(qualities(&two, slow), ["good"], "slow, and in time");
    let words = qualities(&two, (slow.1, late.1));
    assert_eq!(words, [SILENT, "good"], "late is silent; before that it was good");
    assert!(!qualities(&two, late).contains(&"good"), "what comes late is no reading");
    assert_eq!(qualities(&one, late), ["good"], "the other unit is read all the while");
    assert_eq!(qualities(&one, short), [WRONG_TYPE]);
    assert_eq!(qualities(&two, short), ["good"]);
    assert_eq!(qualities(&one, limit), ["good"], "read in smaller requests");
    // Eight registers can be had no smaller.
    assert_eq!(qualities(&plant.kept("boiler-1/serial_number").await?, limit), [REFUSED]);
    for kept in [&one, &two] {
        let stale = staleness(kept, HEAT)?;
        ensure!(stale < FRESH, "a value was {stale} s old: an answer to an earlier request");
    }
    plant.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_unit_on_a_serial_line_is_never_taken_for_an_answer_to_the_next_request() -> Result<()> {
    let mut plant = Simulated::start(&["modbus", "--serial", "--units", "11,12"], SETTINGS).await?;
    sleep(seconds(2)).await;
    let slow = plant.suffer("slow=200ms", seconds(3), MOMENT / 2).await?;
    for late in ["late=1300ms:11", "late=2500ms:11"] {
        let late = plant.suffer(late, seconds(5), MOMENT).await?;
        plant.until_good("meter-11/energy_import", now() + 0.5).await?;
        let other = plant.kept("meter-12/energy_import").await?;
        ensure!(qualities(&other, late).contains(&"good"), "the other unit is read between the waits");
    }
    let kept = plant.kept("meter-11/energy_import").await?;
    assert_eq!(qualities(&kept, slow), ["good"]);
    ensure!(kept.iter().any(|kept| kept.quality == SILENT), "{kept:?}");
    for meter in ["meter-11/energy_import", "meter-12/energy_import"] {
        // It counts in steps of a fifth of a second.
        let stale = staleness(&plant.kept(meter).await?, IMPORT)?;
        ensure!(stale < FRESH - 0.2, "{meter}: a value was {stale} s old");
    }
    plant.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modbus_connection_that_is_cut_stalled_or_dropped_is_found_again_without_a_storm() -> Result<()> {
    let mut plant = Simulated::start(&["modbus", "--units", "1,2"], SETTINGS).await?;
    sleep(seconds(2)).await;
    plant.say("cut").await?;
    plant.until("backing_off").await?;
    let began = now();
    sleep(seconds(2)).await;
    let link = plant.link().await?;
    ensure!(link["words"].as_str().is_some_and(|words| !words.is_empty()), "why is told: {link}");
    let mended = now();
    plant.say("mend").await?;
    let waited = plant.until_good("boiler-1/heat_energy", mended).await?;
    ensure!(waited < 4.0, "read again {waited} s after the cut");
    let kept = plant.kept("boiler-1/heat_energy").await?;
    assert_eq!(qualities(&kept, (began - 1.0, mended)), [NO_CONNECTION, "good"]);
    let holes = kept.iter().filter(|kept| kept.quality == NO_CONNECTION).count();
    assert_eq!(holes, 1, "one bad reading, so that charts show a hole");
    // The cut road takes connections and closes them: an attempt a second at the most.
    let connections = plant.connections().await?;
    ensure!((2.0..=8.0).contains(&connections), "{connections} connections around a cut of some seconds");

    let stalled = plant.suffer("stalled", seconds(5), MOMENT * 2).await?;
    let waited = plant.until_good("boiler-2/heat_energy", now()).await?;
    ensure!(waited < 6.0, "read again {waited} s after the stall");
    let kept = plant.kept("boiler-2/heat_energy").await?;
    let words = qualities(&kept, (stalled.0 - 2.5, stalled.1));
    ensure!(words.contains(&SILENT) || words.contains(&NO_CONNECTION), "{words:?}");
    ensure!(!qualities(&kept, stalled).contains(&"good"), "nothing came through");

    let before = plant.connections().await?;
    let dropped = now();
    plant.say("drop").await?;
    let waited = plant.until_good("boiler-1/heat_energy", dropped + 1.0).await?;
    ensure!(waited < 4.0, "read again {waited} s after the drop");
    let made = plant.connections().await? - before;
    ensure!((1.0..=3.0).contains(&made), "{made} connections after one drop");
    for unit in [1, 2] {
        let kept = plant.kept(&format!("boiler-{unit}/heat_energy")).await?;
        let stale = staleness(&kept, HEAT)?;
        ensure!(stale < FRESH, "unit {unit}: a value was {stale} s old");
    }
    plant.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opc_ua_server_that_goes_down_or_takes_few_sessions_is_read_with_one() -> Result<()> {
    let settings = "interval = \"500ms\"\ntimeout = \"5s\"\nbackoff_max = \"1s\"";
    let mut plant = Simulated::start(&["opcua"], settings).await?;
    let point = "Press/Pressure";
    plant.until_good(point, 0.0).await?;
    plant.say("down").await?;
    plant.until("backing_off").await?;
    sleep(seconds(2)).await;
    let mended = now();
    plant.say("mend").await?;
    plant.until_good(point, mended).await?;
    let kept = plant.kept(point).await?;
    ensure!(kept.iter().filter(|kept| kept.quality == NO_CONNECTION).count() == 1, "{kept:?}");

    // A second session would be refused from here on, so the one whose connection broke has to end first.
    plant.say("sessions=1").await?;
    sleep(MOMENT).await;
    plant.until_good(point, now()).await?;
    let before = plant.connections().await?;
    plant.say("drop").await?;
    sleep(MOMENT).await;
    plant.until_good(point, now()).await?;
    let made = plant.connections().await? - before;
    ensure!((1.0..=2.0).contains(&made), "{made} connections after one drop");
    plant.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_at_a_broker_is_no_fault_and_a_cut_connection_is_one() -> Result<()> {
    let settings = "timeout = \"5s\"\nbackoff_max = \"1s\"";
    let mut plant = Simulated::start(&["mqtt"], settings).await?;
    plant.until_good("feed-pump/flow", 0.0).await?;
    let quiet = plant.suffer("quiet", seconds(4), MOMENT).await?;
    let link = plant.link().await?;
    assert_eq!(link["state"], "connected", "{link}");
    plant.until_good("feed-pump/flow", quiet.1).await?;
    let kept = plant.kept("feed-pump/*").await?;
    assert_eq!(qualities(&kept, quiet), [""; 0], "nothing was said, and nothing is kept");
    assert_eq!(qualities(&kept, (0.0, now())), ["good"]);

    let stalled = plant.suffer("stalled", seconds(3), MOMENT).await?;
    plant.until_good("feed-pump/flow", stalled.1).await?;
    assert_eq!(plant.connections().await?, 1.0, "it was no longer than the keep-alive");

    plant.say("cut").await?;
    plant.until("backing_off").await?;
    sleep(seconds(2)).await;
    let mended = now();
    plant.say("mend").await?;
    plant.until_good("feed-pump/flow", mended).await?;
    let kept = plant.kept("feed-pump/flow").await?;
    assert_eq!(kept.iter().filter(|kept| kept.quality == NO_CONNECTION).count(), 1, "{kept:?}");
    assert_eq!(plant.connections().await?, 2.0);
    plant.end().await
}
