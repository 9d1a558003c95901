//! Modbus on the wire. Pure: a query to bytes, bytes to frames, frames to a verdict on the query.
//! Functions 1 to 4 in MBAP (Modbus Messaging on TCP/IP V1.0b, 3.1.3) and RTU frames (Modbus over
//! Serial Line V1.02, 2.5.1). Nothing here panics on any bytes, and a frame is an answer only if
//! unit, function and number of values are those of the query.

use forebay_config::field::Register;

/// The longest MBAP length field: a unit and a PDU of 253 bytes.
const LONGEST_MBAP: usize = 254;
/// Unit, function, byte count and checksum: what surrounds the values of an RTU answer.
const RTU_AROUND: usize = 5;
/// A function with this bit is an exception.
const EXCEPTION: u8 = 0x80;

/// One read: `count` registers or bits of `unit`'s `table` from `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Unit id.
    pub unit: u8,
    /// The table.
    pub table: Register,
    /// The first address.
    pub address: u16,
    /// Registers (up to 125) or bits (up to 2000).
    pub count: u16,
}

/// What came of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The registers; a bit is a word of 0 or 1. As many as asked for.
    Words(Vec<u16>),
    /// The device answered "no", with this code (Application Protocol, 7).
    Exception(u8),
    /// The unit answered, but not what was asked.
    Malformed(String),
    /// Bytes came, but no frame: noise, a collision, a wrong baud rate.
    Garbled,
    /// Nothing came in time.
    Silent,
}

/// A frame with MBAP header at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mbap<'a> {
    /// Transaction id.
    pub id: u16,
    /// Unit id.
    pub unit: u8,
    /// Function and what follows it.
    pub pdu: &'a [u8],
    /// Bytes of the whole frame.
    pub length: usize,
}

/// A frame with a right checksum somewhere in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtu<'a> {
    /// Unit id.
    pub unit: u8,
    /// Function and what follows it.
    pub pdu: &'a [u8],
    /// Bytes before the frame that belong to none.
    pub start: usize,
    /// Bytes up to the frame's end.
    pub end: usize,
}

impl Query {
    /// The function that reads the table (Application Protocol, 6.1 to 6.4).
    pub fn function(&self) -> u8 {
        match self.table {
            Register::Coil => 1,
            Register::Discrete => 2,
            Register::Holding => 3,
            Register::Input => 4,
        }
    }

    /// The query as an MBAP frame.
    pub fn to_mbap(self, id: u16) -> [u8; 12] {
        let [i0, i1] = id.to_be_bytes();
        let [function, a0, a1, c0, c1] = self.pdu();
        [i0, i1, 0, 0, 0, 6, self.unit, function, a0, a1, c0, c1]
    }

    /// The query as an RTU frame.
    pub fn to_rtu(self) -> [u8; 8] {
        let [function, a0, a1, c0, c1] = self.pdu();
        let body = [self.unit, function, a0, a1, c0, c1];
        let [low, high] = crc(&body).to_le_bytes();
        [self.unit, function, a0, a1, c0, c1, low, high]
    }

    /// Bytes of the RTU frame that answers the query.
    pub fn rtu_answer_length(&self) -> usize {
        RTU_AROUND + self.value_bytes()
    }

    /// The verdict on a PDU that claims to answer this query.
    pub fn judge(&self, pdu: &[u8]) -> Reply {
        let function = self.function();
        let values = self.value_bytes();
        match pdu {
            [f, code] if *f == function | EXCEPTION => Reply::Exception(*code),
            [f, count, bytes @ ..] if *f == function => {
                if usize::from(*count) == values && bytes.len() == values {
                    Reply::Words(self.words(bytes))
                } else {
                    Reply::Malformed(format!("{} bytes of values instead of {values}", bytes.len()))
                }
            }
            [f, ..] => Reply::Malformed(format!("function {f} instead of {function}")),
            [] => Reply::Malformed("an empty frame".into()),
        }
    }

    fn pdu(&self) -> [u8; 5] {
        let [a0, a1] = self.address.to_be_bytes();
        let [c0, c1] = self.count.to_be_bytes();
        [self.function(), a0, a1, c0, c1]
    }

    fn is_bits(&self) -> bool {
        matches!(self.table, Register::Coil | Register::Discrete)
    }

    fn value_bytes(&self) -> usize {
        let count = usize::from(self.count);
        if self.is_bits() { count.div_ceil(8) } else { count * 2 }
    }

    fn words(&self, bytes: &[u8]) -> Vec<u16> {
        if self.is_bits() {
            let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| u16::from(byte >> bit & 1)));
            bits.take(self.count.into()).collect()
        } else {
            bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
        }
    }
}

/// The frame at the start of `buffer`, `None` until it is complete. An error means that the bytes
/// are no Modbus and that no later byte can be trusted.
pub fn mbap(buffer: &[u8]) -> Result<Option<Mbap<'_>>, String> {
    let [i0, i1, p0, p1, l0, l1, unit, ..] = *buffer else { return Ok(None) };
    let protocol = u16::from_be_bytes([p0, p1]);
    if protocol != 0 {
        return Err(format!("it does not speak Modbus TCP (protocol id {protocol}); is `framing` right?"));
    }
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if !(2..=LONGEST_MBAP).contains(&length) {
        return Err(format!("it sent a frame of {length} bytes; Modbus frames have 2 to {LONGEST_MBAP}"));
    }
    let id = u16::from_be_bytes([i0, i1]);
    Ok(buffer.get(7..6 + length).map(|pdu| Mbap { id, unit, pdu, length: 6 + length }))
}

