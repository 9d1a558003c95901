//! HTTP/1.1 with an agent, on a connection that gives its buffers back while nothing is asked.
//!
//! hyper keeps two buffers of 8 KiB and more on a connection for as long as it is open, and most agents of a fleet
//! say something once a minute. Here a connection on which nothing was asked for [`Limits::quiet`] is taken out of
//! hyper: it costs its TLS session and a task until the next byte comes, and then it is given to hyper again.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Limits;

/// To say goodbye to a peer that may be gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// The answer to one request, in a box of its own that goes when it was given.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// What was asked on a connection. Counted by its service.
#[derive(Debug, Default)]
pub(super) struct Asked {
    requests: AtomicU64,
    under_way: AtomicBool,
}

impl Asked {
    /// Counts a request in; it is under way until `answering` is done or dropped. HTTP/1.1 has one at a time.
    pub fn count(
        self: &Arc<Self>,
        answering: impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    ) -> Answering {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.store(true, Ordering::Relaxed);
        let own = self.clone();
        let done = super::OnDrop(move || own.under_way.store(false, Ordering::Relaxed));
        Box::pin(async move {
            let _done = done;
            answering.await
        })
    }

    /// Did a request come?
    pub fn any(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// How many came, if none is under way.
    fn answered(&self) -> Option<u64> {
        (!self.under_way.load(Ordering::Relaxed)).then(|| self.requests.load(Ordering::Relaxed))
    }
}

/// Serves requests on `stream` until the peer ends it, is silent for [`Limits::idle`], or `stop` and what was under
/// way is answered. `asked` is what `service` counts.
pub(super) async fn serve<I, S>(
    http: Builder,
    stream: I,
    mut service: S,
    asked: Arc<Asked>,
    limits: Limits,
    stop: CancellationToken,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + Unpin,
{
    // In a box, for it moves in and out of hyper.
    let mut line = Line { said: Bytes::new(), stream: Box::new(stream) };
    loop {
        let mut talk = Box::new(http.serve_connection(TokioIo::new(line), service));
        let rests = converse(&mut talk, &asked, limits.quiet, &stop).await?;
        let parts = talk.into_parts();
        (line, service) = (parts.io.into_inner(), parts.service);
        if !rests {
            break;
        }
        line.said = parts.read_buf;
        if line.said.is_empty() {
            match next_byte(&mut line.stream, limits.idle.saturating_sub(limits.quiet), &stop).await {
                Some(byte) => line.said = Bytes::copy_from_slice(&[byte]),
                None => break,
            }
        }
    }
    // TLS says that this is the end, if the peer still takes it.
    let _ = timeout(FAREWELL, line.stream.shutdown()).await;
    Ok(())
}

/// Serves requests until the connection is over (false) or rests (true), with nothing of a request in hand.
async fn converse<I, S>(
    talk: &mut Connection<TokioIo<Line<I>>, S>,
    asked: &Asked,
    quiet: Duration,
    stop: &CancellationToken,
) -> hyper::Result<bool>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + Unpin,
{
    let began = asked.answered();
    let (mut before, mut ending) = (None, false);
    loop {
        let looked = tokio::select! {
            () = stop.cancelled(), if !ending => None,
            // Cancel-safe: whatever was read or written so far lies in `talk`.
            looked = timeout(quiet, poll_fn(|context| talk.poll_without_shutdown(context))) => Some(looked),
        };
        match looked {
            Some(Ok(over)) => return over.map(|()| false),
            None => {
                Pin::new(&mut *talk).graceful_shutdown();
                ending = true;
            }
            Some(Err(_)) if ending => {}
            Some(Err(_)) => {
                let now = asked.answered();
                // Before a request is whole it has limits of its own.
                if now > began && now == before {
                    // With nothing under way this is its end at once. Else an answer is still on its way to the
                    // peer, and the connection ends behind it: the agent makes another one.
                    Pin::new(&mut *talk).graceful_shutdown();
                    ending = true;
                    let at_once = poll_fn(|context| Poll::Ready(talk.poll_without_shutdown(context))).await;
                    if let Poll::Ready(over) = at_once {
                        return over.map(|()| asked.answered() == now);
                    }
                }
                before = now;
            }
        }
    }
}

/// Waits for the peer to say something; `None` where it does not, or `stop` comes first.
async fn next_byte<I>(stream: &mut I, limit: Duration, stop: &CancellationToken) -> Option<u8>
where
    I: AsyncRead + Unpin,
{
    let mut first = [0; 1];
    tokio::select! {
        () = stop.cancelled() => None,
        // Cancel-safe: a read that is dropped has read nothing.
        read = timeout(limit, stream.read(&mut first)) => matches!(read, Ok(Ok(1))).then_some(first[0]),
    }
}

/// A stream whose first bytes were taken already.
struct Line<I> {
    said: Bytes,
    stream: Box<I>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Line<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.said.is_empty() {
            return Pin::new(&mut *self.stream).poll_read(context, buffer);
        }
        let some = self.said.len().min(buffer.remaining());
        buffer.put_slice(&self.said.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Line<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
