//! A serial line without a wire: a pseudo terminal in raw mode. What is written to its path comes
//! out here and the other way round, so that a driver opens a real tty and the plant is its wire.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The wire's end of a pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    wire: AsyncFd<OwnedFd>,
    path: PathBuf,
    /// While it is open the wire does not break when the last program closes the path.
    _keeper: OwnedFd,
}

impl Pty {
    /// A new pair. To be called within a runtime.
    pub fn open() -> io::Result<Self> {
        let Pair { wire, path, keeper } = pair()?;
        rustix::fs::fcntl_setfl(&wire, rustix::fs::fcntl_getfl(&wire)? | OFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for what any file could do; an OwnedFd cannot"
        )]
        let wire = AsyncFd::new(wire)?;
        Ok(Self { wire, path, _keeper: keeper })
    }

    /// What a driver opens: `/dev/pts/7`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A pseudo terminal in raw mode.
pub(crate) struct Pair {
    /// The wire's end.
    pub wire: OwnedFd,
    /// The driver's end.
    pub path: PathBuf,
    /// While it is open the wire does not break when the last program closes the path.
    pub keeper: OwnedFd,
}

/// A new pair whose calls block.
pub(crate) fn pair() -> io::Result<Pair> {
    let wire = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&wire)?;
    rustix::pty::unlockpt(&wire)?;
    let name = rustix::pty::ptsname(&wire, Vec::new())?;
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let keeper = rustix::fs::open(&path, flags, Mode::empty())?;
    let mut settings = tcgetattr(&keeper)?;
    settings.make_raw();
    tcsetattr(&keeper, OptionalActions::Now, &settings)?;
    Ok(Pair { wire, path, keeper })
}

impl AsyncRead for Pty {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.wire.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            if let Ok(read) = ready.try_io(|wire| Ok(rustix::io::read(wire.get_ref(), space)?)) {
                return Poll::Ready(read.map(|n| buf.advance(n)));
            }
        }
    }
}

impl AsyncWrite for Pty {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.wire.poll_write_ready(cx))?;
            if let Ok(written) = ready.try_io(|wire| Ok(rustix::io::write(wire.get_ref(), buf)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_unchanged_in_both_directions_and_across_a_reopen() {
        let mut pty = Pty::open().unwrap();
        // All that a cooked terminal would change or swallow.
        let bytes: Vec<u8> = (0..=255).collect();
        for _ in 0..2 {
            let settings = tokio_serial::new(pty.path().to_string_lossy(), 9600);
            let mut port = tokio_serial::SerialStream::open(&settings).unwrap();
            let mut received = vec![0; bytes.len()];
            port.write_all(&bytes).await.unwrap();
            pty.read_exact(&mut received).await.unwrap();
            assert_eq!(received, bytes);
            pty.write_all(&bytes).await.unwrap();
            port.read_exact(&mut received).await.unwrap();
            assert_eq!(received, bytes);
        }
    }
}
