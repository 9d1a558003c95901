//! How late readings reach those who watch: the server's live feed against the readings' own times.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use forebay_protocols::boot_time::wall_micros;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A reader of the live feed. Ends when dropped.
pub struct Lateness {
    seen: Arc<Mutex<Vec<i64>>>,
    reading: JoinHandle<()>,
}

/// What was seen, milliseconds, ascending.
pub struct Seen(Vec<i64>);

impl Lateness {
    /// Reads `/api/v1/live` of the server at `web`, from now on.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn watch(web: SocketAddr) -> Result<Self> {
        Self::watch_agent(web, None).await
    }

    /// The same of one agent, `site/gateway`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn watch_agent(web: SocketAddr, agent: Option<&str>) -> Result<Self> {
        let query = agent.map_or_else(String::new, |agent| format!("?agent={agent}"));
        let mut stream = TcpStream::connect(web).await.context("connect to the live feed")?;
        let request =
            format!("GET /api/v1/live{query} HTTP/1.1\r\nHost: {web}\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await?.unwrap_or_default();
        ensure!(status.contains(" 200 "), "the live feed answered {status}");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let now = wall_micros() / 1000;
                let Some(rows) = line.strip_prefix("data:") else { continue };
                let Ok(Value::Array(rows)) = serde_json::from_str::<Value>(rows.trim()) else { continue };
                let late = rows.iter().filter_map(|row| row.get(1)?.as_f64()).map(|time| now - time as i64);
                noted.lock().unwrap_or_else(PoisonError::into_inner).extend(late);
            }
        });
        Ok(Self { seen, reading })
    }

    /// How many were seen so far.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends the watch.
    pub fn end(self) -> Seen {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.sort_unstable();
        Seen(seen)
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Seen {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Milliseconds that this part of them was not later than.
    pub fn quantile(&self, part: f64) -> i64 {
        let place = (self.0.len() as f64 * part).ceil() as usize;
        self.0.get(place.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(0)
    }
}
