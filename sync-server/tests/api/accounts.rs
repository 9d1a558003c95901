//! Ledger, faults and time marks, as a client is told of them.

use forebay_protocols::sync::wire::{self, gap::Reason, sent_batch::Clock};
use forebay_server::store::{AgentKey, Delivery, Fault, FaultKind, FaultRow, LedgerRow, Micros, TimeMark};
use serde_json::{Value as Json, json};

use crate::booked::{Booked, closed_report, ledger};
use crate::house::{House, SECOND, float};

struct Accounts {
    house: House,
    store: std::sync::Arc<Booked>,
    one: AgentKey,
    other: AgentKey,
}

impl Accounts {
    async fn build() -> Self {
        let mut store = None;
        let house = House::over(|real| {
            let booked = Booked::over(real);
            store = Some(booked.clone());
            booked
        });
        let house = house.await;
        let (one, other) = (house.agent("one").await, house.agent("other").await);
        Self { house, store: store.unwrap(), one, other }
    }

    fn fault(&self, agent: AgentKey, kind: FaultKind, seconds_ago: i64, over: Option<Micros>) {
        let at = self.house.now - seconds_ago * SECOND;
        let fault = Fault {
            agent,
            kind,
            subject: format!("{}/0", "07".repeat(16)),
            words: format!("Words of {kind:?}."),
            remedy: "Look.".into(),
            at,
        };
        self.store.books().faults.push(FaultRow { fault, last: at + SECOND, over });
    }
}

fn moment(at: Micros) -> Json {
    json!(jiff::Timestamp::from_microsecond(at).unwrap().to_string())
}

#[tokio::test]
async fn the_ledger_tells_of_every_buffer_whether_its_books_close() {
    let accounts = Accounts::build().await;
    let now = accounts.house.now;
    let doubtful = LedgerRow { current: false, ..ledger(accounts.other, 50, -2, now) };
    let unheard = LedgerRow { report: None, fork: 2, ..ledger(accounts.other, 0, 0, now) };
    accounts.store.books().ledgers = vec![ledger(accounts.one, 1_000, 0, now), doubtful, unheard];

    let told = accounts.house.json("/api/v1/ledger").await;
    let short = |row: &Json| (row["agent"].clone(), row["verdict"].clone(), row["words"].clone());
    assert_eq!(
        told["buffers"].as_array().unwrap().iter().map(short).collect::<Vec<_>>(),
        [
            (json!("hall/one"), json!("closed"), json!("")),
            (
                json!("hall/other"),
                json!("doubtful"),
                json!("50 readings were acknowledged and 48 are here: 2 missing")
            ),
            (json!("hall/other"), json!("unreported"), json!("")),
        ]
    );
    let first = &told["buffers"][0];
    assert_eq!(
        first,
        &json!({
            "agent": "hall/one", "epoch": "07".repeat(16), "fork": 0, "current": true,
            "verdict": "closed", "words": "", "last_seen": moment(now), "reported": moment(now),
            "produced": 1015, "filtered": 1, "in_hand": 2, "appended": 1012, "dropped": 7,
            "dropped_by": { "full": 4, "corrupt": 0, "thinned": 0, "other": 3 },
            "acknowledged": 1000, "backlog": 5, "stored": 1000, "set_aside": 0,
        })
    );
    let unheard = &told["buffers"][2];
    assert_eq!(
        (&unheard["produced"], &unheard["dropped_by"]),
        (&Json::Null, &Json::Null),
        "unknown is not zero"
    );
    assert_eq!((&unheard["fork"], &told["buffers"][1]["current"]), (&json!(2), &json!(false)));
    assert_eq!(
        told["fleet"],
        json!({
            "buffers": 3, "open": 0, "produced": 1080, "filtered": 2, "in_hand": 4, "appended": 1074,
            "dropped": 14, "dropped_by": { "full": 8, "corrupt": 0, "thinned": 0, "other": 6 },
            "acknowledged": 1050, "backlog": 10, "stored": 1048, "set_aside": 0,
        })
    );
    let one = accounts.house.json("/api/v1/ledger?agent=hall/one").await;
    assert_eq!((one["buffers"].as_array().unwrap().len(), &one["fleet"]["acknowledged"]), (1, &json!(1000)));
}

#[tokio::test]
async fn a_buffer_is_open_while_a_fault_says_so_whatever_the_last_report_says() {
    let accounts = Accounts::build().await;
    accounts.store.books().ledgers = vec![ledger(accounts.one, 1_000, 0, accounts.house.now)];
    accounts.fault(accounts.other, FaultKind::Imbalance, 9, None);
    accounts.fault(accounts.one, FaultKind::Fork, 9, None);
    accounts.fault(accounts.one, FaultKind::Imbalance, 9, Some(accounts.house.now));
    let told = accounts.house.json("/api/v1/ledger").await;
    assert_eq!((&told["buffers"][0]["verdict"], &told["fleet"]["open"]), (&json!("closed"), &json!(0)));
    accounts.fault(accounts.one, FaultKind::Imbalance, 5, None);
    let told = accounts.house.json("/api/v1/ledger").await;
    assert_eq!((&told["buffers"][0]["verdict"], &told["fleet"]["open"]), (&json!("open"), &json!(1)));
    assert_eq!(told["buffers"][0]["words"], "Words of Imbalance.");
}

