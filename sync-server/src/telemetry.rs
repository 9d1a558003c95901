//! The server's metrics: their names, in one place, and the handles that count. Names are API.
//!
//! One [`Telemetry`] per server, passed to whoever counts; nothing global, so that several
//! servers can live in one test process.

use std::time::Duration;

use forebay_protocols::sync::problem::Kind;
use forebay_protocols::sync::wire::sync_answer::Verdict;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::ledger::{Dropped, Totals};
use crate::store::{FaultKind, FaultRow};

const CONNECTIONS: &str = "forebay_server_connections";
const CONNECTIONS_REFUSED: &str = "forebay_server_connections_refused_total";
const HANDSHAKES_FAILED: &str = "forebay_server_handshakes_failed_total";
const REQUESTS_REFUSED: &str = "forebay_server_requests_refused_total";
const BATCHES: &str = "forebay_server_batches_total";
const READINGS_STORED: &str = "forebay_server_readings_stored_total";
const READINGS_QUARANTINED: &str = "forebay_server_readings_quarantined_total";
const COMMIT_SECONDS: &str = "forebay_server_commit_seconds";
const COMMIT_DELIVERIES: &str = "forebay_server_commit_deliveries";
const JOINS: &str = "forebay_server_joins_total";
const READY: &str = "forebay_server_store_ready";
const LEDGER_APPENDED: &str = "forebay_server_ledger_appended_readings";
const LEDGER_ACKNOWLEDGED: &str = "forebay_server_ledger_acknowledged_readings";
const LEDGER_STORED: &str = "forebay_server_ledger_stored_readings";
const LEDGER_DROPPED: &str = "forebay_server_ledger_dropped_readings";
const LEDGER_BACKLOG: &str = "forebay_server_ledger_backlog_readings";
const LEDGER_OPEN_BUFFERS: &str = "forebay_server_ledger_open_buffers";
const STORE_BYTES: &str = "forebay_server_store_bytes";
const ROLLUP_LAG: &str = "forebay_server_rollup_lag_seconds";
const ROLLUP_BUCKETS: &str = "forebay_server_rollup_buckets_total";
const RETENTION_ROWS: &str = "forebay_server_retention_rows_total";
const FAULTS: &str = "forebay_server_faults";
const ALARMS: &str = "forebay_server_alarms";
const WEBHOOKS: &str = "forebay_server_webhook_attempts_total";

const METADATA: Metadata<'_> = Metadata::new("forebay", Level::INFO, None);

/// Everything the server counts.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    /// Agent connections open now.
    pub connections: Gauge,
    /// Connections closed at once because too many were open.
    pub connections_refused: Counter,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: Counter,
    /// Readings committed to the database, in quarantine or not.
    pub readings_stored: Counter,
    /// Those in quarantine.
    pub readings_quarantined: Counter,
    /// Gateways that joined or renewed.
    pub joins: Counter,
    /// Deliveries that shared one transaction.
    commit_deliveries: Histogram,
    commit_seconds: Histogram,
    ready: Gauge,
    store_bytes: Gauge,
    rollup_lag: Gauge,
    rollup_buckets: Counter,
    retention_rows: Counter,
    ledger: LedgerGauges,
}

/// The fleet's ledger, as of the last check.
struct LedgerGauges {
    appended: Gauge,
    acknowledged: Gauge,
    stored: Gauge,
    backlog: Gauge,
    open_buffers: Gauge,
}

