//! Both sides shake hands in memory, with a CA made on the spot.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{CertificateError, ClientConnection, ServerConnection};

use super::*;
use crate::private_files::create_once;

/// A CA, and a server certificate under it for 127.0.0.1, valid in the given seconds since 1970.
struct Plant {
    ca: CertificateDer<'static>,
    server: Arc<ServerConfig>,
    issuer: Issuer<'static, KeyPair>,
}

impl Plant {
    fn valid(from: i64, until: i64) -> Self {
        let at = |seconds: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds as u64);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (leaf.not_before, leaf.not_after) = (at(from), at(until));
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into();
        let server = server_config(vec![leaf.der().clone(), ca.der().clone()], key).unwrap();
        Self { ca: ca.der().clone(), server, issuer }
    }

    fn today() -> Self {
        Self::valid(ALWAYS_VALID_FROM, 4_000_000_000)
    }

    fn identity(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::default().signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Identity::new("127.0.0.1:8443".into(), self.ca.clone(), vec![own.der().clone()], key)
    }
}

/// The certificate the server saw, or what ended the handshake on the client's side.
fn shake(
    client: Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<Option<Vec<u8>>, rustls::Error> {
    let name = server_name(&format!("{name}:1")).unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(server.peer_certificates().and_then(|chain| chain.first()).map(|own| own.to_vec()))
}

fn is_pin_mismatch(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other)) if other.0.is::<PinMismatch>())
}

#[test]
fn an_agent_and_its_server_know_each_other() {
    let plant = Plant::today();
    let identity = plant.identity();
    let seen = shake(client_config(&identity, EARLIEST_TIME).unwrap(), &plant.server, "127.0.0.1");
    assert_eq!(seen, Ok(Some(identity.chain[0].to_vec())));
}

#[test]
fn a_certificate_of_a_foreign_ca_passes_the_handshake_to_be_judged_in_words() {
    let plant = Plant::today();
    let mut stranger = Plant::today().identity();
    stranger.ca = plant.ca.clone();
    let seen = shake(client_config(&stranger, EARLIEST_TIME).unwrap(), &plant.server, "127.0.0.1");
    assert_eq!(seen, Ok(Some(stranger.chain[0].to_vec())));
}

#[test]
fn a_certificate_without_its_key_does_not_pass() {
    let plant = Plant::today();
    let victim = plant.identity();
    let foreign_key = rustls::crypto::ring::sign::any_supported_type(&plant.identity().key).unwrap();
    // client_config() refuses such a pair; a thief writes his own.
    let stolen = rustls::sign::CertifiedKey::new(victim.chain.clone(), foreign_key);
    let mut roots = RootCertStore::empty();
    roots.add(plant.ca.clone()).unwrap();
    let thief = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    let refused = shake(Arc::new(thief), &plant.server, "127.0.0.1");
    assert_eq!(refused, Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature)));
}

#[test]
fn an_agent_refuses_a_server_of_another_ca() {
    let (plant, other) = (Plant::today(), Plant::today());
    let refused = shake(client_config(&plant.identity(), EARLIEST_TIME).unwrap(), &other.server, "127.0.0.1");
    assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))), "{refused:?}");
}

#[test]
fn a_joining_gateway_accepts_the_pinned_ca_and_nothing_else() {
    let (plant, other) = (Plant::today(), Plant::today());
    let pinned = || pinned_client_config(fingerprint(&plant.ca), EARLIEST_TIME).unwrap();
    assert_eq!(shake(pinned(), &plant.server, "127.0.0.1"), Ok(None));
    let refused = shake(pinned(), &other.server, "127.0.0.1").unwrap_err();
    assert!(is_pin_mismatch(&refused), "{refused:?}");
    let wrong_name = shake(pinned(), &plant.server, "127.0.0.2").unwrap_err();
    assert!(matches!(wrong_name, rustls::Error::InvalidCertificate(_)) && !is_pin_mismatch(&wrong_name));
}

#[test]
fn showing_the_pinned_ca_without_being_signed_by_it_is_not_enough() {
    let (plant, thief) = (Plant::today(), Plant::today());
    let key = KeyPair::generate().unwrap();
    let forged = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let forged = forged.signed_by(&key, &thief.issuer).unwrap();
    let server = server_config(
        vec![forged.der().clone(), plant.ca.clone()],
        PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    )
    .unwrap();
    let pinned = pinned_client_config(fingerprint(&plant.ca), EARLIEST_TIME).unwrap();
    assert!(shake(pinned, &server, "127.0.0.1").is_err());
}

