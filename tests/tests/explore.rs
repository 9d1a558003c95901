//! The explorer and the alarms in a real browser: an operator looks for points, zooms, sees a value change,
//! takes notice of an alarm; by mouse and by keyboard alone; and axe-core finds nothing on any page.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::process::Process;
use forebay_demo::site::Site;
use forebay_tests::browser::Browser;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs;
use serde_json::Value;
use tempfile::TempDir;

/// The device counts its requests, so that this is so at once and stays so.
const ALARM: &str =
    "[alarm.high]\nwhen = \"value\"\npoints = [\"d0/p0\", \"d0/p1\"]\nabove = 2\npriority = \"high\"\n";

/// A plant of 20 points that are read twice a second, with alarms.
struct House {
    site: Site,
    _folder: TempDir,
    _device: LoadDevice,
    _server: Process,
    agent: Option<Process>,
}

impl House {
    async fn build(gateway: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let device = LoadDevice::start().await?;
        let site = Site::new(folder.path(), programs()?, None, 0).await?;
        site.configure_agent("north", gateway, &device.link_toml(20, "500ms"), "")?;
        let file = site.file("server.toml");
        let config = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{config}{ALARM}"))?;
        let server = site.start_server().await?;
        site.join().await?;
        let agent = Some(site.start_agent().await?);
        Ok(Self { site, _folder: folder, _device: device, _server: server, agent })
    }

    fn page(&self, hash: &str) -> String {
        format!("http://{}/{hash}", self.site.web_address())
    }

    async fn json(&self, path: &str) -> Result<Value> {
        forebay_demo::http::get_json(self.site.web_address(), path).await
    }

