//! Processor time, in seconds, as Linux counts it for whole processes in `/proc/PID/stat` (proc(5)).

use std::fs;

/// Of this process, all its threads.
pub fn own() -> f64 {
    of("/proc/self/stat").unwrap_or_default()
}

/// Of every process of PostgreSQL on this machine; 0 where it runs elsewhere.
pub fn postgres() -> f64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0.0 };
    let is_postgres = |path: &std::path::Path| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "postgres")
    };
    processes
        .filter_map(|process| Some(process.ok()?.path()))
        .filter(|path| is_postgres(path))
        .filter_map(|path| of(path.join("stat").to_str()?))
        .sum()
}

fn of(path: &str) -> Option<f64> {
    let stat = fs::read_to_string(path).ok()?;
    // The name stands in brackets and may hold anything; user and system time are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    // USER_HZ is 100 wherever Linux runs.
    Some(ticks / 100.0)
}
