use std::path::Path;

use serde_json::{Value as Json, json};

use super::super::paint::Paint;
use super::super::sight::{Seen, Sight};
use super::backlog;
use super::page::{Page, figure, link_words};
use super::{ABSENT, TROUBLED, UNKNOWN, exit_code};
use crate::buffer::inspect::{Backlog, Edge};

const CONFIG: &str = "[agent]\nsite = \"t\"\ngateway = \"g\"\nstate_dir = \"/nowhere\"\n\
                      [link.hall.modbus-tcp]\naddress = \"10.0.0.1\"\n[link.hall.device.pump]\npoints.p = { address = 0 }\n";

fn sight(agent: Seen) -> Sight {
    let config = forebay_config::load::agent_text("agent.toml", CONFIG);
    let buffer = Err("there is no buffer at /nowhere/buffer".into());
    Sight {
        path: Path::new("agent.toml").into(),
        config,
        state_dir: "/nowhere".into(),
        agent,
        buffer,
        identity: Ok(None),
    }
}

/// What goes wrong with an agent that was well.
type Change = fn(&mut Json);

/// An agent that is well, but for what is changed in it.
fn agent(change: impl FnOnce(&mut Json)) -> Seen {
    let mut agent = json!({
        "version": "0.1.0", "process": 7, "started_us": 1_700_000_000_000_000_i64, "uptime_s": 90,
        "clock": { "source": "system", "system_ahead_s": 0.0 },
        "config": { "mistakes": [], "needs_restart": [] },
        "ledger": { "produced": 12_345, "dropped": 0 }, "imbalance": 0,
        "gaps": { "device_silent": 0, "agent_down": 0 },
        "buffer": { "state": "open", "writable": true },
        "uplink": { "state": "not_joined", "words": "" },
        "links": [{ "name": "hall", "protocol": "modbus-tcp", "state": "connected", "words": "", "per_second": 2.04,
                    "devices": [{ "name": "pump", "answers": true, "words": "" }] }],
    });
    change(&mut agent);
    Seen::Running(agent)
}

fn shown(agent: Seen) -> (String, Vec<String>, u8) {
    let sight = sight(agent);
    let page = Page::new(&sight);
    (page.text(Paint::plain()), page.troubles(), exit_code(&sight, &page))
}

