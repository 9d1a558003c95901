//! CPU time of a process, as the kernel counts it.

use anyhow::{Context, Result};

/// The unit of `/proc/PID/stat` on Linux, whatever the kernel's own ticks are.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of all its threads so far, in seconds (fields 14 and 15 of `/proc/PID/stat`, counted
/// behind the name, which may hold anything).
///
/// # Errors
/// When there is no such process.
pub fn seconds_of(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, behind) = stat.rsplit_once(')').context("a name in brackets")?;
    let ticks = behind.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_some() -> Result<()> {
        let before = seconds_of(std::process::id())?;
        while seconds_of(std::process::id())? <= before {}
        assert!(seconds_of(u32::MAX).is_err());
        Ok(())
    }
}
