//! `[link.NAME.opcua]` and what belongs to it.

mod folder;
mod part;

use std::path::PathBuf;
use std::time::Duration;

pub use self::folder::{OpcUaFolder, PathPattern};
pub use self::part::{MOST_ELEMENTS, OpcUaPart, PartStep};

use super::{DataType, PointMeta};
use crate::units::{Name, Secret};

/// `[link.NAME.opcua]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OpcUa {
    /// `endpoint`: `opc.tcp://host:port/path`. We connect to this address whatever the server advertises.
    pub endpoint: String,
    /// `security_policy` and `security_mode`. Default neither.
    pub security: OpcUaSecurity,
    /// `allow_deprecated`: also what rests on SHA-1 (Basic256, Basic128Rsa15). Default false.
    pub allow_deprecated: bool,
    /// `username` and `password`, or `user_certificate` and `user_key`. Default anonymous.
    pub user: OpcUaUser,
    /// `server_certificate`: DER or PEM file the server must show. Without it the first contact
    /// is trusted and remembered below the state directory.
    pub server_certificate: Option<PathBuf>,
    /// `trust_first_contact`: false waits for `forebay-agent opcua trust` instead. Default true.
    pub trust_first_contact: bool,
    /// `mode`: `"subscribe"` (default) or `"poll"`.
    pub reading: OpcUaReading,
    /// `sampling_interval` of nodes that do not say otherwise. Default the link's interval.
    pub sampling_interval: Duration,
    /// `queue_size` per node at the server. Default 10.
    pub queue_size: u32,
    /// `timestamp`: `"agent"` (default) or `"source"`.
    pub timestamp: Timestamp,
    /// `[link.NAME.device.DEVICE]`.
    pub devices: Vec<OpcUaDevice>,
}

/// `security_policy` and `security_mode` together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpcUaSecurity {
    /// Neither signed nor encrypted.
    None,
    /// Signed at least.
    Secured {
        /// With which algorithms.
        policy: OpcUaPolicy,
        /// Encrypted too?
        mode: OpcUaMode,
    },
}

/// `security_policy` but for None (OPC UA Part 7, 6.6.161 and following).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the standard")]
pub enum OpcUaPolicy {
    Basic256Sha256,
    Aes128Sha256RsaOaep,
    Aes256Sha256RsaPss,
    /// Deprecated since 1.04: SHA-1.
    Basic256,
    /// Deprecated since 1.04: SHA-1, and an encryption of keys that was broken.
    Basic128Rsa15,
}

impl OpcUaPolicy {
    /// Given up by the standard?
    pub fn is_deprecated(self) -> bool {
        matches!(self, Self::Basic256 | Self::Basic128Rsa15)
    }
}

/// `security_mode` but for None.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the standard")]
pub enum OpcUaMode {
    Sign,
    SignAndEncrypt,
}

/// As whom a link enters a server.
#[derive(Clone, Debug, PartialEq)]
pub enum OpcUaUser {
    /// Without a name.
    Anonymous,
    /// `username` and `password`.
    Password {
        /// `username`.
        name: String,
        /// `password`.
        password: Secret,
        /// `password_in_clear`: tell it to a server that lets everybody on the way read it, too.
        /// Default false.
        in_clear: bool,
    },
    /// `user_certificate` (DER or PEM) and `user_key` (PEM).
    Certificate {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// `mode`: how values come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpcUaReading {
    /// `"subscribe"`: the server samples them and tells what changed.
    Subscribe {
        /// `publishing_interval`: how often it tells. Default the link's interval.
        publishing_interval: Duration,
    },
    /// `"poll"`: we read them, each at its `sampling_interval`.
    Poll,
}

/// `timestamp`: whose clock stamps the readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Timestamp {
    Agent,
    Source,
}

/// `[link.NAME.device.DEVICE]` on an OPC UA link: a name for some of the server's nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct OpcUaDevice {
    /// The table's name.
    pub name: Name,
    /// `[link.NAME.device.DEVICE.points]`. May be none where there are folders.
    pub points: Vec<OpcUaPoint>,
    /// `[[link.NAME.device.DEVICE.folder]]`. The first that fits a node has it, and one that `points` has by
    /// its id or under the same name is left to those.
    pub folders: Vec<OpcUaFolder>,
}

/// One entry of `points` on an OPC UA device.
#[derive(Clone, Debug, PartialEq)]
pub struct OpcUaPoint {
    /// Name, unit, kind, scale, offset.
    pub meta: PointMeta,
    /// `node`: `nsu=URI;s=Name`, `ns=2;i=1234`, `i=2258` (OPC UA Part 6, 5.3.1.10), or the way to it
    /// from the root: `/Objects/nsu=URI;Press/2:Temperature`.
    pub node: String,
    /// `element`, `elements` and `field`: which part of the node's value. Default the whole. `elements` makes
    /// a point of each: `zones[0]`, `zones[1]` …
    pub part: OpcUaPart,
    /// `type`: `"float"` (default), `"integer"`, `"boolean"` or `"text"`.
    pub data_type: DataType,
    /// `sampling_interval`: how often it is sampled, or read. Default the link's.
    pub sampling_interval: Duration,
    /// `deadband`: `0.5` or `"2%"`. Default none: every change is reported.
    pub deadband: Option<Deadband>,
}

/// `deadband`: how far a raw value must move before the server reports it (OPC UA Part 4, 7.22.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deadband {
    /// In the node's own unit, before `scale`. More than 0.
    Absolute(f64),
    /// Percent of the node's EURange: more than 0, at most 100.
    Percent(f64),
}
