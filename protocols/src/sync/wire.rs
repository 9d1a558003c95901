//! The messages of `batch.proto`, `columns.proto` and `wire.proto` as Rust types, and their
//! conversions to and from the data model.

#![allow(missing_docs, reason = "generated; the .proto files carry the comments")]

use std::sync::Arc;

use crate::reading::{DataType, Point, PointId, PointKind};

include!(concat!(env!("OUT_DIR"), "/forebay.v1.rs"));

impl DictionaryEntry {
    /// The entry that tells a server what point `id` is.
    pub fn new(id: PointId, point: &Point) -> Self {
        let kind = match point.kind {
            PointKind::Gauge => dictionary_entry::Kind::Gauge,
            PointKind::Counter => dictionary_entry::Kind::Counter,
            PointKind::State => dictionary_entry::Kind::State,
        };
        let data_type = match point.data_type {
            DataType::Float => dictionary_entry::Type::Float,
            DataType::Integer => dictionary_entry::Type::Integer,
            DataType::Boolean => dictionary_entry::Type::Boolean,
            DataType::Text => dictionary_entry::Type::Text,
        };
        Self {
            point: id.0,
            device: point.device.to_string(),
            name: point.name.to_string(),
            unit: point.unit.to_string(),
            kind: kind.into(),
            r#type: data_type.into(),
        }
    }

    /// The point's number.
    pub fn id(&self) -> PointId {
        PointId(self.point)
    }

    /// The point. A kind or type that only a later version knows is read as the first of its list
    /// (gauge, float), and the point goes by that until its agent, in a later epoch, tells it to a
    /// server that knows better. It is a label only: each value carries its own type from the device
    /// to the database, so that texts stay texts. Refusing the entry instead would hold up every
    /// batch behind it, and lose readings for the sake of a label.
    pub fn describe(&self) -> Point {
        Point {
            device: Arc::from(self.device.as_str()),
            name: Arc::from(self.name.as_str()),
            unit: Arc::from(self.unit.as_str()),
            kind: match self.kind() {
                dictionary_entry::Kind::Gauge => PointKind::Gauge,
                dictionary_entry::Kind::Counter => PointKind::Counter,
                dictionary_entry::Kind::State => PointKind::State,
            },
            data_type: match self.r#type() {
                dictionary_entry::Type::Float => DataType::Float,
                dictionary_entry::Type::Integer => DataType::Integer,
                dictionary_entry::Type::Boolean => DataType::Boolean,
                dictionary_entry::Type::Text => DataType::Text,
            },
        }
    }
}

impl From<(PointId, &Point)> for DictionaryEntry {
    fn from((id, point): (PointId, &Point)) -> Self {
        Self::new(id, point)
    }
}

impl From<&DictionaryEntry> for (PointId, Point) {
    fn from(entry: &DictionaryEntry) -> Self {
        (entry.id(), entry.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_type_of_point_survives_the_dictionary() {
        for kind in [PointKind::Gauge, PointKind::Counter, PointKind::State] {
            for data_type in [DataType::Float, DataType::Integer, DataType::Boolean, DataType::Text] {
                let point = Point {
                    device: "boiler".into(),
                    name: "supply".into(),
                    unit: "°C".into(),
                    kind,
                    data_type,
                };
                let entry = DictionaryEntry::from((PointId(7), &point));
                assert_eq!(<(PointId, Point)>::from(&entry), (PointId(7), point));
            }
        }
    }

    #[test]
    fn an_entry_of_a_later_version_is_still_a_point() {
        let entry = DictionaryEntry { point: 1, kind: 99, r#type: -1, ..Default::default() };
        assert_eq!((entry.describe().kind, entry.describe().data_type), (PointKind::Gauge, DataType::Float));
    }
}
