//! `[link.NAME.modbus-tcp]`, `[link.NAME.modbus-rtu]` and their devices.

mod meaning;

use std::time::Duration;

use super::field::{Inherited, all, devices, interval, meta, points};
use super::findings::Complaint;
use super::table::{Item, Table};
use super::words::{duration, host_port, integer, one_of, path};
use crate::field::{
    ByteOrder, Framing, ModbusBus, ModbusDevice, ModbusPoint, ModbusRtu, ModbusTcp, Parity, PointKind,
    RawType, Register, Rs485,
};

const BAUD_RATES: [u32; 14] =
    [300, 600, 1200, 2400, 4800, 9600, 14400, 19200, 28800, 38400, 57600, 115_200, 230_400, 460_800];
/// The kernel cuts longer ones off.
const LONGEST_DELAY: Duration = Duration::from_millis(100);
/// Modbus Application Protocol V1.1b3, 6.3: at most 125 registers a request.
const MOST_REGISTERS: i64 = 125;

/// `addressing` of a device: how its points write their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addressing {
    /// As on the wire, with `register` beside it.
    ZeroBased,
    /// As in manuals: 40001.
    Modicon,
}

pub(super) fn tcp(link: &Table<'_>, from: &Inherited) -> Option<ModbusTcp> {
    let t = link.table("modbus-tcp")?;
    let address =
        t.required("address", "where the device listens: address = \"10.0.0.5:502\"", host_port(502));
    let framing = t.or("framing", Framing::Tcp, one_of(&[("tcp", Framing::Tcp), ("rtu", Framing::Rtu)]));
    let in_flight = t.optional("in_flight", integer(1..=16));
    let bus = bus(link, &t, from, 0..=255);
    t.finish();
    let bus = bus?;
    let one_at_a_time = match framing {
        Framing::Rtu => Some("RTU frames carry no number to tell answers apart"),
        Framing::Tcp => (!bus.pause.is_zero()).then_some("a `pause` between requests leaves room for one"),
    };
    if let (Some(why), Some(2..)) = (one_at_a_time, in_flight) {
        t.complain_of("in_flight", Complaint::new(why, "leave `in_flight` away, or write 1"));
    }
    let in_flight = in_flight.unwrap_or(if one_at_a_time.is_some() { 1 } else { 4 });
    Some(ModbusTcp { address: address?, framing, in_flight, bus })
}

