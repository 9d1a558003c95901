//! sled's own files go bad: cut, flipped, deleted, zeroed, swapped for those of an earlier moment or
//! mixed with them, a snapshot half-written. sled only finds things faster, so nothing may be lost
//! and nothing called lost; the store opens, from the segments if need be.
//!
//! On a real folder, since sled knows no other.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_agent::buffer::disk::Flash;
use forebay_agent::buffer::store::Store;
use forebay_config::agent::WhenFull;

use super::plant::{Plant, open, rules};
use super::witness::{NOW, contents};
use super::{Broken, Dice, Order, Tally};

pub fn run(order: &Order) -> Tally {
    order.each(|dice| {
        let mut tally = Tally::default();
        match tempfile::tempdir() {
            Ok(folder) => scenario(folder.path(), dice, &mut tally),
            Err(error) => tally.add(Broken::Other(format!("no temporary folder: {error}"))),
        }
        tally
    })
}

fn scenario(folder: &Path, dice: &mut Dice, tally: &mut Tally) {
    let rules = rules(16 << 20, WhenFull::DropOldest);
    let (store_at, earlier_at) = (folder.join("buffer"), folder.join("earlier"));
    let catalogue = store_at.join("catalogue");
    let mut plant = Plant::new(&rules);
    // One life, and so one store to open and one to make, serves for several faults.
    for round in 0..5 {
        let boot = dice.within(1, 2);
        match open(Arc::new(Flash::new(&store_at)), &rules, boot) {
            Ok((mut store, opening, took)) => {
                tally.slowest_opening = tally.slowest_opening.max(took);
                let (alive, mut broken) = plant.witness.judge(NOW, &mut store, &opening);
                if alive.keys().ne(plant.witness.alive.keys()) {
                    broken.push(Broken::Other("what was forgotten came back".into()));
                }
                // What was rebuilt is whole again.
                store.close();
                match open(Arc::new(Flash::new(&store_at)), &rules, boot) {
                    Ok((mut store, again, _)) => {
                        if !again.repairs.is_empty() {
                            broken
                                .push(Broken::Other(format!("something to mend again: {:?}", again.repairs)));
                        }
                        if contents(&mut store, &mut broken).len() != alive.len() {
                            broken.push(Broken::Lost(1, "the second opening found something else".into()));
                        }
                        plant.witness.settle(NOW, alive, &again);
                        plant.take_over(store, &again);
                    }
                    Err(refused) => broken.push(refused),
                }
                broken.into_iter().for_each(|broken| tally.add(broken));
            }
            Err(broken) => tally.add(broken),
        }
        if tally.failures() > 0 || round == 4 {
            break;
        }
        work(&mut plant, dice);
        drop(fs::remove_dir_all(&earlier_at));
        plant.store.iter_mut().for_each(Store::rest);
        let copied = copy_folder(&catalogue, &earlier_at);
        work(&mut plant, dice);
        if let Some(store) = plant.store.take() {
            if dice.once_in(2) { store.close() } else { drop(store) }
        }
        let done = copied.and_then(|()| harm(&catalogue, &earlier_at, dice));
        match done {
            Ok(()) => tally.faults += 1,
            Err(error) => tally.add(Broken::Other(format!("the fault did not come about: {error}"))),
        }
    }
    tally.produced += plant.produced;
}

fn work(plant: &mut Plant, dice: &mut Dice) {
    for _ in 0..dice.within(5, 25) {
        drop(plant.act(dice, || 0));
    }
    plant.tick(|| 0);
}

/// One kind of fault in sled's folder.
fn harm(catalogue: &Path, earlier: &Path, dice: &mut Dice) -> io::Result<()> {
    let files = files_of(catalogue)?;
    let Some(file) = dice.pick(&files).cloned() else { return Err(io::ErrorKind::NotFound.into()) };
    let length = fs::metadata(&file)?.len();
    let handle = OpenOptions::new().read(true).write(true).open(&file)?;
    match dice.below(8) {
        0 => handle.set_len(dice.below(length)),
        1 => {
            for _ in 0..dice.within(1, 20) {
                // Most of the file is empty: half of the flips go where sled begins.
                let within = if dice.once_in(2) { length.min(4096) } else { length };
                let at = dice.below(within);
                let mut byte = [0];
                handle.read_at(&mut byte, at)?;
                byte[0] ^= 1 << dice.below(8);
                handle.write_at(&byte, at)?;
            }
            Ok(())
        }
        2 => fs::remove_file(&file),
        3 => {
            let from = dice.below(length);
            handle.write_all_at(&vec![0; (length - from).min(dice.within(1, 65_536)) as usize], from)
        }
        4 => {
            fs::remove_dir_all(catalogue)?;
            copy_folder(earlier, catalogue)
        }
        5 => {
            for old in files_of(earlier)? {
                if let (true, Some(name)) = (dice.once_in(2), old.file_name()) {
                    fs::copy(&old, catalogue.join(name))?;
                }
            }
            Ok(())
        }
        6 => {
            let half: Vec<u8> = (0..dice.within(1, 3000)).map(|_| dice.throw() as u8).collect();
            fs::write(catalogue.join("snap.0000000000001000.generating"), &half)?;
            fs::write(catalogue.join("snap.0000000000002000"), &half)
        }
        _ => {
            // The newer half of one file over the older: a copy that was taken while sled worked.
            let Some(name) = file.file_name() else { return Ok(()) };
            let mut mixed = fs::read(&file)?;
            let old = fs::read(earlier.join(name)).unwrap_or_default();
            let upto = dice.below(mixed.len().min(old.len()) as u64) as usize;
            mixed[..upto].copy_from_slice(&old[..upto]);
            fs::write(&file, mixed)
        }
    }
}

fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.metadata()?.len() > 0 {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
