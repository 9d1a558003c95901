//! The fleet's table in a real browser: what each gateway's row says of it, in words and shape.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use forebay_demo::ledger::Database;
use forebay_demo::site::Site;
use forebay_protocols::sync::wire::{Report, report};
use forebay_tests::browser::Browser;
use forebay_tests::programs;
use prost::Message;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A gateway as the server's database has it.
#[derive(Clone, Default)]
struct Row {
    gateway: &'static str,
    seen_ago: i64,
    lag: i64,
    waiting: u64,
    /// Readings a second that came, and by which the backlog shrank.
    pace: Option<(f64, f64)>,
    bytes: i64,
    certificate: i64,
    dropped: u64,
    aside: i64,
    clock_off: i64,
    silent_devices: usize,
}

fn rows() -> Vec<Row> {
    let calm = Row {
        gateway: "calm",
        lag: 2,
        waiting: 40,
        pace: Some((100.0, 0.5)),
        bytes: 3_400_000,
        certificate: 41,
        ..Row::default()
    };
    vec![
        calm.clone(),
        Row {
            gateway: "drains",
            waiting: 12_300,
            pace: Some((150.0, 51.25)),
            bytes: 48 << 20,
            ..calm.clone()
        },
        Row {
            gateway: "grows",
            waiting: 1_204_000,
            pace: Some((20.0, -80.0)),
            dropped: 20_400,
            ..calm.clone()
        },
        Row { gateway: "expired", certificate: -1, bytes: 0, aside: 3, ..calm.clone() },
        Row { gateway: "soon", certificate: 12, clock_off: -75, silent_devices: 2, ..calm.clone() },
        Row { gateway: "silent", seen_ago: 7_300, lag: 7_305, waiting: 90_000, ..calm.clone() },
        Row { gateway: "lossy", dropped: 5, aside: 1, lag: 5_400, ..calm },
    ]
}

/// Gateways of the site `north`, and one that joined and was never heard.
fn fill(database: &Path, rows: &[Row]) -> Result<()> {
    let connection = rusqlite::Connection::open(database)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    for (place, row) in (1..).zip(rows) {
        let seen = now - row.seen_ago * SECOND;
        let device = |n: usize| report::Device {
            link: "hall".into(),
            device: format!("press-{n}"),
            answers: n >= row.silent_devices,
            words: "the device did not answer in time".into(),
        };
        let told = Report {
            version: "0.1.0".into(),
            wall_us: seen + row.clock_off * SECOND,
            received_us: seen,
            synchronised: true,
            backlog_readings: row.waiting,
            backlog_bytes: row.waiting * 2,
            dropped: row.dropped,
            devices: (0..5).map(device).collect(),
            ..Report::default()
        };
        let newest = (row.lag > 0).then_some(now - row.lag * SECOND);
        let (came, shrank) = row.pace.unzip();
        connection.execute(
            "insert into agents (agent, site, gateway, joined, last_seen, report, stored, set_aside, newest, bytes, \
             bytes_day, came, shrank, waiting) values (?1, 'north', ?2, ?3, ?4, ?5, 1000, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            rusqlite::params![
                place, row.gateway, now - 90 * DAY, seen, told.encode_to_vec(), row.aside, newest, row.bytes, now / DAY,
                came,
                shrank,
                row.waiting as i64,
            ],
        )?;
        connection.execute(
            "insert into certificates (agent, fingerprint, valid_until) values (?1, ?2, ?3)",
            rusqlite::params![place, [place as u8; 32], now + row.certificate * DAY + DAY / 2],
        )?;
    }
    connection.execute("insert into agents (site, gateway, joined) values ('north', 'new', ?)", [now])?;
    Ok(())
}

/// What stands in the row of a gateway, cell by cell, lines joined by ` / `.
async fn cells(browser: &mut Browser, gateway: &str) -> Result<Vec<String>> {
    let row = format!(
        "[...[...document.querySelectorAll('.fleet tbody tr')].find((row) => row.innerText.includes('north/{gateway}')).cells] \
         .map((cell) => cell.innerText.trim().replaceAll('\\n', ' / '))"
    );
    let found = browser.evaluate(&row).await?;
    let cells = found.as_array().with_context(|| format!("a row of {gateway}"))?;
    Ok(cells.iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect())
}

