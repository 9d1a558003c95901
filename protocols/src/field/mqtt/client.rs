//! One connection to a broker, from CONNECT to goodbye.
//!
//! A task of its own (the pump) polls the dialect and does nothing else, because a poll that comes
//! late drops keep-alives. It puts messages into the inbox without ever waiting; what happens at
//! the inbox's bounds is the difference between the two qualities of service:
//!
//! - QoS 0 may use half of it; beyond that messages are dropped and counted.
//! - QoS 1 is held back by the broker, which sends only so many messages ahead of our
//!   acknowledgements. A broker that knows no such limit fills the inbox. Then nothing more of QoS 1
//!   is taken in; when all that was taken is acknowledged the connection ends, and the broker sends
//!   the rest in the next one. Ended at once it would send all of it again, and on a slow gateway
//!   for ever.
//!
//! A publish is acknowledged by its [`Receipt`] and in no other way, and only when those before it
//! are: acknowledgements leave in the order in which the publishes came (MQTT 3.1.1 and 5, 4.6).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::dialect::{Dialect, Ending, Event, Filter, Message, Terms, Ticket, Voice};
use crate::field::source::{LinkFault, Receipt};

/// Messages in the inbox.
const INBOX_MESSAGES: usize = 32_768;
/// Bytes in the inbox, or twice the largest message if that is more.
const INBOX_BYTES: usize = 32 << 20;
/// Filters in one SUBSCRIBE: what the strictest brokers take.
const FILTERS_AT_ONCE: usize = 8;
/// The longest wait for our goodbye to go out, and for the broker to have heard it.
const FAREWELL: Duration = Duration::from_secs(2);
/// Of that, for a broker that heard it and does not hang up, as it should.
const HEARD_OUT: Duration = Duration::from_secs(1);

/// A connection with its subscriptions granted.
pub(super) struct Connection {
    peer: Arc<str>,
    voice: Voice,
    inbox: mpsc::Receiver<Message>,
    books: Arc<Books>,
    pump: AbortOnDropHandle<LinkFault>,
}

/// What the pump, the inbox's reader and the receipts share.
#[derive(Default)]
struct Books {
    /// Bytes waiting in the inbox.
    held: AtomicUsize,
    /// QoS 0 messages that found no room since somebody asked.
    dropped: AtomicU64,
    /// Publishes that wait for our word, or for the word on an earlier one.
    pending: Mutex<Pending>,
}

/// See [`Books::pending`].
#[derive(Default)]
struct Pending {
    /// In the order of their arrival.
    order: VecDeque<Ticket>,
    /// By packet identifier.
    words: HashMap<u16, Word>,
}

/// What is known of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Awaited,
    Confirmed,
    /// Its receipt was dropped: it is never acknowledged, and holds up nobody.
    Withheld,
}

/// A receipt on its way to be confirmed; dropped before that, its publishes are withheld.
struct Open {
    voice: Voice,
    books: Arc<Books>,
    tickets: Vec<Ticket>,
}

impl Connection {
    /// Connects and subscribes, or says why not; ends within the terms' timeout.
    pub(super) async fn open(
        peer: Arc<str>,
        terms: &Terms,
        tls: Option<Arc<ClientConfig>>,
        filters: &[Filter],
    ) -> Result<Self, LinkFault> {
        let (voice, mut dialect) = Dialect::new(terms, tls);
        let (sender, inbox) = mpsc::channel(INBOX_MESSAGES);
        let books = Arc::new(Books::default());
        let most_bytes = INBOX_BYTES.max(terms.max_packet.saturating_mul(2));
        let desk = Desk {
            peer: peer.clone(),
            sender,
            books: books.clone(),
            max_packet: terms.max_packet,
            most_bytes,
            full: OnceLock::new(),
        };
        // Cut short, the handshake drops its connection with it.
        match timeout(terms.timeout, handshake(&desk, &voice, &mut dialect, filters)).await {
            Ok(result) => result?,
            Err(_) => {
                let why = format!("no answer within {:?}", terms.timeout);
                return Err(LinkFault::Unreachable { peer: peer.to_string(), why });
            }
        }
        let pump = AbortOnDropHandle::new(tokio::spawn(pump(desk, voice.clone(), dialect)));
        Ok(Self { peer, voice, inbox, books, pump })
    }

    /// Waits for messages and takes up to `most` of those that are there. After the last one comes
    /// what ended the connection. Dropping this future loses nothing.
    pub(super) async fn take(&mut self, most: usize) -> Result<Vec<Message>, LinkFault> {
        let mut messages = Vec::new();
        if self.inbox.recv_many(&mut messages, most).await > 0 {
            let taken = messages.iter().map(Message::size).sum();
            self.books.held.fetch_sub(taken, Ordering::Relaxed);
            return Ok(messages);
        }
        // The pump has dropped its end of the inbox, so it is over or about to be.
        match (&mut self.pump).await {
            Ok(fault) => Err(fault),
            Err(error) => {
                let why = format!("the MQTT client failed: {error}");
                Err(LinkFault::Lost { peer: self.peer.to_string(), why })
            }
        }
    }

