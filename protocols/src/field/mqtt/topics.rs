//! Messages to samples: which topic of the configuration a message belongs to, and what its
//! payload says. Pure: no broker, no clock.

use std::sync::Arc;

use forebay_config::field::{self as config, MqttTopic, Payload};
use serde_json::Value as Json;

use super::dialect::Message;
use super::payload::{Conversion, Measured, device_time};
use super::points::{Origin, Outline, Register};
use super::template::{Template, name_of};
use crate::field::source::{Harvest, Sample};
use crate::reading::{Doubt, Point, Quality, Stamp};

/// All topics of a link, and the points they have brought so far.
pub(super) struct Topics {
    topics: Vec<Topic>,
    register: Register,
}

struct Topic {
    template: Template,
    device: Option<Arc<str>>,
    fields: Fields,
}

enum Fields {
    /// The payload is one value.
    Plain(Field),
    /// The payload is a document, with the device's time at `time`.
    Document { time: Option<String>, fields: Vec<(String, Field)> },
}

struct Field {
    outline: Outline,
    conversion: Conversion,
}

impl Topics {
    /// Takes over `[[link.NAME.topic]]`; an error names the topic and the way out.
    pub(super) fn new(configured: &[MqttTopic]) -> Result<Self, String> {
        let mut all = Self { topics: Vec::with_capacity(configured.len()), register: Register::default() };
        for entry in configured {
            all.add(entry).map_err(|why| format!("topic `{}`: {why}", entry.topic))?;
        }
        Ok(all)
    }

    /// The points so far, by slot.
    pub(super) fn points(&self) -> &[Point] {
        self.register.points()
    }

    /// The filters to subscribe to, in the order of the configuration.
    pub(super) fn filters(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|topic| topic.template.filter())
    }

    /// Puts what `message` says into `harvest`; gives the device it came from. The first topic of
    /// the configuration that fits reads it. A message without a reading is counted as discarded.
    pub(super) fn read(&mut self, message: &Message, harvest: &mut Harvest) -> Option<Arc<str>> {
        let before = harvest.samples.len();
        let device = self.samples_of(message, &mut harvest.samples);
        if harvest.samples.len() == before {
            harvest.discarded += 1;
            return None;
        }
        device
    }

    fn samples_of(&mut self, message: &Message, samples: &mut Vec<Sample>) -> Option<Arc<str>> {
        // An empty payload clears a retained message and says nothing of the point.
        let payload = message.payload.as_deref().filter(|payload| !payload.is_empty())?;
        let fits = |(at, topic): (usize, &'_ Topic)| Some((at, topic.template.read(&message.topic)?));
        let (at, captured) = self.topics.iter().enumerate().find_map(fits)?;
        let topic = self.topics.get(at)?;
        let register = &mut self.register;
        let mut keep = |point: usize, field: &Field, measured: Measured, stamp: Stamp| {
            // A document names its points itself.
            if let Some(slot) = register.slot(Origin { topic: at, point }, &field.outline, captured) {
                samples.push(sample(slot, stamp, measured, message.retained));
            }
        };
        let arrived = Stamp::boot(message.arrived);
        match &topic.fields {
            Fields::Plain(field) => keep(0, field, field.conversion.of_text(payload), arrived),
            Fields::Document { time, fields } => {
                let document: Json = serde_json::from_slice(payload).ok()?;
                let stated = time.as_ref().and_then(|pointer| device_time(document.pointer(pointer)?));
                let stamp = stated.map_or(arrived, Stamp::device);
                for (point, (pointer, field)) in fields.iter().enumerate() {
                    if let Some(json) = document.pointer(pointer) {
                        keep(point, field, field.conversion.of_json(json), stamp);
                    }
                }
            }
        }
        captured.device.map(name_of).or_else(|| topic.device.clone())
    }

    fn add(&mut self, entry: &MqttTopic) -> Result<(), String> {
        let template = Template::parse(&entry.topic)?;
        if self.topics.iter().any(|other| other.template.filter() == template.filter()) {
            return Err(
                "an earlier topic has the same filter and would read every message; merge them".into()
            );
        }
        let device = entry.device.as_ref().map(|name| name.to_arc());
        match (template.names_device(), &device) {
            (true, Some(_)) => return Err("both `{device}` and `device` name the device; keep one".into()),
            (false, None) => {
                return Err("nothing names the device: put `{device}` into it, or set `device`".into());
            }
            _ => {}
        }
        let fields = fields(&entry.payload, &device, template.names_point())?;
        let at = self.topics.len();
        let nothing_to_discover = !template.names_device() && !template.names_point();
        if nothing_to_discover {
            for (point, field) in fields.iter().enumerate() {
                if !self.register.declare(Origin { topic: at, point }, &field.outline) {
                    let name = field.outline.name.as_deref().unwrap_or_default();
                    return Err(format!("the point `{name}` of this device stands twice; rename one"));
                }
            }
        }
        self.topics.push(Topic { template, device, fields });
        Ok(())
    }
}

