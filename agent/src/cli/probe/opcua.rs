//! `probe opcua`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use forebay_config::field::{DataType, Link, OpcUaPart, PartStep};
use forebay_config::load;
use forebay_config::units::Name;
use forebay_protocols::field::opcua::Application;
use forebay_protocols::field::opcua::look::{Looker, Node, Offer, Seen, Tree};

use crate::cli::run::runtime;
use crate::cli::{BAD_CONFIG, FAILED, complain, say};

#[derive(Debug, Args)]
pub struct Look {
    /// Where: `opc.tcp://HOST[:PORT][/PATH]`.
    url: String,
    /// `None`, `Basic256Sha256`, `Aes128_Sha256_RsaOaep` or `Aes256_Sha256_RsaPss`.
    #[arg(long, default_value = "None")]
    security_policy: String,
    /// `Sign` or `SignAndEncrypt`.
    #[arg(long)]
    security_mode: Option<String>,
    /// Enter under this name. Default: anonymously.
    #[arg(long, requires = "password")]
    username: Option<String>,
    /// With this password. `'${NAME}'` takes it from the environment, where others do not see it.
    #[arg(long, requires = "username")]
    password: Option<String>,
    /// How many levels below the Objects folder.
    #[arg(long, default_value_t = 4)]
    depth: usize,
    /// How many nodes at the most.
    #[arg(long, default_value_t = 200)]
    limit: usize,
    /// Name nodes by browse path, not by id.
    #[arg(long)]
    paths: bool,
    /// Folder with key and certificate to show, such as the agent's `opcua`. Default: new ones.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// The longest wait for an answer: "10s".
    #[arg(long, default_value = "10s")]
    timeout: String,
}

