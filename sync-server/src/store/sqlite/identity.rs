//! Who may speak: tokens, certificates, standing.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{AgentKey, Micros, NewToken, Standing, StoreError, TokenVerdict, sieve};
use super::read;

pub fn add_token(on: &Connection, token: &NewToken) -> Result<(), StoreError> {
    let NewToken { secret_hash, expires, uses, note, approval, created } = token;
    let sql = "insert into join_tokens (secret_hash, expires, uses_left, note, approval, created) values (?, ?, ?, ?, ?, ?)";
    on.prepare_cached(sql)?.execute(params![
        secret_hash,
        expires,
        uses,
        sieve::text(note),
        approval,
        created
    ])?;
    Ok(())
}

pub fn token(on: &Connection, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
    let kept = on
        .prepare_cached("select expires, uses_left from join_tokens where secret_hash = ?")?
        .query_row([secret_hash], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(TokenVerdict::of(kept, now))
}

pub fn renew(
    on: &Connection,
    agent: AgentKey,
    certificate: [u8; 32],
    valid_until: Micros,
) -> Result<(), StoreError> {
    let sql = "insert into certificates (agent, fingerprint, valid_until) \
               select agent, ?2, ?3 from agents where agent = ?1 and not revoked";
    match on.prepare_cached(sql)?.execute(params![agent.0, certificate, sieve::time(valid_until)])? {
        0 => Err(StoreError::Refused(format!("agent {} is unknown or revoked; let it join again", agent.0))),
        _ => Ok(()),
    }
}

pub fn standing(on: &Connection, certificate: [u8; 32]) -> Result<Standing, StoreError> {
    let found: Option<(i64, bool)> = on
        .prepare_cached("select agent, revoked from certificates where fingerprint = ?")?
        .query_row([certificate], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((agent, revoked)) = found else { return Ok(Standing::Unknown) };
    let Some(agent) = read::agent(on, AgentKey(agent))? else { return Ok(Standing::Unknown) };
    Ok(if revoked { Standing::Revoked(agent) } else { Standing::Known(agent) })
}
