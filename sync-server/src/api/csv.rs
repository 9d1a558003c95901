//! `/query.csv`: readings as a file. Written page by page as the reader takes it, so that a file of any
//! size costs the server one page of memory and the database one short query at a time.

use std::collections::VecDeque;
use std::fmt::Write as _;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use forebay_protocols::reading::Value;
use futures::stream;

use super::guard::Caller;
use super::parameters::{Parameters, range};
use super::points::named;
use super::problem::Problem;
use super::query::{self, Wanted, floor, ids};
use super::statistics::{count, gathered};
use super::words::{now, quality_class};
use crate::store::{Bucket, Micros, PointKey, PointRow, Query, StoreError, rfc3339};

/// Readings in one file.
const MOST: u64 = 100_000_000;
const PAGE: usize = 5_000;
/// A page is looked for in so much time at first, and in more where there is little: a database that keeps
/// each day apart looks through few of them for a page.
const STRETCH: Micros = 86_400_000_000;

/// JSON, unless CSV is asked for.
pub(super) async fn json_or_csv(
    caller: Caller,
    asked: HeaderMap,
    wanted: Parameters<Wanted>,
) -> Result<Response, Problem> {
    let accepted = asked.get(header::ACCEPT).and_then(|kinds| kinds.to_str().ok()).unwrap_or_default();
    match accepted.split(',').any(|kind| kind.trim().starts_with("text/csv")) {
        true => csv(caller, wanted).await,
        false => Ok(query::query(caller, wanted).await?.into_response()),
    }
}

pub(super) async fn csv(caller: Caller, Parameters(wanted): Parameters<Wanted>) -> Result<Response, Problem> {
    let rows = named(&caller, &ids(&wanted.points)?).await?;
    let body = match wanted.max_points {
        Some(_) => {
            let begin = || String::from("time,point,unit,mean,min,max,last,count,good,quality\r\n");
            let write = |text: &mut String, key, some: &[Bucket]| buckets(text, &rows, key, some);
            Body::from(query::written(&caller, wanted, begin, write).await?.1)
        }
        None => Body::from_stream(readings(caller, rows, wanted).await?),
    };
    let fixed = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"forebay.csv\""),
    ];
    Ok((fixed, body).into_response())
}

/// The rows of a query, of one point.
fn buckets(text: &mut String, points: &[PointRow], key: PointKey, rows: &[Bucket]) {
    let Some(point) = points.iter().find(|point| point.key == key) else { return };
    let (path, unit) = (cell(&path(point)), cell(&point.unit));
    for row in rows {
        let Bucket { mean, min, max, last, count, good, quality, .. } = row;
        let [mean, min, max] = [mean, min, max].map(|number| number.map_or(String::new(), |n| n.to_string()));
        let _ = write!(
            text,
            "{},{path},{unit},{mean},{min},{max},{},{count},{good},{}\r\n",
            time(row.time),
            value(last.as_ref()),
            quality_class(*quality)
        );
    }
}

struct Pages {
    caller: Caller,
    points: VecDeque<PointRow>,
    from: Micros,
    to: Micros,
    /// From where the first of `points` goes on.
    next: Micros,
    page: usize,
    stretch: Micros,
    began: bool,
}

async fn readings(
    caller: Caller,
    points: Vec<PointRow>,
    wanted: Wanted,
) -> Result<impl stream::Stream<Item = Result<Bytes, StoreError>> + use<>, Problem> {
    let Wanted { from, to, .. } = wanted;
    let (from, to) = range(from.as_deref().unwrap_or("-1h"), to.as_deref().unwrap_or("now"), now())?;
    let keys: Vec<_> = points.iter().map(|point| point.key).collect();
    if floor(from, &caller.store.horizons(&keys).await?) > 0 {
        let words = "from: the readings of this range are gone, and rollups are left: add `max_points`, or write a later `from`";
        return Err(Problem::BadRequest(words.into()));
    }
    // Refused before it begins: a file that ends early looks whole.
    let found = gathered(&caller, &keys, from, to).await?;
    let all: u64 = found.iter().map(|(_, buckets)| count(buckets)).sum();
    if all > MOST {
        return Err(Problem::BadRequest(format!(
            "the range holds {all} readings, and a file at most {MOST}: ask for less time or fewer points, or \
             add `max_points` for minimum, mean and maximum"
        )));
    }
    let (next, page, stretch, began) = (from, PAGE, STRETCH, false);
    let pages = Pages { caller, points: points.into(), from, to, next, page, stretch, began };
    Ok(stream::try_unfold(pages, Pages::next))
}

impl Pages {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        let mut text = String::new();
        if !self.began {
            self.began = true;
            text.push_str("time,point,unit,value,quality\r\n");
            return Ok(Some((text.into(), self)));
        }
        while let Some(point) = self.points.front() {
            let until = self.next.saturating_add(self.stretch).min(self.to);
            let asked =
                Query { points: vec![point.key], from: self.next, to: until, step: 0, most: self.page + 1 };
            let mut rows =
                self.caller.store.query(&asked).await?.pop().map(|(_, rows)| rows).unwrap_or_default();
            let (path, unit) = (cell(&path(point)), cell(&point.unit));
            match rows.get(self.page).map(|row| row.time) {
                // The next page begins with all readings of the moment that this one cannot end with.
                Some(next) => {
                    rows.retain(|row| row.time < next);
                    // More of one moment than a page holds.
                    self.page = if rows.is_empty() { self.page * 2 } else { PAGE };
                    self.next = next;
                }
                None if until < self.to => {
                    (self.next, self.page) = (until, PAGE);
                    if rows.len() < PAGE / 2 {
                        self.stretch = self.stretch.saturating_mul(2);
                    }
                }
                None => {
                    self.points.pop_front();
                    (self.next, self.page, self.stretch) = (self.from, PAGE, STRETCH);
                }
            }
            for row in rows {
                let (time, quality) = (time(row.time), quality_class(row.quality));
                let _ = write!(text, "{time},{path},{unit},{},{quality}\r\n", value(row.last.as_ref()));
            }
            if !text.is_empty() {
                return Ok(Some((text.into(), self)));
            }
        }
        Ok(None)
    }
}

fn path(point: &PointRow) -> String {
    let PointRow { site, gateway, device, name, fork, .. } = point;
    match fork {
        0 => format!("{site}/{gateway}/{device}/{name}"),
        fork => format!("{site}/{gateway}/{device}/{name} (copy {fork})"),
    }
}

fn time(at: Micros) -> String {
    rfc3339(at).unwrap_or_default()
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::Float(number)) => number.to_string(),
        Some(Value::Integer(number)) => number.to_string(),
        Some(Value::Boolean(flag)) => flag.to_string(),
        Some(Value::Text(text)) => cell(text),
    }
}

/// RFC 4180, 2. A text that a spreadsheet would take for a formula gets an apostrophe before it: texts come
/// from devices.
pub(super) fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !text.contains(['"', ',', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_where_it_must_be_and_is_never_a_formula() {
        assert_eq!(cell("boiler/p1"), "boiler/p1");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("=1+1"), "\"'=1+1\"");
        assert_eq!(value(Some(&Value::Float(-1.5))), "-1.5");
        assert_eq!(
            (value(None), value(Some(&Value::Integer(i64::MAX)))),
            (String::new(), i64::MAX.to_string())
        );
    }
}
