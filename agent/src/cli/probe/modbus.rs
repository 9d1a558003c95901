//! `probe modbus` and `probe modbus scan`.

mod scan;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use forebay_config::field::{Link, Register};
use forebay_config::load;
use forebay_protocols::field::modbus::look::{Looker, Seen, exception};

use super::guess::{Guess, Order, characters, guesses, is_plausible};
use crate::cli::run::runtime;
use crate::cli::{BAD_CONFIG, FAILED, complain, say};

/// `tcp://…` and `rtu:///…` of the help.
const TARGETS: &str =
    "tcp://HOST[:PORT], rtu+tcp://HOST:PORT, or rtu:///dev/ttyUSB0?baud=9600&parity=even&stop_bits=1";

#[derive(Debug, Args)]
pub struct Look {
    #[command(subcommand)]
    command: Option<Other>,
    #[arg(required = true, help = format!("Where: {TARGETS}"))]
    target: Option<String>,
    /// Unit id.
    #[arg(long, default_value_t = 1)]
    unit: u8,
    /// The table.
    #[arg(long, value_enum, default_value_t = Table::Holding)]
    register: Table,
    /// First address, 0-based.
    #[arg(long, default_value_t = 0)]
    address: u16,
    /// How many registers or bits.
    #[arg(long, default_value_t = 20)]
    count: u32,
    /// The longest wait for an answer: "1s", "300ms".
    #[arg(long, default_value = "1s")]
    timeout: String,
}

