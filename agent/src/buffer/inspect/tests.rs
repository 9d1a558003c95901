//! What a person sees of stores that the real store made: whole, in use, damaged, and not there.

mod damage;
mod extract;
mod overview;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use forebay_config::agent::WhenFull;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Head};
use tempfile::TempDir;

use super::*;
use crate::buffer::Opening;
use crate::buffer::disk::Flash;
use crate::buffer::store::{Rules, Store};

/// A catalogue in memory and segments of 16 KiB.
const TIGHT: Rules =
    Rules { limit: 384 << 10, reserve: 0, when_full: WhenFull::DropOldest, tail: 0, classes: Vec::new() };
/// 2023-11-14 22:13:20 UTC: when the gateway of these tests booted.
const BOOTED_US: i64 = 1_700_000_000_000_000;
const SECOND_US: i64 = 1_000_000;
/// Readings of each point in a batch.
const EACH: u64 = 40;

/// A gateway's buffer: two points, batches of 80 readings, one a minute.
struct Plant {
    dir: TempDir,
    store: Option<Store>,
    opening: Opening,
    synchronised: bool,
}

impl Plant {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, opening) = open(dir.path());
        store.define(&[point("flow", DataType::Float), point("mode", DataType::Text)]);
        Self { dir, store: Some(store), opening, synchronised: true }
    }

    fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    /// Appends batches of readings whose texts do not compress, so that segments fill.
    fn append(&mut self, batches: u64) {
        let (epoch, counter) = (self.opening.epoch, self.opening.boot_counter);
        let boot = Boot { counter, id: [7; 8], wall_offset_us: BOOTED_US, synchronised: self.synchronised };
        for _ in 0..batches {
            let sequence = self.store().next_sequence();
            let readings = &mut readings(sequence.0);
            let batch = Encoder::new().encode(&Head { epoch, sequence, boot }, readings);
            assert_eq!(u64::from(batch.count), 2 * EACH);
            self.store().append(&[batch]).unwrap();
        }
    }

    /// Ends the agent in good order.
    fn close(mut self) -> Self {
        self.store.take().unwrap().close();
        self
    }

    /// Kills it.
    fn kill(mut self) -> Self {
        self.store = None;
        self
    }

    fn look(&self) -> Inspection {
        Inspection::open(self.folder()).unwrap()
    }

    fn flip(&self, name: &str, at: usize) {
        let path = self.folder().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
    }

    fn cut(&self, name: &str, length: u64) {
        let file = fs::OpenOptions::new().write(true).open(self.folder().join(name)).unwrap();
        file.set_len(length).unwrap();
    }

    fn length(&self, name: &str) -> u64 {
        fs::metadata(self.folder().join(name)).unwrap().len()
    }

    /// Every file with its content: to see that nobody touched anything.
    fn everything(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = Flash::new(self.folder())
            .files()
            .unwrap()
            .into_iter()
            .map(|(name, _)| (name.clone(), fs::read(self.folder().join(name)).unwrap()))
            .collect();
        files.sort();
        files
    }
}

fn open(folder: &Path) -> (Store, Opening) {
    Store::open(Arc::new(Flash::new(folder)), TIGHT, [7; 16]).unwrap()
}

fn point(name: &str, data_type: DataType) -> Arc<Point> {
    let unit = if data_type == DataType::Float { "°C" } else { "" };
    let kind = PointKind::Gauge;
    Arc::new(Point { device: "boiler".into(), name: name.into(), unit: unit.into(), kind, data_type })
}

