//! Readings as PostgreSQL's binary COPY format (PostgreSQL documentation, COPY, "Binary Format"), in
//! parts of some 64 KiB. Written by hand because a general writer asks each column of each row for its
//! type.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::plan::Row;
use super::values::{Columns, Moment};

/// The columns of a row, in their order.
pub const COLUMNS: &str = "time, point, quality, value, whole, state, text";

/// A signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;
const NULL: i32 = -1;
/// A part is sent when it has grown beyond this; what one text adds comes on top.
const PART: usize = 64 * 1024;
/// A row without text is not longer.
const ROW: usize = 2 + 7 * 4 + 8 + 4 + 2 + 8;

/// The whole of `rows`, header and trailer included.
pub fn parts<'a>(rows: &'a [Row<'a>]) -> impl Iterator<Item = Bytes> + 'a {
    let mut rows = rows.iter();
    let mut part = BytesMut::with_capacity(PART + ROW);
    part.put_slice(HEADER);
    let mut open = true;
    std::iter::from_fn(move || {
        while open && part.len() < PART {
            match rows.next() {
                Some(row) => put(&mut part, row),
                None => {
                    part.put_i16(TRAILER);
                    open = false;
                }
            }
        }
        let full = part.split().freeze();
        part.reserve(if open { PART + ROW } else { 0 });
        (!full.is_empty()).then_some(full)
    })
}

fn put(out: &mut BytesMut, Row { point, reading }: &Row<'_>) {
    let Columns { value, whole, state, text } = Columns::from(reading.value.as_ref());
    out.put_i16(7);
    out.put_i32(8);
    out.put_i64(Moment(reading.time).as_postgres());
    out.put_i32(4);
    out.put_i32(point.0 as i32);
    out.put_i32(2);
    out.put_i16(reading.quality.code().into());
    match value {
        Some(value) => {
            out.put_i32(8);
            out.put_f64(value);
        }
        None => out.put_i32(NULL),
    }
    match whole {
        Some(whole) => {
            out.put_i32(8);
            out.put_i64(whole);
        }
        None => out.put_i32(NULL),
    }
    match state {
        Some(state) => {
            out.put_i32(1);
            out.put_u8(state.into());
        }
        None => out.put_i32(NULL),
    }
    match text {
        // A request is bounded far below 2 GiB.
        Some(text) => {
            out.put_i32(text.len() as i32);
            out.put_slice(text.as_bytes());
        }
        None => out.put_i32(NULL),
    }
}

#[cfg(test)]
mod tests {
    use forebay_protocols::reading::{PointId, Quality, Value};

    use super::super::super::{PointKey, Timed};
    use super::*;

    #[test]
    fn a_row_is_written_as_postgresql_documents_it() {
        let reading = Timed {
            point: PointId(7),
            time: 946_684_800_000_001,
            value: Some(Value::Boolean(true)),
            quality: Quality::Good,
        };
        let rows = [Row { point: PointKey(258), reading: &reading }];
        let parts: Vec<Bytes> = parts(&rows).collect();
        let [whole] = parts.as_slice() else { panic!("one part, not {}", parts.len()) };
        let expected: &[&[u8]] = &[
            b"PGCOPY\n\xff\r\n\0",
            &[0; 8],
            &[0, 7],
            &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 4, 0, 0, 1, 2],
            &[0, 0, 0, 2, 0, 0],
            &[255; 8],
            &[0, 0, 0, 1, 1],
            &[255; 4],
            &[255; 2],
        ];
        assert_eq!(whole.as_ref(), expected.concat());
    }

    #[test]
    fn many_rows_come_in_parts_that_make_the_same_whole() {
        let text = "x".repeat(1_000);
        let reading = Timed {
            point: PointId(1),
            time: 0,
            value: Some(Value::Text(text.as_str().into())),
            quality: Quality::Good,
        };
        let rows = vec![Row { point: PointKey(1), reading: &reading }; 200];
        let parts: Vec<Bytes> = parts(&rows).collect();
        assert_eq!(parts.len(), 4);
        let sizes: usize = parts.iter().map(Bytes::len).sum();
        assert_eq!(sizes, HEADER.len() + 200 * (ROW - 8 + 1_000) + 2);
    }
}
