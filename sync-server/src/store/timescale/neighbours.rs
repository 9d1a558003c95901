//! Words between servers by LISTEN and NOTIFY. A pooler before the database must keep sessions for that.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use forebay_protocols::reading::PointId;
use futures::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::neighbours::{Heard, Neighbours, Newest};
use super::super::{AgentKey, Micros, PointKey, StoreError, Timed};
use super::values::{Moment, quality, value};
use super::{CONNECT, limited};

const CHANNEL: &str = "forebay_live";
/// A connection on which nothing is said is asked whether it still is one.
const ALIVE: Duration = Duration::from_secs(30);

/// The way to the other servers on this database.
pub struct Listening {
    pub config: Config,
    pub tls: Option<MakeRustlsConnect>,
    pub pool: Pool,
}

#[async_trait]
impl Neighbours for Listening {
    async fn hear(&self, words: mpsc::Sender<Heard>) -> Result<(), StoreError> {
        let mut config = self.config.clone();
        config.keepalives(true).keepalives_idle(ALIVE);
        let late = |_| StoreError::Away(format!("no connection within {} s", CONNECT.as_secs()));
        match &self.tls {
            None => {
                let (client, connection) = timeout(CONNECT, config.connect(NoTls)).await.map_err(late)??;
                listen(client, connection, words).await
            }
            Some(tls) => {
                let (client, connection) =
                    timeout(CONNECT, config.connect(tls.clone())).await.map_err(late)??;
                listen(client, connection, words).await
            }
        }
    }

    async fn tell(&self, words: &[String]) -> Result<(), StoreError> {
        limited(async {
            let client = self.pool.get().await?;
            let statement =
                client.prepare_cached("select pg_notify($1, word) from unnest($2::text[]) word").await?;
            client.execute(&statement, &[&CHANNEL, &words]).await?;
            Ok(())
        })
        .await
    }

    async fn newest(&self, of: &[(AgentKey, Micros)]) -> Result<Vec<Newest>, StoreError> {
        let sql = "select p.agent, l.point, l.time, l.quality, l.value, l.whole, l.state, l.text \
                   from unnest($1::bigint[], $2::timestamptz[]) as w(agent, since) \
                   join points p on p.agent = w.agent join latest l on l.point = p.point \
                   where l.time >= w.since order by p.agent, l.point";
        limited(async {
            let client = self.pool.get().await?;
            let statement = client.prepare_cached(sql).await?;
            let agents: Vec<i64> = of.iter().map(|(agent, _)| agent.0).collect();
            let since: Vec<Moment> = of.iter().map(|(_, since)| Moment(*since)).collect();
            let mut all: Vec<Newest> = Vec::new();
            for row in client.query(&statement, &[&agents, &since]).await? {
                let (agent, key) = (AgentKey(row.try_get(0)?), row.try_get::<_, i32>(1)?);
                // Keys are counted up from 1, so one may stand for the dictionary number it has none of here.
                let point = PointId(key as u32);
                let time = row.try_get::<_, Moment>(2)?.0;
                let reading =
                    Timed { point, time, value: value(&row, 4)?, quality: quality(row.try_get(3)?) };
                if all.last().is_none_or(|last| last.agent != agent) {
                    all.push(Newest { agent, points: Vec::new(), readings: Vec::new() });
                }
                let Some(last) = all.last_mut() else { continue };
                last.points.push((point, PointKey(key.into())));
                last.readings.push(reading);
            }
            Ok(all)
        })
        .await
    }
}

async fn listen<S, T>(
    client: Client,
    mut connection: Connection<S, T>,
    words: mpsc::Sender<Heard>,
) -> Result<(), StoreError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let sql = format!("listen {CHANNEL}");
    let mut asking = pin!(client.batch_execute(&sql));
    let mut messages = pin!(stream::poll_fn(move |context| connection.poll_message(context)));
    let mut is_listening = false;
    loop {
        // Cancel-safe: next() takes a message only when it gives it.
        let heard = tokio::select! {
            done = &mut asking, if !is_listening => {
                done?;
                is_listening = true;
                Heard::Listening
            }
            message = messages.next() => match message {
                Some(Ok(AsyncMessage::Notification(told))) => Heard::Word(told.payload().to_owned()),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(StoreError::Away("the database closed the connection it is heard by".into())),
            },
        };
        if words.send(heard).await.is_err() {
            return Ok(());
        }
    }
}
