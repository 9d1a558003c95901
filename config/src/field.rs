//! Links, devices and points: `[link.NAME]` and what stands below it.

mod opcua;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::units::{ByteSize, Name, Secret};

pub use self::opcua::{
    Deadband, MOST_ELEMENTS, OpcUa, OpcUaDevice, OpcUaFolder, OpcUaMode, OpcUaPart, OpcUaPoint, OpcUaPolicy,
    OpcUaReading, OpcUaSecurity, OpcUaUser, PartStep, PathPattern, Timestamp,
};

/// `[link.NAME]`: one serial bus or one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The table's name.
    pub name: Name,
    /// `interval`: how often points are read unless they say otherwise. Default 1 s.
    pub interval: Duration,
    /// `timeout`: the longest wait for an answer. Default 1 s (OPC UA and MQTT: 10 s).
    pub timeout: Duration,
    /// `backoff_max`: the longest pause between attempts on a dead link or device. Default 60 s.
    pub backoff_max: Duration,
    /// The one protocol table below the link.
    pub protocol: Protocol,
}

impl Link {
    /// The devices this link names, each once. Topic templates find more while they run.
    pub fn device_names(&self) -> Vec<&Name> {
        let mut names: Vec<&Name> = match &self.protocol {
            Protocol::ModbusTcp(tcp) => tcp.bus.devices.iter().map(|device| &device.name).collect(),
            Protocol::ModbusRtu(rtu) => rtu.bus.devices.iter().map(|device| &device.name).collect(),
            Protocol::OpcUa(opcua) => opcua.devices.iter().map(|device| &device.name).collect(),
            Protocol::Mqtt(mqtt) => mqtt.topics.iter().filter_map(|topic| topic.device.as_ref()).collect(),
        };
        names.sort();
        names.dedup();
        names
    }

    /// Device and name of every point, if they are known before the link runs: of an MQTT link never,
    /// for its topics name points while they arrive, nor where OPC UA folders are looked through.
    pub fn point_names(&self) -> Option<Vec<(&Name, &Name)>> {
        fn of_bus(bus: &ModbusBus) -> Vec<(&Name, &Name)> {
            let points = bus.devices.iter();
            points.flat_map(|d| d.points.iter().map(|point| (&d.name, &point.meta.name))).collect()
        }
        match &self.protocol {
            Protocol::ModbusTcp(tcp) => Some(of_bus(&tcp.bus)),
            Protocol::ModbusRtu(rtu) => Some(of_bus(&rtu.bus)),
            Protocol::OpcUa(opcua) if opcua.devices.iter().any(|device| !device.folders.is_empty()) => None,
            Protocol::OpcUa(opcua) => {
                let points = opcua.devices.iter();
                Some(points.flat_map(|d| d.points.iter().map(|point| (&d.name, &point.meta.name))).collect())
            }
            Protocol::Mqtt(_) => None,
        }
    }

    /// The points this link names. Topic templates and folders find more while they run.
    pub fn point_count(&self) -> usize {
        match &self.protocol {
            Protocol::ModbusTcp(tcp) => tcp.bus.devices.iter().map(|device| device.points.len()).sum(),
            Protocol::ModbusRtu(rtu) => rtu.bus.devices.iter().map(|device| device.points.len()).sum(),
            Protocol::OpcUa(opcua) => opcua.devices.iter().map(|device| device.points.len()).sum(),
            Protocol::Mqtt(mqtt) => mqtt
                .topics
                .iter()
                .map(|topic| match &topic.payload {
                    Payload::Plain { point, .. } => usize::from(point.is_some()),
                    Payload::Json { points, .. } => points.len(),
                })
                .sum(),
        }
    }
}

/// `[link.NAME.modbus-tcp]`, `.modbus-rtu`, `.opcua` or `.mqtt`: exactly one.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Protocol {
    ModbusTcp(ModbusTcp),
    ModbusRtu(ModbusRtu),
    OpcUa(OpcUa),
    Mqtt(Mqtt),
}

impl Protocol {
    /// The word for it, as in `[link.NAME.WORD]`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::ModbusTcp(_) => "modbus-tcp",
            Self::ModbusRtu(_) => "modbus-rtu",
            Self::OpcUa(_) => "opcua",
            Self::Mqtt(_) => "mqtt",
        }
    }
}

