//! HTTP/1.1 with agents, whose requests take turns.
//!
//! hyper keeps two buffers of 8 KiB on a connection for as long as it has it, and most agents of a fleet say
//! something every few seconds or minutes. So an agent's connection is with hyper while a request of it is read and
//! answered; before and after it costs its TLS session and a task.
//!
//! - At most [`AT_ONCE`] connections have a turn, and nothing is read of a request before it has: what thousands of
//!   agents need that come back at the same moment is the same memory, one after another.
//! - A turn lasts until the request is answered or the peer has gone, and [`LASTS`] at most. A slow peer or a slow
//!   store then goes on without one, within the limits that bodies and commits have of their own.
//! - Turns are given in the order in which requests came, so nobody waits for ever.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection, Parts};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Limits;

/// Requests read and answered at a time. As many small ones are decoded at a time, and share transactions.
pub(super) const AT_ONCE: usize = 128;
/// The longest turn. While a busy machine commits for a second the bound shall hold, and thousands of peers that are all
/// slow on purpose shall have had theirs before an agent gives up.
const LASTS: Duration = Duration::from_secs(2);
/// To say goodbye to a peer that may be gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// The answer to one request, in a box of its own that goes when it was given.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Whether the newest request on a connection was answered. Kept by its service; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered(Arc<AtomicBool>);

impl Answered {
    /// A request came; it is answered when `answering` is done.
    pub fn after(
        &self,
        answering: impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    ) -> Answering {
        self.set(false);
        let own = self.clone();
        Box::pin(async move {
            let answer = answering.await;
            own.set(true);
            answer
        })
    }

    fn set(&self, answered: bool) {
        self.0.store(answered, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream that tells that something has come before any of it is taken. A trait for the sake of tests, where time
/// stands still and sockets would not.
pub(super) trait Awaited: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Waits until there is something to read; dropping it loses nothing.
    fn comes(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Awaited for TlsStream<TcpStream> {
    async fn comes(&mut self) -> io::Result<()> {
        self.get_ref().0.readable().await
    }
}

/// Serves requests on `stream` by turns until the peer ends it, is silent for too long, or `stop` comes and what was
/// under way is answered. `service` keeps `answered`.
pub(super) async fn serve<I, S>(
    http: Builder,
    // In a box, for it moves in and out of hyper.
    stream: Box<I>,
    (mut service, answered): (S, Answered),
    turns: Arc<Semaphore>,
    limits: Limits,
    stop: CancellationToken,
) -> hyper::Result<()>
where
    I: Awaited,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + Unpin,
{
    let mut line = Line { said: Bytes::new(), stream };
    let mut patience = limits.first_request;
    while line.comes(patience, &stop).await {
        patience = limits.idle;
        let turn = tokio::select! {
            biased;
            // What is not read yet was not acknowledged either, and comes again.
            () = stop.cancelled() => break,
            turn = turns.acquire() => turn,
        };
        // Never closed.
        let Ok(turn) = turn else { break };
        answered.set(false);
        // Nothing of what it was in outlives it.
        let (rests, parts) = {
            let mut talk = Box::new(http.serve_connection(TokioIo::new(line), service));
            (converse(&mut talk, &answered, turn, &stop).await?, talk.into_parts())
        };
        let Parts { io, read_buf, service: again, .. } = parts;
        (line, service) = (io.into_inner(), again);
        // Empty, it would still hold all that hyper had for it.
        line.said = if read_buf.is_empty() { Bytes::new() } else { read_buf };
        if !rests {
            break;
        }
    }
    // TLS says that this is the end, if the peer still takes it.
    let _ = timeout(FAREWELL, line.stream.shutdown()).await;
    Ok(())
}

/// Has what comes read and answered until nothing of a request is in hand (true) or the connection is over (false).
async fn converse<I, S>(
    talk: &mut Connection<TokioIo<Line<I>>, S>,
    answered: &Answered,
    turn: SemaphorePermit<'_>,
    stop: &CancellationToken,
) -> hyper::Result<bool>
where
    I: Awaited,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + Unpin,
{
    let mut turn = Some(turn);
    let mut ending = false;
    loop {
        let limit = if turn.is_some() { LASTS } else { Duration::MAX };
        let news = poll_fn(|context| match talk.poll_without_shutdown(context) {
            Poll::Ready(over) => Poll::Ready(Some(over)),
            Poll::Pending if answered.get() && !ending => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        // Cancel-safe: whatever was read or written so far lies in `talk`.
        let news = tokio::select! {
            () = stop.cancelled(), if !ending => None,
            news = timeout(limit, news) => Some(news),
        };
        match news {
            Some(Ok(Some(over))) => return over.map(|()| false),
            Some(Err(_)) => turn = None,
            // Answered, or told to stop. With nothing under way this is the end at once; else an answer is still on
            // its way to the peer, and the connection ends behind it: the agent makes another one.
            Some(Ok(None)) | None => {
                Pin::new(&mut *talk).graceful_shutdown();
                ending = true;
                let at_once = poll_fn(|context| Poll::Ready(talk.poll_without_shutdown(context))).await;
                if let Poll::Ready(over) = at_once {
                    return over.map(|()| answered.get());
                }
            }
        }
    }
}

/// A stream whose first bytes were taken already.
struct Line<I> {
    said: Bytes,
    stream: Box<I>,
}

impl<I: Awaited> Line<I> {
    /// Waits until there is something to read; false where nothing comes within `limit`, or `stop` comes first.
    async fn comes(&mut self, limit: Duration, stop: &CancellationToken) -> bool {
        if !self.said.is_empty() {
            return true;
        }
        // What TLS has opened already the socket would not tell of again.
        let mut first = [0; 1];
        match unconstrained(self.stream.read(&mut first)).now_or_never() {
            Some(Ok(1)) => self.said = Bytes::copy_from_slice(&first),
            Some(_) => return false,
            None => {
                return tokio::select! {
                    () = stop.cancelled() => false,
                    came = timeout(limit, self.stream.comes()) => matches!(came, Ok(Ok(()))),
                };
            }
        }
        true
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Line<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
