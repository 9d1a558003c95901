//! Letting gateways in, and out again.

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::Row;

use super::super::admission::{Known, LATELY, Stage};
use super::super::scope::Scope;
use super::super::{
    Adopted, AgentKey, Application, ApplicationId, Applied, Micros, NewApplication, StoreError, TenantKey,
    TokenVerdict, Word, sieve,
};
use super::values::Moment;

pub async fn apply(client: &mut Client, asked: &NewApplication) -> Result<Applied, StoreError> {
    let NewApplication { secret_hash, key_hash, site, gateway, peer, version, approval, now } = asked;
    let (site, gateway) = (sieve::name(site), sieve::name(gateway));
    let (peer, version) = (sieve::name(peer), sieve::name(version));
    let (hash, key, moment) = (secret_hash.as_slice(), key_hash.as_slice(), Moment(*now));
    let transaction = client.transaction().await?;
    // Two at once: the second waits for the token's row, and then looks at it.
    let token = "select expires, uses_left, approval from join_tokens where secret_hash = $1 for update";
    let token = transaction.query_opt(token, &[&hash]).await?;
    let token = token
        .map(|row| {
            let kept = (row.try_get::<_, Moment>(0)?.0, row.try_get::<_, i64>(1)?);
            Ok::<_, StoreError>((kept, row.try_get::<_, bool>(2)?))
        })
        .transpose()?;
    let waits = token.is_some_and(|(_, waits)| waits);
    let before = "select application, stage, words, decided, site, gateway from applications \
                  where secret_hash = $1 and key_hash = $2 for update";
    if let Some(row) = transaction.query_opt(before, &[&hash, &key]).await? {
        let known = known(&row, waits)?;
        let (id, (stage, applied)) = (known.id, known.asks_again(asked));
        if !matches!(applied, Applied::Refused(_)) {
            let update = "update applications set site = $2, gateway = $3, peer = $4, version = $5, \
                          last_asked = $6, stage = $7 where application = $1";
            let stage = stage.word();
            transaction.execute(update, &[&id.0, &site, &gateway, &peer, &version, &moment, &stage]).await?;
        }
        transaction.commit().await?;
        return Ok(applied);
    }
    let verdict = TokenVerdict::of(token.map(|(kept, _)| kept), *now);
    if verdict != TokenVerdict::Valid {
        transaction.rollback().await?;
        return Ok(Applied::Refused(verdict));
    }
    let used = "update join_tokens set uses_left = uses_left - 1 where secret_hash = $1";
    transaction.execute(used, &[&hash]).await?;
    let stage = if waits || *approval { Stage::Pending } else { Stage::Approved };
    let decided = (stage == Stage::Approved).then_some(moment);
    let insert = "insert into applications (secret_hash, key_hash, site, gateway, peer, version, asked, \
                  last_asked, stage, decided) values ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9) \
                  returning application";
    let word = stage.word();
    let id: i64 = transaction
        .query_one(insert, &[&hash, &key, &site, &gateway, &peer, &version, &moment, &word, &decided])
        .await?
        .try_get(0)?;
    transaction.commit().await?;
    let id = ApplicationId(id);
    Ok(match stage {
        Stage::Pending => Applied::Pending { id, is_new: true },
        _ => Applied::Approved(id),
    })
}

fn known(row: &Row, approval: bool) -> Result<Known, StoreError> {
    Ok(Known {
        id: ApplicationId(row.try_get(0)?),
        // A stage of a newer server's lets nobody in.
        stage: Stage::of(row.try_get(1)?).unwrap_or(Stage::Rejected),
        words: row.try_get(2)?,
        decided: row.try_get::<_, Option<Moment>>(3)?.map(|moment| moment.0),
        site: row.try_get(4)?,
        gateway: row.try_get(5)?,
        approval,
    })
}

pub async fn applications(client: &Client, scope: Scope) -> Result<Vec<Application>, StoreError> {
    let sql = "select application, site, gateway, key_hash, peer, version, asked, last_asked, stage, \
               note, tenant from applications join join_tokens using (secret_hash) \
               where stage in ('pending', 'approved') and ($1::bigint is null or tenant = $1) \
               order by application";
    let mut found = Vec::new();
    for row in client.query(sql, &[&scope.tenant]).await? {
        found.push(Application {
            id: ApplicationId(row.try_get(0)?),
            site: row.try_get(1)?,
            gateway: row.try_get(2)?,
            key_hash: row.try_get::<_, &[u8]>(3)?.try_into().unwrap_or([0; 32]),
            peer: row.try_get(4)?,
            version: row.try_get(5)?,
            asked: row.try_get::<_, Moment>(6)?.0,
            last_asked: row.try_get::<_, Moment>(7)?.0,
            approved: row.try_get::<_, &str>(8)? == Stage::Approved.word(),
            note: row.try_get(9)?,
            tenant: TenantKey(row.try_get(10)?),
        });
    }
    Ok(found)
}

pub async fn decide(
    client: &Client,
    scope: Scope,
    id: ApplicationId,
    word: &Word,
    now: Micros,
) -> Result<bool, StoreError> {
    let (stage, words) = match word {
        Word::Yes => (Stage::Approved, ""),
        Word::No(words) => (Stage::Rejected, words.as_str()),
    };
    let sql = "update applications set stage = $2, words = $3, decided = $4 \
               where application = $1 and stage in ('pending', 'approved') and ($5::bigint is null or \
               secret_hash in (select secret_hash from join_tokens where tenant = $5))";
    let (stage, words) = (stage.word(), sieve::text(words));
    Ok(client.execute(sql, &[&id.0, &stage, &words, &Moment(now), &scope.tenant]).await? > 0)
}

