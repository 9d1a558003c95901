//! Other ways of the same rows into the same database.

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use forebay_protocols::reading::Value;
use forebay_server::store::Timed;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

use super::Side;

/// The columns after time and point: quality and the value.
fn columns(reading: &Timed) -> (i16, Option<f64>) {
    (reading.quality.code().into(), reading.value.as_ref().and_then(Value::as_number))
}

fn time(reading: &Timed) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(reading.time as u64)
}

/// A prepared insert of 128 rows into the store's own table.
pub struct Sqlite(rusqlite::Connection);

impl Sqlite {
    pub fn open(path: &Path) -> Self {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.pragma_update(None, "synchronous", "full").unwrap();
        Self(connection)
    }
}

#[async_trait::async_trait]
impl Side for Sqlite {
    fn words(&self) -> String {
        format!("SQLite {}: a prepared insert of 128 rows, same table", rusqlite::version())
    }

    async fn store(&mut self, first: i32, readings: &[Timed]) {
        let transaction = self.0.transaction().unwrap();
        let places = vec!["(?, ?, ?, ?)"; 128].join(", ");
        let mut many = transaction.prepare_cached(&format!("insert into readings values {places}")).unwrap();
        let chunks = readings.chunks_exact(128);
        assert!(chunks.remainder().is_empty(), "rounds are whole statements");
        for chunk in chunks {
            for (reading, at) in chunk.iter().zip((1..).step_by(4)) {
                let (quality, value) = columns(reading);
                many.raw_bind_parameter(at, first + reading.point.0 as i32).unwrap();
                many.raw_bind_parameter(at + 1, reading.time).unwrap();
                many.raw_bind_parameter(at + 2, quality).unwrap();
                many.raw_bind_parameter(at + 3, value).unwrap();
            }
            many.raw_execute().unwrap();
        }
        drop(many);
        transaction.commit().unwrap();
    }
}

/// Ways into PostgreSQL, the fastest first.
pub async fn postgres(url: &str) -> Vec<Box<dyn Side>> {
    let client = connect(url).await;
    client
        .batch_execute(
            "create table unique_readings (time timestamptz not null, point integer not null, \
             quality smallint not null, value float8, primary key (point, time))",
        )
        .await
        .unwrap();
    vec![
        Box::new(Copy(connect(url).await)),
        Box::new(ManyRows(connect(url).await)),
        Box::new(OnConflict(client)),
    ]
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

struct Copy(Client);

#[async_trait::async_trait]
impl Side for Copy {
    fn words(&self) -> String {
        "COPY BINARY, same table, sorted, nothing else".into()
    }

    async fn store(&mut self, first: i32, readings: &[Timed]) {
        let copy = "copy readings (time, point, quality, value, whole, state, text) from stdin binary";
        let sink = self.0.copy_in(copy).await.unwrap();
        let types =
            [Type::TIMESTAMPTZ, Type::INT4, Type::INT2, Type::FLOAT8, Type::INT8, Type::BOOL, Type::TEXT];
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for reading in readings {
            let ((quality, value), point) = (columns(reading), first + reading.point.0 as i32);
            let row: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
                [&time(reading), &point, &quality, &value, &None::<i64>, &None::<bool>, &None::<&str>];
            writer.as_mut().write(&row).await.unwrap();
        }
        writer.finish().await.unwrap();
    }
}

/// A thousand rows a statement.
struct ManyRows(Client);

#[async_trait::async_trait]
impl Side for ManyRows {
    fn words(&self) -> String {
        "INSERT of 1,000 rows a statement, same table".into()
    }

    async fn store(&mut self, first: i32, readings: &[Timed]) {
        let transaction = self.0.transaction().await.unwrap();
        for chunk in readings.chunks(1_000) {
            let places: Vec<String> = (0..chunk.len())
                .map(|n| format!("(${}, ${}, ${}, ${})", n * 4 + 1, n * 4 + 2, n * 4 + 3, n * 4 + 4))
                .collect();
            let sql =
                format!("insert into readings (time, point, quality, value) values {}", places.join(", "));
            let statement = transaction.prepare(&sql).await.unwrap();
            let rows: Vec<_> = chunk
                .iter()
                .map(|reading| (time(reading), first + reading.point.0 as i32, columns(reading)))
                .collect();
            let values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = rows
                .iter()
                .flat_map(|(time, point, (quality, value))| {
                    [time as &(dyn tokio_postgres::types::ToSql + Sync), point, quality, value]
                })
                .collect();
            transaction.execute(&statement, &values).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
}

/// What keeps each reading once by a unique index.
struct OnConflict(Client);

#[async_trait::async_trait]
impl Side for OnConflict {
    fn words(&self) -> String {
        "INSERT from unnest, ON CONFLICT DO NOTHING, a unique index on (point, time), plain table".into()
    }

    async fn store(&mut self, first: i32, readings: &[Timed]) {
        let times: Vec<SystemTime> = readings.iter().map(time).collect();
        let points: Vec<i32> = readings.iter().map(|reading| first + reading.point.0 as i32).collect();
        let (qualities, values): (Vec<i16>, Vec<Option<f64>>) = readings.iter().map(columns).unzip();
        let sql = "insert into unique_readings select * from unnest($1::timestamptz[], $2::int[], \
                   $3::smallint[], $4::float8[]) on conflict do nothing";
        self.0.execute(sql, &[&times, &points, &qualities, &values]).await.unwrap();
    }
}
