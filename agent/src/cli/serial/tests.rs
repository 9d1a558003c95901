//! A gateway's `/sys`, `/dev` and `/proc` as folders: an FTDI adapter, a port of the board, an empty
//! place for one, a console, and a process that has the adapter open.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let usb = "sys/devices/pci0/usb1/1-1";
        machine.file(&format!("{usb}/idVendor"), "0403\n");
        machine.file(&format!("{usb}/idProduct"), "6001\n");
        machine.file(&format!("{usb}/manufacturer"), "FTDI\n");
        machine.file(&format!("{usb}/product"), "USB-RS485 \x1b[2JCable\n");
        machine.file(&format!("{usb}/serial"), "FT1ABC\n");
        machine.file(&format!("{usb}/1-1:1.0/ttyUSB0/tty/ttyUSB0/dev"), "188:0\n");
        machine.link(&format!("{usb}/1-1:1.0/driver"), "sys/bus/usb/drivers/usbserial_generic");
        machine.link(&format!("{usb}/1-1:1.0/ttyUSB0/driver"), "sys/bus/usb-serial/drivers/ftdi_sio");
        machine.tty("ttyUSB0", &format!("{usb}/1-1:1.0/ttyUSB0"), None);
        // As kernels since 6.5 have it: a layer of their own between port and driver.
        let board = "sys/devices/platform/uart";
        machine.folder(&format!("{board}/uart:0/uart:0.0"));
        machine.link(&format!("{board}/driver"), "sys/bus/amba/drivers/uart-pl011");
        machine.link(&format!("{board}/uart:0/driver"), "sys/bus/serial-base/drivers/ctrl");
        machine.link(&format!("{board}/uart:0/uart:0.0/driver"), "sys/bus/serial-base/drivers/port");
        machine.tty("ttyAMA0", &format!("{board}/uart:0/uart:0.0"), Some("32"));
        machine.folder("sys/devices/platform/serial8250");
        machine.tty("ttyS1", "sys/devices/platform/serial8250", Some("0"));
        machine.folder("sys/class/tty/console");
        machine.file(
            "etc/group",
            "daemons:x:99999:\nserials:x:GID:\n".replace("GID", &gid(&machine).to_string()).as_str(),
        );
        for folder in ["dev/serial/by-id", "dev/serial/by-path", "dev/forebay"] {
            machine.folder(folder);
        }
        machine.link("dev/serial/by-path/pci-0-usb-0:1:1.0-port0", "dev/ttyUSB0");
        machine.link("dev/serial/by-id/usb-FTDI_USB-RS485_FT1ABC-if00-port0", "dev/ttyUSB0");
        machine.link("dev/forebay/FT1ABC", "dev/ttyUSB0");
        machine.file("proc/4711/comm", "minicom\n");
        machine.folder("proc/4711/fd");
        machine.link("proc/4711/fd/3", "dev/ttyUSB0");
        machine.link("proc/4711/fd/4", "dev/ttyUSB0");
        machine.folder("proc/tty");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        // As the kernel shows it: without links on the way.
        fs::canonicalize(self.0.path()).unwrap().join(path)
    }

    fn folder(&self, path: &str) {
        fs::create_dir_all(self.at(path)).unwrap();
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        self.folder(Path::new(path).parent().unwrap().to_str().unwrap());
        symlink(self.at(target), self.at(path)).unwrap();
    }

    fn tty(&self, name: &str, device: &str, kind: Option<&str>) {
        self.file(&format!("dev/{name}"), "");
        self.link(&format!("sys/class/tty/{name}/device"), device);
        if let Some(kind) = kind {
            self.file(&format!("sys/class/tty/{name}/type"), kind);
        }
    }

    fn page(&self, configured: &[(&str, &str)]) -> Page {
        let configured: Vec<_> =
            configured.iter().map(|(link, port)| ((*link).to_owned(), self.at(port))).collect();
        let also: Vec<_> = configured.iter().map(|(_, port)| port.clone()).collect();
        let roots =
            Roots { sys: self.at("sys"), dev: self.at("dev"), proc: self.at("proc"), etc: self.at("etc") };
        Page { found: find(&roots, &also).unwrap(), configured }
    }
}

fn gid(machine: &Machine) -> u32 {
    use std::os::unix::fs::MetadataExt;
    machine.file("dev/any", "");
    fs::metadata(machine.at("dev/any")).unwrap().gid()
}

