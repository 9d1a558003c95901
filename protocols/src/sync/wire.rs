//! The messages of `batch.proto`, `columns.proto` and `wire.proto` as Rust types, and their
//! conversions to and from the data model.

#![allow(missing_docs, reason = "generated; the .proto files carry the comments")]

include!(concat!(env!("OUT_DIR"), "/forebay.v1.rs"));
