//! A Modbus RTU meter at the other end of a serial line: register 0 and 1 hold the number of the
//! question, high word first, so that every reading is known by its value and none may stand twice.
//!
//! Modbus over Serial Line V1.02, 2.3 and 2.5.1: unit, function, address, count, CRC.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

/// A question that breaks off is forgotten after so long without a byte.
const SILENCE: Duration = Duration::from_millis(50);

/// Answers function 3 of unit 1. One master at a time, as on a line. Ends when dropped.
pub struct CountingMeter {
    address: SocketAddr,
    answered: watch::Receiver<u32>,
    serving: JoinHandle<()>,
}

impl CountingMeter {
    /// Waits for the line on a free loopback port, as QEMU's serial ports want it.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (answers, answered) = watch::channel(0);
        let serving = tokio::spawn(async move {
            while let Ok((line, _)) = listener.accept().await {
                // The line breaks with the machine at its end, and comes back with it.
                let _ = serve(line, &answers).await;
            }
        });
        Ok(Self { address, answered, serving })
    }

    /// Where the line ends.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of the last answer.
    pub fn answered(&self) -> u32 {
        *self.answered.borrow()
    }

    /// Returns when so many more questions were answered.
    ///
    /// # Errors
    /// When they do not come within two minutes.
    pub async fn answers(&self, more: u32) -> Result<()> {
        let until = self.answered() + more;
        timeout(Duration::from_secs(120), self.answered.clone().wait_for(|answered| *answered >= until))
            .await??;
        Ok(())
    }
}

impl Drop for CountingMeter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut line: TcpStream, answers: &watch::Sender<u32>) -> std::io::Result<()> {
    let mut question = Vec::new();
    let mut bytes = [0; 64];
    loop {
        let read = if question.is_empty() {
            line.read(&mut bytes).await?
        } else if let Ok(read) = timeout(SILENCE, line.read(&mut bytes)).await {
            read?
        } else {
            question.clear();
            continue;
        };
        if read == 0 {
            return Ok(());
        }
        question.extend_from_slice(&bytes[..read]);
        if question.len() < 8 {
            continue;
        }
        let number = *answers.borrow() + 1;
        if let Some(answer) = answer(&question, number) {
            // Counted first: whoever has read the answer finds it counted.
            answers.send_modify(|count| *count += 1);
            line.write_all(&answer).await?;
        }
        question.clear();
    }
}

/// The answer to a whole question of ours; `None` is silence.
fn answer(question: &[u8], number: u32) -> Option<Vec<u8>> {
    let checked = crc(question.get(..6)?);
    if question.get(6..) != Some(&checked) || question[..6] != [1, 3, 0, 0, 0, 2] {
        return None;
    }
    let mut answer = vec![1, 3, 4];
    answer.extend(number.to_be_bytes());
    let checked = crc(&answer);
    answer.extend(checked);
    Some(answer)
}

fn crc(bytes: &[u8]) -> [u8; 2] {
    let step = |crc: u16| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
    let crc =
        bytes.iter().fold(0xffff_u16, |crc, byte| (0..8).fold(crc ^ u16::from(*byte), |crc, _| step(crc)));
    crc.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_question_for_it_is_answered_with_its_number() {
        let question = [1, 3, 0, 0, 0, 2, 0xc4, 0x0b];
        let answer = answer(&question, 0x0001_0002).expect("its question");
        assert_eq!(answer[..7], [1, 3, 4, 0, 1, 0, 2]);
        assert_eq!(answer[7..], crc(&answer[..7]));
        assert!(super::answer(&[2, 3, 0, 0, 0, 2, 0xc4, 0x38], 1).is_none(), "another unit's");
        assert!(super::answer(&[1, 3, 0, 0, 0, 2, 0xc4, 0x0c], 1).is_none(), "damaged");
    }
}