    /// A receipt for `tickets`, if there are any.
    pub(super) fn receipt(&self, tickets: Vec<Ticket>) -> Option<Receipt> {
        if tickets.is_empty() {
            return None;
        }
        let open = Open { voice: self.voice.clone(), books: self.books.clone(), tickets };
        Some(Receipt::new(move || open.settle(Word::Confirmed)))
    }

    /// QoS 0 messages dropped since the last call.
    pub(super) fn dropped(&self) -> u64 {
        self.books.dropped.swap(0, Ordering::Relaxed)
    }

    /// Says goodbye and waits, not for long, until it is out. The broker keeps the session.
    pub(super) async fn close(mut self) {
        if self.voice.farewell() && timeout(FAREWELL, &mut self.pump).await.is_err() {
            tracing::debug!(peer = %self.peer, "The broker did not take our goodbye.");
        }
    }
}

impl Books {
    /// False: this publish already waits for our word.
    fn note(&self, ticket: Ticket) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.words.contains_key(&ticket.packet_id) {
            return false;
        }
        pending.words.insert(ticket.packet_id, Word::Awaited);
        pending.order.push_back(ticket);
        true
    }

    /// No publish waits for our word.
    fn is_settled(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).order.is_empty()
    }

    /// Notes the word on `tickets`, and gives to `say` all whose turn it is now, in order.
    fn settle(&self, tickets: &[Ticket], word: Word, mut say: impl FnMut(Ticket)) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for ticket in tickets {
            pending.words.insert(ticket.packet_id, word);
        }
        while let Some(first) = pending.order.front().copied()
            && let Some(word @ (Word::Confirmed | Word::Withheld)) =
                pending.words.get(&first.packet_id).copied()
        {
            // First forgotten, then said: the broker may use the identifier again at once. Said before
            // the lock is open again: what another thread confirms comes behind it.
            pending.order.pop_front();
            pending.words.remove(&first.packet_id);
            if word == Word::Confirmed {
                say(first);
            }
        }
    }
}

impl Open {
    fn settle(mut self, word: Word) {
        let tickets = std::mem::take(&mut self.tickets);
        self.books.settle(&tickets, word, |ticket| self.voice.acknowledge(ticket));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.tickets.is_empty() {
            self.books.settle(&self.tickets, Word::Withheld, |ticket| self.voice.acknowledge(ticket));
        }
    }
}

impl Message {
    fn size(&self) -> usize {
        self.topic.len() + self.payload.as_ref().map_or(0, |payload| payload.len())
    }
}

/// The pump's end of the inbox.
struct Desk {
    peer: Arc<str>,
    sender: mpsc::Sender<Message>,
    books: Arc<Books>,
    max_packet: usize,
    most_bytes: usize,
    /// Why no more publishes of QoS 1 are taken, once that is so.
    full: OnceLock<String>,
}

impl Desk {
    /// Puts a message into the inbox, or not, because there is no room: one of QoS 0 is counted then, and
    /// those of QoS 1 stay with the broker from there on. Never waits.
    fn accept(&self, mut message: Message) {
        if message.ticket.is_some() && self.full.get().is_some() {
            return;
        }
        if message.size() > self.max_packet {
            tracing::debug!(peer = %self.peer, topic = message.topic, bytes = message.size(), "Larger than max_packet.");
            message.payload = None;
        }
        let held = self.books.held.load(Ordering::Relaxed);
        let (bytes, places) = (held + message.size(), self.sender.capacity());
        let Some(ticket) = message.ticket else {
            if bytes > self.most_bytes / 2 || places <= INBOX_MESSAGES / 2 {
                self.books.dropped.fetch_add(1, Ordering::Relaxed);
            } else {
                self.put(message);
            }
            return;
        };
        if bytes > self.most_bytes || places == 0 {
            let waiting = INBOX_MESSAGES - places;
            // Nobody else sets it.
            let _ = self.full.set(format!(
                "{waiting} messages ({held} bytes) waited to be stored and the broker sent on; it sends the rest \
                 again (limit its messages in flight, or use `version = \"5\"`, which does)"
            ));
        } else if self.books.note(ticket) {
            self.put(message);
        }
    }

    fn put(&self, message: Message) {
        let size = message.size();
        self.books.held.fetch_add(size, Ordering::Relaxed);
        // There is a place, for nobody else fills them; or the reader is gone, and the pump with it.
        let _ = self.sender.try_send(message);
    }

