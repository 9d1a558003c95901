use serde_json::json;

use super::*;

fn agent(links: usize) -> Seen {
    let link = |n: usize| {
        json!({ "name": format!("link-{n}"), "state": "connected", "words": "", "per_second": 1.5, "discarded": 0,
                "bus": { "utilisation": 0.42 },
                "devices": [{ "name": "a\x1b[2J", "answers": false, "words": "unit 1 did not answer ".repeat(9) }] })
    };
    Seen::Running(json!({
        "uptime_s": 7_300, "clock": { "source": "server" },
        "ledger": { "produced": 1_234_567, "backlog": 1_000, "dropped": 5 }, "gaps": { "device_silent": 2, "agent_down": 1 },
        "buffer": { "backlog_bytes": 2_048, "disk_bytes": 1_048_576, "limit_bytes": 1_073_741_824_u64, "writable": true },
        "uplink": { "state": "troubled", "words": "cannot reach x", "acknowledged_s": 12.0 },
        "links": (0..links).map(link).collect::<Vec<_>>(),
    }))
}

#[test]
fn a_page_fits_a_screen_of_80_by_24_whatever_there_is() {
    for links in [0, 1, 9, 200] {
        let lines = page("north/boiler-house", &agent(links), 80, 24, &mut 0, Paint::plain());
        assert!(lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines.iter().all(|line| !line.contains('\x1b')), "{lines:#?}");
        let text = lines.join("\n");
        for words in [
            "backlog 1,000 readings, 2.0 KiB",
            "uplink troubled, acknowledged 12 s ago: cannot reach x",
            "5 dropped  gaps 3",
        ] {
            assert!(text.contains(words), "no {words} in\n{text}");
        }
    }
    let told = page("t/g", &Seen::Absent, 80, 24, &mut 0, Paint::plain());
    assert_eq!(told[1], "The agent does not run.");
}

#[test]
fn scrolling_ends_where_the_links_end() {
    let mut offset = 1_000;
    let lines = page("t/g", &agent(20), 80, 24, &mut offset, Paint::plain());
    assert!(lines.last().unwrap().starts_with("  a"), "{lines:#?}");
    assert_eq!(offset, 40 - 17);
    let mut offset = 0;
    let lines = page("t/g", &agent(20), 80, 24, &mut offset, Paint::plain());
    assert_eq!(lines.last().unwrap(), "… 24 more lines; the arrows scroll");
}
