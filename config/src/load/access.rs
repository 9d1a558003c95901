//! `[access]` and `[web]`, which decide together who may come.

use std::time::Duration;

use super::findings::Complaint;
use super::table::Table;
use super::words::{duration, integer, one_of, path, socket};
use crate::access::{Access, AccessMode};
use crate::server::{Certificate, Web};

pub(super) fn access(t: &Table<'_>) -> Access {
    let default = Access::default();
    let modes = &[("auto", AccessMode::Auto), ("users", AccessMode::Users), ("open", AccessMode::Open)];
    let found = Access {
        mode: t.or("mode", default.mode, one_of(modes)),
        session: t.or("session", default.session, duration(Duration::from_secs(60))),
        requests_per_minute: t.or(
            "requests_per_minute",
            default.requests_per_minute,
            integer(10..=1_000_000),
        ),
    };
    t.finish();
    found
}

/// The two of them together.
pub(super) fn agree(t: Option<&Table<'_>>, access: Access, web: &Web) {
    if let Some(t) = t
        && access.mode == AccessMode::Open
        && !web.listen.ip().is_loopback()
    {
        t.complain_of(
            "mode",
            Complaint::new(
                format!("\"open\" at {} lets everybody in who reaches it", web.listen),
                "set `web.listen` to a loopback address, or `access.mode` to \"auto\"",
            ),
        );
    }
}

pub(super) fn web(t: &Table<'_>) -> Web {
    let listen = t.or("listen", Web::default().listen, socket);
    let (certificate, key) = (t.optional("certificate", path), t.optional("key", path));
    if t.has("certificate") != t.has("key") {
        t.complain(Complaint::new(
            "`certificate` and `key` belong together",
            "give both, as PEM files; or neither, and the server makes its own",
        ));
    }
    t.finish();
    let certificate = certificate.zip(key).map(|(certificate, key)| Certificate { certificate, key });
    Web { listen, certificate }
}
