//! The devices behind the broker: a pump (a topic for each value), a hall sensor (JSON), an
//! energy meter (JSON with its own time). Values depend on the step alone, so two runs agree.

use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use forebay_config::field::{DataType, JsonPoint, MqttTopic, Payload, PointKind, PointMeta};
use forebay_config::units::Name;
use rumqttc::{AsyncClient, EventLoop, MqttOptions, QoS};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// The pump's points: name, middle, swing. Each has its own topic.
const PUMP: [(&str, f64, f64); 10] = [
    ("flow", 42.0, 3.0),
    ("pressure_in", 1.2, 0.1),
    ("pressure_out", 6.4, 0.3),
    ("speed", 1_480.0, 15.0),
    ("current", 11.5, 0.8),
    ("power", 5.6, 0.4),
    ("motor_temperature", 61.0, 4.0),
    ("bearing_temperature", 48.0, 2.5),
    ("vibration", 1.8, 0.4),
    ("seal_leakage", 0.2, 0.1),
];

/// A point in a document.
struct Field {
    name: &'static str,
    pointer: &'static str,
    unit: &'static str,
    wanted: DataType,
    kind: PointKind,
}

const fn gauge(name: &'static str, pointer: &'static str, unit: &'static str) -> Field {
    Field { name, pointer, unit, wanted: DataType::Float, kind: PointKind::Gauge }
}

const HALL: [Field; 10] = [
    gauge("temperature", "/air/temperature", "°C"),
    gauge("humidity", "/air/humidity", "%"),
    gauge("co2", "/air/co2", "ppm"),
    gauge("dust", "/air/dust", "µg/m³"),
    gauge("noise", "/noise", "dB"),
    gauge("light_north", "/light/0", "lx"),
    gauge("light_south", "/light/1", "lx"),
    Field { name: "people", pointer: "/people", unit: "", wanted: DataType::Integer, kind: PointKind::Gauge },
    Field {
        name: "door_open",
        pointer: "/door",
        unit: "",
        wanted: DataType::Boolean,
        kind: PointKind::State,
    },
    Field { name: "mode", pointer: "/mode", unit: "", wanted: DataType::Text, kind: PointKind::State },
];

const METER: [Field; 10] = [
    gauge("voltage_l1", "/l1/voltage", "V"),
    gauge("voltage_l2", "/l2/voltage", "V"),
    gauge("voltage_l3", "/l3/voltage", "V"),
    gauge("current_l1", "/l1/current", "A"),
    gauge("current_l2", "/l2/current", "A"),
    gauge("current_l3", "/l3/current", "A"),
    gauge("power", "/power", "kW"),
    gauge("power_factor", "/power_factor", ""),
    gauge("frequency", "/frequency", "Hz"),
    Field {
        name: "energy",
        pointer: "/energy",
        unit: "kWh",
        wanted: DataType::Float,
        kind: PointKind::Counter,
    },
];

/// Documents: topic template, pointer to the time, points.
const DOCUMENTS: [(&str, Option<&str>, &[Field]); 2] =
    [("sensors/{device}/state", None, &HALL), ("meters/{device}/json", Some("/time"), &METER)];
const PUMP_TEMPLATE: &str = "plant/{device}/{point}";

/// The three running publishers. They stop when dropped.
pub struct Publishers {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Publishers {
    pub(super) fn start(port: u16, period: Duration) -> Self {
        let mut running = Self { tasks: JoinSet::new(), stop: CancellationToken::new() };
        for (name, messages) in [("pump", pump as fn(u32) -> Messages), ("hall", hall), ("meter", meter)] {
            let mut options = MqttOptions::new(format!("demo-{name}"), Ipv4Addr::LOCALHOST.to_string(), port);
            options.set_keep_alive(Duration::from_secs(30));
            let (client, events) = AsyncClient::new(options, 100);
            running.tasks.spawn(keep_connected(events, running.stop.clone()));
            running.tasks.spawn(publish(client, period, messages, running.stop.clone()));
        }
        running
    }

    /// Stops them and waits, not for long, until they have.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended =
            timeout(Duration::from_secs(5), async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            self.tasks.abort_all();
        }
    }
}

/// What a device publishes in one step: topics and payloads.
type Messages = Vec<(String, String)>;

async fn publish(
    client: AsyncClient,
    period: Duration,
    messages: fn(u32) -> Messages,
    stop: CancellationToken,
) {
    let mut pace = interval(period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for step in 0.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = pace.tick() => {}
        }
        for (topic, payload) in messages(step) {
            // No room: the broker is away. A simple device forgets, and so does this one.
            if client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_err() {
                break;
            }
        }
    }
}

/// Keeps the connection, and makes a new one when it breaks.
async fn keep_connected(mut events: EventLoop, stop: CancellationToken) {
    let mut backoff = interval(Duration::from_millis(500));
    backoff.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let failed = tokio::select! {
            () = stop.cancelled() => return,
            event = events.poll() => event.is_err(),
        };
        if failed {
            backoff.tick().await;
        }
    }
}

