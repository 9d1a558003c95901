//! Serial ports: opened with the configured settings, refused in words an installer can act on.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_config::field::{ModbusRtu, Parity, Rs485};
use serial2::rs4xx::Rs485Config;
use serial2::{KeepSettings, SerialPort};
use tokio_serial::{DataBits, ErrorKind, FlowControl, SerialStream, StopBits};

use super::source::LinkFault;

/// A serial line as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The tty.
    pub port: PathBuf,
    /// Bits per second.
    pub baud: u32,
    parity: Parity,
    data_bits: u8,
    stop_bits: u8,
    rs485: Option<Rs485>,
}

impl Line {
    /// The line of a Modbus RTU link.
    pub fn of(config: &ModbusRtu) -> Self {
        let ModbusRtu { port, baud, parity, data_bits, stop_bits, rs485, bus: _ } = config;
        Self {
            port: port.clone(),
            baud: *baud,
            parity: *parity,
            data_bits: *data_bits,
            stop_bits: *stop_bits,
            rs485: *rs485,
        }
    }

    /// How long one character is on the line: start bit, data, parity, stop bits.
    pub fn character(&self) -> Duration {
        let parity = u32::from(self.parity != Parity::None);
        let bits = 1 + u32::from(self.data_bits) + parity + u32::from(self.stop_bits);
        Duration::from_secs(1) * bits / self.baud.max(1)
    }

    /// Opens the port for this process alone, raw, without flow control.
    pub fn open(&self) -> Result<SerialStream, LinkFault> {
        if let Some(rs485) = self.rs485 {
            // The port keeps it over the opening that follows.
            set_direction(&self.port, rs485).map_err(|why| direction_refusal(&self.port, &why))?;
        }
        let settings = tokio_serial::new(self.port.to_string_lossy(), self.baud)
            .data_bits(if self.data_bits == 7 { DataBits::Seven } else { DataBits::Eight })
            .stop_bits(if self.stop_bits == 2 { StopBits::Two } else { StopBits::One })
            .parity(match self.parity {
                Parity::None => tokio_serial::Parity::None,
                Parity::Even => tokio_serial::Parity::Even,
                Parity::Odd => tokio_serial::Parity::Odd,
            })
            .flow_control(FlowControl::None);
        SerialStream::open(&settings).map_err(|why| refusal(&self.port, why.kind(), &why.to_string()))
    }
}

fn set_direction(port: &Path, rs485: Rs485) -> io::Result<()> {
    let Rs485 { rts_high_on_send, delay_before, delay_after } = rs485;
    let mut mode = Rs485Config::new();
    mode.set_invert_rts(!rts_high_on_send);
    mode.set_delay_before_send(delay_before);
    mode.set_delay_after_send(delay_after);
    SerialPort::open(port, KeepSettings)?.set_rs4xx_mode(mode)
}

fn direction_refusal(port: &Path, why: &io::Error) -> LinkFault {
    let peer = port.display().to_string();
    match why.kind() {
        // What hinders any opening is told by the one place that knows the words.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ResourceBusy => {
            let kind = match why.kind() {
                io::ErrorKind::ResourceBusy => ErrorKind::NoDevice,
                kind => ErrorKind::Io(kind),
            };
            refusal(port, kind, &why.to_string())
        }
        _ => LinkFault::Refused {
            peer,
            why: format!(
                "its driver cannot switch an RS-485 transceiver ({why}); leave `rs485` away where the \
                 adapter switches by itself, as nearly all USB adapters do, or let the board's device \
                 tree say `linux,rs485-enabled-at-boot-time`"
            ),
        },
    }
}

/// What to tell the installer. Split from `open` because no test can make every port fail.
fn refusal(port: &Path, kind: ErrorKind, words: &str) -> LinkFault {
    use std::io::ErrorKind as Io;
    let peer = port.display().to_string();
    match kind {
        ErrorKind::Io(Io::NotFound) => LinkFault::Unreachable {
            peer,
            why: "there is no such port; is the adapter plugged in? Names below /dev/serial/by-id \
                  do not change when it is plugged in elsewhere"
                .into(),
        },
        ErrorKind::Io(Io::PermissionDenied) => LinkFault::Refused {
            peer,
            why: "no permission to open the port; add the agent's user to its group: \
                  `usermod -aG dialout forebay`, then restart the agent"
                .into(),
        },
        ErrorKind::NoDevice => LinkFault::Refused {
            peer,
            why: "another program has the port open; `fuser` with the port's name shows which".into(),
        },
        ErrorKind::Unknown if words.contains("typewriter") || words.contains("ioctl") => {
            LinkFault::Refused { peer, why: "this is not a serial port".into() }
        }
        _ => LinkFault::Unreachable { peer, why: words.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(port: &Path) -> Line {
        Line { port: port.into(), baud: 9600, parity: Parity::Even, data_bits: 8, stop_bits: 1, rs485: None }
    }

    #[test]
    fn a_character_has_start_parity_and_stop_bits() {
        let even = line(Path::new("/dev/null"));
        assert_eq!(even.character(), Duration::from_secs(11) / 9600);
        let none = Line { parity: Parity::None, stop_bits: 2, ..even.clone() };
        assert_eq!(none.character(), Duration::from_secs(11) / 9600);
        assert_eq!(Line { baud: 0, ..even }.character(), Duration::from_secs(11));
    }

    #[tokio::test]
    async fn a_missing_port_asks_for_the_adapter() {
        let fault = line(Path::new("/dev/no-such-port")).open().unwrap_err();
        assert!(matches!(fault, LinkFault::Unreachable { .. }));
        assert!(fault.to_string().contains("plugged in"), "{fault}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_port_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let fault = line(file.path()).open().unwrap_err();
        assert!(matches!(fault, LinkFault::Refused { .. }), "{fault}");
        assert!(fault.to_string().contains("not a serial port"), "{fault}");
    }

    #[test]
    fn a_forbidden_port_names_the_group() {
        let kind = ErrorKind::Io(io::ErrorKind::PermissionDenied);
        let fault = refusal(Path::new("/dev/ttyS0"), kind, "Permission denied");
        assert!(fault.to_string().contains("dialout"), "{fault}");
    }

    #[test]
    fn a_port_in_use_says_so() {
        let fault = refusal(Path::new("/dev/ttyS0"), ErrorKind::NoDevice, "Device or resource busy");
        assert!(matches!(fault, LinkFault::Refused { .. }));
        assert!(fault.to_string().contains("another program"), "{fault}");
    }

    #[tokio::test]
    async fn a_port_that_cannot_switch_a_transceiver_is_refused_with_the_ways_out() {
        use std::os::unix::ffi::OsStringExt;
        let wire = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        rustix::pty::grantpt(&wire).unwrap();
        rustix::pty::unlockpt(&wire).unwrap();
        let name = rustix::pty::ptsname(&wire, Vec::new()).unwrap().into_bytes();
        let path = PathBuf::from(std::ffi::OsString::from_vec(name));
        line(&path).open().unwrap();
        let delay = Duration::ZERO;
        let rs485 = Rs485 { rts_high_on_send: true, delay_before: delay, delay_after: delay };
        let with = |path: &Path| Line { rs485: Some(rs485), ..line(path) };
        let fault = with(&path).open().unwrap_err();
        assert!(matches!(fault, LinkFault::Refused { .. }), "{fault}");
        assert!(fault.to_string().contains("leave `rs485` away"), "{fault}");
        let missing = with(Path::new("/dev/no-such-port")).open().unwrap_err();
        assert!(missing.to_string().contains("plugged in"), "{missing}");
    }
}
