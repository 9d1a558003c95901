//! What the links read at this moment, and how the agent is, for whoever asks: `forebay-agent tail`,
//! `status` and `top`.
//!
//! A Unix socket in the state directory (`live.sock`, mode 0660), so that the rights on files decide who
//! may look, and nothing is open to the network. A watcher says in one line what it wants to see,
//! `device/point` with `*` for any letters, and gets one JSON object a line until it goes. `status` and
//! `metrics` are answered once.
//!
//! - Collecting never waits for a watcher: what is shown goes into a ring, and a watcher that is too slow
//!   is told how many pieces it missed and goes on with the oldest that is left.
//! - While nobody watches nothing is kept and nothing is copied. While somebody does, the ring holds at
//!   most [`RING`] pieces of [`PIECE`] readings with texts of [`LONGEST_TEXT`] bytes: below 4 MiB.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_config::classes::Pattern;
use forebay_protocols::field::source::Sample;
use forebay_protocols::reading::{Clock as StampClock, Point, Value};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backoff::{Waited, wait};
use crate::clock::Clock;

/// The socket's name in the state directory.
pub const SOCKET: &str = "live.sock";
/// Pieces that wait for the slowest watcher.
pub const RING: usize = 64;
/// Readings in a piece.
pub const PIECE: usize = 200;
/// A longer text is shown without its end.
pub const LONGEST_TEXT: usize = 200;
/// Watchers at the same time; more are turned away.
const MOST_WATCHERS: usize = 8;
/// Connections at the same time: watchers, and who asks how the agent is.
const MOST_CONNECTIONS: usize = 2 * MOST_WATCHERS;
/// What a watcher asks for is shorter than this, and comes at once.
const LONGEST_WISH: u64 = 512;
const WISH_WITHIN: Duration = Duration::from_secs(5);
/// A pause after a watcher could not be let in.
const LET_IN_AGAIN: Duration = Duration::from_millis(200);
/// A watcher that takes nothing for so long is gone.
const TAKES_WITHIN: Duration = Duration::from_secs(30);

/// A few readings of one link.
#[derive(Clone, Debug)]
struct Piece {
    link: Arc<str>,
    rows: Arc<[(Point, Sample)]>,
}

/// Where links show what they read. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Feed(broadcast::Sender<Piece>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(RING))
    }
}

impl Feed {
    /// Shows `samples` of a link to all who watch. Never waits, and does nothing while nobody watches.
    /// Samples of points that `points` does not have are left out.
    pub fn show(&self, link: &Arc<str>, points: &[Point], samples: &[Sample]) {
        if self.0.receiver_count() == 0 {
            return;
        }
        for part in samples.chunks(PIECE) {
            let rows = part.iter().filter_map(|sample| {
                let point = points.get(sample.slot)?.clone();
                let value = sample.value.as_ref().map(shortened);
                Some((point, Sample { value, ..sample.clone() }))
            });
            // An error says that the last watcher has just gone.
            let _ = self.0.send(Piece { link: link.clone(), rows: rows.collect() });
        }
    }
}