impl Telemetry {
    /// Fresh counters, all at zero.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let counter = |name: &'static str, words: &'static str| {
            recorder.describe_counter(name.into(), Some(Unit::Count), words.into());
            recorder.register_counter(&Key::from_static_name(name), &METADATA)
        };
        let gauge = |name: &'static str, words: &'static str| {
            recorder.describe_gauge(name.into(), None, words.into());
            recorder.register_gauge(&Key::from_static_name(name), &METADATA)
        };
        let histogram = |name: &'static str, words: &'static str| {
            recorder.describe_histogram(name.into(), None, words.into());
            recorder.register_histogram(&Key::from_static_name(name), &METADATA)
        };
        recorder.describe_counter(
            REQUESTS_REFUSED.into(),
            None,
            "Requests refused, by kind of problem.".into(),
        );
        recorder.describe_counter(BATCHES.into(), None, "Batches, by what became of them.".into());
        recorder.describe_gauge(
            LEDGER_DROPPED.into(),
            None,
            "Readings that gateways gave up, by reason, each with a gap record.".into(),
        );
        recorder.describe_gauge(
            FAULTS.into(),
            None,
            "Faults that stand now, by kind: /api/v1/faults has the words.".into(),
        );
        recorder.describe_gauge(ALARMS.into(), None, "Alarms that stand now, by state.".into());
        recorder.describe_counter(WEBHOOKS.into(), None, "Attempts to tell a webhook, by outcome.".into());
        let new = Self {
            connections: gauge(CONNECTIONS, "Agent connections open now."),
            connections_refused: counter(
                CONNECTIONS_REFUSED,
                "Connections closed at once because too many were open.",
            ),
            handshakes_failed: counter(HANDSHAKES_FAILED, "TLS handshakes that failed or took too long."),
            readings_stored: counter(
                READINGS_STORED,
                "Readings committed to the database, those in quarantine included.",
            ),
            readings_quarantined: counter(
                READINGS_QUARANTINED,
                "Readings kept in quarantine, where queries do not look, because of their time.",
            ),
            joins: counter(JOINS, "Certificates given to gateways that joined or renewed."),
            commit_deliveries: histogram(COMMIT_DELIVERIES, "Deliveries that shared one transaction."),
            commit_seconds: histogram(COMMIT_SECONDS, "Seconds a transaction took."),
            ready: gauge(READY, "1 while the database answers, 0 while it does not."),
            store_bytes: gauge(STORE_BYTES, "Bytes of the database on disk, indexes included."),
            rollup_lag: gauge(
                ROLLUP_LAG,
                "Seconds since readings came in that the rollups do not tell yet; queries read them as they are.",
            ),
            rollup_buckets: counter(ROLLUP_BUCKETS, "Buckets of rollups made or made anew by this server."),
            retention_rows: counter(
                RETENTION_ROWS,
                "Rows that retention removed one by one; chunks and partitions that went whole do not count.",
            ),
            ledger: LedgerGauges {
                appended: gauge(LEDGER_APPENDED, "Readings made durable at gateways, as last reported."),
                acknowledged: gauge(LEDGER_ACKNOWLEDGED, "Those that gateways know to be committed here."),
                stored: gauge(LEDGER_STORED, "Readings in the database, by the books of all buffers."),
                backlog: gauge(LEDGER_BACKLOG, "Readings that wait in the buffers of gateways."),
                open_buffers: gauge(LEDGER_OPEN_BUFFERS, "Buffers whose books do not close."),
            },
            recorder,
        };
        // Zeros to begin with: the first batch set aside must show as an increase.
        for verdict in [Verdict::Committed, Verdict::Duplicate, Verdict::SetAside, Verdict::Retry] {
            new.batches(verdict).increment(0);
        }
        new.ledger(&Totals::default());
        new.faults(&[]);
        new.alarms(0, 0);
        for outcome in ["told", "refused", "failed"] {
            new.labelled(WEBHOOKS, "outcome", outcome).increment(0);
        }
        new
    }

    /// A request was answered with a problem.
    pub fn refused(&self, kind: Kind) {
        self.labelled(REQUESTS_REFUSED, "kind", kind.slug()).increment(1);
    }

    /// A batch got its verdict.
    pub fn verdict(&self, verdict: Verdict) {
        self.batches(verdict).increment(1);
    }

    fn batches(&self, verdict: Verdict) -> Counter {
        let word = match verdict {
            Verdict::Committed => "committed",
            Verdict::Duplicate => "duplicate",
            Verdict::SetAside => "set_aside",
            Verdict::Retry | Verdict::Unspecified => "retry",
        };
        self.labelled(BATCHES, "verdict", word)
    }

    /// A transaction of so many deliveries ended, well or not.
    pub fn transaction(&self, deliveries: usize, took: Duration) {
        self.commit_deliveries.record(deliveries as f64);
        self.commit_seconds.record(took.as_secs_f64());
    }

    /// The database answers, or does not.
    pub fn store_ready(&self, ready: bool) {
        self.ready.set(if ready { 1.0 } else { 0.0 });
    }

    /// How large the database is.
    pub fn store_bytes(&self, bytes: u64) {
        self.store_bytes.set(bytes as f64);
    }

    /// How far rollups are behind.
    pub fn rollup_lag(&self, lag: Duration) {
        self.rollup_lag.set(lag.as_secs_f64());
    }

    /// Buckets were made.
    pub fn rolled_up(&self, buckets: u64) {
        self.rollup_buckets.increment(buckets);
    }

    /// Rows are gone.
    pub fn removed(&self, rows: u64) {
        self.retention_rows.increment(rows);
    }

    /// The fleet's ledger, as it was just read. Each server on one database tells the same.
    pub fn ledger(&self, totals: &Totals) {
        let Totals { appended, dropped, acknowledged, backlog, stored, .. } = *totals;
        self.ledger.appended.set(appended as f64);
        self.ledger.acknowledged.set(acknowledged as f64);
        self.ledger.stored.set(stored as f64);
        self.ledger.backlog.set(backlog as f64);
        let Dropped { full, corrupt, thinned, other } = dropped;
        for (reason, count) in [("full", full), ("corrupt", corrupt), ("thinned", thinned), ("other", other)]
        {
            self.labelled_gauge(LEDGER_DROPPED, "reason", reason).set(count as f64);
        }
    }

    /// The faults there are, as they were just read; those that are over do not count.
    pub fn faults(&self, faults: &[FaultRow]) {
        let standing = |kind: FaultKind| {
            faults.iter().filter(|row| row.over.is_none() && row.fault.kind == kind).count() as f64
        };
        for (kind, word) in [
            (FaultKind::Fork, "fork"),
            (FaultKind::Wiped, "wiped"),
            (FaultKind::ServerRestored, "server_restored"),
            (FaultKind::Imbalance, "imbalance"),
        ] {
            self.labelled_gauge(FAULTS, "kind", word).set(standing(kind));
        }
        self.ledger.open_buffers.set(standing(FaultKind::Imbalance));
    }

    /// The alarms there are, as they were just read.
    pub fn alarms(&self, active: u64, acknowledged: u64) {
        for (state, count) in [("active", active), ("acknowledged", acknowledged)] {
            self.labelled_gauge(ALARMS, "state", state).set(count as f64);
        }
    }

    /// A webhook was tried: `told`, `refused` or `failed`.
    pub fn webhook(&self, outcome: &'static str) {
        self.labelled(WEBHOOKS, "outcome", outcome).increment(1);
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let handle = self.recorder.handle();
        // Histograms pile up raw values between upkeeps.
        handle.run_upkeep();
        handle.render()
    }

    /// To be called now and then when nobody scrapes, so that histograms stay small.
    pub fn upkeep(&self) {
        self.recorder.handle().run_upkeep();
    }

    fn labelled(&self, name: &'static str, label: &'static str, value: &'static str) -> Counter {
        let key = Key::from_parts(name, vec![Label::from_static_parts(label, value)]);
        self.recorder.register_counter(&key, &METADATA)
    }

    fn labelled_gauge(&self, name: &'static str, label: &'static str, value: &'static str) -> Gauge {
        let key = Key::from_parts(name, vec![Label::from_static_parts(label, value)]);
        self.recorder.register_gauge(&key, &METADATA)
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}
