//! Certificates that come to their end, and gateways that lose power while they get a new one. Real
//! programs, the server's own CA.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use forebay_agent::cli::join::identity_folder;
use forebay_agent::clock::Clock;
use forebay_agent::uplink::renewal::Renewal;
use forebay_demo::dice::Dice;
use forebay_demo::site::Site;
use forebay_protocols::sync::tls::{Identity, fingerprint};
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::{HASTY, PATIENCE, until};
use forebay_tests::programs;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const DAY: i64 = 86_400;
/// Renewals that are killed.
const KILLS: usize = 150;

#[tokio::test]
async fn a_certificate_near_its_end_or_behind_it_is_renewed_and_readings_go_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "old", &device.link_toml(20, "200ms"), HASTY)?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    let own = identity_folder(&site.agent_state());
    for left in [100, -35] {
        age(&site, &own, left)?;
        let aged = Identity::load(&own)?.context("an aged identity")?;
        let stop = CancellationToken::new();
        let renewal = Renewal {
            folder: own.clone(),
            name: "t/old".into(),
            clock: Clock::open(folder.path()),
            proxy: None,
            spread: Duration::ZERO,
            ca_news: tokio::sync::watch::channel(0).1,
        };
        let task = tokio::spawn(renewal.run(stop.clone()));
        until(&site, "a new certificate", async || {
            Ok(Identity::load(&own)?.context("never without one")?.chain != aged.chain)
        })
        .await?;
        stop.cancel();
        task.await?;
        let renewed = Identity::load(&own)?.context("a renewed identity")?;
        let (from, to) = renewed.validity().context("it has dates")?;
        assert_eq!((to - from) / DAY, 365);
        assert!(!renewed.renewal_due(now()) && renewed.key.secret_der() != aged.key.secret_der());
        let so_far = rows(&site)?;
        until(&site, "readings after it", async || Ok(rows(&site)? > so_far + 100)).await?;
    }
    agent.terminate(PATIENCE).await?;
    server.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn whenever_a_renewal_is_killed_the_gateway_has_an_identity_that_is_let_in() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "killed", "", "")?;
    let server = site.start_server().await?;
    site.join().await?;
    let own = identity_folder(&site.agent_state());
    let config = site.file("agent.toml");
    let renew = ["renew".as_ref(), "--config".as_ref(), config.as_os_str()];
    let agent = programs()?.agent;
    let begun = Instant::now();
    let words = agent.output(&renew).await?;
    let usual = begun.elapsed();
    assert!(words.contains("is renewed, valid until 20"), "{words}");

    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into();
    let mut dice = Dice::new(seed);
    let (mut early, mut late) = (0, 0);
    for kill in 1..=KILLS {
        let before = Identity::load(&own)?.with_context(|| format!("no identity, seed {seed}"))?;
        let process = agent.start(&renew, &site.file("renew.log"))?;
        sleep(dice.millis(0..usual.as_millis() as u64 + 10)).await;
        // An error says that it was done before.
        let killed = process.kill().await.is_ok();
        let after = Identity::load(&own)
            .with_context(|| format!("kill {kill}, seed {seed}"))?
            .with_context(|| format!("no identity after kill {kill}, seed {seed}"))?;
        early += usize::from(killed && after.chain == before.chain);
        late += usize::from(after.chain != before.chain);
        if kill % 10 == 0 {
            // Whatever is there by now is let in.
            agent.output(&renew).await.with_context(|| format!("kill {kill}, seed {seed}"))?;
        }
    }
    ensure!(early > KILLS / 10 && late > KILLS / 10, "{early} kills came early, {late} late, seed {seed}");
    server.terminate(PATIENCE).await?;
    Ok(())
}

/// Gives the gateway a certificate of the server's CA that ends in `left` days and began 365 earlier.
fn age(site: &Site, folder: &Path, left: i64) -> Result<()> {
    let ca = std::fs::read_to_string(site.file("server/ca/ca.pem"))?;
    let issuer =
        Issuer::from_ca_cert_der(&CertificateDer::from_pem_slice(ca.as_bytes())?, KeyPair::from_pem(&ca)?)?;
    let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.unsigned_abs());
    let until = now() + left * DAY;
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (at(until - 365 * DAY), at(until));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    let database = rusqlite::Connection::open(site.file("server/forebay.db"))?;
    database.busy_timeout(Duration::from_secs(5))?;
    database.execute(
        "insert into certificates (agent, fingerprint, valid_until) select max(agent), ?1, ?2 from agents",
        rusqlite::params![fingerprint(certificate.der()), until * 1_000_000],
    )?;
    let mut identity = Identity::load(folder)?.context("joined")?;
    identity.chain = vec![certificate.der().clone()];
    identity.key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    identity.save(folder)?;
    Ok(())
}

fn rows(site: &Site) -> Result<i64> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(site.file("server/forebay.db"), flags)?;
    database.busy_timeout(Duration::from_secs(5))?;
    Ok(database.query_row("select count(*) from readings", [], |row| row.get(0))?)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}
