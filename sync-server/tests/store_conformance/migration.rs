//! A database of the first version, with everything in it, is brought up to date and keeps it all.

use std::sync::Arc;

use forebay_config::server;
use forebay_protocols::reading::Value;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::{self, sync_answer::Verdict};
use forebay_server::store::{Delivery, Query};

use crate::lineage::{of, opening};
use crate::place::{NOW, Place, SECOND, connect, delivery, delivery_of};
use crate::rollups::{DAY, ask, roll_all};

mod sqlite {
    refinery::embed_migrations!("src/store/migrations/sqlite");
}
mod postgres {
    refinery::embed_migrations!("src/store/migrations/postgres");
}

/// The first version's tables, as its own server made them.
async fn first_version(place: &Place) {
    let first = |mut runner: refinery::Runner| {
        runner.set_migration_table_name("forebay_schema");
        runner.set_target(refinery::Target::Version(1))
    };
    match place.config() {
        server::Store::Sqlite { path } => {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut connection = rusqlite::Connection::open(path).unwrap();
            first(sqlite::migrations::runner()).run(&mut connection).unwrap();
        }
        server::Store::Postgres { .. } => {
            let mut client = connect(&place.url()).await;
            first(postgres::migrations::runner()).run_async(&mut client).await.unwrap();
        }
    }
}

