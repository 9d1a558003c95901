//! What the line costs: every byte that goes through a socket, both ways, counted where it does.
//!
//! TLS and HTTP are in it, for they go through the socket. The headers of TCP and IP are not seen
//! here; they are added by the packets these bytes fill at least.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes in a packet on most links.
const PACKET: u64 = 1400;
/// IPv4 and TCP with time stamps, and half an acknowledgement for each packet.
const HEADERS: u64 = 52 + 26;

/// A counter that all lines share. Clones are the same counter.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.0.fetch_add(bytes + bytes.div_ceil(PACKET) * HEADERS, Ordering::Relaxed);
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    meter: Meter,
}

impl<S> Metered<S> {
    /// Counts what goes through `stream` from now on.
    pub fn new(stream: S, meter: Meter) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        self.meter.count(buffer.filled().len().saturating_sub(before));
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.meter.count(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.meter.count(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_ways_are_counted_with_the_headers_of_the_packets_they_fill() {
        let (near, mut far) = tokio::io::duplex(8 << 10);
        let meter = Meter::default();
        let mut near = Metered::new(near, meter.clone());
        near.write_all(&[0; 1401]).await.unwrap();
        assert_eq!(meter.bytes(), 1401 + 2 * HEADERS);
        far.write_all(&[0; 10]).await.unwrap();
        near.read_exact(&mut [0; 10]).await.unwrap();
        assert_eq!(meter.bytes(), 1411 + 3 * HEADERS);
        drop(far);
        assert_eq!(near.read(&mut [0; 10]).await.unwrap(), 0);
        assert_eq!(meter.bytes(), 1411 + 3 * HEADERS, "the end costs nothing");
    }
}
