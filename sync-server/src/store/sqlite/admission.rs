//! Letting gateways in, and out again.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::super::admission::{Known, LATELY, Stage};
use super::super::scope::Scope;
use super::super::{
    Adopted, AgentKey, Application, ApplicationId, Applied, Micros, NewApplication, StoreError, TenantKey,
    TokenVerdict, Word, sieve,
};
use super::identity;

/// Now by the database's clock, which all servers share.
const NOW: &str = "cast(unixepoch('now', 'subsec') * 1000000 as integer)";

fn begin(connection: &mut Connection) -> Result<Transaction<'_>, StoreError> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

pub fn apply(connection: &mut Connection, asked: &NewApplication) -> Result<Applied, StoreError> {
    let NewApplication { secret_hash, key_hash, site, gateway, peer, version, approval, now } = asked;
    let (site, gateway) = (sieve::name(site), sieve::name(gateway));
    let (peer, version) = (sieve::name(peer), sieve::name(version));
    let transaction = begin(connection)?;
    let known = transaction
        .prepare_cached(
            "select application, stage, words, decided, site, gateway, coalesce(approval, 0) \
             from applications left join join_tokens using (secret_hash) \
             where secret_hash = ? and key_hash = ?",
        )?
        .query_row(params![secret_hash, key_hash], known)
        .optional()?;
    if let Some(known) = known {
        let (id, (stage, applied)) = (known.id, known.asks_again(asked));
        if !matches!(applied, Applied::Refused(_)) {
            transaction
                .prepare_cached(
                    "update applications set site = ?2, gateway = ?3, peer = ?4, version = ?5, last_asked = ?6, \
                     stage = ?7 where application = ?1",
                )?
                .execute(params![id.0, site, gateway, peer, version, now, stage.word()])?;
        }
        transaction.commit()?;
        return Ok(applied);
    }
    let verdict = identity::token(&transaction, *secret_hash, *now)?;
    if verdict != TokenVerdict::Valid {
        return Ok(Applied::Refused(verdict));
    }
    let waits: bool = transaction
        .prepare_cached(
            "update join_tokens set uses_left = uses_left - 1 where secret_hash = ? returning approval",
        )?
        .query_row([secret_hash], |row| row.get(0))?;
    let stage = if waits || *approval { Stage::Pending } else { Stage::Approved };
    let decided = (stage == Stage::Approved).then_some(now);
    let id: i64 = transaction
        .prepare_cached(
            "insert into applications (secret_hash, key_hash, site, gateway, peer, version, asked, last_asked, \
             stage, decided) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9) returning application",
        )?
        .query_row(
            params![secret_hash, key_hash, site, gateway, peer, version, now, stage.word(), decided],
            |row| row.get(0),
        )?;
    transaction.commit()?;
    let id = ApplicationId(id);
    Ok(match stage {
        Stage::Pending => Applied::Pending { id, is_new: true },
        _ => Applied::Approved(id),
    })
}

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let stage: String = row.get(1)?;
    Ok(Known {
        id: ApplicationId(row.get(0)?),
        // A stage of a newer server's lets nobody in.
        stage: Stage::of(&stage).unwrap_or(Stage::Rejected),
        words: row.get(2)?,
        decided: row.get(3)?,
        site: row.get(4)?,
        gateway: row.get(5)?,
        approval: row.get(6)?,
    })
}

