//! The keeper of the ledger: when it raises a fault, when it ends one, and how often it looks.

use std::sync::Arc;
use std::time::Duration;

use forebay_server::ledger::Keeper;
use forebay_server::store::{AgentKey, FaultKind, LedgerRow, Micros};
use forebay_server::telemetry::Telemetry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::booked::{Booked, ledger};
use crate::house::{House, SECOND};

const MINUTE: Micros = 60 * SECOND;
const ONE: AgentKey = AgentKey(1);

async fn booked() -> (House, Arc<Booked>) {
    let mut booked = None;
    let house = House::over(|real| {
        let store = Booked::over(real);
        booked = Some(store.clone());
        store
    });
    (house.await, booked.unwrap())
}

/// Faults that stand: kind and words.
fn standing(store: &Booked) -> Vec<(FaultKind, String)> {
    let books = store.books();
    let standing = books.faults.iter().filter(|row| row.over.is_none());
    standing.map(|row| (row.fault.kind, row.fault.words.clone())).collect()
}

async fn check(keeper: &mut Keeper, store: &Booked, row: LedgerRow, now: Micros) {
    store.books().ledgers = vec![row];
    keeper.check(|| now).await.unwrap();
}

#[tokio::test]
async fn lost_readings_are_a_fault_at_the_second_report_and_over_when_the_books_close_again() {
    let (_house, store) = booked().await;
    let mut keeper = Keeper::new(store.clone(), Arc::new(Telemetry::new()));
    check(&mut keeper, &store, ledger(ONE, 1_000, -3, 0), MINUTE).await;
    assert_eq!(standing(&store), [], "a moment in between is no fault");
    check(&mut keeper, &store, ledger(ONE, 1_000, -3, 0), 2 * MINUTE).await;
    assert_eq!(standing(&store), [], "the same report proves nothing more");
    check(&mut keeper, &store, ledger(ONE, 1_100, -3, 2 * MINUTE), 3 * MINUTE).await;
    let words = "1100 readings were acknowledged and 1097 are here: 3 missing.";
    assert_eq!(standing(&store), [(FaultKind::Imbalance, words.to_owned())]);
    assert!(store.books().faults[0].fault.remedy.contains("Restart the agent"));
    check(&mut keeper, &store, ledger(ONE, 1_200, 0, 3 * MINUTE), 4 * MINUTE).await;
    assert_eq!(standing(&store), []);
    assert_eq!(store.books().faults[0].over, Some(4 * MINUTE));
}

#[tokio::test]
async fn several_servers_raise_one_fault_and_a_new_one_does_not_end_it() {
    let (_house, store) = booked().await;
    let telemetry = || Arc::new(Telemetry::new());
    let mut keepers = [Keeper::new(store.clone(), telemetry()), Keeper::new(store.clone(), telemetry())];
    for minute in 1..5 {
        for keeper in &mut keepers {
            check(keeper, &store, ledger(ONE, 1_000, -3, minute * MINUTE), minute * MINUTE).await;
        }
    }
    let (first, last) = (2 * MINUTE, 4 * MINUTE);
    let fault =
        |store: &Booked| store.books().faults.iter().map(|row| (row.fault.at, row.last)).collect::<Vec<_>>();
    assert_eq!(fault(&store), [(first, last)]);
    // It has no notes of its own yet, and the last report proves nothing.
    let mut new = Keeper::new(store.clone(), telemetry());
    check(&mut new, &store, ledger(ONE, 1_000, 8, 5 * MINUTE), 5 * MINUTE).await;
    assert_eq!(standing(&store).len(), 1);
}

#[tokio::test]
async fn doubled_readings_are_a_fault_once_the_gateway_is_quiet() {
    let (_house, store) = booked().await;
    let mut keeper = Keeper::new(store.clone(), Arc::new(Telemetry::new()));
    // 1,012 were appended, 7 of them dropped, 5 wait.
    for minute in 0..10 {
        check(&mut keeper, &store, ledger(ONE, 1_000, 13, minute * MINUTE), minute * MINUTE).await;
    }
    let words = "1013 readings are here and 1012 were appended: 1 too many.";
    assert_eq!(standing(&store), [(FaultKind::Imbalance, words.to_owned())]);
}

#[tokio::test]
async fn the_fleets_sums_and_faults_are_metrics() {
    let (_house, store) = booked().await;
    let telemetry = Arc::new(Telemetry::new());
    let mut keeper = Keeper::new(store.clone(), telemetry.clone());
    assert!(telemetry.render().contains("forebay_server_faults{kind=\"fork\"} 0\n"), "zero to begin with");
    for minute in 0..3 {
        let mut other = ledger(AgentKey(2), 50, 0, minute * MINUTE);
        other.fork = 1;
        store.books().ledgers = vec![ledger(ONE, 1_000, -3, minute * MINUTE), other];
        keeper.check(|| minute * MINUTE).await.unwrap();
    }
    let metrics = telemetry.render();
    for line in [
        "forebay_server_ledger_appended_readings 1074\n",
        "forebay_server_ledger_acknowledged_readings 1050\n",
        "forebay_server_ledger_stored_readings 1047\n",
        "forebay_server_ledger_backlog_readings 10\n",
        "forebay_server_ledger_dropped_readings{reason=\"full\"} 8\n",
        "forebay_server_ledger_dropped_readings{reason=\"corrupt\"} 0\n",
        "forebay_server_ledger_dropped_readings{reason=\"thinned\"} 0\n",
        "forebay_server_ledger_dropped_readings{reason=\"other\"} 6\n",
        "forebay_server_ledger_open_buffers 1\n",
        "forebay_server_faults{kind=\"imbalance\"} 1\n",
        "forebay_server_faults{kind=\"server_restored\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn it_looks_every_minute_through_an_outage_and_stops_when_told() {
    let (_house, store) = booked().await;
    let stop = CancellationToken::new();
    tokio::time::pause();
    let began = Instant::now();
    let running = tokio::spawn(Keeper::new(store.clone(), Arc::new(Telemetry::new())).run(stop.clone()));
    for checks in 1..6 {
        // Each moment comes when every task waits.
        for second in [5, 55] {
            let moment = began + Duration::from_secs(60 * (checks - 1) + second);
            tokio::time::sleep_until(moment).await;
            assert_eq!(store.books().checks, checks, "{second} s after check {checks}");
        }
        store.books().away = checks < 3;
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), running).await.unwrap().unwrap();
}
