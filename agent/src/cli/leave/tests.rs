use std::fs;

use forebay_protocols::sync::join::{JoinString, TokenSecret};
use forebay_protocols::sync::tls::{FreshKey, install_provider};

use super::*;

fn config(state: &Path) -> Agent {
    let text = format!("[agent]\nsite = \"hall\"\ngateway = \"press\"\nstate_dir = {state:?}\n");
    forebay_config::load::agent_text("agent.toml", &text).unwrap()
}

fn leave(force: bool) -> Leave {
    let config = ConfigPath { config: "agent.toml".into() };
    Leave { yes: true, remove_buffer: false, force, config }
}

/// Has asked over the network and waits, and has asked by a stick.
fn ask(folder: &Path) {
    let join = JoinString { address: "plant:8443".into(), ca_pin: [7; 32], secret: TokenSecret([9; 32]) };
    let key = || FreshKey::generate().unwrap();
    Application::new("hall/press".into(), join, key()).save(folder).unwrap();
    Errand::new("hall/press".into(), None, key()).save(folder).unwrap();
}

fn left(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn what_was_asked_and_not_answered_is_forgotten_with_its_keys_and_told() {
    let state = tempfile::tempdir().unwrap();
    let (config, folder) = (config(state.path()), identity_folder(state.path()));
    let nothing = "This gateway has not joined: there is nothing to leave.";
    assert_eq!(depart(&leave(false), &config).unwrap(), nothing);
    ask(&folder);
    let words = depart(&leave(false), &config).unwrap();
    assert!(words.starts_with("This gateway has not joined. The request that waited"), "{words}");
    assert!(words.contains("that was to be carried is forgotten, with its key"), "{words}");
    assert_eq!(left(&folder), 0);
    assert_eq!(depart(&leave(false), &config).unwrap(), nothing);
    // One that nobody can read any more is no reason to keep it.
    fs::write(folder.join("errand.pem"), b"torn").unwrap();
    assert!(depart(&leave(false), &config).unwrap().contains("was to be carried is forgotten"));
    assert_eq!(left(&folder), 0);
}

#[test]
fn a_member_that_leaves_forgets_what_it_asked_elsewhere_and_one_that_does_not_keeps_it() {
    install_provider();
    let state = tempfile::tempdir().unwrap();
    let (config, folder) = (config(state.path()), identity_folder(state.path()));
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(["gateway".into()]).unwrap().self_signed(&key).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    // Nobody is at its server's address.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    drop(listener);
    Identity::new(server, own.der().clone(), vec![own.der().clone()], key).save(&folder).unwrap();
    ask(&folder);
    assert_eq!(depart(&leave(false), &config).unwrap_err().0, UNREACHABLE);
    assert_eq!(left(&folder), 3, "nothing was done");
    let words = depart(&leave(true), &config).unwrap();
    for said in
        ["could not be told", "waited for an operator", "was to be carried", "Readings stay in the buffer"]
    {
        assert!(words.contains(said), "no {said:?} in {words}");
    }
    assert_eq!(left(&folder), 0);
}
