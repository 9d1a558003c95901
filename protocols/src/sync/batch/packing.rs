//! Numbers in a column: varints out and in. Reading a column is total: it ends in a [`Flaw`], never
//! in a panic, and nothing is reserved for what a column merely claims to hold.

/// What is wrong with a payload, in plain words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub column: &'static str,
    pub fault: &'static str,
}

/// Small numbers of either sign as small numbers without one.
pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The way back from [`zigzag`].
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Appends a varint.
pub(super) fn put(column: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        column.push(number as u8 | 0x80);
        number >>= 7;
    }
    column.push(number as u8);
}

/// Appends a signed varint.
pub(super) fn put_signed(column: &mut Vec<u8>, number: i64) {
    put(column, zigzag(number));
}

/// Eight words of eight bytes: byte `j` of word `i` becomes byte `i` of word `j`.
pub(super) fn transpose(words: &mut [u64; 8]) {
    for (distance, mask) in
        [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)]
    {
        for low in (0..8).filter(|place| place & distance == 0) {
            let swapped = (words[low] >> (8 * distance) ^ words[low + distance]) & mask;
            words[low + distance] ^= swapped;
            words[low] ^= swapped << (8 * distance);
        }
    }
}

/// A column being read from its front.
pub(super) struct Column<'a> {
    name: &'static str,
    rest: &'a [u8],
}

impl<'a> Column<'a> {
    pub fn new(name: &'static str, bytes: &'a [u8]) -> Self {
        Self { name, rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn flaw(&self, fault: &'static str) -> Flaw {
        Flaw { column: self.name, fault }
    }

    pub fn byte(&mut self) -> Result<u8, Flaw> {
        let (byte, rest) = self.rest.split_first().ok_or_else(|| self.flaw("ends early"))?;
        self.rest = rest;
        Ok(*byte)
    }

    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.flaw("ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn unsigned(&mut self) -> Result<u64, Flaw> {
        let first = self.byte()?;
        // Most numbers of most columns are small.
        if first < 0x80 { Ok(u64::from(first)) } else { self.longer(first) }
    }

    fn longer(&mut self, first: u8) -> Result<u64, Flaw> {
        let mut number = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.flaw("holds a number above 64 bits"))
    }

    pub fn signed(&mut self) -> Result<i64, Flaw> {
        self.unsigned().map(unzigzag)
    }

    /// A varint that must not be above `limit`: a count, a length, a place.
    pub fn at_most(&mut self, limit: usize, fault: &'static str) -> Result<usize, Flaw> {
        let number = self.unsigned()?;
        usize::try_from(number).ok().filter(|number| *number <= limit).ok_or_else(|| self.flaw(fault))
    }

    /// Every column must be used up.
    pub fn end(self) -> Result<(), Flaw> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.flaw("holds more than the batch needs")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_survive_packing() {
        let numbers = [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN, i64::MAX - 1, 1 << 62];
        let mut column = Vec::new();
        numbers.iter().for_each(|number| put_signed(&mut column, *number));
        let mut read = Column::new("test", &column);
        numbers.iter().for_each(|number| assert_eq!(read.signed(), Ok(*number)));
        assert_eq!(read.end(), Ok(()));
    }

    #[test]
    fn transposing_swaps_places_of_bytes() {
        let mut words = std::array::from_fn(|word| {
            u64::from_le_bytes(std::array::from_fn(|byte| (16 * word + byte) as u8))
        });
        transpose(&mut words);
        for (word, bytes) in words.iter().map(|word| word.to_le_bytes()).enumerate() {
            assert_eq!(bytes, std::array::from_fn(|byte| (16 * byte + word) as u8));
        }
    }

    #[test]
    fn a_torn_or_overlong_number_is_a_flaw() {
        assert_eq!(Column::new("test", &[0x80]).unsigned().unwrap_err().fault, "ends early");
        assert_eq!(
            Column::new("test", &[0xff; 10]).unsigned().unwrap_err().fault,
            "holds a number above 64 bits"
        );
        let mut top = [0xff; 10];
        top[9] = 1;
        assert_eq!(Column::new("test", &top).unsigned(), Ok(u64::MAX));
        top[9] = 2;
        assert!(Column::new("test", &top).unsigned().is_err());
    }
}
