//! Looking at a unit by hand: single reads, outside any schedule. Never writes to a device.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use forebay_config::field::{Link, Register};

use super::Endpoint;
use super::frame::{Query, Reply};
use super::planner::{BITS_PER_REGISTER, MOST_REGISTERS};
use super::transport::Transport;
use crate::field::source::LinkFault;

/// A connection for somebody who looks.
pub struct Looker {
    endpoint: Endpoint,
    timeout: Duration,
    transport: Option<Transport>,
}

/// What a range of addresses holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Address -> register; a bit is 0 or 1.
    pub words: BTreeMap<u16, u16>,
    /// Addresses that the unit refuses, with its exception code.
    pub refused: BTreeMap<u16, u8>,
    /// Requests that it took.
    pub requests: u32,
}

/// Why a look ended early. Plain words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkFault),
    /// The unit says nothing, or nothing sensible.
    #[error("unit {unit} {what}")]
    Unit {
        /// Unit id.
        unit: u8,
        /// What it did.
        what: String,
    },
}

impl Looker {
    /// For the endpoint of a link; `None` if it does not speak Modbus.
    pub fn new(link: &Link) -> Option<Self> {
        let (endpoint, _) = Endpoint::of(link)?;
        Some(Self { endpoint, timeout: link.timeout, transport: None })
    }

    /// Where it looks: address or port.
    pub fn peer(&self) -> String {
        self.endpoint.peer()
    }

    /// One read. The connection is made if there is none, and dropped when it is no good.
    pub async fn ask(&mut self, query: Query) -> Result<Reply, LinkFault> {
        let mut transport = match self.transport.take() {
            Some(transport) => transport,
            None => self.endpoint.open(self.timeout).await?,
        };
        let asked = transport.exchange(query, self.timeout).await;
        let reply = asked.map_err(|lost| LinkFault::Lost { peer: self.peer(), why: lost.0 })?;
        // What did not answer may do so late, and on a serial line that would pass for the next answer.
        if !matches!(reply, Reply::Silent | Reply::Garbled) {
            self.transport = Some(transport);
        }
        Ok(reply)
    }

    /// Does anybody answer under this unit id? An exception is an answer, unless a gateway says by it
    /// that nobody does (codes 10 and 11; Modbus Application Protocol V1.1b3, 7).
    pub async fn answers(&mut self, unit: u8) -> Result<bool, LinkFault> {
        let query = Query { unit, table: Register::Holding, address: 0, count: 1 };
        Ok(match self.ask(query).await? {
            Reply::Words(_) | Reply::Malformed(_) => true,
            Reply::Exception(code) => !matches!(code, 10 | 11),
            Reply::Garbled | Reply::Silent => false,
        })
    }

    /// Reads a range in as few requests as the unit allows; parts that it refuses are halved until
    /// the single addresses that it refuses are known.
    pub async fn range(&mut self, unit: u8, table: Register, range: Range<u32>) -> Result<Seen, LookError> {
        let is_bits = matches!(table, Register::Coil | Register::Discrete);
        let most = MOST_REGISTERS * if is_bits { BITS_PER_REGISTER } else { 1 };
        let mut seen = Seen::default();
        let mut waiting: Vec<Range<u32>> = Vec::new();
        let mut from = range.start;
        while from < range.end.min(1 << 16) {
            let end = (from + most).min(range.end).min(1 << 16);
            waiting.push(from..end);
            from = end;
        }
        waiting.reverse();
        while let Some(part) = waiting.pop() {
            let (address, count) = (part.start as u16, (part.end - part.start) as u16);
            let query = Query { unit, table, address, count };
            seen.requests += 1;
            let mut reply = self.ask(query).await?;
            if matches!(reply, Reply::Silent | Reply::Garbled) {
                // Once more: a line may have noise.
                seen.requests += 1;
                reply = self.ask(query).await?;
            }
            let told = |what: String| LookError::Unit { unit, what };
            match reply {
                Reply::Words(words) => seen.words.extend((address..=u16::MAX).zip(words)),
                // Illegal function, or busy, or dead behind a gateway: no smaller part would do better.
                Reply::Exception(code @ (1 | 4..)) => return Err(told(exception(code))),
                Reply::Exception(code) if count == 1 => drop(seen.refused.insert(address, code)),
                Reply::Exception(_) => {
                    let middle = part.start + u32::from(count) / 2;
                    waiting.push(middle..part.end);
                    waiting.push(part.start..middle);
                }
                Reply::Malformed(words) => return Err(told(format!("answers something else: {words}"))),
                Reply::Garbled => {
                    return Err(told(
                        "sends noise; are baud rate and parity right, is the line terminated?".into(),
                    ));
                }
                Reply::Silent => {
                    let waited = self.timeout;
                    return Err(told(format!("did not answer within {waited:?}; is it the right unit id?")));
                }
            }
        }
        Ok(seen)
    }
}

