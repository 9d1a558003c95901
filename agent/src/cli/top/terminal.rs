//! The terminal, taken whole and given back as it was, whatever happens in between.

use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Other screen, no cursor.
const TAKE: &str = "\x1b[?1049h\x1b[?25l";
const GIVE_BACK: &str = "\x1b[?25h\x1b[?1049l";
/// Where a terminal does not tell its size.
const USUAL: (usize, usize) = (80, 24);

/// What a key is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `q` or Ctrl-C.
    Quit,
    /// Arrow up, `k`.
    Up,
    /// Arrow down, `j`.
    Down,
}

/// The screen, ours until dropped.
pub struct Screen {
    before: Termios,
}

impl Screen {
    /// Takes it; `None` if standard input or output is no terminal.
    pub fn take() -> io::Result<Option<Self>> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        let screen = Self { before };
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        screen.write(TAKE)?;
        Ok(Some(screen))
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => USUAL,
        }
    }

    /// Keys pressed since the last look. Waits for none.
    pub fn keys(&mut self) -> Vec<Key> {
        let stdin = stdin();
        let mut waiting = [PollFd::new(&stdin, PollFlags::IN)];
        if !matches!(poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..)) {
            return Vec::new();
        }
        let mut bytes = [0; 64];
        match rustix::io::read(stdin.as_fd(), &mut bytes) {
            // The terminal is gone.
            Ok(0) | Err(_) => vec![Key::Quit],
            Ok(length) => keys(bytes.get(..length).unwrap_or_default()),
        }
    }

    /// Shows these lines and nothing else.
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        let lines = lines.join("\x1b[K\r\n");
        self.write(&format!("\x1b[H{lines}\x1b[K\x1b[J"))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to give back.
        let _ = self.write(GIVE_BACK);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

fn keys(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let [first, behind @ ..] = rest {
        rest = behind;
        match (first, behind) {
            (b'q' | b'Q' | 3, _) => keys.push(Key::Quit),
            (b'k', _) => keys.push(Key::Up),
            (b'j', _) => keys.push(Key::Down),
            (0x1b, [b'[' | b'O', arrow, behind @ ..]) => {
                rest = behind;
                match arrow {
                    b'A' => keys.push(Key::Up),
                    b'B' => keys.push(Key::Down),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_are_no_letters() {
        assert_eq!(keys(b"\x1b[A\x1bOBjk\x1b[C"), [Key::Up, Key::Down, Key::Down, Key::Up]);
        assert_eq!(keys(b"xq"), [Key::Quit]);
        assert_eq!(keys(&[3]), [Key::Quit]);
        assert_eq!(keys(b"\x1b"), []);
    }
}