/// What every protocol says of a point besides its address.
#[derive(Clone, Debug, PartialEq)]
pub struct PointMeta {
    /// The point's key in `points`.
    pub name: Name,
    /// `unit` of measure for people. Default none.
    pub unit: String,
    /// `kind`: `"gauge"`, `"counter"` or `"state"`. Default gauge (state for boolean and text).
    pub kind: PointKind,
    /// `scale`: raw value times this. Default none.
    pub scale: Option<f64>,
    /// `offset`: added after scaling. Default none.
    pub offset: Option<f64>,
}

/// `kind` of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum PointKind {
    Gauge,
    Counter,
    State,
}

/// `[link.NAME.modbus-tcp]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusTcp {
    /// `address`: `host:port`; the port is 502 if left out.
    pub address: String,
    /// `framing`: `"tcp"` (MBAP, default) or `"rtu"` (RTU frames over TCP).
    pub framing: Framing,
    /// `in_flight`: requests under way at once, 1 to 16. Default 4, but 1 with RTU frames, which
    /// nothing tells apart, and with a `pause`.
    pub in_flight: u8,
    /// Requests and devices, as on a serial bus.
    pub bus: ModbusBus,
}

/// `framing` of a Modbus TCP link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Framing {
    Tcp,
    Rtu,
}

/// `[link.NAME.modbus-rtu]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusRtu {
    /// `port`: `/dev/ttyUSB0`.
    pub port: PathBuf,
    /// `baud`: 300 to 921600, a standard rate. Default 9600.
    pub baud: u32,
    /// `parity`: `"none"`, `"even"` (default, as the standard says) or `"odd"`.
    pub parity: Parity,
    /// `data_bits`: 7 or 8 (default).
    pub data_bits: u8,
    /// `stop_bits`: 1 (default) or 2.
    pub stop_bits: u8,
    /// `rs485`: how the kernel's driver switches the transceiver. Default none: the adapter does it
    /// itself, as nearly all do on USB, or the board's device tree says how.
    pub rs485: Option<Rs485>,
    /// Requests and devices.
    pub bus: ModbusBus,
}

/// `[link.NAME.modbus-rtu.rs485]`: a transceiver whose direction hangs on RTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rs485 {
    /// `rts_on_send`: `"high"` (default) or `"low"`. Is RTS high while sending?
    pub rts_high_on_send: bool,
    /// `delay_before`: from switching to the first bit, in whole milliseconds. Default none.
    pub delay_before: Duration,
    /// `delay_after`: from the last bit to switching back, in whole milliseconds. Default none.
    pub delay_after: Duration,
}

/// `parity` of a serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// What Modbus links share.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusBus {
    /// `pause`: extra silence between requests. Default none.
    pub pause: Duration,
    /// `[link.NAME.device.DEVICE]`.
    pub devices: Vec<ModbusDevice>,
}

/// `[link.NAME.device.DEVICE]` on a Modbus link.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusDevice {
    /// The table's name.
    pub name: Name,
    /// `unit_id`: 0 to 255 (1 to 247 on a serial bus). Default 1.
    pub unit_id: u8,
    /// `byte_order` of values wider than 8 bits: `"ABCD"` (default), `"DCBA"`, `"BADC"`, `"CDAB"`.
    pub byte_order: ByteOrder,
    /// `max_registers` in one request: 1 to 125 (default).
    pub max_registers: u16,
    /// `max_gap`: unused registers read along to merge two requests. Default 0: devices may refuse them.
    pub max_gap: u16,
    /// `interval` of this device's points. Default the link's.
    pub interval: Duration,
    /// `[link.NAME.device.DEVICE.points]`.
    pub points: Vec<ModbusPoint>,
}

/// `byte_order`: where the bytes A (most significant) to D of a 32-bit value stand, by register.
/// Wider and narrower values follow the same pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum ByteOrder {
    Abcd,
    Dcba,
    Badc,
    Cdab,
}

/// One entry of `points` on a Modbus device.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusPoint {
    /// Name, unit, kind, scale, offset.
    pub meta: PointMeta,
    /// `register`: `"coil"`, `"discrete"`, `"input"` or `"holding"` (default).
    pub register: Register,
    /// `address`: 0-based, 0 to 65535. With `addressing = "modicon"` on the device it is written
    /// as in many manuals, 40001 for holding register 0, and names the table too.
    pub address: u16,
    /// `type`. Default `"uint16"` (`"bool"` for coil and discrete).
    pub raw: RawType,
    /// `interval`. Default the device's.
    pub interval: Duration,
    /// `enum`: words for whole numbers, `{ 0 = "off", 1 = "on" }`; readings are these words. Default
    /// none.
    pub labels: BTreeMap<i64, String>,
    /// `rollover`: a counter that begins again at 0 behind the highest number of its type, and whose
    /// readings shall go on. Default false.
    pub rollover: bool,
}