/// What else can be looked at.
#[derive(Debug, Subcommand)]
enum Other {
    /// Which unit ids answer? On a tty without `?baud=` and `?parity=` the usual ones are tried.
    Scan(scan::Scan),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Table {
    Coil,
    Discrete,
    Input,
    Holding,
}

impl Table {
    fn register(self) -> Register {
        match self {
            Self::Coil => Register::Coil,
            Self::Discrete => Register::Discrete,
            Self::Input => Register::Input,
            Self::Holding => Register::Holding,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }
}

/// Does what was asked for.
pub fn run(asked: &Look) -> ExitCode {
    match asked {
        Look { command: Some(Other::Scan(scan)), .. } => scan::scan(scan),
        Look { target: Some(target), .. } => look(asked, target),
        Look { .. } => refuse(TARGETS),
    }
}

/// Reads and shows.
fn look(look: &Look, target: &str) -> ExitCode {
    let Look { command: _, target: _, unit, register, address, count, timeout } = look;
    if *count == 0 || *count > 10_000 {
        return refuse(&format!("--count {count}: between 1 and 10000 at once"));
    }
    let link_words = match link_table(target) {
        Ok(words) => words,
        Err(why) => return refuse(&why),
    };
    with_looker(&link_words, timeout, async |looker| {
        let (from, end) = (u32::from(*address), (u32::from(*address) + count).min(1 << 16));
        complain(&format!(
            "Reads {} addresses {from} to {} of unit {unit} at {}. Nothing is written to the device.",
            register.word(),
            end - 1,
            looker.peer()
        ));
        let seen =
            looker.range(*unit, register.register(), from..end).await.map_err(|fault| fault.to_string())?;
        Ok(shown(&seen, *register, &link_words, *unit))
    })
}

fn refuse(why: &str) -> ExitCode {
    complain(why);
    ExitCode::from(BAD_CONFIG)
}

fn with_looker(
    link_words: &str,
    timeout: &str,
    work: impl AsyncFnOnce(&mut Looker) -> Result<String, String>,
) -> ExitCode {
    let link = match link(link_words, timeout) {
        Ok(link) => link,
        Err(why) => return refuse(&why),
    };
    let Some(mut looker) = Looker::new(&link) else { return refuse("this is no Modbus link") };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(work(&mut looker)) {
        Ok(words) => say(&words),
        Err(why) => {
            complain(&why);
            ExitCode::from(FAILED)
        }
    }
}

/// The link that stands for a target, by the same rules as one in agent.toml.
fn link(link_words: &str, timeout: &str) -> Result<Link, String> {
    let toml = format!(
        "[agent]\nsite = \"probe\"\ngateway = \"probe\"\n[link.probed]\ntimeout = {timeout:?}\n{link_words}\
         [link.probed.device.unit.points]\nfirst = {{ address = 0 }}\n"
    );
    let agent = load::agent_text("what was asked for", &toml).map_err(|findings| findings.to_string())?;
    agent.links.into_iter().next().map(Arc::unwrap_or_clone).ok_or_else(|| "no link".into())
}

/// `[link.probed.modbus-…]` of a target.
fn link_table(target: &str) -> Result<String, String> {
    let wrong = || format!("{target:?} is no Modbus link\n  hint: {TARGETS}");
    let (scheme, rest) = target.split_once("://").ok_or_else(wrong)?;
    match scheme {
        "tcp" if !rest.is_empty() => Ok(format!("[link.probed.modbus-tcp]\naddress = {rest:?}\n")),
        "rtu+tcp" if !rest.is_empty() => {
            Ok(format!("[link.probed.modbus-tcp]\naddress = {rest:?}\nframing = \"rtu\"\n"))
        }
        "rtu" if rest.starts_with('/') => {
            let (port, options) = rest.split_once('?').unwrap_or((rest, ""));
            let mut table = format!("[link.probed.modbus-rtu]\nport = {port:?}\n");
            for option in options.split('&').filter(|option| !option.is_empty()) {
                let (key, value) = option.split_once('=').ok_or_else(wrong)?;
                match (key, value.parse::<u32>()) {
                    ("baud" | "stop_bits" | "data_bits", Ok(number)) => {
                        table += &format!("{key} = {number}\n");
                    }
                    ("parity", _) => table += &format!("parity = {value:?}\n"),
                    _ => return Err(format!("`{option}` is not understood\n  hint: {TARGETS}")),
                }
            }
            Ok(table)
        }
        _ => Err(wrong()),
    }
}

/// The table, the holes, and the configuration.
fn shown(seen: &Seen, table: Table, link_words: &str, unit: u8) -> String {
    let mut text = String::new();
    let is_bits = matches!(table, Table::Coil | Table::Discrete);
    let guesses = guesses(&seen.words);
    if is_bits {
        for (address, bit) in &seen.words {
            let _ = writeln!(text, "{address:>7}  {bit}");
        }
    } else {
        text += &grid(&seen.words, &guesses);
    }
    if let Some(code) = seen.refused.values().next() {
        let holes = runs(seen.refused.keys().copied());
        let _ = writeln!(text, "\nThe unit {} at: {holes}", exception(*code));
    }
    if seen.words.is_empty() {
        return text;
    }
    text += "\n# Guesses, to be held against the device's manual:\n";
    text += link_words;
    let _ = writeln!(text, "\n[link.probed.device.unit-{unit}]\nunit_id = {unit}");
    let order = guesses.values().find_map(|guess| match guess {
        Guess::Float(order, _) => Some(*order),
        _ => None,
    });
    if let Some(order) = order.filter(|order| !is_bits && *order != Order::Abcd) {
        let _ = writeln!(text, "byte_order = \"{}\"", order.word());
    }
    let _ = writeln!(text, "\n[link.probed.device.unit-{unit}.points]");
    let word = table.word();
    if is_bits {
        for (address, bit) in &seen.words {
            let _ = writeln!(
                text,
                "{word}-{address} = {{ register = \"{word}\", address = {address} }}  # {bit}"
            );
        }
        return text;
    }
    for (address, guess) in &guesses {
        let (kind, value) = match guess {
            Guess::Float(_, value) => ("type = \"float32\"".to_owned(), value.to_string()),
            Guess::Text(registers, text) => {
                (format!("type = \"string\", length = {registers}"), format!("{text:?}"))
            }
            Guess::Signed(value) => ("type = \"int16\"".into(), value.to_string()),
            Guess::Unsigned(value) => ("type = \"uint16\"".into(), value.to_string()),
        };
        let _ = writeln!(
            text,
            "{word}-{address} = {{ register = \"{word}\", address = {address}, {kind} }}  # {value}"
        );
    }
    text
}

/// Every register, every reading of it side by side. `*` stands behind what is taken for a value.
fn grid(words: &BTreeMap<u16, u16>, guesses: &BTreeMap<u16, Guess>) -> String {
    let mut text = format!(
        "{:>7}  {:<4} {:>7} {:>7} {:>11} {:>11} {:>13} {:>11} {:>13} text\n",
        "address", "hex", "uint16", "int16", "uint32 ABCD", "int32", "float32", "int32 CDAB", "float32"
    );
    for (&address, &word) in words {
        let pair = address.checked_add(1).and_then(|next| words.get(&next)).copied();
        let guess = guesses.get(&address);
        let mark = |is_it: bool| if is_it { "*" } else { " " };
        let (is_unsigned, is_signed) =
            (matches!(guess, Some(Guess::Unsigned(_))), matches!(guess, Some(Guess::Signed(_))));
        let _ = write!(
            text,
            "{address:>7}  {word:04x} {word:>6}{} {:>6}{}",
            mark(is_unsigned),
            word.cast_signed(),
            mark(is_signed)
        );
        let of = |order: Order| pair.map(|second| order.pattern(word, second));
        let float = |order: Order| {
            let value = of(order).map(f32::from_bits).map(|value| match is_plausible(value) {
                true => format!("{value:.4}"),
                false => format!("{value:.2e}"),
            });
            let is_it = matches!(guess, Some(Guess::Float(by, _)) if *by == order);
            format!("{}{}", value.unwrap_or_default(), mark(is_it))
        };
        let whole = |order: Order| of(order).map_or_else(String::new, |bits| bits.cast_signed().to_string());
        let letters = characters(word).map_or_else(|| "..".into(), |pair| pair.iter().collect::<String>());
        let _ = writeln!(
            text,
            " {:>11} {:>11} {:>13} {:>11} {:>13} {letters}{}",
            of(Order::Abcd).map_or_else(String::new, |bits| bits.to_string()),
            whole(Order::Abcd),
            float(Order::Abcd),
            whole(Order::Cdab),
            float(Order::Cdab),
            mark(matches!(guess, Some(Guess::Text(..)))).trim_end()
        );
    }
    text
}

/// 1, 2, 3, 7 as "1 to 3, 7".
fn runs(addresses: impl Iterator<Item = u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for address in addresses {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(address) => *last = address,
            _ => runs.push((address, address)),
        }
    }
    let words = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(words: &[u16]) -> Seen {
        Seen {
            words: (100..).zip(words.iter().copied()).collect(),
            refused: BTreeMap::from([(40, 2), (41, 2), (50, 2)]),
            requests: 3,
        }
    }

