//! Network and server faults: gateways deliver through roads that cut, stall, swallow and repeat,
//! to servers that are stopped in the middle, over database connections that break between COPY
//! and COMMIT. At the end all roads are mended, everything drains, and the multiset of (point,
//! time, value) in the store must be the one that was produced.
//!
//! Everything is real but the harm: buffers on disk, uplinks, TLS, servers, SQLite and TimescaleDB,
//! in one process so that thousands of faults take a minute. The plan of each connection follows
//! from the seed; which request it hits is timing, so a seed repeats the mix of faults and not
//! every byte.

mod books;
mod gateway;
mod house;
mod repeater;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::dice::Dice;
use forebay_protocols::sync::tls;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::books::Books;
use self::gateway::Gateway;
use self::house::House;
use self::repeater::Repeater;

/// Gateways of one scene, and those who repeat what they sent.
const GATEWAYS: u64 = 20;
const REPEATERS: u64 = 5;
/// Where only the database is harmed each fault brings all gateways back at once: few are quicker.
const GATEWAYS_OF_A_DATABASE: u64 = 6;
/// One in so many faults stops a server.
const STOP_EVERY: u64 = 60;
/// How long a scene may take to reach its number of faults: this, and so much a fault.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_PER_FAULT: Duration = Duration::from_millis(200);
/// How long it may take until all is stored once nothing is broken any more.
const DRAINED_WITHIN: Duration = Duration::from_secs(180);

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Faults that struck.
    pub faults: u64,
    /// Readings appended.
    pub produced: u64,
    /// Of these not in the store.
    pub lost: u64,
    /// Readings in the store beyond those produced.
    pub twice: u64,
    /// The faults by what they were.
    pub kinds: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds what another scene came to.
    pub fn add(&mut self, other: Self) {
        let Self { faults, produced, lost, twice, kinds } = other;
        self.faults += faults;
        self.produced += produced;
        self.lost += lost;
        self.twice += twice;
        for (kind, count) in kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
    }

    fn count(&mut self, faults: impl IntoIterator<Item = (&'static str, u64)>) {
        for (kind, count) in faults {
            self.faults += count;
            *self.kinds.entry(kind).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, produced, lost, twice, kinds } = self;
        write!(f, "{faults} faults, {produced} readings, {lost} lost, {twice} twice:")?;
        kinds.iter().try_for_each(|(kind, count)| write!(f, " {kind} {count};"))
    }
}

/// Where a scene keeps its readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file; one server.
    Sqlite,
    /// A database of its own on the test's TimescaleDB; two servers share it.
    Timescale,
}

/// Where a scene is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Everywhere: before the servers, in them, and behind them where there is a road to a database.
    Everywhere,
    /// Only around COMMIT: nothing else slows the transactions down, so many are broken.
    Database,
}