/// With FOREBAY_TEST_PICTURES, a folder, pictures of the page stay there to be looked at.
#[tokio::test]
async fn each_row_tells_lag_backlog_with_time_to_drain_bytes_and_days_of_the_certificate() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let server = site.start_server().await?;
    let Database::Sqlite(file) = site.database() else { anyhow::bail!("the site stores in SQLite") };
    fill(file, &rows())?;
    let mut browser = Browser::start(1280).await?;
    browser.go(&format!("http://{}/", site.web_address())).await?;
    browser.until("document.querySelectorAll('.fleet tbody tr').length === 8").await?;

    let heads = browser
        .evaluate(
            "[...document.querySelectorAll('.fleet th')].map((head) => head.innerText.replace(/ [▴▾]$/, ''))",
        )
        .await?;
    let column = |name: &str| {
        let heads = heads.as_array().context("headings")?;
        heads.iter().position(|head| head == name).with_context(|| format!("{name} in {heads:?}"))
    };
    for (gateway, told) in [
        ("calm", [("Lag", "s"), ("Backlog", "40"), ("Bytes today", "3.2 MiB"), ("Certificate", "41 days")]),
        (
            "drains",
            [
                ("Backlog", "12,300 / "),
                ("Backlog", " to go"),
                ("Bytes today", "48.0 MiB"),
                ("Not stored", "0"),
            ],
        ),
        (
            "grows",
            [
                ("Backlog", "1,204,000 / ◆ growing"),
                ("Not stored", "▲ 20,400 / dropped"),
                ("Clock", "right"),
                ("State", "● online"),
            ],
        ),
        (
            "expired",
            [
                ("Certificate", "▲ expired"),
                ("Bytes today", "0 B"),
                ("Not stored", "▲ 3 / set aside"),
                ("Version", "0.1.0"),
            ],
        ),
        (
            "soon",
            [
                ("Certificate", "◆ 12 days"),
                ("Clock", "◆ 75 s slow"),
                ("Devices", "▲ 2 of 5 silent"),
                ("Agent", "north/soon"),
            ],
        ),
        ("silent", [("State", "▲ silent"), ("Lag", "2 h"), ("Backlog", "90,000"), ("Last seen", "2 h ago")]),
        (
            "lossy",
            [
                ("Not stored", "▲ 5 dropped / ▲ 1 set aside"),
                ("Lag", "90 min"),
                ("Backlog", "40"),
                ("Devices", "5 answering"),
            ],
        ),
        ("new", [("State", "○ never seen"), ("Lag", "–"), ("Backlog", "–"), ("Certificate", "–")]),
    ] {
        let row = cells(&mut browser, gateway).await?;
        for (head, words) in told {
            ensure!(
                row[column(head)?].contains(words),
                "{gateway}: {head} says `{}`, not `{words}`",
                row[column(head)?]
            );
        }
    }
    // A backlog that nobody can tell of says no time; one that is under way neither.
    for gateway in ["silent", "calm"] {
        let row = cells(&mut browser, gateway).await?;
        ensure!(!row[column("Backlog")?].contains('/'), "{gateway}: {row:?}");
    }
    let date =
        "[...document.querySelectorAll('.fleet td')].find((cell) => cell.innerText === '41 days').title";
    let date = browser.evaluate(date).await?;
    ensure!(date.as_str().is_some_and(|date| date.starts_with("Until 20")), "{date}");

    // By what takes longest, and by what came.
    for (head, first) in
        [("Lag", "silent"), ("Bytes today", "drains"), ("Backlog", "grows"), ("Certificate", "new")]
    {
        let sort = format!(
            "[...document.querySelectorAll('.fleet thead button')].find((one) => one.innerText.startsWith('{head}')).click()"
        );
        browser.evaluate(&sort).await?;
        let place = format!("document.querySelector('.fleet tbody tr').innerText.includes('north/{first}')");
        browser.until(&place).await.with_context(|| format!("sorted by {head}"))?;
        let said = "document.querySelector('.fleet th[aria-sort]').title.length > 10";
        ensure!(browser.evaluate(said).await? == true, "{head} tells what it means");
    }
    // What a narrow screen has no column for is told below the name, where it is wrong.
    browser.resize(360, 800).await?;
    let folded = "[...document.querySelectorAll('.fleet .folded')].filter((one) => one.offsetParent).map((one) => one.innerText)";
    let told = browser.evaluate(folded).await?.to_string();
    for words in [
        "▲ certificate expired, 3 set aside",
        "▲ 20,400 dropped, backlog growing",
        "◆ clock 75 s slow",
        "◆ 2 h behind",
    ] {
        ensure!(told.contains(words), "{words}: {told}");
    }
    browser.resize(1280, 800).await?;
    ensure!(browser.evaluate(&format!("{folded}.length")).await? == 0, "a wide one has the columns");
    for (width, dark) in [(1280, false), (1280, true), (1000, false), (360, false), (360, true)] {
        browser.resize(width, 800).await?;
        browser.prefer_dark(dark).await?;
        browser.until("document.querySelectorAll('.fleet tbody tr').length === 8").await?;
        let wide = "(() => { const list = document.querySelector('.list'); return list.scrollWidth <= list.clientWidth; })()";
        browser.keep_picture(&format!("rows-{width}-{}", if dark { "dark" } else { "light" })).await?;
        ensure!(browser.evaluate(wide).await? == true, "the table is wider than its place at {width} pixels");
        let page = browser.evaluate("document.documentElement.scrollWidth").await?;
        ensure!(page.as_u64().is_some_and(|page| page <= u64::from(width)), "{page} of {width} pixels");
    }
    let found = browser.accessibility().await?;
    ensure!(found.is_empty(), "axe-core finds:\n{}", found.join("\n"));
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    server.terminate(Duration::from_secs(10)).await?;
    Ok(())
}
