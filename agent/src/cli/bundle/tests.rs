use std::io::Read;

use super::super::sight::Seen;
use super::*;

/// Whoever finds one of these in a bundle has found a leak.
const SECRETS: [&str; 6] =
    ["inline-Pa55", "proxy-Pa55", "comment-Pa55", "dropin-Pa55", "opcua-Pa55", "hidden-log-Pa55"];

#[test]
fn a_bundle_can_be_unpacked_by_tar_and_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let main = format!(
        "[agent]\nsite = \"t\"\ngateway = \"g\"\nstate_dir = {:?}\n[uplink]\nproxy = \"http://joe:proxy-Pa55@10.0.0.1:3128\"\n\
         # the old one was comment-Pa55\n[link.hall.mqtt]\nbroker = \"mqtt://10.0.0.9\"\nusername = \"joe\"\n\
         password = \"inline-Pa55\"\n[[link.hall.topic]]\ntopic = \"a/{{device}}/{{point}}\"\n",
        folder.path()
    );
    fs::write(&path, main).unwrap();
    fs::create_dir(folder.path().join("agent.d")).unwrap();
    let press = "[link.press.opcua]\nendpoint = \"opc.tcp://10.0.0.7:4840\"\nusername = \"joe\"\npassword = \"opcua-Pa55\"\n\
                 password_in_clear = true\n[link.press.device.press]\npoints.p = { node = \"ns=2;s=x\" }\n";
    fs::write(folder.path().join("agent.d/press.toml"), press).unwrap();
    fs::write(folder.path().join("agent.d/broken.toml"), "password = \"dropin-Pa55\n[").unwrap();
    let mut sight = Sight::look(&path);
    assert!(sight.config.is_err(), "one file is broken on purpose");
    sight.agent = Seen::Unknown("its log says password=hidden-log-Pa55".into());
    let pages = gather(&sight, 0);
    let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "config/agent.toml",
        "config/agent.d/press.toml",
        "status.json",
        "doctor.txt",
        "versions.txt",
        "files.txt",
    ] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    for (name, text) in &pages {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
    let text = |name: &str| &pages.iter().find(|(page, _)| page == name).unwrap().1;
    assert!(
        text("config/agent.toml").contains("broker = \"mqtt://10.0.0.9\""),
        "{}",
        text("config/agent.toml")
    );
    assert!(text("config/agent.d/broken.toml").starts_with("left out: "));

    let bytes = archive::pack("bundle", &pages, 1_700_000_000).unwrap();
    fs::write(folder.path().join("b.tar.gz"), bytes).unwrap();
    let tar = std::process::Command::new("tar")
        .arg("-xzf")
        .arg(folder.path().join("b.tar.gz"))
        .current_dir(folder.path())
        .status();
    assert!(tar.unwrap().success());
    for (name, text) in &pages {
        let mut unpacked = String::new();
        fs::File::open(folder.path().join("bundle").join(name))
            .unwrap()
            .read_to_string(&mut unpacked)
            .unwrap();
        assert_eq!(&unpacked, text, "{name}");
    }
}
