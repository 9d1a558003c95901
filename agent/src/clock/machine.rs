//! The machine this gateway is, as its clocks have it: the boot, boot time, the system's clock.
//!
//! It is part of the library because suites in two crates are this machine: they boot in 1970, set
//! the clock ten years ahead and boot again. Programs only know [`Machine::this`].

use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs};

use forebay_protocols::boot_time::{BootTime, wall_offset_micros};

use super::chrony::Chrony;

/// systemd-timesyncd makes this file when it has set the clock.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// A machine in one of its boots. Clones are the same.
#[derive(Clone)]
pub struct Machine {
    boot_id: [u8; 16],
    clocks: Clocks,
    /// None where the clocks are simulated.
    chrony: Option<Chrony>,
}

type Clocks = Arc<dyn Fn() -> (BootTime, Shown) + Send + Sync>;

/// What the system's clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Microseconds to add to boot time for what it shows.
    pub offset_us: i64,
    /// Does it say that it is synchronised?
    pub claims: bool,
}

impl Machine {
    /// The one this runs on.
    pub fn this() -> Self {
        Self::in_boot(boot_id())
    }

    /// This one, in a boot of one's own choice.
    pub fn in_boot(boot_id: [u8; 16]) -> Self {
        let chrony = Chrony::default();
        let keeper = chrony.clone();
        let claims = move || keeper.keeps_the_clock() || Path::new(TIMESYNC).exists();
        let machine = Self::simulated(boot_id, move || {
            (BootTime::now(), Shown { offset_us: wall_offset_micros(), claims: claims() })
        });
        Self { chrony: Some(chrony), ..machine }
    }

    /// One whose clocks are `clocks`. Where it talks to a server its boot time must be the real one:
    /// the uplink's is.
    pub fn simulated(
        boot_id: [u8; 16],
        clocks: impl Fn() -> (BootTime, Shown) + Send + Sync + 'static,
    ) -> Self {
        Self { boot_id, clocks: Arc::new(clocks), chrony: None }
    }

    /// The kernel's id of the boot.
    pub fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }

    /// Its first 8 bytes, as batches state it.
    pub fn short_boot_id(&self) -> [u8; 8] {
        let mut short = [0; 8];
        short.iter_mut().zip(self.boot_id).for_each(|(to, from)| *to = from);
        short
    }

    /// Asks chrony whether it keeps the clock, where that may be running.
    pub async fn ask_keeper(&self) {
        if let Some(chrony) = &self.chrony {
            chrony.ask().await;
        }
    }

    /// How long it has been up.
    pub fn boot_time(&self) -> BootTime {
        (self.clocks)().0
    }

    /// What the system's clock shows.
    pub fn shown(&self) -> Shown {
        (self.clocks)().1
    }

    /// The system's clock, microseconds since 1970.
    pub fn wall_us(&self) -> i64 {
        let (now, shown) = (self.clocks)();
        now.0.saturating_add(shown.offset_us)
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("boot_id", &self.boot_id).field("shown", &self.shown()).finish()
    }
}

/// The kernel's boot id. Where there is none (odd containers), a random one: then every start counts
/// as a boot, which is the safe side.
fn boot_id() -> [u8; 16] {
    let mut id = [0; 16];
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    if digits.len() == 32 {
        id.iter_mut().zip(digits.chunks_exact(2)).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
    } else {
        getrandom::fill(&mut id).unwrap_or_default();
    }
    id
}
