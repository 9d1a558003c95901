//! `/live`: the feed as server-sent events (WHATWG HTML, 9.2). A browser that comes back sends the id of the
//! last event by itself.

use std::convert::Infallible;

use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Sse};
use futures::{StreamExt, stream};

use super::super::guard::Caller;
use super::super::parameters::Parameters;
use super::super::problem::Problem;
use super::{Reader, Wanted, event_id};

/// Tells proxies to pass events on as they come (nginx).
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

pub(in super::super) async fn live(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    // Whoever is cut off before the first event knows from where it has nothing: an id alone makes no event.
    let first = Event::default().id(event_id());
    // The answer's head tells the reader that from here on nothing is missed.
    let reader = Reader::new(&caller, &wanted, last).await?;
    let events = stream::unfold(reader, |mut reader| async {
        let told = reader.next().await.ok()?;
        Some((Event::default().id(told.id).event(told.name).data(told.data), reader))
    });
    let events = stream::iter([first]).chain(events).map(Ok::<_, Infallible>);
    Ok(([UNBUFFERED], Sse::new(events).keep_alive(KeepAlive::default())))
}
