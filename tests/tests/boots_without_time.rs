//! A gateway without a battery: each boot begins in 1970. It buffers three boots offline, power cuts
//! and restarts of the agent among them, then meets its server. Real buffer, real clock on a simulated
//! machine, real uplink over TLS, a real server on SQLite.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_agent::backoff::Backoff;
use forebay_agent::buffer::{self, Appender, Buffer, Opening};
use forebay_agent::clock::machine::{Machine, Shown};
use forebay_agent::clock::{Clock, keeping};
use forebay_agent::uplink::budget::Limits;
use forebay_agent::uplink::line::{Line, Peer};
use forebay_agent::uplink::meter::Meter;
use forebay_agent::uplink::{self, Uplink, UplinkStatus};
use forebay_config::agent::{Log, Order, WhenFull};
use forebay_config::server::{Server as Config, Store as StoreConfig, Sync, Web};
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::{BootTime, wall_micros, wall_offset_micros};
use forebay_protocols::reading::{DataType, Point, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Encoder, Head, Sequence};
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::tls::{self, FreshKey, Identity};
use forebay_protocols::sync::wire::Report;
use forebay_protocols::sync::wire::sent_batch::Clock as Word;
use forebay_server::app::App;
use forebay_server::identity::Authority;
use forebay_server::store::{self, NewToken, Store, TokenVerdict};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const SECOND: i64 = 1_000_000;
/// From the last reading of a boot to the first moment of the next: a watchdog's reset.
const OFF: i64 = 200_000;
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_boots_in_1970_buffers_three_boots_and_then_gets_every_time_right() -> Result<()> {
    tls::install_provider();
    let mut server = Server::start().await?;
    let identity = server.join().await?;
    let third = wall_offset_micros();
    let (first_length, second_length) = (90 * SECOND, 40 * SECOND);
    let second = third - OFF - second_length;
    let first = second - OFF - first_length;
    let mut gateway = Gateway::new()?;

    // The first boot: the agent is restarted in order, then the power goes.
    let boot = Boot::new(1, first);
    let mut life = gateway.start(&boot).await?;
    gateway.read(&mut life, &boot, 3 * SECOND..30 * SECOND).await?;
    life.buffer.close().await?;
    let mut life = gateway.start(&boot).await?;
    assert_eq!(life.opening.boot_counter, 1, "a restart of the agent is no boot");
    gateway.read(&mut life, &boot, 31 * SECOND..first_length).await?;
    gateway.cut_the_power(life).await?;

    // The second: the agent crashes, and the machine is rebooted in order.
    let boot = Boot::new(2, second);
    let mut life = gateway.start(&boot).await?;
    gateway.read(&mut life, &boot, 3 * SECOND..20 * SECOND).await?;
    gateway.cut_the_power(life).await?;
    let mut life = gateway.start(&boot).await?;
    assert_eq!(life.opening.boot_counter, 2, "a crash of the agent is no boot");
    gateway.read(&mut life, &boot, 21 * SECOND..second_length).await?;
    life.buffer.close().await?;

    // The third, offline at first.
    let boot = Boot::present(third);
    let mut life = gateway.start(&boot).await?;
    let now = BootTime::now().0;
    gateway.read(&mut life, &boot, now - 2 * SECOND..now - SECOND).await?;
    life.buffer.close().await?;
    let mut life = gateway.start(&boot).await?;
    assert_eq!(life.opening.boot_counter, 3);
    gateway.read(&mut life, &boot, now - SECOND + 1..now).await?;
    assert!(!life.clock.belief().synchronised() && life.clock.wall_us() < 365 * 86_400 * SECOND, "1970");
    let offline = gateway.truth.len() as u64;
    assert_eq!(life.buffer.status().backlog_readings, offline, "nobody has heard of them");

    // Then it meets the server, and reads on.
    let words = Line::connect(&peer(&identity, Arc::new(In1970))?, None, &Meter::default()).await.err();
    let words = words.context("TLS by a clock in 1970 must fail, or this test shows nothing")?;
    assert!(words.contains("not valid yet"), "{words}");
    let sending = Sending::start(&life, peer(&identity, Arc::new(life.clock.clone()))?)?;
    sending.drained(&life.buffer).await?;
    assert!(life.clock.belief().synchronised(), "the server told the time");
    let now = BootTime::now().0;
    gateway.read(&mut life, &boot, now..now).await?;
    sending.drained(&life.buffer).await?;
    sending.end().await?;
    life.buffer.close().await?;

    // A restart of the agent: it knows the time before it hears of it again.
    let mut life = gateway.start(&boot).await?;
    assert!(life.clock.belief().synchronised(), "what was learnt in this boot is remembered");
    let now = BootTime::now().0;
    gateway.read(&mut life, &boot, now..now).await?;
    let sending = Sending::start(&life, peer(&identity, Arc::new(life.clock.clone()))?)?;
    sending.drained(&life.buffer).await?;
    sending.end().await?;
    assert_eq!(life.buffer.status().counts.dropped, 0);
    life.buffer.close().await?;

    let stored = server.readings()?;
    assert_eq!(stored.len(), gateway.truth.len(), "each reading stands there once");
    for (place, (time, number)) in stored.iter().enumerate() {
        assert_eq!(*number, place as i64, "by their times they are in the order in which they were taken");
        let off_us = time - gateway.truth[place];
        assert!(off_us.abs() <= SECOND, "reading {number} is {off_us} µs off");
    }
    let marks = server.store.time_marks(None, 0, i64::MAX, 100).await?;
    let marked = |boot, clock| {
        let of_boot = marks.iter().filter(|mark| mark.boot_counter == boot && mark.clock == clock);
        of_boot.map(|mark| mark.readings).sum::<u64>()
    };
    let boots = gateway.by_boot;
    assert_eq!(marked(1, Word::Bracketed), boots[0], "{marks:?}");
    assert_eq!(marked(2, Word::Bracketed), boots[1], "{marks:?}");
    assert_eq!(marked(3, Word::Corrected), offline - boots[0] - boots[1], "{marks:?}");
    assert_eq!(marks.iter().map(|mark| mark.readings).sum::<u64>(), offline, "no other is marked: {marks:?}");
    server.stop().await
}

