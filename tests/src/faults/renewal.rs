//! Certificates renewed on a disk whose power goes off. A gateway renews again and again; at every
//! file operation of each renewal the power is cut, and what is left must be an identity that the
//! server lets in, shown by a whole TLS handshake with it. Now and then the server's CA takes the
//! place of another, or an operation fails. "Readings produced" counts the renewals here.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use forebay_agent::buffer::disk::{Disk, DiskFile};
use forebay_agent::buffer::simulated::Simulated;
use forebay_agent::uplink::admission;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::private_files::{Draft, Folder};
use forebay_protocols::sync::tls::{self, FreshKey, Identity};
use forebay_protocols::sync::wire::JoinAnswer;
use forebay_server::identity::{self, Authority};
use rustls::{ClientConnection, ServerConfig, ServerConnection};

use super::{Broken, Dice, Order, Tally};

const SERVER: &str = "127.0.0.1:8443";
/// How long a former CA is trusted, in seconds: longer than the scenario takes.
const OVERLAP: i64 = 86_400;
const FILE: &str = "identity.pem";

pub fn run(order: &Order) -> Tally {
    tls::install_provider();
    order.each(scenario)
}

/// The simulated disk as small private files see it.
struct Shelf(Simulated);

struct Written {
    file: Box<dyn DiskFile>,
    at: u64,
}

impl Folder for Shelf {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.0.open(name)?;
        let mut bytes = vec![0; file.length()? as usize];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn create(&self, name: &str, _: u32) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(Written { file: self.0.create(name)?, at: 0 }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_folder()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.files()?.into_iter().map(|(name, _)| name).collect())
    }
}

impl Draft for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

/// The server, as far as it lets in.
struct House {
    authority: Authority,
    tls: Arc<ServerConfig>,
    /// Certificates it gave.
    given: HashSet<[u8; 32]>,
    _state: tempfile::TempDir,
}

impl House {
    fn new() -> Result<Self, String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let authority = Authority::open(state.path()).map_err(|error| error.to_string())?;
        let tls = shown(&authority)?;
        Ok(Self { authority, tls, given: HashSet::new(), _state: state })
    }

    /// Another CA takes over, or the former one goes.
    fn changes_its_ca(&mut self) -> Result<(), String> {
        match self.authority.former() {
            None => self.authority.rotate(None, OVERLAP),
            Some(_) => self.authority.retire().map(drop),
        }
        .map_err(|error| error.to_string())?;
        self.tls = shown(&self.authority)?;
        Ok(())
    }

    /// As `/v1/renew` answers: kept first, then told.
    fn signs(&mut self, csr: &[u8]) -> Result<JoinAnswer, String> {
        let signed = self.authority.sign_agent(csr, "t", "gate").map_err(|error| error.to_string())?;
        self.given.insert(signed.fingerprint);
        let (cross, former) = signed.former.unwrap_or_default();
        Ok(JoinAnswer {
            chain: signed.chain,
            agent: "t/gate".into(),
            server_time_us: wall_micros(),
            cross,
            former,
            ca_generation: signed.generation,
        })
    }

    /// Is this identity let in? Both ends of a real handshake.
    fn lets_in(&self, identity: &Identity) -> Result<(), String> {
        let config = tls::client_config(identity, tls::EARLIEST_TIME).map_err(|error| error.to_string())?;
        let name = tls::server_name(SERVER)?;
        let mut client = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        let mut server = ServerConnection::new(self.tls.clone()).map_err(|error| error.to_string())?;
        for _ in 0..10 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).map_err(|error| error.to_string())?;
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).map_err(|error| error.to_string())?;
                server.process_new_packets().map_err(|error| format!("the server: {error}"))?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).map_err(|error| error.to_string())?;
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).map_err(|error| error.to_string())?;
                client.process_new_packets().map_err(|error| format!("the gateway: {error}"))?;
            }
            if !client.is_handshaking() && !server.is_handshaking() {
                break;
            }
        }
        let shown = server.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.ok_or("no certificate was shown")?;
        match self.given.contains(&tls::fingerprint(shown)) {
            true => Ok(()),
            false => Err("the certificate is none that the server gave".into()),
        }
    }
}

fn shown(authority: &Authority) -> Result<Arc<ServerConfig>, String> {
    let names = identity::names(SERVER, None);
    Ok(authority.server_certificate(&names).map_err(|error| error.to_string())?.tls)
}