    /// Ids of d0/p0 and d0/p1, once they have readings.
    async fn points(&self) -> Result<Vec<i64>> {
        for _ in 0..300 {
            let found = self.json("/api/v1/points?search=d0/").await?;
            let id = |name: &str| {
                let points = found["points"].as_array()?;
                points.iter().find(|point| point["name"] == name)?["id"].as_i64()
            };
            if let (Some(one), Some(other)) = (id("p0"), id("p1")) {
                return Ok(vec![one, other]);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("no points within 30 s")
    }

    async fn until_alarms(&self, count: usize) -> Result<Vec<Value>> {
        for _ in 0..300 {
            let found = self.json("/api/v1/alarms").await?;
            if let Some(alarms) = found["alarms"].as_array().filter(|alarms| alarms.len() >= count) {
                return Ok(alarms.clone());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("not {count} alarms within 30 s")
    }
}

/// Milliseconds of the range in the address.
const LENGTH: &str = "(() => { const asked = new URLSearchParams(location.hash.split('?')[1]); \
                      return Number(asked.get('to')) - Number(asked.get('from')); })()";

#[tokio::test]
async fn an_operator_finds_points_zooms_pans_and_sees_values_change() -> Result<()> {
    let house = House::build("explore").await?;
    let ids = house.points().await?;
    let mut browser = Browser::start(1280).await?;
    browser.go(&house.page("#/explore?from=-15m")).await?;
    browser.until("document.getElementById('find') !== null").await?;

    // Two points by their names, several words in any order.
    browser.evaluate("document.getElementById('find').focus()").await?;
    browser.write("p0 north/explore").await?;
    browser.until("document.querySelectorAll('#found li').length === 1").await?;
    browser.evaluate("document.querySelector('#found button').click()").await?;
    browser
        .evaluate("document.getElementById('find').value = ''; document.getElementById('find').focus()")
        .await?;
    browser.write("d0/p1").await?;
    browser.until("document.querySelector('#found li')?.innerText.includes('d0/p1')").await?;
    browser.evaluate("document.querySelector('#found button').click()").await?;
    browser.until(&format!("location.hash.includes('points={},{}')", ids[0], ids[1])).await?;
    browser.until("document.querySelectorAll('.figures path.mean').length === 2").await?;
    browser.until("[...document.querySelectorAll('.figures path.mean')].every((line) => line.getAttribute('d').length > 10)").await?;

    // A value changes by itself, in its place.
    let now = "document.querySelector('.legend tbody tr').children[2].innerText";
    browser.until(&format!("/^[\\d,]+$/.test({now})")).await?;
    let before = browser.evaluate(now).await?;
    browser.until(&format!("{now} !== {before}")).await?;
    // What the statistics say is what is stored: the device counts up, so the first is the least.
    browser
        .until("/^[1-9][\\d,]*$/.test(document.querySelector('.legend tbody tr').children[3].innerText)")
        .await?;

    // Drag to zoom: a fifth of the range is left, and the address says so. The list of found points is open still and
    // lies over the left half.
    browser.drag(".figures .plot", 0.6, 0.8).await?;
    browser.until(&format!("Math.abs({LENGTH} / 180e3 - 1) < 0.1")).await?;
    let narrow = browser.evaluate(LENGTH).await?.as_f64().context("a length")?;
    // Back is back.
    browser.evaluate("history.back()").await?;
    browser.until("location.hash.includes('from=-15m')").await?;
    browser.until("document.querySelectorAll('.figures path.mean').length === 2").await?;

    // By keyboard: + zooms, an arrow pans, - zooms out again.
    browser.evaluate("document.querySelector('.figures .plot').focus()").await?;
    browser.press("+").await?;
    browser.until(&format!("Math.abs({LENGTH} / 450e3 - 1) < 0.01")).await?;
    let from = "Number(new URLSearchParams(location.hash.split('?')[1]).get('from'))";
    let began = browser.evaluate(from).await?.as_f64().context("a moment")?;
    browser.press("ArrowLeft").await?;
    browser.until(&format!("Math.abs(({began} - {from}) / 112500 - 1) < 0.01")).await?;
    browser.press("-").await?;
    browser.until(&format!("Math.abs({LENGTH} / 900e3 - 1) < 0.01")).await?;
    ensure!(narrow < 200e3, "{narrow}");
    ensure!(
        browser.evaluate("document.activeElement.className").await? == "plot",
        "the focus stays in the plot"
    );

    // The address alone shows the same to somebody else, with the table behind the plot and the file.
    let address = browser.evaluate("location.href").await?;
    let mut other = Browser::start(1280).await?;
    other.go(address.as_str().context("an address")?).await?;
    other.until("document.querySelectorAll('.legend tbody tr').length === 2").await?;
    other.evaluate("document.querySelector('figure summary').click()").await?;
    other.until("document.querySelectorAll('figure tbody tr').length > 3").await?;
    let file = other.evaluate("document.querySelector('.files a').getAttribute('href')").await?;
    let file = forebay_demo::http::get(house.site.web_address(), file.as_str().context("a link")?).await?;
    ensure!(
        file.starts_with("time,point,unit,value,quality\r\n") && file.contains("north/explore/d0/p0"),
        "{file:.200}"
    );
    for browser in [&browser, &other] {
        ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    }
    Ok(())
}

#[tokio::test]
async fn an_operator_takes_notice_of_an_alarm_by_keyboard_alone() -> Result<()> {
    let house = House::build("alarmed").await?;
    house.until_alarms(2).await?;
    let mut browser = Browser::start(1280).await?;
    browser.go(&house.page("")).await?;
    // The number stands in the navigation of every page.
    browser.until("document.getElementById('alarms').innerText === '▲ 2'").await?;
    // Tab by tab to the page of alarms, and to the first button there.
    let until_focus = async |browser: &mut Browser, words: &str| {
        for _ in 0..60 {
            browser.press("Tab").await?;
            let at = browser.evaluate("document.activeElement.innerText ?? ''").await?;
            if at.as_str().is_some_and(|at| at.starts_with(words)) {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("no Tab leads to {words:?}")
    };
    until_focus(&mut browser, "Alarms").await?;
    browser.press("Enter").await?;
    browser.until("document.querySelectorAll('.alarms tbody tr').length === 2").await?;
    let text = browser.text().await?;
    ensure!(
        text.contains("▲ active") && text.contains("north/alarmed/d0/p0 is") && text.contains("above 2"),
        "{text}"
    );
    until_focus(&mut browser, "Acknowledge").await?;
    browser.press("Enter").await?;
    browser.until("document.activeElement.placeholder?.startsWith('Note')").await?;
    browser.write("the pump is being mended").await?;
    // What comes in meanwhile does not take the form away.
    tokio::time::sleep(Duration::from_secs(11)).await;
    ensure!(
        browser.evaluate("document.activeElement.value").await? == "the pump is being mended",
        "the note stays"
    );
    browser.press("Enter").await?;
    browser.until("document.body.innerText.includes('◆ acknowledged')").await?;
    browser.until("document.body.innerText.includes('the pump is being mended')").await?;
    browser.until("document.getElementById('alarms').innerText === '▲ 1'").await?;
    let found = house.json("/api/v1/alarms?state=acknowledged").await?;
    ensure!(found["alarms"][0]["acknowledged"]["note"] == "the pump is being mended", "{found}");

    // What is looked after, with where it stands.
    browser.evaluate("document.querySelector('.rules summary').click()").await?;
    browser.until("document.querySelectorAll('.rules tbody tr').length === 9").await?;
    let rule =
        browser.evaluate("document.querySelector('.rules tbody tr:last-child').innerText").await?.to_string();
    for words in ["high", "configured", "A value is above 2.", "all gateways", "d0/p0, d0/p1"] {
        ensure!(rule.contains(words), "{words}: {rule}");
    }
    let found = browser.accessibility().await?;
    ensure!(found.is_empty(), "axe-core finds:\n{}", found.join("\n"));
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    Ok(())
}

/// With FOREBAY_TEST_PICTURES, a folder, pictures of every page stay there to be looked at.
#[tokio::test]
async fn every_page_fits_is_readable_and_axe_core_finds_nothing() -> Result<()> {
    let mut house = House::build("looked-at").await?;
    let ids = house.points().await?;
    house.until_alarms(2).await?;
    // An hour of history would take an hour: what there is after some seconds is drawn.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let pages = [
        ("fleet", "#/".to_owned(), "document.querySelector('.fleet tbody tr') !== null"),
        (
            "agent",
            "#/agent/north/looked-at".to_owned(),
            "document.querySelectorAll('.points tbody tr').length === 20",
        ),
        (
            "explore",
            format!("#/explore?points={},{}&from=-15m", ids[0], ids[1]),
            "document.querySelectorAll('.figures path.mean').length === 2",
        ),
        ("explore-nothing", "#/explore".to_owned(), "document.getElementById('find') !== null"),
        ("alarms", "#/alarms".to_owned(), "document.querySelectorAll('.alarms tbody tr').length === 2"),
        ("gaps", "#/gaps?agent=north/looked-at".to_owned(), "document.body.innerText.includes('reading')"),
        ("join", "#/join".to_owned(), "document.body.innerText.includes('Nobody waits')"),
        ("settings", "#/settings".to_owned(), "document.querySelector('.kept tbody tr') !== null"),
    ];
    let mut browser = Browser::start(1280).await?;
    let mut found = Vec::new();
    // What the first page costs, all its parts included, as they are sent.
    browser.go(&house.page("")).await?;
    browser.until(pages[0].2).await?;
    let loaded = "performance.getEntriesByType('resource').filter((part) => part.name.includes('/ui/')) \
                  .reduce((sum, part) => sum + part.decodedBodySize, 0)";
    let loaded = browser.evaluate(loaded).await?.as_u64().context("a size")?;
    ensure!(loaded > 20_000 && loaded < 150_000, "the first page is of {loaded} bytes");
    for (width, dark) in [(1280, false), (1280, true), (360, false), (360, true)] {
        browser.resize(width, 900).await?;
        browser.prefer_dark(dark).await?;
        for (name, hash, shown) in &pages {
            browser.go("about:blank").await?;
            browser.go(&house.page(hash)).await?;
            browser.until(shown).await?;
            browser.until("document.getElementById('status').innerText === '● up to date'").await?;
            let wide = browser.evaluate("document.documentElement.scrollWidth").await?;
            ensure!(
                wide.as_u64().is_some_and(|wide| wide <= u64::from(width)),
                "{name} is {wide} pixels wide at {width}"
            );
            let place = format!("{name}, {width} pixels, {}", if dark { "dark" } else { "light" });
            found.extend(browser.accessibility().await?.into_iter().map(|line| format!("{place}: {line}")));
            browser.keep_picture(&format!("{name}-{width}-{}", if dark { "dark" } else { "light" })).await?;
        }
    }
    ensure!(found.is_empty(), "axe-core finds:\n{}", found.join("\n"));
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());

    // A gateway that is silent tells why, as far as anybody knows. Its last word is made to be of yesterday.
    let agent = house.agent.take().context("it runs")?;
    agent.terminate(Duration::from_secs(30)).await?;
    let database = house.site.file("server/forebay.db");
    age(&database)?;
    browser.resize(1280, 900).await?;
    browser.prefer_dark(false).await?;
    browser.go(&house.page("#/agent/north/looked-at")).await?;
    browser.until("document.body.innerText.includes('Why is it offline?')").await?;
    browser.until("document.body.innerText.includes('It is the only gateway of north')").await?;
    let found = browser.accessibility().await?;
    ensure!(found.is_empty(), "axe-core finds on a silent agent's page:\n{}", found.join("\n"));
    browser.keep_picture("silent-1280-light").await?;
    Ok(())
}

/// The gateway was heard a day ago.
fn age(database: &Path) -> Result<()> {
    let connection = rusqlite::Connection::open(database)?;
    connection.execute("update agents set last_seen = last_seen - 86400000000", [])?;
    Ok(())
}