    /// Nothing more is taken, and the broker has our word on all that was.
    fn is_done(&self) -> bool {
        self.full.get().is_some() && self.books.is_settled()
    }

    fn refused(&self, why: String) -> LinkFault {
        LinkFault::Refused { peer: self.peer.to_string(), why }
    }

    fn unreachable(&self, why: String) -> LinkFault {
        LinkFault::Unreachable { peer: self.peer.to_string(), why }
    }

    fn lost(&self, why: String) -> LinkFault {
        LinkFault::Lost { peer: self.peer.to_string(), why }
    }

    /// The fault of an ending before the subscriptions were granted.
    fn not_opened(&self, ending: Ending) -> LinkFault {
        match ending {
            Ending::Refused(why) | Ending::Mismatch(why) => self.refused(why),
            Ending::Oversized(size) => self.refused(self.oversized(size)),
            Ending::Broken(why) => self.unreachable(why),
            // So does an MQTT 3.1.1 broker asked for MQTT 5, and a TLS port that hears no TLS.
            Ending::Closed => self.unreachable(
                "it closed the connection before it accepted us; does it speak this `version`, with or without TLS \
                 as in `broker`?"
                    .into(),
            ),
        }
    }

    /// The fault of an ending after that.
    fn ended(&self, ending: Ending) -> LinkFault {
        match ending {
            Ending::Refused(why) => self.refused(why),
            // Not merely lost: the broker would send it again, and again the link would go down.
            Ending::Oversized(size) => self.refused(self.oversized(size)),
            Ending::Mismatch(why) | Ending::Broken(why) => self.lost(why),
            Ending::Closed => self.lost("the broker closed the connection".into()),
        }
    }

    fn oversized(&self, size: usize) -> String {
        format!(
            "a message of {size} bytes is too large (`max_packet` is {}), and the broker would send it again \
             and again; raise `max_packet`, or remove the message from the broker",
            self.max_packet
        )
    }
}

/// CONNECT, SUBSCRIBE and their answers. Messages of a session that goes on may come in between.
async fn handshake(
    desk: &Desk,
    voice: &Voice,
    dialect: &mut Dialect,
    filters: &[Filter],
) -> Result<(), LinkFault> {
    let mut accepted = false;
    while !accepted {
        match dialect.poll().await.map_err(|ending| desk.not_opened(ending))? {
            Event::Accepted => accepted = true,
            Event::Message(message) => desk.accept(message),
            Event::Granted(_) | Event::Farewell | Event::Other => {}
        }
    }
    for asked in filters.chunks(FILTERS_AT_ONCE) {
        if !voice.subscribe(asked) {
            return Err(desk.refused("the subscriptions are not valid MQTT filters".into()));
        }
        let answers = loop {
            match dialect.poll().await.map_err(|ending| desk.not_opened(ending))? {
                Event::Granted(answers) => break answers,
                Event::Message(message) => desk.accept(message),
                Event::Accepted | Event::Farewell | Event::Other => {}
            }
        };
        for (at, filter) in asked.iter().enumerate() {
            let refusal = match answers.get(at) {
                Some(None) => continue,
                Some(Some(why)) => why,
                None => "the broker's answer leaves it out",
            };
            return Err(desk.refused(format!("no subscription to `{}`: {refusal}", filter.path)));
        }
    }
    Ok(())
}

