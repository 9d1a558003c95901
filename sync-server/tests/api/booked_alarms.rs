//! Alarms of a [`Booked`] store are the real store's.

use async_trait::async_trait;
use forebay_server::store::alarms::*;
use forebay_server::store::*;

use crate::booked::Booked;

#[async_trait]
impl Alarms for Booked {
    async fn standing_alarms(&self) -> Result<(Vec<AlarmRow>, Vec<Pending>), StoreError> {
        self.real().standing_alarms().await
    }

    async fn alarms(&self, query: &AlarmQuery) -> Result<Vec<AlarmRow>, StoreError> {
        self.real().alarms(query).await
    }

    async fn alarm_summary(&self) -> Result<AlarmSummary, StoreError> {
        self.real().alarm_summary().await
    }

    async fn change_alarms(&self, changes: Vec<AlarmChange>, now: Micros) -> Result<Vec<Told>, StoreError> {
        self.real().change_alarms(changes, now).await
    }

    async fn acknowledge_alarm(
        &self,
        alarm: AlarmKey,
        by: &str,
        note: &str,
        now: Micros,
    ) -> Result<Option<AlarmRow>, StoreError> {
        self.real().acknowledge_alarm(alarm, by, note, now).await
    }

    async fn latest(&self, points: &[PointKey]) -> Result<Vec<(PointKey, Latest)>, StoreError> {
        self.real().latest(points).await
    }

    async fn silences(
        &self,
        agent: AgentKey,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<Silence>, StoreError> {
        self.real().silences(agent, from, to, most).await
    }

    async fn add_webhook(&self, name: &str) -> Result<(), StoreError> {
        self.real().add_webhook(name).await
    }

    async fn next_for_webhook(
        &self,
        name: &str,
        least: i16,
        now: Micros,
        lease: Micros,
    ) -> Result<Option<(AlarmEvent, u32)>, StoreError> {
        self.real().next_for_webhook(name, least, now, lease).await
    }

    async fn webhook_told(&self, name: &str, event: i64) -> Result<(), StoreError> {
        self.real().webhook_told(name, event).await
    }

    async fn webhook_failed(&self, name: &str, event: i64, due: Micros, why: &str) -> Result<(), StoreError> {
        self.real().webhook_failed(name, event, due, why).await
    }
}