fn load(disk: &Simulated) -> Result<Identity, String> {
    Identity::load_from(&Shelf(disk.clone()), Path::new("identity"))
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "no identity".into())
}

/// One renewal, as `uplink::renewal` does it, with the road left out. What cannot be kept is an error.
fn renew(disk: &Simulated, house: &mut House, before: &Identity) -> Result<Identity, String> {
    let key = FreshKey::generate().map_err(|error| error.to_string())?;
    let csr = key.request("t/gate").map_err(|error| error.to_string())?;
    let answer = house.signs(&csr)?;
    let renewed = admission::certified(SERVER, tls::fingerprint(&before.ca), answer, key)?;
    let kept = renewed.save_to(&Shelf(disk.clone()), Path::new("identity"));
    kept.map(|()| renewed).map_err(|error| error.to_string())
}

fn scenario(dice: &mut Dice) -> Tally {
    let mut tally = Tally::default();
    if let Err(words) = live(dice, &mut tally) {
        tally.add(Broken::Other(words));
    }
    tally
}

fn live(dice: &mut Dice, tally: &mut Tally) -> Result<(), String> {
    let (mut disk, mut house) = (Simulated::default(), House::new()?);
    // The first certificate, as `join` gets it.
    let key = FreshKey::generate().map_err(|error| error.to_string())?;
    let answer = house.signs(&key.request("t/gate").map_err(|error| error.to_string())?)?;
    let first = admission::certified(SERVER, house.authority.pin(), answer, key)?;
    first.save_to(&Shelf(disk.clone()), Path::new("identity")).map_err(|error| error.to_string())?;
    for _ in 0..dice.within(5, 20) {
        // A start, which makes durable what it finds: others may rely on it from then on. The failure of
        // the round before may come only now.
        let sweep = |_| Identity::sweep(&Shelf(disk.clone()));
        sweep(()).or_else(|_| sweep(())).map_err(|error| error.to_string())?;
        let before = load(&disk)?;
        // The trust in a former CA ends when the gateway trusts the new one, which `ca retire` looks to.
        let is_over =
            house.authority.former().is_none() || before.ca_generation == house.authority.generation();
        if dice.once_in(4) && is_over {
            house.changes_its_ca()?;
        }
        let fails = dice.once_in(5);
        disk.watch();
        if fails {
            disk.fail_at(dice.within(1, 5));
        }
        let renewed = renew(&disk, &mut house, &before);
        tally.produced += 1;
        let moments = disk.moments();
        for (number, moment) in moments.iter().enumerate() {
            tally.faults += 1;
            let wreck = disk.wreck_at(moment, &mut |sides| dice.below(sides));
            let is_last = number + 1 == moments.len();
            let found = match load(&wreck).and_then(|found| house.lets_in(&found).map(|()| found)) {
                Ok(found) => found,
                Err(words) => {
                    tally.add(Broken::Unopened(format!("bricked at operation {number}: {words}")));
                    continue;
                }
            };
            if let Ok(renewed) = &renewed
                && is_last
                && found.chain != renewed.chain
            {
                tally.add(Broken::Other("what was kept is gone".into()));
            }
            if dice.once_in(4) {
                goes_on(&wreck, &mut house, &found).unwrap_or_else(|broken| tally.add(broken));
            }
        }
        if !fails && let Err(words) = renewed {
            tally.add(Broken::Other(format!("a renewal failed on a good disk: {words}")));
        }
        // On with what is there, or with what a power cut left.
        if let Some(moment) = dice.pick(&moments).filter(|_| dice.seed().is_multiple_of(2)) {
            disk = disk.wreck_at(moment, &mut |sides| dice.below(sides));
        }
    }
    Ok(())
}

/// The next start sweeps up what lies about, and the next renewal works.
fn goes_on(wreck: &Simulated, house: &mut House, found: &Identity) -> Result<(), Broken> {
    let other = |words: String| Broken::Other(words);
    let shelf = Shelf(wreck.clone());
    Identity::sweep(&shelf).map_err(|error| other(format!("cannot sweep: {error}")))?;
    let next = renew(wreck, house, found).map_err(|words| other(format!("does not go on: {words}")))?;
    let kept = load(wreck).map_err(Broken::Unopened)?;
    if kept.chain != next.chain {
        return Err(other("the next renewal was not kept".into()));
    }
    let names = shelf.names().map_err(|error| other(error.to_string()))?;
    if names != [FILE] {
        return Err(other(format!("drafts with keys lie about: {names:?}")));
    }
    Ok(())
}
