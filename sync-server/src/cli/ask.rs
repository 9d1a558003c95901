//! Passwords from a terminal, unseen, or from standard input; never from the command line, which every
//! process of the machine may read.

use std::io::{BufRead, IsTerminal, stdin};

use anyhow::{Context, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The longest line that is read, in bytes.
const LONGEST: usize = 4096;

/// A new password: twice at a terminal, else one line.
///
/// # Errors
/// When there is none, or the two differ.
pub(super) fn new_password(name: &str) -> Result<String> {
    if !stdin().is_terminal() {
        return line().context("read the password from standard input");
    }
    super::eprint(&format!("New password for {name}: "));
    let first = unseen()?;
    super::eprint("Once more: ");
    if unseen()? != first {
        bail!("the two are not the same; nothing was changed");
    }
    Ok(first)
}

fn line() -> Result<String> {
    let mut text = Vec::new();
    std::io::Read::take(stdin().lock(), LONGEST as u64).read_until(b'\n', &mut text)?;
    let text = String::from_utf8(text).context("a password is UTF-8")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A line that the terminal does not show.
fn unseen() -> Result<String> {
    let before = tcgetattr(stdin()).context("ask the terminal how it is")?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    quiet.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(stdin(), OptionalActions::Flush, &quiet).context("make the terminal quiet")?;
    let _back = Back(before);
    line()
}

/// Makes the terminal as it was, whichever way its owner ends.
struct Back(Termios);

impl Drop for Back {
    fn drop(&mut self) {
        // Nothing more can be done about it.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}