    #[test]
    fn what_is_printed_is_a_configuration_that_check_accepts() {
        let link_words = link_table("rtu:///dev/ttyUSB0?baud=19200&parity=none&stop_bits=2").unwrap();
        for table in [Table::Holding, Table::Coil] {
            let words: &[u16] = if matches!(table, Table::Coil) {
                &[0, 1, 1]
            } else {
                &[0x0000, 0x41ac, 0x5055, 0x4d50, 5, 0xfff4]
            };
            let text = shown(&seen(words), table, &link_words, 7);
            let (_, toml) = text.split_once("\n# ").unwrap();
            let toml = format!("[agent]\nsite = \"a\"\ngateway = \"b\"\n# {toml}");
            let agent =
                load::agent_text("printed.toml", &toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
            assert_eq!(agent.links[0].point_count(), if matches!(table, Table::Coil) { 3 } else { 4 });
        }
        let text = shown(&seen(&[0x0000, 0x41ac]), Table::Holding, &link_words, 7);
        assert!(text.contains("byte_order = \"CDAB\"") && text.contains("# 21.5"), "{text}");
        assert!(text.contains("does not have this address (exception 2) at: 40 to 41, 50"), "{text}");
    }

    #[test]
    fn a_wrong_target_is_told_with_the_way_out() {
        for wrong in
            ["10.0.0.5", "tcp://", "udp://10.0.0.5", "rtu:///dev/ttyS0?bauds=3", "rtu:///dev/ttyS0?baud=fast"]
        {
            let why = link_table(wrong).unwrap_err();
            assert!(why.contains("hint: tcp://HOST"), "{why}");
        }
        let why = link(&link_table("rtu:///dev/ttyS0?baud=9500").unwrap(), "1s").unwrap_err();
        assert!(why.contains("9500 is not a standard rate"), "{why}");
        let why = link(&link_table("tcp://10.0.0.5").unwrap(), "soon").unwrap_err();
        assert!(why.contains("soon"), "{why}");
    }
}
