//! TLS session tickets that outlive a restart and hold at every server with the same CA, so that a
//! thousand agents that come back at once need no signatures.
//!
//! A ticket is what the server would have to remember, sealed and handed to the agent: the secret of
//! the session and the agent's certificate, which is judged again at every request. The sealing keys
//! are derived from the CA's key, one for each half day; nothing of them is kept. Whoever holds the
//! CA's key can be any agent and any server anyway, and what is said after a resumption stays closed
//! to him: TLS 1.3 as rustls speaks it agrees on a new key each time (`psk_dhe_ke`), and there is no
//! early data. A new CA ends all sessions of the old one.
//!
//! A ticket is: period (4 bytes, big endian), nonce (12), the sealed session.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use rustls::server::ProducesTickets;

use super::now_seconds;

/// How long one key seals. Its tickets are opened during this period and the next.
const PERIOD: i64 = 12 * 3_600;
const HEAD: usize = 4 + NONCE_LEN;
/// A session with a long chain of certificates has a few KiB.
const LONGEST: usize = 16 << 10;

/// Seals and opens tickets.
pub struct Tickets {
    secret: Prk,
    clock: fn() -> i64,
}

impl Tickets {
    /// By the CA's private key, as DER.
    pub fn new(ca_key: &[u8]) -> Self {
        Self::with_clock(ca_key, now_seconds)
    }

    fn with_clock(ca_key: &[u8], clock: fn() -> i64) -> Self {
        Self { secret: Salt::new(HKDF_SHA256, b"forebay tls session tickets 1").extract(ca_key), clock }
    }

    fn period(&self) -> u32 {
        u32::try_from((self.clock)() / PERIOD).unwrap_or(0)
    }

    fn key(&self, period: [u8; 4]) -> Option<LessSafeKey> {
        let info: [&[u8]; 1] = [&period];
        let key = self.secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (period, mut nonce) = (self.period().to_be_bytes(), [0; NONCE_LEN]);
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        self.key(period)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(period), &mut sealed)
            .ok()?;
        Some([&period[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD).filter(|_| ticket.len() <= LONGEST)?;
        let (period, nonce) = head.split_first_chunk::<4>()?;
        // A neighbour's clock may be a little ahead.
        if u32::from_be_bytes(*period).abs_diff(self.period()) > 1 {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut open = sealed.to_vec();
        let length = self.key(*period)?.open_in_place(nonce, Aad::from(*period), &mut open).ok()?.len();
        open.truncate(length);
        Some(open)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_protocols::sync::tls;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};

    use super::super::Authority;
    use super::*;

    const NOW: i64 = 1_795_000_000;

    fn at<const LATER: i64>() -> i64 {
        NOW + LATER
    }

    #[test]
    fn a_ticket_is_good_after_a_restart_and_at_another_server_of_the_same_ca() {
        let ticket = Tickets::with_clock(b"key", at::<0>).encrypt(b"session").unwrap();
        let restarted = Tickets::with_clock(b"key", at::<3_600>);
        assert_eq!(restarted.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(Tickets::with_clock(b"another key", at::<0>).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_ends_when_the_next_period_has_ended() {
        let ticket = Tickets::with_clock(b"key", at::<0>).encrypt(b"session").unwrap();
        assert!(Tickets::with_clock(b"key", at::<PERIOD>).decrypt(&ticket).is_some());
        assert_eq!(Tickets::with_clock(b"key", at::<{ 2 * PERIOD }>).decrypt(&ticket), None);
        assert_eq!(Tickets::with_clock(b"key", at::<{ -2 * PERIOD }>).decrypt(&ticket), None);
    }

    /// Shakes hands in memory, until nobody has anything to say.
    fn shake(client: &Arc<ClientConfig>, server: Arc<ServerConfig>) -> Option<HandshakeKind> {
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(client.clone(), name).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut sent = &bytes[..];
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut sent = &bytes[..];
            while !sent.is_empty() {
                client.read_tls(&mut sent).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        client.handshake_kind()
    }

    #[test]
    fn an_agent_goes_on_with_its_session_after_a_restart_and_not_after_a_new_ca() {
        let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let start = |state: &std::path::Path| {
            let authority = Authority::open(state).unwrap();
            (authority.pin(), authority.server_certificate(&["localhost".into()]).unwrap().tls)
        };
        let (pin, first) = start(state.path());
        let client = tls::pinned_client_config(pin, tls::EARLIEST_TIME).unwrap();
        assert_eq!(shake(&client, first), Some(HandshakeKind::Full));
        for restart in 1..4 {
            let (_, again) = start(state.path());
            assert_eq!(shake(&client, again), Some(HandshakeKind::Resumed), "restart {restart}");
        }
        let (_, stranger) = start(other.path());
        let name = "localhost".try_into().unwrap();
        let mut hello = Vec::new();
        let mut asking = ClientConnection::new(client, name).unwrap();
        asking.write_tls(&mut hello).unwrap();
        let mut strange = ServerConnection::new(stranger).unwrap();
        strange.read_tls(&mut &hello[..]).unwrap();
        strange.process_new_packets().unwrap();
        assert_ne!(strange.handshake_kind(), Some(HandshakeKind::Resumed));
    }

    #[test]
    fn a_ca_that_takes_over_ends_sessions_and_no_connection_fails() {
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(state.path()).unwrap();
        let server = || authority.server_certificate(&["localhost".into()]).unwrap().tls;
        let client = tls::pinned_client_config(authority.pin(), tls::EARLIEST_TIME).unwrap();
        assert_eq!(shake(&client, server()), Some(HandshakeKind::Full));
        assert_eq!(shake(&client, server()), Some(HandshakeKind::Resumed));
        let before = server();
        authority.rotate(None, 1_000).unwrap();
        let ticket = before.ticketer.encrypt(b"session").unwrap();
        assert_eq!(server().ticketer.decrypt(&ticket), None, "the former key opens nothing here");
        let ticket = server().ticketer.encrypt(b"session").unwrap();
        assert_eq!(before.ticketer.decrypt(&ticket), None, "whoever has the former key reads nothing");
        // It knows the former CA only, and is led from there.
        assert_eq!(shake(&client, server()), Some(HandshakeKind::Full));
        assert_eq!(shake(&client, server()), Some(HandshakeKind::Resumed));
    }

    #[test]
    fn what_was_altered_or_is_no_ticket_is_not_opened() {
        let tickets = Tickets::with_clock(b"key", at::<0>);
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_ne!(ticket, tickets.encrypt(b"session").unwrap(), "no two tickets are alike");
        for place in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[place] ^= 1;
            assert_eq!(tickets.decrypt(&altered), None, "byte {place}");
            assert_eq!(tickets.decrypt(&ticket[..place]), None, "cut at {place}");
        }
        assert_eq!(tickets.decrypt(&vec![0; LONGEST + 1]), None);
    }
}
