//! Changes, each with its entry in the audit in the same transaction: there is no change without one.

use super::hand::{Cell, Hand};
use super::rows::{Act, Change, KeyKey, Note, Outcome, TenantKey, UserKey};
use crate::access::{Right, Role};
use crate::store::{Micros, StoreError, rfc3339};

/// Texts of the audit are short.
const LONGEST: usize = 500;

/// Makes a change and writes it down.
pub async fn change(hand: &mut dyn Hand, act: &Act, change: Change) -> Result<Outcome, StoreError> {
    let (outcome, note) = match change {
        Change::AddTenant { name } => add_tenant(hand, act, name).await?,
        Change::AddUser { name, role, password, only_first } => {
            add_user(hand, act, name, role, &password, only_first).await?
        }
        Change::SetRole { user, role } => set_role(hand, act, user, role).await?,
        Change::SetPassword { user, password, keep } => {
            set_password(hand, act, user, &password, keep).await?
        }
        Change::RemoveUser { user, even_last } => remove_user(hand, act, user, even_last).await?,
        Change::AddKey { hash, hint, name, rights, expires } => {
            let key = NewKey { hash, hint, name, rights, expires };
            add_key(hand, act, key).await?
        }
        Change::RemoveKey { key } => remove_key(hand, act, key).await?,
        Change::OpenSession { user, hash, expires } => open_session(hand, act, user, hash, expires).await?,
        Change::CloseSession { hash } => close_session(hand, act, hash).await?,
    };
    if let Outcome::Done(_) = outcome {
        record(hand, act, &note).await?;
    }
    Ok(outcome)
}

/// An entry of the audit.
pub async fn record(hand: &mut dyn Hand, act: &Act, note: &Note) -> Result<(), StoreError> {
    let sql = "insert into audit (tenant, at, who, origin, action, subject, was, became) \
               values ($1, $2, $3, $4, $5, $6, $7, $8)";
    let texts = [&act.who, &act.origin, &note.action, &note.subject, &note.was, &note.became];
    let mut with = vec![act.tenant.0.into(), act.at.into()];
    with.extend(texts.map(|text| short(text).into()));
    hand.run(sql, &with).await?;
    Ok(())
}

type Did = Result<(Outcome, Note), StoreError>;

fn no(outcome: Outcome) -> Did {
    Ok((outcome, Note::default()))
}

fn done(number: i64, note: Note) -> Did {
    Ok((Outcome::Done(number), note))
}

async fn add_tenant(hand: &mut dyn Hand, act: &Act, name: String) -> Did {
    let sql =
        "insert into tenants (name, created) values ($1, $2) on conflict (name) do nothing returning tenant";
    match number(hand, sql, &[name.as_str().into(), act.at.into()]).await? {
        Some(tenant) => done(tenant, Note::new("tenant added", name)),
        None => no(Outcome::NameTaken),
    }
}

async fn add_user(
    hand: &mut dyn Hand,
    act: &Act,
    name: String,
    role: Role,
    password: &str,
    only_first: bool,
) -> Did {
    hand.alone().await?;
    if only_first && number(hand, "select count(*) from users", &[]).await? != Some(0) {
        return no(Outcome::NotFirst);
    }
    let sql = "insert into users (tenant, name, role, password, created) values ($1, $2, $3, $4, $5) \
               on conflict (name) do nothing returning user_key";
    let with =
        [act.tenant.0.into(), name.as_str().into(), role.word().into(), password.into(), act.at.into()];
    match number(hand, sql, &with).await? {
        Some(user) => done(user, Note::new("user added", name).from_to("", role.word())),
        None => no(Outcome::NameTaken),
    }
}

/// Name and role of a user of this tenant.
async fn known(
    hand: &mut dyn Hand,
    tenant: TenantKey,
    user: UserKey,
) -> Result<Option<(String, String)>, StoreError> {
    let sql = "select name, role from users where user_key = $1 and tenant = $2";
    let rows = hand.run(sql, &[user.0.into(), tenant.0.into()]).await?;
    Ok(rows.first().map(|row| (text(row, 0), text(row, 1))))
}

/// Is there an admin beside this user?
async fn other_admin(hand: &mut dyn Hand, tenant: TenantKey, user: UserKey) -> Result<bool, StoreError> {
    let sql = "select count(*) from users where tenant = $1 and role = $2 and user_key <> $3";
    let with = [tenant.0.into(), Role::Admin.word().into(), user.0.into()];
    Ok(number(hand, sql, &with).await? != Some(0))
}

async fn set_role(hand: &mut dyn Hand, act: &Act, user: UserKey, role: Role) -> Did {
    hand.alone().await?;
    let Some((name, was)) = known(hand, act.tenant, user).await? else { return no(Outcome::Unknown) };
    let is_less = was == Role::Admin.word() && role != Role::Admin;
    if is_less && !other_admin(hand, act.tenant, user).await? {
        return no(Outcome::LastAdmin);
    }
    let sql = "update users set role = $1 where user_key = $2";
    hand.run(sql, &[role.word().into(), user.0.into()]).await?;
    done(user.0, Note::new("role changed", name).from_to(was, role.word()))
}

