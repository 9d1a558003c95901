//! The page in a real browser: an operator opens it and sees the gateway, its points, and numbers
//! that change by themselves.

use std::time::Duration;

use anyhow::{Result, ensure};
use forebay_demo::ledger::Database;
use forebay_demo::site::Site;
use forebay_tests::browser::Browser;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs;

/// Text of the cells of the first row of the points.
const FIRST_ROW: &str =
    "[...document.querySelectorAll('.points tbody tr:first-child > *')].map((cell) => cell.innerText)";

#[tokio::test]
async fn an_operator_sees_the_fleet_and_live_values_in_a_browser() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "page", &device.link_toml(20, "500ms"), "")?;
    let server = site.start_server().await?;
    let web = site.web_address();
    let mut browser = Browser::start(1280).await?;

    browser.go(&format!("http://{web}/")).await?;
    browser.until("document.body.innerText.includes('No gateway has joined yet')").await?;
    ensure!(browser.text().await?.contains("forebay-server token create"), "it says what to do");

    // The page finds out by itself.
    site.join().await?;
    let agent = site.start_agent().await?;
    browser.until("document.querySelector('.fleet tbody')?.innerText.includes('online')").await?;
    let row = browser.evaluate("document.querySelector('.fleet tbody tr').innerText").await?;
    ensure!(row.to_string().contains("t/page"), "{row}");
    browser.until("/1 answering/.test(document.querySelector('.fleet tbody').innerText)").await?;

    // By keyboard, as a link; the row is written again and again and must keep the focus.
    browser.evaluate("document.querySelector('.fleet a').focus()").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(
        browser.evaluate("document.activeElement.innerText").await? == "t/page",
        "the focus stays where it was while the page refreshes"
    );
    browser.evaluate("document.activeElement.click()").await?;
    browser.until("document.querySelectorAll('.points tbody tr').length === 20").await?;
    browser.until("document.getElementById('status').innerText === '● up to date'").await?;
    browser.until(&format!("/^[\\d,]+$/.test({FIRST_ROW}[1])")).await?;
    let first = browser.evaluate(FIRST_ROW).await?;
    ensure!(first[0].as_str().is_some_and(|name| name.contains("d0") && name.contains("p0")), "{first}");
    ensure!(first[4] == "good", "{first}");

    // Live: another number in the same place, without anybody asking.
    let place = "JSON.stringify(document.querySelector('.points tbody tr').getBoundingClientRect())";
    let before = browser.evaluate(place).await?;
    browser.until(&format!("{FIRST_ROW}[1] !== {:?}", first[1].as_str().unwrap_or_default())).await?;
    ensure!(browser.evaluate(place).await? == before, "nothing jumps when a value comes");
    // Its course: a line of the first point, chosen by itself.
    browser.until("document.querySelector('path.mean').getAttribute('d')?.length > 10").await?;
    // Every reading is accounted for, in words.
    browser.until("document.querySelectorAll('.ledger tr').length === 2").await?;

    // A feed left open does not keep the server from stopping, and the page says that it is alone.
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    server.terminate(Duration::from_secs(4)).await?;
    browser.until("document.getElementById('status').innerText.includes('Not up to date since')").await?;
    ensure!(browser.evaluate(FIRST_ROW).await?[1] != "", "what was known stays to be seen");
    agent.terminate(Duration::from_secs(30)).await?;
    Ok(())
}

#[tokio::test]
async fn the_page_fits_a_telephone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "small", &device.link_toml(5, "500ms"), "")?;
    let _server = site.start_server().await?;
    site.join().await?;
    let _agent = site.start_agent().await?;
    let mut browser = Browser::start(360).await?;
    for (path, shown) in [("/", ".fleet tbody tr"), ("/#/agent/t/small", ".points tbody tr")] {
        browser.go(&format!("http://{}{path}", site.web_address())).await?;
        browser.until(&format!("document.querySelector('{shown}') !== null")).await?;
        let width = browser.evaluate("document.documentElement.scrollWidth").await?;
        ensure!(width.as_u64().is_some_and(|width| width <= 360), "{path} is {width} pixels wide");
    }
    Ok(())
}