/// The first complete answer with a right checksum in `buffer`. What precedes it is noise, an echo
/// of our own query on a two-wire adapter, or the end of something older.
pub fn rtu(buffer: &[u8]) -> Option<Rtu<'_>> {
    (0..buffer.len()).find_map(|start| {
        let [unit, function, size, ..] = *buffer.get(start..)? else { return None };
        let length = match function {
            1..=4 => RTU_AROUND + usize::from(size),
            0x81..=0x84 => RTU_AROUND,
            _ => return None,
        };
        let frame = buffer.get(start..start + length)?;
        let (body, checksum) = frame.split_at(length - 2);
        (crc(body).to_le_bytes() == checksum).then(|| Rtu {
            unit,
            pdu: &body[1..],
            start,
            end: start + length,
        })
    })
}

/// CRC-16 of Modbus over Serial Line V1.02, 6.2.2. Sent low byte first.
pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(table: Register, count: u16) -> Query {
        Query { unit: 0x11, table, address: 0x006b, count }
    }

    fn with_crc(body: &[u8]) -> Vec<u8> {
        [body, &crc(body).to_le_bytes()].concat()
    }

    #[test]
    fn queries_are_the_bytes_of_the_standards_examples() {
        // Application Protocol V1.1b3, 6.3: read holding registers 108 to 110.
        let read = query(Register::Holding, 3);
        assert_eq!(read.to_rtu(), [0x11, 0x03, 0x00, 0x6b, 0x00, 0x03, 0x76, 0x87]);
        assert_eq!(read.to_mbap(0x1501), [0x15, 0x01, 0, 0, 0, 6, 0x11, 0x03, 0x00, 0x6b, 0x00, 0x03]);
        assert_eq!(read.judge(&[3, 6, 0x02, 0x2b, 0, 0, 0, 0x64]), Reply::Words(vec![0x022b, 0, 0x64]));
    }

    #[test]
    fn bits_come_lowest_first_and_the_padding_is_dropped() {
        // Application Protocol V1.1b3, 6.1: coils 20 to 38 are CD 6B 05.
        let Reply::Words(bits) = query(Register::Coil, 19).judge(&[1, 3, 0xcd, 0x6b, 0x05]) else {
            panic!("not an answer")
        };
        assert_eq!(bits, [1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn one_or_three_registers_for_two_asked_are_malformed() {
        let read = query(Register::Input, 2);
        for wrong in [&[4, 2, 0, 1][..], &[4, 6, 0, 1, 0, 2, 0, 3], &[4, 4, 0, 1], &[4, 2, 0, 1, 0, 2], &[4]]
        {
            assert!(matches!(read.judge(wrong), Reply::Malformed(_)), "{wrong:?}");
        }
        assert!(matches!(read.judge(&[3, 4, 0, 1, 0, 2]), Reply::Malformed(_)));
        assert!(matches!(read.judge(&[]), Reply::Malformed(_)));
        assert_eq!(read.judge(&[0x84, 2]), Reply::Exception(2));
        assert!(matches!(read.judge(&[0x83, 2]), Reply::Malformed(_)));
    }

    #[test]
    fn an_impossible_mbap_length_is_an_error_before_its_bytes_arrive() {
        for length in [0u16, 1, 255, 65_535] {
            let [l0, l1] = length.to_be_bytes();
            assert!(mbap(&[0, 1, 0, 0, l0, l1, 1]).is_err(), "{length}");
        }
        assert!(mbap(&[0, 1, 0, 1, 0, 3, 1]).is_err());
    }

    #[test]
    fn an_mbap_frame_is_given_when_its_last_byte_is_there() {
        let frame = [0, 7, 0, 0, 0, 5, 9, 3, 2, 0xab, 0xcd, 0xff];
        for cut in 0..11 {
            assert_eq!(mbap(&frame[..cut]), Ok(None));
        }
        let whole = Mbap { id: 7, unit: 9, pdu: &frame[7..11], length: 11 };
        assert_eq!(mbap(&frame), Ok(Some(whole)));
    }

    #[test]
    fn an_rtu_answer_is_found_behind_noise_and_the_echo_of_the_query() {
        let query = query(Register::Holding, 1);
        let answer = with_crc(&[0x11, 3, 2, 0x12, 0x34]);
        let noisy = [&[0x00, 0xff][..], &query.to_rtu(), &answer, &[0x00]].concat();
        let frame = rtu(&noisy).unwrap();
        assert_eq!((frame.unit, frame.start, frame.end), (0x11, 10, 17));
        assert_eq!(query.judge(frame.pdu), Reply::Words(vec![0x1234]));
        assert_eq!(rtu(&noisy[..16]), None);
    }

    #[test]
    fn a_flipped_bit_is_no_frame() {
        let answer = with_crc(&[0x11, 3, 2, 0x12, 0x34]);
        for bit in 0..answer.len() * 8 {
            let mut flipped = answer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(rtu(&flipped), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), count in 0u16..2001) {
            let query = query(Register::Discrete, count);
            if let Some(frame) = rtu(&bytes) {
                prop_assert!(frame.start < frame.end && frame.end <= bytes.len());
                query.judge(frame.pdu);
            }
            if let Ok(Some(frame)) = mbap(&bytes) {
                prop_assert!(frame.length <= bytes.len());
                query.judge(frame.pdu);
            }
            query.judge(&bytes);
        }
    }
}
