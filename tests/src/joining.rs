//! A gateway at the door: our programs with their words and exit codes, and servers that only look like
//! ours.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use forebay_demo::process::Program;
use forebay_demo::site::Site;
use forebay_protocols::sync::join::JoinString;
use forebay_protocols::sync::tls;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::process::Command;
use tokio::time::timeout;

use crate::programs;

/// How a program ended, and all it said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output, then standard error.
    pub words: String,
}

/// Runs a program of ours to its end.
///
/// # Errors
/// When it does not end within a minute, or by a signal.
pub async fn run(program: &Program, arguments: &[&str], config: &Path) -> Result<Said> {
    let words: Vec<OsString> = program.words().to_vec();
    let (first, rest) = words.split_first().context("a program has a name")?;
    let mut command = Command::new(first);
    command.args(rest).args(arguments).arg("--config").arg(config);
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let out = timeout(Duration::from_secs(60), command.output()).await.context("it did not end")??;
    let words = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok(Said { code: out.status.code().context("a signal ended it")?, words })
}

/// `forebay-agent` with the configuration of `site`.
///
/// # Errors
/// As [`run`].
pub async fn agent(site: &Site, arguments: &[&str]) -> Result<Said> {
    run(&programs()?.agent, arguments, &site.file("agent.toml")).await
}

/// `forebay-server` with the configuration of `site`; what it printed.
///
/// # Errors
/// As [`run`], and when it fails.
pub async fn server(site: &Site, arguments: &[&str]) -> Result<String> {
    let said = run(&programs()?.server, arguments, &site.file("server.toml")).await?;
    anyhow::ensure!(said.code == 0, "{arguments:?}: {said:?}");
    Ok(said.words)
}

/// A join string of `site`.
///
/// # Errors
/// When the server refuses.
pub async fn token(site: &Site, arguments: &[&str]) -> Result<JoinString> {
    let all: Vec<&str> = ["token", "create"].iter().chain(arguments).copied().collect();
    Ok(server(site, &all).await?.trim().parse()?)
}

/// Something on a port that is no Forebay server: says `words` to whoever connects. Its thread ends with
/// the process.
///
/// # Errors
/// When there is no port.
pub fn speaker(words: &'static [u8]) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(words);
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    Ok(address)
}

/// A TLS server under the CA of `site` whose certificate bears `name` and is valid in these years. Its
/// thread ends with the process.
///
/// # Errors
/// When there is no CA, or no port.
pub fn impostor(site: &Site, name: &str, (from, until): (i32, i32)) -> Result<SocketAddr> {
    let pem = std::fs::read_to_string(site.file("server/ca/ca.pem"))?;
    let ca = CertificateDer::from_pem_slice(pem.as_bytes())?;
    let issuer = Issuer::from_ca_cert_der(&ca, KeyPair::from_pem(&pem)?)?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    let key = KeyPair::generate()?;
    let own = params.signed_by(&key, &issuer)?.der().clone();
    let config = tls::server_config(vec![own, ca], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let Ok(mut connection) = rustls::ServerConnection::new(Arc::clone(&config)) else { return };
            // Whoever finds out hangs up.
            while connection.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {}
        }
    });
    Ok(address)
}
