use std::fs;
use std::path::Path;

use forebay_protocols::sync::tls::Identity;

use super::super::sight::Seen;
use super::*;

fn sight(folder: &Path, rest: &str) -> Sight {
    let text = format!("[agent]\nsite = \"t\"\ngateway = \"g\"\nstate_dir = {folder:?}\n{rest}");
    let config = forebay_config::load::agent_text("agent.toml", &text);
    let buffer = Err("there is no buffer".into());
    Sight {
        path: "agent.toml".into(),
        config,
        state_dir: folder.into(),
        agent: Seen::Absent,
        buffer,
        identity: Ok(None),
    }
}

/// An identity that nobody made a certificate for: enough to know the address.
fn identity(server: &str) -> Identity {
    let mut params = rcgen::CertificateParams::new(["gateway".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    Identity::new(server.into(), certificate.clone(), vec![certificate], key)
}

fn found<'f>(findings: &'f [Finding], what: &str) -> &'f Finding {
    findings
        .iter()
        .find(|finding| finding.what == what)
        .unwrap_or_else(|| panic!("no {what} in {findings:#?}"))
}

#[test]
fn a_gateway_without_network_is_told_what_is_missing_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut sight = sight(folder.path(), "[buffer]\nmax_size = \"8MiB\"\nreserve = \"0B\"\n");
    sight.identity = Ok(Some(identity("no-such-host.invalid:8443")));
    let findings = examine(&sight).unwrap();
    assert_eq!(found(&findings, "configuration").verdict, Verdict::Ok);
    assert_eq!(found(&findings, "state directory").verdict, Verdict::Ok);
    assert_eq!(found(&findings, "certificate").verdict, Verdict::Ok);
    let name = found(&findings, "server's name");
    assert_eq!(name.verdict, Verdict::Fail);
    assert!(name.remedy.contains("/etc/hosts"), "{name:?}");
    assert!(findings.iter().all(|finding| finding.what != "server reachable"), "it could not be tried");
    let service = found(&findings, "service");
    assert!(
        service.verdict == Verdict::Fail && service.remedy.contains("systemctl enable --now"),
        "{service:?}"
    );
    assert_eq!(checkup::exit_code(&findings), 2);
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok || !finding.remedy.is_empty()));
    let page = text(&findings, Paint::plain());
    assert!(page.lines().last().unwrap().contains(" FAIL, ") && !page.contains('\x1b'), "{page}");
    assert_eq!(json(&findings)["verdict"], "FAIL");
}

#[test]
fn somebody_else_at_the_servers_address_is_found_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let mut sight = sight(folder.path(), "");
    sight.identity = Ok(Some(identity(&address.to_string())));
    let findings = examine(&sight).unwrap();
    answering.join().unwrap();
    assert_eq!(found(&findings, "server reachable").verdict, Verdict::Ok);
    let known = found(&findings, "server's identity");
    assert!(known.verdict == Verdict::Fail && known.remedy.contains("port for agents"), "{known:?}");
}

#[test]
fn rights_ports_and_room_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let link = "[buffer]\nreserve = \"900000GiB\"\n[link.bus.modbus-rtu]\nport = \"/dev/ttyNONE7\"\n\
                [link.bus.device.d]\npoints.p = { address = 0 }\n";
    let sight = sight(folder.path(), link);
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let findings = house::examine(&sight);
    let state = found(&findings, "state directory");
    assert!(state.verdict == Verdict::Warn && state.remedy.starts_with("chmod 700 "), "{state:?}");
    let ports = found(&findings, "serial ports");
    assert!(
        ports.verdict == Verdict::Fail && ports.remedy.contains("/dev/ttyNONE7 is not there"),
        "{ports:?}"
    );
    let disk = found(&findings, "disk");
    assert!(disk.verdict == Verdict::Fail && disk.remedy.contains("make room"), "{disk:?}");
    assert_eq!(found(&findings, "certificate").verdict, Verdict::Warn);
}

#[test]
fn passwords_that_everybody_may_read_are_told_and_references_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut sight = sight(folder.path(), "");
    sight.path = folder.path().join("agent.toml");
    let warned = |password: &str, mode: u32| {
        fs::write(&sight.path, format!("[link.hall.mqtt]\npassword = \"{password}\"\n")).unwrap();
        fs::set_permissions(&sight.path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        house::examine(&sight).iter().any(|finding| finding.what == "secrets")
    };
    assert!(warned("hunter2", 0o644));
    assert!(!warned("hunter2", 0o640));
    assert!(!warned("${credential:hall}", 0o644));
}
