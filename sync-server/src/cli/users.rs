//! `forebay-server user`: who may log in at the page. Works beside a running server; what it changes
//! holds from the next request on.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;

use super::agents::ago;
use super::tenants::{self, MAIN, act};
use crate::access::{Passwords, Role, judge_name, judge_password};
use crate::store::{Access, Change, Micros, Outcome, TenantRow, UserRow};

#[derive(Debug, Subcommand)]
pub(super) enum User {
    /// Make a user. The password is asked for, or one line of standard input.
    Add(Add),
    /// List the users.
    List(List),
    /// Give a user another password, and end its sessions.
    Passwd {
        /// Whom.
        name: String,
    },
    /// Give a user another role.
    Role {
        /// Whom.
        name: String,
        /// viewer, operator or admin.
        role: Word,
    },
    /// Remove a user, and end its sessions.
    Remove {
        /// Whom.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The name to log in by: letters, digits, and `.`, `_`, `-`, `@`.
    name: String,
    /// viewer (looks), operator (and runs the plant) or admin (and says who may).
    #[arg(long)]
    role: Word,
    /// Whose gateways it sees.
    #[arg(long, value_name = "TENANT", default_value = MAIN)]
    tenant: String,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// A role as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word(Role);

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Role::of(text).map(Self).ok_or_else(|| format!("`{text}` is not viewer, operator or admin"))
    }
}

impl User {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let access = super::open_store(&config).await?.access();
        let told = match self {
            Self::Add(add) => add.run(&access).await?,
            Self::List(List { json: as_json }) => {
                let users = access.users(None).await.context("list the users")?;
                let tenants = access.tenants().await.context("list the tenants")?;
                if as_json { json(&users, &tenants) } else { table(&users, &tenants, wall_micros()) }
            }
            Self::Passwd { name } => {
                let row = find(&access, &name).await?;
                let password = hashed(&row.name).await?;
                let change = Change::SetPassword { user: row.user, password, keep: None };
                done(access.change(&act(row.tenant), change).await?, &row.name)?;
                format!("{} has another password; its sessions are over.\n", row.name)
            }
            Self::Role { name, role: Word(role) } => {
                let row = find(&access, &name).await?;
                let change = Change::SetRole { user: row.user, role };
                done(access.change(&act(row.tenant), change).await?, &row.name)?;
                format!("{} is {role} now.\n", row.name)
            }
            Self::Remove { name } => {
                let row = find(&access, &name).await?;
                // Whoever is at this command line can make another admin.
                let change = Change::RemoveUser { user: row.user, even_last: true };
                done(access.change(&act(row.tenant), change).await?, &row.name)?;
                let mut told = format!("{} is gone.\n", row.name);
                if !access.has_users().await? {
                    told.push_str(
                        "There is no user left: a page on this machine alone is open again, unless \
                         `access.mode` is \"users\".\n",
                    );
                }
                told
            }
        };
        super::print(&told)
    }
}

impl Add {
    async fn run(self, access: &Access) -> Result<String> {
        let name = judge_name(&self.name).map_err(anyhow::Error::msg)?;
        let tenant = tenants::find(access, &self.tenant).await?;
        if access.user(&name).await?.is_some() {
            bail!("there is a user `{name}` already; `user passwd {name}` gives it another password");
        }
        let password = hashed(&name).await?;
        let Word(role) = self.role;
        let change = Change::AddUser { name: name.clone(), role, password, only_first: false };
        done(access.change(&act(tenant), change).await?, &name)?;
        Ok(format!("{name} may log in, as {role}.\n"))
    }
}

async fn hashed(name: &str) -> Result<String> {
    let password = super::ask::new_password(name)?;
    judge_password(name, &password).map_err(anyhow::Error::msg)?;
    Passwords::new().hash(&password).await.context("hash the password")
}

async fn find(access: &Access, name: &str) -> Result<UserRow> {
    let found = access.user(&name.to_ascii_lowercase()).await.context("look for the user")?;
    Ok(found.with_context(|| format!("there is no user `{name}`; `user list` tells all"))?.0)
}

fn done(outcome: Outcome, name: &str) -> Result<()> {
    match outcome {
        Outcome::Done(_) => Ok(()),
        Outcome::LastAdmin => bail!("{name} is the last admin of its tenant: make another one first"),
        Outcome::NameTaken => bail!("there is a user `{name}` already"),
        Outcome::Unknown | Outcome::NotFirst => bail!("`{name}` was removed meanwhile"),
    }
}

fn tenant_name<'a>(row: &UserRow, tenants: &'a [TenantRow]) -> &'a str {
    tenants.iter().find(|tenant| tenant.tenant == row.tenant).map_or("?", |tenant| &tenant.name)
}

fn json(users: &[UserRow], tenants: &[TenantRow]) -> String {
    let line = |row: &UserRow| {
        serde_json::json!({
            "name": row.name,
            "role": row.role.word(),
            "tenant": tenant_name(row, tenants),
            "created_us": row.created,
            "logged_in_us": row.seen,
        })
    };
    users.iter().map(|row| format!("{}\n", line(row))).collect()
}

fn table(users: &[UserRow], tenants: &[TenantRow], now: Micros) -> String {
    if users.is_empty() {
        return "There are no users. Make the first with `forebay-server user add NAME --role admin`.\n"
            .into();
    }
    let width = users.iter().map(|row| row.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:8}  {:12}  {}\n", "USER", "ROLE", "TENANT", "LOGGED IN");
    for row in users {
        let seen = row.seen.map_or("never".into(), |seen| ago(now.saturating_sub(seen)));
        let (role, tenant) = (row.role.word(), tenant_name(row, tenants));
        text.push_str(&format!("{:width$}  {role:8}  {tenant:12}  {seen}\n", row.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{TenantKey, UserKey};

    #[test]
    fn users_are_listed_with_role_and_tenant() {
        let tenants = [TenantRow { tenant: TenantKey::MAIN, name: "main".into() }];
        let row = UserRow {
            user: UserKey(1),
            tenant: TenantKey::MAIN,
            name: "anna".into(),
            role: Role::Operator,
            created: 0,
            seen: Some(0),
        };
        let told = table(std::slice::from_ref(&row), &tenants, 7_200_000_000);
        assert_eq!(told.lines().nth(1), Some("anna  operator  main          2 h ago"));
        let line: serde_json::Value = serde_json::from_str(&json(&[row], &tenants)).unwrap();
        assert_eq!((&line["role"], &line["tenant"]), (&"operator".into(), &"main".into()));
        assert!(table(&[], &tenants, 0).contains("user add"));
        assert!("root".parse::<Word>().is_err());
    }
}
