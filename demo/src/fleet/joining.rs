//! Joining thousands of gateways: each makes its own key and request and is answered by the server, by
//! the agent's own steps. Keys stay in memory.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use forebay_agent::clock::Clock;
use forebay_agent::uplink::admission;
use forebay_agent::uplink::line::Peer;
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::tls::{self, FreshKey};
use forebay_protocols::sync::wire::JoinRequest;
use rustls::client::Resumption;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{Plan, name_of};

/// Gateways that join at the same time.
const AT_ONCE: usize = 32;
/// TLS sessions a gateway remembers: it knows one server.
const SESSIONS: usize = 8;

/// Everybody of the plan, in order.
pub async fn join_all(plan: &Plan, join: &JoinString, clock: &Clock) -> Result<Vec<Peer>> {
    let mut peers: Vec<Option<Peer>> = vec![None; plan.agents];
    let (mut tasks, mut next) = (JoinSet::new(), 0);
    loop {
        while next < plan.agents && tasks.len() < AT_ONCE {
            let (number, name) = (next, name_of(plan, next));
            let (join, clock) = (join.clone(), clock.clone());
            tasks.spawn(async move { (number, join_one(&join, name, clock).await) });
            next += 1;
        }
        let Some(joined) = tasks.join_next().await else { break };
        let (number, peer) = joined.context("joining panicked")?;
        peers[number] = Some(peer.with_context(|| format!("gateway {number} joins"))?);
    }
    peers.into_iter().map(|peer| peer.context("a gateway did not join")).collect()
}

async fn join_one(join: &JoinString, (site, gateway): (String, String), clock: Clock) -> Result<Peer> {
    let key = FreshKey::generate()?;
    let csr = key.request(&format!("{site}/{gateway}"))?;
    let tcp =
        admission::reach(&join.address, None).await.map_err(|why| anyhow!("{}: {why}", join.address))?;
    let name = tls::server_name(&join.address).map_err(|why| anyhow!(why))?;
    let config = tls::pinned_client_config(join.ca_pin, tls::EARLIEST_TIME)?;
    let stream =
        tokio::time::timeout(admission::CONNECT_WITHIN, TlsConnector::from(config).connect(name, tcp));
    let stream = stream.await.context("no TLS in time")??;
    let request = JoinRequest {
        secret: join.secret.to_text(),
        site,
        gateway,
        csr: csr.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let answer = admission::ask(stream, &join.address, "/v1/join", request).await?;
    let identity =
        admission::certified(&join.address, join.ca_pin, answer, key).map_err(|why| anyhow!(why))?;
    let mut config = (*tls::gateway_config(&identity, Arc::new(clock))?).clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    let certificate = identity.chain.first().map_or(&[][..], |certificate| certificate.as_ref());
    Peer::new(identity.server.clone(), &config, certificate).map_err(|why| anyhow!(why))
}
