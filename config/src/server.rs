//! The server's configuration: `/etc/forebay/server.toml`. All of it may be left out.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::access::Access;
use crate::agent::Log;
use crate::alarms::Alarms;
use crate::retention::Retention;
use crate::units::{ByteSize, Secret};

/// Everything `forebay-server` may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `[server] state_dir`: CA and SQLite database. Default `/var/lib/forebay-server`.
    pub state_dir: PathBuf,
    /// `[store]`.
    pub store: Store,
    /// `[retention]`.
    pub retention: Retention,
    /// `[alarm]` and `[webhook]`.
    pub alarms: Alarms,
    /// `[sync]`.
    pub sync: Sync,
    /// `[web]`.
    pub web: Web,
    /// `[access]`.
    pub access: Access,
    /// `[log]`.
    pub log: Log,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// `path`: the SQLite file. Default `forebay.db` below the state directory.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// `url`: `postgres://user:password@host:port/database`, TimescaleDB or plain PostgreSQL.
    Postgres {
        /// The URL, which may hold a password.
        url: Secret,
        /// `connections`: the most to hold open. Default 8.
        connections: usize,
    },
}

/// `[sync]`: where agents connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// `listen`. Default `0.0.0.0:8443`.
    pub listen: SocketAddr,
    /// `address`: `host:port` agents reach us by; stands in join strings and in our certificate.
    /// Default the machine's host name and the port of `listen`.
    pub address: Option<String>,
    /// `max_request`: larger requests get 413. Default 4 MiB.
    pub max_request: ByteSize,
    /// `approval`: does every join wait for an operator's word? Default no; a token may ask for it.
    pub approval: bool,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8443)),
            address: None,
            max_request: ByteSize::mib(4),
            approval: false,
        }
    }
}

/// `[web]`: page, API, `/metrics`, `/livez`, `/readyz`. On a loopback address without TLS, else with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// `listen`. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `certificate` and `key`. Default: one of the server's own CA. Given, there is TLS on a loopback
    /// address too.
    pub certificate: Option<Certificate>,
}

/// A certificate that was given to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// A PEM file: ours first, then those that signed it.
    pub certificate: PathBuf,
    /// A PEM file: its private key.
    pub key: PathBuf,
}

impl Web {
    /// Does the page come over TLS?
    pub fn is_tls(&self) -> bool {
        self.certificate.is_some() || !self.listen.ip().is_loopback()
    }
}

impl Default for Web {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), certificate: None }
    }
}
