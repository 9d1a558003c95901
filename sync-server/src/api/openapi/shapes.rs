//! The shapes of the answers. Objects are closed: an answer with a key that is not here breaks the test
//! that holds the running server against this.

use serde_json::{Map, Value, json};

use super::super::fleet::TRENDS;
use super::schema::{
    boolean, count, described, integer, list, moment, number, object, one_of, or_null, parts, text,
};

pub(super) fn problem() -> Value {
    object(&[("type", text()), ("title", text()), ("status", integer()), ("detail", text())])
}

const LAG: &str = "Seconds since the newest stored reading was taken, by its own time: how far what is stored is behind. \
     Older readings that wait in the gateway are its backlog.";
const BYTES_TODAY: &str = "Bytes of this agent's requests since midnight UTC: their bodies as they arrived, compressed, \
     those of refused requests too. HTTP's and TLS's own bytes and the answers are not counted.";
const TREND: &str = "By the last reports: `none`: no more waits than the gateway makes in a minute; `shrinks`; `grows`: it does \
     not shrink. `null` while the agent is silent, or has not reported twice.";
const DRAIN: &str = "Seconds until the backlog is empty, if it goes on as by the last reports; `null` where that is not known, \
     or it does not shrink.";

pub(super) fn fleet() -> Value {
    let agents = list(parts(&[
        ("agent", text()),
        ("site", text()),
        ("gateway", text()),
        ("state", one_of(&["online", "silent", "never seen", "revoked"])),
        ("joined", moment()),
        ("last_seen", moment()),
        (
            "newest",
            described(
                moment(),
                "When the newest stored reading was taken; one from the future counts as of when it came.",
            ),
        ),
        ("lag_s", described(or_null(count()), LAG)),
        ("version", or_null(text())),
        ("uptime_s", or_null(count())),
        ("clock", object(&[("synchronised", or_null(boolean())), ("offset_ms", or_null(integer()))])),
        ("certificate_valid_until", moment()),
        (
            "certificate_days",
            described(or_null(integer()), "Whole days until the certificate ends; below zero once it has."),
        ),
        ("bytes_today", described(count(), BYTES_TODAY)),
        (
            "backlog",
            object(&[
                ("batches", or_null(count())),
                ("readings", or_null(count())),
                ("bytes", or_null(count())),
                ("limit_bytes", or_null(count())),
                ("tail_bytes", or_null(count())),
                ("trend", described(or_null(one_of(&TRENDS)), TREND)),
                ("drain_s", described(or_null(count()), DRAIN)),
            ]),
        ),
        (
            "ledger",
            object(&[
                ("produced", or_null(count())),
                ("filtered", or_null(count())),
                ("in_hand", or_null(count())),
                ("appended", or_null(count())),
                ("dropped", or_null(count())),
                ("dropped_by", or_null(dropped_by())),
                ("acknowledged", or_null(count())),
                ("stored", count()),
            ]),
        ),
        ("batches", object(&[("committed", count()), ("set_aside", count())])),
        (
            "device_counts",
            object(&[("all", count()), ("silent", count()), ("first_silent", or_null(device()))]),
        ),
        ("devices", list(device())),
        ("faults", list(fault())),
        ("refused", or_null(object(&[("time", moment()), ("words", text())]))),
        ("epoch", or_null(text())),
    ]));
    object(&[
        ("store", or_null(text())),
        ("time", moment()),
        ("summary", object(&SUMMARY.map(|key| (key, count())))),
        ("matching", count()),
        ("agents", agents),
        ("next", or_null(text())),
    ])
}

const SUMMARY: [&str; 8] =
    ["agents", "online", "silent", "never_seen", "revoked", "faulty", "stored", "backlog_readings"];

pub(super) fn sites() -> Value {
    let mut fields = vec![("site", text())];
    fields.extend(SUMMARY.map(|key| (key, count())));
    object(&[("time", moment()), ("sites", list(object(&fields)))])
}

fn device() -> Value {
    object(&[("link", text()), ("device", text()), ("answers", boolean()), ("words", text())])
}

fn dropped_by() -> Value {
    object(&["full", "corrupt", "thinned", "other"].map(|key| (key, count())))
}

pub(super) fn points() -> Value {
    let latest = object(&[("time", moment()), ("value", value()), ("quality", quality()), ("words", text())]);
    let point = object(&[
        ("id", integer()),
        ("path", text()),
        ("agent", text()),
        ("device", text()),
        ("name", text()),
        ("unit", text()),
        ("kind", text()),
        ("type", text()),
        ("fork", count()),
        ("latest", or_null(latest)),
    ]);
    object(&[("points", list(point)), ("next", or_null(integer()))])
}

