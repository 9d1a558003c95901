//! The road between server and database, which understands enough of PostgreSQL's protocol to break
//! it where it hurts: between COPY and COMMIT, or between COMMIT and the word that it was done. What
//! the server cannot know then, it must not guess.
//!
//! Where the n-th connection breaks depends on the seed and n; what is under way then is timing.

mod watch;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch::Sender;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub use self::watch::{Break, KINDS, Messages, Verdict, Watch};
use crate::dice::Dice;

const CONNECT: Duration = Duration::from_secs(5);
/// How long the database may take over a COMMIT whose answer is to be lost.
const DONE_WITHIN: Duration = Duration::from_secs(5);

/// The road. Ends with all its connections when dropped.
pub struct PostgresRoad {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    database: SocketAddr,
    spared: Range<u64>,
    rough: Sender<bool>,
    struck: [AtomicU64; KINDS.len()],
}

impl PostgresRoad {
    /// Listens on a free loopback port and leads to `database`, over a plain connection. Each
    /// connection breaks after it let so many transactions with rows pass. Smooth until
    /// [`PostgresRoad::roughen`].
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(seed: u64, database: SocketAddr, spared: Range<u64>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the road to PostgreSQL")?;
        let address = listener.local_addr()?;
        let struck = std::array::from_fn(|_| AtomicU64::new(0));
        let shared = Arc::new(Shared { database, spared, rough: Sender::new(false), struck });
        let accepting = tokio::spawn(accept(listener, Dice::new(seed), shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// Where servers connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Transactions break from now on.
    pub fn roughen(&self) {
        self.shared.rough.send_replace(true);
    }

    /// None does any more.
    pub fn mend(&self) {
        self.shared.rough.send_replace(false);
    }

    /// Breaks so far, by kind.
    pub fn struck(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.shared.struck.iter().map(|count| count.load(Ordering::Relaxed));
        KINDS.into_iter().zip(counts)
    }

    /// All of them.
    pub fn faults(&self) -> u64 {
        self.struck().map(|(_, count)| count).sum()
    }
}

impl Drop for PostgresRoad {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, dice: Dice, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let watch = Watch::new(dice.part(number), shared.spared.clone());
                number += 1;
                connections.spawn(relay(client, watch, shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// An error is an end of one side; the other ends with it.
async fn relay(client: TcpStream, watch: Watch, shared: Arc<Shared>) -> Result<()> {
    let database = timeout(CONNECT, TcpStream::connect(shared.database)).await??;
    client.set_nodelay(true)?;
    database.set_nodelay(true)?;
    let (mut asked, answers) = client.into_split();
    let (said, asks) = database.into_split();
    let mut road = Relay { said, asks, answers, watch, shared: &shared };
    let mut messages = Messages::default();
    let (mut question, mut answer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        // Cancel-safe: read() takes bytes and returns, or has taken none.
        tokio::select! {
            read = asked.read(&mut question) => {
                let read = read?;
                anyhow::ensure!(read > 0, "the server hung up");
                messages.push(&question[..read]);
                while let Some((kind, message)) = messages.whole() {
                    road.carry(kind, &message).await?;
                }
            }
            read = road.said.read(&mut answer) => {
                let read = read?;
                anyhow::ensure!(read > 0, "the database hung up");
                road.answers.write_all(&answer[..read]).await?;
            }
        }
    }
}

struct Relay<'a> {
    said: OwnedReadHalf,
    asks: OwnedWriteHalf,
    answers: OwnedWriteHalf,
    watch: Watch,
    shared: &'a Shared,
}

impl Relay<'_> {
    /// Forwards a message, or breaks the connection over it.
    async fn carry(&mut self, kind: u8, message: &[u8]) -> Result<()> {
        // The watch is kept on a smooth road too, so that it knows where it is when it gets rough.
        let hit = match self.watch.see(kind, message) {
            Verdict::Hit(hit) if *self.shared.rough.borrow() => hit,
            Verdict::Hit(_) | Verdict::Pass => return Ok(self.asks.write_all(message).await?),
        };
        self.shared.struck[hit.kind()].fetch_add(1, Ordering::Relaxed);
        match hit {
            Break::InCopy => self.asks.write_all(&message[..message.len() / 2]).await?,
            Break::AfterCopy | Break::AtCommit => self.asks.write_all(message).await?,
            Break::BeforeCommit | Break::Anywhere => {}
            Break::AfterCommit => {
                self.asks.write_all(message).await?;
                // The database was idle in its transaction, so what it says next is that it is done.
                timeout(DONE_WITHIN, self.said.read(&mut [0; 64])).await??;
            }
            Break::LateCommit(moment) => {
                sleep(moment).await;
                return Ok(self.asks.write_all(message).await?);
            }
            Break::LateAnswer(moment) => {
                self.asks.write_all(message).await?;
                sleep(moment).await;
                return Ok(());
            }
        }
        anyhow::bail!("broken on purpose: {hit:?}")
    }
}
