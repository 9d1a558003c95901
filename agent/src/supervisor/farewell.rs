//! The end as a broker sees it: a real link, batcher, buffer and supervisor around a scripted source.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_config::agent::WhenFull;
use forebay_config::units::ByteSize;
use forebay_protocols::field::occupancy::Occupancy;
use forebay_protocols::field::source::{Harvest, LinkFault, Receipt, Sample, Source};
use forebay_protocols::reading::{DataType, Point, PointKind, Quality, Stamp, Value};
use futures::FutureExt;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::batcher::Batcher;
use crate::buffer::{Buffer, Settings};
use crate::clock::Clock;
use crate::fittings;
use crate::gaps::Silences;
use crate::ledger::Books;
use crate::link::{Desk, Link, LinkStatus};
use crate::systemd::Progress;
use crate::uplink::line::ServerReads;

const AGES: Duration = Duration::from_secs(3600);

/// A broker with one message for us. It notes what it hears.
struct Broker {
    points: Vec<Point>,
    message: Option<Harvest>,
    heard: Arc<Mutex<Vec<&'static str>>>,
    /// A word when somebody asks for a second message.
    drained: mpsc::UnboundedSender<()>,
}

impl Source for Broker {
    fn points(&self) -> &[Point] {
        &self.points
    }
    async fn connect(&mut self) -> Result<(), LinkFault> {
        Ok(())
    }
    async fn next(&mut self) -> Result<Harvest, LinkFault> {
        match self.message.take() {
            Some(message) => Ok(message),
            None => {
                let _ = self.drained.send(());
                std::future::pending().await
            }
        }
    }
    async fn knock(&mut self) -> bool {
        false
    }
    fn occupancy(&self) -> Option<Occupancy> {
        None
    }
    async fn close(&mut self) {
        self.heard.lock().unwrap().push("goodbye");
    }
}

#[tokio::test]
async fn a_broker_hears_that_its_message_is_durable_before_our_goodbye() {
    let dir = tempfile::tempdir().unwrap();
    let (max_size, reserve) = (ByteSize(16 << 20), ByteSize(0));
    let store = Settings {
        dir: dir.path().join("buffer"),
        max_size,
        reserve,
        when_full: WhenFull::DropOldest,
        tail: ByteSize(0),
        classes: Vec::new(),
    };
    let (buffer, appender, opening) = Buffer::open(store).await.unwrap();
    let (books, ending) = (Books::default(), Ending::default());
    books.open(opening.counts);
    let (handovers, to_batcher) = mpsc::channel(4);
    let (status, _seen) = watch::channel(LinkStatus::default());
    let (drained, mut until_drained) = mpsc::unbounded_channel();
    let heard = Arc::<Mutex<Vec<&'static str>>>::default();

    let (kind, data_type) = (PointKind::Gauge, DataType::Integer);
    let point = Point { device: "pump".into(), name: "flow".into(), unit: "".into(), kind, data_type };
    let value = Some(Value::Integer(7));
    let sample = Sample { slot: 0, stamp: Stamp::now(), value, quality: Quality::Good };
    let receipt = {
        let (heard, buffer) = (heard.clone(), buffer.clone());
        Receipt::new(move || {
            assert_eq!(buffer.status().counts.appended, 1, "confirmed and not durable");
            heard.lock().unwrap().push("durable");
        })
    };
    let message = Harvest { samples: vec![sample], receipt: Some(receipt), ..Harvest::default() };
    let source = Broker { points: vec![point], message: Some(message), heard: heard.clone(), drained };
    let desk = Desk {
        name: "broker".into(),
        index: 0,
        handovers,
        books: books.clone(),
        silences: Silences::default(),
        rules: [].into(),
        status,
        rate: Default::default(),
        feed: Default::default(),
        backoff: Backoff::new(AGES, AGES).unwrap(),
        stop: ending.stop_links.clone(),
        goodbye: ending.close_links.clone(),
    };
    let batcher = Batcher {
        flash: appender,
        encode: fittings::encoder(ServerReads::default()),
        epoch: opening.epoch,
        clock: Clock::open(dir.path()),
        window: AGES,
        books,
        progress: Progress::default(),
        backoff: Backoff::new(AGES, AGES).unwrap(),
        hurry: ending.stop_links.clone(),
        give_up: ending.give_up.clone(),
    };

    let mut supervisor = Supervisor::new(ending.clone());
    let mut life = Some(Link { source, desk }.run());
    let birth = move || match life.take() {
        Some(life) => Box::pin(life.map(Ok)) as Life,
        None => Box::pin(std::future::ready(Ok(()))),
    };
    supervisor.link(Post {
        index: 0,
        name: "broker".into(),
        backoff: Backoff::new(AGES, AGES).unwrap(),
        stop: ending.stop_links.child_token(),
        birth: Box::new(birth),
    });
    supervisor.batcher(async move { Ok(batcher.run(to_batcher).await?) });
    let running = tokio::spawn(supervisor.run(Grace::default()));
    until_drained.recv().await.unwrap();
    assert_eq!(*heard.lock().unwrap(), [""; 0], "the window is an hour long");
    ending.asked.cancel();
    assert_eq!(running.await.unwrap(), Verdict::Drained);
    assert_eq!(*heard.lock().unwrap(), ["durable", "goodbye"]);
}