pub fn applications(on: &Connection, scope: Scope) -> Result<Vec<Application>, StoreError> {
    let mut statement = on.prepare_cached(
        "select application, site, gateway, key_hash, peer, version, asked, last_asked, stage, \
         note, tenant from applications join join_tokens using (secret_hash) \
         where stage in ('pending', 'approved') and (?1 is null or tenant = ?1) order by application",
    )?;
    let rows = statement.query_map([scope.tenant], |row| {
        Ok(Application {
            id: ApplicationId(row.get(0)?),
            site: row.get(1)?,
            gateway: row.get(2)?,
            key_hash: row.get(3)?,
            peer: row.get(4)?,
            version: row.get(5)?,
            asked: row.get(6)?,
            last_asked: row.get(7)?,
            approved: row.get::<_, String>(8)? == Stage::Approved.word(),
            note: row.get(9)?,
            tenant: TenantKey(row.get(10)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn decide(
    on: &Connection,
    scope: Scope,
    id: ApplicationId,
    word: &Word,
    now: Micros,
) -> Result<bool, StoreError> {
    let (stage, words) = match word {
        Word::Yes => (Stage::Approved, ""),
        Word::No(words) => (Stage::Rejected, words.as_str()),
    };
    let changed = on
        .prepare_cached(
            "update applications set stage = ?2, words = ?3, decided = ?4 \
             where application = ?1 and stage in ('pending', 'approved') and (?5 is null or secret_hash in \
             (select secret_hash from join_tokens where tenant = ?5))",
        )?
        .execute(params![id.0, stage.word(), sieve::text(words), now, scope.tenant])?;
    Ok(changed > 0)
}

pub fn admit(
    connection: &mut Connection,
    id: ApplicationId,
    certificate: [u8; 32],
    valid_until: Micros,
    now: Micros,
) -> Result<Option<AgentKey>, StoreError> {
    let transaction = begin(connection)?;
    let name: Option<(i64, String, String)> = transaction
        .prepare_cached(
            "select tenant, site, gateway from applications join join_tokens using (secret_hash) \
             where application = ? and stage in ('approved', 'joined')",
        )?
        .query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((tenant, site, gateway)) = name else { return Ok(None) };
    let agent = welcome(&transaction, tenant, &site, &gateway, now)?;
    keep(&transaction, agent, certificate, valid_until)?;
    transaction
        .prepare_cached(
            "update applications set agent = ?2, decided = case stage when 'joined' then decided else ?3 end, \
             stage = 'joined' where application = ?1",
        )?
        .execute(params![id.0, agent, now])?;
    transaction.commit()?;
    Ok(Some(AgentKey(agent)))
}

/// The tenant's agent of this name, made or found, in good standing.
fn welcome(on: &Connection, tenant: i64, site: &str, gateway: &str, now: Micros) -> Result<i64, StoreError> {
    let agent = "insert into agents (tenant, site, gateway, joined) values (?, ?, ?, ?) \
                 on conflict (tenant, site, gateway) do update set revoked = 0, left_at = null \
                 returning agent";
    Ok(on.prepare_cached(agent)?.query_row(params![tenant, site, gateway, now], |row| row.get(0))?)
}

fn keep(on: &Connection, agent: i64, certificate: [u8; 32], valid_until: Micros) -> Result<(), StoreError> {
    on.prepare_cached("insert into certificates (agent, fingerprint, valid_until) values (?, ?, ?)")?
        .execute(params![agent, certificate, sieve::time(valid_until)])?;
    Ok(())
}

pub fn revoke(
    connection: &mut Connection,
    agent: AgentKey,
    left_at: Option<Micros>,
) -> Result<(), StoreError> {
    let transaction = begin(connection)?;
    let found = transaction.execute(
        "update agents set revoked = 1, left_at = coalesce(?2, left_at) where agent = ?1",
        params![agent.0, left_at],
    )?;
    let revoked = format!(
        "update certificates set revoked = 1, revoked_at = coalesce(revoked_at, {NOW}) where agent = ?"
    );
    transaction.execute(&revoked, [agent.0])?;
    // The key that an answer got lost for must not come in again by it.
    transaction.execute(
        "update applications set stage = 'rejected', words = 'this gateway was revoked' \
         where agent = ? and stage = 'joined'",
        [agent.0],
    )?;
    transaction.commit()?;
    match found {
        0 => Err(StoreError::Refused(format!("no agent has the key {}", agent.0))),
        _ => Ok(()),
    }
}

pub fn departures(on: &Connection, scope: Scope) -> Result<Vec<(AgentKey, Micros)>, StoreError> {
    let mut statement = on.prepare_cached(
        "select agent, left_at from agents \
         where revoked and left_at is not null and (?1 is null or tenant = ?1)",
    )?;
    let rows = statement.query_map([scope.tenant], |row| Ok((AgentKey(row.get(0)?), row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn revoked_lately(on: &Connection) -> Result<Vec<[u8; 32]>, StoreError> {
    let lately = format!("select fingerprint from certificates where revoked_at > {NOW} - ?");
    let mut statement = on.prepare_cached(&lately)?;
    let rows = statement.query_map([LATELY * 1_000_000], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn adopt(
    connection: &mut Connection,
    adopted: &Adopted,
    now: Micros,
) -> Result<Option<AgentKey>, StoreError> {
    let Adopted { site, gateway, certificate, valid_until } = adopted;
    let (site, gateway) = (sieve::name(site), sieve::name(gateway));
    let transaction = begin(connection)?;
    // The certificate does not tell whose gateway it was.
    if transaction.query_row("select count(*) from tenants", [], |row| row.get::<_, i64>(0))? != 1 {
        return Ok(None);
    }
    let revoked: Option<bool> = transaction
        .prepare_cached("select revoked from agents where tenant = 1 and site = ? and gateway = ?")?
        .query_row(params![site, gateway], |row| row.get(0))
        .optional()?;
    if revoked == Some(true) {
        return Ok(None);
    }
    let agent = welcome(&transaction, TenantKey::MAIN.0, &site, &gateway, now)?;
    keep(&transaction, agent, *certificate, *valid_until)?;
    transaction.commit()?;
    Ok(Some(AgentKey(agent)))
}
