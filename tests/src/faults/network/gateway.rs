//! One gateway: a real buffer and a real uplink, readings instead of devices. Its uplink is ended
//! and begun again at random, and its buffer closed and opened, as by restarts of the agent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use forebay_agent::backoff::Backoff;
use forebay_agent::buffer::{self, Appender, Buffer};
use forebay_agent::clock::Clock;
use forebay_agent::uplink::budget::Limits;
use forebay_agent::uplink::line::Peer;
use forebay_agent::uplink::{self, Uplink, UplinkStatus};
use forebay_config::agent::{Order, WhenFull};
use forebay_config::units::ByteSize;
use forebay_demo::dice::Dice;
use forebay_protocols::boot_time::{BootTime, wall_offset_micros};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Epoch, Head, Sequence};
use forebay_protocols::sync::{tls, wire};
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::books::{Books, Row, mark};
use super::house::House;

/// Batches that may wait before no more are made: many small ones make many requests.
const MOST_WAITING: u64 = 24;
/// Requests that can be said again, by gateway.
const MOST_OVERHEARD: usize = 200;
const MOST_POINTS: u64 = 40;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A gateway that has joined.
pub struct Gateway {
    number: u32,
    peer: Peer,
    folder: tempfile::TempDir,
    dice: Dice,
    books: Books,
    overheard: Arc<Overheard>,
    /// Boot time to wall time, the same all its life: the clock is somebody else's fault to find.
    offset_us: i64,
    /// Of the newest reading.
    last_us: i64,
    points: u64,
}

/// What somebody in the gateway's place could say again: its identity, and requests it may have
/// sent.
pub struct Overheard {
    /// With the gateway's certificate.
    pub peer: Peer,
    requests: Mutex<Vec<Bytes>>,
}

impl Overheard {
    /// One of the requests.
    pub fn any(&self, dice: &mut Dice) -> Option<Bytes> {
        dice.one_of(&self.requests.lock().unwrap_or_else(PoisonError::into_inner)).cloned()
    }

    /// Keeps one more; the newest ones take the place of any.
    fn keep(&self, request: Bytes, dice: &mut Dice) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() < MOST_OVERHEARD {
            requests.push(request);
        } else {
            requests[dice.within(0..MOST_OVERHEARD as u64) as usize] = request;
        }
    }
}

/// One opening of the buffer with what belongs to it.
struct Life {
    buffer: Buffer,
    appender: Appender,
    epoch: Epoch,
    boot: Boot,
    clock: Clock,
    ids: Vec<PointId>,
    encoder: Encoder,
}

/// An uplink at work.
struct Sending {
    running: JoinHandle<Result<(), buffer::BufferError>>,
    finish: CancellationToken,
    status: watch::Receiver<UplinkStatus>,
}

impl Gateway {
    /// Joins `house`.
    pub async fn join(house: &House, number: u64, dice: Dice, books: Books) -> Result<Self> {
        let name = format!("g{number}");
        let identity = house.join("faults", &name).await?;
        let config = tls::client_config(&identity, tls::EARLIEST_TIME)?;
        let certificate = identity.chain.first().context("an identity has a certificate")?;
        let peer = Peer::new(identity.server.clone(), &config, certificate).map_err(anyhow::Error::msg)?;
        Ok(Self {
            number: number as u32,
            overheard: Arc::new(Overheard { peer: peer.clone(), requests: Mutex::default() }),
            peer,
            folder: tempfile::tempdir()?,
            dice,
            books,
            offset_us: wall_offset_micros(),
            last_us: BootTime::now().0,
            points: 3,
        })
    }

    /// What can be said again in its name.
    pub fn overheard(&self) -> Arc<Overheard> {
        self.overheard.clone()
    }

