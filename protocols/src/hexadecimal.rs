//! Bytes as people and databases write them.

use std::fmt;

/// Two lower-case digits a byte, nothing in between.
#[derive(Clone, Copy)]
pub struct Hexadecimal<'b>(pub &'b [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_two_digits() {
        assert_eq!(Hexadecimal(&[0, 7, 0xab, 0xff]).to_string(), "0007abff");
        assert_eq!(Hexadecimal(&[]).to_string(), "");
    }
}