#[test]
fn an_agent_that_is_well_is_told_in_a_few_lines_and_exits_0() {
    let (text, troubles, code) = shown(agent(|_| ()));
    assert_eq!((troubles, code), (vec![], 0), "{text}");
    for words in [
        "Agent        running since 2023-11-14 22:13:20 UTC (90 s), version 0.1.0, process 7\n",
        "Config       agent.toml ok: 1 link, 1 device, 1 point\n",
        "Uplink       not joined: readings stay in the buffer until `forebay-agent join`\n",
        "Readings     2.0 a second, 12,345 since the buffer began, 0 dropped\n",
        "hall  modbus-tcp   1 of 1         2.0  running\n",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(text.lines().all(|line| line.len() <= 110 && !line.contains('\x1b')), "{text}");
}

#[test]
fn whatever_needs_a_look_is_named_with_what_to_do_and_exits_1() {
    let cases: [(Change, &str); 8] = [
        (|a| a["links"][0]["devices"][0]["answers"] = json!(false), "1 device does not answer on link hall"),
        (
            |a| {
                a["links"][0]["state"] = json!("backing_off");
                a["links"][0]["words"] = json!("cannot reach 10.0.0.1:502: nobody\nthere");
                a["links"][0]["next_attempt_s"] = json!(12.3);
            },
            "link hall is down, next attempt in 12 s: cannot reach 10.0.0.1:502: nobody there",
        ),
        (|a| a["config"]["mistakes"] = json!(["a", "b"]), "the configuration was not reloaded"),
        (
            |a| a["config"]["needs_restart"] = json!(["buffer.max_size"]),
            "buffer.max_size has changed: `systemctl restart",
        ),
        (|a| a["buffer"]["writable"] = json!(false), "the disk refuses writes"),
        (
            |a| a["uplink"] = json!({ "state": "troubled", "words": "the certificate was revoked" }),
            "the certificate was revoked",
        ),
        (
            |a| a["uplink"] = json!({ "state": "up", "words": "this buffer is a copy" }),
            "this buffer is a copy",
        ),
        (|a| a["imbalance"] = json!(3), "the ledger does not close"),
    ];
    for (change, words) in cases {
        let (text, troubles, code) = shown(agent(change));
        assert_eq!((troubles.len(), code), (1, TROUBLED), "{words}: {troubles:?}");
        assert!(troubles[0].contains(words), "no {words:?} in {troubles:?}");
        assert!(text.contains("To look at\n  "), "{text}");
    }
}

/// What stands in the buffer's line of an agent with this backlog and uplink, a minute of backlog being on the disk.
fn buffer_words(backlog: (u64, Option<f64>), in_hand: u64, uplink: (&str, &str)) -> String {
    let now_us = 1_700_000_100_000_000;
    let edge = Edge { sequence: 7, wall_us: now_us - 60_000_000, synchronised: Some(true) };
    let on_disk =
        Backlog { batches: 60, readings: 600, bytes: 9_000, oldest: Some(edge), newest: Some(edge) };
    let (batches, oldest_s) = backlog;
    let agent = agent(|a| {
        a["ledger"]["backlog"] = json!(batches * 11);
        a["ledger"]["in_hand"] = json!(in_hand);
        a["buffer"] = json!({ "state": "open", "writable": true, "backlog_batches": batches,
                              "backlog_bytes": batches * 100, "oldest_s": oldest_s });
        a["uplink"] = json!({ "state": uplink.0, "words": uplink.1, "acknowledged_s": 3.0 });
    });
    backlog::words(&agent, &on_disk, now_us)
}

#[test]
fn a_healthy_agent_is_up_to_date_whatever_the_disk_has_not_heard_of_yet() {
    let well = ("up", "");
    assert_eq!(buffer_words((0, None), 0, well), "up to date");
    assert_eq!(
        buffer_words((0, None), 273, well),
        "up to date; 273 readings are being collected for the next batch"
    );
    assert_eq!(buffer_words((2, Some(9.9)), 0, well), "up to date; 22 readings are on the way");
    assert_eq!(
        buffer_words((1, Some(0.4)), 1, well),
        "up to date; 11 readings are on the way, 1 is being collected for the next batch"
    );
}

#[test]
fn what_really_waits_is_told_with_its_age() {
    let well = ("up", "");
    assert_eq!(
        buffer_words((3, Some(10.0)), 5, well),
        "33 readings in 3 batches wait (300 B), the oldest from 2023-11-14 22:14:50 UTC (10 s ago)"
    );
    let old = "33 readings in 3 batches wait (300 B), the oldest from 2023-11-14 22:14:00 UTC (60 s ago)";
    assert_eq!(buffer_words((3, None), 0, well), old, "of one that is old the disk knows the time");
    // Nobody takes them, however new they are.
    for uplink in [
        ("troubled", "cannot reach x"),
        ("not_joined", ""),
        ("connecting", ""),
        ("up", "this buffer is a copy"),
    ] {
        let words = buffer_words((1, Some(0.1)), 5, uplink);
        assert!(words.starts_with("11 readings in 1 batch wait (100 B), the oldest"), "{uplink:?}: {words}");
        assert_eq!(buffer_words((0, None), 5, uplink), "nothing waits", "{uplink:?}");
    }
}

#[test]
fn of_an_agent_that_does_not_run_or_has_not_opened_its_buffer_the_disk_tells() {
    let on_disk = Backlog { batches: 60, readings: 600, bytes: 9_000, oldest: None, newest: None };
    let opening = agent(|a| {
        a["buffer"] = json!({ "state": "opening", "writable": false, "backlog_batches": 0 });
        a["uplink"] = json!({ "state": "waiting", "words": "" });
    });
    for agent in [Seen::Absent, Seen::Unknown("it is busy".into()), opening] {
        assert_eq!(backlog::words(&agent, &on_disk, 0), "600 readings in 60 batches wait (8.8 KiB)");
    }
}

#[test]
fn an_agent_that_does_not_run_or_does_not_tell_has_its_own_exit_code() {
    let (text, troubles, code) = shown(Seen::Absent);
    assert!(text.contains("not running") && text.contains("there is no buffer at"), "{text}");
    assert!(troubles[0].contains("systemctl start forebay-agent"), "{troubles:?}");
    assert_eq!(code, ABSENT);
    let (text, _, code) =
        shown(Seen::Unknown("live.sock may not be used by this user: try again with sudo".into()));
    assert!(text.contains("not known: live.sock may not"), "{text}");
    assert_eq!(code, UNKNOWN);
}

#[test]
fn json_tells_the_same_as_the_text() {
    let troubled = sight(agent(|a| a["imbalance"] = json!(3)));
    let json = Page::new(&troubled).json();
    assert_eq!((&json["running"], json["troubles"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    assert_eq!(json["agent"]["links"][0]["name"], "hall");
    assert_eq!(json["configuration"]["summary"], "ok: 1 link, 1 device, 1 point");
    assert_eq!(json["buffer"], Json::Null);
    let absent = sight(Seen::Absent);
    assert_eq!(Page::new(&absent).json()["running"], json!(false));
}

#[test]
fn rates_and_states_are_told_in_plain_words() {
    assert_eq!([None, Some(0.04), Some(99.0), Some(12_345.6)].map(figure), ["-", "0.0", "99.0", "12,346"]);
    let link = |state: &str| link_words(&json!({ "state": state, "words": "why\x1b[2J" }));
    assert_eq!(link("gave_up"), "cannot work: why [2J");
    assert_eq!(
        [link("connected"), link("connecting"), link("stopped")],
        ["running", "connecting", "stopped"]
    );
}