impl Fields {
    fn iter(&self) -> impl Iterator<Item = &Field> {
        let (one, many): (_, &[_]) = match self {
            Self::Plain(field) => (Some(field), &[]),
            Self::Document { fields, .. } => (None, fields),
        };
        one.into_iter().chain(many.iter().map(|(_, field)| field))
    }
}

fn fields(payload: &Payload, device: &Option<Arc<str>>, topic_names_point: bool) -> Result<Fields, String> {
    match payload {
        Payload::Plain { point, data_type: wanted, unit, kind } => {
            match (topic_names_point, point) {
                (true, Some(_)) => return Err("both `{point}` and `point` name the point; keep one".into()),
                (false, None) => {
                    return Err(
                        "nothing names the point: put `{point}` into it, or set `point` or `points`".into()
                    );
                }
                _ => {}
            }
            let conversion = Conversion::new((*wanted).into(), None, None);
            let name = point.as_ref().map(|name| name.to_arc());
            let outline = outline(device, name, unit, *kind, conversion);
            Ok(Fields::Plain(Field { outline, conversion }))
        }
        Payload::Json { timestamp, points } => {
            if topic_names_point {
                return Err("`points` name the points, so write `+` instead of `{point}`".into());
            }
            let pointers = timestamp.iter().chain(points.iter().map(|point| &point.pointer));
            if let Some(wrong) = pointers.into_iter().find(|p| !p.is_empty() && !p.starts_with('/')) {
                return Err(format!("`{wrong}` is no JSON pointer; did you mean `/{wrong}`?"));
            }
            let field = |point: &config::JsonPoint| {
                let meta = &point.meta;
                let conversion = Conversion::new(point.data_type.into(), meta.scale, meta.offset);
                let outline = outline(device, Some(meta.name.to_arc()), &meta.unit, meta.kind, conversion);
                (point.pointer.clone(), Field { outline, conversion })
            };
            Ok(Fields::Document { time: timestamp.clone(), fields: points.iter().map(field).collect() })
        }
    }
}

fn outline(
    device: &Option<Arc<str>>,
    name: Option<Arc<str>>,
    unit: &str,
    kind: config::PointKind,
    conversion: Conversion,
) -> Outline {
    Outline {
        device: device.clone(),
        name,
        unit: unit.into(),
        kind: kind.into(),
        data_type: conversion.data_type(),
    }
}

