//! Nobody's driver: a thread that does nothing but ask the bus. What it makes of a line is what this
//! machine's pseudo terminals, timers and scheduler leave to anybody.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_config::field::Register;
use forebay_demo::paced_bus::PacedBus;
use forebay_protocols::field::modbus::frame::Query;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::lines::{WARM_UP, used};

/// Share of the line's limit that the loop uses over `time`, with requests of `registers`.
pub async fn share(bus: &PacedBus, registers: u16, time: Duration) -> Result<f64> {
    let (path, silence) = (bus.path().to_owned(), bus.silence());
    let (began, warm) = (bus.tally().exchanges, Instant::now());
    let asking = tokio::task::spawn_blocking(move || ask(&path, silence, registers, time));
    while bus.tally().exchanges < began + WARM_UP && warm.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = bus.tally();
    asking.await??;
    used(&first, &bus.tally())
}

/// Asks as soon as the line has been silent for long enough, again and again.
fn ask(path: &std::path::Path, silence: Duration, registers: u16, time: Duration) -> Result<()> {
    let port = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    // Without the slack of a sleep.
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let query = Query { unit: 1, table: Register::Holding, address: 0, count: registers };
    let (mut answer, end) = ([0; 512], Instant::now() + time);
    let mut heard = Instant::now();
    while Instant::now() < end {
        let left = silence.saturating_sub(heard.elapsed()).max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let setting = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        rustix::io::read(&timer, &mut [0; 8])?;
        rustix::io::write(&port, &query.to_rtu())?;
        let mut received = 0;
        while received < query.rtu_answer_length() {
            let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
            let heard_of = poll(&mut [PollFd::new(&port, PollFlags::IN)], Some(&patience))?;
            ensure!(heard_of > 0, "the bus fell silent");
            let room = answer.get_mut(received..).context("an answer longer than any")?;
            received += rustix::io::read(&port, room)?;
            heard = Instant::now();
        }
    }
    Ok(())
}
