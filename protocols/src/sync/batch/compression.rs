//! zstd around the columns, with contexts that live as long as their owner.

use prost::Message;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{
    self, CParameter, InBuffer, OutBuffer, ResetDirective, SafeResult, zstd_sys::ZSTD_EndDirective,
};

use super::packing::Flaw;
use crate::sync::wire;

/// zstd's own default, and the knee of the curve: higher levels cost several times the time for a
/// few per cent.
const LEVEL: i32 = 3;
/// Shorter matches than this are chance among numbers, and cost more than the literals they save (up to
/// 5 % of a batch).
const LEAST_MATCH: u32 = 7;
/// A column from this size on earns a block, and so a Huffman table, of its own.
const OWN_BLOCK: usize = 512;
/// More than the headers of all extra blocks: two for a column, three bytes each.
const BLOCK_HEADERS: usize = 256;

/// Columns to compressed bytes.
pub(super) struct Press {
    context: Compressor<'static>,
    payload: Vec<u8>,
}

impl Default for Press {
    fn default() -> Self {
        let context = Compressor::new(LEVEL).expect("level 3 exists in every zstd");
        Self { context, payload: Vec::new() }
    }
}

impl Press {
    /// The compressed message, and its length before.
    pub fn compress(&mut self, columns: &wire::Columns) -> (Vec<u8>, usize) {
        self.payload.clear();
        columns.encode(&mut self.payload).expect("a Vec makes room for any message");
        let room = zstd_safe::compress_bound(self.payload.len()) + BLOCK_HEADERS;
        let mut compressed = Vec::with_capacity(room);
        self.write_frame(columns, &mut compressed)
            .expect("the frame states its length and has room for its bound");
        (compressed, self.payload.len())
    }

    /// One frame. Columns in one block would share a Huffman table that suits none of them, so a block
    /// ends before and behind every long column (up to a tenth smaller).
    fn write_frame(&mut self, columns: &wire::Columns, frame: &mut Vec<u8>) -> SafeResult {
        let context = self.context.context_mut();
        context.reset(ResetDirective::SessionOnly)?;
        // Words are found again in shorter pieces.
        let is_text = columns.text.len() > self.payload.len() / 2;
        context.set_parameter(CParameter::MinMatch(if is_text { 0 } else { LEAST_MATCH }))?;
        context.set_pledged_src_size(Some(self.payload.len() as u64))?;
        let mut output = OutBuffer::around(frame);
        let mut at = 0;
        for border in borders(columns).take_while(|border| *border < self.payload.len()) {
            let mut block = InBuffer::around(&self.payload[at..border]);
            if border > at {
                context.compress_stream2(&mut output, &mut block, ZSTD_EndDirective::ZSTD_e_flush)?;
            }
            at = border;
        }
        let mut rest = InBuffer::around(&self.payload[at..]);
        context.compress_stream2(&mut output, &mut rest, ZSTD_EndDirective::ZSTD_e_end)
    }
}

/// Where long columns begin and end, in bytes from the front of the message.
fn borders(columns: &wire::Columns) -> impl Iterator<Item = usize> {
    let mut end = 0;
    (1..).zip(lengths(columns)).flat_map(move |(number, bytes)| {
        let begin = end;
        // Fields numbered from 16 on have keys of two bytes; empty fields are not there.
        let key = if number < 16 { 1 } else { 2 };
        end += if bytes == 0 { 0 } else { key + prost::length_delimiter_len(bytes) + bytes };
        if bytes >= OWN_BLOCK { [Some(begin), Some(end)] } else { [None, None] }.into_iter().flatten()
    })
}

/// Bytes of the columns, which are fields 1, 2, 3 ... of the message.
fn lengths(columns: &wire::Columns) -> impl Iterator<Item = usize> {
    let wire::Columns { point, axis, form, first, residual, .. } = columns;
    let wire::Columns { axis_form, axis_count, axis_start, axis_step, axis_residual, .. } = columns;
    let wire::Columns { plane_width, change_count, change_gap, text_length, text, .. } = columns;
    let wire::Columns { odd_gap, odd_run, odd_type, odd_number, odd_float, .. } = columns;
    let wire::Columns { quality_gap, quality_run, quality_code, plane_0, plane_1, .. } = columns;
    let wire::Columns { plane_2, plane_3, plane_4, plane_5, plane_6, .. } = columns;
    let wire::Columns { plane_7, decimal_way, correction_count, correction_gap, correction, .. } = columns;
    [
        [point, axis, form, first, residual],
        [axis_form, axis_count, axis_start, axis_step, axis_residual],
        [plane_width, change_count, change_gap, text_length, text],
        [odd_gap, odd_run, odd_type, odd_number, odd_float],
        [quality_gap, quality_run, quality_code, plane_0, plane_1],
        [plane_2, plane_3, plane_4, plane_5, plane_6],
        [plane_7, decimal_way, correction_count, correction_gap, correction],
    ]
    .map(|five| five.map(Vec::len))
    .into_iter()
    .flatten()
}

/// Compressed bytes to columns.
#[derive(Default)]
pub(super) struct Expander {
    context: Decompressor<'static>,
    payload: Vec<u8>,
}

impl Expander {
    /// Exactly `length` bytes (bounded by the caller), or a refusal before anything is reserved.
    pub fn expand(&mut self, compressed: &[u8], length: usize) -> Result<&[u8], Flaw> {
        let flaw = |fault| Flaw { column: "payload", fault };
        // The frame repeats the length, so that a batch that lies reserves nothing.
        let stated =
            zstd_safe::get_frame_content_size(compressed).map_err(|_| flaw("is not compressed with zstd"))?;
        if stated != Some(length as u64) {
            return Err(flaw("does not have the stated length"));
        }
        self.payload.clear();
        self.payload.reserve_exact(length);
        let written = self.context.decompress_to_buffer(compressed, &mut self.payload);
        if written.map_err(|_| flaw("does not decompress"))? != length {
            return Err(flaw("does not have the stated length"));
        }
        Ok(&self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_column_begins_and_ends_where_blocks_do() {
        let columns = wire::Columns {
            point: vec![1; 7],
            residual: vec![2; 600],
            axis_form: vec![3],
            plane_0: vec![4; 1000],
            plane_1: vec![5; 700],
            correction: vec![6; 512],
            ..wire::Columns::default()
        };
        let payload = columns.encode_to_vec();
        let borders: Vec<_> = borders(&columns).collect();
        let [residual, _, plane_0, _, plane_1, _, correction, end] = borders[..] else {
            panic!("{borders:?}")
        };
        assert_eq!(end, payload.len());
        // First byte of the key, bytes of key and length, what the column holds.
        for (begin, key, head, byte, length) in [
            (residual, 0x2a, 3, 2, 600),
            (plane_0, 0xc2, 4, 4, 1000),
            (plane_1, 0xca, 4, 5, 700),
            (correction, 0x9a, 4, 6, 512),
        ] {
            assert_eq!(payload[begin], key, "column of {byte}");
            let column = &payload[begin + head..begin + head + length];
            assert!(column.iter().all(|found| *found == byte), "column of {byte}");
        }
        let (compressed, length) = Press::default().compress(&columns);
        let mut expander = Expander::default();
        assert_eq!(expander.expand(&compressed, length), Ok(payload.as_slice()));
    }
}