    /// Produces and delivers, life after life, until `enough`; then delivers what is left.
    pub async fn live(mut self, enough: CancellationToken) -> Result<()> {
        while !enough.is_cancelled() {
            let mut life = self.open().await?;
            let mut sending = self.send(&life)?;
            for _ in 0..self.dice.within(20..200) {
                while !enough.is_cancelled() && life.buffer.status().backlog_batches > MOST_WAITING {
                    sleep(LOOK_AGAIN).await;
                    // A server without its database asks for seconds of patience; a new uplink has
                    // not heard of that. One at work is seldom ended, or nothing would arrive.
                    let troubled = matches!(&*sending.status.borrow(), UplinkStatus::Troubled(_));
                    if self.dice.percent(if troubled { 30 } else { 1 }) {
                        sending.abandon().await?;
                        sending = self.send(&life)?;
                    }
                }
                if enough.is_cancelled() {
                    break;
                }
                self.produce(&mut life).await?;
            }
            sending.abandon().await?;
            life.buffer.close().await?;
        }
        let life = self.open().await?;
        let sending = self.send(&life)?;
        while life.buffer.status().backlog_batches > 0 {
            ensure!(!sending.running.is_finished(), "the uplink of g{} ended by itself", self.number);
            sleep(LOOK_AGAIN).await;
        }
        sending.finish.cancel();
        sending.running.await.context("the uplink")??;
        let counts = life.buffer.status().counts;
        ensure!(counts.dropped == 0, "the buffer of g{} dropped {} readings", self.number, counts.dropped);
        Ok(life.buffer.close().await?)
    }

    async fn open(&mut self) -> Result<Life> {
        let (buffer, mut appender, opening) = Buffer::open(buffer::Settings {
            dir: self.folder.path().join("buffer"),
            max_size: ByteSize::mib(64),
            reserve: ByteSize::mib(1),
            when_full: WhenFull::DropOldest,
            tail: ByteSize::mib(1),
            classes: Vec::new(),
        })
        .await?;
        let clock = Clock::open(self.folder.path());
        clock.place(opening.boot_counter, &opening.boots);
        let boot = Boot { wall_offset_us: self.offset_us, synchronised: true, ..clock.boot() };
        // The dictionary grows from life to life.
        self.points = (self.points + 2).min(MOST_POINTS);
        let points: Vec<_> = (1..=self.points).map(|number| Arc::new(point(number))).collect();
        let ids = appender.define(&points).await?;
        Ok(Life { buffer, appender, epoch: opening.epoch, boot, clock, ids, encoder: Encoder::new() })
    }

    /// Appends a few small batches, books them, and lets them be overheard.
    async fn produce(&mut self, life: &mut Life) -> Result<()> {
        let Sequence(first) = life.appender.next_sequence();
        let (mut batches, mut rows) = (Vec::new(), Vec::new());
        for sequence in first..first + self.dice.within(1..6) {
            let mut readings = self.readings(&life.ids, &mut rows);
            let head = Head { epoch: life.epoch, sequence: Sequence(sequence), boot: life.boot };
            let batch = life.encoder.encode(&head, &mut readings);
            ensure!(batch.count as usize == readings.len(), "a few readings fit into a batch");
            batches.push(batch);
        }
        life.appender.append(batches.clone()).await?;
        self.books.appended(rows);
        if self.dice.percent(30) {
            let request = life.request(batches.into_iter().map(|batch| batch.bytes)).await?;
            self.overheard.keep(request, &mut self.dice);
        }
        Ok(())
    }

    fn readings(&mut self, ids: &[PointId], rows: &mut Vec<Row>) -> Vec<Reading> {
        let mut readings: Vec<Reading> = Vec::new();
        for _ in 0..self.dice.within(1..25) {
            let number = self.dice.within(0..ids.len() as u64);
            self.last_us = (self.last_us + 1).max(BootTime::now().0);
            let value = value(number + 1, self.dice.throw());
            let row = Row {
                gateway: self.number,
                point: number as u32 + 1,
                time: self.last_us + self.offset_us,
                value: mark(Some(&value)),
            };
            let reading = Reading {
                point: ids[number as usize],
                stamp: Stamp::boot(BootTime(self.last_us)),
                value: Some(value),
                quality: Quality::Good,
            };
            // Now and then a device says the very same twice, and means it.
            for _ in 0..1 + u64::from(self.dice.percent(3)) {
                rows.push(row);
                readings.push(reading.clone());
            }
        }
        readings
    }

