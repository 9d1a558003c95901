//! The words in which kinds and types stand in the database, read back. A word of a newer server
//! reads as the widest meaning, so that an older one keeps working beside it.

use forebay_protocols::reading::{DataType, PointKind};

use super::{FaultKind, Micros};

/// A time as people and programs write it (RFC 3339, in UTC); nothing for what no calendar holds.
pub fn rfc3339(at: Micros) -> Option<String> {
    jiff::Timestamp::from_microsecond(at).ok().map(|at| at.to_string())
}

/// The kind of a word of [`PointKind::word`].
pub fn kind(word: &str) -> PointKind {
    [PointKind::Counter, PointKind::State].into_iter().find(|kind| kind.word() == word).unwrap_or_default()
}

/// The type of a word of [`DataType::word`].
pub fn data_type(word: &str) -> DataType {
    [DataType::Integer, DataType::Boolean, DataType::Text]
        .into_iter()
        .find(|data_type| data_type.word() == word)
        .unwrap_or(DataType::Float)
}

impl FaultKind {
    const ALL: [Self; 4] = [Self::Fork, Self::Wiped, Self::ServerRestored, Self::Imbalance];

    /// Its word in the database.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Wiped => "wiped",
            Self::ServerRestored => "server-restored",
            Self::Imbalance => "imbalance",
        }
    }
}

/// The kind of fault of a word of [`FaultKind::word`]; of others there is no widest meaning.
pub fn fault_kind(word: &str) -> Option<FaultKind> {
    FaultKind::ALL.into_iter().find(|kind| kind.word() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_as_what_they_were_written_for() {
        for of in [PointKind::Gauge, PointKind::Counter, PointKind::State] {
            assert_eq!(kind(of.word()), of);
        }
        for of in [DataType::Float, DataType::Integer, DataType::Boolean, DataType::Text] {
            assert_eq!(data_type(of.word()), of);
        }
        for of in FaultKind::ALL {
            assert_eq!(fault_kind(of.word()), Some(of));
        }
        assert_eq!(fault_kind("of-a-newer-server"), None);
    }
}
