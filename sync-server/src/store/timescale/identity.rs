//! Who may speak: tokens, certificates, standing.

use deadpool_postgres::Client;

use super::super::{AgentKey, Micros, NewToken, Standing, StoreError, TokenVerdict, sieve};
use super::read;
use super::values::Moment;

pub async fn add_token(client: &Client, token: NewToken) -> Result<(), StoreError> {
    let sql = "insert into join_tokens (secret_hash, expires, uses_left, note, approval, created) \
               values ($1, $2, $3, $4, $5, $6)";
    let (expires, created) = (Moment(token.expires), Moment(token.created));
    let (hash, uses, note) = (token.secret_hash.as_slice(), i64::from(token.uses), sieve::text(&token.note));
    client.execute(sql, &[&hash, &expires, &uses, &note, &token.approval, &created]).await?;
    Ok(())
}

pub async fn token(client: &Client, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
    let sql = "select expires, uses_left from join_tokens where secret_hash = $1";
    let row = client.query_opt(sql, &[&secret_hash.as_slice()]).await?;
    let kept =
        row.map(|row| Ok::<_, StoreError>((row.try_get::<_, Moment>(0)?.0, row.try_get(1)?))).transpose()?;
    Ok(TokenVerdict::of(kept, now))
}

pub async fn renew(
    client: &Client,
    agent: AgentKey,
    certificate: [u8; 32],
    valid_until: Micros,
) -> Result<(), StoreError> {
    // The lock keeps a revocation that happens now from missing this certificate.
    let sql = "insert into certificates (agent, fingerprint, valid_until) \
               select agent, $2, $3 from agents where agent = $1 and not revoked for share";
    let until = Moment(valid_until);
    match client.execute(sql, &[&agent.0, &certificate.as_slice(), &until]).await? {
        0 => Err(StoreError::Refused(format!("agent {} is unknown or revoked; let it join again", agent.0))),
        _ => Ok(()),
    }
}

pub async fn standing(client: &Client, certificate: [u8; 32]) -> Result<Standing, StoreError> {
    let sql = "select agent, revoked from certificates where fingerprint = $1";
    let Some(row) = client.query_opt(sql, &[&certificate.as_slice()]).await? else {
        return Ok(Standing::Unknown);
    };
    let Some(agent) = read::agent(client, AgentKey(row.try_get(0)?)).await? else {
        return Ok(Standing::Unknown);
    };
    Ok(if row.try_get(1)? { Standing::Revoked(agent) } else { Standing::Known(agent) })
}
