//! Field and sync protocols: devices to readings (`field`), readings to batches and
//! batches to a server (`sync`). The data model both sides speak is in `reading`; keys, certificates and
//! other small files that must be whole are written by `private_files`; what the `doctor` of either program finds
//! is a `checkup`.

pub mod boot_time;
pub mod checkup;
pub mod field;
pub mod hexadecimal;
pub mod private_files;
pub mod progress;
pub mod reading;
pub mod sync;