fn shortened(value: &Value) -> Value {
    match value {
        Value::Text(text) if text.len() > LONGEST_TEXT => {
            let end = (0..=LONGEST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            Value::Text(format!("{}…", &text[..end]).into())
        }
        other => other.clone(),
    }
}

/// A value as JSON; what JSON cannot write (NaN, infinities) is `null`.
pub fn value_json(value: &Value) -> Json {
    match value {
        Value::Float(number) => json!(number),
        Value::Integer(number) => json!(number),
        Value::Boolean(bit) => json!(bit),
        Value::Text(text) => json!(&**text),
    }
}

/// The socket, taken away again when dropped.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Opens the socket in `state_dir`, in place of one that a killed agent left there. To be called by
    /// the one who holds the buffer.
    ///
    /// # Errors
    /// When the socket cannot be made; the path of a socket has at most 107 bytes.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(SOCKET);
        if fs::symlink_metadata(&path).is_ok_and(|about| about.file_type().is_socket()) {
            fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        let door = Self { listener, path };
        // Between bind and here the state directory, which is nobody else's, guards it.
        fs::set_permissions(&door.path, Permissions::from_mode(0o660))?;
        Ok(door)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A question that is answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// How the agent is: one JSON object.
    Status,
    /// Its metrics.
    Metrics,
}

/// Answers questions.
pub type Answers = Arc<dyn Fn(Question) -> String + Send + Sync>;

/// What one who comes in may see.
#[derive(Clone)]
struct House {
    feed: Feed,
    clock: Clock,
    answers: Answers,
    places: Arc<Semaphore>,
}

/// Lets watchers in until `stop`.
pub async fn serve(door: Door, feed: Feed, clock: Clock, answers: Answers, stop: CancellationToken) {
    let house = House { feed, clock, answers, places: Arc::new(Semaphore::new(MOST_WATCHERS)) };
    let mut watchers = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = watchers.join_next() => {}
            accepted = door.listener.accept() => match accepted {
                Err(error) => {
                    // Out of file descriptors, most likely: some must come free first.
                    debug!("A watcher could not be let in: {error}");
                    if wait(LET_IN_AGAIN, &stop).await == Waited::Stopped {
                        return;
                    }
                }
                // Dropped, which says no.
                Ok(_) if watchers.len() >= MOST_CONNECTIONS => debug!("Another watcher would be too many."),
                Ok((stream, _)) => drop(watchers.spawn(watch(stream, house.clone()))),
            },
        }
    }
}

/// One watcher, until it goes.
async fn watch(stream: UnixStream, house: House) -> io::Result<()> {
    let House { feed, clock, answers, places } = house;
    let (from, mut to) = stream.into_split();
    let mut wish = String::new();
    let mut from = BufReader::new(from.take(LONGEST_WISH));
    timeout(WISH_WITHIN, from.read_line(&mut wish)).await??;
    let question = match wish.trim() {
        "status" => Some(Question::Status),
        "metrics" => Some(Question::Metrics),
        _ => None,
    };
    if let Some(question) = question {
        let answer = answers(question) + "\n";
        return timeout(TAKES_WITHIN, to.write_all(answer.as_bytes())).await?;
    }
    // Dropped, which says no.
    let Ok(_place) = places.try_acquire() else { return Ok(()) };
    let pattern = match Pattern::new(wish.trim()) {
        Ok(pattern) => pattern,
        Err(why) => {
            let no = json!({ "refused": why }).to_string() + "\n";
            return timeout(TAKES_WITHIN, to.write_all(no.as_bytes())).await?;
        }
    };
    let mut pieces = feed.0.subscribe();
    timeout(TAKES_WITHIN, to.write_all(b"{\"watching\":true}\n")).await??;
    loop {
        // It says nothing more: what comes from it now is its end.
        let mut nothing = [0; 1];
        let piece = tokio::select! {
            piece = pieces.recv() => piece,
            _ = from.read(&mut nothing) => return Ok(()),
        };
        let text = match piece {
            Ok(piece) => piece.lines(&pattern, &clock),
            Err(RecvError::Lagged(missed)) => json!({ "missed": missed }).to_string() + "\n",
            Err(RecvError::Closed) => return Ok(()),
        };
        timeout(TAKES_WITHIN, to.write_all(text.as_bytes())).await??;
    }
}

impl Piece {
    fn lines(&self, pattern: &Pattern, clock: &Clock) -> String {
        let belief = clock.belief();
        let mut text = String::new();
        for (point, sample) in
            self.rows.iter().filter(|(point, _)| pattern.matches(&point.device, &point.name))
        {
            let Point { device, name, unit, data_type, .. } = point;
            let line = json!({
                "link": &*self.link,
                "device": &**device,
                "point": &**name,
                "value": sample.value.as_ref().map(value_json),
                "unit": &**unit,
                "type": data_type.word(),
                "quality": sample.quality.words(),
                "time_us": sample.stamp.wall(belief.offset_us),
                "synchronised": belief.synchronised() || sample.stamp.clock == StampClock::Device,
            });
            text += &line.to_string();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests;
