//! Alarms as they are kept. The row in the database is the truth: any number of servers may look, and
//! each change takes place once, because it names the version of the row that it was decided on.
//!
//! An alarm is a tenant's. A store that was made for one (`Store::within`) raises, tells and changes that one's
//! and no other's; one that was not raises the main tenant's, and tells all.
//!
//! Every change is also an event, in the same transaction. Webhooks follow the events, each from a
//! position of its own, so that none is lost by a restart and none is sent before it is true.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Latest, Micros, PointKey, Silence, StoreError};

/// Events kept of each tenant; a webhook that is further behind loses the oldest.
pub const EVENTS: i64 = 10_000;
/// An event is not told after so long: whoever comes back asks for the alarms that stand.
pub const TOLD_WITHIN: Micros = 86_400_000_000;
/// How long an alarm is kept after it was cleared.
pub const KEPT: Micros = 400 * 86_400_000_000;
/// A `due` further ahead than any pause was written by a clock that was wrong.
pub const LONGEST_PAUSE: Micros = 2 * 3_600_000_000;

/// The part of a store that keeps alarms.
#[async_trait]
pub trait Alarms: Send + Sync + 'static {
    /// The alarms that are not cleared, by key, and what may become one.
    async fn standing_alarms(&self) -> Result<(Vec<AlarmRow>, Vec<Pending>), StoreError>;

    /// Alarms, the newest first.
    async fn alarms(&self, query: &AlarmQuery) -> Result<Vec<AlarmRow>, StoreError>;

    /// How many there are, and the number of the newest event.
    async fn alarm_summary(&self) -> Result<AlarmSummary, StoreError>;

    /// All changes in one transaction. A change that another server made before, or whose row is of
    /// another version by now, does nothing. Gives what took place.
    async fn change_alarms(&self, changes: Vec<AlarmChange>, now: Micros) -> Result<Vec<Told>, StoreError>;

    /// Acknowledges an alarm, cleared or not. One that was acknowledged stays as it is. `None`: there is
    /// no such alarm.
    async fn acknowledge_alarm(
        &self,
        alarm: AlarmKey,
        by: &str,
        note: &str,
        now: Micros,
    ) -> Result<Option<AlarmRow>, StoreError>;

    /// The newest readings of some points, by key. A point without readings is left out.
    async fn latest(&self, points: &[PointKey]) -> Result<Vec<(PointKey, Latest)>, StoreError>;

    /// Intervals in which an agent was not heard, by beginning, that touch `from..to`. What has a time
    /// inside came later.
    async fn silences(
        &self,
        agent: super::AgentKey,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<Silence>, StoreError>;

    /// Makes a webhook known. It is told what happens from now on. Its name is of the whole server.
    async fn add_webhook(&self, name: &str) -> Result<(), StoreError>;

    /// The next event for a webhook of at least this priority, if one is due, and how often it was tried.
    /// It is due again after `lease`, should this server end before it says how it went.
    async fn next_for_webhook(
        &self,
        name: &str,
        least: i16,
        now: Micros,
        lease: Micros,
    ) -> Result<Option<(AlarmEvent, u32)>, StoreError>;

    /// The event needs no telling any more. The next one is due at once.
    async fn webhook_told(&self, name: &str, event: i64) -> Result<(), StoreError>;

    /// The event could not be told; try again at `due`.
    async fn webhook_failed(&self, name: &str, event: i64, due: Micros, why: &str) -> Result<(), StoreError>;
}

/// The store's number of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlarmKey(pub i64);

/// One thing that an alarm is about: a gateway, a fault, a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// `site/gateway`, or the path of a point.
    pub name: String,
    /// Since when it is so.
    pub since: Micros,
    /// What is so, in plain words.
    pub words: String,
    /// The number it began with, where that matters.
    #[serde(default)]
    pub base: f64,
}

/// What is so, and has not been so for long enough.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// Name of the rule.
    pub rule: String,
    /// As [`Member::name`].
    pub member: String,
    /// Since when.
    pub since: Micros,
    /// As [`Member::base`].
    pub base: f64,
}

/// What an alarm says.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Name of the rule.
    pub rule: String,
    /// What kind of rule: `silent`, `value` …
    pub kind: String,
    /// 0 low, 1 medium, 2 high.
    pub priority: i16,
    /// Where.
    pub site: String,
    /// Of one rule and subject only one alarm stands: the site, the gateway, or the point.
    pub subject: String,
    /// What is so, in plain words.
    pub words: String,
    /// What to do.
    pub remedy: String,
    /// What it is about; never empty while it stands.
    pub members: Vec<Member>,
}

/// Who took notice of an alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// When.
    pub at: Micros,
    /// Who; empty where nobody has a name.
    pub by: String,
    /// What they wrote.
    pub note: String,
}

