use forebay_config::units::ByteSize;
use forebay_protocols::reading::{Quality, Value};
use forebay_protocols::sync::batch::{Decoder, Sequence};
use forebay_protocols::sync::wire::gap::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;

/// A Modbus TCP device whose one register counts how often it was read.
struct Device {
    address: std::net::SocketAddr,
    reads: watch::Receiver<u16>,
    /// Cancelled, it closes its connections and takes no more.
    dead: CancellationToken,
}

impl Device {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, reads) = watch::channel(0);
        let dead = CancellationToken::new();
        let end = dead.clone();
        tokio::spawn(end.run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // One connection at a time; the next one waits in the queue.
                let _ = serve(stream, &count).await;
            }
        }));
        Self { address, reads, dead }
    }

    async fn until_read(&mut self, times: u16) {
        self.reads.wait_for(|reads| *reads >= times).await.unwrap();
    }
}

async fn serve(mut stream: TcpStream, count: &watch::Sender<u16>) -> std::io::Result<()> {
    loop {
        // MBAP header and "read 1 holding register".
        let mut request = [0; 12];
        stream.read_exact(&mut request).await?;
        count.send_modify(|count| *count += 1);
        let [high, low] = count.borrow().to_be_bytes();
        let (transaction, unit) = ([request[0], request[1]], request[6]);
        let answer = [transaction[0], transaction[1], 0, 0, 0, 5, unit, 3, 2, high, low];
        stream.write_all(&answer).await?;
    }
}

/// Nothing is told anew.
fn fixed() -> Control {
    Control { reread: Arc::new(|| panic!("nobody asked")), level: None }
}

fn nobody() -> mpsc::Receiver<()> {
    mpsc::channel(1).1
}

struct Bench {
    config: Agent,
    store: BufferSettings,
    ending: Ending,
    _dir: tempfile::TempDir,
}

fn bench(device: &Device) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        r#"
        [agent]
        site = "home"
        gateway = "gate"
        state_dir = "{}"
        [link.hall]
        interval = "20ms"
        [link.hall.modbus-tcp]
        address = "{}"
        [link.hall.device.pump]
        unit_id = 1
        [link.hall.device.pump.points]
        count = {{ register = "holding", address = 0, type = "uint16" }}
        "#,
        dir.path().display(),
        device.address
    );
    let mut config = forebay_config::load::agent_text("agent.toml", &text).unwrap();
    config.telemetry.listen = None;
    config.buffer.durability_window = Duration::from_millis(5);
    let forebay_config::agent::Buffer { when_full, .. } = config.buffer;
    let (dir_of_it, max_size) = (dir.path().join("buffer"), ByteSize(16 << 20));
    let store = BufferSettings {
        dir: dir_of_it,
        max_size,
        reserve: ByteSize(0),
        when_full,
        tail: ByteSize(0),
        classes: Vec::new(),
    };
    Bench { config, store, ending: Ending::default(), _dir: dir }
}

/// Everything that was appended, in order.
async fn values(buffer: &Buffer) -> Vec<Option<i64>> {
    let batches = buffer.oldest(Sequence(1), usize::MAX).await.unwrap();
    let mut decoder = Decoder::new();
    let readings = batches.iter().flat_map(|batch| decoder.decode(&batch.bytes).unwrap().readings);
    readings
        .filter(|reading| reading.quality == Quality::Good)
        .map(|reading| match reading.value {
            Some(Value::Integer(value)) => Some(value),
            _ => None,
        })
        .collect()
}

async fn opened(seen: &mut Seen) -> Buffer {
    seen.wait_for(Option::is_some).await.unwrap().clone().unwrap().buffer
}

#[tokio::test]
async fn links_are_read_while_the_buffer_opens_and_nothing_is_lost() {
    let mut device = Device::start().await;
    let Bench { config, store, ending, _dir } = bench(&device);
    let (open, gate) = oneshot::channel::<()>();
    let opening = async move {
        let _ = gate.await;
        Buffer::open(store).await
    };
    let built = timeout(Duration::from_secs(30), build(config, fixed(), opening, nobody(), &ending)).await;
    let (supervisor, mut seen) = built.expect("it waits for the buffer").unwrap();
    let running = tokio::spawn(supervisor.run(Grace::default()));
    device.until_read(5).await;
    assert!(seen.borrow().is_none(), "the buffer was not opened yet");
    open.send(()).unwrap();
    let buffer = opened(&mut seen).await;
    let so_far = *device.reads.borrow();
    device.until_read(so_far + 3).await;
    ending.asked.cancel();
    assert_eq!(running.await.unwrap(), Verdict::Drained);
    let values = values(&buffer).await;
    assert!(values.len() >= 7, "{values:?}");
    assert!(values.iter().copied().eq((1..=values.len() as i64).map(Some)), "lost or doubled: {values:?}");
    assert_eq!(buffer.status().counts.appended, values.len() as u64);
    assert_eq!(buffer.gaps(0, 9).await.unwrap(), [], "nobody was silent");
}