pub(super) fn rtu(link: &Table<'_>, from: &Inherited) -> Option<ModbusRtu> {
    let t = link.table("modbus-rtu")?;
    let port = t.required("port", "the serial port: port = \"/dev/ttyUSB0\"", path);
    let baud = t.or("baud", 9600, |item| {
        let rate: u32 = integer(1..=10_000_000)(item)?;
        if BAUD_RATES.contains(&rate) || rate == 921_600 {
            return Ok(rate);
        }
        let nearest = BAUD_RATES.iter().min_by_key(|known| known.abs_diff(rate)).copied().unwrap_or(9600);
        Err(Complaint::new(format!("{rate} is not a standard rate"), format!("did you mean {nearest}?")))
    });
    let parity = t.or(
        "parity",
        Parity::Even,
        one_of(&[("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)]),
    );
    let data_bits = t.or("data_bits", 8, integer(7..=8));
    let stop_bits = t.or("stop_bits", 1, integer(1..=2));
    let rs485 = t.table("rs485").map(|t| rs485(&t));
    let bus = bus(link, &t, from, 1..=247);
    t.finish();
    Some(ModbusRtu { port: port?, baud, parity, data_bits, stop_bits, rs485, bus: bus? })
}

fn rs485(t: &Table<'_>) -> Rs485 {
    let rts_high_on_send = t.or("rts_on_send", true, one_of(&[("high", true), ("low", false)]));
    let delay = |key| {
        t.or(key, Duration::ZERO, |item| {
            let delay = duration(Duration::ZERO)(item)?;
            if delay.subsec_nanos().is_multiple_of(1_000_000) && delay <= LONGEST_DELAY {
                return Ok(delay);
            }
            let words = format!("{delay:?} is not a number of whole milliseconds up to {LONGEST_DELAY:?}");
            Err(Complaint::new(words, "the kernel's driver counts in them"))
        })
    };
    let (delay_before, delay_after) = (delay("delay_before"), delay("delay_after"));
    t.finish();
    Rs485 { rts_high_on_send, delay_before, delay_after }
}

fn bus(
    link: &Table<'_>,
    t: &Table<'_>,
    from: &Inherited,
    units: std::ops::RangeInclusive<i64>,
) -> Option<ModbusBus> {
    let pause = t.or("pause", Duration::ZERO, duration(Duration::ZERO));
    let found = all(devices(link).into_iter().map(|(name, t)| device(name, &t, from, units.clone())));
    Some(ModbusBus { pause, devices: found? })
}

fn device(
    name: Option<crate::units::Name>,
    t: &Table<'_>,
    from: &Inherited,
    units: std::ops::RangeInclusive<i64>,
) -> Option<ModbusDevice> {
    let unit_id = t.or("unit_id", 1, integer(units));
    let byte_order = t.or(
        "byte_order",
        ByteOrder::Abcd,
        one_of(&[
            ("ABCD", ByteOrder::Abcd),
            ("DCBA", ByteOrder::Dcba),
            ("BADC", ByteOrder::Badc),
            ("CDAB", ByteOrder::Cdab),
        ]),
    );
    let addressing = t.or(
        "addressing",
        Addressing::ZeroBased,
        one_of(&[("zero-based", Addressing::ZeroBased), ("modicon", Addressing::Modicon)]),
    );
    let max_registers = t.or("max_registers", MOST_REGISTERS as u16, integer(1..=MOST_REGISTERS));
    let max_gap = t.or("max_gap", 0, integer(0..=MOST_REGISTERS));
    let pace = interval(t, "interval", from.interval);
    let found = all(points(t).into_iter().map(|(name, t)| point(name, &t, pace, addressing, max_registers)));
    t.finish();
    Some(ModbusDevice {
        name: name?,
        unit_id,
        byte_order,
        max_registers,
        max_gap,
        interval: pace,
        points: found?,
    })
}

fn point(
    name: Option<crate::units::Name>,
    t: &Table<'_>,
    pace: Duration,
    addressing: Addressing,
    max_registers: u16,
) -> Option<ModbusPoint> {
    let (register, address) = place(t, addressing);
    let raw = raw_type(t, register);
    if let (Some(address), Some(raw)) = (address, raw)
        && u32::from(address) + u32::from(raw.registers()) > 65_536
    {
        let words = format!("{} registers from {address} on reach beyond 65535", raw.registers());
        t.complain_of("address", Complaint::new(words, "is the address right?"));
    }
    if let Some(raw) = raw
        && raw.registers() > max_registers
    {
        let words =
            format!("needs {} registers, and the device gives {max_registers} a request", raw.registers());
        t.complain(Complaint::new(words, "raise `max_registers` of the device"));
    }
    let pace = interval(t, "interval", pace);
    let labels = meaning::labels(t, raw);
    let rollover = meaning::rollover(t, raw);
    let (kind, numeric) = match raw {
        _ if !labels.is_empty() => (PointKind::State, false),
        Some(RawType::Bool | RawType::Bit(_)) => (PointKind::State, false),
        Some(RawType::String { .. }) => (PointKind::State, false),
        _ if rollover => (PointKind::Counter, true),
        _ => (PointKind::Gauge, true),
    };
    let meta = meta(name, t, kind, numeric);
    t.finish();
    Some(ModbusPoint {
        meta: meta?,
        register,
        address: address?,
        raw: raw?,
        interval: pace,
        labels,
        rollover,
    })
}

/// `register` and `address`. The table is known even where the address is not.
fn place(t: &Table<'_>, addressing: Addressing) -> (Register, Option<u16>) {
    let words: &'static [(&'static str, Register)] = &[
        ("coil", Register::Coil),
        ("discrete", Register::Discrete),
        ("input", Register::Input),
        ("holding", Register::Holding),
    ];
    let named = t.optional("register", one_of(words));
    if addressing == Addressing::Modicon {
        let found = t.required("address", "as in the manual: address = 40001", modicon);
        if let (Some(named), Some((table, _))) = (named, found)
            && named != table
            && let Some((word, _)) = words.iter().find(|(_, register)| *register == table)
        {
            let message = format!("the address is one of the \"{word}\" table");
            t.complain_of(
                "register",
                Complaint::new(message, "leave `register` away, or correct the address"),
            );
        }
        let table = found.map(|(table, _)| table).or(named).unwrap_or(Register::Holding);
        return (table, found.map(|(_, address)| address));
    }
    let address =
        t.required("address", "0-based: the register that manuals call 40001 is holding 0", |item| {
            integer::<u16>(0..=65535)(item).map_err(|mut complaint| {
                if complaint.message.contains("between") {
                    complaint.hint =
                        "addresses are 0-based, without the leading digit of the table; or write \
                         addressing = \"modicon\" on the device"
                            .into();
                }
                complaint
            })
        });
    (named.unwrap_or(Register::Holding), address)
}

/// An address with the digit of its table in front, counted from 1: five digits up to 9999, six up
/// to 65536. TOML takes no number with a leading zero, so coils are plain, 1 to 9999.
fn modicon(item: &Item<'_>) -> Result<(Register, u16), Complaint> {
    let number: u32 = integer(0..=999_999)(item)?;
    let (table, from_one) = match number {
        400_001..=465_536 => (Register::Holding, number - 400_000),
        300_001..=365_536 => (Register::Input, number - 300_000),
        100_001..=165_536 => (Register::Discrete, number - 100_000),
        40_001..=49_999 => (Register::Holding, number - 40_000),
        30_001..=39_999 => (Register::Input, number - 30_000),
        10_001..=19_999 => (Register::Discrete, number - 10_000),
        1..=9_999 => (Register::Coil, number),
        _ => {
            let hint = "40001 is the first holding register, 30001 input, 10001 discrete, 1 coil; \
                        beyond 9999 write six digits: 410000";
            return Err(Complaint::new(format!("{number} is in none of the four tables"), hint));
        }
    };
    // 1 to 65536 by the ranges above.
    let address = u16::try_from(from_one - 1).map_err(|_| Complaint::new("beyond the table", ""))?;
    Ok((table, address))
}

/// `type`, with `bit` or `length` where the type needs it.
fn raw_type(t: &Table<'_>, register: Register) -> Option<RawType> {
    let bits_only = matches!(register, Register::Coil | Register::Discrete);
    let default = if bits_only { "bool" } else { "uint16" };
    let word = t.or(
        "type",
        default,
        one_of(&[
            ("bool", "bool"),
            ("bit", "bit"),
            ("int8", "int8"),
            ("uint8", "uint8"),
            ("int16", "int16"),
            ("uint16", "uint16"),
            ("int32", "int32"),
            ("uint32", "uint32"),
            ("int64", "int64"),
            ("uint64", "uint64"),
            ("float16", "float16"),
            ("float32", "float32"),
            ("float64", "float64"),
            ("bcd16", "bcd16"),
            ("bcd32", "bcd32"),
            ("string", "string"),
        ]),
    );
    if bits_only && word != "bool" {
        t.complain_of(
            "type",
            Complaint::new(
                format!("a coil or discrete input is a \"bool\", not a \"{word}\""),
                "leave `type` away",
            ),
        );
        return None;
    }
    if word != "bit" && t.has("bit") {
        t.complain_of("bit", Complaint::new("`bit` goes with type = \"bit\"", ""));
    }
    if word != "string" && t.has("length") {
        t.complain_of("length", Complaint::new("`length` goes with type = \"string\"", ""));
    }
    Some(match word {
        "bool" => RawType::Bool,
        "bit" => RawType::Bit(t.required("bit", "0 is the least significant: bit = 0", integer(0..=15))?),
        "int8" => RawType::Int8,
        "uint8" => RawType::Uint8,
        "int16" => RawType::Int16,
        "int32" => RawType::Int32,
        "uint32" => RawType::Uint32,
        "int64" => RawType::Int64,
        "uint64" => RawType::Uint64,
        "float16" => RawType::Float16,
        "float32" => RawType::Float32,
        "float64" => RawType::Float64,
        "bcd16" => RawType::Bcd16,
        "bcd32" => RawType::Bcd32,
        "string" => RawType::String {
            registers: t.required(
                "length",
                "in registers, two characters each: length = 8",
                integer(1..=MOST_REGISTERS),
            )?,
        },
        _ => RawType::Uint16,
    })
}
