//! Law that no compiler checks: licences, banned crates, units that systemd accepts, the shape of
//! the house.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate stands in the workspace")
        .to_owned()
}

/// Every package of the lock file, with its licence.
fn packages() -> Vec<(String, String)> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| (text(&p["name"]), text(&p["license"])))
        .collect()
}

fn policy(section: &str, key: &str) -> BTreeSet<String> {
    let deny: toml::Table =
        std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml").parse().expect("TOML");
    let name = |entry: &toml::Value| entry.get("name").unwrap_or(entry).as_str().expect("a name").to_owned();
    deny[section][key].as_array().expect("a list").iter().map(name).collect()
}

/// SPDX: some choice of every `OR` is allowed, and all parts of it that `AND` joins. The old `/` means `OR`.
fn allowed(licence: &str, allow: &BTreeSet<String>) -> bool {
    let spaced = licence.replace(['(', ')'], "").replace('/', " OR ");
    // Within these expressions AND binds a group of choices, so judging each group suffices.
    spaced.split(" AND ").all(|group| group.split(" OR ").any(|one| allow.contains(one.trim())))
}

#[test]
fn every_licence_is_one_we_accept() {
    let allow = policy("licenses", "allow");
    let refused: Vec<_> = packages().into_iter().filter(|(_, licence)| !allowed(licence, &allow)).collect();
    assert!(refused.is_empty(), "licences outside deny.toml: {refused:?}");
}

#[test]
fn nothing_banned_is_in_the_lock_file() {
    let banned = policy("bans", "deny");
    assert!(banned.contains("openssl-sys"));
    let found: Vec<_> = packages().into_iter().filter(|(name, _)| banned.contains(name)).collect();
    assert!(found.is_empty(), "banned by deny.toml: {found:?}");
}

#[test]
fn licence_expressions_are_read_right() {
    let allow = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    assert!(allowed("MIT/Apache-2.0", &allow));
    assert!(allowed("(MIT OR GPL-3.0-only) AND ISC", &allow));
    assert!(!allowed("MIT AND GPL-3.0-only", &allow));
    assert!(!allowed("", &allow));
}

#[test]
fn systemd_accepts_the_units() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        panic!("systemd-analyze is missing: install systemd");
    }
    let folder = tempfile::tempdir().expect("temp dir");
    let mut units = Vec::new();
    for name in ["forebay-agent.service", "forebay-server.service"] {
        let unit = std::fs::read_to_string(root().join("systemd").join(name)).expect("the unit");
        // The programs are not installed here; everything else stands as it ships.
        let unit = unit
            .replace("/usr/bin/forebay-agent", "/bin/true")
            .replace("/usr/bin/forebay-server", "/bin/true");
        std::fs::write(folder.path().join(name), unit).expect("write");
        units.push(folder.path().join(name));
    }
    let out =
        // The man pages are not installed here either.
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().expect("systemd-analyze runs");
    let words = String::from_utf8_lossy(&out.stderr);
    let ours: Vec<&str> = words.lines().filter(|line| line.contains("forebay")).collect();
    assert!(out.status.success() && ours.is_empty(), "{words}");
}

/// What systemd thinks of a unit's hardening: 0.0 is closed, 10.0 open.
fn exposure(unit: &str) -> f64 {
    let out = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(root().join("systemd").join(unit))
        .output()
        .expect("systemd-analyze runs");
    let words = String::from_utf8_lossy(&out.stdout);
    let figure = words.lines().find_map(|line| line.split_once("exposure level for ")?.1.split_once(": "));
    let figure = figure.and_then(|(_, figure)| figure.split(' ').next()?.parse().ok());
    figure.expect("systemd-analyze names a figure")
}

#[test]
fn the_units_are_as_closed_as_their_work_allows() {
    // Serial ports and the network are what remains of the agent's, the network of the server's.
    assert!(exposure("forebay-agent.service") <= 1.4);
    assert!(exposure("forebay-server.service") <= 1.1);
}

#[test]
fn the_units_start_without_a_network_and_never_give_up() {
    for name in ["forebay-agent.service", "forebay-server.service"] {
        let unit = std::fs::read_to_string(root().join("systemd").join(name)).expect("the unit");
        let says: BTreeSet<&str> = unit.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(says.contains("Restart=always") && says.contains("StartLimitIntervalSec=0"), "{name}");
        assert!(
            says.contains("Type=notify") && says.iter().any(|line| line.starts_with("WatchdogSec=")),
            "{name}"
        );
        assert!(says.iter().any(|line| line.starts_with("MemoryMax=")), "{name}");
        assert!(!says.iter().any(|line| line.contains("network-online")), "{name} waits for the network");
    }
}

#[test]
fn no_source_file_is_longer_than_two() {
    let mut long = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let lines = std::fs::read_to_string(&path).expect("UTF-8").lines().count();
                if lines > 600 {
                    long.push((path, lines));
                }
            }
        }
    }
    assert!(long.is_empty(), "600 lines are two files: {long:?}");
}