fn sample(slot: usize, stamp: Stamp, measured: Measured, retained: bool) -> Sample {
    let stale = retained && stamp.clock == crate::reading::Clock::Boot;
    let (value, quality) = match measured {
        Ok(value) if stale => (Some(value), Quality::Uncertain(Doubt::LastKnown)),
        Ok(value) => (Some(value), Quality::Good),
        Err(fault) => (None, Quality::Bad(fault)),
    };
    Sample { slot, stamp, value, quality }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_config::field::{JsonPoint, PointMeta};
    use forebay_config::units::Name;

    use super::*;
    use crate::boot_time::BootTime;
    use crate::reading::{Fault, Value};

    fn plain(topic: &str, device: Option<&str>, point: Option<&str>) -> MqttTopic {
        MqttTopic {
            topic: topic.into(),
            device: device.map(|name| Name::new(name).unwrap()),
            qos: 1,
            payload: Payload::Plain {
                point: point.map(|name| Name::new(name).unwrap()),
                data_type: config::DataType::Float,
                unit: "°C".into(),
                kind: config::PointKind::Gauge,
            },
        }
    }

    fn document(
        topic: &str,
        device: Option<&str>,
        time: Option<&str>,
        pointers: &[(&str, &str)],
    ) -> MqttTopic {
        let point = |&(name, pointer): &(&str, &str)| JsonPoint {
            meta: PointMeta {
                name: Name::new(name).unwrap(),
                unit: String::new(),
                kind: config::PointKind::Gauge,
                scale: None,
                offset: None,
            },
            pointer: pointer.into(),
            data_type: config::DataType::Float,
        };
        let payload =
            Payload::Json { timestamp: time.map(Into::into), points: pointers.iter().map(point).collect() };
        MqttTopic { payload, ..plain(topic, device, None) }
    }

    fn message(topic: &str, payload: &str) -> Message {
        Message {
            topic: topic.into(),
            payload: Some(Bytes::copy_from_slice(payload.as_bytes())),
            retained: false,
            arrived: BootTime(7),
            ticket: None,
        }
    }

    /// What a sample says: point, value or else its quality, time.
    type Said = (String, Result<f64, Quality>, Stamp);

    /// What a message says, and how many were discarded.
    fn read(topics: &mut Topics, message: &Message) -> (Vec<Said>, u64) {
        let mut harvest = Harvest::default();
        topics.read(message, &mut harvest);
        let words = |sample: &Sample| {
            let point = &topics.points()[sample.slot];
            let value = sample.value.as_ref().and_then(Value::as_number);
            let said = if sample.quality == Quality::Good { Ok(value.unwrap()) } else { Err(sample.quality) };
            (format!("{}/{}", point.device, point.name), said, sample.stamp)
        };
        (harvest.samples.iter().map(words).collect(), harvest.discarded)
    }

    const ARRIVED: Stamp = Stamp { clock: crate::reading::Clock::Boot, micros: 7 };

    #[test]
    fn a_template_finds_devices_and_points_as_they_speak() {
        let mut topics = Topics::new(&[plain("plant/{device}/{point}", None, None)]).unwrap();
        assert!(topics.points().is_empty());
        let (samples, discarded) = read(&mut topics, &message("plant/pump 1/flow", "3.5"));
        assert_eq!(samples, [("pump_1/flow".into(), Ok(3.5), ARRIVED)]);
        assert_eq!(discarded, 0);
        assert_eq!(topics.points()[0].unit.as_ref(), "°C");
    }

    #[test]
    fn points_named_in_full_are_known_before_they_speak() {
        let topics = Topics::new(&[
            plain("a/temp", Some("oven"), Some("temp")),
            document("b/+", Some("press"), None, &[("force", "/f"), ("way", "/w")]),
            document("c/{device}", None, None, &[("later", "/l")]),
        ])
        .unwrap();
        let paths: Vec<_> = topics.points().iter().map(|p| format!("{}/{}", p.device, p.name)).collect();
        assert_eq!(paths, ["oven/temp", "press/force", "press/way"]);
    }

    #[test]
    fn a_document_gives_what_it_holds() {
        let pointers = [("temp", "/t"), ("humidity", "/air/h"), ("third", "/list/1")];
        let mut topics = Topics::new(&[document("s/{device}", None, Some("/at"), &pointers)]).unwrap();
        let at = Stamp::device(1_795_248_000_000_000);
        let json = r#"{"at":"2026-11-21T08:00:00Z","t":21.5,"air":{"h":"wet"},"list":[1,2]}"#;
        let (samples, discarded) = read(&mut topics, &message("s/hall", json));
        let wrong = Err(Quality::Bad(Fault::WrongType));
        assert_eq!(
            samples,
            [
                ("hall/temp".into(), Ok(21.5), at),
                ("hall/humidity".into(), wrong, at),
                ("hall/third".into(), Ok(2.0), at)
            ]
        );
        assert_eq!(discarded, 0);

        let (samples, discarded) = read(&mut topics, &message("s/hall", r#"{"at":"soon","t":22}"#));
        assert_eq!(samples, [("hall/temp".into(), Ok(22.0), ARRIVED)], "an unreadable time is not used");
        assert_eq!(discarded, 0, "what a device leaves out is not an error");
    }

    #[test]
    fn a_message_without_a_reading_is_counted() {
        let mut topics = Topics::new(&[
            document("s/{device}", None, None, &[("temp", "/t")]),
            plain("plant/{device}/{point}", None, None),
        ])
        .unwrap();
        for (topic, payload) in [
            ("s/hall", "{\"t\":"),
            ("s/hall", "{\"other\":1}"),
            ("s/hall", ""),
            ("plant/pump/flow", ""),
            ("foreign", "1"),
        ] {
            assert_eq!(read(&mut topics, &message(topic, payload)), (vec![], 1), "{topic} {payload}");
        }
        let too_large = Message { payload: None, ..message("plant/pump/flow", "") };
        assert_eq!(read(&mut topics, &too_large), (vec![], 1));
        assert!(topics.points().is_empty(), "nothing was found by them either");
    }

    #[test]
    fn a_retained_message_is_the_last_known_value_unless_it_says_when() {
        let mut topics = Topics::new(&[
            plain("plant/{device}/{point}", None, None),
            document("s/{device}", None, Some("/at"), &[("temp", "/t")]),
        ])
        .unwrap();
        let old = Message { retained: true, ..message("plant/pump/flow", "1") };
        assert_eq!(read(&mut topics, &old).0[0].1, Err(Quality::Uncertain(Doubt::LastKnown)));
        let dated = Message { retained: true, ..message("s/hall", r#"{"at":1795248000,"t":1}"#) };
        assert_eq!(read(&mut topics, &dated).0[0].1, Ok(1.0));
        let undated = Message { retained: true, ..message("s/hall", r#"{"t":1}"#) };
        assert_eq!(read(&mut topics, &undated).0[0].1, Err(Quality::Uncertain(Doubt::LastKnown)));
    }

    #[test]
    fn the_first_topic_that_fits_reads_the_message() {
        let mut topics = Topics::new(&[
            document("plant/{device}/state", None, None, &[("open", "/s")]),
            plain("plant/{device}/{point}", None, None),
        ])
        .unwrap();
        assert_eq!(read(&mut topics, &message("plant/a/state", "{\"s\":1}")).0[0].0, "a/open");
        assert_eq!(topics.points().len(), 1);
    }

    #[test]
    fn topics_that_contradict_themselves_are_refused_with_the_way_out() {
        for (configured, word) in [
            (vec![plain("a/{device}", Some("x"), Some("p"))], "keep one"),
            (vec![plain("a/b", None, Some("p"))], "names the device"),
            (vec![plain("a/{point}", Some("x"), Some("p"))], "keep one"),
            (vec![plain("a/b", Some("x"), None)], "names the point"),
            (vec![document("{device}/{point}", None, None, &[("p", "/p")])], "write `+`"),
            (vec![document("{device}", None, None, &[("p", "p")])], "did you mean `/p`"),
            (vec![document("{device}", None, Some("at"), &[("p", "/p")])], "did you mean `/at`"),
            (vec![plain("a", Some("x"), Some("p")), plain("b", Some("x"), Some("p"))], "stands twice"),
            (vec![plain("{device}/a", None, Some("p")), plain("+/a", Some("x"), Some("p"))], "same filter"),
            (vec![plain("a/#/b", Some("x"), Some("p"))], "nothing can follow"),
        ] {
            let Err(words) = Topics::new(&configured) else { panic!("{configured:?} was taken") };
            assert!(words.contains(word) && words.contains(&configured.last().unwrap().topic), "{words}");
        }
    }
}