/// An alarm as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct AlarmRow {
    /// The store's number of it.
    pub key: AlarmKey,
    /// What it says.
    pub alarm: Alarm,
    /// When it was raised.
    pub raised: Micros,
    /// When it last changed.
    pub changed: Micros,
    /// Who took notice. Gone when the alarm grows.
    pub acknowledged: Option<Acknowledgement>,
    /// When it was over.
    pub cleared: Option<Micros>,
    /// Counts changes.
    pub version: i64,
}

/// The state of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmState {
    /// It is so, and nobody took notice.
    Active,
    /// It is so, and somebody took notice.
    Acknowledged,
    /// It is over.
    Cleared,
}

impl AlarmState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Acknowledged, Self::Cleared];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Acknowledged => "acknowledged",
            Self::Cleared => "cleared",
        }
    }
}

impl AlarmRow {
    /// In which state it is.
    pub fn state(&self) -> AlarmState {
        match (&self.cleared, &self.acknowledged) {
            (Some(_), _) => AlarmState::Cleared,
            (None, Some(_)) => AlarmState::Acknowledged,
            (None, None) => AlarmState::Active,
        }
    }

    /// As the API and webhooks tell it.
    pub fn json(&self) -> Value {
        let Self { key, alarm, raised, changed, acknowledged, cleared, .. } = self;
        let member = |member: &Member| json!({ "name": member.name, "since": time(member.since), "words": member.words });
        json!({
            "id": key.0,
            "rule": alarm.rule,
            "kind": alarm.kind,
            "priority": priority_word(alarm.priority),
            "state": self.state().word(),
            "site": alarm.site,
            "subject": alarm.subject,
            "words": alarm.words,
            "remedy": alarm.remedy,
            "members": alarm.members.iter().map(member).collect::<Vec<_>>(),
            "raised": time(*raised),
            "changed": time(*changed),
            "acknowledged": acknowledged.as_ref().map(|ack| json!({
                "time": time(ack.at), "by": ack.by, "note": ack.note,
            })),
            "cleared": cleared.map(time),
        })
    }
}

/// The word of a priority.
pub fn priority_word(priority: i16) -> &'static str {
    match priority {
        ..=0 => "low",
        1 => "medium",
        2.. => "high",
    }
}

fn time(at: Micros) -> Value {
    json!(super::rfc3339(at))
}

/// Members as they stand in a column.
pub(super) fn members_text(members: &[Member]) -> String {
    // Strings and numbers always have a JSON form.
    serde_json::to_string(members).unwrap_or_else(|_| "[]".into())
}

/// Members read back; of a form we cannot read, none.
pub(super) fn members_of(text: &str) -> Vec<Member> {
    serde_json::from_str(text).unwrap_or_default()
}

/// What is to be done with alarms.
#[derive(Clone, Debug, PartialEq)]
pub enum AlarmChange {
    /// Keeps since when something is so; one that is kept already is replaced.
    Wait(Pending),
    /// It is not so any more.
    Forget {
        /// Name of the rule.
        rule: String,
        /// Its member.
        member: String,
    },
    /// Raises an alarm, unless one of this rule and subject stands. Its members are not pending any more.
    Raise(Alarm),
    /// Other members or other words.
    Renew {
        /// Which.
        alarm: AlarmKey,
        /// The version it was decided on.
        version: i64,
        /// What it says now.
        now: Alarm,
        /// There are more members: whoever took notice did not know of these.
        grew: bool,
    },
    /// It is over.
    Clear {
        /// Which.
        alarm: AlarmKey,
        /// The version it was decided on.
        version: i64,
    },
}

/// What happened to an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was raised.
    Raised,
    /// There is more of it.
    Grew,
    /// Other words, or less of it. Not told to webhooks.
    Changed,
    /// Somebody took notice.
    Acknowledged,
    /// It is over.
    Cleared,
}

impl EventKind {
    const ALL: [Self; 5] = [Self::Raised, Self::Grew, Self::Changed, Self::Acknowledged, Self::Cleared];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Grew => "grew",
            Self::Changed => "changed",
            Self::Acknowledged => "acknowledged",
            Self::Cleared => "cleared",
        }
    }

    /// The kind of a word; of a newer server's, a mere change.
    pub(super) fn of(word: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.word() == word).unwrap_or(Self::Changed)
    }
}

/// A change that took place, and the row as it is now.
pub type Told = (EventKind, AlarmRow);

/// An event for a webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct AlarmEvent {
    /// 1, 2, 3 … with holes.
    pub event: i64,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Micros,
    /// The alarm as it was then, [`AlarmRow::json`].
    pub alarm: String,
}

/// Which alarms are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmQuery {
    /// In any of these states.
    pub states: Vec<AlarmState>,
    /// Of this site only.
    pub site: Option<String>,
    /// Older than this one.
    pub before: Option<AlarmKey>,
    /// So many at the most.
    pub most: usize,
}

/// How many alarms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlarmSummary {
    /// Nobody took notice of them.
    pub active: u64,
    /// Somebody did.
    pub acknowledged: u64,
    /// Number of the newest event: nothing has changed while it has not.
    pub newest: i64,
}