pub async fn admit(
    client: &mut Client,
    id: ApplicationId,
    certificate: [u8; 32],
    valid_until: Micros,
    now: Micros,
) -> Result<Option<AgentKey>, StoreError> {
    let transaction = client.transaction().await?;
    let name = "select tenant, site, gateway from applications join join_tokens using (secret_hash) \
                where application = $1 and stage in ('approved', 'joined')";
    let Some(row) = transaction.query_opt(name, &[&id.0]).await? else { return Ok(None) };
    let (tenant, site, gateway): (i64, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    // The agent first, as every writer does; a revocation that came between is seen by the update.
    let agent = welcome(&transaction, tenant, &site, &gateway, now).await?;
    keep(&transaction, agent, certificate, valid_until).await?;
    let joined = "update applications set agent = $2, \
                  decided = case stage when 'joined' then decided else $3 end, stage = 'joined' \
                  where application = $1 and stage in ('approved', 'joined')";
    if transaction.execute(joined, &[&id.0, &agent, &Moment(now)]).await? == 0 {
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.commit().await?;
    Ok(Some(AgentKey(agent)))
}

/// The tenant's agent of this name, made or found, in good standing.
async fn welcome(
    on: &Transaction<'_>,
    tenant: i64,
    site: &str,
    gateway: &str,
    now: Micros,
) -> Result<i64, StoreError> {
    let agent = "insert into agents (tenant, site, gateway, joined) values ($1, $2, $3, $4) \
                 on conflict (tenant, site, gateway) do update set revoked = false, left_at = null \
                 returning agent";
    Ok(on.query_one(agent, &[&tenant, &site, &gateway, &Moment(now)]).await?.try_get(0)?)
}

async fn keep(
    on: &Transaction<'_>,
    agent: i64,
    certificate: [u8; 32],
    valid_until: Micros,
) -> Result<(), StoreError> {
    let sql = "insert into certificates (agent, fingerprint, valid_until) values ($1, $2, $3)";
    on.execute(sql, &[&agent, &certificate.as_slice(), &Moment(valid_until)]).await?;
    Ok(())
}

pub async fn revoke(client: &mut Client, agent: AgentKey, left_at: Option<Micros>) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    let sql = "update agents set revoked = true, left_at = coalesce($2, left_at) where agent = $1";
    let found = transaction.execute(sql, &[&agent.0, &left_at.map(Moment)]).await?;
    let sql = "update certificates set revoked = true, revoked_at = coalesce(revoked_at, now()) \
               where agent = $1";
    transaction.execute(sql, &[&agent.0]).await?;
    // The key that an answer got lost for must not come in again by it.
    let sql = "update applications set stage = 'rejected', words = 'this gateway was revoked' \
               where agent = $1 and stage = 'joined'";
    transaction.execute(sql, &[&agent.0]).await?;
    transaction.commit().await?;
    match found {
        0 => Err(StoreError::Refused(format!("no agent has the key {}", agent.0))),
        _ => Ok(()),
    }
}

pub async fn departures(client: &Client, scope: Scope) -> Result<Vec<(AgentKey, Micros)>, StoreError> {
    let sql = "select agent, left_at from agents \
               where revoked and left_at is not null and ($1::bigint is null or tenant = $1)";
    let mut found = Vec::new();
    for row in client.query(sql, &[&scope.tenant]).await? {
        found.push((AgentKey(row.try_get(0)?), row.try_get::<_, Moment>(1)?.0));
    }
    Ok(found)
}

pub async fn revoked_lately(client: &Client) -> Result<Vec<[u8; 32]>, StoreError> {
    let sql = "select fingerprint from certificates where revoked_at > now() - make_interval(secs => $1)";
    let mut found = Vec::new();
    for row in client.query(sql, &[&(LATELY as f64)]).await? {
        found.extend(<[u8; 32]>::try_from(row.try_get::<_, &[u8]>(0)?));
    }
    Ok(found)
}

pub async fn adopt(
    client: &mut Client,
    adopted: &Adopted,
    now: Micros,
) -> Result<Option<AgentKey>, StoreError> {
    let Adopted { site, gateway, certificate, valid_until } = adopted;
    let (site, gateway) = (sieve::name(site), sieve::name(gateway));
    let transaction = client.transaction().await?;
    // The certificate does not tell whose gateway it was.
    if transaction.query_one("select count(*) from tenants", &[]).await?.try_get::<_, i64>(0)? != 1 {
        return Ok(None);
    }
    let sql = "select revoked from agents where tenant = 1 and site = $1 and gateway = $2 for update";
    let known = transaction.query_opt(sql, &[&site, &gateway]).await?;
    if let Some(row) = known
        && row.try_get(0)?
    {
        return Ok(None);
    }
    let agent = welcome(&transaction, TenantKey::MAIN.0, &site, &gateway, now).await?;
    keep(&transaction, agent, *certificate, *valid_until).await?;
    transaction.commit().await?;
    Ok(Some(AgentKey(agent)))
}
