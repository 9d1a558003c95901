//! TLS set-up of both sides: one crypto provider, keys and certificate requests, pinned CA, and
//! the clock TLS judges certificates by.