/// `register`: the four tables of the Modbus data model, read by functions 1 to 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Register {
    Coil,
    Discrete,
    Input,
    Holding,
}

/// `type` of a Modbus point: how its registers are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum RawType {
    /// `"bool"`: a coil or discrete input; of a register, not zero.
    Bool,
    /// `"bit"` with `bit = 0..15`: one bit of a register, 0 the least significant.
    Bit(u8),
    /// `"int8"`/`"uint8"` are the low byte of a register.
    Int8,
    Uint8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Float16,
    Float32,
    Float64,
    /// `"bcd16"` and `"bcd32"`: four decimal digits a register, 0x1234 is 1234.
    Bcd16,
    Bcd32,
    /// `"string"` with `length` in registers, two characters each.
    String {
        registers: u16,
    },
}

impl RawType {
    /// Registers (bits, for coils and discrete inputs) a value occupies.
    pub fn registers(self) -> u16 {
        match self {
            Self::Int32 | Self::Uint32 | Self::Float32 | Self::Bcd32 => 2,
            Self::Int64 | Self::Uint64 | Self::Float64 => 4,
            Self::String { registers } => registers,
            _ => 1,
        }
    }
}

/// `type` of a point whose protocol carries its own types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum DataType {
    Float,
    Integer,
    Boolean,
    Text,
}

/// `[link.NAME.mqtt]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    /// `broker`: `mqtt://host:1883` or `mqtts://host:8883`.
    pub broker: Broker,
    /// `version`: `"3.1.1"` (default) or `"5"`.
    pub version: MqttVersion,
    /// `client_id`. Default `forebay-SITE-GATEWAY-LINK`. Also names the persistent session.
    pub client_id: String,
    /// `username` and `password`.
    pub user: Option<(String, Secret)>,
    /// `ca`: PEM file with the broker's authority, for `mqtts`. Default the system's list.
    pub ca: Option<PathBuf>,
    /// `certificate` and `key`: PEM files to show to the broker.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `keep_alive`. Default 30 s.
    pub keep_alive: Duration,
    /// `max_packet`: larger messages are refused. Default 1 MiB.
    pub max_packet: ByteSize,
    /// `[[link.NAME.topic]]`.
    pub topics: Vec<MqttTopic>,
}

/// Where an MQTT broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `mqtts`?
    pub tls: bool,
}

/// `version` of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum MqttVersion {
    V311,
    V5,
}

/// `[[link.NAME.topic]]`: a topic filter or template, and what its messages hold.
#[derive(Clone, Debug, PartialEq)]
pub struct MqttTopic {
    /// `topic`: MQTT filter in which `{device}` and `{point}` stand for one level each and name
    /// what is read: `plant/{device}/{point}`, `sensors/+/{device}/state`.
    pub topic: String,
    /// `device`: the device's name where the topic has no `{device}`.
    pub device: Option<Name>,
    /// `qos`: 0 or 1 (default).
    pub qos: u8,
    /// What a message holds.
    pub payload: Payload,
}

/// What a message of a topic holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// One value as plain text ("21.5", "true", "open"). The point's name is `{point}` or `point = …`.
    Plain {
        /// `point`: the name where the topic has no `{point}`.
        point: Option<Name>,
        /// `type`. Default float.
        data_type: DataType,
        /// `unit`.
        unit: String,
        /// `kind`.
        kind: PointKind,
    },
    /// `points`: JSON with one pointer a point.
    Json {
        /// `timestamp`: JSON pointer to the device's time. Default none.
        timestamp: Option<String>,
        /// `points`.
        points: Vec<JsonPoint>,
    },
}

/// One entry of `points` on an MQTT topic.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPoint {
    /// Name, unit, kind, scale, offset.
    pub meta: PointMeta,
    /// `pointer`: JSON pointer (RFC 6901), `/sensors/0/temperature`.
    pub pointer: String,
    /// `type`. Default float.
    pub data_type: DataType,
}
