//! What the MQTT source costs at QoS 0, beside a loop that does nothing but poll the client library and
//! count: the same broker, the same publisher, the same messages, one after the other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_config::load;
use forebay_protocols::field::mqtt::MqttSource;
use forebay_protocols::field::source::Source;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use rustls::time_provider::DefaultTimeProvider;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::mosquitto::{Mosquitto, Security};

/// Nothing more comes after so much silence.
const OVER_AFTER: Duration = Duration::from_secs(2);
const TOPIC: &str = "plant/pump/count";
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// One way of listening, measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// `source`: our driver, to readings. `rumqttc`: the bare client library.
    pub who: &'static str,
    /// Messages that were published.
    pub published: u64,
    /// Messages that arrived; at QoS 0 a broker drops what its reader does not take.
    pub received: u64,
    /// Messages a second, from the first to the last that arrived.
    pub rate: f64,
    /// Processor time of this process per message, microseconds: reading the socket included.
    pub cpu_us: f64,
}

impl Measured {
    /// One row for programs.
    pub fn json(&self) -> Value {
        let Self { who, published, received, rate, cpu_us } = self;
        json!({ "bench": "mqtt", "who": who, "qos": 0, "published": published, "received": received,
                "messages_per_second": rate.round(), "cpu_us_per_message": (cpu_us * 100.0).round() / 100.0 })
    }
}

/// Publishes `messages` for each way of listening, in turn, `rounds` times; the best round of each.
///
/// # Errors
/// When Mosquitto is missing, or nothing arrives.
pub async fn measure(messages: u64, rounds: u32) -> Result<[Measured; 2]> {
    let broker = Mosquitto::start(Security::None).await;
    let (mut source, mut bare): (Option<Measured>, Option<Measured>) = (None, None);
    let keep = |best: &mut Option<Measured>, measured: Measured| {
        if best.as_ref().is_none_or(|best| measured.rate > best.rate) {
            *best = Some(measured);
        }
    };
    for _ in 0..rounds {
        keep(&mut source, by_source(&broker, messages).await?);
        keep(&mut bare, by_rumqttc(&broker, messages).await?);
    }
    Ok([source.context("no rounds")?, bare.context("no rounds")?])
}

async fn by_source(broker: &Mosquitto, messages: u64) -> Result<Measured> {
    let toml = format!(
        "[agent]\nsite = \"bench\"\ngateway = \"mqtt\"\n[link.hall.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\n\
         [[link.hall.topic]]\ntopic = \"plant/{{device}}/{{point}}\"\ntype = \"integer\"\nqos = 0\n",
        broker.port
    );
    let agent = load::agent_text("bench", &toml)?;
    let mut source = MqttSource::new(&agent.links[0], std::sync::Arc::new(DefaultTimeProvider))?;
    source.connect().await?;
    let publishing = publish(broker, messages);
    let counting = count("source", messages, async || {
        let harvest = source.next().await?;
        Ok(harvest.samples.len() as u64)
    });
    let (published, measured) = tokio::join!(publishing, counting);
    published?;
    source.close().await;
    measured
}

async fn by_rumqttc(broker: &Mosquitto, messages: u64) -> Result<Measured> {
    let mut options = MqttOptions::new("bench-bare", "127.0.0.1", broker.port);
    options.set_keep_alive(KEEP_ALIVE);
    let (client, mut events) = AsyncClient::new(options, 16);
    client.subscribe("plant/+/+", QoS::AtMostOnce).await?;
    while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    let publishing = publish(broker, messages);
    let counting = count("rumqttc", messages, async || {
        Ok(u64::from(matches!(events.poll().await?, Event::Incoming(Packet::Publish(_)))))
    });
    let (published, measured) = tokio::join!(publishing, counting);
    published?;
    client.disconnect().await?;
    measured
}

async fn publish(broker: &Mosquitto, messages: u64) -> Result<()> {
    let lines: String = (0..messages).map(|n| format!("{n}\n")).collect();
    let mut publisher = broker.publisher_at("0", TOPIC)?;
    publisher.say(&lines).await?;
    Ok(publisher.finish().await?)
}

async fn count(
    who: &'static str,
    published: u64,
    mut next: impl AsyncFnMut() -> Result<u64>,
) -> Result<Measured> {
    let mut received = 0;
    let mut span: Option<(Instant, Instant)> = None;
    let cpu = processor_time()?;
    while received < published {
        let Ok(came) = timeout(OVER_AFTER, next()).await else { break };
        let came = came?;
        if came > 0 {
            received += came;
            let now = Instant::now();
            span = Some((span.map_or(now, |(first, _)| first), now));
        }
    }
    let (first, last) = span.context("nothing arrived")?;
    ensure!(last > first, "one message is no measure");
    let cpu_us = (processor_time()? - cpu).as_secs_f64() * 1e6 / received as f64;
    Ok(Measured { who, published, received, rate: received as f64 / (last - first).as_secs_f64(), cpu_us })
}

/// Of this process, user and system (proc(5), `/proc/self/stat`, fields 14 and 15).
fn processor_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit(')').next().context("a name in brackets")?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).context("two times");
    let ticks = ticks()? + ticks()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}
