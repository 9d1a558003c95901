//! What the numbers of a Modbus point mean: `enum` and `rollover`.

use std::collections::BTreeMap;

use crate::field::RawType;
use crate::load::findings::Complaint;
use crate::load::table::{Item, Table, wrong_type};

/// More words of one point are no state, but a table of something else.
const MOST_LABELS: usize = 256;

/// `enum`, for types that are whole numbers or switches.
pub(super) fn labels(t: &Table<'_>, raw: Option<RawType>) -> BTreeMap<i64, String> {
    let labels = t.optional("enum", labels_of).unwrap_or_default();
    let has_none =
        matches!(raw, Some(RawType::Float16 | RawType::Float32 | RawType::Float64 | RawType::String { .. }));
    if has_none && t.has("enum") {
        t.complain_of("enum", Complaint::new("`enum` needs a type of whole numbers", "leave it away"));
    }
    labels
}

/// `rollover`, for counters of a known width.
pub(super) fn rollover(t: &Table<'_>, raw: Option<RawType>) -> bool {
    let rollover = t.or("rollover", false, |item| {
        item.value.as_bool().ok_or_else(|| wrong_type(item.value, "true or false", "rollover = true"))
    });
    let rolls = matches!(
        raw,
        None | Some(RawType::Uint8 | RawType::Uint16 | RawType::Uint32 | RawType::Bcd16 | RawType::Bcd32)
    );
    if rollover && !rolls {
        let hint = "leave `rollover` away, or correct `type`";
        let words = "only uint8, uint16, uint32, bcd16 and bcd32 begin again at 0";
        t.complain_of("rollover", Complaint::new(words, hint));
    }
    if rollover && t.has("enum") {
        t.complain_of(
            "rollover",
            Complaint::new("a counter has no words for its numbers", "leave `enum` away"),
        );
    }
    rollover
}

fn labels_of(item: &Item<'_>) -> Result<BTreeMap<i64, String>, Complaint> {
    const EXAMPLE: &str = "example: enum = { 0 = \"off\", 1 = \"on\" }";
    let table = item.value.as_table().ok_or_else(|| wrong_type(item.value, "a table", EXAMPLE))?;
    if table.is_empty() || table.len() > MOST_LABELS {
        return Err(Complaint::new(
            format!("{} words; 1 to {MOST_LABELS} are possible", table.len()),
            EXAMPLE,
        ));
    }
    let mut labels = BTreeMap::new();
    for (key, word) in table {
        let key = key.get_ref();
        let number: i64 =
            key.parse().map_err(|_| Complaint::new(format!("`{key}` is not a whole number"), EXAMPLE))?;
        let word = word.get_ref();
        let word = word.as_str().ok_or_else(|| wrong_type(word, "a text", EXAMPLE))?;
        if word.is_empty() || word.contains('\0') {
            return Err(Complaint::new(format!("the word for {number} is empty or no text"), EXAMPLE));
        }
        if labels.insert(number, word.to_owned()).is_some() {
            return Err(Complaint::new(format!("{number} stands twice"), ""));
        }
    }
    Ok(labels)
}
