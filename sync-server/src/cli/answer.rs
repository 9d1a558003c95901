//! `forebay-server agents answer`: lets in gateways whose network does not reach this server. Their requests come
//! as files (`forebay-agent join --offline`), and beside each the answer is written. Whoever runs this is the
//! operator whose word a join may need.
//!
//! Exit codes of a request that is refused are those of `forebay-agent join`; of several the first one's.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use forebay_config::server::Server;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::private_files;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::offline::{
    ANSWER_ENDS, LONGEST, OfflineAnswer, OfflineError, OfflineRequest, REQUEST_ENDS, pin_words, stem,
};
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::tls;

use crate::app;
use crate::identity::Authority;
use crate::joining::{LetIn, let_in};
use crate::store::{NewApplication, NewToken, Note, Store, TenantKey, Word};

/// A gateway's clock that is so much ahead of ours is told, in microseconds.
const AHEAD: i64 = 600 * 1_000_000;
/// A token that is made here is used here and now.
const TOKEN_LIVES: i64 = 600 * 1_000_000;

/// Shown behind its options.
pub(super) const HELP: &str = "Exit codes: 0 all were let in; 15 token unknown; 16 refused for another reason; 17 token \
     expired; 18 token used; 20 rejected by an operator; 23 a file cannot be used, or was altered.";

#[derive(Debug, Args)]
pub(super) struct Answer {
    /// Requests, or folders with requests in them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Answer the gateway with this key alone, as `forebay-agent join` shows it there: 3f2a-9c1d-77e0-12ab.
    #[arg(long)]
    key: Option<String>,
    /// Whose a gateway is that has no join string; the others are of their string's tenant.
    #[arg(long, value_name = "TENANT", default_value = super::tenants::MAIN)]
    tenant: String,
    /// Let a gateway without a join string take the place of the one of its name.
    #[arg(long)]
    replace: bool,
}

/// Some were not let in; what was wrong is printed already.
#[derive(Debug, thiserror::Error)]
#[error("{refused} of {all} requests were not answered")]
pub(super) struct Unanswered {
    refused: usize,
    all: usize,
    /// Of the first one.
    pub(super) exit_code: u8,
}

/// Why one was not let in.
#[derive(Debug, thiserror::Error)]
enum No {
    #[error("{0}")]
    File(String),
    #[error(transparent)]
    Text(#[from] OfflineError),
    #[error("{}", .0.detail)]
    Problem(Problem),
    #[error("{0}")]
    Other(String),
}

impl No {
    fn exit_code(&self) -> u8 {
        match self {
            Self::File(_) | Self::Text(_) => 23,
            Self::Problem(Problem { kind, .. }) => match kind {
                Kind::UnknownToken => 15,
                Kind::ExpiredToken => 17,
                Kind::UsedToken => 18,
                Kind::RejectedJoin => 20,
                _ => 16,
            },
            Self::Other(_) => 16,
        }
    }
}

impl Answer {
    pub(super) async fn run(self, config: &Server, store: &Arc<dyn Store>) -> Result<()> {
        let authority = Authority::open(&config.state_dir)?;
        let address = app::address(config);
        if let Err(why) = tls::server_name(&address) {
            bail!("{why}; set `sync.address` to the host:port agents reach this server by");
        }
        let requests = self.requests()?;
        let mut codes = Vec::new();
        for path in &requests {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let line = match self.answer(store, &authority, &address, path).await? {
                Ok(words) => format!("OK    {words}\n"),
                Err(no) => {
                    codes.push(no.exit_code());
                    format!("FAIL  {name}: {no}\n")
                }
            };
            super::print(&line)?;
        }
        super::print(&format!(
            "The CA is {}…: gateways that have no join string show it when they take the answer.\n",
            pin_words(&authority.pin())
        ))?;
        match codes.first() {
            None => Ok(()),
            Some(code) => {
                bail!(Unanswered { refused: codes.len(), all: requests.len(), exit_code: *code })
            }
        }
    }

    /// The requests' files, those in folders by their names.
    fn requests(&self) -> Result<Vec<PathBuf>> {
        let mut requests = Vec::new();
        for path in &self.files {
            if !path.is_dir() {
                requests.push(path.clone());
                continue;
            }
            let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
            let mut found: Vec<PathBuf> = entries
                .collect::<std::io::Result<Vec<_>>>()
                .with_context(|| format!("read {}", path.display()))?
                .iter()
                .map(fs::DirEntry::path)
                .filter(|path| path.to_string_lossy().ends_with(REQUEST_ENDS))
                .collect();
            found.sort();
            requests.append(&mut found);
        }
        if requests.is_empty() {
            bail!(
                "there is no request (*{REQUEST_ENDS}) in {}; `forebay-agent join --offline FOLDER` writes one on the \
                 gateway",
                self.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            );
        }
        Ok(requests)
    }

