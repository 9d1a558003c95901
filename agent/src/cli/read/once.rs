//! Drives one source until each point has said something, or the time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::classes::Pattern;
use forebay_protocols::field::source::{Sample, Source};
use forebay_protocols::reading::Point;
use tokio::time::{Instant, timeout, timeout_at};

/// Saying goodbye may take this long.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// What one link gave.
#[derive(Debug, Default)]
pub struct Answer {
    /// The link's name.
    pub link: Arc<str>,
    /// The points that were asked for, and the last that each said.
    pub points: Vec<(Point, Option<Sample>)>,
    /// Why the link gave no more than that.
    pub fault: Option<String>,
    /// Devices that do not answer, and why.
    pub silent: BTreeMap<Arc<str>, String>,
}

impl Answer {
    /// Of a link that could not even be tried.
    pub fn none(link: Arc<str>, why: String) -> Self {
        Self { link, fault: Some(why), ..Self::default() }
    }
}

/// Connects, takes what comes and closes. Of a link that `brings_more` points than it can name, all of
/// `until` is waited for.
///
/// A receipt is never confirmed: it would tell a broker that the message is stored.
pub async fn read_once<S: Source>(
    link: Arc<str>,
    mut source: S,
    wanted: &Pattern,
    until: Instant,
    brings_more: bool,
) -> Answer {
    let mut said: BTreeMap<usize, Sample> = BTreeMap::new();
    let mut silent = BTreeMap::new();
    let fault = match timeout_at(until, source.connect()).await {
        Err(_) => Some("no connection within the time given by --wait".into()),
        Ok(Err(fault)) => Some(fault.to_string()),
        Ok(Ok(())) => loop {
            if !brings_more && source.has_found_all() && is_complete(source.points(), wanted, &said) {
                break None;
            }
            match timeout_at(until, source.next()).await {
                Err(_) => break None,
                Ok(Err(fault)) => break Some(fault.to_string()),
                Ok(Ok(harvest)) => {
                    for news in harvest.news {
                        match news.answers {
                            true => drop(silent.remove(&news.device)),
                            false => drop(silent.insert(news.device, news.words)),
                        }
                    }
                    said.extend(harvest.samples.into_iter().map(|sample| (sample.slot, sample)));
                }
            }
        },
    };
    // It could only be in vain now.
    let _ = timeout(CLOSE_WITHIN, source.close()).await;
    let points = source.points().iter().enumerate();
    let points = points
        .filter(|(_, point)| is_wanted(wanted, point))
        .map(|(slot, point)| (point.clone(), said.remove(&slot)));
    Answer { link, points: points.collect(), fault, silent }
}

fn is_complete(points: &[Point], wanted: &Pattern, said: &BTreeMap<usize, Sample>) -> bool {
    let mut points = points.iter().enumerate();
    points.all(|(slot, point)| !is_wanted(wanted, point) || said.contains_key(&slot))
}

