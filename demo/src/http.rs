//! GET over plain loopback HTTP: how demo and tests ask the product's own endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// The body of a 200 answer.
///
/// # Errors
/// When there is no answer within five seconds, or another status.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{address}{path}").parse().with_context(|| format!("{path} is no path"))?;
    let answer = async {
        let answer = client.get(uri).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (status, body) = tokio::time::timeout(Duration::from_secs(5), answer)
        .await
        .with_context(|| format!("{path}: no answer within 5 s"))??;
    if !status.is_success() {
        bail!("{path} answered {status}: {body}");
    }
    Ok(body)
}

/// The body of a 200 answer as JSON.
///
/// # Errors
/// As [`get`], and when it is no JSON.
pub async fn get_json(address: SocketAddr, path: &str) -> Result<Value> {
    let body = get(address, path).await?;
    serde_json::from_str(&body).with_context(|| format!("{path} answered no JSON: {body}"))
}