/// Polls until the end, and says what it was.
async fn pump(desk: Desk, voice: Voice, mut dialect: Dialect) -> LinkFault {
    let mut says_goodbye = false;
    loop {
        // Behind our last acknowledgement, whose leaving is an event too.
        if !says_goodbye && desk.is_done() {
            says_goodbye = voice.farewell();
        }
        let silence = dialect.longest_silence();
        // Writing to a peer that reads nothing has no end of its own in `rumqttc`. Cut short, the
        // poll leaves a broken conversation; it is not polled again.
        let event = match timeout(silence, dialect.poll()).await {
            Ok(Ok(event)) => event,
            Ok(Err(ending)) => {
                let fault = desk.ended(ending);
                dialect.leftovers().into_iter().for_each(|message| desk.accept(message));
                return fault;
            }
            Err(_) => return desk.lost(format!("the broker took nothing for {silence:?}")),
        };
        match event {
            Event::Message(message) => desk.accept(message),
            Event::Farewell => {
                // A socket that is closed with something unread in it is reset, and a broker may then lose what
                // it did not read yet: our last acknowledgements. What it still sends it will send again.
                let heard_out = timeout(HEARD_OUT, async { while dialect.poll().await.is_ok() {} }).await;
                tracing::trace!(peer = %desk.peer, hung_up = heard_out.is_ok(), "Said goodbye.");
                return desk.lost(desk.full.get().map_or_else(|| "closed by us".into(), Clone::clone));
            }
            Event::Accepted | Event::Granted(_) | Event::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::boot_time::BootTime;

    fn desk(most_bytes: usize) -> (Desk, mpsc::Receiver<Message>) {
        let (sender, inbox) = mpsc::channel(INBOX_MESSAGES);
        let peer = "mqtt://test:1883".into();
        let full = OnceLock::new();
        (Desk { peer, sender, books: Arc::default(), max_packet: 1_000, most_bytes, full }, inbox)
    }

    fn message(packet_id: Option<u16>, bytes: usize) -> Message {
        Message {
            topic: String::new(),
            payload: Some(Bytes::from(vec![b'1'; bytes])),
            retained: false,
            arrived: BootTime(0),
            ticket: packet_id.map(|packet_id| Ticket { packet_id, exactly_once: false }),
        }
    }

    #[test]
    fn qos_0_without_room_is_dropped_and_counted() {
        let (desk, inbox) = desk(10_000);
        for _ in 0..12 {
            desk.accept(message(None, 500));
        }
        assert_eq!(inbox.len(), 10, "half of the inbox, the rest is for QoS 1");
        assert_eq!(desk.books.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn qos_0_leaves_places_for_qos_1() {
        let (desk, inbox) = desk(INBOX_BYTES);
        for _ in 0..INBOX_MESSAGES {
            desk.accept(message(None, 1));
        }
        assert_eq!(inbox.len(), INBOX_MESSAGES / 2);
        assert_eq!(desk.books.dropped.load(Ordering::Relaxed) as usize, INBOX_MESSAGES / 2);
        desk.accept(message(Some(1), 1));
    }

    #[test]
    fn qos_1_without_room_stays_with_the_broker_from_there_on() {
        let (desk, mut inbox) = desk(2_000);
        (1..=5).for_each(|packet_id| desk.accept(message(Some(packet_id), 500)));
        assert_eq!(inbox.len(), 4);
        assert!(desk.full.get().is_some_and(|why| why.starts_with("4 messages (2000 bytes) waited")));
        let mut taken = Vec::new();
        while let Ok(message) = inbox.try_recv() {
            desk.books.held.fetch_sub(message.size(), Ordering::Relaxed);
            taken.extend(message.ticket);
        }
        // Taken now it would be acknowledged before 5, and the broker would send them in another order.
        desk.accept(message(Some(6), 1));
        assert_eq!(inbox.len(), 0);
        assert!(!desk.is_done(), "four wait for our word");
        desk.books.settle(&taken, Word::Confirmed, |_| {});
        assert!(desk.is_done());
        assert_eq!(desk.books.dropped.load(Ordering::Relaxed), 0, "the broker still has them");
    }

    #[test]
    fn a_publish_that_waits_for_our_word_is_taken_once() {
        let (desk, mut inbox) = desk(10_000);
        desk.accept(message(Some(7), 1));
        desk.accept(message(Some(7), 1));
        assert_eq!(inbox.len(), 1);
        let ticket = inbox.try_recv().unwrap().ticket.unwrap();
        let mut said = Vec::new();
        desk.books.settle(&[ticket], Word::Confirmed, |ticket| said.push(ticket));
        assert_eq!(said, [ticket]);
        desk.accept(message(Some(7), 1));
        assert_eq!(inbox.len(), 1, "the identifier is used again for another message");
    }

    #[test]
    fn what_is_withheld_holds_up_nobody_and_is_never_said() {
        let books = Books::default();
        let [one, two, three] = [1, 2, 3].map(|packet_id| Ticket { packet_id, exactly_once: false });
        let mut said = Vec::new();
        assert!([one, two, three].iter().all(|ticket| books.note(*ticket)));
        books.settle(&[three], Word::Confirmed, |ticket| said.push(ticket.packet_id));
        books.settle(&[one], Word::Withheld, |ticket| said.push(ticket.packet_id));
        assert_eq!(said, [0; 0], "2 is not known yet");
        assert!(!books.note(three), "it waits for its turn");
        books.settle(&[two], Word::Confirmed, |ticket| said.push(ticket.packet_id));
        assert_eq!(said, [2, 3]);
        assert!(books.note(one), "the broker may send it again under its number");
    }

    #[test]
    fn a_message_that_is_too_large_leaves_its_payload_at_the_door() {
        let (desk, mut inbox) = desk(10_000);
        desk.accept(message(Some(1), 1_001));
        let taken = inbox.try_recv().unwrap();
        assert_eq!((taken.payload, taken.ticket.unwrap().packet_id), (None, 1));
    }
}
