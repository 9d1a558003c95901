//! Joining by files that somebody carries, with real programs and no network between them until the end: what
//! each side says, how it ends, and that nothing secret is in what is carried.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forebay_agent::cli::join::identity_folder;
use forebay_demo::site::Site;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::offline::{OfflineAnswer, OfflineRequest};
use forebay_protocols::sync::tls::{self, FreshKey, Identity};
use forebay_protocols::sync::wire::JoinAnswer;
use forebay_tests::joining::{Said, agent, run, server, token};
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::{HASTY, PATIENCE, until};
use forebay_tests::programs;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use tokio::time::sleep;

/// A gateway `hall/press`, a server that does not run, and the stick between them.
struct House {
    site: Site,
    stick: PathBuf,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new(links: &str) -> Result<Self> {
        tls::install_provider();
        let folder = tempfile::tempdir()?;
        let site = Site::new(folder.path(), programs()?, None, 0).await?;
        site.configure_agent("hall", "press", links, HASTY)?;
        let stick = folder.path().join("stick");
        fs::create_dir(&stick)?;
        Ok(Self { site, stick, _folder: folder })
    }

    fn stick(&self) -> Result<&str> {
        self.stick.to_str().context("UTF-8")
    }

    fn request(&self) -> PathBuf {
        self.stick.join("hall+press.join-request")
    }

    fn answer(&self) -> PathBuf {
        self.stick.join("hall+press.join-answer")
    }

    async fn join(&self, more: &[&str]) -> Result<Said> {
        let words = [&["join", "--offline", self.stick()?], more].concat();
        agent(&self.site, &words).await
    }

    async fn answer_with(&self, more: &[&str]) -> Result<Said> {
        let words = [&["agents", "answer", self.stick()?], more].concat();
        run(&programs()?.server, &words, &self.site.file("server.toml")).await
    }

    fn identity(&self) -> Result<Option<Identity>> {
        Ok(Identity::load(&identity_folder(&self.site.agent_state()))?)
    }

    fn database(&self) -> Result<rusqlite::Connection> {
        let database = rusqlite::Connection::open(self.site.file("server/forebay.db"))?;
        database.busy_timeout(Duration::from_secs(5))?;
        Ok(database)
    }
}

fn ends(said: &Said, code: i32, words: &[&str]) -> Result<()> {
    ensure!(said.code == code, "{code} expected: {said:?}");
    for words in words {
        ensure!(said.words.contains(words), "{words:?}: {said:?}");
    }
    Ok(())
}

/// Of what the agent keeps, nothing secret may be in the file: looked for in pieces of 24 letters.
fn holds_nothing_of(file: &Path, secret: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    for at in 0..secret.len().saturating_sub(24) {
        ensure!(!text.contains(&secret[at..at + 24]), "{} holds a secret", file.display());
    }
    Ok(())
}