/// The family of the suite. Without a database server only SQLite is tried, and that is said.
pub fn family(order: &super::Order) -> super::Tally {
    let mut suite = super::Tally::default();
    let ran = tokio::runtime::Runtime::new().context("start a runtime").and_then(|runtime| {
        if std::env::var_os("FOREBAY_TEST_DATABASE_URL").is_some() {
            return runtime.block_on(run(order.seed, order.rounds));
        }
        suite.notes.push("on SQLite alone: FOREBAY_TEST_DATABASE_URL names no PostgreSQL server".into());
        runtime.block_on(scene(Place::Sqlite, Harm::Everywhere, order.seed, order.rounds))
    });
    match ran {
        Ok(tally) => {
            let words = format!("seed {}: {tally}", order.seed);
            suite.notes.push(
                tally
                    .kinds
                    .iter()
                    .map(|(kind, count)| format!("{kind} {count}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            );
            (suite.faults, suite.produced) = (tally.faults, tally.produced);
            if tally.lost > 0 {
                suite.add(super::Broken::Lost(tally.lost, words.clone()));
            }
            if tally.twice > 0 {
                suite.add(super::Broken::Twice(tally.twice, words));
            }
        }
        Err(error) => suite.add(super::Broken::Other(format!("{error:#}"))),
    }
    suite
}

/// `rounds` faults from `seed`, some on each store.
///
/// # Errors
/// When something other than a counted loss went wrong: a store that stays away, a buffer that
/// refuses, gateways that do not drain.
pub async fn run(seed: u64, rounds: u64) -> Result<Tally> {
    let (sqlite, database) = (rounds * 2 / 5, rounds / 30);
    let timescale = rounds - sqlite - database;
    // Side by side: each of them waits more than it works.
    let scenes = tokio::join!(
        Box::pin(scene(Place::Sqlite, Harm::Everywhere, seed, sqlite)),
        Box::pin(scene(Place::Timescale, Harm::Everywhere, seed, timescale)),
        Box::pin(scene(Place::Timescale, Harm::Database, seed, database)),
    );
    let mut tally = Tally::default();
    for (scene, name) in [scenes.0, scenes.1, scenes.2].into_iter().zip(["SQLite", "TimescaleDB", "COMMIT"]) {
        tally.add(scene.with_context(|| format!("{name}, seed {seed}"))?);
    }
    Ok(tally)
}

/// One house, its gateways, and so many faults.
///
/// # Errors
/// As [`run`].
pub async fn scene(place: Place, harm: Harm, seed: u64, faults: u64) -> Result<Tally> {
    tls::install_provider();
    let dice = Dice::new(seed);
    let mut house = House::build(place, &dice).await?;
    let books = Books::default();
    let enough = CancellationToken::new();
    let mut lives = JoinSet::new();
    let mut overheard = Vec::new();
    let gateways = if harm == Harm::Everywhere { GATEWAYS } else { GATEWAYS_OF_A_DATABASE };
    for number in 0..gateways {
        let gateway = Gateway::join(&house, number, dice.part(1_000 + number), books.clone()).await?;
        overheard.push(gateway.overheard());
        lives.spawn(gateway.live(enough.clone()));
    }
    let repeaters = if harm == Harm::Everywhere { 0..REPEATERS } else { 0..0 };
    let repeaters: Vec<Repeater> =
        repeaters.map(|n| Repeater::start(dice.part(2_000 + n), &overheard)).collect();
    house.roughen(harm);
    let struck = |house: &House| house.faults() + repeaters.iter().map(Repeater::repeated).sum::<u64>();

    let (mut hammer, mut next_stop) = (dice.part(3_000), STOP_EVERY);
    let limit = Instant::now() + PATIENCE + PATIENCE_PER_FAULT * u32::try_from(faults).unwrap_or(u32::MAX);
    while struck(&house) < faults {
        ensure!(
            Instant::now() < limit,
            "only {} of {faults} faults struck in time: {:?}",
            struck(&house),
            house.struck().collect::<Vec<_>>()
        );
        if let Ok(Some(ended)) = timeout(Duration::from_millis(20), lives.join_next()).await {
            ended.context("a gateway's task")??;
            anyhow::bail!("a gateway ended before it was told to");
        }
        if harm == Harm::Everywhere && struck(&house) >= next_stop {
            house.stop_one_server(&mut hammer).await?;
            next_stop = struck(&house) + STOP_EVERY;
        }
    }

    let mut tally = Tally::default();
    tally.count(house.struck());
    tally.count([("repeated", repeaters.iter().map(Repeater::repeated).sum())]);
    drop(repeaters);
    house.mend();
    enough.cancel();
    let drained = async {
        while let Some(ended) = lives.join_next().await {
            ended.context("a gateway's task")??;
        }
        anyhow::Ok(())
    };
    timeout(DRAINED_WITHIN, drained).await.context("what was appended does not arrive")??;
    let difference = books.compare(&house.rows().await?);
    (tally.produced, tally.lost, tally.twice) = (difference.produced, difference.lost, difference.beyond);
    ensure!(
        house.epochs().await? == gateways,
        "a buffer was taken for another: {} epochs of {gateways} gateways",
        house.epochs().await?
    );
    house.close().await?;
    Ok(tally)
}