fn is_wanted(wanted: &Pattern, point: &Point) -> bool {
    wanted.matches(&point.device, &point.name)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use forebay_protocols::field::occupancy::Occupancy;
    use forebay_protocols::field::source::{DeviceNews, Harvest, LinkFault, Receipt};
    use forebay_protocols::reading::{DataType, Fault, PointKind, Quality, Stamp, Value};

    use super::*;

    /// Gives what the test says, one harvest a call, then nothing for ever.
    struct Scripted {
        points: Vec<Point>,
        harvests: Vec<Result<Harvest, LinkFault>>,
        confirmed: Arc<Mutex<bool>>,
        closed: Arc<Mutex<bool>>,
    }

    impl Source for Scripted {
        fn points(&self) -> &[Point] {
            &self.points
        }
        async fn connect(&mut self) -> Result<(), LinkFault> {
            Ok(())
        }
        async fn next(&mut self) -> Result<Harvest, LinkFault> {
            match self.harvests.is_empty() {
                true => std::future::pending().await,
                false => self.harvests.remove(0),
            }
        }
        async fn knock(&mut self) -> bool {
            false
        }
        fn occupancy(&self) -> Option<Occupancy> {
            None
        }
        async fn close(&mut self) {
            *self.closed.lock().unwrap() = true;
        }
    }

    fn scripted(harvests: Vec<Result<Harvest, LinkFault>>) -> Scripted {
        let point = |device: &str, name: &str| Point {
            device: device.into(),
            name: name.into(),
            unit: "".into(),
            kind: PointKind::Gauge,
            data_type: DataType::Integer,
        };
        let points = vec![point("pump", "speed"), point("pump", "load"), point("fan", "speed")];
        Scripted { points, harvests, confirmed: Arc::default(), closed: Arc::default() }
    }

    fn good(slot: usize, value: i64) -> Sample {
        Sample { slot, stamp: Stamp::now(), value: Some(Value::Integer(value)), quality: Quality::Good }
    }

    const WAIT: Duration = Duration::from_millis(300);

    async fn read(source: Scripted, wanted: &str, brings_more: bool) -> Answer {
        let until = Instant::now() + WAIT;
        read_once("l".into(), source, &Pattern::new(wanted).unwrap(), until, brings_more).await
    }

    #[tokio::test]
    async fn it_ends_with_the_last_point_and_confirms_no_receipt() {
        let begun = Instant::now();
        let mut source = scripted(vec![]);
        let confirmed = source.confirmed.clone();
        let told = confirmed.clone();
        let receipt = Receipt::new(move || *told.lock().unwrap() = true);
        source.harvests = vec![
            Ok(Harvest {
                samples: vec![good(0, 1), good(2, 3)],
                receipt: Some(receipt),
                ..Harvest::default()
            }),
            Ok(Harvest { samples: vec![good(0, 5), good(1, 2)], ..Harvest::default() }),
            Ok(Harvest { samples: vec![good(0, 9)], ..Harvest::default() }),
        ];
        let closed = source.closed.clone();
        let answer = read(source, "pump/*", false).await;
        let values: Vec<_> =
            answer.points.iter().map(|(point, said)| (&*point.name, said.clone().unwrap().value)).collect();
        assert_eq!(values, [("speed", Some(Value::Integer(5))), ("load", Some(Value::Integer(2)))]);
        assert_eq!((answer.fault, begun.elapsed() < WAIT), (None, true));
        assert!(*closed.lock().unwrap() && !*confirmed.lock().unwrap());
    }

    #[tokio::test]
    async fn what_does_not_come_is_waited_for_no_longer_than_was_said() {
        let begun = Instant::now();
        let answer = read(scripted(vec![]), "*/*", false).await;
        assert!((WAIT..WAIT * 10).contains(&begun.elapsed()));
        assert!(answer.points.len() == 3 && answer.points.iter().all(|(_, said)| said.is_none()));

        let begun = Instant::now();
        let all = Harvest { samples: (0..3).map(|slot| good(slot, 1)).collect(), ..Harvest::default() };
        assert!(read(scripted(vec![Ok(all)]), "*/*", true).await.fault.is_none());
        assert!(begun.elapsed() >= WAIT, "more may come than is known");
    }

    #[tokio::test]
    async fn a_lost_connection_ends_it_with_what_there_was() {
        let lost = LinkFault::Lost { peer: "here".into(), why: "it rained".into() };
        let bad = Sample { value: None, quality: Quality::Bad(Fault::Silent), ..good(2, 0) };
        let news = DeviceNews { device: "fan".into(), answers: false, words: "unit 7 is silent".into() };
        let harvest = Harvest { samples: vec![good(0, 1), bad], news: vec![news], ..Harvest::default() };
        let answer = read(scripted(vec![Ok(harvest), Err(lost)]), "*/*", false).await;
        assert_eq!(answer.points.iter().filter(|(_, said)| said.is_some()).count(), 2);
        assert!(answer.fault.unwrap().contains("it rained"));
        assert_eq!(answer.silent["fan"], "unit 7 is silent");
    }
}