#[test]
fn certificates_are_judged_by_the_later_of_clock_and_floor() {
    // Valid in a future that only the floor knows: the system's clock is "behind", as in 1970.
    let future = 3_000_000_000;
    let plant = Plant::valid(future, future + 1_000_000);
    let config = |floor| pinned_client_config(fingerprint(&plant.ca), floor).unwrap();
    assert_eq!(shake(config(future + 10), &plant.server, "127.0.0.1"), Ok(None));
    assert!(shake(config(EARLIEST_TIME), &plant.server, "127.0.0.1").is_err());
    // A floor in the past changes nothing.
    let today = Plant::today();
    let config = pinned_client_config(fingerprint(&today.ca), -5).unwrap();
    assert_eq!(shake(config, &today.server, "127.0.0.1"), Ok(None));
}

#[test]
fn a_gateway_that_wakes_ten_years_ahead_connects_as_long_as_nobody_vouches_for_that() {
    #[derive(Debug)]
    struct Ahead {
        vouched_for: bool,
    }
    const WAKES_AT: u64 = 2_100_000_000;
    const FLOOR: u64 = 1_800_000_000;
    impl TimeProvider for Ahead {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(WAKES_AT)))
        }
    }
    impl GatewayClock for Ahead {
        fn earliest(&self) -> Option<UnixTime> {
            (!self.vouched_for).then(|| UnixTime::since_unix_epoch(Duration::from_secs(FLOOR)))
        }
    }
    let shaken = |until, vouched_for| {
        let plant = Plant::valid(ALWAYS_VALID_FROM, until);
        let config = gateway_config(&plant.identity(), Arc::new(Ahead { vouched_for })).unwrap();
        shake(config, &plant.server, "127.0.0.1").is_ok()
    };
    assert!(shaken(2_000_000_000, false));
    assert!(!shaken(2_000_000_000, true), "it has truly expired");
    assert!(!shaken(1_790_000_000, false), "by the floor too");
}

#[test]
fn an_identity_survives_its_file_and_only_its_owner_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("identity");
    assert!(Identity::load(&folder).unwrap().is_none());
    let identity = Plant::today().identity();
    identity.save(&folder).unwrap();
    identity.save(&folder).unwrap();
    let back = Identity::load(&folder).unwrap().unwrap();
    assert_eq!((&back.server, &back.ca, &back.chain), (&identity.server, &identity.ca, &identity.chain));
    assert_eq!(back.key.secret_der(), identity.key.secret_der());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("identity.pem")), 0o600);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no draft stays behind");
}

#[test]
fn a_damaged_identity_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.pem");
    let identity = Plant::today().identity();
    identity.save(folder.path()).unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    for cut in [0, 10, 30, 60, 300, whole.len() - 40] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = Identity::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("identity.pem") && error.contains("join again"), "{error}");
    }
    std::fs::write(&path, whole.replace("identity 1", "identity 2")).unwrap();
    assert!(Identity::load(folder.path()).unwrap_err().to_string().contains("does not know"));
}

#[test]
fn debug_of_an_identity_shows_no_key() {
    let identity = Plant::today().identity();
    assert_eq!(format!("{identity:?}"), "Identity { server: \"127.0.0.1:8443\", .. }");
    assert_eq!(format!("{:?}", FreshKey::generate().unwrap()), "FreshKey(…)");
}

#[test]
fn the_first_writer_of_a_file_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    assert!(create_once(&path, b"first", 0o600).unwrap());
    assert!(!create_once(&path, b"second", 0o600).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"first");
}

#[test]
fn addresses_are_hosts_with_ports() {
    for good in ["plant:8443", "10.0.0.7:1", "[::1]:8443", "a.b.example:65535"] {
        assert!(server_name(good).is_ok(), "{good}");
    }
    for bad in ["plant", "plant:0", "plant:99999", ":8443", "pl ant:8443", "https://plant:8443"] {
        assert!(server_name(bad).is_err(), "{bad}");
    }
}
