//! Who may speak: tokens, certificates, standing.

use deadpool_postgres::Client;

use super::super::{AgentKey, Micros, NewToken, Standing, StoreError, TokenVerdict, sieve};
use super::read;
use super::values::Moment;

/// What a gateway says when it joins.
pub struct Joining<'a> {
    pub secret_hash: [u8; 32],
    pub site: &'a str,
    pub gateway: &'a str,
    pub certificate: [u8; 32],
    pub valid_until: Micros,
    pub now: Micros,
}

pub async fn add_token(client: &Client, token: NewToken) -> Result<(), StoreError> {
    let sql = "insert into join_tokens (secret_hash, expires, uses_left, note, created) \
               values ($1, $2, $3, $4, $5)";
    let (expires, created) = (Moment(token.expires), Moment(token.created));
    let (hash, uses, note) = (token.secret_hash.as_slice(), i64::from(token.uses), sieve::text(&token.note));
    client.execute(sql, &[&hash, &expires, &uses, &note, &created]).await?;
    Ok(())
}

pub async fn token(client: &Client, secret_hash: [u8; 32], now: Micros) -> Result<TokenVerdict, StoreError> {
    let sql = "select expires, uses_left from join_tokens where secret_hash = $1";
    let row = client.query_opt(sql, &[&secret_hash.as_slice()]).await?;
    let kept =
        row.map(|row| Ok::<_, StoreError>((row.try_get::<_, Moment>(0)?.0, row.try_get(1)?))).transpose()?;
    Ok(TokenVerdict::of(kept, now))
}

pub async fn join(
    client: &mut Client,
    joining: Joining<'_>,
) -> Result<(TokenVerdict, Option<AgentKey>), StoreError> {
    let transaction = client.transaction().await?;
    // Two at once: the second waits for the row, and then looks at it again.
    let used = "update join_tokens set uses_left = uses_left - 1 \
                where secret_hash = $1 and uses_left > 0 and expires > $2";
    let hash = joining.secret_hash.as_slice();
    if transaction.execute(used, &[&hash, &Moment(joining.now)]).await? == 0 {
        transaction.rollback().await?;
        return Ok((token(client, joining.secret_hash, joining.now).await?, None));
    }
    let agent = "insert into agents (tenant, site, gateway, joined) \
                 values ((select tenant from join_tokens where secret_hash = $4), $1, $2, $3) \
                 on conflict (tenant, site, gateway) do update set revoked = false returning agent";
    let (site, gateway) = (sieve::name(joining.site), sieve::name(joining.gateway));
    let agent: i64 =
        transaction.query_one(agent, &[&site, &gateway, &Moment(joining.now), &hash]).await?.try_get(0)?;
    let certificate = "insert into certificates (agent, fingerprint, valid_until) values ($1, $2, $3)";
    let until = Moment(joining.valid_until);
    transaction.execute(certificate, &[&agent, &joining.certificate.as_slice(), &until]).await?;
    transaction.commit().await?;
    Ok((TokenVerdict::Valid, Some(AgentKey(agent))))
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

pub async fn revoke(client: &mut Client, agent: AgentKey) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    let found = transaction.execute("update agents set revoked = true where agent = $1", &[&agent.0]).await?;
    transaction.execute("update certificates set revoked = true where agent = $1", &[&agent.0]).await?;
    transaction.commit().await?;
    match found {
        0 => Err(StoreError::Refused(format!("no agent has the key {}", agent.0))),
        _ => Ok(()),
    }
}
