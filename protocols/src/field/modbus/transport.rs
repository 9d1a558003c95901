//! Exchanges over one byte stream, MBAP or RTU framed: one at a time, or with MBAP several.
//!
//! The client side of the framing is our own. A general client hands every frame to whoever waits;
//! what we need is the opposite, that a frame nobody waits for reaches nobody:
//! - MBAP: only a frame with the transaction id of a query that is waited for is an answer, and of
//!   that query alone; all others are counted and skipped, and a framing error ends the connection.
//!   Some gateways answer with unit id 0 or 255; as the transaction id has already named the exchange,
//!   those are accepted.
//! - RTU has no transaction id, so a late reply looks like ours. Before each query the line must
//!   have been silent for the inter-frame time, and whatever is heard meanwhile is thrown away.
//!   Checksum, unit, function and number of values must be right. The bus does the rest by leaving
//!   a unit that timed out alone (`breaker`).
//!
//! Every exchange ends: with its reply, with `Silent` or `Garbled` at its deadline, or with the
//! loss of the stream. After a loss the transport must be dropped.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::frame::{self, Query, Reply};
use crate::field::fine_timer::FineTimer;

/// What a transport runs over: a TCP connection, a tty, a test's pipe.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The most bytes kept while searching for an RTU frame; two of the longest.
const SEARCHED: usize = 512;

/// The shortest listening before a query, on a line that was silent for long: the port is asked at
/// least once whether that is so.
const SHORTEST_LOOK: Duration = Duration::from_micros(200);

/// The rules of a line with RTU frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTiming {
    /// Silence before each query.
    pub silence: Duration,
    /// How long one character is on the line; zero where the frames come over TCP.
    pub character: Duration,
}

/// A connection to one or many units.
pub struct Transport {
    stream: Box<dyn Stream>,
    framing: Framing,
    received: BytesMut,
    discarded: u64,
    /// When bytes were last read. The line has been silent since, or longer.
    heard: Instant,
    /// Where the runtime's timer is too coarse.
    timer: Option<FineTimer>,
}

enum Framing {
    Mbap { last_id: u16, pause: Duration },
    Rtu(LineTiming),
}

/// The stream is gone, or cannot be trusted any more. Plain words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLost(pub String);

impl Transport {
    /// MBAP frames, with `pause` before each query.
    pub fn mbap(stream: Box<dyn Stream>, pause: Duration) -> Self {
        Self::new(stream, Framing::Mbap { last_id: 0, pause })
    }

    /// RTU frames.
    pub fn rtu(stream: Box<dyn Stream>, timing: LineTiming) -> Self {
        Self::new(stream, Framing::Rtu(timing))
    }

    fn new(stream: Box<dyn Stream>, framing: Framing) -> Self {
        Self {
            stream,
            framing,
            received: BytesMut::with_capacity(SEARCHED),
            discarded: 0,
            heard: Instant::now(),
            timer: None,
        }
    }

    /// Keeps silences to some ten microseconds, where the kernel has a timer for it. Of a line whose
    /// frames last milliseconds, the runtime's timer would leave a tenth unused.
    pub fn with_fine_silence(mut self) -> Self {
        self.timer = FineTimer::new().ok();
        self
    }

    /// Frames and runs of stray bytes that answered nothing, since the last call.
    pub fn take_discarded(&mut self) -> u64 {
        std::mem::take(&mut self.discarded)
    }

    /// Asks and waits up to `timeout` for the answer to begin and end. On a serial line the time
    /// the frames themselves need is added: 250 bytes at 1200 baud take longer than many timeouts.
    ///
    /// Not cancel-safe: a dropped exchange leaves its answer under way. MBAP skips it by id; an
    /// RTU transport must be dropped with it.
    pub async fn exchange(&mut self, query: Query, timeout: Duration) -> Result<Reply, StreamLost> {
        match self.framing {
            Framing::Mbap { .. } => {
                let id = self.send(query, timeout).await?;
                // Other frames than the answer do not end the wait.
                let reply = self.receive(&[(id, query)], Instant::now() + timeout).await?;
                Ok(reply.map_or(Reply::Silent, |(_, reply)| reply))
            }
            Framing::Rtu(line) => {
                if !self.falls_silent(line.silence, timeout).await? {
                    return Ok(Reply::Garbled);
                }
                let characters = query.to_rtu().len() + query.rtu_answer_length();
                let on_the_line = line.character * characters as u32;
                self.exchange_rtu(query, Instant::now() + timeout + on_the_line).await
            }
        }
    }

    /// Sends a query without waiting for its answer and gives its transaction id. Only MBAP frames
    /// can be told apart, so of RTU nothing else may be under way.
    pub async fn send(&mut self, query: Query, timeout: Duration) -> Result<u16, StreamLost> {
        let Framing::Mbap { last_id, pause } = self.framing else {
            return Err(StreamLost("RTU frames carry no transaction id".into()));
        };
        let id = last_id.wrapping_add(1);
        self.framing = Framing::Mbap { last_id: id, pause };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.write(&query.to_mbap(id), Instant::now() + timeout).await?;
        Ok(id)
    }

