//! `forebay-server tenant`: customers that share a server and never see each other.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;

use crate::access::judge_name;
use crate::store::{Access, Act, Change, Outcome, TenantKey};

pub(super) use forebay_config::alarms::MAIN_TENANT as MAIN;

#[derive(Debug, Subcommand)]
pub(super) enum Tenant {
    /// Make one. Then `user add --tenant` and `token create --tenant` put users and gateways in it.
    Add {
        /// Its name.
        name: String,
    },
    /// List them.
    List,
}

impl Tenant {
    pub(super) async fn run(self, config: Server) -> Result<()> {
        let access = super::open_store(&config).await?.access();
        match self {
            Self::Add { name } => {
                let name = judge_name(&name).map_err(anyhow::Error::msg)?;
                let change = Change::AddTenant { name: name.clone() };
                match access.change(&act(TenantKey::MAIN), change).await.context("add the tenant")? {
                    Outcome::Done(_) => super::print(&format!("There is a tenant {name} now.\n")),
                    _ => bail!("there is a tenant `{name}` already"),
                }
            }
            Self::List => {
                let tenants = access.tenants().await.context("list the tenants")?;
                super::print(&tenants.iter().map(|row| format!("{}\n", row.name)).collect::<String>())
            }
        }
    }
}

/// The tenant of a name.
pub(super) async fn find(access: &Access, name: &str) -> Result<TenantKey> {
    // It is there in any case, and a test's store knows of no tenants.
    if name == MAIN {
        return Ok(TenantKey::MAIN);
    }
    let tenants = access.tenants().await.context("list the tenants")?;
    match tenants.iter().find(|row| row.name == name) {
        Some(row) => Ok(row.tenant),
        None => {
            let known: Vec<&str> = tenants.iter().map(|row| row.name.as_str()).collect();
            bail!("there is no tenant `{name}`: there are {}; `tenant add` makes one", known.join(", "))
        }
    }
}

/// What is changed by hand, for the audit.
pub(super) fn act(tenant: TenantKey) -> Act {
    let who = format!("command line (uid {})", rustix::process::getuid().as_raw());
    Act { tenant, who, origin: String::new(), at: wall_micros() }
}
