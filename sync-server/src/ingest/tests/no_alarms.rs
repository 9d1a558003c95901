//! The store in maps has no alarms.

use async_trait::async_trait;

use super::memory::Memory;
use crate::store::alarms::*;
use crate::store::*;

#[async_trait]
impl Alarms for Memory {
    async fn standing_alarms(&self) -> Result<(Vec<AlarmRow>, Vec<Pending>), StoreError> {
        Ok(Default::default())
    }

    async fn alarms(&self, _: &AlarmQuery) -> Result<Vec<AlarmRow>, StoreError> {
        Ok(vec![])
    }

    async fn alarm_summary(&self) -> Result<AlarmSummary, StoreError> {
        Ok(AlarmSummary::default())
    }

    async fn change_alarms(&self, _: Vec<AlarmChange>, _: Micros) -> Result<Vec<Told>, StoreError> {
        Ok(vec![])
    }

    async fn acknowledge_alarm(
        &self,
        _: AlarmKey,
        _: &str,
        _: &str,
        _: Micros,
    ) -> Result<Option<AlarmRow>, StoreError> {
        Ok(None)
    }

    async fn latest(&self, _: &[PointKey]) -> Result<Vec<(PointKey, Latest)>, StoreError> {
        Ok(vec![])
    }

    async fn silences(
        &self,
        _: AgentKey,
        _: Micros,
        _: Micros,
        _: usize,
    ) -> Result<Vec<Silence>, StoreError> {
        Ok(vec![])
    }

    async fn add_webhook(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn next_for_webhook(
        &self,
        _: &str,
        _: i16,
        _: Micros,
        _: Micros,
    ) -> Result<Option<(AlarmEvent, u32)>, StoreError> {
        Ok(None)
    }

    async fn webhook_told(&self, _: &str, _: i64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn webhook_failed(&self, _: &str, _: i64, _: Micros, _: &str) -> Result<(), StoreError> {
        Ok(())
    }
}