#[tokio::test]
async fn faults_that_stand_come_first_and_say_what_to_do() {
    let accounts = Accounts::build().await;
    let now = accounts.house.now;
    accounts.fault(accounts.one, FaultKind::Wiped, 10, Some(now));
    accounts.fault(accounts.one, FaultKind::Imbalance, 30, None);
    accounts.fault(accounts.other, FaultKind::Fork, 20, None);
    accounts.fault(accounts.other, FaultKind::ServerRestored, 40, Some(now));

    let told = accounts.house.json("/api/v1/faults").await;
    let kinds = |told: &Json| {
        let faults = told["faults"].as_array().unwrap().iter();
        faults.map(|fault| fault["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&told), ["fork", "imbalance", "buffer wiped", "server restored"]);
    assert_eq!(
        told["faults"][0],
        json!({
            "agent": "hall/other", "kind": "fork", "subject": format!("{}/0", "07".repeat(16)), "words": "Words of Fork.",
            "remedy": "Look.", "since": moment(now - 20 * SECOND), "last": moment(now - 19 * SECOND),
            "over": null,
        })
    );
    assert_eq!(told["faults"][2]["over"], moment(now));
    assert_eq!(kinds(&accounts.house.json("/api/v1/faults?agent=hall/one&limit=0").await), ["imbalance"]);

    let fleet = accounts.house.json("/api/v1/fleet").await;
    let of = |place: usize| kinds(&fleet["agents"][place]);
    assert_eq!((of(0), of(1)), (vec!["imbalance".to_owned()], vec!["fork".to_owned()]), "only what stands");
}

#[tokio::test]
async fn the_fleet_tells_why_readings_were_dropped_and_what_is_kept_behind() {
    let accounts = Accounts::build().await;
    let report = wire::Report { tail_bytes: 77, ..closed_report(10) };
    let told = Delivery { report: Some(report), ..accounts.house.delivery(accounts.one) };
    accounts.house.ingest(told).await;
    let fleet = accounts.house.json("/api/v1/fleet").await;
    let (told, unheard) = (&fleet["agents"][0], &fleet["agents"][1]);
    assert_eq!(told["ledger"]["dropped_by"], json!({ "full": 4, "corrupt": 0, "thinned": 0, "other": 3 }));
    assert_eq!(told["backlog"]["tail_bytes"], 77);
    assert_eq!(unheard["ledger"]["dropped_by"], Json::Null);
}

#[tokio::test]
async fn time_marks_tell_which_times_were_corrected() {
    let accounts = Accounts::build().await;
    let now = accounts.house.now;
    let mark = |agent, boot_counter, clock, hours: i64| TimeMark {
        agent,
        boot_counter,
        clock,
        from: now - hours * 3_600 * SECOND,
        to: now - hours * 3_600 * SECOND + SECOND,
        readings: 12,
        correction_us: -1_500,
    };
    accounts.store.books().marks = vec![
        mark(accounts.one, 4, Clock::Bracketed, 800),
        mark(accounts.one, 5, Clock::Corrected, 5),
        mark(accounts.other, 9, Clock::Bracketed, 3),
    ];
    let told = accounts.house.json("/api/v1/time-marks").await;
    assert_eq!(
        (told["marks"].as_array().unwrap().len(), &told["more"]),
        (2, &json!(false)),
        "of the last 30 days"
    );
    let from = now - 5 * 3_600 * SECOND;
    assert_eq!(
        told["marks"][0],
        json!({
            "agent": "hall/one", "boot": 5, "clock": "corrected", "from": moment(from),
            "to": moment(from + SECOND), "readings": 12, "correction_ms": -1.5,
        })
    );
    let cut = accounts.house.json("/api/v1/time-marks?from=-52w&limit=2").await;
    assert_eq!((&cut["marks"][0]["clock"], &cut["more"]), (&json!("bracketed"), &json!(true)));
    let others = accounts.house.json("/api/v1/time-marks?agent=hall/other&from=-4h").await;
    assert_eq!(others["marks"][0]["boot"], 9);
}

#[tokio::test]
async fn a_gap_of_a_device_names_it_and_a_point_of_a_fork_its_number() {
    let accounts = Accounts::build().await;
    let gap = |device: &str, reason: Reason| {
        let now = accounts.house.now;
        let gap = wire::Gap {
            from_us: now - SECOND,
            to_us: now,
            device: device.into(),
            reason: reason.into(),
            ..Default::default()
        };
        (accounts.one, gap)
    };
    accounts.store.books().gaps = vec![
        gap("boiler", Reason::DeviceSilent),
        gap("", Reason::ServerLost),
        gap("", Reason::Thinned),
        gap("", Reason::Wiped),
    ];
    let gaps = accounts.house.json("/api/v1/gaps").await;
    let told = gaps["gaps"].as_array().unwrap().iter();
    assert_eq!(
        told.map(|gap| (&gap["device"], gap["reason"].as_str().unwrap())).collect::<Vec<_>>(),
        [
            (&json!("boiler"), "device silent"),
            (&Json::Null, "server lost it"),
            (&Json::Null, "thinned out"),
            (&Json::Null, "buffer wiped"),
        ]
    );
    accounts.house.stored(accounts.one, 1, vec![float(1, accounts.house.now, 1.0)]).await;
    accounts.store.books().fork = 3;
    assert_eq!(accounts.house.json("/api/v1/points").await["points"][0]["fork"], 3);
}
