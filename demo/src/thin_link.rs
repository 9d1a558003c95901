//! A road of a certain width between agent and server: a TCP relay that passes so many bits a
//! second each way, whatever the number of connections. It keeps little itself, so that a sender
//! feels the width at once, as on a metered modem.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// What the relay takes in before the sender has to wait.
const KEPT: u32 = 32 << 10;
/// Bytes moved at a time: 3 ms of 10 Mbit/s.
const PIECE: usize = 4 << 10;
/// Timers tick in milliseconds and machines are busy: without this a tenth of the width and more
/// is lost.
const LATE: Duration = Duration::from_millis(20);

/// A relay to one address. Ends when dropped.
pub struct ThinLink {
    address: SocketAddr,
    up: Arc<Lane>,
    down: Arc<Lane>,
    accepting: JoinHandle<()>,
}

/// One direction, shared by all connections.
struct Lane {
    /// Time a byte takes, in nanoseconds.
    byte_ns: u64,
    free_at: Mutex<Instant>,
    passed: AtomicU64,
}

impl ThinLink {
    /// Listens on a free loopback port and relays to `target`, `bits` a second each way.
    ///
    /// # Errors
    /// When no port can be had or `bits` is zero.
    pub async fn start(target: SocketAddr, bits: u64) -> Result<Self> {
        let byte_ns = 8_000_000_000_u64.checked_div(bits).context("a link of no width")?;
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(KEPT)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(64).context("listen for the thin link")?;
        let address = listener.local_addr()?;
        let lane =
            || Arc::new(Lane { byte_ns, free_at: Mutex::new(Instant::now()), passed: AtomicU64::new(0) });
        let (up, down) = (lane(), lane());
        let lanes = (up.clone(), down.clone());
        let accepting = tokio::spawn(async move {
            // Connections end with this set, and the set with the link.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(client, target, lanes.0.clone(), lanes.1.clone()));
            }
        });
        Ok(Self { address, up, down, accepting })
    }

    /// Where agents connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that passed towards the server.
    pub fn bytes_up(&self) -> u64 {
        self.up.passed.load(Ordering::Relaxed)
    }

    /// Bytes that passed towards the agent.
    pub fn bytes_down(&self) -> u64 {
        self.down.passed.load(Ordering::Relaxed)
    }
}

impl Drop for ThinLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(client: TcpStream, target: SocketAddr, up: Arc<Lane>, down: Arc<Lane>) {
    let connecting = async {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(KEPT)?;
        socket.connect(target).await
    };
    let Ok(Ok(server)) = tokio::time::timeout(Duration::from_secs(5), connecting).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        _ = pump(client_in, server_out, &up) => {}
        _ = pump(server_in, client_out, &down) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    lane: &Lane,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        lane.pass(n as u64).await;
        to.write_all(&piece[..n]).await?;
    }
}

impl Lane {
    /// Waits until so many bytes have passed; first come, first served.
    async fn pass(&self, bytes: u64) {
        let through = {
            let mut free_at = self.free_at.lock().await;
            let begin = begins(*free_at, Instant::now());
            *free_at = begin + Duration::from_nanos(bytes * self.byte_ns);
            *free_at
        };
        // The clock of the runtime ticks in milliseconds: what is due sooner goes at once, and the
        // debt stays in `free_at`.
        if through > Instant::now() + Duration::from_millis(1) {
            sleep_until(through).await;
        }
        self.passed.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Who wakes late finds the link as it would be had it woken in time.
fn begins(free_at: Instant, now: Instant) -> Instant {
    free_at.max(now.checked_sub(LATE).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn who_wakes_late_loses_nothing_and_who_comes_late_gains_little() {
        let now = Instant::now() + Duration::from_secs(1);
        for (ms, wanted) in [(5, 5), (20, 20), (500, 20)] {
            let begin = begins(now - Duration::from_millis(ms), now);
            assert_eq!(now - begin, Duration::from_millis(wanted), "free for {ms} ms");
        }
        assert_eq!(begins(now + LATE, now), now + LATE, "not free yet");
    }

    #[tokio::test]
    async fn what_passes_is_counted_and_comes_out_as_it_went_in() {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let link = ThinLink::start(target.local_addr().expect("bound"), 80_000_000).await.expect("a link");
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let mut out = TcpStream::connect(link.address()).await.expect("connects");
        let (mut received, (mut peer, _)) = (Vec::new(), target.accept().await.expect("relayed"));
        let (written, read) = tokio::join!(
            async {
                out.write_all(&sent).await?;
                out.shutdown().await
            },
            peer.read_to_end(&mut received)
        );
        written.and(read).expect("no error on loopback");
        assert_eq!((received.len(), received == sent, link.bytes_up()), (sent.len(), true, 100_000));
    }
}
