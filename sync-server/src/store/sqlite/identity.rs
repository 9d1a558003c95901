//! Who may speak: tokens, certificates, standing.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::super::{AgentKey, Micros, NewToken, Standing, StoreError, TokenVerdict, sieve};
use super::read;

/// What a gateway says when it joins.
pub struct Joining {
    pub secret_hash: [u8; 32],
    pub site: String,
    pub gateway: String,
    pub certificate: [u8; 32],
    pub valid_until: Micros,
    pub now: Micros,
}

pub fn add_token(on: &Connection, token: &NewToken) -> Result<(), StoreError> {
    let NewToken { secret_hash, expires, uses, note, created } = token;
    let sql =
        "insert into join_tokens (secret_hash, expires, uses_left, note, created) values (?, ?, ?, ?, ?)";
    on.prepare_cached(sql)?.execute(params![secret_hash, expires, uses, sieve::text(note), created])?;
    Ok(())
}

pub fn token(on: &Connection, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
    let kept = on
        .prepare_cached("select expires, uses_left from join_tokens where secret_hash = ?")?
        .query_row([secret_hash], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(TokenVerdict::of(kept, now))
}

pub fn join(
    connection: &mut Connection,
    joining: &Joining,
) -> Result<(TokenVerdict, Option<AgentKey>), StoreError> {
    let Joining { secret_hash, site, gateway, certificate, valid_until, now } = joining;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let verdict = token(&transaction, *secret_hash, *now)?;
    if verdict != TokenVerdict::Valid {
        return Ok((verdict, None));
    }
    transaction
        .prepare_cached("update join_tokens set uses_left = uses_left - 1 where secret_hash = ?")?
        .execute([secret_hash])?;
    let agent = "insert into agents (tenant, site, gateway, joined) \
                 values ((select tenant from join_tokens where secret_hash = ?), ?, ?, ?) \
                 on conflict (tenant, site, gateway) do update set revoked = 0 returning agent";
    let agent: i64 = transaction
        .prepare_cached(agent)?
        .query_row(params![secret_hash, sieve::name(site), sieve::name(gateway), now], |row| row.get(0))?;
    transaction
        .prepare_cached("insert into certificates (agent, fingerprint, valid_until) values (?, ?, ?)")?
        .execute(params![agent, certificate, sieve::time(*valid_until)])?;
    transaction.commit()?;
    Ok((TokenVerdict::Valid, Some(AgentKey(agent))))
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

pub fn revoke(connection: &mut Connection, agent: AgentKey) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = transaction.execute("update agents set revoked = 1 where agent = ?", [agent.0])?;
    transaction.execute("update certificates set revoked = 1 where agent = ?", [agent.0])?;
    transaction.commit()?;
    match found {
        0 => Err(StoreError::Refused(format!("no agent has the key {}", agent.0))),
        _ => Ok(()),
    }
}
