//! `/keys`: API keys for programs. A key is shown once, when it is made.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, Number};
use super::guard::Caller;
use super::parameters::{Nothing, Parameters};
use super::problem::Problem;
use super::users::done;
use super::words::{now, time};
use crate::access::{KEY_PREFIX, Right, random};
use crate::store::{Change, KeyKey, KeyRow, StoreError};

/// Letters by which a key is known again.
const HINT: usize = KEY_PREFIX.len() + 5;
const LONGEST_NAME: usize = 64;
/// Ten years.
const LONGEST_LIFE: u64 = 10 * 366 * 86_400;

pub(super) async fn list(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let keys = caller.visitor.gate.access().keys(Some(caller.identity.tenant)).await?;
    let now = now();
    let key = |row: &KeyRow| {
        json!({
            "id": row.key.0,
            "name": row.name,
            "begins": row.hint,
            "rights": row.rights.iter().map(|right| right.word()).collect::<Vec<_>>(),
            "maker": row.maker,
            "created": time(row.created),
            "expires": time(row.expires),
            "expired": row.expires <= now,
            "used": row.seen.map(time),
        })
    };
    Ok(Json(json!({ "keys": keys.iter().map(key).collect::<Vec<_>>() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    name: String,
    rights: Vec<String>,
    /// For how many seconds it is good.
    expires_s: u64,
}

pub(super) async fn add(
    caller: Caller,
    Body(New { name, rights, expires_s }): Body<New>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let name = name.trim().to_owned();
    if name.is_empty() || name.chars().count() > LONGEST_NAME || name.contains(char::is_control) {
        let words = format!("name: a key has a name of 1 to {LONGEST_NAME} characters");
        return Err(Problem::BadRequest(words));
    }
    let mut granted = Vec::new();
    for word in &rights {
        let right = Right::of(word).ok_or_else(|| {
            Problem::BadRequest(format!("rights: `{word}` is not read, metrics, operate or manage"))
        })?;
        if !caller.identity.may(right) {
            return Err(Problem::Forbidden(format!("nobody gives the right to {right} who has it not")));
        }
        granted.push(right);
    }
    granted.sort();
    granted.dedup();
    if granted.is_empty() {
        return Err(Problem::BadRequest("rights: a key without any is good for nothing".into()));
    }
    if !(60..=LONGEST_LIFE).contains(&expires_s) {
        let words = format!("expires_s: {expires_s} is not between 60 and {LONGEST_LIFE} (ten years)");
        return Err(Problem::BadRequest(words));
    }
    let (key, hash) = random(KEY_PREFIX).map_err(|error| StoreError::Away(error.to_string()))?;
    let expires = now().saturating_add(expires_s as i64 * 1_000_000);
    let hint = key.chars().take(HINT).collect();
    let change = Change::AddKey { hash, hint, name: name.clone(), rights: granted, expires };
    let id = done(caller.visitor.gate.access().change(&caller.act(), change).await?, &name)?;
    let told = json!({ "id": id, "name": name, "key": key, "expires": time(expires) });
    Ok((StatusCode::CREATED, Json(told)))
}

pub(super) async fn remove(caller: Caller, Number(id): Number) -> Result<StatusCode, Problem> {
    let change = Change::RemoveKey { key: KeyKey(id) };
    let outcome = caller.visitor.gate.access().change(&caller.act(), change).await?;
    done(outcome, &id.to_string())?;
    Ok(StatusCode::NO_CONTENT)
}
