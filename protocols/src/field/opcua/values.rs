//! What the server said of a node, in the words of our data model: status codes become
//! qualities, variants become values of the configured type. Pure.

use forebay_config::field::DataType;
use opcua::types::{StatusCode, SubStatusCode, UAString, Variant};

use crate::field::scaling::Scaling;
use crate::reading::{Doubt, Fault, Quality, Value};

/// A 64-bit float holds every integer up to here, and not all beyond.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// How a node's raw value becomes the point's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Conversion {
    /// What the point's values are.
    pub wanted: DataType,
    /// For numbers, where the configuration asks for it.
    pub scaling: Option<Scaling>,
}

/// How far a value with this status can be trusted (OPC UA Part 8, 6.4.3 and Part 4, 7.39). The
/// class is that of the two top bits for any code, those of newer standards and of vendors
/// included; `0b11` is reserved and bad.
pub(super) fn quality(status: StatusCode) -> Quality {
    match status.bits() >> 30 {
        0 => Quality::Good,
        1 => Quality::Uncertain(doubt(status.sub_code())),
        _ => Quality::Bad(fault(status.sub_code())),
    }
}

fn doubt(code: SubStatusCode) -> Doubt {
    match code {
        SubStatusCode::UncertainNoCommunicationLastUsableValue | SubStatusCode::UncertainLastUsableValue => {
            Doubt::LastKnown
        }
        SubStatusCode::UncertainSubstituteValue | SubStatusCode::UncertainSimulatedValue => {
            Doubt::Substituted
        }
        SubStatusCode::UncertainSensorNotAccurate
        | SubStatusCode::UncertainSensorCalibration
        | SubStatusCode::UncertainEngineeringUnitsExceeded => Doubt::OutOfRange,
        _ => Doubt::Unspecified,
    }
}

fn fault(code: SubStatusCode) -> Fault {
    match code {
        SubStatusCode::Bad => Fault::Unspecified,
        SubStatusCode::BadNoCommunication
        | SubStatusCode::BadNotConnected
        | SubStatusCode::BadConnectionClosed
        | SubStatusCode::BadCommunicationError => Fault::NoConnection,
        SubStatusCode::BadTimeout | SubStatusCode::BadWaitingForInitialData => Fault::Silent,
        SubStatusCode::BadNodeIdUnknown
        | SubStatusCode::BadNodeIdInvalid
        | SubStatusCode::BadAttributeIdInvalid
        | SubStatusCode::BadNoMatch
        | SubStatusCode::BadNotFound => Fault::NotFound,
        SubStatusCode::BadTypeMismatch => Fault::WrongType,
        SubStatusCode::BadDeviceFailure
        | SubStatusCode::BadSensorFailure
        | SubStatusCode::BadConfigurationError => Fault::DeviceFailure,
        SubStatusCode::BadOutOfService => Fault::OutOfService,
        _ => Fault::Refused,
    }
}

impl Conversion {
    /// The value and quality of a reading. A bad status has no value: what a server sends along
    /// with one is the last good value or a default, and neither was measured.
    pub(super) fn reading(&self, raw: Option<Variant>, status: StatusCode) -> (Option<Value>, Quality) {
        match quality(status) {
            Quality::Bad(fault) => (None, Quality::Bad(fault)),
            quality => match raw.and_then(|raw| self.value(raw)) {
                Some(value) => (Some(value), quality),
                None => (None, Quality::Bad(Fault::WrongType)),
            },
        }
    }

    /// `None` where the variant cannot be what the point is configured to be: an array, a text
    /// for a number, 3.7 for an integer. Nothing is cut off or made up.
    fn value(&self, raw: Variant) -> Option<Value> {
        match self.wanted {
            DataType::Text => text(raw).map(|text| Value::Text(text.into())),
            DataType::Boolean => match raw {
                Variant::Boolean(on) => Some(Value::Boolean(on)),
                other => integer(&other).map(|n| Value::Boolean(n != 0)),
            },
            DataType::Float => float(&raw).map(|raw| Value::Float(self.scaled(raw))),
            DataType::Integer if self.scaling.is_none() => match integer(&raw) {
                Some(n) => i64::try_from(n).ok().map(Value::Integer),
                None => whole(float(&raw)?).map(Value::Integer),
            },
            // Who scales an integer asks for the nearest one.
            DataType::Integer => whole(self.scaled(float(&raw)?).round()).map(Value::Integer),
        }
    }

    fn scaled(&self, raw: f64) -> f64 {
        self.scaling.map_or(raw, |scaling| scaling.apply(raw))
    }
}

