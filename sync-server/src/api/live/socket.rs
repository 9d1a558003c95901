//! `/live/socket`: the feed over a WebSocket (RFC 6455). Each message is one event, `{id, event, data}`, as
//! text. A page of another site cannot open it: see [`guard`](super::super::guard).
//!
//! A socket lives until its reader goes, is not heard of for [`DEAD`], takes nothing for [`TAKEN`], may read
//! no more (1008), or until the server stops (1001).

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::guard::Caller;
use super::super::parameters::Parameters;
use super::super::problem::Problem;
use super::{End, Reader, Told, Wanted, event_id};

/// Routers on the way forget connections on which nothing is said.
const PING: Duration = Duration::from_secs(20);
/// A reader that answers no ping for so long is gone.
const DEAD: Duration = Duration::from_secs(65);
/// An event that is not taken within this time: the reader is gone, or may as well come again.
const TAKEN: Duration = Duration::from_secs(60);
/// For the other side's word that it closes too.
const FAREWELL: Duration = Duration::from_secs(2);
/// Nothing is to be said to this feed but that one is there.
const LONGEST: usize = 4 << 10;
/// Seconds after which to try again where all seats are taken.
const LATER: u64 = 10;

pub(in super::super) async fn socket(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|refused| {
        let words = format!(
            "this path speaks WebSocket ({}): the same as server-sent events is at /api/v1/live",
            refused.body_text().trim_end_matches('.')
        );
        Problem::BadRequest(words)
    })?;
    // The connection is not counted by its listener once it is a socket.
    let seat = caller
        .feed
        .seat()
        .ok_or_else(|| Problem::TooMany("as many live feeds are open as this server bears".into(), LATER))?;
    let first = Told { id: event_id(), name: "ready", data: "null".into() };
    let reader = Reader::new(&caller, &wanted, None).await?;
    let upgrade = upgrade.max_message_size(LONGEST).max_frame_size(LONGEST);
    Ok(upgrade.on_upgrade(move |socket| async move {
        serve(socket, reader, first).await;
        drop(seat);
    }))
}

async fn serve(mut socket: WebSocket, mut reader: Reader, first: Told) {
    let mut outcome = send(&mut socket, &mut reader, text(first)).await;
    let (mut heard, mut ping_at) = (Instant::now(), Instant::now() + PING);
    while outcome.is_ok() {
        let next = {
            // Kept over what else there is to do, for it must not be dropped before its end.
            let next = reader.next();
            tokio::pin!(next);
            loop {
                tokio::select! {
                    told = &mut next => break told.map(text).map_err(Leave::from),
                    // Loses nothing when dropped: a message is taken when it is returned.
                    message = socket.recv() => match message {
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => heard = Instant::now(),
                        Some(Ok(Message::Text(_) | Message::Binary(_))) => break Err(Leave::NOT_A_WORD),
                        Some(Ok(Message::Close(_)) | Err(_)) | None => break Err(Leave::Gone),
                    },
                    () = sleep_until(ping_at) => {
                        ping_at = Instant::now() + PING;
                        break match heard.elapsed() > DEAD {
                            true => Err(Leave::Gone),
                            false => Ok(Message::Ping(Bytes::new())),
                        };
                    }
                }
            }
        };
        outcome = match next {
            Ok(message) => send(&mut socket, &mut reader, message).await,
            Err(leave) => Err(leave),
        };
    }
    let Err(Leave::With(code, reason)) = outcome else { return };
    let farewell = async {
        let frame = CloseFrame { code, reason: reason.into() };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // Whoever does not answer is cut off.
    let _ = timeout(FAREWELL, farewell).await;
}

/// How a socket ends.
enum Leave {
    /// Nobody is there to be told.
    Gone,
    /// With this word (RFC 6455, 7.4.1).
    With(u16, &'static str),
}

impl Leave {
    const NOT_A_WORD: Self = Self::With(close_code::UNSUPPORTED, "this feed takes no messages");
}

impl From<End> for Leave {
    fn from(end: End) -> Self {
        match end {
            End::Stop => Self::With(close_code::AWAY, "the server stops"),
            End::Over => Self::With(close_code::POLICY, "the log-in or the key is over"),
        }
    }
}

/// One message, to its end. While the reader takes nothing nothing else is gathered.
async fn send(socket: &mut WebSocket, reader: &mut Reader, message: Message) -> Result<(), Leave> {
    tokio::select! {
        sent = timeout(TAKEN, socket.send(message)) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Leave::Gone),
        },
        // A message cut off in its middle is nothing to add a farewell to.
        _ = reader.over() => Err(Leave::Gone),
    }
}

fn text(Told { id, name, data }: Told) -> Message {
    Message::Text(format!("{{\"id\":\"{id}\",\"event\":\"{name}\",\"data\":{data}}}").into())
}
