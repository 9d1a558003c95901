//! `[uplink]`: budget, order, proxy.

use std::time::Duration;

use super::findings::Complaint;
use super::table::{Item, Table, wrong_type};
use super::words::{byte_size, duration, filled, integer, one_of, parse_size};
use crate::agent::{Hours, Order, Proxy, Uplink};
use crate::units::{ByteSize, Secret};

/// Less does not carry one request a second.
const LEAST_BANDWIDTH: ByteSize = ByteSize::kib(1);
/// Heartbeats and a reconnect or two must fit beside the readings.
const LEAST_DAILY: ByteSize = ByteSize::mib(1);

pub(super) fn uplink(t: &Table<'_>) -> Uplink {
    let default = Uplink::default();
    let second = Duration::from_secs(1);
    let orders = &[("fresh_first", Order::FreshFirst), ("in_order", Order::InOrder)];
    let found = Uplink {
        request_timeout: t.or("request_timeout", default.request_timeout, duration(second)),
        max_request: t.or("max_request", default.max_request, byte_size(ByteSize::kib(16))),
        heartbeat: t.or("heartbeat", default.heartbeat, duration(second)),
        backoff_max: t.or("backoff_max", default.backoff_max, duration(second)),
        order: t.or("order", default.order, one_of(orders)),
        connections: t.or("connections", default.connections, integer(1..=16)),
        bandwidth: t.or("bandwidth", None, unless("unlimited", bandwidth)),
        daily: t.or("daily", None, unless("unlimited", byte_size(LEAST_DAILY))),
        hours: t.or("hours", None, unless("always", hours)),
        proxy: t.or("proxy", None, unless("none", proxy)),
    };
    if found.order == Order::InOrder && found.hours.is_some() {
        t.complain_of(
            "hours",
            Complaint::new(
                "hours hold back the backlog, and in order nothing passes it",
                "leave `hours` away, or write order = \"fresh_first\"",
            ),
        );
    }
    t.finish();
    found
}

/// A value, or the word for none.
fn unless<'a, T>(
    word: &'static str,
    read: impl Fn(&Item<'a>) -> Result<T, Complaint>,
) -> impl Fn(&Item<'a>) -> Result<Option<T>, Complaint> {
    move |item| if item.value.as_str() == Some(word) { Ok(None) } else { read(item).map(Some) }
}

/// Bytes a second: "64KiB/s", "64KiB", or a plain integer.
fn bandwidth(item: &Item<'_>) -> Result<ByteSize, Complaint> {
    byte_size(LEAST_BANDWIDTH)(item).or_else(|complaint| {
        let text = item.value.as_str().and_then(|text| text.trim().strip_suffix("/s"));
        let Some(size) = text.and_then(parse_size) else {
            return Err(match item.value.as_str() {
                // Its own words, where only the size is at fault.
                Some(text) if parse_size(text).is_some() => complaint,
                _ => wrong_type(item.value, "bytes a second", "write \"64KiB/s\", or \"unlimited\""),
            });
        };
        let too_small =
            || Complaint::new(format!("{size}/s is too small"), format!("at least {LEAST_BANDWIDTH}/s"));
        (size >= LEAST_BANDWIDTH).then_some(size).ok_or_else(too_small)
    })
}

/// "22:00-06:00", in UTC.
fn hours(item: &Item<'_>) -> Result<Hours, Complaint> {
    let hint = "write two times of day in UTC: \"22:00-06:00\", or \"always\"";
    let text = item.value.as_str().ok_or_else(|| wrong_type(item.value, "hours of the day", hint))?;
    let minute = |text: &str| -> Option<u16> {
        let (hour, minute) = text.trim().split_once(':')?;
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && (1..=2).contains(&part.len());
        let (hour, minute) = (
            digits(hour).then_some(hour)?.parse::<u16>().ok()?,
            digits(minute).then_some(minute)?.parse::<u16>().ok()?,
        );
        (minute < 60).then_some(hour * 60 + minute)
    };
    text.split_once('-')
        .and_then(|(from, to)| Hours::new(minute(from)?, minute(to)?))
        .ok_or_else(|| Complaint::new(format!("\"{text}\" are no hours of the day"), hint))
}

/// `http://user:password@host:port`. The value must not reach a complaint: it may hold a password.
fn proxy(item: &Item<'_>) -> Result<Proxy, Complaint> {
    const EXAMPLE: &str = "example: \"http://user:password@10.0.0.1:3128\", or \"none\"";
    let bad = |why: &str| Complaint::new(format!("this is no proxy: {why}"), EXAMPLE);
    if item.value.as_str().is_none() {
        return Err(bad("put it in quotes"));
    }
    let text = filled(item)?;
    let rest = match text.trim().split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err(bad("it is asked in plain HTTP; write http://")),
        Some(_) => return Err(bad("only HTTP proxies are known; write http://")),
        None => return Err(bad("it begins with http://")),
    };
    let (user, address) = match rest.trim_end_matches('/').rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, rest.trim_end_matches('/')),
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '?' | '#');
    if host.is_empty() || host.contains(odd) || (host.contains(':') && !bracketed) {
        return Err(bad("the host cannot be read"));
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(bad("the port is no number"));
    }
    let user = match user {
        None => None,
        Some(text) => {
            let (name, password) = text.split_once(':').ok_or_else(|| bad("the user has no password"))?;
            let plain = |text| unescaped(text).ok_or_else(|| bad("`%` stands before two hexadecimal digits"));
            let (name, password) = (plain(name)?, plain(password)?);
            if name.contains(':') {
                return Err(bad("a user's name holds no colon (RFC 7617, 2)"));
            }
            Some((name, Secret::new(password)))
        }
    };
    Ok(Proxy { address: address.into(), user })
}

/// `%40` to `@` (RFC 3986, 2.1).
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&b| char::from(b).to_digit(16));
        bytes.push(u8::try_from(digit(0)? << 4 | digit(1)?).ok()?);
        rest = after.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}
