//! Who is let in, who is believed, and what others on the way can read.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use forebay_config::field::{OpcUaMode, OpcUaPolicy};
use forebay_demo::opcua::USER;

use super::*;

const POLICIES: [OpcUaPolicy; 3] =
    [OpcUaPolicy::Basic256Sha256, OpcUaPolicy::Aes128Sha256RsaOaep, OpcUaPolicy::Aes256Sha256RsaPss];

fn secured(policy: OpcUaPolicy, mode: OpcUaMode) -> OpcUaSecurity {
    OpcUaSecurity::Secured { policy, mode }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secured_server_lets_the_right_user_in_and_its_certificate_is_pinned() {
    let client = tempfile::tempdir().unwrap();
    // Its own name resolves nowhere: the address in the configuration is what counts.
    let first = plant(|o| o.advertised_host = Some("plant.invalid".into())).await;
    let address = first.address();
    let secured = |o: &mut OpcUa| {
        o.security = secured(OpcUaPolicy::Basic256Sha256, OpcUaMode::SignAndEncrypt);
        o.user = user(USER.0, USER.1);
        o.timestamp = Timestamp::Source;
    };
    let link = link(&first.endpoint(), secured);
    let mut source = source(client.path(), &link);
    source.connect().await.unwrap();
    let samples = gather(&mut source, is_good).await;
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    for sample in &samples {
        assert_eq!(sample.stamp.clock, Clock::Device, "{sample:?}");
        let age = wall.as_micros() as i64 - sample.stamp.micros;
        assert!(age.abs() < 300_000_000, "{age} µs old");
    }
    source.close().await;
    source.connect().await.expect("the remembered certificate is known");
    source.close().await;
    first.shutdown().await;

    // Another server in the same place, with another key.
    let second = plant(|o| {
        o.address = address;
        o.pki_dir = Some(keys("impostor"));
    })
    .await;
    let why = refusal(source.connect().await);
    assert!(why.contains("changed since the first contact") && why.contains("opcua trust hall"), "{why}");
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_a_refusal_and_costs_the_server_no_session() {
    let plant = plant(|o| o.max_sessions = 2).await;
    let wrong = link(&plant.endpoint(), |o| o.user = user(USER.0, "guess"));
    let mut intruder = source(&keys("client"), &wrong);
    for _ in 0..5 {
        let why = refusal(intruder.connect().await);
        assert!(why.contains("`username` and `password`"), "{why}");
        assert!(!why.contains("guess"), "{why}");
    }
    let right = link(&plant.endpoint(), |_| {});
    let mut source = source(&keys("client"), &right);
    for _ in 0..5 {
        source.connect().await.unwrap();
        gather(&mut source, is_good).await;
        source.close().await;
    }
    plant.shutdown().await;
}

/// A relay that keeps what passes it.
struct Wiretap {
    endpoint: String,
    heard: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl Wiretap {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("opc.tcp://{}/", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let keep = heard.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                for (mut from, mut to) in [(near_read, far_write), (far_read, near_write)] {
                    let keep = keep.clone();
                    connections.spawn(async move {
                        let mut bytes = [0; 8192];
                        while let Ok(length @ 1..) = from.read(&mut bytes).await {
                            keep.lock().unwrap().extend_from_slice(&bytes[..length]);
                            if to.write_all(&bytes[..length]).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        Self { endpoint, heard, _tasks: tasks }
    }

    /// Did these letters pass since the last question?
    fn heard(&self, letters: &str) -> bool {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        assert!(!heard.is_empty(), "nothing passed at all");
        heard.windows(letters.len()).any(|window| window == letters.as_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_reads_signed_and_encrypted_and_no_password_passes_in_clear() {
    let plant = plant(|_| {}).await;
    let wiretap = Wiretap::before(plant.address()).await;
    let client = tempfile::tempdir().unwrap();
    for policy in POLICIES {
        for mode in [OpcUaMode::Sign, OpcUaMode::SignAndEncrypt] {
            let link = link(&wiretap.endpoint, |o| {
                o.security = secured(policy, mode);
                o.user = OpcUaUser::Password {
                    name: USER.0.into(),
                    password: Secret::new(USER.1),
                    in_clear: false,
                };
                o.devices[0].points.push(point(
                    "passphrase",
                    "s=Letters that nothing else holds",
                    DataType::Float,
                ));
            });
            let mut source = source(client.path(), &link);
            source.connect().await.unwrap_or_else(|fault| panic!("{policy:?} {mode:?}: {fault}"));
            gather(&mut source, |_| true).await;
            source.close().await;
            // What is only signed can be read, which shows that the wiretap works.
            let read = wiretap.heard("Letters that nothing else holds");
            assert_eq!(read, mode == OpcUaMode::Sign, "{policy:?} {mode:?}");
        }
    }
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_not_told_in_clear_unless_that_is_asked_for() {
    // Without security this server takes passwords as they are.
    let plant = plant(|_| {}).await;
    let wiretap = Wiretap::before(plant.address()).await;
    const PASSWORD: &str = "a password that nobody has";
    let named = |in_clear| {
        link(&wiretap.endpoint, |o| {
            let password = Secret::new(PASSWORD);
            o.user = OpcUaUser::Password { name: USER.0.into(), password, in_clear };
        })
    };
    let why = refusal(source(&keys("client"), &named(false)).connect().await);
    assert!(why.contains("`password_in_clear = true`") && why.contains("`security_policy`"), "{why}");
    assert!(!wiretap.heard(PASSWORD));
    let why = refusal(source(&keys("client"), &named(true)).connect().await);
    assert!(why.contains("`username` and `password`"), "{why}");
    assert!(wiretap.heard(PASSWORD), "it was asked for");

    // Signed is not encrypted, and yet the password is not to be seen.
    for policy in POLICIES {
        let link = link(&wiretap.endpoint, |o| {
            o.security = secured(policy, OpcUaMode::Sign);
            o.user = user(USER.0, PASSWORD);
        });
        let why = refusal(source(&keys("client"), &link).connect().await);
        assert!(why.contains("`username` and `password`"), "{why}");
        assert!(!wiretap.heard(PASSWORD), "{policy:?}");
    }
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_offer_is_told_with_what_it_does() {
    let plant = plant(|_| {}).await;
    let link = link(&plant.endpoint(), |o| {
        o.security = secured(OpcUaPolicy::Basic128Rsa15, OpcUaMode::SignAndEncrypt);
        o.allow_deprecated = true;
    });
    let why = refusal(source(&keys("client"), &link).connect().await);
    assert!(
        why.contains("`security_policy = \"Basic128Rsa15\"` and `security_mode = \"SignAndEncrypt\"`"),
        "{why}"
    );
    assert!(why.contains("Aes128_Sha256_RsaOaep (Sign)"), "{why}");
    plant.shutdown().await;
}
