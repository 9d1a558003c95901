//! Lines that are slow, and lines that are long.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_config::field::Link;
use forebay_config::load;
use forebay_demo::long_link::LongLink;
use forebay_demo::paced_bus::{PacedBus, Tally};
use forebay_protocols::field::modbus::ModbusSource;
use forebay_protocols::field::source::Source;
use forebay_protocols::reading::Quality;
use forebay_tests::load_device::LoadDevice;
use serde_json::json;

use super::{Measure, bare};

/// Exchanges before the clock starts.
pub const WARM_UP: u64 = 4;
/// Each figure is the middle one of so many.
const ROUNDS: u32 = 5;
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// The link `bench` of this text below `[link.bench]`.
pub fn link(text: &str) -> Result<Link> {
    let text = format!(
        "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.bench]\ninterval = \"10ms\"\ntimeout = \"2s\"\n{text}"
    );
    let link = load::agent_text("bench.toml", &text)?.links.pop().context("one link")?;
    Ok(std::sync::Arc::unwrap_or_clone(link))
}

/// Points on these registers of unit 1, in requests of at most `most` registers.
fn registers(count: usize, most: usize) -> String {
    let points: String = (0..count).map(|at| format!("p{at} = {{ address = {at} }}\n")).collect();
    format!("[link.bench.device.d]\nmax_registers = {most}\n[link.bench.device.d.points]\n{points}")
}

/// A source read as fast as it goes for `time`, after a warm-up that `is_warm` ends. Good readings.
async fn read(source: &mut ModbusSource, time: Duration) -> Result<usize> {
    let end = Instant::now() + time;
    let mut good = 0;
    while Instant::now() < end {
        let harvest = source.next().await?;
        good += harvest.samples.iter().filter(|sample| sample.quality == Quality::Good).count();
        ensure!(harvest.news.iter().all(|news| news.answers), "a unit fell silent: {:?}", harvest.news);
    }
    Ok(good)
}

/// The bus after at least so many exchanges.
async fn after(bus: &PacedBus, source: &mut ModbusSource, exchanges: u64) -> Result<Tally> {
    while bus.tally().exchanges < exchanges {
        source.next().await?;
    }
    Ok(bus.tally())
}

/// Share of the line's limit that the driver uses, and queries that came too soon, over `time`.
pub async fn share(bus: &PacedBus, source: &mut ModbusSource, time: Duration) -> Result<(f64, Tally, Tally)> {
    source.connect().await?;
    let first = after(bus, source, WARM_UP).await?;
    read(source, time).await?;
    let last = after(bus, source, bus.tally().exchanges + 1).await?;
    source.close().await;
    Ok((used(&first, &last)?, first, last))
}

/// The share of the line's limit that was used between the ends of two exchanges.
pub fn used(first: &Tally, last: &Tally) -> Result<f64> {
    let (began, ended) = (first.last_end.context("an answer")?, last.last_end.context("an answer")?);
    ensure!(ended > began, "no exchange ended in that time; give it more with --seconds");
    let needed = last.line_time - first.line_time;
    Ok(needed.as_secs_f64() / (ended - began).as_secs_f64())
}

/// Modbus RTU at the limit of its line.
pub async fn utilisation(measure: Measure) -> Result<()> {
    measure.title(
        "Modbus RTU, everything always due. The limit: characters of 11 bits, and the silences of the standard.\n\
         Beside it a bare loop in a thread of its own, which does nothing but ask\n  \
         baud  registers a request  requests/s  registers/s  of the limit  bare loop  queries too soon",
    );
    for baud in [9_600, 19_200, 115_200] {
        for most in [125, 50, 10] {
            let bus = PacedBus::start(baud, &[])?;
            let text = format!(
                "[link.bench.modbus-rtu]\nport = {:?}\nbaud = {baud}\n{}",
                bus.path().display().to_string(),
                registers(most * 2, most)
            );
            let mut source = ModbusSource::new(&link(&text)?).context("a Modbus link")?;
            // In turn, so that what else the machine does strikes both alike.
            let (mut ours, mut bare, mut too_soon) = (Vec::new(), Vec::new(), 0);
            for _ in 0..ROUNDS {
                let before = bus.tally().too_soon;
                ours.push(share(&bus, &mut source, measure.time / ROUNDS).await?);
                too_soon += bus.tally().too_soon - before;
                bare.push(bare::share(&bus, most as u16, measure.time / ROUNDS).await?);
            }
            ours.sort_by(|a, b| a.0.total_cmp(&b.0));
            bare.sort_by(f64::total_cmp);
            let (share, first, last) = ours[ours.len() / 2];
            let bare = bare[bare.len() / 2];
            let seconds = (last.line_time - first.line_time).as_secs_f64() / share;
            let a_second = |count: u64| count as f64 / seconds;
            let requests = a_second(last.exchanges - first.exchanges);
            let registers = a_second(last.registers - first.registers);
            measure.row(
                &format!(
                    "{baud:>6}  {most:>19}  {requests:>10.1}  {registers:>11.0}  {:>10.1} %  {:>7.1} %  {too_soon:>16}",
                    share * 100.0,
                    bare * 100.0,
                ),
                &json!({
                    "bench": "bus", "baud": baud, "registers_per_request": most, "requests_per_s": requests,
                    "registers_per_s": registers, "share_of_limit": share, "share_of_bare_loop": bare, "too_soon": too_soon,
                }),
            );
        }
    }
    Ok(())
}

/// Modbus TCP where the answer takes its time.
pub async fn far(measure: Measure) -> Result<()> {
    measure.title(
        "Modbus TCP, 50 ms there and back, 64 requests of 10 registers always due\n  in flight  registers/s  to stop-and-wait",
    );
    let mut alone = None;
    for in_flight in [1, 4, 16] {
        let device = LoadDevice::start().await?;
        let road = LongLink::start(device.address(), ROUND_TRIP / 2).await?;
        let text = format!(
            "[link.bench.modbus-tcp]\naddress = \"{}\"\nin_flight = {in_flight}\n{}",
            road.address(),
            registers(640, 10)
        );
        let mut source = ModbusSource::new(&link(&text)?).context("a Modbus link")?;
        source.connect().await?;
        read(&mut source, ROUND_TRIP * 4).await?;
        let began = Instant::now();
        let good = read(&mut source, measure.time).await?;
        let registers = good as f64 / began.elapsed().as_secs_f64();
        source.close().await;
        let times = registers / *alone.get_or_insert(registers);
        measure.row(
            &format!("{in_flight:>11}  {registers:>11.0}  {times:>15.1}x"),
            &json!({
                "bench": "far", "in_flight": in_flight, "round_trip_ms": ROUND_TRIP.as_millis() as u64,
                "registers_per_s": registers, "to_stop_and_wait": times,
            }),
        );
    }
    Ok(())
}