/// A boot as it truly was. The system's clock began in 1970 and nobody set it.
struct Boot {
    number: u8,
    offset_us: i64,
    /// Boot time; `None`: as it is.
    now: Option<Arc<AtomicI64>>,
}

impl Boot {
    fn new(number: u8, offset_us: i64) -> Self {
        Self { number, offset_us, now: Some(Arc::default()) }
    }

    fn present(offset_us: i64) -> Self {
        Self { number: 3, offset_us, now: None }
    }

    fn machine(&self) -> Machine {
        let now = self.now.clone();
        Machine::simulated([self.number; 16], move || {
            let now = now.as_ref().map_or_else(BootTime::now, |now| BootTime(now.load(Ordering::SeqCst)));
            (now, Shown { offset_us: 0, claims: false })
        })
    }

    fn reaches(&self, boot_time: i64) {
        if let Some(now) = &self.now {
            now.store(boot_time, Ordering::SeqCst);
        }
    }
}

/// The gateway's flash, and what was truly read.
struct Gateway {
    flash: tempfile::TempDir,
    /// Wall time of each reading; its value is its place here.
    truth: Vec<i64>,
    by_boot: [u64; 3],
}

/// An agent that runs.
struct Life {
    buffer: Buffer,
    appender: Appender,
    opening: Opening,
    clock: Clock,
    encoder: Encoder,
}

impl Gateway {
    fn new() -> Result<Self> {
        Ok(Self { flash: tempfile::tempdir()?, truth: Vec::new(), by_boot: [0; 3] })
    }