/// Agents that joined once, in the server's own database.
const MANY: usize = 5_000;

#[tokio::test]
async fn a_fleet_of_thousands_is_scrolled_sorted_and_searched_with_only_the_rows_in_sight() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let server = site.start_server().await?;
    let Database::Sqlite(file) = site.database() else { anyhow::bail!("the site stores in SQLite") };
    let database = rusqlite::Connection::open(file)?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.execute_batch(&format!(
        "insert into agents (site, gateway, joined, last_seen, stored) \
         with recursive n(n) as (select 1 union all select n + 1 from n where n < {MANY}) \
         select printf('site-%02d', n % 50), printf('gate-%04d', n), 1790000000000000, 1790000000000000, n from n"
    ))?;
    let mut browser = Browser::start(1280).await?;
    browser.go(&format!("http://{}/", site.web_address())).await?;
    browser.until("document.body.innerText.includes('5,000 agents: 5,000 silent')").await?;
    let rows = "[...document.querySelectorAll('.fleet tbody tr')]";
    browser.until(&format!("{rows}.length > 10 && {rows}.length <= 200")).await?;
    browser.until(&format!("{rows}[0].innerText.includes('site-00/gate-0050')")).await?;

    // To the end and to the middle: the rows that are in sight there are there soon.
    browser.evaluate("document.querySelector('.list').scrollTop = 1e9").await?;
    browser.until(&format!("{rows}.at(-1).innerText.includes('site-49/gate-4999')")).await?;
    let in_sight = format!(
        "(() => {{ const list = document.querySelector('.list').getBoundingClientRect(); \
         return {rows}.some((row) => {{ const at = row.getBoundingClientRect(); return at.top > list.top && at.bottom <= list.bottom + 1; }}); }})()"
    );
    browser.until(&in_sight).await?;
    browser.evaluate("document.querySelector('.list').scrollTop /= 2").await?;
    browser.until(&format!("{rows}[20].innerText.includes('site-24/')")).await?;
    browser.until(&in_sight).await?;
    ensure!(
        browser.evaluate(&format!("{rows}.length <= 200")).await? == true,
        "only what is in sight is built"
    );

    // A heading sorts, and says so.
    browser.evaluate("[...document.querySelectorAll('.fleet thead button')].find((one) => one.innerText.startsWith('Agent')).click()").await?;
    browser.until(&format!("{rows}[0].innerText.includes('site-49/gate-4999')")).await?;
    ensure!(
        browser
            .evaluate("document.querySelector('.fleet th:nth-child(2)').getAttribute('aria-sort')")
            .await?
            == "descending",
        "the heading tells the order"
    );
    let typed = "(() => { const box = document.querySelector('input[type=search]'); box.value = 'GATE-0123'; box.dispatchEvent(new Event('input')); })()";
    browser.evaluate(typed).await?;
    browser.until(&format!("{rows}.length === 1 && {rows}[0].innerText.includes('gate-0123')")).await?;
    browser.until("document.body.innerText.includes('1 agent found')").await?;
    // By site, which stand in a list of their own.
    let chosen = "(() => { const box = document.querySelector('input[type=search]'); box.value = ''; box.dispatchEvent(new Event('input')); \
                  const sites = document.querySelector('select[aria-label=Site]'); sites.value = 'site-07'; sites.dispatchEvent(new Event('change')); })()";
    browser.until("document.querySelectorAll('select[aria-label=Site] option').length === 51").await?;
    browser.evaluate(chosen).await?;
    browser.until("document.body.innerText.includes('100 agents found')").await?;
    browser.until(&format!("{rows}.every((row) => row.innerText.includes('site-07/'))")).await?;
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    server.terminate(Duration::from_secs(10)).await?;
    Ok(())
}
