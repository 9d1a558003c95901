//! The configuration's words for a point, in the words of the data model. Configuration and data
//! model do not know each other; every protocol needs both.

use forebay_config::field as config;

use crate::reading::{DataType, PointKind};

impl From<config::PointKind> for PointKind {
    fn from(configured: config::PointKind) -> Self {
        match configured {
            config::PointKind::Gauge => Self::Gauge,
            config::PointKind::Counter => Self::Counter,
            config::PointKind::State => Self::State,
        }
    }
}

impl From<config::DataType> for DataType {
    fn from(configured: config::DataType) -> Self {
        match configured {
            config::DataType::Float => Self::Float,
            config::DataType::Integer => Self::Integer,
            config::DataType::Boolean => Self::Boolean,
            config::DataType::Text => Self::Text,
        }
    }
}
