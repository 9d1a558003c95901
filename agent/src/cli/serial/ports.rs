//! Which serial ports there are, by what the kernel shows in `/sys`, `/dev` and `/proc`. Opens none:
//! opening a port can reset the device behind it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// Where the kernel shows things. Tests have a tree of their own.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/etc`, for the names of groups.
    pub etc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), proc: "/proc".into(), etc: "/etc".into() }
    }
}

/// One serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The tty: `/dev/ttyUSB0`.
    pub path: PathBuf,
    /// Names that stay the same, the best for a configuration first.
    pub names: Vec<PathBuf>,
    /// The kernel's driver: `ftdi_sio`.
    pub driver: Option<String>,
    /// What the adapter says of itself: maker, product, serial number.
    pub adapter: Option<String>,
    /// Who has it open.
    pub users: Vec<User>,
    /// Who may open it.
    pub rights: Option<Rights>,
}

/// A process that has a port open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub process: u32,
    /// Its name.
    pub name: String,
}

/// Who may open a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// May this user?
    pub granted: bool,
    /// Its group, by name where there is one.
    pub group: String,
    /// Permission bits.
    pub mode: u32,
}

/// All ports, and whether the processes of others could be looked at.
#[derive(Debug, Default)]
pub struct Found {
    /// By path.
    pub ports: Vec<Port>,
    /// Processes of other users may have a port open that seems free.
    pub some_hidden: bool,
}

/// Looks at everything, and at `also`: ports that are configured.
///
/// # Errors
/// When `/sys/class/tty` cannot be listed.
pub fn find(roots: &Roots, also: &[PathBuf]) -> io::Result<Found> {
    let mut ports: BTreeMap<PathBuf, Port> = BTreeMap::new();
    for entry in fs::read_dir(roots.sys.join("class/tty"))? {
        let entry = entry?;
        let (tty, path) = (entry.path(), roots.dev.join(entry.file_name()));
        if is_hardware(&tty) {
            let (driver, adapter) = (driver(&tty), adapter(&tty));
            ports.insert(path.clone(), Port { path, driver, adapter, ..Port::default() });
        }
    }
    // A pseudo terminal, or a tty that the kernel lists nowhere.
    for path in also.iter().filter_map(|port| fs::canonicalize(port).ok()) {
        ports.entry(path.clone()).or_insert_with(|| Port { path, ..Port::default() });
    }
    // Ours first (`systemd/60-forebay-serial.rules`), then by what it is, then by where it is plugged in.
    for folder in ["forebay", "serial/by-id", "serial/by-path"] {
        for (name, target) in links(&roots.dev.join(folder)) {
            if let Some(port) = ports.get_mut(&target) {
                port.names.push(name);
            }
        }
    }
    let some_hidden = note_users(roots, &mut ports);
    for port in ports.values_mut() {
        port.rights = rights(roots, &port.path);
    }
    Ok(Found { ports: ports.into_values().collect(), some_hidden })
}

/// A tty with something behind it: consoles and pseudo terminals have no `device`, and of the four
/// or thirty-two places for ports of old PCs most are empty (`type` 0, `PORT_UNKNOWN`).
fn is_hardware(tty: &Path) -> bool {
    let is_empty = fs::read_to_string(tty.join("type")).is_ok_and(|kind| kind.trim() == "0");
    tty.join("device").exists() && !is_empty
}

/// The first driver on the way up that is not the kernel's own layer between ports and drivers.
fn driver(tty: &Path) -> Option<String> {
    parents(tty).into_iter().find_map(|device| {
        let driver = fs::read_link(device.join("driver")).ok()?;
        let name = driver.file_name()?.to_string_lossy().into_owned();
        (!matches!(name.as_str(), "port" | "ctrl")).then_some(name)
    })
}

/// Of the USB device, which is some steps up.
fn adapter(tty: &Path) -> Option<String> {
    let device = parents(tty).into_iter().find(|device| device.join("idVendor").exists())?;
    let read = |name: &str| {
        let text = fs::read_to_string(device.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let serial = read("serial").map(|serial| format!("no. {serial}"));
    let ids = || Some(format!("USB {}:{}", read("idVendor")?, read("idProduct")?));
    let named: Vec<String> =
        [read("manufacturer"), read("product").or_else(ids), serial].into_iter().flatten().collect();
    Some(named.join(" "))
}

/// The tty's device and what it hangs on, nearest first.
fn parents(tty: &Path) -> Vec<PathBuf> {
    let Ok(device) = fs::canonicalize(tty.join("device")) else { return Vec::new() };
    device
        .ancestors()
        .take_while(|path| path.file_name().is_some_and(|name| name != "devices"))
        .map(Path::to_owned)
        .collect()
}

/// The links of a folder, by name, and where they lead.
fn links(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut links: Vec<_> =
        entries.filter_map(|entry| Some((entry.path(), fs::canonicalize(entry.path()).ok()?))).collect();
    links.sort();
    links
}

/// True if some processes could not be looked at.
fn note_users(roots: &Roots, ports: &mut BTreeMap<PathBuf, Port>) -> bool {
    let mut some_hidden = false;
    for entry in fs::read_dir(&roots.proc).into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let open = match fs::read_dir(entry.path().join("fd")) {
            Ok(open) => open,
            // One that has just ended is not hidden.
            Err(why) => {
                some_hidden |= why.kind() == io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        for target in open.flatten().filter_map(|open| fs::read_link(open.path()).ok()) {
            let Some(port) = ports.get_mut(&target) else { continue };
            if port.users.iter().all(|user| user.process != process) {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                port.users.push(User { process, name: name.trim().to_owned() });
            }
        }
    }
    some_hidden
}

fn rights(roots: &Roots, path: &Path) -> Option<Rights> {
    let about = fs::metadata(path).ok()?;
    let groups = fs::read_to_string(roots.etc.join("group")).unwrap_or_default();
    // group(5): name:password:number:members
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(about.gid())).then(|| name.to_owned())
    });
    Some(Rights {
        granted: rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).is_ok(),
        group: name.unwrap_or_else(|| about.gid().to_string()),
        mode: about.mode() & 0o777,
    })
}
