//! Who may do what, as it is kept: tenants, users, sessions, API keys, and the audit of every change.
//!
//! Secrets are nowhere: of passwords there are Argon2id hashes, of session cookies and keys SHA-256 (they
//! are 256 random bits, which nobody guesses). A change and its entry in the audit are one transaction.
//! Statements are the same for both databases; these lend a [`Hand`](hand::Hand).

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

mod changes;
mod hand;
mod rows;

pub use hand::{Cell, Hand, Hands, Row, Running, Work};
pub use rows::{
    Act, AuditRow, Change, KeyKey, KeyRow, Note, Outcome, SessionRow, TenantKey, TenantRow, UserKey, UserRow,
};

use super::{AgentKey, Micros, PointKey, StoreError};
use crate::access::{Right, Role};

/// Points looked up at once.
const TOGETHER: usize = 50;
const USER: &str = "select user_key, tenant, name, role, created, seen, password from users";
const KEY: &str = "select key_key, tenant, name, hint, rights, maker, created, expires, seen from api_keys";

/// The part of a store that knows who may do what. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    hands: Arc<dyn Hands>,
}

impl Access {
    /// Over a database.
    pub fn new(hands: Arc<dyn Hands>) -> Self {
        Self { hands }
    }

    /// Is there any user, of whatever tenant?
    pub async fn has_users(&self) -> Result<bool, StoreError> {
        let sql = "select user_key from users limit 1";
        self.with(false, move |hand| Box::pin(async move { Ok(!hand.run(sql, &[]).await?.is_empty()) })).await
    }