    async fn start(&self, boot: &Boot) -> Result<Life> {
        let settings = buffer::Settings {
            dir: self.flash.path().join("buffer"),
            max_size: ByteSize::mib(64),
            reserve: ByteSize::mib(1),
            when_full: WhenFull::DropOldest,
            tail: ByteSize::mib(1),
            classes: Vec::new(),
        };
        let (buffer, appender, opening) = Buffer::open_on(boot.machine(), settings).await?;
        let clock = Clock::open_on(boot.machine(), self.flash.path());
        clock.place(opening.boot_counter, &opening.boots);
        Ok(Life { buffer, appender, opening, clock, encoder: Encoder::new() })
    }

    /// A reading every half second and at the end, a few in a batch.
    async fn read(&mut self, life: &mut Life, boot: &Boot, during: std::ops::Range<i64>) -> Result<()> {
        let ids = life.appender.define(&[Arc::new(level())]).await?;
        let (from, to) = (during.start, during.end);
        let moments: Vec<i64> = (from..to).step_by(SECOND as usize / 2).chain([to]).collect();
        for some in moments.chunks(7) {
            boot.reaches(*some.last().context("a chunk is not empty")?);
            let mut readings = Vec::new();
            for moment in some {
                readings.push(Reading {
                    point: ids[0],
                    stamp: Stamp::boot(BootTime(*moment)),
                    value: Some(Value::Integer(self.truth.len() as i64)),
                    quality: Quality::Good,
                });
                self.truth.push(moment + boot.offset_us);
                self.by_boot[usize::from(boot.number) - 1] += 1;
            }
            let Sequence(sequence) = life.appender.next_sequence();
            let head =
                Head { epoch: life.opening.epoch, sequence: Sequence(sequence), boot: life.clock.boot() };
            life.appender.append(vec![life.encoder.encode(&head, &mut readings)]).await?;
        }
        Ok(())
    }

    /// What the flash holds at this moment is what the next start finds. Of the catalogue nothing:
    /// it promises nothing.
    async fn cut_the_power(&mut self, life: Life) -> Result<()> {
        let found = tempfile::tempdir()?;
        let (from, to) = (self.flash.path().join("buffer"), found.path().join("buffer"));
        fs::create_dir(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && entry.file_name() != "lock" {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        life.buffer.close().await?;
        self.flash = found;
        Ok(())
    }
}

fn level() -> Point {
    Point {
        device: "tank".into(),
        name: "level".into(),
        unit: "mm".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Integer,
    }
}

/// What TLS would go by if it believed this gateway's system clock.
#[derive(Debug)]
struct In1970;

impl TimeProvider for In1970 {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(BootTime::now().0.unsigned_abs())))
    }
}

fn peer(identity: &Identity, time: Arc<dyn TimeProvider>) -> Result<Peer> {
    let mut config = rustls::ClientConfig::clone(&*tls::client_config(identity, tls::EARLIEST_TIME)?);
    config.time_provider = time;
    let certificate = identity.chain.first().context("an identity has a certificate")?;
    Peer::new(identity.server.clone(), &config, certificate).map_err(anyhow::Error::msg)
}

/// Uplink and clock at work.
struct Sending {
    uplink: JoinHandle<Result<(), buffer::BufferError>>,
    keeping: JoinHandle<()>,
    status: watch::Receiver<UplinkStatus>,
    finish: CancellationToken,
}

