//! What arrives is made fit for any database, before a transaction begins. Agents are not trusted:
//! nothing one of them sends may fail the transaction it shares with others. Pure, and the same for
//! both stores, so that they answer alike.

use std::borrow::Cow;

use forebay_protocols::hexadecimal::Hexadecimal;

use super::Micros;

/// 2000-01-01: no reading is older, whatever the gateway's clock said.
pub const EARLIEST: Micros = 946_684_800_000_000;
/// Ten years: how far ahead of the server a reading may be.
pub const AHEAD: Micros = 10 * 366 * 86_400 * 1_000_000;
/// The longest name (of a device, point, site …) kept as it is, in bytes. Names stand in unique
/// indexes, and PostgreSQL refuses rows above a third of a page there.
const LONGEST_NAME: usize = 400;
/// 9999-12-31T23:59:59: the last moment both stores and every chart can hold.
pub const END_OF_TIME: Micros = 253_402_300_799_000_000;

/// Is this a time at which a reading can have been taken? If not, it goes to quarantine.
pub fn within_reason(time: Micros, now: Micros) -> bool {
    time >= EARLIEST && time <= now.saturating_add(AHEAD)
}

/// Text without NUL, which PostgreSQL cannot hold: each becomes U+FFFD.
pub fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A name without NUL and of bounded length. Of a longer one the beginning is kept and a hash of all
/// of it, so that different names stay different.
pub fn name(name: &str) -> Cow<'_, str> {
    if name.len() <= LONGEST_NAME {
        return text(name);
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let hash = Hexadecimal(&hash.as_ref()[..16]);
    let kept = name.floor_char_boundary(LONGEST_NAME / 2);
    Cow::Owned(format!("{}…{hash}", text(&name[..kept])))
}

/// A time of a gap or a certificate, within what databases and people can read: 1970 to 9999.
pub fn time(time: Micros) -> Micros {
    time.clamp(0, END_OF_TIME)
}

/// A count that fits a signed column; beyond it, the largest.
pub fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_in_text_becomes_the_replacement_character() {
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        assert!(matches!(text("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn long_names_are_short_and_still_different() {
        let (one, two) = (format!("{}1", "é".repeat(5_000)), format!("{}2", "é".repeat(5_000)));
        assert!(name(&one).len() < LONGEST_NAME && name(&two).len() < LONGEST_NAME);
        assert_ne!(name(&one), name(&two));
        assert_eq!(name("boiler"), "boiler");
    }

    #[test]
    fn times_outside_reason_are_told_from_late_ones() {
        let now = 1_800_000_000_000_000;
        assert!(within_reason(EARLIEST, now) && within_reason(now + AHEAD, now));
        assert!(!within_reason(EARLIEST - 1, now) && !within_reason(now + AHEAD + 1, now));
        assert!(!within_reason(i64::MIN, now) && !within_reason(i64::MAX, now));
    }
}