#[tokio::test]
async fn a_gateway_joins_by_a_stick_and_its_readings_arrive_when_there_is_a_network() -> Result<()> {
    let device = LoadDevice::start().await?;
    let house = House::new(&device.link_toml(20, "200ms")).await?;
    let collecting = house.site.start_agent().await?;
    let asked = house.join(&[]).await?;
    ends(&asked, 19, &["OK    request", "agents answer", "run this command again"])?;
    let request = OfflineRequest::read(&fs::read_to_string(house.request())?)?;
    let key = tls::key_words(&request.key);
    ensure!(asked.words.contains(&key), "the gateway shows its key: {asked:?}");
    let again = house.join(&[]).await?;
    ends(&again, 19, &[&key, "asked with before"])?;

    // The server does not run, and answers all the same; twice with the same.
    let answered = house.answer_with(&["--key", &key]).await?;
    ends(&answered, 0, &["OK    hall/press", &key, "The CA is "])?;
    let text = fs::read_to_string(house.answer())?;
    ends(&house.answer_with(&[]).await?, 0, &["was answered before"])?;
    ensure!(fs::read_to_string(house.answer())? == text, "the first answer stays");
    ensure!(server(&house.site, &["agents"]).await?.contains("hall/press"), "it is one of the fleet");

    let joined = house.join(&[]).await?;
    let pin = joined.words.split("CA ").nth(1).and_then(|rest| rest.split('…').next()).context("a CA")?;
    ends(&joined, 0, &["OK    let in            as hall/press", "identity kept", "compare it with"])?;
    ensure!(server(&house.site, &["ca", "status"]).await?.contains(pin), "{pin} is the server's CA");
    ends(&house.join(&[]).await?, 0, &["has joined with it"])?;

    // No key and no secret lay on the stick.
    let identity = house.identity()?.context("joined")?;
    let der = identity.key.secret_der();
    // The key's file holds the public half too, which is in the request: 04 20 stands before the other one.
    let at = der.windows(2).position(|pair| pair == [4, 32]).context("a private key")? + 2;
    for file in [house.request(), house.answer()] {
        let text = fs::read_to_string(file)?;
        let decoded: Vec<_> = text.split_whitespace().filter_map(|word| STANDARD.decode(word).ok()).collect();
        ensure!(decoded.iter().any(|bytes| bytes.len() > 100), "it is read: {text}");
        ensure!(!decoded.iter().any(|bytes| bytes.windows(32).any(|part| part == &der[at..at + 32])));
    }
    ensure!(!identity_folder(&house.site.agent_state()).join("errand.pem").exists(), "nothing is left over");

    // Who did it is in the audit.
    let audit =
        "select count(*) from audit where action = 'gateway let in by file' and subject = 'hall/press'";
    let told: i64 = house.database()?.query_row(audit, [], |row| row.get(0))?;
    ensure!(told == 1, "the audit tells it {told} times");

    // Later there is a network.
    let running = house.site.start_server().await?;
    until(&house.site, "readings", async || {
        let rows: i64 = house.database()?.query_row("select count(*) from readings", [], |row| row.get(0))?;
        Ok(rows > 100)
    })
    .await?;
    collecting.terminate(PATIENCE).await?;
    running.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn with_a_join_string_the_token_decides_and_its_ca_is_wanted() -> Result<()> {
    let house = House::new("").await?;
    let string = token(&house.site, &["--approval"]).await?;
    let secret = string.secret.to_text();
    ends(&house.join(&[&string.to_string()]).await?, 19, &["join string"])?;
    holds_nothing_of(&house.request(), &secret)?;
    holds_nothing_of(&house.request(), &string.to_string())?;
    // Whoever answers is the operator that the token wants.
    ends(&house.answer_with(&[]).await?, 0, &["OK    hall/press"])?;

    // The stick went by another server's desk.
    let good = fs::read_to_string(house.answer())?;
    let other = House::new("").await?;
    fs::copy(house.request(), other.request())?;
    ends(&other.answer_with(&[]).await?, 15, &["made no such join token"])?;
    let mut foreign = OfflineAnswer::read(&good)?;
    foreign.ca_pin = [7; 32];
    fs::write(house.answer(), foreign.write())?;
    ends(&house.join(&[]).await?, 13, &["FAIL  server known"])?;
    ensure!(house.identity()?.is_none(), "nothing is kept of it");
    fs::write(house.answer(), good)?;
    ends(&house.join(&[]).await?, 0, &["the one that made the join string"])?;
    ensure!(house.identity()?.is_some(), "it has its identity");

    // Tokens that are worth nothing, each with its code and its words.
    let used = string.to_string();
    let expired = token(&house.site, &["--expires", "1s"]).await?.to_string();
    let mut unknown = string.clone();
    unknown.secret = TokenSecret([7; 32]);
    sleep(Duration::from_millis(1_100)).await;
    for (string, code, words) in [
        (used, 18, "used already"),
        (expired, 17, "time is over"),
        (unknown.to_string(), 15, "made no such join token"),
    ] {
        fs::remove_file(house.answer()).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        ends(&house.join(&[&string]).await?, 19, &["OK    request"])?;
        ends(&house.answer_with(&[]).await?, code, &["FAIL  hall+press.join-request", words])?;
        ensure!(!house.answer().exists(), "there is no answer");
    }
    ends(&house.join(&["fbj1.nonsense"]).await?, 10, &["damaged"])?;
    Ok(())
}

/// An answer to `asked` with a certificate that is valid in these years: under its CA, or one that is not.
fn forged(asked: &OfflineRequest, (from, until): (i32, i32), is_stray: bool) -> Result<OfflineAnswer> {
    let ca = |name: &str| -> Result<(CertificateDer<'static>, Issuer<'static, KeyPair>)> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?.der().clone(), Issuer::new(params, key)))
    };
    let ((shown, issuer), (_, stray)) = (ca("plant")?, ca("plant")?);
    let csr = CertificateSigningRequestDer::from(asked.csr.as_slice());
    let csr = CertificateSigningRequestParams::from_der(&csr)?;
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    let own = params.signed_by(&csr.public_key, if is_stray { &stray } else { &issuer })?;
    let name = format!("{}/{}", asked.site, asked.gateway);
    let bytes = |der: &CertificateDer<'_>| Bytes::copy_from_slice(der);
    Ok(OfflineAnswer {
        key: tls::key_words(&asked.key),
        made_us: wall_micros(),
        server: "127.0.0.1:8443".into(),
        ca_pin: tls::fingerprint(&shown),
        answer: JoinAnswer {
            chain: vec![bytes(own.der()), bytes(&shown)],
            agent: name.clone(),
            ..JoinAnswer::default()
        },
        name,
    })
}