/// The readings of a batch: point 1 numbers, point 2 texts that tell batch and place.
fn readings(sequence: u64) -> Vec<Reading> {
    let each = |place: u64| {
        let stamp = Stamp::boot(BootTime((sequence * 60 + place) as i64 * SECOND_US));
        let noise = (sequence * 1000 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let text = format!("{sequence}-{place}-{noise:016x}");
        let reading = |point, value| Reading {
            point: PointId(point),
            stamp,
            value: Some(value),
            quality: Quality::Good,
        };
        [reading(1, Value::Float(sequence as f64)), reading(2, Value::Text(text.into()))]
    };
    (0..EACH).flat_map(each).collect()
}

/// Verifies; what was found and the summary.
fn verify(inspection: &Inspection) -> (Vec<Trouble>, Checked) {
    let mut troubles = Vec::new();
    let checked = inspection
        .verify(&mut |event| {
            if let Event::Trouble(trouble) = event {
                troubles.push(trouble.clone());
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(checked.troubles, troubles.len() as u64);
    (troubles, checked)
}

/// Sequences and readings that come out.
fn extract(inspection: &Inspection, wanted: &Wanted) -> (Vec<u64>, Extracted) {
    let mut sequences = Vec::new();
    let extracted = inspection
        .extract(wanted, &mut |row| {
            if sequences.last() != Some(&row.sequence) {
                sequences.push(row.sequence);
            }
            Ok(())
        })
        .unwrap();
    (sequences, extracted)
}

#[test]
fn a_folder_that_is_not_there_is_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("buffer");
    let error = Inspection::open(&missing).err().unwrap();
    assert!(matches!(&error, InspectError::NotThere(path) if *path == missing));
    assert_eq!(
        error.to_string(),
        format!(
            "there is no buffer at {}: the agent makes it at its first start; if it lies elsewhere, name its \
             folder with --dir",
            missing.display()
        )
    );
    assert!(!missing.exists(), "looking makes nothing");
}

#[test]
fn an_empty_folder_and_a_file_are_no_buffers() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Inspection::open(dir.path()), Err(InspectError::NotABuffer(_))));
    let file = dir.path().join("file");
    fs::write(&file, "text").unwrap();
    assert!(matches!(Inspection::open(&file), Err(InspectError::NotABuffer(_))));
}

#[test]
fn the_state_directory_may_be_named_instead_of_the_buffer_in_it() {
    let state = tempfile::tempdir().unwrap();
    drop(open(&state.path().join("buffer")));
    let inspection = Inspection::open(state.path()).unwrap();
    assert_eq!(inspection.folder(), state.path().join("buffer"));
}

#[test]
fn a_window_lets_nothing_through() {
    let plant = Plant::new().close();
    let before = plant.everything();
    let window = Window::new(plant.folder());
    assert!(window.create("logbook").is_err());
    assert!(window.rename("logbook", "other").is_err());
    assert!(window.remove("logbook").is_err());
    assert!(window.sync_folder().is_err());
    let mut logbook = window.open("logbook").unwrap();
    assert!(logbook.write_at(b"x", 0).is_err());
    assert!(logbook.cut(0).is_err());
    assert_eq!(plant.everything(), before);
}

#[test]
fn looking_changes_no_byte_and_takes_no_lock() {
    let mut plant = Plant::new();
    plant.append(30);
    plant.store().acknowledge(&[1..=5]);
    plant.store().tick();
    let before = plant.everything();
    let inspection = plant.look();
    assert_eq!(inspection.user, User::Process(std::process::id()), "the store in this process");
    inspection.overview(5).unwrap();
    assert_eq!(verify(&inspection).0, []);
    extract(&inspection, &Wanted { all: true, ..Wanted::default() });
    assert_eq!(plant.everything(), before);
    let plant = plant.kill();
    let inspection = plant.look();
    assert_eq!(inspection.user, User::Nobody);
    let (store, _) = open(plant.folder());
    drop((store, inspection));
}

#[test]
fn what_happens_while_somebody_looks_is_not_taken_for_damage() {
    let mut plant = Plant::new();
    plant.append(60);
    plant.store().tick();
    let inspection = plant.look();
    // Defined, appended, acknowledged and deleted since the logbook was read.
    plant.store().define(&[point("late", DataType::Float)]);
    let number = plant.store().define(&[point("late", DataType::Float)])[0];
    plant.append(30);
    let late = Reading {
        point: number,
        stamp: Stamp::device(5),
        value: Some(Value::Float(1.0)),
        quality: Quality::Good,
    };
    let (epoch, sequence) = (plant.opening.epoch, plant.store().next_sequence());
    let boot = Boot { counter: 1, id: [7; 8], wall_offset_us: BOOTED_US, synchronised: true };
    let batch = Encoder::new().encode(&Head { epoch, sequence, boot }, &mut [late]);
    plant.store().append(&[batch]).unwrap();
    plant.store().acknowledge(&[1..=40]);
    plant.store().tick();
    assert!(!plant.folder().join(file_name(1)).exists(), "a whole segment went");
    let (troubles, checked) = verify(&inspection);
    assert_eq!(troubles, []);
    assert!(checked.finished > 0);
    let (sequences, extracted) = extract(&inspection, &Wanted::default());
    assert_eq!((extracted.damaged, extracted.finished), (0, checked.finished));
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
    assert!((41..=60).all(|sequence| sequences.contains(&sequence)), "what is there comes out");
    let again = plant.look();
    assert_eq!(verify(&again).0, []);
    let (sequences, _) = extract(&again, &Wanted::default());
    assert_eq!(sequences, (41..=91).collect::<Vec<_>>());
}