/// The type of a value as a reading, where the server decides. `None` where it can be none.
pub(super) fn natural(raw: &Variant) -> Option<DataType> {
    Some(match raw {
        Variant::Float(_) | Variant::Double(_) => DataType::Float,
        Variant::Boolean(_) => DataType::Boolean,
        raw if integer(raw).is_some() => DataType::Integer,
        Variant::String(_)
        | Variant::LocalizedText(_)
        | Variant::QualifiedName(_)
        | Variant::Guid(_)
        | Variant::DateTime(_)
        | Variant::StatusCode(_)
        | Variant::NodeId(_) => DataType::Text,
        _ => return None,
    })
}

/// The integer of an integer type. Booleans count as 0 and 1.
fn integer(raw: &Variant) -> Option<i128> {
    Some(match raw {
        Variant::Boolean(v) => i128::from(*v),
        Variant::SByte(v) => i128::from(*v),
        Variant::Byte(v) => i128::from(*v),
        Variant::Int16(v) => i128::from(*v),
        Variant::UInt16(v) => i128::from(*v),
        Variant::Int32(v) => i128::from(*v),
        Variant::UInt32(v) => i128::from(*v),
        Variant::Int64(v) => i128::from(*v),
        Variant::UInt64(v) => i128::from(*v),
        _ => return None,
    })
}

/// A number as a float.
pub(super) fn float(raw: &Variant) -> Option<f64> {
    match raw {
        Variant::Float(v) => Some(f64::from(*v)),
        Variant::Double(v) => Some(*v),
        other => integer(other).map(|n| n as f64),
    }
}

/// The integer a float is, if it is one and within the range floats count exactly in.
fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i64)
}