/// Asks, enters, and shows.
pub fn look(look: &Look) -> ExitCode {
    let link = match link(look) {
        Ok(link) => link,
        Err(why) => {
            complain(&why);
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let Look { url, depth, limit, username, .. } = look;
    let who = username.as_ref().map_or_else(|| "anonymously".to_owned(), |name| format!("as {name}"));
    complain(&format!(
        "Asks {url} for its endpoints, then enters {who} and looks at up to {limit} nodes, {depth} levels deep. \
         Nothing is written to the server."
    ));
    let own = look.keys.is_none().then(|| {
        let random = getrandom::u64().unwrap_or_default();
        std::env::temp_dir().join(format!("forebay-probe-{}-{random:016x}", std::process::id()))
    });
    let application = Application {
        pki_dir: look.keys.clone().or_else(|| own.clone()).unwrap_or_default(),
        name: "Forebay probe".to_owned(),
        uri: "urn:forebay:probe".to_owned(),
    };
    let application = match &look.keys {
        Some(_) => application.with_uri_of_certificate(),
        None => application,
    };
    let code = match Looker::new(&link, application) {
        Ok(mut looker) => runtime.block_on(async {
            let code = show(look, &mut looker).await;
            looker.leave().await;
            code
        }),
        Err(why) => {
            complain(&why.to_string());
            ExitCode::from(FAILED)
        }
    };
    // Only there if a key was made for this look alone.
    if let Some(own) = own.filter(|own| own.exists())
        && let Err(why) = std::fs::remove_dir_all(&own)
    {
        complain(&format!("{} is left behind: {why}", own.display()));
    }
    code
}

async fn show(look: &Look, looker: &mut Looker) -> ExitCode {
    match looker.offers().await {
        Ok(offers) => drop(say(&ways(&offers))),
        Err(fault) => {
            complain(&fault.to_string());
            return ExitCode::from(FAILED);
        }
    }
    match looker.tree(look.depth, look.limit).await {
        Ok(tree) => say(&shown(&tree, look)),
        Err(fault) => {
            complain(&fault.to_string());
            ExitCode::from(FAILED)
        }
    }
}

/// The link that stands for what was asked for, by the same rules as one in agent.toml.
fn link(look: &Look) -> Result<Link, String> {
    if look.depth == 0 || look.limit == 0 || look.limit > 100_000 {
        return Err("--depth is at least 1, and --limit between 1 and 100000".into());
    }
    let password = look.password.as_ref().map(|password| format!("password = {password:?}\n"));
    let toml = format!(
        "[agent]\nsite = \"probe\"\ngateway = \"probe\"\n[link.probed]\ntimeout = {:?}\n{}{}\
         [link.probed.device.server.points]\nfirst = {{ node = \"i=2258\" }}\n",
        look.timeout,
        table(look),
        password.unwrap_or_default()
    );
    let agent = load::agent_text("what was asked for", &toml).map_err(|findings| findings.to_string())?;
    agent.links.into_iter().next().map(Arc::unwrap_or_clone).ok_or_else(|| "no link".into())
}

/// `[link.probed.opcua]` but for the password.
fn table(look: &Look) -> String {
    let mut table = format!("[link.probed.opcua]\nendpoint = {:?}\n", look.url);
    if look.security_policy != "None" {
        let _ = writeln!(table, "security_policy = {:?}", look.security_policy);
    }
    if let Some(mode) = &look.security_mode {
        let _ = writeln!(table, "security_mode = {mode:?}");
    }
    if let Some(name) = &look.username {
        let _ = writeln!(table, "username = {name:?}");
    }
    table
}

/// The ways in, one a line.
fn ways(offers: &[Offer]) -> String {
    let mut text = format!("{:<24} {:<15} lets in\n", "security_policy", "security_mode");
    for Offer { policy, mode, users, .. } in offers {
        let _ = writeln!(text, "{policy:<24} {mode:<15} {}", users.join(", "));
    }
    let thumbprints: BTreeSet<&String> =
        offers.iter().filter_map(|offer| offer.thumbprint.as_ref()).collect();
    for thumbprint in thumbprints {
        let _ = writeln!(text, "Its certificate has the thumbprint {thumbprint}.");
    }
    text
}

/// The tree, and the configuration that reads what can be read of it.
fn shown(tree: &Tree, look: &Look) -> String {
    let mut text = String::from("Objects\n");
    for Node { name, above, seen, .. } in &tree.nodes {
        let indent = "  ".repeat(above.len() + 1);
        let _ = match seen {
            Seen::Folder => writeln!(text, "{indent}{name}"),
            Seen::Value(_, value) => writeln!(text, "{indent}{name} = {value}"),
            Seen::Array(_, dimensions, first) => {
                writeln!(text, "{indent}{name} [{}] = {first}", joined(dimensions, u32::to_string))
            }
            Seen::Parts(parts) => {
                let _ = writeln!(text, "{indent}{name}");
                let line = |(part, _, value): &(OpcUaPart, DataType, String)| {
                    format!("{indent}  {}{part} = {value}\n", if is_field(part) { "." } else { "" })
                };
                text.extend(parts.iter().map(line));
                Ok(())
            }
            Seen::Other(why) => writeln!(text, "{indent}{name} ({why})"),
        };
    }
    if tree.cut {
        text += "There is more; --depth and --limit show it.\n";
    }
    let readable: Vec<&Node> = tree.nodes.iter().filter(|node| is_readable(node)).collect();
    if readable.is_empty() {
        return text + "Nothing there can be a reading.\n";
    }
    text += "\n# What can be a reading:\n";
    text += &table(look);
    if let Some(password) = &look.password {
        // What was typed must not be printed.
        let shown = if password.starts_with("${") { password } else { "${credential:probed-password}" };
        let _ = writeln!(text, "password = {shown:?}");
    }
    let mut devices = BTreeSet::new();
    let mut points = BTreeSet::new();
    let mut above: Option<&Vec<String>> = None;
    for node in readable {
        if above != Some(&node.above) {
            above = Some(&node.above);
            let whole = if node.above.is_empty() { "server".to_owned() } else { node.above.join(".") };
            let device = fresh(&mut devices, &whole);
            points.clear();
            let _ = writeln!(text, "\n[link.probed.device.{device}.points]");
        }
        let address = quoted(if look.paths { &node.path } else { &node.address });
        let mut line = |wish: &str, part: &str, kind: DataType, value: &str| {
            let point = fresh(&mut points, wish);
            let kind = typed(kind);
            let _ = writeln!(text, "{point} = {{ node = {address}{part}{kind} }}  # {value}");
        };
        match &node.seen {
            Seen::Value(kind, value) => line(&node.name, "", *kind, value),
            Seen::Array(kind, dimensions, first) => {
                let all = joined(dimensions, |length| format!("0:{}", length.saturating_sub(1)));
                line(&node.name, &format!(", elements = \"{all}\""), *kind, first);
            }
            Seen::Parts(parts) => {
                for (part, kind, value) in parts {
                    let wish = format!("{}{}{part}", node.name, if is_field(part) { "." } else { "" });
                    let field = quoted(&part.to_string());
                    line(wish.trim_end_matches(']'), &format!(", field = {field}"), *kind, value);
                }
            }
            Seen::Folder | Seen::Other(_) => {}
        }
    }
    text + &folders(tree, look)
}

/// The other way to configure it, for whoever wants all of it: one entry for each folder at the top.
fn folders(tree: &Tree, look: &Look) -> String {
    let holds = |folder: &Node| {
        let is_below = |node: &&Node| node.above.first() == Some(&folder.name);
        tree.nodes.iter().filter(is_below).any(is_readable)
    };
    let is_top = |node: &&Node| node.above.is_empty() && node.seen == Seen::Folder && holds(node);
    let mut devices = BTreeSet::new();
    let mut text = String::new();
    for folder in tree.nodes.iter().filter(is_top) {
        if text.is_empty() {
            text += "\n# Or whole folders, looked through at each connect; `include` and `exclude` choose, `unfold = 32` \
                     takes\n# arrays and structures of up to 32 elements and fields apart:\n";
        }
        let device = fresh(&mut devices, &folder.name);
        let address = quoted(if look.paths { &folder.path } else { &folder.address });
        let _ = writeln!(text, "# [[link.probed.device.{device}.folder]]\n# node = {address}");
    }
    text
}

fn is_readable(node: &Node) -> bool {
    matches!(node.seen, Seen::Value(..) | Seen::Array(..) | Seen::Parts(_))
}

/// Does its first step name a field?
fn is_field(part: &OpcUaPart) -> bool {
    matches!(part.steps().first(), Some(PartStep::Field(_)))
}

fn joined(dimensions: &[u32], shown: impl Fn(&u32) -> String) -> String {
    dimensions.iter().map(shown).collect::<Vec<_>>().join(",")
}

fn typed(kind: DataType) -> &'static str {
    match kind {
        DataType::Float => "",
        DataType::Integer => ", type = \"integer\"",
        DataType::Boolean => ", type = \"boolean\"",
        DataType::Text => ", type = \"text\"",
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

/// `wish` as a name that is not taken yet, as a key of TOML.
fn fresh(taken: &mut BTreeSet<String>, wish: &str) -> String {
    // Room for a number behind it.
    let base = Name::near(wish, 60).to_string();
    let mut name = base.clone();
    for number in 2.. {
        if taken.insert(name.clone()) {
            break;
        }
        name = format!("{base}-{number}");
    }
    let is_bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if is_bare { name } else { format!("\"{name}\"") }
}

#[cfg(test)]
mod tests {
    use forebay_config::field::Protocol;

    use super::*;

    fn asked(url: &str) -> Look {
        Look {
            url: url.into(),
            security_policy: "None".into(),
            security_mode: None,
            username: None,
            password: None,
            depth: 4,
            limit: 200,
            paths: false,
            keys: None,
            timeout: "10s".into(),
        }
    }

    fn node(above: &[&str], name: &str, seen: Seen) -> Node {
        Node {
            name: name.into(),
            address: format!("nsu=urn:a;s={name}"),
            path: format!("/Objects/nsu=urn:a;{}", name.replace('/', "&/")),
            above: above.iter().map(|name| (*name).to_owned()).collect(),
            seen,
        }
    }

    fn part(text: &str) -> OpcUaPart {
        OpcUaPart::all(None, Some(text)).unwrap().remove(0).1
    }

    fn value(kind: DataType, value: &str) -> Seen {
        Seen::Value(kind, value.into())
    }

    #[test]
    fn what_is_printed_is_a_configuration_that_check_accepts() {
        let tree = Tree {
            nodes: vec![
                node(&[], "Press", Seen::Folder),
                node(&["Press"], "Flow.Temp", value(DataType::Float, "21.5")),
                node(&["Press"], "a \"b\\ /c", value(DataType::Integer, "7")),
                node(&["Press"], "a -b- -c", value(DataType::Boolean, "true")),
                node(&["Press"], "Strange", Seen::Other("a structure; nobody knows it".into())),
                node(&["Press"], "Curve", Seen::Array(DataType::Float, vec![2, 3], "1, 2, …".into())),
                node(
                    &["Press"],
                    "Robot",
                    Seen::Parts(vec![
                        (part("Position.X"), DataType::Float, "1.5".into()),
                        (part("Axes[1].a&.b \"c"), DataType::Integer, "7".into()),
                    ]),
                ),
                node(
                    &["Press"],
                    "Robots",
                    Seen::Parts(vec![(part("[0].X"), DataType::Text, "\"a\"".into())]),
                ),
                node(&["Press", "Drive"], "Mode", value(DataType::Text, "\"läuft\"")),
                node(&["Press"], "Late", value(DataType::Float, "1")),
                node(&[], "Loose", value(DataType::Float, "2")),
            ],
            cut: true,
        };
        for paths in [false, true] {
            let mut look = asked("opc.tcp://plc:4840");
            look.paths = paths;
            look.security_policy = "Basic256Sha256".into();
            let text = shown(&tree, &look);
            assert!(
                text.contains("    Flow.Temp = 21.5\n") && text.contains("Strange (a structure; nobody"),
                "{text}"
            );
            assert!(text.contains("    Curve [2,3] = 1, 2, …\n"), "{text}");
            assert!(text.contains("    Robot\n      .Position.X = 1.5\n"), "{text}");
            assert!(text.contains("    Robots\n      [0].X = \"a\"\n"), "{text}");
            assert!(
                text.contains("elements = \"0:1,0:2\" }") && text.contains("\"Robots-0-.X\" = {"),
                "{text}"
            );
            assert!(text.contains("There is more"), "{text}");
            let (_, toml) = text.split_once("\n# ").unwrap();
            let toml = format!("[agent]\nsite = \"a\"\ngateway = \"b\"\n# {toml}");
            let agent =
                load::agent_text("printed.toml", &toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
            assert_eq!(agent.links[0].point_count(), 6 + 6 + 3, "{toml}");
            // The other way is printed too, and is good.
            let (before, folders) = toml.split_once("# Or whole folders").unwrap();
            let (before, _) = before.split_once("[link.probed.device").unwrap();
            let folders = &folders[folders.find("# [[").unwrap()..];
            let folders: String =
                folders.lines().map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect();
            let agent = load::agent_text("folders.toml", &format!("{before}{folders}")).unwrap();
            let Protocol::OpcUa(opcua) = &agent.links[0].protocol else { panic!("{folders}") };
            assert_eq!((opcua.devices.len(), opcua.devices[0].folders.len()), (1, 1), "{folders}");
        }
    }

    #[test]
    fn a_password_that_was_typed_is_not_printed() {
        let tree = Tree { nodes: vec![node(&[], "x", value(DataType::Float, "1"))], cut: false };
        let mut look = asked("opc.tcp://plc");
        (look.username, look.password) = (Some("u".into()), Some("hunter2".into()));
        let text = shown(&tree, &look);
        assert!(text.contains("username = \"u\"") && !text.contains("hunter2"), "{text}");
        assert!(text.contains("password = \"${credential:probed-password}\""), "{text}");
        look.password = Some("${PLC_PASSWORD}".into());
        assert!(shown(&tree, &look).contains("password = \"${PLC_PASSWORD}\""));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_the_way_out() {
        let why = link(&asked("http://plc")).unwrap_err();
        assert!(why.contains("opc.tcp://10.0.0.7:4840"), "{why}");
        let mut look = asked("opc.tcp://plc");
        look.security_policy = "Basic256".into();
        assert!(link(&look).unwrap_err().contains("allow_deprecated"));
        let mut look = asked("opc.tcp://plc");
        look.depth = 0;
        assert!(link(&look).unwrap_err().contains("--depth"));
    }
}
