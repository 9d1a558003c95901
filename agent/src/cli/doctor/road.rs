//! The road to the server: its name, the proxy, a connection, the handshake, who answers. A step that
//! cannot be tried because an earlier one failed is not shown as a failure of its own.

use std::sync::Arc;
use std::time::Duration;

use forebay_config::agent::Proxy;
use forebay_protocols::checkup::{Finding, Verdict};
use forebay_protocols::sync::tls::{self, GatewayClock, Identity};
use rustls::CertificateError;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::super::sight::Sight;
use super::limited;
use crate::clock::Clock;
use crate::uplink::admission;

/// For a name, and for a handshake.
const STEP_WITHIN: Duration = Duration::from_secs(8);

/// A server that does not want our certificate says so at once.
const VERDICT_WITHIN: Duration = Duration::from_millis(500);

/// Tries the road, if this gateway knows where it leads.
pub async fn examine(sight: &Sight) -> Vec<Finding> {
    // Not joined, or unreadable: the certificate's finding says so.
    let Ok(Some(identity)) = &sight.identity else { return Vec::new() };
    let proxy = sight.config.as_ref().ok().and_then(|config| config.uplink.proxy.as_ref());
    let server = identity.server.as_str();
    let mut findings = Vec::new();
    let (what, address) = match proxy {
        Some(proxy) => ("proxy's name", proxy.address.as_str()),
        None => ("server's name", server),
    };
    let name = limited(what, resolve(what, address)).await;
    let is_known = name.verdict == Verdict::Ok;
    findings.push(name);
    if !is_known {
        return findings;
    }
    let tcp = match reach(server, proxy).await {
        Ok((finding, tcp)) => {
            findings.push(finding);
            tcp
        }
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    findings.push(limited("server's identity", shake_hands(sight, identity, tcp)).await);
    findings
}

async fn resolve(what: &str, address: &str) -> Finding {
    let remedy = "is DNS configured and reachable? `resolvectl status`, `cat /etc/resolv.conf`; an entry in \
                  /etc/hosts does as well";
    match timeout(STEP_WITHIN, lookup_host(address)).await {
        Ok(Ok(addresses)) => {
            let mut found: Vec<_> = addresses.map(|address| address.ip().to_string()).collect();
            found.sort();
            found.dedup();
            match found.as_slice() {
                [] => Finding::fail(what, format!("{address} has no address"), remedy),
                found => Finding::ok(what, format!("{address} is {}", found.join(", "))),
            }
        }
        Ok(Err(why)) => Finding::fail(what, format!("{address} cannot be looked up: {why}"), remedy),
        Err(_) => {
            Finding::fail(what, format!("{address}: no answer within {} s", STEP_WITHIN.as_secs()), remedy)
        }
    }
}

async fn reach(server: &str, proxy: Option<&Proxy>) -> Result<(Finding, TcpStream), Finding> {
    let what = "server reachable";
    match admission::reach(server, proxy).await {
        Ok(tcp) => {
            let way = proxy.map_or_else(String::new, |proxy| format!(" by the proxy {}", proxy.address));
            Ok((Finding::ok(what, format!("{server} answers{way}")), tcp))
        }
        Err(why) => {
            let remedy = match proxy {
                Some(proxy) => {
                    format!("uplink.proxy is {}; does it let this gateway reach {server}?", proxy.address)
                }
                None => format!(
                    "does the server run, and is the way to {server} open? Readings are kept meanwhile. Behind a \
                     proxy: uplink.proxy"
                ),
            };
            Err(Finding::fail(what, why, remedy))
        }
    }
}

async fn shake_hands(sight: &Sight, identity: &Identity, tcp: TcpStream) -> Finding {
    let what = "server's identity";
    let fault = |words: String, remedy: &str| Finding::fail(what, words, remedy);
    let clock: Arc<dyn GatewayClock> = Arc::new(Clock::open(&sight.state_dir));
    let config = match tls::gateway_config(identity, clock) {
        Ok(config) => config,
        Err(why) => return fault(why.to_string(), "join again"),
    };
    let name = match tls::server_name(&identity.server) {
        Ok(name) => name,
        Err(why) => return fault(why, "join again"),
    };
    match timeout(STEP_WITHIN, TlsConnector::from(config).connect(name, tcp)).await {
        Ok(Ok(mut stream)) => {
            // With TLS 1.3 our own certificate is judged after our side of the handshake is done.
            match timeout(VERDICT_WITHIN, stream.read(&mut [0; 1])).await {
                Ok(Err(why)) => fault(
                    format!("it is the server this gateway joined, and it does not let us in: {why}"),
                    "was this gateway's certificate revoked? Then join again",
                ),
                _ => Finding::ok(what, "it is the server this gateway joined"),
            }
        }
        Ok(Err(why)) => {
            let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let remedy = match inner {
                Some(rustls::Error::InvalidCertificate(fault)) => of_certificate(fault),
                Some(rustls::Error::AlertReceived(_)) => {
                    "the server does not take this gateway's certificate: was it revoked, or the server installed \
                     anew? Then join again"
                }
                _ => "is this the server's port for agents, and does nothing between open TLS?",
            };
            fault(format!("no agreement on TLS: {why}"), remedy)
        }
        Err(_) => fault(
            format!("no handshake within {} s", STEP_WITHIN.as_secs()),
            "is this the server's port for agents?",
        ),
    }
}

fn of_certificate(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "set `sync.address` on the server to the address that gateways use, and restart it"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "one of the two clocks is wrong; set it",
        _ => {
            "somebody else answers at this address, or the server was installed anew: then join again; a proxy that \
             opens TLS must let this connection through"
        }
    }
}