impl Sending {
    fn start(life: &Life, peer: Peer) -> Result<Self> {
        let (sender, status) = watch::channel(UplinkStatus::default());
        let finish = CancellationToken::new();
        let uplink = Uplink {
            backlog: life.buffer.clone(),
            epoch: life.opening.epoch,
            clock: life.clock.clone(),
            introduction: Box::new(move || Ok(Some(peer.clone()))),
            reporter: Box::new(Report::default),
            status: sender,
            settings: uplink::Settings {
                request_timeout: Duration::from_secs(5),
                max_request: 256 << 10,
                heartbeat: Duration::from_secs(1),
                backoff: Backoff::new(Duration::from_millis(2), Duration::from_millis(40))?,
                look_for_identity: Duration::from_secs(1),
                order: Order::FreshFirst,
                connections: 2,
                limits: Limits::default(),
                proxy: None,
                spread: Duration::from_millis(20),
            },
            finish: finish.clone(),
            give_up: CancellationToken::new(),
        };
        let (clock, buffer) = (life.clock.clone(), life.buffer.clone());
        let tell = move |offset| {
            let buffer = buffer.clone();
            async move { drop(buffer.learn_offset(offset).await) }
        };
        let keeping = tokio::spawn(keeping::keep(clock, keeping::LOOK_EVERY, tell, finish.clone()));
        Ok(Self { uplink: tokio::spawn(uplink.run()), keeping, status, finish })
    }

    async fn drained(&self, buffer: &Buffer) -> Result<()> {
        let empty = async {
            while buffer.status().backlog_batches > 0 && !self.uplink.is_finished() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = timeout(PATIENCE, empty).await.is_ok();
        ensure!(in_time && !self.uplink.is_finished(), "the uplink is stuck: {:?}", self.status.borrow());
        Ok(())
    }

    async fn end(self) -> Result<()> {
        self.finish.cancel();
        timeout(PATIENCE, self.uplink).await.context("the uplink hangs")???;
        Ok(self.keeping.await?)
    }
}

/// A server on SQLite, with a folder of its own.
struct Server {
    folder: tempfile::TempDir,
    address: String,
    authority: Arc<Authority>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<()>>>,
}

impl Server {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listen = "127.0.0.1:0".parse()?;
        let place = StoreConfig::Sqlite { path: database(folder.path()) };
        let store = store::open(&place).await?;
        let config = Config {
            state_dir: folder.path().to_owned(),
            store: place,
            sync: Sync { listen, address: Some("127.0.0.1:1".into()), ..Sync::default() },
            web: Web { listen, ..Web::default() },
            retention: Default::default(),
            alarms: Default::default(),
            access: Default::default(),
            log: Log::default(),
        };
        let app = App::build(config, store.clone()).await?;
        let (address, authority, stop) =
            (app.sync_address()?.to_string(), app.authority(), CancellationToken::new());
        let running = Some(tokio::spawn(app.run(stop.clone())));
        Ok(Self { folder, address, authority, store, stop, running })
    }

    async fn join(&self) -> Result<Identity> {
        let (key, secret, created) = (FreshKey::generate()?, TokenSecret::random()?, wall_micros());
        let (site, gateway, secret_hash) = ("well", "no-battery", secret.hash());
        let signed = self.authority.sign_agent(&key.request(gateway)?, site, gateway)?;
        let (fingerprint, until, expires) = (signed.fingerprint, signed.valid_until, created + 60 * SECOND);
        let note = String::new();
        self.store
            .add_token(NewToken { secret_hash, expires, uses: 1, note, approval: false, created })
            .await?;
        let (verdict, _) = self.store.join(secret_hash, site, gateway, fingerprint, until, created).await?;
        ensure!(verdict == TokenVerdict::Valid, "{verdict:?}");
        let mut chain: Vec<_> = signed.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let ca = chain.pop().context("the chain ends with the CA")?;
        Ok(Identity::new(self.address.clone(), ca, chain, key.into_der()))
    }

    /// Time and value of every reading, quarantine included, by time, behind the server's back.
    fn readings(&self) -> Result<Vec<(i64, i64)>> {
        let sql = "select time, value from readings union all \
                   select time, value from readings_quarantine order by time, value";
        let connection = rusqlite::Connection::open(database(self.folder.path()))?;
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    async fn stop(&mut self) -> Result<()> {
        self.stop.cancel();
        let Some(running) = self.running.take() else { return Ok(()) };
        timeout(PATIENCE, running).await.context("the server hangs")??
    }
}

fn database(folder: &Path) -> std::path::PathBuf {
    folder.join("forebay.db")
}