    /// Answers one; what was done, in words. The outer error is the store's.
    async fn answer(
        &self,
        store: &Arc<dyn Store>,
        authority: &Authority,
        address: &str,
        path: &Path,
    ) -> Result<Result<String, No>> {
        let asked = match read(path).map_err(No::File).and_then(|text| Ok(OfflineRequest::read(&text)?)) {
            Ok(asked) => asked,
            Err(no) => return Ok(Err(no)),
        };
        let (name, key) = (format!("{}/{}", asked.site, asked.gateway), tls::key_words(&asked.key));
        if self.key.as_ref().is_some_and(|wanted| *wanted != key) {
            return Ok(Err(No::Other(format!("{name} has the key {key}, and another one was asked for"))));
        }
        let there = path.with_file_name(stem(&asked.site, &asked.gateway) + ANSWER_ENDS);
        let before = read(&there).ok().and_then(|text| OfflineAnswer::read(&text).ok());
        if before.is_some_and(|before| before.key == key && before.ca_pin == authority.pin()) {
            return Ok(Ok(format!("{name}  key {key}  was answered before: {}", there.display())));
        }
        let now = wall_micros();
        let secret_hash = match asked.token_hash {
            Some(hash) => hash,
            None => match self.token(store, &asked, now).await? {
                Ok(hash) => hash,
                Err(no) => return Ok(Err(no)),
            },
        };
        let application = NewApplication {
            secret_hash,
            key_hash: asked.key,
            site: asked.site.clone(),
            gateway: asked.gateway.clone(),
            peer: "a file".into(),
            version: asked.version.clone(),
            approval: false,
            now,
        };
        let (answer, agent) = match let_in(&**store, authority, application, &asked.csr, Some(Word::Yes))
            .await?
        {
            LetIn::Admitted(answer, agent) => (answer, agent),
            LetIn::Refused(problem) => return Ok(Err(No::Problem(problem))),
            LetIn::Waits { .. } => return Ok(Err(No::Other("it waits for another operator's word".into()))),
        };
        let tenant = store.access().tenant_of(agent).await.context("find its tenant")?;
        let note = Note::new("gateway let in by file", name.clone()).from_to("", format!("key {key}"));
        let act = super::tenants::act(tenant.unwrap_or(TenantKey::MAIN));
        store.access().record(&act, note).await.context("write the audit")?;
        let text = OfflineAnswer {
            name: name.clone(),
            key: key.clone(),
            made_us: now,
            server: address.to_owned(),
            ca_pin: authority.pin(),
            answer,
        }
        .write();
        if let Err(why) = private_files::replace(&there, text.as_bytes(), 0o644) {
            let why =
                format!("{name} is let in, and its answer cannot be written to {}: {why}", there.display());
            return Ok(Err(No::File(why)));
        }
        let mut words = format!("{name}  key {key}  answer: {}", there.display());
        let ahead = asked.made_us.saturating_sub(now);
        if ahead > AHEAD {
            words += &format!(
                "\nNOTE  its clock is {} min ahead of this server's: one of them is wrong",
                ahead / 60_000_000
            );
        }
        Ok(Ok(words))
    }

    /// Makes a token for one that has none; its hash.
    async fn token(
        &self,
        store: &Arc<dyn Store>,
        asked: &OfflineRequest,
        now: i64,
    ) -> Result<Result<[u8; 32], No>> {
        let tenant = super::tenants::find(&store.access(), &self.tenant).await?;
        let fleet = store.clone().within(tenant).fleet().await.context("list the fleet")?;
        let is_there =
            fleet.iter().any(|row| row.site == asked.site && row.gateway == asked.gateway && !row.revoked);
        if is_there && !self.replace {
            return Ok(Err(No::Other(format!(
                "a gateway {}/{} has joined already; --replace lets this one (key {}) take its place",
                asked.site,
                asked.gateway,
                tls::key_words(&asked.key)
            ))));
        }
        let secret_hash = TokenSecret::random().context("make a secret")?.hash();
        let token = NewToken {
            secret_hash,
            expires: now.saturating_add(TOKEN_LIVES),
            uses: 1,
            note: "by file".into(),
            approval: false,
            created: now,
        };
        store.add_token(token).await.context("store a token")?;
        store.access().give_token(secret_hash, tenant).await.context("give the token to its tenant")?;
        Ok(Ok(secret_hash))
    }
}

/// All of a small file. The words of an error are for people.
fn read(path: &Path) -> Result<String, String> {
    let words = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    File::open(path).map_err(words)?.take(LONGEST).read_to_end(&mut bytes).map_err(words)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
