//! Values to types: durations, sizes, names, numbers, one of a few words.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::findings::Complaint;
use super::table::{Item, suggest, wrong_type};
use crate::units::{ByteSize, Name, Secret};

/// Where the packages' units take credentials from.
const CREDENTIALS: [&str; 2] = ["/etc/forebay/credentials", "/etc/forebay/server-credentials"];

/// A string, with `${NAME}` and `${credential:NAME}` put in.
pub(super) fn string(item: &Item<'_>) -> Result<String, Complaint> {
    let text = item.value.as_str().ok_or_else(|| wrong_type(item.value, "a string", "put it in quotes"))?;
    substitute(
        text,
        |name| std::env::var(name).ok(),
        |name| {
            let given = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
            credential(given.as_deref(), name)
        },
    )
}

/// A secret by name. systemd puts the files of a folder under the unit's name for that folder and an
/// underline; commands run by hand look into the folders themselves, where they may.
fn credential(given: Option<&Path>, name: &str) -> Option<String> {
    let places = match given {
        Some(folder) => vec![folder.join(name), folder.join(format!("forebay_{name}"))],
        None => CREDENTIALS.map(|folder| Path::new(folder).join(name)).to_vec(),
    };
    let text = places.iter().find_map(|place| std::fs::read_to_string(place).ok())?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// A string that says something.
pub(super) fn filled(item: &Item<'_>) -> Result<String, Complaint> {
    let text = string(item)?;
    if text.trim().is_empty() { Err(Complaint::new("must not be empty", "")) } else { Ok(text) }
}

pub(super) fn secret(item: &Item<'_>) -> Result<Secret, Complaint> {
    // The value must not reach the complaint.
    match item.value.as_str() {
        Some(_) => string(item).map(Secret::new),
        None => Err(Complaint::new(
            "a secret must be a string",
            "put it in quotes, or write \"${credential:NAME}\"",
        )),
    }
}

pub(super) fn path(item: &Item<'_>) -> Result<PathBuf, Complaint> {
    filled(item).map(PathBuf::from)
}

pub(super) fn name(item: &Item<'_>) -> Result<Name, Complaint> {
    Name::new(&string(item)?).map_err(|why| Complaint::new(why, "example: \"boiler-house\""))
}

/// `true` or `false`.
pub(super) fn boolean(item: &Item<'_>) -> Result<bool, Complaint> {
    item.value.as_bool().ok_or_else(|| wrong_type(item.value, "true or false", "write it without quotes"))
}

pub(super) fn float(item: &Item<'_>) -> Result<f64, Complaint> {
    let text = match (item.value.as_float(), item.value.as_integer()) {
        (Some(float), _) => float.as_str().to_owned(),
        (_, Some(integer)) if integer.radix() == 10 => integer.as_str().to_owned(),
        _ => return Err(wrong_type(item.value, "a number", "")),
    };
    match text.replace('_', "").parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(Complaint::new(format!("{text} is not a finite number"), "")),
    }
}

/// An integer within a range.
pub(super) fn integer<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&Item<'_>) -> Result<T, Complaint> {
    move |item| {
        let number = item
            .value
            .as_integer()
            .ok_or_else(|| wrong_type(item.value, "an integer", "write it without quotes"))?;
        let between =
            || Complaint::new(format!("{number} is not between {} and {}", range.start(), range.end()), "");
        let n =
            i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).map_err(|_| between())?;
        if !range.contains(&n) {
            return Err(between());
        }
        T::try_from(n).map_err(|_| between())
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&Item<'_>) -> Result<T, Complaint> {
    move |item| {
        let known: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
        let list = known.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let text = item
            .value
            .as_str()
            .ok_or_else(|| wrong_type(item.value, "a string", &format!("one of {list}")))?;
        words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value).ok_or_else(
            || {
                let hint = match suggest(text, &known) {
                    near if near.starts_with("did you mean") => near.replace('`', "\""),
                    _ => format!("one of {list}"),
                };
                Complaint::new(format!("\"{text}\" is not known here"), hint)
            },
        )
    }
}

/// A duration of at least `least`: "100ms", "1m30s".
pub(super) fn duration(least: Duration) -> impl Fn(&Item<'_>) -> Result<Duration, Complaint> {
    move |item| {
        let hint = "write a number and a unit: \"100ms\", \"10s\", \"5m\", \"1h\"";
        let text = item.value.as_str().ok_or_else(|| wrong_type(item.value, "a duration", hint))?;
        let found = parse_duration(text)
            .ok_or_else(|| Complaint::new(format!("\"{text}\" is not a duration"), hint))?;
        if found < least {
            return Err(Complaint::new(format!("\"{text}\" is too short"), format!("at least {least:?}")));
        }
        Ok(found)
    }
}

