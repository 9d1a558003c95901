//! A road that takes its time: a TCP relay in which every byte arrives so much later than it was
//! sent, however many are under way. As behind a mobile or satellite modem.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Pieces under way in one direction; more make the sender wait.
const UNDER_WAY: usize = 1024;

/// A relay to one address. Ends when dropped.
pub struct LongLink {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl LongLink {
    /// Listens on a free loopback port and relays to `target`; `way` is the time in one direction.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: SocketAddr, way: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the long link")?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            // Connections end with this set, and the set with the link.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(client, target, way));
            }
        });
        Ok(Self { address, accepting })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for LongLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(client: TcpStream, target: SocketAddr, way: Duration) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    for end in [&client, &server] {
        if end.set_nodelay(true).is_err() {
            return;
        }
    }
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::join!(carry(client_in, server_out, way), carry(server_in, client_out, way));
}

/// Carries one direction to its end.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, way: Duration) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let sending = async move {
        loop {
            let mut piece = Vec::with_capacity(4096);
            let read = from.read_buf(&mut piece).await.unwrap_or(0);
            // An end takes as long as everything else: an empty piece.
            if sender.send((Instant::now() + way, piece)).await.is_err() || read == 0 {
                return;
            }
        }
    };
    let arriving = async move {
        while let Some((at, piece)) = pieces.recv().await {
            sleep_until(at).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(sending, arriving);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives_late_unchanged_and_side_by_side() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let way = Duration::from_millis(100);
        let link = LongLink::start(listener.local_addr().expect("bound"), way).await.expect("a link");
        let echo = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("relayed");
            let (mut from, mut to) = peer.split();
            tokio::io::copy(&mut from, &mut to).await
        });
        let mut peer = TcpStream::connect(link.address()).await.expect("connects");
        let sent = Instant::now();
        for word in [b"one.", b"two.", b"six."] {
            peer.write_all(word).await.expect("written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut back = [0; 12];
        peer.read_exact(&mut back).await.expect("echoed");
        assert_eq!(&back, b"one.two.six.");
        assert!(sent.elapsed() >= way * 2, "{:?}", sent.elapsed());
        assert!(sent.elapsed() < way * 5, "one after the other: {:?}", sent.elapsed());
        peer.shutdown().await.expect("said");
        assert_eq!(peer.read(&mut back).await.expect("ended"), 0);
        echo.await.expect("no panic").expect("no error");
    }
}
