//! A tar archive in gzip, of texts (POSIX.1-1988 ustar; RFC 1952).

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

const BLOCK: usize = 512;

/// `files` (name, text) in a folder of this name, changed at `now` (seconds since 1970).
///
/// # Errors
/// When a name is longer than the format holds: 100 bytes.
pub fn pack(folder: &str, files: &[(String, String)], now: u64) -> io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    for (name, text) in files {
        let bytes = text.as_bytes();
        out.write_all(&header(&format!("{folder}/{name}"), bytes.len() as u64, now)?)?;
        out.write_all(bytes)?;
        out.write_all(&vec![0; bytes.len().next_multiple_of(BLOCK) - bytes.len()])?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.finish()
}

fn header(name: &str, length: u64, now: u64) -> io::Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let too_long =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is too long for an archive"));
    header
        .get_mut(..100)
        .and_then(|field| field.get_mut(..name.len()))
        .ok_or_else(too_long)?
        .copy_from_slice(name.as_bytes());
    // Mode, user, group, length, time: octal, each closed by a zero.
    let fields: [(usize, String); 5] = [
        (100, "0000600".into()),
        (108, "0000000".into()),
        (116, "0000000".into()),
        (124, format!("{length:011o}")),
        (136, format!("{now:011o}")),
    ];
    for (at, digits) in fields {
        header[at..at + digits.len()].copy_from_slice(digits.as_bytes());
    }
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    header[263..265].copy_from_slice(b"00");
    // The checksum is the sum of all bytes, its own field taken as spaces.
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    Ok(header)
}