/// A number of bytes of at least `least`: "64MiB", or a plain integer.
pub(super) fn byte_size(least: ByteSize) -> impl Fn(&Item<'_>) -> Result<ByteSize, Complaint> {
    move |item| {
        let hint = "write a number and a unit: \"64MiB\", \"1GiB\", \"500MB\"";
        let found = match (item.value.as_str(), item.value.as_integer()) {
            (Some(text), _) => parse_size(text),
            (_, Some(number)) => number.as_str().replace('_', "").parse().ok().map(ByteSize),
            _ => None,
        };
        let found = found.ok_or_else(|| wrong_type(item.value, "a size", hint))?;
        if found < least {
            return Err(Complaint::new(format!("{found} is too small"), format!("at least {least}")));
        }
        Ok(found)
    }
}

/// `address:port`.
pub(super) fn socket(item: &Item<'_>) -> Result<SocketAddr, Complaint> {
    let text = filled(item)?;
    text.parse().map_err(|_| {
        Complaint::new(
            format!("\"{text}\" is not an address and port"),
            "example: \"127.0.0.1:8080\" or \"[::1]:8080\"",
        )
    })
}

/// `address:port` on this machine only.
pub(super) fn loopback(hint: &'static str) -> impl Fn(&Item<'_>) -> Result<SocketAddr, Complaint> {
    move |item| {
        let found = socket(item)?;
        if found.ip().is_loopback() {
            Ok(found)
        } else {
            Err(Complaint::new(format!("{found} can be reached from other machines"), hint))
        }
    }
}

/// `host`, `host:port` or `[v6]:port`, with the port added where it is missing.
pub(super) fn host_port(default_port: u16) -> impl Fn(&Item<'_>) -> Result<String, Complaint> {
    move |item| {
        let text = filled(item)?;
        let bad = |why: &str| {
            Complaint::new(format!("\"{text}\" is not a host and port: {why}"), "example: \"10.0.0.5:502\"")
        };
        if text.contains("://") {
            return Err(bad("leave the scheme away"));
        }
        if text.contains(char::is_whitespace) {
            return Err(bad("it contains a space"));
        }
        let port_part = match text.rsplit_once(']') {
            Some((_, after)) => after.strip_prefix(':'),
            None => text.rsplit_once(':').map(|(_, port)| port),
        };
        match port_part {
            None => Ok(format!("{text}:{default_port}")),
            Some(port) if port.parse::<u16>().is_ok_and(|p| p > 0) => Ok(text.clone()),
            Some(port) => Err(bad(&format!("`{port}` is not a port"))),
        }
    }
}

/// "100ms", "1m30s" as a duration, as everywhere in the configuration.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit.trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    // A century: longer waits overflow clocks further on.
    (total <= Duration::from_secs(100 * 366 * 86_400)).then_some(total)
}

pub(super) fn parse_size(text: &str) -> Option<ByteSize> {
    let text = text.trim();
    let number_end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    (bytes < 9e15).then_some(ByteSize(bytes as u64))
}

fn substitute(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
    credential: impl Fn(&str) -> Option<String>,
) -> Result<String, Complaint> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            return Err(Complaint::new("`${` without `}`", "write ${NAME} or ${credential:NAME}"));
        };
        let name = &rest[start + 2..start + length];
        let value = match name.strip_prefix("credential:") {
            Some(name) => credential(name).ok_or_else(|| {
                Complaint::new(
                    format!("there is no credential `{name}`"),
                    "put it into a file of that name in /etc/forebay/credentials (server: server-credentials)",
                )
            })?,
            None => environment(name).ok_or_else(|| {
                Complaint::new(
                    format!("the environment has no `{name}`"),
                    "set it for the service in /etc/default/forebay-agent or forebay-server",
                )
            })?,
        };
        out.push_str(&value);
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("0.5s"), Some(Duration::from_millis(500)));
        for bad in ["", "5", "s", "5 parsecs", "-1s", "1..2s", "99999999999999d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        assert_eq!(parse_size("64MiB"), Some(ByteSize::mib(64)));
        assert_eq!(parse_size("1 kB"), Some(ByteSize(1000)));
        assert_eq!(parse_size("12"), Some(ByteSize(12)));
        for bad in ["", "MiB", "1 stone", "1e400 GB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn variables_and_credentials_are_put_in() {
        let put = |text| {
            substitute(
                text,
                |n| (n == "HOST").then(|| "plc".into()),
                |n| (n == "pw").then(|| "s3cret".into()),
            )
        };
        assert_eq!(put("opc.tcp://${HOST}:4840").expect("known"), "opc.tcp://plc:4840");
        assert_eq!(put("${credential:pw}").expect("known"), "s3cret");
        assert_eq!(put("${NOBODY}").expect_err("unknown").message, "the environment has no `NOBODY`");
        assert!(put("${HOST").is_err());
    }

    #[test]
    fn a_credential_is_found_under_its_name_and_under_that_of_a_loaded_folder() {
        let folder = std::env::temp_dir().join(format!("forebay-credentials-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("temp folder");
        std::fs::write(folder.join("proxy"), "one\n").expect("write");
        std::fs::write(folder.join("forebay_press"), "two").expect("write");
        assert_eq!(credential(Some(&folder), "proxy").as_deref(), Some("one"));
        assert_eq!(credential(Some(&folder), "press").as_deref(), Some("two"));
        assert_eq!(credential(Some(&folder), "nobody"), None);
        std::fs::remove_dir_all(&folder).expect("remove");
    }
}
