//! The query string of a request: read strictly, and refused with the way out. A misspelt parameter
//! that was ignored would look like a wrong answer.

use std::ops::RangeInclusive;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::PLACE;
use super::problem::Problem;
use super::words::parse_time;
use crate::store::Micros;

/// The parameters of a request, or a problem in our own words.
pub(super) struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(refused) => {
                let words = refused.body_text();
                let words = words.strip_prefix("Failed to deserialize query string: ").unwrap_or(&words);
                Err(Problem::BadRequest(format!("{PLACE}{}: {words}", parts.uri.path())))
            }
        }
    }
}

/// No parameters, and none are overlooked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The number asked for, if it lies within bounds.
pub(super) fn within(
    key: &str,
    wanted: Option<usize>,
    otherwise: usize,
    bounds: RangeInclusive<usize>,
) -> Result<usize, Problem> {
    let number = wanted.unwrap_or(otherwise);
    if bounds.contains(&number) {
        return Ok(number);
    }
    let (least, most) = bounds.into_inner();
    Err(Problem::BadRequest(format!("{key}: {number} is not between {least} and {most}")))
}

/// The moments `from` (inside) and `to` (outside), in this order.
pub(super) fn range(from: &str, to: &str, now: Micros) -> Result<(Micros, Micros), Problem> {
    let (begin, end) = (parse_time("from", from, now)?, parse_time("to", to, now)?);
    if begin < end {
        return Ok((begin, end));
    }
    Err(Problem::BadRequest(format!(
        "from: `{from}` does not lie before `to`, which is `{to}`: exchange them, or write an earlier `from`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_bounds_are_refused_rather_than_bent() {
        assert_eq!(within("limit", None, 200, 1..=1_000).expect("the default"), 200);
        assert_eq!(within("limit", Some(1_000), 200, 1..=1_000).expect("the most"), 1_000);
        for wrong in [0, 1_001, usize::MAX] {
            assert!(within("limit", Some(wrong), 200, 1..=1_000).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_goes_forward() {
        assert_eq!(range("-1s", "now", 5_000_000).expect("a second"), (4_000_000, 5_000_000));
        assert!(range("now", "now", 5_000_000).is_err());
        assert!(range("now", "-1s", 5_000_000).is_err());
    }
}