    /// The next answer to one of the queries that are `waiting`, with its transaction id; `None` if
    /// none came before `until`. What has arrived of a frame by then stays for the next call.
    ///
    /// Cancel-safe.
    pub async fn receive(
        &mut self,
        waiting: &[(u16, Query)],
        until: Instant,
    ) -> Result<Option<(u16, Reply)>, StreamLost> {
        loop {
            while let Some(frame) = frame::mbap(&self.received).map_err(StreamLost)? {
                let asked = waiting.iter().find(|(id, query)| {
                    *id == frame.id && (frame.unit == query.unit || matches!(frame.unit, 0 | 255))
                });
                let answer = asked.map(|(id, query)| (*id, query.judge(frame.pdu)));
                let length = frame.length;
                self.received.advance(length);
                match answer {
                    Some(answer) => return Ok(Some(answer)),
                    None => self.discarded += 1,
                }
            }
            if !self.read_until(until).await? {
                return Ok(None);
            }
        }
    }

    async fn exchange_rtu(&mut self, query: Query, deadline: Instant) -> Result<Reply, StreamLost> {
        self.write(&query.to_rtu(), deadline).await?;
        loop {
            while let Some(frame) = frame::rtu(&self.received) {
                let is_function = frame.pdu.first().is_some_and(|f| f & 0x7f == query.function());
                let reply = (frame.unit == query.unit && is_function).then(|| query.judge(frame.pdu));
                let end = frame.end;
                self.received.advance(end);
                match reply {
                    Some(reply) => return Ok(reply),
                    None => self.discarded += 1,
                }
            }
            let surplus = self.received.len().saturating_sub(SEARCHED);
            self.received.advance(surplus);
            if !self.read_until(deadline).await? {
                let is_quiet = self.received.is_empty() || self.received[..] == query.to_rtu();
                self.received.clear();
                return Ok(if is_quiet { Reply::Silent } else { Reply::Garbled });
            }
        }
    }

    /// Waits until nothing was heard for `silence`, throwing away what is. False if the line does
    /// not fall silent within `patience`: somebody else talks on it.
    async fn falls_silent(&mut self, silence: Duration, patience: Duration) -> Result<bool, StreamLost> {
        let give_up = Instant::now() + silence + patience;
        let mut stray = !self.received.is_empty();
        self.received.clear();
        // What came before we look may have come at any time since. Until the shortest look has
        // passed, nobody has asked the port.
        let mut quiet = silence.saturating_sub(self.heard.elapsed()).max(SHORTEST_LOOK.min(silence));
        while self.hears_within(quiet).await? {
            stray = true;
            quiet = silence;
            self.received.clear();
            if Instant::now() >= give_up {
                self.discarded += 1;
                return Ok(false);
            }
        }
        self.discarded += u64::from(stray);
        Ok(true)
    }

    /// Reads once. False when nothing came within `time`.
    async fn hears_within(&mut self, time: Duration) -> Result<bool, StreamLost> {
        let Some(timer) = self.timer.take() else { return self.read_until(Instant::now() + time).await };
        let heard = tokio::select! {
            biased;
            // Reading is cancel-safe: what was not read stays in the port.
            heard = self.read() => Some(heard),
            waited = timer.wait(time) => match waited {
                Ok(()) => None,
                Err(_) => return self.read_until(Instant::now() + time).await,
            }
        };
        self.timer = Some(timer);
        heard.map_or(Ok(false), |heard| heard.map(|()| true))
    }

    /// Reads once. False when `deadline` came first.
    async fn read_until(&mut self, deadline: Instant) -> Result<bool, StreamLost> {
        // A peer that never stops talking would keep every read ready and its timer unheard.
        if Instant::now() >= deadline {
            return Ok(false);
        }
        match timeout_at(deadline, self.read()).await {
            Err(_) => Ok(false),
            Ok(read) => read.map(|()| true),
        }
    }

    async fn read(&mut self) -> Result<(), StreamLost> {
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(StreamLost(self.end_in_words().into())),
            Ok(_) => {
                self.heard = Instant::now();
                Ok(())
            }
            Err(why) => Err(StreamLost(why.to_string())),
        }
    }

    fn end_in_words(&self) -> &'static str {
        match self.framing {
            Framing::Rtu(line) if !line.character.is_zero() => "the port is gone; was the adapter unplugged?",
            _ => "the other side closed it; many devices accept only one connection at a time",
        }
    }

    async fn write(&mut self, frame: &[u8], deadline: Instant) -> Result<(), StreamLost> {
        // No flush: on a tty it would block the thread until the last bit has left.
        match timeout_at(deadline, self.stream.write_all(frame)).await {
            Err(_) => Err(StreamLost("it does not take any more bytes".into())),
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(StreamLost(why.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_config::field::Register;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_is_always_ready_with_noise_ends_at_its_deadline() {
        let noise = tokio::io::join(tokio::io::repeat(0x55), tokio::io::sink());
        let timing = LineTiming { silence: Duration::from_millis(2), character: Duration::from_micros(1) };
        let mut transport = Transport::rtu(Box::new(noise), timing);
        let query = Query { unit: 1, table: Register::Coil, address: 0, count: 1 };
        let reply = transport.exchange(query, Duration::from_millis(20)).await;
        assert_eq!(reply, Ok(Reply::Garbled));
        assert!(transport.received.capacity() < 4 * SEARCHED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_no_bytes_is_lost() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut transport = Transport::mbap(Box::new(ours), Duration::ZERO);
        let query = Query { unit: 1, table: Register::Holding, address: 0, count: 1 };
        let lost = transport.exchange(query, Duration::from_secs(1)).await.unwrap_err();
        assert!(lost.0.contains("not take"), "{lost:?}");
    }
}
