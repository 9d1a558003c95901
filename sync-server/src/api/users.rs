//! `/users`: who may log in. Those of one's own tenant; other tenants' are made on the command line.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, Number};
use super::guard::Caller;
use super::parameters::{Nothing, Parameters};
use super::problem::Problem;
use super::words::time;
use crate::access::{Refusal, Role, judge_name, judge_password};
use crate::store::{Change, Outcome, UserKey, UserRow};

pub(super) async fn list(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let users = caller.visitor.gate.access().users(Some(caller.identity.tenant)).await?;
    Ok(Json(json!({ "users": users.iter().map(user).collect::<Vec<_>>() })))
}

fn user(row: &UserRow) -> Value {
    json!({
        "id": row.user.0,
        "name": row.name,
        "role": row.role.word(),
        "created": time(row.created),
        "logged_in": row.seen.map(time),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    name: String,
    role: String,
    password: String,
}

pub(super) async fn add(
    caller: Caller,
    Body(New { name, role, password }): Body<New>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let name = judge_name(&name).map_err(Problem::BadRequest)?;
    let role = parse_role(&role)?;
    let password = hashed(&caller, &name, &password).await?;
    let change = Change::AddUser { name: name.clone(), role, password, only_first: false };
    let id = done(caller.visitor.gate.access().change(&caller.act(), change).await?, &name)?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id, "name": name, "role": role.word() }))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Altered {
    role: Option<String>,
    password: Option<String>,
}

pub(super) async fn alter(
    caller: Caller,
    Number(id): Number,
    Body(Altered { role, password }): Body<Altered>,
) -> Result<StatusCode, Problem> {
    let access = caller.visitor.gate.access();
    let users = access.users(Some(caller.identity.tenant)).await?;
    let name = users.iter().find(|row| row.user.0 == id).map(|row| row.name.clone());
    let name = name.ok_or_else(|| no_such("user", id))?;
    // Both are judged before either is changed.
    let role = role.map(|role| parse_role(&role)).transpose()?;
    let password = match password {
        Some(password) => Some(hashed(&caller, &name, &password).await?),
        None => None,
    };
    let user = UserKey(id);
    let role = role.map(|role| Change::SetRole { user, role });
    let password = password.map(|password| Change::SetPassword { user, password, keep: None });
    for change in role.into_iter().chain(password) {
        done(access.change(&caller.act(), change).await?, &name)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(caller: Caller, Number(id): Number) -> Result<StatusCode, Problem> {
    let change = Change::RemoveUser { user: UserKey(id), even_last: false };
    let outcome = caller.visitor.gate.access().change(&caller.act(), change).await?;
    done(outcome, &id.to_string())?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse_role(word: &str) -> Result<Role, Problem> {
    Role::of(word)
        .ok_or_else(|| Problem::BadRequest(format!("role: `{word}` is not viewer, operator or admin")))
}

async fn hashed(caller: &Caller, name: &str, password: &str) -> Result<String, Problem> {
    judge_password(name, password).map_err(|why| Problem::BadRequest(format!("password: {why}")))?;
    Ok(caller.visitor.gate.passwords().hash(password).await.map_err(Refusal::from)?)
}

pub(super) fn no_such(what: &str, id: i64) -> Problem {
    Problem::NotFound(format!("there is no {what} with the id {id}"))
}

/// The number of what was made or changed, or why it was not.
pub(super) fn done(outcome: Outcome, name: &str) -> Result<i64, Problem> {
    match outcome {
        Outcome::Done(number) => Ok(number),
        Outcome::NameTaken => Err(Problem::Conflict(format!("`{name}` is taken: choose another name"))),
        Outcome::Unknown => Err(Problem::NotFound(format!("there is no `{name}`"))),
        Outcome::LastAdmin => Err(Problem::Conflict("no admin would be left: make another one first".into())),
        Outcome::NotFirst => Err(Problem::Conflict("there is a user already: log in".into())),
    }
}
