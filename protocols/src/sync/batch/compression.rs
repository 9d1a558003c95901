//! zstd around the columns, with contexts that live as long as their owner.

use prost::Message;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, InBuffer, OutBuffer, ResetDirective, SafeResult, zstd_sys::ZSTD_EndDirective};

use super::packing::Flaw;
use crate::sync::wire;

/// zstd's own default, and the knee of the curve: higher levels cost several times the time for a
/// few per cent.
const LEVEL: i32 = 3;
/// A plane from this size on earns a block, and so a Huffman table, of its own.
const OWN_BLOCK: usize = 512;
/// More than the headers of all extra blocks: eight planes and corrections, three bytes each.
const BLOCK_HEADERS: usize = 64;

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

    /// One frame. Noise and pattern in one block would share a Huffman table that suits neither, so
    /// the block ends before every long plane (up to a tenth smaller where planes are used).
    fn write_frame(&mut self, columns: &wire::Columns, frame: &mut Vec<u8>) -> SafeResult {
        let context = self.context.context_mut();
        context.reset(ResetDirective::SessionOnly)?;
        context.set_pledged_src_size(Some(self.payload.len() as u64))?;
        let mut output = OutBuffer::around(frame);
        let mut rest = self.payload.as_slice();
        for border in plane_borders(columns, self.payload.len()) {
            let (block, behind) = rest.split_at(rest.len() - border.min(rest.len()));
            if !block.is_empty() {
                context.compress_stream2(
                    &mut output,
                    &mut InBuffer::around(block),
                    ZSTD_EndDirective::ZSTD_e_flush,
                )?;
            }
            rest = behind;
        }
        context.compress_stream2(&mut output, &mut InBuffer::around(rest), ZSTD_EndDirective::ZSTD_e_end)
    }
}

/// Where the long planes and what lies behind them begin, in bytes before the end of the message, of which
/// they are the last fields.
fn plane_borders(columns: &wire::Columns, length: usize) -> impl Iterator<Item = usize> {
    let wire::Columns { plane_0, plane_1, plane_2, plane_3, plane_4, plane_5, plane_6, plane_7, .. } =
        columns;
    let wire::Columns { decimal_way, correction_count, correction_gap, correction, .. } = columns;
    let planes = [plane_0, plane_1, plane_2, plane_3, plane_4, plane_5, plane_6, plane_7].map(Vec::len);
    let behind = [decimal_way, correction_count, correction_gap, correction].map(Vec::len);
    // Fields numbered from 16 on have keys of two bytes; empty fields are not there.
    let field = |bytes: usize| if bytes == 0 { 0 } else { 2 + prost::length_delimiter_len(bytes) + bytes };
    let behind = behind.into_iter().map(field).sum::<usize>();
    let mut border = (planes.into_iter().map(field).sum::<usize>() + behind).min(length);
    let planes = planes.into_iter().filter_map(move |bytes| {
        let begin = border;
        border -= field(bytes).min(border);
        (bytes >= OWN_BLOCK).then_some(begin)
    });
    planes.chain((behind >= OWN_BLOCK).then_some(behind))
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
