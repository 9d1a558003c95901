//! Logging in and out, who one is, and one's own password.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Body;
use super::guard::{Caller, Visitor};
use super::problem::Problem;
use super::users::done;
use crate::access::{Proof, cookie, judge_name, judge_password, no_cookie};
use crate::store::{Change, TenantKey, UserRow};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    name: String,
    password: String,
}

pub(super) async fn login(
    visitor: Visitor,
    Body(Credentials { name, password }): Body<Credentials>,
) -> Result<Response, Problem> {
    let user = visitor.gate.check(&name, &password, visitor.from).await?;
    welcome(&visitor, &user).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetUp {
    /// The last part of the link.
    secret: String,
    name: String,
    password: String,
}

pub(super) async fn setup(
    visitor: Visitor,
    Body(SetUp { secret, name, password }): Body<SetUp>,
) -> Result<Response, Problem> {
    let name = judge_name(&name).map_err(Problem::BadRequest)?;
    judge_password(&name, &password).map_err(Problem::BadRequest)?;
    visitor.gate.set_up(&secret, name.clone(), &password, visitor.from).await?;
    let user = visitor.gate.check(&name, &password, visitor.from).await?;
    welcome(&visitor, &user).await
}

/// A session, and who it is for.
async fn welcome(visitor: &Visitor, user: &UserRow) -> Result<Response, Problem> {
    let (secret, seconds) = visitor.gate.open_session(user, visitor.from).await?;
    let told = Json(json!({ "name": user.name, "role": user.role.word() }));
    with_cookie(told.into_response(), &cookie(&secret, seconds, visitor.is_tls))
}

fn with_cookie(mut response: Response, cookie: &str) -> Result<Response, Problem> {
    let value = HeaderValue::from_str(cookie).map_err(|_| Problem::Unguarded)?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

pub(super) async fn logout(caller: Caller) -> Result<Response, Problem> {
    if let Proof::Session { hash, .. } = caller.identity.proof {
        // One that is closed already is closed.
        caller.visitor.gate.access().change(&caller.act(), Change::CloseSession { hash }).await?;
    }
    with_cookie(StatusCode::NO_CONTENT.into_response(), &no_cookie(caller.visitor.is_tls))
}

pub(super) async fn me(caller: Caller) -> Result<Json<Value>, Problem> {
    let identity = &caller.identity;
    let (kind, role) = match identity.proof {
        Proof::Open => ("open", None),
        Proof::Session { role, .. } => ("user", Some(role.word())),
        Proof::Key { .. } => ("key", None),
    };
    let tenants = caller.visitor.gate.access().tenants().await?;
    let tenant = tenants.iter().find(|row| row.tenant == identity.tenant).map(|row| &row.name);
    Ok(Json(json!({
        "kind": kind,
        "name": Some(&identity.name).filter(|name| !name.is_empty()),
        "role": role,
        "rights": identity.rights().iter().map(|right| right.word()).collect::<Vec<_>>(),
        // Of one tenant there is nothing to tell.
        "tenant": tenant.filter(|_| tenants.len() > 1 || identity.tenant != TenantKey::MAIN),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    /// As it is.
    old: String,
    /// As it shall be.
    new: String,
}

pub(super) async fn password(
    caller: Caller,
    Body(NewPassword { old, new }): Body<NewPassword>,
) -> Result<StatusCode, Problem> {
    let Proof::Session { hash, user, .. } = caller.identity.proof else {
        return Err(Problem::Forbidden("only a user who has logged in has a password".into()));
    };
    let (gate, name) = (&caller.visitor.gate, &caller.identity.name);
    judge_password(name, &new).map_err(Problem::BadRequest)?;
    if let Err(refusal) = gate.check(name, &old, caller.visitor.from).await {
        return Err(match Problem::from(refusal) {
            // 401 would tell the page that the session is over.
            Problem::Unauthorized(_) => Problem::Forbidden("the old password is not right".into()),
            other => other,
        });
    }
    let password = gate.passwords().hash(&new).await.map_err(crate::access::Refusal::from)?;
    let change = Change::SetPassword { user, password, keep: Some(hash) };
    done(gate.access().change(&caller.act(), change).await?, name)?;
    Ok(StatusCode::NO_CONTENT)
}