pub(super) fn query() -> Value {
    let row = json!({ "type": "array", "minItems": 8, "maxItems": 8 });
    object(&[
        ("from", moment()),
        ("to", moment()),
        ("step_ms", number()),
        ("columns", list(text())),
        ("series", list(object(&[("id", integer()), ("rows", list(row))]))),
    ])
}

pub(super) fn statistics() -> Value {
    let series = object(&[
        ("id", integer()),
        ("count", count()),
        ("good", count()),
        ("numbers", count()),
        ("min", or_null(number())),
        ("mean", or_null(number())),
        ("max", or_null(number())),
        ("first", value()),
        ("last", value()),
    ]);
    object(&[("from", moment()), ("to", moment()), ("series", list(series))])
}

pub(super) fn gaps() -> Value {
    let gap = object(&[
        ("agent", or_null(text())),
        ("point", or_null(integer())),
        ("device", or_null(text())),
        ("name", or_null(text())),
        ("from", moment()),
        ("to", moment()),
        ("count", or_null(count())),
        ("reason", text()),
        ("words", text()),
    ]);
    object(&[("gaps", list(gap)), ("more", boolean())])
}

pub(super) fn silences() -> Value {
    object(&[("silences", list(object(&[("from", moment()), ("to", moment())]))), ("more", boolean())])
}

pub(super) fn ledger() -> Value {
    let buffer = object(&[
        ("agent", or_null(text())),
        ("epoch", text()),
        ("fork", count()),
        ("current", boolean()),
        ("verdict", one_of(&["closed", "doubtful", "open", "unreported"])),
        ("words", text()),
        ("last_seen", moment()),
        ("reported", moment()),
        ("produced", or_null(count())),
        ("filtered", or_null(count())),
        ("in_hand", or_null(count())),
        ("appended", or_null(count())),
        ("dropped", or_null(count())),
        ("dropped_by", or_null(dropped_by())),
        ("acknowledged", or_null(count())),
        ("backlog", or_null(count())),
        ("stored", count()),
        ("set_aside", count()),
    ]);
    let mut sums = ["buffers", "open", "produced", "filtered", "in_hand", "appended", "dropped"]
        .map(|key| (key, count()))
        .to_vec();
    sums.push(("dropped_by", dropped_by()));
    sums.extend(["acknowledged", "backlog", "stored", "set_aside"].map(|key| (key, count())));
    object(&[("time", moment()), ("fleet", object(&sums)), ("buffers", list(buffer))])
}

pub(super) fn faults() -> Value {
    object(&[("time", moment()), ("faults", list(fault()))])
}

fn fault() -> Value {
    object(&[
        ("agent", or_null(text())),
        ("kind", text()),
        ("subject", text()),
        ("words", text()),
        ("remedy", text()),
        ("since", moment()),
        ("last", moment()),
        ("over", moment()),
    ])
}

pub(super) fn alarms() -> Value {
    object(&[
        ("time", moment()),
        ("active", count()),
        ("acknowledged", count()),
        ("alarms", list(alarm())),
        ("next", or_null(integer())),
    ])
}

pub(super) fn rules() -> Value {
    let seconds = || or_null(number());
    let rule = object(&[
        ("name", text()),
        ("kind", text()),
        ("priority", one_of(&["low", "medium", "high"])),
        ("from", described(one_of(&["usual", "configuration"]), "`usual`: it stands without being written.")),
        ("words", text()),
        ("agents", described(list(text()), "Patterns of `site/gateway`.")),
        ("points", described(or_null(list(text())), "Patterns of `device/point`, of a rule for values.")),
        ("delay_s", described(number(), "For how long it must be so.")),
        ("after_s", seconds()),
        ("least", or_null(count())),
        ("off_s", seconds()),
        ("within_s", seconds()),
        ("above", or_null(number())),
        ("below", or_null(number())),
        ("deadband", or_null(number())),
    ]);
    object(&[("time", moment()), ("rules", list(rule))])
}

pub(super) fn alarm() -> Value {
    let member = object(&[("name", text()), ("since", moment()), ("words", text())]);
    let notice = object(&[("time", moment()), ("by", text()), ("note", text())]);
    object(&[
        ("id", integer()),
        ("rule", text()),
        ("kind", text()),
        ("priority", one_of(&["low", "medium", "high"])),
        ("state", one_of(&["active", "acknowledged", "cleared"])),
        ("site", text()),
        ("subject", text()),
        ("words", text()),
        ("remedy", text()),
        ("members", list(member)),
        ("raised", moment()),
        ("changed", moment()),
        ("acknowledged", or_null(notice)),
        ("cleared", moment()),
    ])
}

pub(super) fn time_marks() -> Value {
    let mark = object(&[
        ("agent", or_null(text())),
        ("boot", count()),
        ("clock", one_of(&["as stated", "corrected", "bracketed"])),
        ("from", moment()),
        ("to", moment()),
        ("readings", count()),
        ("correction_ms", number()),
    ]);
    object(&[("marks", list(mark)), ("more", boolean())])
}

