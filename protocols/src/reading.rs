//! The one data model. Everything a device says becomes a [`Reading`]; every driver, the batch
//! codec, the stores and the API share these words (DESIGN, 1).

use std::fmt;
use std::sync::Arc;

use crate::boot_time::BootTime;

/// What a point's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE 754 double; narrower floats widen without loss.
    Float,
    /// Signed 64 bit. Unsigned 64-bit values above `i64::MAX` are read as floats.
    Integer,
    /// On or off.
    Boolean,
    /// UTF-8.
    Text,
}

impl DataType {
    /// The word used in configuration, API and database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Text => "text",
        }
    }
}

/// How a point's values behave over time; decides how they are drawn and thinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PointKind {
    /// Goes up and down: a temperature.
    #[default]
    Gauge,
    /// Only counts up, and rolls over or restarts: an energy meter.
    Counter,
    /// One of a few conditions: a valve, an operating mode.
    State,
}

impl PointKind {
    /// The word used in configuration, API and database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::State => "state",
        }
    }
}

/// One measured thing of a device. Its path is `site/gateway/device/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// The device's name on this gateway.
    pub device: Arc<str>,
    /// The point's name on its device.
    pub name: Arc<str>,
    /// Unit of measure as shown to people ("°C"); empty if it has none.
    pub unit: Arc<str>,
    /// How values behave over time.
    pub kind: PointKind,
    /// What the values are.
    pub data_type: DataType,
}

/// A point's number in the dictionary of an epoch: 1, 2, 3 … in the order of first use.
/// The dictionary's revision is the highest number given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId(pub u32);

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// IEEE 754 double, kept bit for bit (NaN payloads, -0.0).
    Float(f64),
    /// Signed 64 bit.
    Integer(i64),
    /// On or off.
    Boolean(bool),
    /// UTF-8.
    Text(Arc<str>),
}

impl Value {
    /// The type this value is of.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Float(_) => DataType::Float,
            Self::Integer(_) => DataType::Integer,
            Self::Boolean(_) => DataType::Boolean,
            Self::Text(_) => DataType::Text,
        }
    }

    /// The value as a number, for charts and aggregates: booleans are 0 and 1, text has none.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Float(v) => Some(*v),
            Self::Integer(v) => Some(*v as f64),
            Self::Boolean(v) => Some(f64::from(u8::from(*v))),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(v) => write!(f, "{v}"),
            Self::Integer(v) => write!(f, "{v}"),
            Self::Boolean(v) => write!(f, "{v}"),
            Self::Text(v) => f.write_str(v),
        }
    }
}

/// How far a reading can be trusted, the same for every protocol. On the wire and in the
/// database it is the number of [`Quality::code`]; the numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quality {
    /// As measured.
    Good,
    /// Measured, with a doubt.
    Uncertain(Doubt),
    /// Not a measurement. The value, if any, is only the last thing the device said.
    Bad(Fault),
}

/// Why a reading is uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// The device gave no reason.
    Unspecified,
    /// An old value: the device's own source is out of reach.
    LastKnown,
    /// Outside the sensor's range or accuracy.
    OutOfRange,
    /// Simulated, forced or set by hand.
    Substituted,
}

/// Why a reading is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No reason given.
    Unspecified,
    /// The link to the field is down.
    NoConnection,
    /// The device did not answer in time.
    Silent,
    /// The device answered "no" (Modbus exception, OPC UA bad status).
    Refused,
    /// The device has no such register, node or field.
    NotFound,
    /// What arrived cannot be read as the configured type.
    WrongType,
    /// The device reports a failure of itself or its sensor.
    DeviceFailure,
    /// Taken out of service by somebody.
    OutOfService,
}

