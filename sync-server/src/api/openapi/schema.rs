//! JSON Schema in few words, as OpenAPI 3.1 has it.

use serde_json::{Map, Value, json};

/// All of these keys and no other.
pub(super) fn object(fields: &[(&str, Value)]) -> Value {
    let mut object = parts(fields);
    object["required"] = fields.iter().map(|(key, _)| *key).collect();
    object
}

/// Any of these keys and no other.
pub(super) fn parts(fields: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(key, schema)| ((*key).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// The same, with words to it.
pub(super) fn described(mut schema: Value, words: &str) -> Value {
    schema["description"] = words.into();
    schema
}

pub(super) fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

pub(super) fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

pub(super) fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn number() -> Value {
    json!({ "type": "number" })
}

pub(super) fn integer() -> Value {
    json!({ "type": "integer" })
}

pub(super) fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub(super) fn boolean() -> Value {
    json!({ "type": "boolean" })
}

/// RFC 3339 in UTC; `null` where there is none.
pub(super) fn moment() -> Value {
    json!({ "type": ["string", "null"], "format": "date-time" })
}
