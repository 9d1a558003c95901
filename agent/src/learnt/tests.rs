use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A unit whose register 12 does not exist and that gives at most ten, and what it was asked:
/// address and count.
struct Unit {
    address: String,
    asked: Arc<Mutex<Vec<(u16, u16)>>>,
    task: JoinHandle<()>,
}

impl Unit {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let log = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = serve(stream, &log).await;
            }
        });
        Self { address, asked, task }
    }

    /// What it was asked since the last look, in order of address.
    fn asked(&self) -> Vec<(u16, u16)> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort_unstable();
        asked
    }

    /// A link that reads these registers once.
    fn link(&self, device: &str, registers: impl IntoIterator<Item = u16>) -> Arc<Link> {
        let points: String =
            registers.into_iter().map(|at| format!("p{at} = {{ address = {at} }}\n")).collect();
        let text = format!(
            "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.hall]\ninterval = \"1h\"\n[link.hall.modbus-tcp]\n\
             address = \"{}\"\n[link.hall.device.pump]\n{device}\n[link.hall.device.pump.points]\n{points}",
            self.address
        );
        forebay_config::load::agent_text("agent.toml", &text).unwrap().links.remove(0)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, log: &Mutex<Vec<(u16, u16)>>) -> io::Result<()> {
    let mut query = [0; 12];
    loop {
        stream.read_exact(&mut query).await?;
        let [address, count] = [8, 10].map(|at| u16::from_be_bytes([query[at], query[at + 1]]));
        log.lock().unwrap().push((address, count));
        let pdu = if count > 10 {
            vec![0x83, 3]
        } else if (address..address + count).contains(&12) {
            vec![0x83, 2]
        } else {
            [
                &[3, (count * 2) as u8][..],
                &(address..address + count).flat_map(u16::to_be_bytes).collect::<Vec<_>>(),
            ]
            .concat()
        };
        let length = (pdu.len() as u16 + 1).to_be_bytes();
        stream.write_all(&[&query[..2], &[0, 0], &length, &query[6..7], &pdu].concat()).await?;
    }
}

/// One life of a link: until every point had a reading, good or bad.
async fn live(link: &Arc<Link>, state: &TempDir) -> Keeper {
    let mut keeper = Keeper::open(link.clone(), state.path()).await.unwrap();
    keeper.connect().await.unwrap();
    let mut heard = BTreeMap::new();
    while heard.len() < keeper.points().len() {
        let harvest = keeper.next().await.unwrap();
        heard.extend(harvest.samples.into_iter().map(|sample| (sample.slot, sample.quality)));
    }
    keeper.close().await;
    keeper
}

fn file(state: &TempDir) -> PathBuf {
    state.path().join("learnt/hall.json")
}

#[tokio::test]
async fn the_second_life_never_asks_along_a_hole_that_the_first_one_found() {
    let (unit, state) = (Unit::start().await, tempfile::tempdir().unwrap());
    let link = unit.link("", 10..16);
    live(&link, &state).await;
    assert!(unit.asked().contains(&(10, 6)), "the first life knows nothing");
    live(&link, &state).await;
    assert_eq!(unit.asked(), [(10, 2), (12, 1), (13, 3)]);
}

#[tokio::test]
async fn the_second_life_keeps_to_the_most_registers_that_the_unit_gave_the_first() {
    let (unit, state) = (Unit::start().await, tempfile::tempdir().unwrap());
    let link = unit.link("", 100..130);
    live(&link, &state).await;
    let first = unit.asked();
    assert!(first.iter().any(|(_, count)| *count > 10), "{first:?}");
    live(&link, &state).await;
    let second = unit.asked();
    assert!(second.iter().all(|(_, count)| *count <= 10), "{second:?}");
    assert_eq!(second.iter().map(|(_, count)| count).sum::<u16>(), 30);
}

#[tokio::test]
async fn nothing_is_written_unless_something_new_was_learnt() {
    let (unit, state) = (Unit::start().await, tempfile::tempdir().unwrap());
    let plain = unit.link("", 100..105);
    live(&plain, &state).await;
    assert!(!file(&state).exists(), "nothing was learnt");
    let link = unit.link("", 10..16);
    live(&link, &state).await;
    let written = fs::metadata(file(&state)).unwrap();
    assert_eq!(written.mode() & 0o777, 0o600);
    live(&link, &state).await;
    // A file that is written anew is another file.
    assert_eq!(fs::metadata(file(&state)).unwrap().ino(), written.ino());
}

#[tokio::test]
async fn a_file_that_is_no_good_is_written_anew_and_costs_no_reading() {
    let (unit, state) = (Unit::start().await, tempfile::tempdir().unwrap());
    let link = unit.link("", 10..16);
    live(&link, &state).await;
    let good = fs::read_to_string(file(&state)).unwrap();
    for bad in [&good[..good.len() / 2], "", "\0\0\0\0", "{\"version\": 7}"] {
        fs::write(file(&state), bad).unwrap();
        unit.asked();
        live(&link, &state).await;
        assert!(unit.asked().contains(&(10, 6)), "it begins anew after {bad:?}");
        assert_eq!(fs::read_to_string(file(&state)).unwrap(), good, "after {bad:?}");
    }
}

#[tokio::test]
async fn what_was_learnt_under_other_settings_is_put_to_the_test_again() {
    let (unit, state) = (Unit::start().await, tempfile::tempdir().unwrap());
    live(&unit.link("", 10..16), &state).await;
    unit.asked();
    live(&unit.link("max_gap = 4", 10..16), &state).await;
    assert!(unit.asked().contains(&(10, 6)));
}

#[tokio::test]
async fn what_removed_links_learnt_is_deleted_and_nothing_else() {
    let (unit, state) = (Unit::start().await, tempfile::tempdir().unwrap());
    let link = unit.link("", 10..16);
    live(&link, &state).await;
    let folder = state.path().join("learnt");
    for name in ["gone.json", ".hall.json.0123456789abcdef", "README"] {
        fs::write(folder.join(name), "{}").unwrap();
    }
    fs::create_dir(folder.join("folder.json")).unwrap();
    let left = |kept| {
        forget_removed(state.path(), &kept);
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    let others = [".hall.json.0123456789abcdef", "README", "folder.json"];
    assert_eq!(left(files_of(&[link])), [&others[..], &["hall.json"]].concat());
    assert_eq!(left(files_of(&[])), others);
    forget_removed(&state.path().join("nowhere"), &files_of(&[]));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_costs_no_reading() {
    let (unit, state) = (Unit::start().await, tempfile::tempdir().unwrap());
    fs::write(state.path().join("learnt"), "in the way").unwrap();
    let keeper = live(&unit.link("", 10..16), &state).await;
    assert!(keeper.is_complained);
}
