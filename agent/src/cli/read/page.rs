//! What was read, as a table or as one JSON object. Pure but for the clock.

use std::time::Duration;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::field::source::Sample;
use forebay_protocols::reading::{Clock, Doubt, Point, Quality, Stamp};
use serde_json::{Value as Json, json};

use super::once::Answer;
use crate::cli::buffer::words::stamp;
use crate::cli::table::{Side, age, harmless, table, value};
use crate::live::value_json;

/// What all links gave.
pub struct Page<'p> {
    /// By link.
    pub answers: &'p [Answer],
    /// How long was waited.
    pub wait: Duration,
    /// What to add to boot time for wall time.
    pub offset_us: i64,
}

impl Page<'_> {
    /// Was every point read?
    pub fn is_complete(&self) -> bool {
        let is_read = |said: &Option<Sample>| {
            said.as_ref().is_some_and(|sample| !matches!(sample.quality, Quality::Bad(_)))
        };
        let has_all =
            |answer: &Answer| answer.fault.is_none() && answer.points.iter().all(|(_, said)| is_read(said));
        self.answers.iter().all(has_all)
    }

    /// A row a point.
    pub fn text(&self) -> String {
        let mut rows = Vec::new();
        for answer in self.answers {
            for (point, said) in &answer.points {
                let (shown, age) = match said {
                    Some(sample) => (
                        sample.value.as_ref().map_or_else(|| "-".into(), value),
                        self.age(sample).map_or_else(|| "unknown".into(), age),
                    ),
                    None => ("-".into(), "-".into()),
                };
                rows.push([
                    harmless(&point.device),
                    harmless(&point.name),
                    shown,
                    point.unit.to_string(),
                    self.quality(answer, said.as_ref()),
                    age,
                ]);
            }
        }
        if rows.is_empty() {
            return String::new();
        }
        let columns = [
            ("device", Side::Left),
            ("point", Side::Left),
            ("value", Side::Right),
            ("unit", Side::Left),
            ("quality", Side::Left),
            ("age", Side::Right),
        ];
        table(columns, &rows)
    }

    /// The same for programs.
    pub fn json(&self) -> Json {
        let readings = self.answers.iter().flat_map(|answer| {
            answer.points.iter().map(move |(point, said)| self.reading(answer, point, said.as_ref()))
        });
        let unreachable = self
            .answers
            .iter()
            .filter_map(|answer| Some(json!({ "link": &*answer.link, "words": answer.fault.as_ref()? })));
        let silent = self.answers.iter().flat_map(|answer| {
            answer.silent.iter().map(
                move |(device, words)| json!({ "link": &*answer.link, "device": &**device, "words": words }),
            )
        });
        json!({
            "complete": self.is_complete(),
            "readings": readings.collect::<Vec<_>>(),
            "unreachable": unreachable.collect::<Vec<_>>(),
            "silent": silent.collect::<Vec<_>>(),
        })
    }

    /// What cannot be reached, in plain words.
    pub fn trouble(&self) -> Option<String> {
        let mut words = Vec::new();
        for answer in self.answers {
            words.extend(answer.fault.iter().map(|why| format!("link {}: {why}", answer.link)));
            words.extend(
                answer
                    .silent
                    .iter()
                    .map(|(device, why)| format!("link {}, device {device}: {why}", answer.link)),
            );
        }
        (!words.is_empty()).then(|| words.join("\n"))
    }

    fn reading(&self, answer: &Answer, point: &Point, said: Option<&Sample>) -> Json {
        let value = said.and_then(|sample| sample.value.as_ref()).map(value_json);
        json!({
            "link": &*answer.link,
            "device": &*point.device,
            "point": &*point.name,
            "value": value,
            "unit": &*point.unit,
            "type": point.data_type.word(),
            "quality": self.quality(answer, said),
            "time": said.map(|sample| stamp(sample.stamp.wall(self.offset_us))),
            "age_s": said.and_then(|sample| self.age(sample)),
        })
    }

    fn quality(&self, answer: &Answer, said: Option<&Sample>) -> String {
        match said {
            Some(sample) => sample.quality.words().into(),
            None if answer.fault.is_some() => "not read: no connection".into(),
            None => format!("not read: nothing came within {:?}", self.wait),
        }
    }

    /// Seconds since the reading was taken; `None` where only its arrival is known.
    fn age(&self, sample: &Sample) -> Option<f64> {
        let Sample { stamp, quality, .. } = sample;
        if stamp.clock == Clock::Boot && matches!(quality, Quality::Uncertain(Doubt::LastKnown)) {
            return None;
        }
        let now = Stamp::boot(BootTime::now()).wall(self.offset_us);
        Some((now - stamp.wall(self.offset_us)) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_protocols::reading::{DataType, Fault, PointKind, Value};

    use super::*;

    fn point(name: &str) -> Point {
        let device: Arc<str> = "pump".into();
        Point {
            device,
            name: name.into(),
            unit: "bar".into(),
            kind: PointKind::Gauge,
            data_type: DataType::Float,
        }
    }

    fn sample(value: Option<Value>, quality: Quality) -> Option<Sample> {
        Some(Sample { slot: 0, stamp: Stamp::now(), value, quality })
    }

    fn answers() -> Vec<Answer> {
        let kept = sample(Some(Value::Float(7.5)), Quality::Uncertain(Doubt::LastKnown));
        vec![
            Answer {
                link: "a".into(),
                points: vec![
                    (point("p"), sample(Some(Value::Float(1.5)), Quality::Good)),
                    (point("kept"), kept),
                ],
                ..Answer::default()
            },
            Answer {
                link: "b".into(),
                points: vec![
                    (point("silent"), sample(None, Quality::Bad(Fault::Silent))),
                    (point("q"), None),
                ],
                silent: [("pump".into(), "unit 3 did not answer within 1s".into())].into(),
                ..Answer::default()
            },
            Answer::none("c".into(), "cannot reach 10.0.0.5:502: nothing listens on that port".into()),
        ]
    }

    #[test]
    fn every_point_has_a_row_and_every_trouble_its_words() {
        let answers = answers();
        let page = Page { answers: &answers, wait: Duration::from_secs(10), offset_us: 0 };
        let text = page.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(
            lines[1].starts_with("pump    p         1.5  bar   good ") && lines[1].ends_with("0.0 s"),
            "{text}"
        );
        assert!(lines[2].ends_with("unknown"), "a retained message may be of any age: {text}");
        assert!(lines[3].contains("-  bar   bad: the device did not answer in time"), "{text}");
        assert!(lines[4].contains("not read: nothing came within 10s"), "{text}");
        let trouble = page.trouble().unwrap();
        assert!(
            trouble.contains("link b, device pump: unit 3") && trouble.contains("link c: cannot reach"),
            "{trouble}"
        );
        assert!(!page.is_complete());
        assert!(Page { answers: &answers[..1], ..page }.is_complete(), "uncertain is read");
    }

    #[test]
    fn json_tells_the_same() {
        let answers = answers();
        let json = Page { answers: &answers, wait: Duration::from_secs(10), offset_us: 0 }.json();
        assert_eq!(json["complete"], false);
        assert_eq!(
            (&json["readings"][0]["value"], &json["readings"][0]["point"]),
            (&json!(1.5), &json!("p"))
        );
        assert_eq!(
            (&json["readings"][1]["age_s"], &json["readings"][2]["value"]),
            (&Json::Null, &Json::Null)
        );
        assert_eq!(json["unreachable"][0]["link"], "c");
        assert_eq!(json["silent"][0]["device"], "pump");
    }
}
