//! A Modbus TCP device with as many registers as wanted, for load: every answer carries the number
//! of the request, so that no two polls read the same, or what somebody has it show.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Fills the registers that a unit is asked for; the number counts the requests of the connection.
type Show = Box<dyn FnMut(u8, u16, &mut [u16]) + Send>;

/// Answers function 3 for every unit and address. Ends when dropped.
pub struct LoadDevice {
    address: SocketAddr,
    asked: watch::Receiver<u64>,
    connections: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl LoadDevice {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        Self::showing(|_, number, registers| {
            (0..).zip(registers).for_each(|(place, register)| *register = number.wrapping_add(place));
        })
        .await
    }

    /// As [`LoadDevice::start`], with registers filled by `show`: unit, number of the request, registers.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn showing(show: impl FnMut(u8, u16, &mut [u16]) + Send + 'static) -> Result<Self> {
        let show: Arc<Mutex<Show>> = Arc::new(Mutex::new(Box::new(show)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (questions, asked) = watch::channel(0);
        let questions = Arc::new(questions);
        let connections = Arc::new(AtomicU64::new(0));
        let made = connections.clone();
        let serving = tokio::spawn(async move {
            let mut peers = JoinSet::new();
            while let Ok((peer, _)) = listener.accept().await {
                made.fetch_add(1, Ordering::Relaxed);
                peers.spawn(serve(peer, questions.clone(), show.clone()));
            }
        });
        Ok(Self { address, asked, connections, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests answered so far.
    pub fn asked(&self) -> u64 {
        *self.asked.borrow()
    }

    /// Connections taken so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns with the first request beyond so many.
    ///
    /// # Errors
    /// When the device has ended.
    pub async fn asked_beyond(&self, count: u64) -> Result<()> {
        self.asked.clone().wait_for(|asked| *asked > count).await?;
        Ok(())
    }

    /// The `[link.load]` section for `points` registers read every `interval`, 100 to a unit.
    pub fn link_toml(&self, points: usize, interval: &str) -> String {
        let mut text = format!(
            "[link.load]\ninterval = \"{interval}\"\n[link.load.modbus-tcp]\naddress = \"{}\"\n",
            self.address
        );
        for unit in 0..points.div_ceil(100) {
            let _ = write!(
                text,
                "[link.load.device.d{unit}]\nunit_id = {}\n[link.load.device.d{unit}.points]\n",
                unit + 1
            );
            for register in 0..(points - unit * 100).min(100) {
                let _ = writeln!(text, "p{register} = {{ address = {register} }}");
            }
        }
        text
    }
}

impl Drop for LoadDevice {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Modbus Messaging on TCP/IP V1.0b, 3.1: transaction, protocol, length, unit; then function,
/// address, count.
async fn serve(
    mut peer: TcpStream,
    questions: Arc<watch::Sender<u64>>,
    show: Arc<Mutex<Show>>,
) -> std::io::Result<()> {
    let mut request = [0; 12];
    let mut registers = Vec::new();
    let mut number: u16 = 0;
    loop {
        peer.read_exact(&mut request).await?;
        number = number.wrapping_add(1);
        questions.send_modify(|count| *count += 1);
        let count = u16::from_be_bytes([request[10], request[11]]);
        let mut answer = Vec::with_capacity(9 + 2 * usize::from(count));
        answer.extend_from_slice(&request[..4]);
        answer.extend_from_slice(&(3 + 2 * count).to_be_bytes());
        answer.extend_from_slice(&[request[6], request[7], (2 * count) as u8]);
        registers.clear();
        registers.resize(count.into(), 0);
        show.lock().unwrap_or_else(PoisonError::into_inner)(request[6], number, &mut registers);
        registers.iter().for_each(|register| answer.extend_from_slice(&register.to_be_bytes()));
        peer.write_all(&answer).await?;
    }
}