#[test]
fn a_port_is_shown_with_its_lasting_names_its_driver_and_who_has_it() {
    let machine = Machine::new();
    let page = machine.page(&[("meters", "dev/serial/by-id/usb-FTDI_USB-RS485_FT1ABC-if00-port0")]);
    let ports: Vec<_> = page.found.ports.iter().map(|port| port.path.clone()).collect();
    assert_eq!(
        ports,
        [machine.at("dev/ttyAMA0"), machine.at("dev/ttyUSB0")],
        "no console and no empty place"
    );
    let [board, usb] = page.found.ports.as_slice() else { panic!("two ports") };
    assert_eq!((board.driver.as_deref(), &board.adapter), (Some("uart-pl011"), &None));
    assert_eq!(usb.driver.as_deref(), Some("ftdi_sio"));
    assert_eq!(usb.adapter.as_deref(), Some("FTDI USB-RS485 \x1b[2JCable no. FT1ABC"));
    assert_eq!(usb.names.first(), Some(&machine.at("dev/forebay/FT1ABC")));
    assert_eq!(usb.names.len(), 3);
    assert_eq!(
        usb.users.iter().map(|user| (user.process, user.name.as_str())).collect::<Vec<_>>(),
        [(4711, "minicom")]
    );
    assert!(board.users.is_empty() && !page.found.some_hidden);
    assert_eq!((page.links_of(usb), page.links_of(board)), (vec!["meters"], vec![]));
    assert_eq!(usb.rights.as_ref().unwrap().group, "serials");
    let text = page.text();
    assert!(text.contains("minicom (4711)") && text.contains("USB-RS485 \\u{1b}[2JCable"), "{text}");
    assert!(page.troubles().is_empty() && page.hints().is_empty(), "the name lasts: {:?}", page.hints());
    let json = page.json();
    assert_eq!(
        (&json["ports"][1]["links"][0], &json["ports"][1]["users"][0]["process"]),
        (&json!("meters"), &json!(4711))
    );
}

#[test]
fn a_configured_port_that_is_missing_or_has_a_better_name_is_told() {
    let machine = Machine::new();
    machine.file("dev/pts/7", "");
    let page = machine.page(&[("a", "dev/ttyUSB9"), ("b", "dev/ttyUSB0"), ("c", "dev/pts/7")]);
    assert_eq!(page.found.ports.len(), 3, "a pseudo terminal that is configured is listed too");
    let troubles = page.troubles();
    assert!(
        troubles.len() == 1 && troubles[0].contains("link.a: ") && troubles[0].contains("plugged in"),
        "{troubles:?}"
    );
    let hints = page.hints();
    assert!(
        hints[1].contains("link.b.modbus-rtu.port = ") && hints[1].contains("forebay/FT1ABC"),
        "{hints:?}"
    );
    assert_eq!(hints.len(), 2);
}

#[test]
fn a_port_that_this_user_may_not_open_names_the_group() {
    let machine = Machine::new();
    fs::set_permissions(machine.at("dev/ttyUSB0"), fs::Permissions::from_mode(0o000)).unwrap();
    let page = machine.page(&[("b", "dev/ttyUSB0")]);
    let rights = page.found.ports[1].rights.as_ref().unwrap();
    assert_eq!(rights.mode, 0);
    // root may open everything: what is said of those who may not is looked at apart.
    assert_eq!(rights.granted, rustix::process::geteuid().is_root());
    let Page { mut found, configured } = page;
    found.ports[1].rights.as_mut().unwrap().granted = false;
    let page = Page { found, configured };
    assert!(page.text().contains("no (group serials, mode 0000)"), "{}", page.text());
    assert!(page.troubles()[0].contains("usermod -aG serials forebay"), "{:?}", page.troubles());
}

#[test]
fn a_machine_without_ports_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("sys/class/tty")).unwrap();
    let at = |name: &str| folder.path().join(name);
    let roots = Roots { sys: at("sys"), dev: at("dev"), proc: at("proc"), etc: at("etc") };
    let page = Page { found: find(&roots, &[]).unwrap(), configured: Vec::new() };
    assert!(page.text().starts_with("no serial ports"));
    let nowhere = Roots { sys: at("nowhere"), ..roots };
    assert!(find(&nowhere, &[]).is_err());
}
