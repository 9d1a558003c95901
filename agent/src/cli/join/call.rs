//! The first contact: connect, and know the server before anything is sent to it.

use std::io;

use forebay_config::agent::Proxy;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::tls::{self, PinMismatch};
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::JoinError;
use crate::uplink::admission::{self, CONNECT_WITHIN, words};

/// Opens a connection to `host:port`, through the proxy if there is one.
pub(super) async fn reach(server: &str, proxy: Option<&Proxy>) -> Result<TcpStream, JoinError> {
    let unreachable = |why: String| JoinError::Unreachable { server: server.to_owned(), why };
    admission::reach(server, proxy).await.map_err(unreachable)
}

/// Shakes hands and checks that the server is the one of the join string.
pub(super) async fn shake_hands(
    tcp: TcpStream,
    join: &JoinString,
) -> Result<TlsStream<TcpStream>, JoinError> {
    let server = || join.address.clone();
    let unreachable = |why: String| JoinError::Unreachable { server: server(), why };
    let name = tls::server_name(&join.address).map_err(unreachable)?;
    let config = tls::pinned_client_config(join.ca_pin, tls::EARLIEST_TIME)
        .map_err(|error| unreachable(error.to_string()))?;
    match timeout(CONNECT_WITHIN, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(judge(&error, join)),
        Err(_) => {
            let why = "it accepts connections and says nothing".into();
            Err(JoinError::NotForebay { server: server(), why })
        }
    }
}

/// What a failed handshake means for whoever stands before the gateway.
fn judge(error: &io::Error, join: &JoinString) -> JoinError {
    let server = join.address.clone();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(fault)) = inner else {
        return match inner {
            Some(error) => {
                JoinError::NotForebay { server, why: format!("it does not agree on TLS ({error})") }
            }
            None => JoinError::Unreachable { server, why: words(error) },
        };
    };
    match fault {
        CertificateError::Other(other) if other.0.is::<PinMismatch>() => JoinError::WrongServer { server },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            JoinError::WrongName { server }
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            let now = jiff::Timestamp::from_microsecond(wall_micros());
            JoinError::Clock { server, now: now.map_or_else(|_| "unknown".into(), |now| format!("{now:.0}")) }
        }
        // Its chain shows the pinned CA without being signed by it, or worse.
        _ => JoinError::WrongServer { server },
    }
}
