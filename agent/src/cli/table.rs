//! A table of text for a terminal, and what devices say made harmless for it.

use std::fmt::Write;

use forebay_protocols::reading::Value;

/// Text from outside is shown up to so many characters.
const LONGEST: usize = 60;

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Heads and rows, each column as wide as its widest cell. A row has a cell for every column.
pub fn table<const N: usize>(columns: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let mut widths = columns.map(|(head, _)| head.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut line = String::new();
        for ((cell, width), (_, side)) in cells.into_iter().zip(widths).zip(columns) {
            let _ = match side {
                Side::Left => write!(line, "{cell:<width$}  "),
                Side::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(columns.map(|(head, _)| head));
    rows.iter().for_each(|row| line(row.each_ref().map(String::as_str)));
    text
}

/// A value in a cell. A single-precision number is written with the digits it has: 89.8, and not
/// 89.80000305175781.
pub fn value(value: &Value) -> String {
    match value {
        Value::Float(number) if f64::from(*number as f32) == *number => (*number as f32).to_string(),
        other => harmless(&other.to_string()),
    }
}

/// Text of a device: control characters, with which it could rewrite the screen, are written as
/// `\u{1b}`, and what is too long is cut.
pub fn harmless(text: &str) -> String {
    let mut shown = String::new();
    let mut characters = text.chars();
    for character in characters.by_ref().take(LONGEST) {
        // The marks of writing direction reorder a line as well.
        let is_mark =
            matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match character.is_control() || is_mark {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// How long ago: "0.2 s", "45 s", "12 min", "3 h", "20 d". Less than nothing is the future: "-3 s".
pub fn age(seconds: f64) -> String {
    match seconds.abs() {
        size if size < 9.95 => format!("{seconds:.1} s"),
        size if size < 119.5 => format!("{seconds:.0} s"),
        size if size < 7_170.0 => format!("{:.0} min", seconds / 60.0),
        size if size < 172_000.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [["a".into(), "1.5".into()], ["temperature".into(), "-10".into()], ["µ".into(), "".into()]];
        let text = table([("point", Side::Left), ("value", Side::Right)], &rows);
        assert_eq!(text, "point        value\na              1.5\ntemperature    -10\nµ\n");
    }

    #[test]
    fn what_a_device_says_cannot_move_the_cursor() {
        assert_eq!(harmless("ok\x1b[2J\r\u{202e}x"), "ok\\u{1b}[2J\\r\\u{202e}x");
        assert_eq!(harmless("Größe 21 °C"), "Größe 21 °C");
        assert_eq!(harmless(&"x".repeat(100)), format!("{}…", "x".repeat(LONGEST)));
    }

    #[test]
    fn numbers_have_the_digits_that_were_measured() {
        let told = [f64::from(89.8_f32), 53.4, 1e-7, f64::NAN].map(|number| value(&Value::Float(number)));
        assert_eq!(told, ["89.8", "53.4", "0.0000001", "NaN"]);
    }

    #[test]
    fn ages_are_told_in_the_unit_people_would_use() {
        let told = [0.04, 9.9, 45.0, 600.0, 7_200.0, 1_000_000.0, -3.0].map(age);
        assert_eq!(told, ["0.0 s", "9.9 s", "45 s", "10 min", "2 h", "12 d", "-3.0 s"]);
    }
}
