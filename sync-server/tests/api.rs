//! The query API, the live feed and the page as a client meets them: the real router over a real
//! SQLite store, on a loopback port.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may end where its premises do")]

#[path = "api/access.rs"]
mod access;
#[path = "api/accounts.rs"]
mod accounts;
#[path = "api/alarms.rs"]
mod alarms;
#[path = "api/asking.rs"]
mod asking;
#[path = "api/booked.rs"]
mod booked;
#[path = "api/booked_alarms.rs"]
mod booked_alarms;
#[path = "api/exploring.rs"]
mod exploring;
#[path = "api/fleet.rs"]
mod fleet;
#[path = "api/house.rs"]
mod house;
#[path = "api/joining.rs"]
mod joining;
#[path = "api/keeping.rs"]
mod keeping;
#[path = "api/page.rs"]
mod page;
#[path = "api/resolution.rs"]
mod resolution;
#[path = "api/socket.rs"]
mod socket;
#[path = "api/tenants.rs"]
mod tenants;
#[path = "api/watching.rs"]
mod watching;