#[tokio::test]
async fn whatever_is_wrong_with_what_is_carried_is_told_apart() -> Result<()> {
    let house = House::new("").await?;
    ends(&house.answer_with(&[]).await?, 1, &["there is no request"])?;
    ends(&house.join(&[]).await?, 19, &[])?;
    let request = fs::read_to_string(house.request())?;

    // On the way there.
    for (text, words) in [
        (request.replace("hall/press", "hall/other"), "was altered"),
        (request[..request.len() / 2].to_owned(), "is damaged"),
        ("PK\u{3}\u{4}".to_owned(), "this is no join request"),
        (request.replace("request 1", "request 2"), "of one age"),
    ] {
        fs::write(house.request(), text)?;
        ends(&house.answer_with(&[]).await?, 23, &[words])?;
    }
    fs::write(house.request(), &request)?;
    ends(&house.answer_with(&["--key", "0000-0000-0000-0000"]).await?, 16, &["another one was asked for"])?;
    ensure!(!house.answer().exists(), "nobody was let in");

    // A gateway that believes in 2046 asks; that is told, and is no reason to refuse.
    let late = FreshKey::generate()?;
    let in_twenty_years = wall_micros() + 20 * 31_557_600_000_000;
    let text = OfflineRequest::write(&late, ("hall", "late"), None, ("0.1.0", in_twenty_years))?;
    let file = house.stick.join("hall+late.join-request");
    fs::write(&file, text)?;
    let said = run(
        &programs()?.server,
        &["agents", "answer", file.to_str().context("UTF-8")?],
        &house.site.file("server.toml"),
    )
    .await?;
    ends(&said, 0, &["OK    hall/late", "one of them is wrong"])?;
    fs::remove_file(&file)?;

    // On the way back.
    ends(&house.answer_with(&[]).await?, 0, &[])?;
    let answer = fs::read_to_string(house.answer())?;
    let read = OfflineAnswer::read(&answer)?;
    let with = |change: &dyn Fn(&mut OfflineAnswer)| {
        let mut changed = read.clone();
        change(&mut changed);
        changed.write()
    };
    let asked = OfflineRequest::read(&request)?;
    let others = OfflineAnswer::read(&fs::read_to_string(house.stick.join("hall+late.join-answer"))?)?;
    for (code, text, words) in [
        (23, answer.replace("hall/press", "hall/other"), "sum does not fit"),
        (23, answer[..answer.len() - 20].to_owned(), "is damaged"),
        (23, request.clone(), "this is no join answer"),
        (24, others.write(), "hall/late"),
        (24, with(&|answer| answer.key = "0000-0000-0000-0000".into()), "0000-0000-0000-0000"),
        // Under our name and key, with another's certificate inside.
        (16, with(&|answer| answer.answer = others.answer.clone()), "another gateway"),
        (16, with(&|answer| answer.answer.chain = others.answer.chain.clone()), "our key"),
        (16, with(&|answer| answer.ca_pin = [7; 32]), "its CA certificate"),
        (16, forged(&asked, (2026, 2090), true)?.write(), "did not sign"),
        (14, forged(&asked, (2001, 2002), false)?.write(), "set the clock of the gateway"),
    ] {
        fs::write(house.answer(), text)?;
        ends(&house.join(&[]).await?, code, &[words])?;
        ensure!(house.identity()?.is_none(), "nothing is kept of it");
    }

    // A stick that is not there.
    let nowhere = house.stick.join("nowhere");
    let words = ["join", "--offline", nowhere.to_str().context("UTF-8")?];
    ends(&agent(&house.site, &words).await?, 23, &["is the stick there"])?;
    fs::write(house.answer(), &answer)?;
    ends(&house.join(&[]).await?, 0, &[])?;

    // Another gateway that says it is this one takes its place only if that is meant.
    let other = House::new("").await?;
    ends(&other.join(&[]).await?, 19, &[])?;
    fs::copy(other.request(), house.request())?;
    fs::remove_file(house.answer())?;
    ends(&house.answer_with(&[]).await?, 16, &["has joined already", "--replace"])?;
    ends(&house.answer_with(&["--replace"]).await?, 0, &["OK    hall/press"])?;
    Ok(())
}
