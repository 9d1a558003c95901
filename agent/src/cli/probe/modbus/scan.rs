//! `probe modbus scan`: which units answer, and on a tty at which speed and parity.

use std::process::ExitCode;

use clap::Args;
use forebay_protocols::field::modbus::look::Looker;

use super::{TARGETS, link, link_table, refuse, with_looker};
use crate::cli::complain;

/// Speeds and parities in the order in which devices are delivered with them. The standard asks for 19200
/// and even parity (Modbus over Serial Line V1.02, 2.2 and 2.5.1); most makers deliver 9600.
const BAUDS: [u32; 8] = [9_600, 19_200, 38_400, 115_200, 57_600, 4_800, 2_400, 1_200];
const PARITIES: [&str; 3] = ["even", "none", "odd"];
/// Units that are asked at each speed and parity: devices are delivered as unit 1, and few are set
/// beyond this. All 247 at all speeds would take half an hour.
const FIRST_UNITS: u8 = 10;

#[derive(Debug, Args)]
pub struct Scan {
    #[arg(help = format!("Where: {TARGETS}"))]
    target: String,
    /// The first unit id to ask.
    #[arg(long, default_value_t = 1)]
    from: u8,
    /// The last.
    #[arg(long, default_value_t = 247)]
    to: u8,
    /// The longest wait for an answer: "1s", "300ms".
    #[arg(long, default_value = "300ms")]
    timeout: String,
}

/// Asks each unit id.
pub fn scan(scan: &Scan) -> ExitCode {
    let Scan { target, from, to, timeout } = scan;
    if from > to {
        return refuse(&format!("--from {from} is beyond --to {to}"));
    }
    let link_words = match link_table(target) {
        Ok(words) => words,
        Err(why) => return refuse(&why),
    };
    with_looker(&link_words, timeout, async |looker| {
        complain(&format!(
            "Reads holding register 0 of unit ids {from} to {to} at {}, {timeout} each at the most. \
             Nothing is written to a device.",
            looker.peer()
        ));
        if !has_open_line(target) {
            return units(looker, *from..=*to).await;
        }
        let first = (*from).saturating_add(FIRST_UNITS - 1).min(*to);
        let (line, mut looker) = hunt(target, timeout, *from..=first).await?;
        complain(&format!("The line is {line}"));
        units(&mut looker, *from..=*to).await
    })
}

async fn units(looker: &mut Looker, range: std::ops::RangeInclusive<u8>) -> Result<String, String> {
    let mut found = Vec::new();
    for unit in range {
        if looker.answers(unit).await.map_err(|fault| fault.to_string())? {
            complain(&format!("unit {unit} answers"));
            found.push(unit.to_string());
        }
    }
    match found.len() {
        0 => Err("no unit answers; are the port, baud rate and parity right?".into()),
        _ => Ok(found.join("\n")),
    }
}

/// A tty of which neither speed nor parity is given.
fn has_open_line(target: &str) -> bool {
    target.starts_with("rtu://") && !target.contains("baud=") && !target.contains("parity=")
}

/// The target with all that may be tried, in order.
fn lines(target: &str) -> impl Iterator<Item = String> {
    let joint = if target.contains('?') { '&' } else { '?' };
    BAUDS.into_iter().flat_map(move |baud| {
        PARITIES.into_iter().map(move |parity| format!("{target}{joint}baud={baud}&parity={parity}"))
    })
}

/// The first line on which one of `range` answers. Each is opened anew, and closed before the next.
async fn hunt(
    target: &str,
    timeout: &str,
    range: std::ops::RangeInclusive<u8>,
) -> Result<(String, Looker), String> {
    complain(&format!(
        "Neither baud rate nor parity is given: tries the usual ones on units {} to {}.",
        range.start(),
        range.end()
    ));
    for line in lines(target) {
        let link = link(&link_table(&line)?, timeout)?;
        let mut looker = Looker::new(&link).ok_or("this is no Modbus link")?;
        for unit in range.clone() {
            if looker.answers(unit).await.map_err(|fault| fault.to_string())? {
                return Ok((line, looker));
            }
        }
        complain(&format!("nobody answers at {line}"));
    }
    Err(format!(
        "no unit from {} to {} answers at any usual baud rate and parity; are A and B swapped, does the device \
         have power, is it another unit id (--from)?",
        range.start(),
        range.end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_line_is_tried_once_and_is_a_line() {
        let all: Vec<String> = lines("rtu:///dev/ttyUSB0?stop_bits=2").collect();
        assert_eq!(all.len(), 24);
        assert_eq!(all[0], "rtu:///dev/ttyUSB0?stop_bits=2&baud=9600&parity=even");
        for line in &all {
            link(&link_table(line).unwrap(), "1s").unwrap();
        }
        assert_eq!(lines("rtu:///dev/ttyS0").next().unwrap(), "rtu:///dev/ttyS0?baud=9600&parity=even");
    }

    #[test]
    fn what_is_given_is_not_tried() {
        assert!(has_open_line("rtu:///dev/ttyUSB0") && has_open_line("rtu:///dev/ttyUSB0?stop_bits=2"));
        for given in ["rtu:///dev/ttyUSB0?baud=9600", "rtu:///dev/ttyUSB0?parity=odd", "tcp://10.0.0.5"] {
            assert!(!has_open_line(given), "{given}");
        }
    }
}