impl Quality {
    /// 0 good, 64.. uncertain, 128.. bad.
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Uncertain(doubt) => {
                64 + match doubt {
                    Doubt::Unspecified => 0,
                    Doubt::LastKnown => 1,
                    Doubt::OutOfRange => 2,
                    Doubt::Substituted => 3,
                }
            }
            Self::Bad(fault) => {
                128 + match fault {
                    Fault::Unspecified => 0,
                    Fault::NoConnection => 1,
                    Fault::Silent => 2,
                    Fault::Refused => 3,
                    Fault::NotFound => 4,
                    Fault::WrongType => 5,
                    Fault::DeviceFailure => 6,
                    Fault::OutOfService => 7,
                }
            }
        }
    }

    /// The quality of a code. A code from a newer agent keeps its class and loses its reason.
    pub fn from_code(code: u8) -> Self {
        match code {
            0..=63 => Self::Good,
            65 => Self::Uncertain(Doubt::LastKnown),
            66 => Self::Uncertain(Doubt::OutOfRange),
            67 => Self::Uncertain(Doubt::Substituted),
            64..=127 => Self::Uncertain(Doubt::Unspecified),
            129 => Self::Bad(Fault::NoConnection),
            130 => Self::Bad(Fault::Silent),
            131 => Self::Bad(Fault::Refused),
            132 => Self::Bad(Fault::NotFound),
            133 => Self::Bad(Fault::WrongType),
            134 => Self::Bad(Fault::DeviceFailure),
            135 => Self::Bad(Fault::OutOfService),
            128..=255 => Self::Bad(Fault::Unspecified),
        }
    }

    /// Plain words for people: "good", "bad: the device did not answer in time".
    pub fn words(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain(Doubt::Unspecified) => "uncertain",
            Self::Uncertain(Doubt::LastKnown) => "uncertain: last known value",
            Self::Uncertain(Doubt::OutOfRange) => "uncertain: outside the sensor's range",
            Self::Uncertain(Doubt::Substituted) => "uncertain: substituted value",
            Self::Bad(Fault::Unspecified) => "bad",
            Self::Bad(Fault::NoConnection) => "bad: no connection to the device",
            Self::Bad(Fault::Silent) => "bad: the device did not answer in time",
            Self::Bad(Fault::Refused) => "bad: the device refused the request",
            Self::Bad(Fault::NotFound) => "bad: the device has no such register or node",
            Self::Bad(Fault::WrongType) => "bad: the value is not of the configured type",
            Self::Bad(Fault::DeviceFailure) => "bad: the device reports a failure",
            Self::Bad(Fault::OutOfService) => "bad: out of service",
        }
    }
}

/// Which clock a stamp was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clock {
    /// The agent's boot clock. The batch says what to add to get wall time.
    Boot,
    /// The device's own clock, already wall time: never corrected by us.
    Device,
}

/// When a reading was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The clock `micros` was read from.
    pub clock: Clock,
    /// Microseconds since boot, or since 1970-01-01 UTC for [`Clock::Device`].
    pub micros: i64,
}

impl Stamp {
    /// The present moment by the boot clock. Stamp once per poll, not once per point.
    pub fn now() -> Self {
        Self::boot(BootTime::now())
    }

    /// A moment of the boot clock.
    pub fn boot(at: BootTime) -> Self {
        Self { clock: Clock::Boot, micros: at.0 }
    }

    /// A moment the device stated, in microseconds since 1970-01-01 UTC.
    pub fn device(micros: i64) -> Self {
        Self { clock: Clock::Device, micros }
    }

    /// Wall time in microseconds since 1970-01-01 UTC, given the boot clock's offset.
    pub fn wall(self, boot_offset_micros: i64) -> i64 {
        match self.clock {
            Clock::Boot => self.micros.saturating_add(boot_offset_micros),
            Clock::Device => self.micros,
        }
    }
}

/// One value of one point at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The point, by its number in the epoch's dictionary.
    pub point: PointId,
    /// When it was taken.
    pub stamp: Stamp,
    /// What was measured. `None` only where the quality is not good.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quality_code_keeps_its_class() {
        for code in 0..=255u8 {
            let quality = Quality::from_code(code);
            assert_eq!(quality.code() >> 6, (code >> 6).min(2), "code {code} became {quality:?}");
        }
    }

    #[test]
    fn device_stamps_ignore_the_boot_offset() {
        assert_eq!(Stamp::device(5).wall(1_000), 5);
        assert_eq!(Stamp::boot(BootTime(5)).wall(1_000), 1_005);
    }
}
