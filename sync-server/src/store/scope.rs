//! Whose things may be told. A store that was made for one tenant (`Store::within`) tells of that one's
//! gateways and no other's, whatever it is asked.

use super::access::{Access, TenantKey};
use super::{AgentKey, Bucket, PointKey, StoreError};

/// Which rows a statement may yield: those of this agent and of this tenant; `None` is all.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub agent: Option<i64>,
    pub tenant: Option<i64>,
}

impl Scope {
    pub fn new(agent: Option<AgentKey>, tenant: Option<TenantKey>) -> Self {
        Self { agent: agent.map(|agent| agent.0), tenant: tenant.map(|tenant| tenant.0) }
    }
}

/// Those of the points that are the tenant's.
pub async fn own(
    access: &Access,
    tenant: Option<TenantKey>,
    points: &[PointKey],
) -> Result<Vec<PointKey>, StoreError> {
    match tenant {
        None => Ok(points.to_vec()),
        Some(tenant) => {
            let own = access.points_of(tenant, points).await?;
            Ok(points.iter().copied().filter(|point| own.contains(point)).collect())
        }
    }
}

/// A series for each point asked for; those that were left out are as empty as those that are not there.
pub fn as_asked(
    asked: &[PointKey],
    mut answer: Vec<(PointKey, Vec<Bucket>)>,
) -> Vec<(PointKey, Vec<Bucket>)> {
    if answer.len() == asked.len() {
        return answer;
    }
    let mut found = |point: PointKey| {
        let place = answer.iter().position(|(key, _)| *key == point)?;
        Some(answer.remove(place).1)
    };
    asked.iter().map(|&point| (point, found(point).unwrap_or_default())).collect()
}

/// Is it this tenant's?
pub async fn is_own(access: &Access, tenant: Option<TenantKey>, agent: AgentKey) -> Result<bool, StoreError> {
    match tenant {
        None => Ok(true),
        Some(tenant) => Ok(access.tenant_of(agent).await? == Some(tenant)),
    }
}