pub async fn a_database_of_the_first_version_keeps_everything(place: Arc<Place>) {
    first_version(&place).await;
    let is_sqlite = matches!(&*place, Place::Sqlite { .. });
    let moment = |seconds: i64| match is_sqlite {
        true => (NOW + seconds * SECOND).to_string(),
        false => format!("to_timestamp({})", NOW / SECOND + seconds),
    };
    let bytes = |hex: &str| if is_sqlite { format!("x'{hex}'") } else { format!("'\\x{hex}'::bytea") };
    let (seven, eight) = (bytes(&"07".repeat(16)), bytes(&"08".repeat(16)));
    let committed = if is_sqlite { "x'0101'" } else { "'{[1,3)}'" };
    let value = "18.5";
    // Agent 1 has one epoch, agent 2 two of them, of which the second is the present one.
    place
        .sql(&format!(
            "insert into agents (site, gateway, joined, last_seen, epoch, stored, committed_batches, set_aside) \
               values ('hall', 'one', {t0}, {t9}, {seven}, 2, 1, 1), ('hall', 'two', {t0}, {t9}, {eight}, 5, 5, 0); \
             insert into certificates (agent, fingerprint, valid_until) values (1, {print}, {t9}); \
             insert into epochs (agent, epoch, committed, dictionary_revision, gaps_known) \
               values (1, {seven}, {committed}, 1, 1), (2, {seven}, {committed}, 0, 0), (2, {eight}, {committed}, 0, 0); \
             insert into points (agent, device, name, unit, kind, data_type, search) \
               values (1, 'boiler', 'p1', '°C', 'gauge', 'float', 'boiler/p1 °c'); \
             insert into dictionary (epoch_key, number, point) values (1, 1, 1); \
             insert into readings (point, time, quality, value) values (1, {t1}, 0, {value}), (1, {t2}, 0, {value}); \
             insert into latest (point, time, quality, value) values (1, {t2}, 0, {value}); \
             insert into gaps (epoch_key, number, entry, from_time, to_time, count, reason) \
               values (1, 1, 1, {t1}, {t2}, 5, 1); \
             insert into set_aside (epoch_key, sequence, bytes, reason, received) \
               values (1, 2, {seven}, 'cut short', {t2});",
            print = bytes(&"07".repeat(32)),
            t0 = moment(0),
            t1 = moment(1),
            t2 = moment(2),
            t9 = moment(9),
        ))
        .await;

    let store = place.open().await;
    let fleet = store.fleet().await.unwrap();
    let counts: Vec<_> = fleet.iter().map(|row| (row.stored, row.committed_batches, row.set_aside)).collect();
    assert_eq!(counts, [(2, 1, 1), (5, 5, 0)]);
    let newest: Vec<_> = fleet.iter().map(|row| (row.pulse.newest, row.pulse.traffic.bytes)).collect();
    assert_eq!(newest, [(Some(NOW + 2 * SECOND), 0), (None, 0)]);
    assert_eq!(
        (fleet[0].certificate.unwrap().0[..16].to_vec(), fleet[0].epoch),
        (vec![7; 16], Some(Epoch([7; 16])))
    );
    let points = store.points(None, "boiler", None, 10).await.unwrap();
    assert_eq!((points.len(), points[0].fork, points[0].key.0), (1, 0, 1));
    assert_eq!(points[0].latest.as_ref().unwrap().value, Some(Value::Float(18.5)));
    let query = Query { points: vec![points[0].key], from: NOW, to: NOW + 9 * SECOND, step: 0, most: 10 };
    assert_eq!(store.query(&query).await.unwrap()[0].1.len(), 2);
    let gaps = store.gaps(None, 0, NOW + 9 * SECOND, 10).await.unwrap();
    assert_eq!((gaps.len(), gaps[0].1.point, gaps[0].1.count, &*gaps[0].1.device), (1, 1, 5, ""));
    let aside =
        "select count(*) from set_aside where reason = 'cut short' and length(bytes) = 16 and checksum = 0";
    assert_eq!(place.number(aside).await, 1);
    let ledgers = store.ledgers(None).await.unwrap();
    let ledgers: Vec<_> =
        ledgers.iter().map(|row| (row.agent.0, row.epoch.0[0], row.fork, row.stored, row.current)).collect();
    assert_eq!(ledgers, [(1, 7, 0, 2, true), (2, 7, 0, 5, false), (2, 8, 0, 0, true)]);

    // Rollups are made of what was here before there were any.
    assert_eq!(roll_all(&store, NOW + 2 * DAY).await, [1, 1, 1]);
    assert_eq!(ask(&store, points[0].key, NOW, NOW + DAY, DAY).await[0].count, 2);

    // What was committed is known, with whatever checksum; what is new goes on behind it, and the
    // first report is believed.
    let report = |acknowledged| Some(wire::Report { acknowledged, ..Default::default() });
    let one =
        Delivery { report: report(900), ..delivery_of(fleet[0].key, 1, vec![of(3, 1), of(3, 2), of(3, 3)]) };
    let two = Delivery { epoch: Epoch([8; 16]), report: report(3), ..delivery(fleet[1].key) };
    let said = vec![wire::Opening { gaps: 1, ..opening(b'a', 3) }];
    let one = Delivery { opening: Some([b'a'; 8]), greeting: Some(said), received: NOW + 10 * SECOND, ..one };
    let receipts = store.ingest(vec![one, Delivery { received: NOW + 10 * SECOND, ..two }]).await.unwrap();
    let verdicts: Vec<_> = receipts[0].verdicts.iter().map(|(_, verdict)| *verdict).collect();
    assert_eq!(verdicts, [Verdict::Duplicate, Verdict::Duplicate, Verdict::Committed]);
    assert_eq!(receipts[0].committed.as_ref().unwrap().0.iter().collect::<Vec<_>>(), [(1, 3)]);
    assert_eq!((receipts[0].points[0].1.0, receipts[0].gaps_known), (1, 1));
    assert!(store.faults(None, 10).await.unwrap().is_empty());
    let row = &store.ledgers(Some(fleet[0].key)).await.unwrap()[0];
    assert_eq!((row.stored, row.stored_at_report), (3, 900));
    // From here on the books are exact.
    let more = Delivery { report: report(902), received: NOW + 11 * SECOND, ..delivery(fleet[0].key) };
    store.ingest(vec![more]).await.unwrap();
    assert_eq!(store.faults(None, 10).await.unwrap().len(), 1);
}