/// Around `middle` by `swing`, once in `period` steps, rounded to a tenth of the swing's size.
fn wave(step: u32, period: f64, middle: f64, swing: f64) -> f64 {
    let digits = (2.0 - swing.log10().floor()).clamp(0.0, 4.0) as i32;
    let unit = 10f64.powi(digits);
    ((middle + swing * (TAU * f64::from(step) / period).sin()) * unit).round() / unit
}

fn pump(step: u32) -> Messages {
    let message = |(at, (name, middle, swing)): (usize, &(&str, f64, f64))| {
        let value = wave(step, 60.0 + 17.0 * at as f64, *middle, *swing);
        (format!("plant/feed-pump/{name}"), value.to_string())
    };
    PUMP.iter().enumerate().map(message).collect()
}

fn hall(step: u32) -> Messages {
    let document = json!({
        "air": {
            "temperature": wave(step, 600.0, 21.5, 1.5),
            "humidity": wave(step, 900.0, 45.0, 6.0),
            "co2": wave(step, 400.0, 650.0, 120.0),
            "dust": wave(step, 200.0, 12.0, 4.0),
        },
        "noise": wave(step, 47.0, 68.0, 9.0),
        "light": [wave(step, 700.0, 480.0, 60.0), wave(step, 700.0, 620.0, 90.0)],
        "people": (step / 30) % 7,
        "door": (step / 20).is_multiple_of(5),
        "mode": if (step / 300).is_multiple_of(2) { "day" } else { "night" },
    });
    vec![("sensors/north/state".into(), document.to_string())]
}

fn meter(step: u32) -> Messages {
    let phase = |at: f64| -> Json {
        json!({
            "voltage": wave(step, 120.0 + at, 230.0, 2.0),
            "current": wave(step, 75.0 + at, 18.0, 5.0),
        })
    };
    let document = json!({
        "time": jiff::Timestamp::now().to_string(),
        "l1": phase(0.0), "l2": phase(7.0), "l3": phase(13.0),
        "power": wave(step, 75.0, 12.0, 3.5),
        "power_factor": wave(step, 310.0, 0.93, 0.02),
        "frequency": wave(step, 33.0, 50.0, 0.03),
        "energy": 81_250.0 + f64::from(step) * 0.25,
    });
    vec![("meters/main/json".into(), document.to_string())]
}

/// The topics that read all thirty points, as configuration types.
pub fn topics() -> Vec<MqttTopic> {
    let topic = |topic: &str, payload| MqttTopic { topic: topic.into(), device: None, qos: 1, payload };
    let plain = Payload::Plain {
        point: None,
        data_type: DataType::Float,
        unit: String::new(),
        kind: PointKind::Gauge,
    };
    let document = |(template, time, fields): &(&str, Option<&str>, &[Field])| {
        let points = fields.iter().map(Field::configured).collect();
        topic(template, Payload::Json { timestamp: time.map(Into::into), points })
    };
    std::iter::once(topic(PUMP_TEMPLATE, plain)).chain(DOCUMENTS.iter().map(document)).collect()
}

/// The same as an operator would write it.
pub(super) fn link_toml(name: &str, port: u16) -> String {
    let mut text = format!(
        "[link.{name}.mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\n\n\
         [[link.{name}.topic]]\ntopic = \"{PUMP_TEMPLATE}\"\n"
    );
    for (template, time, fields) in DOCUMENTS {
        let mut write = |line: String| writeln!(text, "{line}").expect("writing to a String cannot fail");
        write(format!("\n[[link.{name}.topic]]\ntopic = \"{template}\""));
        if let Some(pointer) = time {
            write(format!("timestamp = \"{pointer}\""));
        }
        write(format!("[link.{name}.topic.points]"));
        fields.iter().for_each(|field| write(field.toml()));
    }
    text
}

impl Field {
    fn configured(&self) -> JsonPoint {
        let name = Name::new(self.name).expect("the names above are letters, digits and `_`");
        let meta = PointMeta { name, unit: self.unit.into(), kind: self.kind, scale: None, offset: None };
        JsonPoint { meta, pointer: self.pointer.into(), data_type: self.wanted }
    }

    fn toml(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(", unit = \"{}\"", self.unit) };
        let wanted = match self.wanted {
            DataType::Float => "",
            DataType::Integer => ", type = \"integer\"",
            DataType::Boolean => ", type = \"boolean\"",
            DataType::Text => ", type = \"text\"",
        };
        let kind = if self.kind == PointKind::Counter { ", kind = \"counter\"" } else { "" };
        format!("{} = {{ pointer = \"{}\"{unit}{wanted}{kind} }}", self.name, self.pointer)
    }
}