fn text(raw: Variant) -> Option<String> {
    // A null string is what many servers send for an empty one.
    let plain = |text: UAString| text.as_ref().to_owned();
    Some(match raw {
        Variant::String(v) => plain(v),
        Variant::LocalizedText(v) => plain(v.text),
        Variant::QualifiedName(v) => plain(v.name),
        Variant::Guid(v) => v.to_string(),
        Variant::DateTime(v) => v.to_rfc3339(),
        Variant::StatusCode(v) => v.to_string(),
        Variant::NodeId(v) => v.to_string(),
        Variant::Boolean(v) => v.to_string(),
        Variant::Float(v) => v.to_string(),
        Variant::Double(v) => v.to_string(),
        other => integer(&other)?.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use opcua::types::{Array, LocalizedText, VariantScalarTypeId};

    use super::*;

    fn as_type(wanted: DataType) -> Conversion {
        Conversion { wanted, scaling: None }
    }

    fn read(wanted: DataType, raw: impl Into<Variant>) -> (Option<Value>, Quality) {
        as_type(wanted).reading(Some(raw.into()), StatusCode::Good)
    }

    const WRONG: (Option<Value>, Quality) = (None, Quality::Bad(Fault::WrongType));

    #[test]
    fn every_status_code_keeps_its_class() {
        // All sub codes, with and without info bits: 2^16 times four classes.
        for high in 0..=u16::MAX {
            for low in [0u32, 0x0480, 0xFFFF] {
                let bits = (u32::from(high) << 16) | low;
                let class = (bits >> 30).min(2) as u8;
                assert_eq!(quality(StatusCode::from(bits)).code() >> 6, class, "{bits:#010x}");
            }
        }
    }

    #[test]
    fn status_codes_keep_their_reason() {
        for (status, expected) in [
            (StatusCode::Good, Quality::Good),
            (StatusCode::GoodLocalOverride, Quality::Good),
            (StatusCode::Uncertain, Quality::Uncertain(Doubt::Unspecified)),
            (StatusCode::UncertainLastUsableValue, Quality::Uncertain(Doubt::LastKnown)),
            (StatusCode::UncertainNoCommunicationLastUsableValue, Quality::Uncertain(Doubt::LastKnown)),
            (StatusCode::UncertainSubstituteValue, Quality::Uncertain(Doubt::Substituted)),
            (StatusCode::UncertainEngineeringUnitsExceeded, Quality::Uncertain(Doubt::OutOfRange)),
            (StatusCode::Bad, Quality::Bad(Fault::Unspecified)),
            (StatusCode::BadNoCommunication, Quality::Bad(Fault::NoConnection)),
            (StatusCode::BadTimeout, Quality::Bad(Fault::Silent)),
            (StatusCode::BadNodeIdUnknown, Quality::Bad(Fault::NotFound)),
            (StatusCode::BadUserAccessDenied, Quality::Bad(Fault::Refused)),
            (StatusCode::BadSensorFailure, Quality::Bad(Fault::DeviceFailure)),
            (StatusCode::BadOutOfService, Quality::Bad(Fault::OutOfService)),
        ] {
            assert_eq!(quality(status), expected, "{status}");
        }
    }

    #[test]
    fn a_bad_status_has_no_value_and_an_uncertain_one_keeps_it() {
        let float = as_type(DataType::Float);
        let raw = || Some(Variant::from(1.5f64));
        assert_eq!(
            float.reading(raw(), StatusCode::BadSensorFailure),
            (None, Quality::Bad(Fault::DeviceFailure))
        );
        assert_eq!(
            float.reading(raw(), StatusCode::UncertainLastUsableValue),
            (Some(Value::Float(1.5)), Quality::Uncertain(Doubt::LastKnown))
        );
        assert_eq!(float.reading(None, StatusCode::Good), WRONG);
    }

    #[test]
    fn numbers_of_every_width_arrive_whole() {
        let good = |value| (Some(value), Quality::Good);
        assert_eq!(read(DataType::Integer, -1i8), good(Value::Integer(-1)));
        assert_eq!(read(DataType::Integer, u8::MAX), good(Value::Integer(255)));
        assert_eq!(read(DataType::Integer, i16::MIN), good(Value::Integer(-32768)));
        assert_eq!(read(DataType::Integer, u32::MAX), good(Value::Integer(4_294_967_295)));
        assert_eq!(read(DataType::Integer, i64::MIN), good(Value::Integer(i64::MIN)));
        assert_eq!(read(DataType::Integer, i64::MAX as u64), good(Value::Integer(i64::MAX)));
        assert_eq!(read(DataType::Integer, 3.0f64), good(Value::Integer(3)));
        assert_eq!(read(DataType::Float, 0.1f32), good(Value::Float(f64::from(0.1f32))));
        assert_eq!(read(DataType::Float, u64::MAX), good(Value::Float(u64::MAX as f64)));
        assert_eq!(read(DataType::Float, true), good(Value::Float(1.0)));
        assert_eq!(read(DataType::Boolean, 2u16), good(Value::Boolean(true)));
        assert_eq!(read(DataType::Boolean, false), good(Value::Boolean(false)));
    }

    #[test]
    fn what_cannot_be_the_configured_type_is_bad_and_not_bent() {
        assert_eq!(read(DataType::Integer, u64::MAX), WRONG);
        assert_eq!(read(DataType::Integer, 3.7f64), WRONG);
        assert_eq!(read(DataType::Integer, f64::NAN), WRONG);
        assert_eq!(read(DataType::Integer, f64::INFINITY), WRONG);
        assert_eq!(read(DataType::Integer, 1e18f64), WRONG);
        assert_eq!(read(DataType::Integer, "12"), WRONG);
        assert_eq!(read(DataType::Float, "21.5"), WRONG);
        assert_eq!(read(DataType::Boolean, 1.0f64), WRONG);
        assert_eq!(read(DataType::Float, Variant::Empty), WRONG);
        assert_eq!(read(DataType::Text, Variant::Empty), WRONG);
        let array = Array::new(VariantScalarTypeId::Double, vec![Variant::from(1.0f64)]).unwrap();
        for wanted in [DataType::Float, DataType::Integer, DataType::Boolean, DataType::Text] {
            assert_eq!(read(wanted, array.clone()), WRONG, "{wanted:?}");
        }
    }

    #[test]
    fn text_is_any_scalar_that_people_can_read() {
        let good = |text: &str| (Some(Value::Text(text.into())), Quality::Good);
        assert_eq!(read(DataType::Text, "läuft"), good("läuft"));
        assert_eq!(read(DataType::Text, UAString::null()), good(""));
        assert_eq!(read(DataType::Text, LocalizedText::new("de", "Halt")), good("Halt"));
        assert_eq!(read(DataType::Text, -7i32), good("-7"));
        assert_eq!(read(DataType::Text, true), good("true"));
    }

    #[test]
    fn scale_and_offset_apply_to_numbers_only() {
        let scaled = |wanted, raw: Variant| {
            Conversion { wanted, scaling: Scaling::new(Some(0.1), Some(-40.0)) }
                .reading(Some(raw), StatusCode::Good)
                .0
        };
        assert_eq!(scaled(DataType::Float, Variant::from(650i16)), Some(Value::Float(25.0)));
        assert_eq!(scaled(DataType::Integer, Variant::from(654i16)), Some(Value::Integer(25)));
        assert_eq!(scaled(DataType::Boolean, Variant::from(true)), Some(Value::Boolean(true)));
        assert_eq!(scaled(DataType::Text, Variant::from("on")), Some(Value::Text("on".into())));
    }
}