pub(super) fn quarantine() -> Value {
    let batch = object(&[
        ("id", text()),
        ("agent", or_null(text())),
        ("fork", count()),
        ("readings", count()),
        ("bytes", count()),
        ("why", text()),
        ("received", moment()),
    ]);
    let point = object(&[
        ("id", integer()),
        ("agent", or_null(text())),
        ("device", text()),
        ("name", text()),
        ("readings", count()),
        ("from_us", integer()),
        ("to_us", integer()),
        ("received", moment()),
    ]);
    object(&[("time", moment()), ("batches", list(batch)), ("readings", list(point))])
}

pub(super) fn joining() -> Value {
    let waiting = object(&[
        ("number", integer()),
        ("agent", text()),
        ("key", text()),
        ("from", text()),
        ("version", text()),
        ("asked", moment()),
        ("last_asked", moment()),
        ("approved", boolean()),
        ("replaces", boolean()),
        ("note", text()),
    ]);
    object(&[("time", moment()), ("waiting", list(waiting))])
}

pub(super) fn server() -> Value {
    let store =
        object(&[("words", text()), ("tier", text()), ("gives", text()), ("bytes", or_null(count()))]);
    let kept = ["readings", "minutes", "hours", "days"].map(|key| (key, or_null(count())));
    let class = object(&[&[("name", text()), ("points", list(text()))], &kept[..]].concat());
    let retention = object(&[&[("classes", list(class))], &kept[..]].concat());
    object(&[
        ("time", moment()),
        ("version", text()),
        ("store", or_null(store)),
        ("retention", or_null(retention)),
    ])
}

pub(super) fn new_token() -> Value {
    object(&[
        ("join", text()),
        ("command", text()),
        ("expires", moment()),
        ("uses", count()),
        ("approval", boolean()),
        ("qr", or_null(object(&[("size", count()), ("path", text())]))),
    ])
}

pub(super) fn notice() -> Value {
    parts(&[
        ("note", json!({ "type": "string", "maxLength": 1_000 })),
        ("by", json!({ "type": "string", "maxLength": 100 })),
    ])
}

/// A body of these keys. Which of them may be left out is told by the words of a refusal.
pub(super) fn body(keys: &[&str]) -> Value {
    let field = |key: &&str| {
        let schema = match *key {
            "rights" => list(one_of(&["read", "metrics", "operate", "manage"])),
            "role" => one_of(&["viewer", "operator", "admin"]),
            "expires_s" | "shift_s" | "uses" => integer(),
            "approval" => boolean(),
            "id" => json!({ "type": ["string", "integer"] }),
            _ => text(),
        };
        ((*key).to_owned(), schema)
    };
    let properties: Map<String, Value> = keys.iter().map(field).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

pub(super) fn replayed() -> Value {
    object(&[("stored", count()), ("odd", count())])
}

pub(super) fn welcome() -> Value {
    object(&[("name", text()), ("role", role())])
}

pub(super) fn me() -> Value {
    object(&[
        ("kind", one_of(&["open", "user", "key"])),
        ("name", or_null(text())),
        ("role", or_null(role())),
        ("rights", list(text())),
        ("tenant", or_null(text())),
    ])
}

pub(super) fn users() -> Value {
    let user = object(&[
        ("id", integer()),
        ("name", text()),
        ("role", role()),
        ("created", moment()),
        ("logged_in", moment()),
    ]);
    object(&[("users", list(user))])
}

pub(super) fn new_user() -> Value {
    object(&[("id", integer()), ("name", text()), ("role", role())])
}

pub(super) fn keys() -> Value {
    let key = object(&[
        ("id", integer()),
        ("name", text()),
        ("begins", text()),
        ("rights", list(text())),
        ("maker", text()),
        ("created", moment()),
        ("expires", moment()),
        ("expired", boolean()),
        ("used", moment()),
    ]);
    object(&[("keys", list(key))])
}

pub(super) fn new_key() -> Value {
    object(&[("id", integer()), ("name", text()), ("key", text()), ("expires", moment())])
}

pub(super) fn audit() -> Value {
    let entry = object(&[
        ("id", integer()),
        ("time", moment()),
        ("who", text()),
        ("from", or_null(text())),
        ("action", text()),
        ("subject", or_null(text())),
        ("was", or_null(text())),
        ("became", or_null(text())),
    ]);
    object(&[("entries", list(entry)), ("next", or_null(integer()))])
}

fn role() -> Value {
    one_of(&["viewer", "operator", "admin"])
}

fn quality() -> Value {
    one_of(&["good", "uncertain", "bad"])
}

/// A number, a boolean, a text, or nothing.
fn value() -> Value {
    json!({ "type": ["number", "boolean", "string", "null"] })
}