async fn set_password(
    hand: &mut dyn Hand,
    act: &Act,
    user: UserKey,
    password: &str,
    keep: Option<[u8; 32]>,
) -> Did {
    hand.alone().await?;
    let Some((name, _)) = known(hand, act.tenant, user).await? else { return no(Outcome::Unknown) };
    let sql = "update users set password = $1 where user_key = $2";
    hand.run(sql, &[password.into(), user.0.into()]).await?;
    // 32 zeros are nobody's: no cookie hashes to them.
    let sql = "delete from sessions where user_key = $1 and hash <> $2";
    hand.run(sql, &[user.0.into(), (&keep.unwrap_or_default()).into()]).await?;
    done(user.0, Note::new("password changed", name))
}

async fn remove_user(hand: &mut dyn Hand, act: &Act, user: UserKey, even_last: bool) -> Did {
    hand.alone().await?;
    let Some((name, role)) = known(hand, act.tenant, user).await? else { return no(Outcome::Unknown) };
    if !even_last && role == Role::Admin.word() && !other_admin(hand, act.tenant, user).await? {
        return no(Outcome::LastAdmin);
    }
    hand.run("delete from sessions where user_key = $1", &[user.0.into()]).await?;
    hand.run("delete from users where user_key = $1", &[user.0.into()]).await?;
    done(user.0, Note::new("user removed", name).from_to(role, ""))
}

struct NewKey {
    hash: [u8; 32],
    hint: String,
    name: String,
    rights: Vec<Right>,
    expires: Micros,
}

async fn add_key(hand: &mut dyn Hand, act: &Act, key: NewKey) -> Did {
    let rights = key.rights.iter().map(|right| right.word()).collect::<Vec<_>>().join(" ");
    let sql = "insert into api_keys (tenant, hash, hint, name, rights, maker, created, expires) \
               values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (tenant, name) do nothing returning key_key";
    let with = [
        act.tenant.0.into(),
        (&key.hash).into(),
        key.hint.as_str().into(),
        key.name.as_str().into(),
        rights.as_str().into(),
        act.who.as_str().into(),
        act.at.into(),
        key.expires.into(),
    ];
    match number(hand, sql, &with).await? {
        Some(made) => {
            let until = rfc3339(key.expires).unwrap_or_default();
            let became = format!("{rights}, until {until}");
            done(made, Note::new("key made", key.name).from_to("", became))
        }
        None => no(Outcome::NameTaken),
    }
}

async fn remove_key(hand: &mut dyn Hand, act: &Act, key: KeyKey) -> Did {
    let sql = "delete from api_keys where key_key = $1 and tenant = $2 returning name, rights";
    let rows = hand.run(sql, &[key.0.into(), act.tenant.0.into()]).await?;
    let Some(row) = rows.first() else { return no(Outcome::Unknown) };
    done(key.0, Note::new("key removed", text(row, 0)).from_to(text(row, 1), ""))
}

async fn open_session(hand: &mut dyn Hand, act: &Act, user: UserKey, hash: [u8; 32], expires: Micros) -> Did {
    let Some((name, _)) = known(hand, act.tenant, user).await? else { return no(Outcome::Unknown) };
    hand.run("delete from sessions where expires <= $1", &[act.at.into()]).await?;
    let sql = "insert into sessions (hash, user_key, created, seen, expires) values ($1, $2, $3, $4, $5)";
    let with = [(&hash).into(), user.0.into(), act.at.into(), act.at.into(), expires.into()];
    hand.run(sql, &with).await?;
    hand.run("update users set seen = $1 where user_key = $2", &[act.at.into(), user.0.into()]).await?;
    done(user.0, Note::new("logged in", name))
}

async fn close_session(hand: &mut dyn Hand, act: &Act, hash: [u8; 32]) -> Did {
    let sql = "delete from sessions where hash = $1 returning user_key";
    let Some(user) = number(hand, sql, &[(&hash).into()]).await? else { return no(Outcome::Unknown) };
    let name = known(hand, act.tenant, UserKey(user)).await?.map_or_else(String::new, |(name, _)| name);
    done(user, Note::new("logged out", name))
}

/// The one number a statement yields.
pub(super) async fn number(hand: &mut dyn Hand, sql: &str, with: &[Cell]) -> Result<Option<i64>, StoreError> {
    Ok(hand.run(sql, with).await?.first().and_then(|row| row.first()).and_then(Cell::maybe))
}

fn text(row: &[Cell], column: usize) -> String {
    row.get(column).map_or_else(String::new, Cell::text)
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}