/// An exception in words (Modbus Application Protocol V1.1b3, 7).
pub fn exception(code: u8) -> String {
    let words = match code {
        1 => "does not have this function; try another register table",
        2 => "does not have this address",
        3 => "does not accept this many values",
        4 => "reports a failure of its own",
        5 => "is still at work on an earlier request",
        6 => "is busy; try again later",
        10 => "cannot be reached: the gateway has no path to it",
        11 => "does not answer the gateway before it",
        _ => "refuses",
    };
    format!("{words} (exception {code})")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A unit with registers 0 to 299, of which 40 and 41 do not exist, and that gives 20 at most.
    async fn unit_with_holes() -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut query = [0; 12];
            while stream.read_exact(&mut query).await.is_ok() {
                let [address, count] = [8, 10].map(|at| u16::from_be_bytes([query[at], query[at + 1]]));
                let range = u32::from(address)..u32::from(address) + u32::from(count);
                let pdu = if query[6] != 1 {
                    vec![0x83, 11]
                } else if count > 20 {
                    vec![0x83, 3]
                } else if range.contains(&40) || range.contains(&41) {
                    vec![0x83, 2]
                } else {
                    [
                        &[3, (count * 2) as u8][..],
                        &range.flat_map(|n| (n as u16).to_be_bytes()).collect::<Vec<_>>(),
                    ]
                    .concat()
                };
                let length = (pdu.len() as u16 + 1).to_be_bytes();
                let answer = [&query[..2], &[0, 0], &length, &[query[6]], &pdu].concat();
                stream.write_all(&answer).await.unwrap();
            }
        });
        (address, task)
    }

    fn looker(address: &str) -> Looker {
        let toml = format!(
            "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.l.modbus-tcp]\naddress = \"{address}\"\n\
             [link.l.device.d.points]\np = {{ address = 1 }}\n"
        );
        Looker::new(&forebay_config::load::agent_text("t.toml", &toml).unwrap().links[0]).unwrap()
    }

    #[tokio::test]
    async fn holes_and_limits_of_a_unit_are_found_by_halving() {
        let (address, task) = unit_with_holes().await;
        let seen = looker(&address).range(1, Register::Holding, 0..60).await.unwrap();
        assert_eq!(seen.refused, BTreeMap::from([(40, 2), (41, 2)]));
        let expected: BTreeMap<u16, u16> =
            (0..60).filter(|n| !(40..42).contains(n)).map(|n| (n, n)).collect();
        assert_eq!(seen.words, expected);
        assert!(seen.requests < 24, "{}", seen.requests);
        task.abort();
    }

    #[tokio::test]
    async fn a_gateway_that_speaks_for_a_unit_that_is_not_there_is_no_answer() {
        let (address, task) = unit_with_holes().await;
        let mut looker = looker(&address);
        assert!(looker.answers(1).await.unwrap() && !looker.answers(2).await.unwrap());
        task.abort();
    }

    #[tokio::test]
    async fn a_range_ends_at_the_last_address() {
        let (address, task) = unit_with_holes().await;
        let seen = looker(&address).range(1, Register::Holding, 65_530..70_000).await.unwrap();
        assert_eq!(seen.words.keys().copied().collect::<Vec<_>>(), (65_530..=65_535).collect::<Vec<_>>());
        task.abort();
    }
}
