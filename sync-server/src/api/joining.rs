//! `/joining`: gateways that wait for an operator's word, that word, and join strings.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use forebay_protocols::sync::tls;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, Number};
use super::guard::Caller;
use super::parameters::{Nothing, Parameters};
use super::problem::Problem;
use super::qr::picture;
use super::words::{now, time};
use crate::invitation::{Invitation, InviteError};
use crate::store::{Application, ApplicationId, Note, Word};

/// A reason and a note are a sentence, not a report.
const LONGEST_WORDS: usize = 200;
/// Seconds a join string is good for: a day, unless somebody says otherwise.
const LIFE: (u64, u64, u64) = (60, 86_400, 366 * 86_400);
const MOST_USES: u32 = 10_000;

pub(super) async fn joining(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let (waiting, fleet) = (caller.store.applications().await?, caller.fleet.muster().await?);
    let one = |one: &Application| {
        let agent = name(one);
        let replaces = fleet.agent(&agent).is_some_and(|row| !row.revoked);
        json!({
            "number": one.id.0,
            "agent": agent,
            "key": tls::key_words(&one.key_hash),
            "from": one.peer,
            "version": one.version,
            "asked": time(one.asked),
            "last_asked": time(one.last_asked),
            "approved": one.approved,
            "replaces": replaces,
            "note": one.note,
        })
    };
    Ok(Json(json!({ "time": time(now()), "waiting": waiting.iter().map(one).collect::<Vec<_>>() })))
}

fn name(one: &Application) -> String {
    format!("{}/{}", one.site, one.gateway)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approved {
    /// As it was shown to whoever decides.
    agent: Option<String>,
}

pub(super) async fn approve(
    caller: Caller,
    Number(id): Number,
    Body(Approved { agent }): Body<Approved>,
) -> Result<StatusCode, Problem> {
    decide(&caller, id, agent, Word::Yes).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rejected {
    /// As it was shown to whoever decides.
    agent: Option<String>,
    /// The gateway is told.
    #[serde(default)]
    reason: String,
}

pub(super) async fn reject(
    caller: Caller,
    Number(id): Number,
    Body(Rejected { agent, reason }): Body<Rejected>,
) -> Result<StatusCode, Problem> {
    short("reason", &reason)?;
    decide(&caller, id, agent, Word::No(reason.trim().to_owned())).await
}

async fn decide(caller: &Caller, id: i64, shown: Option<String>, word: Word) -> Result<StatusCode, Problem> {
    let nobody =
        || Problem::NotFound(format!("nobody waits under the number {id}; /api/v1/joining tells who does"));
    let waiting = caller.store.applications().await?;
    let found = waiting.iter().find(|one| one.id == ApplicationId(id)).ok_or_else(nobody)?;
    let agent = name(found);
    if let Some(shown) = shown.filter(|shown| *shown != agent) {
        let words = format!("number {id} was {shown} and calls itself {agent} now: look at it once more");
        return Err(Problem::Conflict(words));
    }
    let action = match word {
        Word::Yes => "gateway approved",
        Word::No(_) => "gateway rejected",
    };
    if !caller.store.decide(found.id, word, now()).await? {
        return Err(nobody());
    }
    let note = Note::new(action, agent).from_to("", format!("key {}", tls::key_words(&found.key_hash)));
    caller.visitor.gate.access().record(&caller.act(), note).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a join string shall be good for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    #[serde(default)]
    note: String,
    uses: Option<u32>,
    expires_s: Option<u64>,
    #[serde(default)]
    approval: bool,
}

pub(super) async fn invite(
    caller: Caller,
    Body(NewToken { note, uses, expires_s, approval }): Body<NewToken>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    short("note", &note)?;
    let (least, usual, most) = LIFE;
    let seconds = expires_s.unwrap_or(usual);
    if !(least..=most).contains(&seconds) {
        return Err(Problem::BadRequest(format!("expires_s: {seconds} is not between {least} and {most}")));
    }
    let uses = uses.unwrap_or(1);
    if !(1..=MOST_USES).contains(&uses) {
        return Err(Problem::BadRequest(format!("uses: {uses} is not between 1 and {MOST_USES}")));
    }
    let Some(inviter) = &caller.about.inviter else {
        let words = "this server makes no join strings here: run `forebay-server token create`";
        return Err(Problem::Conflict(words.into()));
    };
    let act = caller.act();
    let expires = Duration::from_secs(seconds);
    let invitation = Invitation { expires, uses, note: note.trim().to_owned(), approval };
    let made = inviter.invite(&*caller.store, invitation, &act).await.map_err(|error| match error {
        InviteError::Store(error) => Problem::Store(error),
        other => Problem::Conflict(other.to_string()),
    })?;
    let join = made.to_string();
    let command = format!("sudo -u forebay forebay-agent join '{join}'");
    let qr = picture(&command).map(|code| json!({ "size": code.size, "path": code.path }));
    let expires = act.at.saturating_add(i64::try_from(expires.as_micros()).unwrap_or(i64::MAX));
    let told = json!({
        "join": join,
        "command": command,
        "expires": time(expires),
        "uses": uses,
        "approval": approval,
        "qr": qr,
    });
    Ok((StatusCode::CREATED, Json(told)))
}

fn short(key: &str, text: &str) -> Result<(), Problem> {
    match text.chars().count() <= LONGEST_WORDS {
        true => Ok(()),
        false => Err(Problem::BadRequest(format!("{key}: longer than {LONGEST_WORDS} characters"))),
    }
}
