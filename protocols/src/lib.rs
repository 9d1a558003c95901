//! Field and sync protocols: devices to readings (`field`), readings to batches and
//! batches to a server (`sync`). The data model both sides speak is in `reading`.

pub mod boot_time;
pub mod field;
pub mod reading;
pub mod sync;