    /// All tenants, by name.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>, StoreError> {
        let sql = "select tenant, name from tenants order by name";
        let row = |row: &Row| TenantRow { tenant: TenantKey(at(row, 0).whole()), name: at(row, 1).text() };
        self.rows(sql, vec![], row).await
    }

    /// Users by name; `None`: of all tenants.
    pub async fn users(&self, tenant: Option<TenantKey>) -> Result<Vec<UserRow>, StoreError> {
        let sql = format!("{USER} where (cast($1 as bigint) is null or tenant = $1) order by name");
        self.rows(sql, vec![tenant.map(|tenant| tenant.0).into()], |row| user(row, 0)).await
    }

    /// A user by name, with the hash of its password.
    pub async fn user(&self, name: &str) -> Result<Option<(UserRow, String)>, StoreError> {
        let sql = format!("{USER} where name = $1");
        let rows = self.rows(sql, vec![name.into()], |row| (user(row, 0), at(row, 6).text()));
        Ok(rows.await?.pop())
    }

    /// Keys by name, expired ones too; `None`: of all tenants.
    pub async fn keys(&self, tenant: Option<TenantKey>) -> Result<Vec<KeyRow>, StoreError> {
        let sql = format!("{KEY} where (cast($1 as bigint) is null or tenant = $1) order by name, key_key");
        self.rows(sql, vec![tenant.map(|tenant| tenant.0).into()], key).await
    }

    /// A key by its hash, expired or not.
    pub async fn key(&self, hash: [u8; 32]) -> Result<Option<KeyRow>, StoreError> {
        let sql = format!("{KEY} where hash = $1");
        Ok(self.rows(sql, vec![(&hash).into()], key).await?.pop())
    }

    /// A session by its hash, expired or not.
    pub async fn session(&self, hash: [u8; 32]) -> Result<Option<SessionRow>, StoreError> {
        let sql = "select s.created, s.seen, s.expires, \
                   u.user_key, u.tenant, u.name, u.role, u.created, u.seen \
                   from sessions s join users u on u.user_key = s.user_key where s.hash = $1";
        let row = |row: &Row| SessionRow {
            created: at(row, 0).whole(),
            seen: at(row, 1).whole(),
            expires: at(row, 2).whole(),
            user: user(row, 3),
        };
        Ok(self.rows(sql, vec![(&hash).into()], row).await?.pop())
    }

    /// A session was used, and is good until `expires` now.
    pub async fn session_used(&self, hash: [u8; 32], now: Micros, expires: Micros) -> Result<(), StoreError> {
        let sql = "update sessions set seen = $1, expires = $2 where hash = $3";
        self.write_one(sql, vec![now.into(), expires.into(), (&hash).into()]).await
    }

    /// A key was used.
    pub async fn key_used(&self, key: KeyKey, now: Micros) -> Result<(), StoreError> {
        let sql = "update api_keys set seen = $1 where key_key = $2";
        self.write_one(sql, vec![now.into(), key.0.into()]).await
    }

    /// Makes a change, if it can be made, and writes it down in the audit.
    pub async fn change(&self, act: &Act, change: Change) -> Result<Outcome, StoreError> {
        let act = act.clone();
        self.with(true, move |hand| Box::pin(async move { changes::change(hand, &act, change).await })).await
    }

    /// Writes down in the audit what was changed elsewhere.
    pub async fn record(&self, act: &Act, note: Note) -> Result<(), StoreError> {
        let act = act.clone();
        self.with(true, move |hand| Box::pin(async move { changes::record(hand, &act, &note).await })).await
    }

    /// The audit, latest first, entries below `before`; `None`: of all tenants.
    pub async fn audit(
        &self,
        tenant: Option<TenantKey>,
        before: Option<i64>,
        most: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let sql = "select entry, tenant, at, who, origin, action, subject, was, became from audit \
                   where (cast($1 as bigint) is null or tenant = $1) and entry < $2 order by entry desc limit $3";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let with = vec![tenant.map(|tenant| tenant.0).into(), before.unwrap_or(i64::MAX).into(), most.into()];
        let row = |row: &Row| AuditRow {
            entry: at(row, 0).whole(),
            tenant: TenantKey(at(row, 1).whole()),
            at: at(row, 2).whole(),
            who: at(row, 3).text(),
            origin: at(row, 4).text(),
            note: Note {
                action: at(row, 5).text(),
                subject: at(row, 6).text(),
                was: at(row, 7).text(),
                became: at(row, 8).text(),
            },
        };
        self.rows(sql, with, row).await
    }

    /// Whose an agent is; it stays so for ever.
    pub async fn tenant_of(&self, agent: AgentKey) -> Result<Option<TenantKey>, StoreError> {
        let sql = "select tenant from agents where agent = $1";
        Ok(self.rows(sql, vec![agent.0.into()], |row| TenantKey(at(row, 0).whole())).await?.pop())
    }

    /// Those of the points that are the tenant's.
    pub async fn points_of(
        &self,
        tenant: TenantKey,
        points: &[PointKey],
    ) -> Result<HashSet<PointKey>, StoreError> {
        let mut own = HashSet::new();
        // A statement of one shape, so that there is one prepared; no point has the number 0.
        let places: Vec<String> =
            (2..TOGETHER + 2).map(|n| format!("cast(cast(${n} as bigint) as integer)")).collect();
        let sql = format!(
            "select cast(p.point as bigint) from points p join agents a on a.agent = p.agent \
             where a.tenant = $1 and p.point in ({})",
            places.join(", ")
        );
        for some in points.chunks(TOGETHER) {
            let numbers = some.iter().map(|point| i64::from(i32::try_from(point.0).unwrap_or_default()));
            let mut with: Vec<Cell> = vec![tenant.0.into()];
            with.extend(numbers.chain(std::iter::repeat(0)).take(TOGETHER).map(Cell::from));
            own.extend(self.rows(sql.clone(), with, |row| PointKey(at(row, 0).whole())).await?);
        }
        Ok(own)
    }

    /// Gateways that join by this token are the tenant's. Before anybody has the token.
    pub async fn give_token(&self, secret_hash: [u8; 32], tenant: TenantKey) -> Result<(), StoreError> {
        let sql = "update join_tokens set tenant = $1 where secret_hash = $2";
        self.write_one(sql, vec![tenant.0.into(), (&secret_hash).into()]).await
    }

    async fn rows<T: Send + 'static>(
        &self,
        sql: impl Into<String>,
        with: Vec<Cell>,
        of: impl Fn(&Row) -> T + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        let sql = sql.into();
        self.with(false, move |hand| rows_of(hand, sql, with, of)).await
    }

    async fn write_one(&self, sql: &'static str, with: Vec<Cell>) -> Result<(), StoreError> {
        self.with(true, move |hand| {
            Box::pin(async move {
                hand.run(sql, &with).await?;
                Ok(())
            })
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl for<'hand> FnOnce(&'hand mut dyn Hand) -> Running<'hand, T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (give, take) = oneshot::channel();
        let work: Work = Box::new(move |hand| {
            Box::pin(async move {
                // Nobody waits for the answer any more: it is done all the same.
                let _ = give.send(work(hand).await?);
                Ok(())
            })
        });
        self.hands.transact(writes, work).await?;
        take.await.map_err(|_| StoreError::Refused("a transaction gave no answer".into()))
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}

fn rows_of<'hand, T: Send + 'hand>(
    hand: &'hand mut dyn Hand,
    sql: String,
    with: Vec<Cell>,
    of: impl Fn(&Row) -> T + Send + 'hand,
) -> Running<'hand, Vec<T>> {
    Box::pin(async move { Ok(hand.run(&sql, &with).await?.iter().map(of).collect()) })
}

fn at(row: &Row, column: usize) -> &Cell {
    row.get(column).unwrap_or(&Cell::Null)
}

fn user(row: &Row, first: usize) -> UserRow {
    UserRow {
        user: UserKey(at(row, first).whole()),
        tenant: TenantKey(at(row, first + 1).whole()),
        name: at(row, first + 2).text(),
        // A role of a newer server: here it is the least.
        role: Role::of(&at(row, first + 3).text()).unwrap_or(Role::Viewer),
        created: at(row, first + 4).whole(),
        seen: at(row, first + 5).maybe(),
    }
}

fn key(row: &Row) -> KeyRow {
    KeyRow {
        key: KeyKey(at(row, 0).whole()),
        tenant: TenantKey(at(row, 1).whole()),
        name: at(row, 2).text(),
        hint: at(row, 3).text(),
        // Rights of a newer server are none here.
        rights: at(row, 4).text().split(' ').filter_map(Right::of).collect(),
        maker: at(row, 5).text(),
        created: at(row, 6).whole(),
        expires: at(row, 7).whole(),
        seen: at(row, 8).maybe(),
    }
}
