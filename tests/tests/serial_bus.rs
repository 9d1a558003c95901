//! A serial bus as an installer leaves it: ten units, one of them dead. The agent's own program on a
//! tty at 19200 baud; what it kept is taken from its buffer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::paced_bus::PacedBus;
use forebay_demo::site::Site;
use forebay_tests::programs;
use tokio::time::sleep;

const UNITS: u8 = 10;
const DEAD: u8 = 5;
/// Ten exchanges of 8 and 25 characters need a quarter of a second.
const INTERVAL: f64 = 0.5;
const TIMEOUT: f64 = 0.4;
const WATCHED: Duration = Duration::from_secs(20);
/// The dead unit is asked at 0, and after pauses of 1, 2, 4, 8 and 8 seconds. One more at the edge.
const MOST_ATTEMPTS: u64 = 6;

#[tokio::test]
async fn a_dead_unit_costs_the_nine_others_one_timeout_in_each_of_its_pauses_and_no_more() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bus = PacedBus::start(19_200, &[DEAD])?;
    let mut link = format!(
        "[link.bus]\ninterval = \"{INTERVAL}s\"\ntimeout = \"{TIMEOUT}s\"\nbackoff_max = \"8s\"\n\
         [link.bus.modbus-rtu]\nport = {:?}\nbaud = 19200\n",
        bus.path().display().to_string()
    );
    for unit in 1..=UNITS {
        let points: String = (0..10).map(|at| format!("p{at} = {{ address = {at} }}\n")).collect();
        write!(
            link,
            "[link.bus.device.u{unit}]\nunit_id = {unit}\n[link.bus.device.u{unit}.points]\n{points}"
        )?;
    }
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "bus", &link, "")?;
    let agent = site.start_agent().await?;
    sleep(WATCHED).await;
    let attempts = bus.tally().unanswered;
    agent.terminate(Duration::from_secs(30)).await?;
    ensure!((4..=MOST_ATTEMPTS).contains(&attempts), "the dead unit was asked {attempts} times");
    assert_eq!(bus.tally().too_soon, 0, "a query came before the line had been silent");

    let readings = readings(&site).await?;
    for unit in 1..=UNITS {
        let (good, bad) = readings.get(&format!("u{unit}")).context("a unit without readings")?;
        if unit == DEAD {
            assert_eq!((good.len(), *bad), (0, 1), "one bad reading, so that charts show a hole");
            continue;
        }
        assert_eq!(*bad, 0, "unit {unit} had bad readings");
        let pauses: Vec<f64> = good.windows(2).map(|two| (two[1] - two[0]).rem_euclid(86_400.0)).collect();
        // A quarter of a second is what the other units need, and as much is the machine's.
        let longest = pauses.iter().copied().fold(0.0, f64::max);
        assert!(longest <= INTERVAL + TIMEOUT + 0.5, "unit {unit} was not read for {longest} s");
        // A timeout shifts a reading, or makes it miss one deadline.
        let expected = WATCHED.as_secs_f64() / INTERVAL;
        let missing = expected - good.len() as f64;
        assert!(missing <= attempts as f64 + 2.0, "unit {unit} misses {missing} of {expected} readings");
    }
    Ok(())
}

/// Of each device: the seconds of the day at which its first point had a good reading, and how many
/// bad ones it had.
async fn readings(site: &Site) -> Result<BTreeMap<String, (Vec<f64>, usize)>> {
    let config = site.file("agent.toml");
    let words = ["buffer", "export", "--point", "p0", "--config"];
    let mut words: Vec<_> = words.map(std::ffi::OsStr::new).to_vec();
    words.push(config.as_os_str());
    let csv = programs()?.agent.output(&words).await?;
    let mut readings = BTreeMap::<String, (Vec<f64>, usize)>::new();
    for row in csv.lines().skip(1) {
        let fields: Vec<&str> = row.split(',').collect();
        let [time, device, _, _, _, quality, ..] = fields[..] else {
            anyhow::bail!("a row with few columns: {row}");
        };
        let (good, bad) = readings.entry(device.to_owned()).or_default();
        if quality == "good" {
            good.push(second_of_day(time).with_context(|| row.to_owned())?);
        } else {
            *bad += 1;
        }
    }
    Ok(readings)
}

/// `2026-11-29T08:41:46.25Z`.
fn second_of_day(time: &str) -> Option<f64> {
    let mut parts = time.split_once('T')?.1.trim_end_matches('Z').split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3_600.0 + next()? * 60.0 + next()?)
}
