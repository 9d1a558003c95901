//! The packages on a fresh Debian: installed, killed, upgraded, rebooted, without power, removed and
//! purged, while a meter on a serial line counts what it answered and SQL counts what arrived.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_tests::counting_meter::CountingMeter;
use forebay_tests::machine::Machine;
use forebay_tests::tests_folder;

/// Read every 200 ms and made durable every second, by a disk that takes its time: what a kill may
/// cost that nobody was promised.
const HELD: u32 = 12;

/// The unit comes by a credential. The server has no configuration: its address is the host's name.
const CONFIGURE: &str = r#"
printf kWh >/etc/forebay/credentials/unit
cat >/etc/forebay/agent.d/meter.toml <<'E'
[link.meter]
interval = "200ms"
[link.meter.modbus-rtu]
port = "/dev/ttyS1"
baud = 115200
[link.meter.device.meter]
unit_id = 1
points.number = { register = "holding", address = 0, type = "uint32", unit = "${credential:unit}" }
E"#;

const JOIN: &str = "runuser -u forebay -- forebay-agent join \
     \"$(runuser -u forebay-server -- forebay-server token create | grep -o 'fbj1[^ ]*' | head -n 1)\"";

/// Makes the packages of this build as `version`.
fn package(version: &str, into: &Path) -> Result<()> {
    let own = std::env::current_exe()?;
    let binaries = own.ancestors().nth(2).context("a test lies below target/")?;
    let out = Command::new(tests_folder().join("../cross/package"))
        .arg("x86_64-unknown-linux-gnu")
        .arg("--binaries")
        .arg(binaries)
        .arg("--into")
        .arg(into)
        .args(["--version", version])
        // A debug build is large, and the emulated machine slow.
        .envs([("DPKG_DEB_COMPRESSOR_TYPE", "gzip"), ("DPKG_DEB_COMPRESSOR_LEVEL", "1")])
        .output()?;
    ensure!(out.status.success(), "cross/package: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// What is in them, and what lintian says. Linked by this machine's own compiler they need its glibc, whatever it is.
fn check(packages: &Path) -> Result<()> {
    let debs = fs::read_dir(packages)?.flatten().map(|entry| entry.path());
    let debs: Vec<_> = debs.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    ensure!(debs.len() == 2, "{debs:?}");
    let script = tests_folder().join("../cross/check");
    let run = |glibc: &str| Command::new(&script).args(["--glibc", glibc]).args(&debs).output();
    let out = run("2.999")?;
    let words = String::from_utf8([out.stdout, out.stderr].concat())?;
    ensure!(out.status.success(), "cross/check: {words}");
    ensure!(!words.contains("lintian is not installed"), "tests/run --packages installs it: {words}");
    ensure!(!run("2.1")?.status.success(), "a glibc that nobody has any more is refused");
    Ok(())
}

/// What was done, what it may cost, and the numbers among which that may be.
struct Event {
    what: &'static str,
    may_cost: usize,
    numbers: RangeInclusive<u32>,
}

struct Trial {
    machine: Machine,
    meter: CountingMeter,
    events: Vec<Event>,
    /// What `systemd-analyze security` says of the services.
    exposures: Vec<String>,
}

impl Trial {
    /// Does something, and waits until both services run and the meter is read again.
    async fn event(
        &mut self,
        what: &'static str,
        may_cost: usize,
        deed: impl FnOnce(&mut Machine) -> Result<()>,
    ) -> Result<()> {
        let before = self.meter.answered();
        deed(&mut self.machine).context(what)?;
        self.machine.until("systemctl is-active forebay-agent forebay-server").context(what)?;
        self.meter.answers(10).await.with_context(|| format!("{what}: the meter is not read any more"))?;
        let numbers = before.saturating_sub(HELD)..=self.meter.answered();
        self.events.push(Event { what, may_cost, numbers });
        Ok(())
    }

    /// From the first installation to the last trace; the readings that the buffer said it has.
    async fn life(&mut self) -> Result<u64> {
        self.machine.switch_on()?;
        let machine = &mut self.machine;
        machine.run("mount /dev/nvme1n1 /mnt")?;
        machine.run("dpkg -i /mnt/1/*.deb")?;
        // Without a device or a server to know they run, and go on running.
        sleep(Duration::from_secs(8));
        machine.run("systemctl is-active forebay-agent forebay-server")?;
        let restarts = machine.run("systemctl show --value -p NRestarts forebay-agent forebay-server")?;
        ensure!(restarts.split_whitespace().all(|count| count == "0"), "restarted: {restarts}");
        machine.run("id -nG forebay | grep -w dialout")?;
        machine.run("test $(stat -c %a:%U:%G /etc/forebay/agent.toml) = 640:root:forebay")?;
        let units =
            "/usr/lib/systemd/system/forebay-agent.service /usr/lib/systemd/system/forebay-server.service";
        machine.run(&format!("systemd-analyze verify --man=no {units}"))?;
        for (service, threshold) in [("forebay-agent", 15), ("forebay-server", 12)] {
            let security = format!("systemd-analyze security --no-pager --threshold={threshold} {service}");
            let told = machine.run(&security)?;
            let overall = told.lines().find(|line| line.contains("Overall exposure level"));
            self.exposures.push(overall.context("an overall level")?.trim().to_owned());
        }
        machine.run("test -s /usr/share/bash-completion/completions/forebay-agent")?;
        machine.run("gzip -dc /usr/share/man/man1/forebay-agent-join.1.gz | grep -q 'join string'")?;

        machine.run(CONFIGURE)?;
        machine.run("runuser -u forebay -- forebay-agent check")?;
        machine.run("systemctl restart forebay-agent")?;
        self.meter.answers(10).await.context("the agent reads before it has joined")?;
        self.machine.run(JOIN)?;
        self.meter.answers(10).await?;

        self.event("kill -9 of the agent", HELD as usize, |machine| {
            machine.run("systemctl kill -s KILL --kill-who=main forebay-agent")?;
            machine.until("systemctl show --value -p NRestarts forebay-agent | grep -qx 1").map(drop)
        })
        .await?;
        self.event("kill -9 of the server", 0, |machine| {
            machine.run("systemctl kill -s KILL --kill-who=main forebay-server")?;
            machine.until("systemctl show --value -p NRestarts forebay-server | grep -qx 1").map(drop)
        })
        .await?;
        // An answer that is under way when the agent ends is no reading yet.
        self.event("reload", 1, |machine| {
            machine.run("echo '# changed' >>/etc/forebay/agent.d/meter.toml")?;
            machine.run("systemctl reload-or-restart forebay-agent").map(drop)
        })
        .await?;
        self.event("upgrade", 1, |machine| {
            let config = machine.run("cat /etc/forebay/agent.toml /etc/forebay/agent.d/*")?;
            let epoch = "runuser -u forebay -- forebay-agent buffer status | grep '^epoch'";
            let buffer = machine.run(epoch)?;
            machine.run("dpkg -i /mnt/2/*.deb")?;
            let version = machine.run("dpkg-query -W -f '${Version} ' forebay-agent forebay-server")?;
            ensure!(version == "0.1.0+2 0.1.0+2 ", "{version:?}");
            ensure!(machine.run("cat /etc/forebay/agent.toml /etc/forebay/agent.d/*")? == config);
            ensure!(machine.run(epoch)? == buffer, "another buffer");
            // The new programs run, not the old ones whose files are gone.
            machine.run("! ls -l /proc/[0-9]*/exe 2>/dev/null | grep 'forebay.*deleted'").map(drop)
        })
        .await?;
        self.event("reboot", 1, |machine| {
            // Without the folders of credentials both start all the same.
            machine.run("sed -i s/.{credential:unit}/kWh/ /etc/forebay/agent.d/meter.toml")?;
            machine.run("rm -r /etc/forebay/credentials /etc/forebay/server-credentials")?;
            machine.reboot()
        })
        .await?;
        self.event("power cut", HELD as usize, |machine| {
            machine.cut_power()?;
            machine.switch_on()
        })
        .await?;
        let before = self.meter.answered();
        self.machine.run("systemctl stop forebay-agent")?;
        let numbers = before..=self.meter.answered();
        self.events.push(Event { what: "stop", may_cost: 1, numbers });
        let status = self.machine.run("forebay-agent buffer status --json")?;
        let status: serde_json::Value = serde_json::from_str(&status).context(status)?;
        ensure!(status["backlog"]["readings"] == 0, "the stop did not deliver what was left: {status}");
        let appended = status["readings"]["appended"].as_u64().context("a number")?;

        let machine = &mut self.machine;
        machine.run("systemctl stop forebay-server && mount /dev/nvme1n1 /mnt")?;
        machine.run("cp /var/lib/forebay-server/forebay.db /mnt && umount /mnt")?;
        machine.run("dpkg -r forebay-agent forebay-server")?;
        machine.run("test -s /etc/forebay/agent.toml && test -d /var/lib/forebay/buffer")?;
        machine.run("test -s /var/lib/forebay-server/forebay.db")?;
        machine.run("dpkg -P forebay-agent forebay-server")?;
        let left = machine.run("find / -xdev -name '*forebay*' -not -path '/var/log/*'")?;
        ensure!(left.is_empty(), "purge left {left}");
        let (code, _) = machine.ask("getent passwd forebay forebay-server")?;
        ensure!(code == 2, "purge left the users");
        machine.switch_off()?;
        Ok(appended)
    }
}

/// The numbers that were stored, the unit they were stored with, and how many readings there are, with
/// those that say that the meter was silent.
fn stored(database: &Path) -> Result<(Vec<u32>, String, i64)> {
    let database = rusqlite::Connection::open(database)?;
    let mut numbers = database.prepare(
        "select value from readings join points using (point) where name = 'number' and quality = 0",
    )?;
    let numbers = numbers.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let unit = database.query_row("select unit from points where name = 'number'", [], |row| row.get(0))?;
    let rows = database.query_row("select count(*) from readings", [], |row| row.get::<_, i64>(0))?;
    Ok((numbers, unit, rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packages_live_through_kill_upgrade_reboot_and_power_cut_and_go_without_a_trace() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let share = folder.path().join("share");
    for (part, version) in [("1", "0.1.0"), ("2", "0.1.0+2")] {
        package(version, &share.join(part))?;
        for archive in fs::read_dir(share.join(part))?.flatten().map(|entry| entry.path()) {
            if archive.extension().is_some_and(|end| end == "gz") {
                fs::remove_file(archive)?;
            }
        }
    }
    check(&share.join("1"))?;
    let meter = CountingMeter::start().await?;
    let machine = Machine::new(folder.path(), &share, meter.address())?;
    let mut trial = Trial { machine, meter, events: Vec::new(), exposures: Vec::new() };
    let appended = match trial.life().await {
        Ok(appended) => appended,
        Err(error) => {
            let journal = trial.machine.ask("journalctl --no-pager -n 60 -u 'forebay-*'");
            return Err(error.context(journal.map_or_else(|why| why.to_string(), |(_, words)| words)));
        }
    };

    let Trial { machine, meter, events, exposures } = trial;
    println!("{}", exposures.join("\n"));
    let (numbers, unit, rows) = stored(&machine.shared("forebay.db")?)?;
    let different: BTreeSet<u32> = numbers.iter().copied().collect();
    let missing: BTreeSet<u32> =
        (1..=meter.answered()).filter(|number| !different.contains(number)).collect();
    println!("{} answers, {} stored, missing {missing:?}", meter.answered(), numbers.len());
    assert_eq!(u64::try_from(rows)?, appended, "every reading that the buffer had stands once");
    assert_eq!(unit, "kWh");
    assert_eq!(different.len(), numbers.len(), "stored twice");
    let mut unexplained = missing;
    // Events overlap: what was held when the power went was read after the reboot before it. Those that may
    // cost most come first.
    let mut events = events;
    events.sort_by_key(|event| std::cmp::Reverse(event.may_cost));
    for Event { what, may_cost, numbers } in events {
        let cost: Vec<u32> = unexplained.iter().copied().filter(|number| numbers.contains(number)).collect();
        println!("{what}: {cost:?} of {numbers:?}");
        assert!(cost.len() <= may_cost, "{what} cost {cost:?}");
        unexplained.retain(|number| !numbers.contains(number));
    }
    assert!(unexplained.is_empty(), "lost without a cause: {unexplained:?}");
    Ok(())
}