    fn send(&mut self, life: &Life) -> Result<Sending> {
        let (finish, peer) = (CancellationToken::new(), self.peer.clone());
        let books = life.buffer.clone();
        let (sender, status) = watch::channel(UplinkStatus::default());
        let uplink = Uplink {
            backlog: life.buffer.clone(),
            epoch: life.epoch,
            clock: life.clock.clone(),
            introduction: Box::new(move || Ok(Some(peer.clone()))),
            reporter: Box::new(move || report(&books)),
            status: sender,
            settings: uplink::Settings {
                request_timeout: Duration::from_secs(2),
                max_request: 256 << 10,
                heartbeat: Duration::from_secs(1),
                backoff: Backoff::new(Duration::from_millis(2), Duration::from_millis(40))?,
                look_for_identity: Duration::from_secs(1),
                order: Order::FreshFirst,
                connections: 4,
                limits: Limits::default(),
                proxy: None,
                spread: Duration::from_millis(20),
            },
            finish: finish.clone(),
            give_up: CancellationToken::new(),
        };
        Ok(Sending { running: tokio::spawn(uplink.run()), finish, status })
    }
}

impl Sending {
    /// Ends it in the middle of whatever it does.
    async fn abandon(self) -> Result<()> {
        self.running.abort();
        match self.running.await {
            Err(ended) if ended.is_cancelled() => Ok(()),
            Err(panicked) => Err(panicked).context("an uplink panicked"),
            Ok(outcome) => outcome.context("an uplink ended by itself"),
        }
    }
}

impl Life {
    /// What an uplink could have sent: these batches, who wrote them, and all they need.
    async fn request(&self, batches: impl Iterator<Item = Bytes>) -> Result<Bytes> {
        let dictionary = self.buffer.dictionary(PointId(0)).await?;
        let openings = self.buffer.openings().await?;
        let request = wire::SyncRequest {
            epoch: Bytes::copy_from_slice(&self.epoch.0),
            dictionary: dictionary.iter().map(|(id, point)| wire::DictionaryEntry::new(*id, point)).collect(),
            batches: batches.map(|batch| wire::SentBatch { batch, ..Default::default() }).collect(),
            opening: openings.last().map(|opening| opening.id.clone()).unwrap_or_default().into(),
            greeting: Some(wire::Greeting { openings }).filter(|greeting| !greeting.openings.is_empty()),
            ..Default::default()
        };
        Ok(request.encode_to_vec().into())
    }
}

fn report(buffer: &Buffer) -> wire::Report {
    let status = buffer.status();
    wire::Report {
        version: "faults".into(),
        synchronised: true,
        produced: status.counts.appended,
        appended: status.counts.appended,
        dropped: status.counts.dropped,
        acknowledged: status.counts.acknowledged,
        backlog_batches: status.backlog_batches,
        backlog_readings: status.backlog_readings,
        backlog_bytes: status.backlog_bytes,
        buffer_limit_bytes: status.limit_bytes,
        ..Default::default()
    }
}

fn data_type(number: u64) -> DataType {
    [DataType::Float, DataType::Integer, DataType::Boolean, DataType::Text][number as usize % 4]
}

fn point(number: u64) -> Point {
    Point {
        device: "dice".into(),
        name: format!("p{number}").into(),
        unit: "".into(),
        kind: PointKind::Gauge,
        data_type: data_type(number),
    }
}

fn value(number: u64, thrown: u64) -> Value {
    match data_type(number) {
        DataType::Float => Value::Float((thrown % 100_000) as f64 / 10.0),
        DataType::Integer => Value::Integer(thrown as i64),
        DataType::Boolean => Value::Boolean(thrown.is_multiple_of(2)),
        DataType::Text => Value::Text(format!("state {}", thrown % 50).into()),
    }
}