#[tokio::test]
async fn an_agent_without_links_waits_for_its_configuration_and_ends_when_asked() {
    let device = Device::start().await;
    let Bench { mut config, store, ending, _dir } = bench(&device);
    config.links.clear();
    let (_asks, reloads) = mpsc::channel(1);
    let (supervisor, mut seen) = build(config, fixed(), Buffer::open(store), reloads, &ending).await.unwrap();
    let mut running = tokio::spawn(supervisor.run(Grace::default()));
    let buffer = opened(&mut seen).await;
    let ended = timeout(Duration::from_millis(200), &mut running).await;
    assert!(ended.is_err(), "it went on its own: {ended:?}");
    ending.asked.cancel();
    assert_eq!(running.await.unwrap(), Verdict::Drained);
    assert_eq!(buffer.status().counts.appended, 0);
}

#[tokio::test]
async fn a_second_agent_on_the_same_folder_ends_at_once_and_asks_no_device() {
    let mut device = Device::start().await;
    let Bench { config, store, ending, _dir } = bench(&device);
    let first = Buffer::open(store.clone()).await.unwrap();
    let refused = build(config, fixed(), Buffer::open(store), nobody(), &ending).await.err().unwrap();
    assert_eq!(
        format!("{refused:#}"),
        "open the buffer: cannot write to the buffer: another process has this buffer open; end it first"
    );
    assert!(!device.reads.has_changed().unwrap(), "the other agent's devices were asked");
    drop(first);
    device.dead.cancel();
    assert!(device.reads.wait_for(|reads| *reads > 0).await.is_err());
}

#[tokio::test]
async fn a_buffer_that_will_not_open_after_all_ends_the_agent_with_its_words() {
    let mut device = Device::start().await;
    let Bench { config, store: _, ending, _dir } = bench(&device);
    let (open, gate) = oneshot::channel::<()>();
    let opening = async move {
        let _ = gate.await;
        Err(BufferError::Disk("no thread for it".into()))
    };
    let (supervisor, seen) = build(config, fixed(), opening, nobody(), &ending).await.unwrap();
    let running = tokio::spawn(supervisor.run(Grace::default()));
    device.until_read(1).await;
    open.send(()).unwrap();
    let words = "batcher: open the buffer: cannot write to the buffer: no thread for it";
    assert_eq!(running.await.unwrap(), Verdict::Failed(words.into()));
    close(seen).await;
}

#[tokio::test]
async fn an_agent_that_must_end_while_its_buffer_opens_ends_in_time() {
    let mut device = Device::start().await;
    let Bench { config, store: _, ending, _dir } = bench(&device);
    let (supervisor, seen) = build(config, fixed(), std::future::pending(), nobody(), &ending).await.unwrap();
    let grace = Grace { append: Duration::from_millis(20), uplink: Duration::from_millis(20) };
    let running = tokio::spawn(supervisor.run(grace));
    device.until_read(1).await;
    ending.asked.cancel();
    let words = "not everything could be written in time";
    assert_eq!(running.await.unwrap(), Verdict::Failed(words.into()), "readings in hand were not written");
    close(seen).await;
}

#[tokio::test]
async fn a_device_that_is_silent_when_the_agent_ends_leaves_a_gap() {
    let mut device = Device::start().await;
    let Bench { config, store, ending, _dir } = bench(&device);
    let (supervisor, mut seen) =
        build(config, fixed(), Buffer::open(store), nobody(), &ending).await.unwrap();
    let running = tokio::spawn(supervisor.run(Grace::default()));
    let buffer = opened(&mut seen).await;
    device.until_read(2).await;
    device.dead.cancel();
    let mut holes = buffer.status().counts.appended;
    while holes <= u64::from(*device.reads.borrow()) {
        // The bad reading of the loss comes after all that was read.
        buffer.appended().await;
        holes = buffer.status().counts.appended;
    }
    ending.asked.cancel();
    assert_eq!(running.await.unwrap(), Verdict::Drained);
    let gaps = buffer.gaps(0, 9).await.unwrap();
    let told: Vec<_> =
        gaps.iter().map(|gap| (gap.reason(), gap.device.as_str(), gap.from_us < gap.to_us)).collect();
    assert_eq!(told, [(Reason::DeviceSilent, "pump", true)]);
    assert_eq!(gaps[0].start.unwrap().boot, 1);
}

#[tokio::test]
async fn what_a_link_learnt_is_kept_in_the_state_directory_and_a_bad_file_is_written_anew() {
    let mut device = Device::start().await;
    let Bench { config, store, ending, _dir } = bench(&device);
    let file = config.state_dir.join("learnt/hall.json");
    std::fs::create_dir(config.state_dir.join("learnt")).unwrap();
    std::fs::write(&file, "torn").unwrap();
    let (supervisor, _seen) = build(config, fixed(), Buffer::open(store), nobody(), &ending).await.unwrap();
    let running = tokio::spawn(supervisor.run(Grace::default()));
    device.until_read(2).await;
    ending.asked.cancel();
    assert_eq!(running.await.unwrap(), Verdict::Drained);
    let kept = std::fs::read_to_string(file).unwrap();
    assert!(kept.contains("\"version\": 1"), "{kept}");
}
