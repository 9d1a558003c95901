//! Text as a QR code (ISO/IEC 18004), for somebody who stands at a gateway with a telephone.

use std::fmt::Write as _;

use qrcodegen::{QrCode, QrCodeEcc};

/// The dark modules of a code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// Modules each way, without the quiet zone of four around it.
    pub(super) size: i32,
    /// They, as the path of an SVG: a unit is a module.
    pub(super) path: String,
}

/// `None` where the text is longer than any code holds, 2,331 bytes.
pub(super) fn picture(text: &str) -> Option<Picture> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let (size, mut path) = (code.size(), String::new());
    for y in 0..size {
        let mut x = 0;
        while x < size {
            let run = (x..size).take_while(|x| code.get_module(*x, y)).count() as i32;
            if run > 0 {
                let _ = write!(path, "M{x} {y}h{run}v1h-{run}z");
            }
            x += run + 1;
        }
    }
    Some(Picture { size, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_its_three_corners_and_no_module_beyond_its_size() {
        let Picture { size, path } = picture("forebay-agent join").expect("it fits");
        assert_eq!(size, 25, "18 bytes at medium: version 2");
        assert!(path.starts_with("M0 0h7v1h-7z"), "{path}");
        assert!(path.contains("M18 0h7v1h-7z") && path.contains("M0 18h7v1h-7z"), "{path}");
        assert_eq!(picture(&"x".repeat(2_332)), None);
    }
}
