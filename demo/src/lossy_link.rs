//! The road between agent and server, with faults on demand: cut, stalled, or swallowing answers.
//! A TCP relay that counts what passes, so that bytes per reading include TLS and HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the road does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// Everything passes.
    Open,
    /// Connections are closed and refused.
    Cut,
    /// Connections stay open and nothing moves.
    Stalled,
    /// Requests reach the server; its answers are lost.
    SwallowsAnswers,
    /// Answers come so much later.
    Slow(Duration),
}

/// A relay to one address. Ends when dropped.
pub struct LossyLink {
    address: SocketAddr,
    road: watch::Sender<Road>,
    bytes: Arc<Bytes>,
    accepting: JoinHandle<()>,
}

/// Bytes that passed, both ways.
#[derive(Default)]
struct Bytes {
    up: AtomicU64,
    down: AtomicU64,
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl LossyLink {
    /// Listens on a free loopback port and relays to `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target).await
    }

    /// Listens at `address` and relays to `target`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_at(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen at {address}"))?;
        let address = listener.local_addr()?;
        let (road, watched) = watch::channel(Road::Open);
        let bytes = Arc::new(Bytes::default());
        let accepting = tokio::spawn(accept(listener, target, watched, bytes.clone()));
        Ok(Self { address, road, bytes, accepting })
    }

    /// Where agents connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the road, for open connections too.
    pub fn set(&self, road: Road) {
        self.road.send_replace(road);
    }

    /// Bytes that passed so far, both ways together.
    pub fn bytes(&self) -> u64 {
        self.bytes.up.load(Ordering::Relaxed) + self.bytes.down.load(Ordering::Relaxed)
    }
}

impl Drop for LossyLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, road: watch::Receiver<Road>, bytes: Arc<Bytes>) {
    // Connections end with this set, and the set with the link.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if *road.borrow() != Road::Cut {
                    connections.spawn(relay(client, target, road.clone(), bytes.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(client: TcpStream, target: SocketAddr, mut road: watch::Receiver<Road>, bytes: Arc<Bytes>) {
    let connecting = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(target));
    let Ok(Ok(server)) = connecting.await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let (up, down) = (road.clone(), road.clone());
    tokio::select! {
        _ = pump(client_in, server_out, up, Way::Up, &bytes) => {}
        _ = pump(server_in, client_out, down, Way::Down, &bytes) => {}
        _ = road.wait_for(|road| *road == Road::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut road: watch::Receiver<Road>,
    way: Way,
    bytes: &Bytes,
) -> std::io::Result<()> {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        // What was read while the road is stalled waits here, and the sender behind it.
        let Ok(now) = road.wait_for(|road| *road != Road::Stalled).await.map(|road| *road) else {
            return Ok(());
        };
        if now == Road::SwallowsAnswers && matches!(way, Way::Down) {
            continue;
        }
        if let (Road::Slow(late), Way::Down) = (now, way) {
            tokio::time::sleep(late).await;
        }
        to.write_all(&piece[..n]).await?;
        match way {
            Way::Up => bytes.up.fetch_add(n as u64, Ordering::Relaxed),
            Way::Down => bytes.down.fetch_add(n as u64, Ordering::Relaxed),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = peer.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_cut_road_closes_what_is_open_and_refuses_what_comes() {
        let link = LossyLink::start(echo().await).await.expect("a link");
        let mut peer = TcpStream::connect(link.address()).await.expect("connects");
        let mut answer = [0; 4];
        peer.write_all(b"ping").await.expect("written");
        peer.read_exact(&mut answer).await.expect("echoed");
        assert_eq!((&answer, link.bytes()), (b"ping", 8));

        link.set(Road::Cut);
        assert_eq!(peer.read(&mut answer).await.unwrap_or(0), 0, "the open connection ends");
        let mut peer = TcpStream::connect(link.address()).await.expect("the port still accepts");
        assert_eq!(peer.read(&mut answer).await.unwrap_or(0), 0, "and closes at once");

        link.set(Road::Open);
        let mut peer = TcpStream::connect(link.address()).await.expect("connects");
        peer.write_all(b"pong").await.expect("written");
        peer.read_exact(&mut answer).await.expect("echoed");
        assert_eq!(&answer, b"pong");
    }
}
