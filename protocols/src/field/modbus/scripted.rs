//! Peers that follow a script, and small configurations, for the tests of this room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_config::field::{
    ByteOrder, Framing, Link, ModbusBus, ModbusDevice, ModbusPoint, ModbusTcp, PointKind, PointMeta,
    Protocol, RawType, Register,
};
use forebay_config::units::Name;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::frame;

/// A query as the peer heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub framing: Framing,
    pub at: Instant,
    pub id: u16,
    pub unit: u8,
    pub function: u8,
    pub address: u16,
    pub count: u16,
}

/// Bytes to send so long after the query.
pub type Script = Vec<(Duration, Vec<u8>)>;

impl Asked {
    /// A frame with this unit and PDU.
    pub fn frame(&self, unit: u8, pdu: &[u8]) -> Vec<u8> {
        let body = [&[unit], pdu].concat();
        match self.framing {
            Framing::Tcp => {
                let length = body.len() as u16;
                [&self.id.to_be_bytes(), &[0, 0][..], &length.to_be_bytes(), &body].concat()
            }
            Framing::Rtu => {
                let checksum = frame::crc(&body).to_le_bytes();
                [&body[..], &checksum].concat()
            }
        }
    }

    /// An answer with these registers, however many were asked for.
    pub fn words(&self, words: &[u16]) -> Vec<u8> {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        self.frame(self.unit, &[&[self.function, bytes.len() as u8], &bytes[..]].concat())
    }

    /// The right answer of a device whose every register holds its own address.
    pub fn addresses(&self) -> Vec<u8> {
        let words: Vec<u16> = (0..self.count).map(|i| self.address + i).collect();
        self.words(&words)
    }

    pub fn exception(&self, code: u8) -> Vec<u8> {
        self.frame(self.unit, &[self.function | 0x80, code])
    }
}

/// Sent at once.
pub fn now(bytes: Vec<u8>) -> Script {
    vec![(Duration::ZERO, bytes)]
}

/// What a peer was asked so far.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Asked>>>);

impl Heard {
    pub fn all(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }

    pub fn of_unit(&self, unit: u8) -> Vec<Asked> {
        self.all().into_iter().filter(|asked| asked.unit == unit).collect()
    }
}

/// Serves `stream` until it closes: every query is answered as `script` says.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    framing: Framing,
    heard: Heard,
    mut script: impl FnMut(Asked) -> Script,
) {
    let query_length = if framing == Framing::Tcp { 12 } else { 8 };
    let mut received = Vec::new();
    let mut pending: Vec<(Instant, Vec<u8>)> = Vec::new();
    loop {
        let next = pending.first().map(|(at, _)| *at);
        tokio::select! {
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let (_, bytes) = pending.remove(0);
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            read = stream.read_buf(&mut received) => {
                if !matches!(read, Ok(n) if n > 0) {
                    return;
                }
                while received.len() >= query_length {
                    let query: Vec<u8> = received.drain(..query_length).collect();
                    let asked = asked(framing, &query);
                    heard.0.lock().unwrap().push(asked);
                    pending.extend(script(asked).into_iter().map(|(after, bytes)| (asked.at + after, bytes)));
                }
                pending.sort_by_key(|(at, _)| *at);
            }
        }
    }
}

fn asked(framing: Framing, query: &[u8]) -> Asked {
    let word = |at: usize| u16::from_be_bytes([query[at], query[at + 1]]);
    let (id, body) = match framing {
        Framing::Tcp => (word(0), 6),
        Framing::Rtu => (0, 0),
    };
    Asked {
        framing,
        at: Instant::now(),
        id,
        unit: query[body],
        function: query[body + 1],
        address: word(body + 2),
        count: word(body + 4),
    }
}

/// An unscaled `uint16` holding point named after its address.
pub fn word_at(address: u16, interval: Duration) -> ModbusPoint {
    ModbusPoint {
        meta: PointMeta {
            name: Name::new(&format!("p{address}")).unwrap(),
            unit: String::new(),
            kind: PointKind::Gauge,
            scale: None,
            offset: None,
        },
        register: Register::Holding,
        address,
        raw: RawType::Uint16,
        interval,
        labels: BTreeMap::new(),
        rollover: false,
    }
}

/// A device with one word at each address.
pub fn device(unit_id: u8, addresses: &[u16], interval: Duration) -> ModbusDevice {
    ModbusDevice {
        name: Name::new(&format!("unit{unit_id}")).unwrap(),
        unit_id,
        byte_order: ByteOrder::Abcd,
        max_registers: 125,
        max_gap: 0,
        interval,
        points: addresses.iter().map(|&address| word_at(address, interval)).collect(),
    }
}

/// A TCP link to these devices.
pub fn tcp_link(address: &str, framing: Framing, timeout: Duration, devices: Vec<ModbusDevice>) -> Link {
    let bus = ModbusBus { pause: Duration::ZERO, devices };
    Link {
        name: Name::new("plant").unwrap(),
        interval: Duration::from_secs(1),
        timeout,
        backoff_max: Duration::from_secs(60),
        protocol: Protocol::ModbusTcp(ModbusTcp { address: address.into(), framing, in_flight: 4, bus }),
    }
}
