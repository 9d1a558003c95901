//! What may stand in `[link.NAME.opcua]` and below, and why other things may not.

#![expect(clippy::panic, reason = "in a test file a panic is a failed test")]

use forebay_config::field::{
    Deadband, OpcUa, OpcUaMode, OpcUaPolicy, OpcUaReading, OpcUaSecurity, OpcUaUser, Protocol,
};
use forebay_config::load::{self, Finding, Findings};

/// One OPC UA link with these keys.
fn link(keys: &str) -> String {
    with("node = \"i=2258\"", keys)
}

/// A point with these keys.
fn point(keys: &str) -> String {
    with(keys, "")
}

fn with(point: &str, keys: &str) -> String {
    format!(
        "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.press.opcua]\nendpoint = \"opc.tcp://plc\"\n{keys}\n\
         [link.press.device.d.points]\nx = {{ {point} }}\n"
    )
}

fn accepted(text: &str) -> OpcUa {
    let agent = load::agent_text("agent.toml", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    match agent.links.into_iter().next().map(|link| link.protocol.clone()) {
        Some(Protocol::OpcUa(opcua)) => opcua,
        other => panic!("press is OPC UA: {other:?}"),
    }
}

/// The one thing that is wrong.
fn refused(text: &str) -> Finding {
    match load::agent_text("agent.toml", text) {
        Err(Findings(mut findings)) if findings.len() == 1 => findings.remove(0),
        other => panic!("expected one finding: {other:?}\n{text}"),
    }
}

#[test]
fn deadbands_are_numbers_or_percents_of_the_range() {
    let with = |keys: &str| point(&format!("node = \"i=2258\", {keys}"));
    for (keys, deadband) in [
        ("deadband = 0.5", Deadband::Absolute(0.5)),
        ("deadband = 2", Deadband::Absolute(2.0)),
        ("deadband = \"2.5 %\"", Deadband::Percent(2.5)),
    ] {
        let opcua = accepted(&with(keys));
        assert_eq!(opcua.devices[0].points[0].deadband, Some(deadband), "{keys}");
    }
    for (keys, word) in [
        ("deadband = 0", "more than 0"),
        ("deadband = \"-1%\"", "more than 0"),
        ("deadband = \"NaN%\"", "more than 0"),
        ("deadband = \"101%\"", "whole range"),
        ("deadband = \"2\"", "not a deadband"),
        ("deadband = 1, type = \"text\"", "needs a number"),
    ] {
        let finding = refused(&with(keys));
        assert!(finding.message.contains(word), "{keys}: {finding}");
    }
}

#[test]
fn policy_and_mode_go_together_and_encryption_is_what_you_get_without_a_word() {
    use OpcUaMode::{Sign, SignAndEncrypt};

    let secured = |policy, mode| OpcUaSecurity::Secured { policy, mode };
    for (keys, security) in [
        ("", OpcUaSecurity::None),
        ("security_policy = \"None\"\nsecurity_mode = \"none\"", OpcUaSecurity::None),
        ("security_policy = \"Basic256Sha256\"", secured(OpcUaPolicy::Basic256Sha256, SignAndEncrypt)),
        (
            "security_policy = \"Aes128_Sha256_RsaOaep\"\nsecurity_mode = \"sign\"",
            secured(OpcUaPolicy::Aes128Sha256RsaOaep, Sign),
        ),
        (
            "security_policy = \"aes256_sha256_rsapss\"\nsecurity_mode = \"SignAndEncrypt\"",
            secured(OpcUaPolicy::Aes256Sha256RsaPss, SignAndEncrypt),
        ),
        (
            "security_policy = \"Basic128Rsa15\"\nallow_deprecated = true",
            secured(OpcUaPolicy::Basic128Rsa15, SignAndEncrypt),
        ),
    ] {
        assert_eq!(accepted(&link(keys)).security, security, "{keys}");
    }
    for (keys, key, hint) in [
        ("security_mode = \"Sign\"", "security_mode", "None with None"),
        ("security_policy = \"Basic256Sha256\"\nsecurity_mode = \"None\"", "security_mode", "if left away"),
        ("security_policy = \"Basic256\"", "security_policy", "`allow_deprecated = true`"),
        ("security_policy = \"Basic128Rsa15\"", "security_policy", "Basic256Sha256"),
        ("security_policy = \"Aes128Sha256RsaOaep\"", "security_policy", "\"Aes128_Sha256_RsaOaep\"?"),
        ("security_mode = \"Encrypt\"", "security_mode", "SignAndEncrypt"),
        ("allow_deprecated = \"yes\"", "allow_deprecated", "without quotes"),
    ] {
        let finding = refused(&link(keys));
        assert!(finding.key.ends_with(key) && finding.hint.contains(hint), "{keys}: {finding}");
    }
}

#[test]
fn a_user_has_a_password_or_a_certificate_and_never_half_of_one() {
    let file = file!();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(file.strip_prefix("config/").unwrap_or(file))
        .display()
        .to_string();
    assert_eq!(accepted(&link("")).user, OpcUaUser::Anonymous);
    let named = "username = \"u\"\npassword = \"p\"";
    assert!(matches!(accepted(&link(named)).user, OpcUaUser::Password { in_clear: false, .. }));
    let open = format!("{named}\npassword_in_clear = true");
    assert!(matches!(accepted(&link(&open)).user, OpcUaUser::Password { in_clear: true, .. }));
    let certified = format!("user_certificate = {file:?}\nuser_key = {file:?}");
    assert!(matches!(accepted(&link(&certified)).user, OpcUaUser::Certificate { .. }));

    for (keys, word) in [
        ("username = \"u\"".to_owned(), "needs `password`"),
        (format!("user_certificate = {file:?}"), "needs `user_key`"),
        ("password_in_clear = true".to_owned(), "no password"),
        (format!("{named}\n{certified}"), "does not go with `username`"),
        ("user_key = \"/nowhere\"\nuser_certificate = \"/nowhere\"".to_owned(), "cannot read"),
    ] {
        let text = link(&keys);
        let Err(Findings(findings)) = load::agent_text("agent.toml", &text) else {
            panic!("accepted: {keys}")
        };
        assert!(findings[0].message.contains(word), "{keys}: {findings:?}");
    }
}

#[test]
fn a_node_is_an_id_or_a_way_from_the_root() {
    for node in ["i=2258", "nsu=urn:x;s=a", "/Objects/2:Press/nsu=http://f/a;Flow.Temp", "/3:m&/s/a:b"] {
        assert_eq!(accepted(&point(&format!("node = {node:?}"))).devices[0].points[0].node, node);
    }
    for (node, word) in [
        ("/", "no name"),
        ("/Objects//x", "no name"),
        ("/Objects/2:", "no name"),
        ("/70000:x", "65535"),
        ("/nsu=urn:x", "must follow"),
        ("/x&", "letter behind"),
        ("Objects/x", "not a node id"),
    ] {
        let finding = refused(&point(&format!("node = {node:?}")));
        assert!(finding.message.contains(word) && finding.message.contains(node), "{node}: {finding}");
    }
}

/// A device with one folder and nothing else.
fn folder(keys: &str) -> String {
    let text = link("");
    let (before, _) = text.split_once("[link.press.device").unwrap_or_else(|| panic!("{text}"));
    format!("{before}[[link.press.device.d.folder]]\n{keys}\n")
}

#[test]
fn a_folder_reads_everything_below_its_node_unless_it_says_otherwise() {
    let opcua = accepted(&folder("node = \"nsu=urn:x;s=Line1\""));
    let found = &opcua.devices[0].folders[0];
    assert!(opcua.devices[0].points.is_empty());
    assert!(found.includes(&["Press", "Temperature"]) && found.includes(&["x"]));
    assert_eq!((found.depth, found.max_points, found.deadband), (8, 1_000, None));
    assert_eq!(found.sampling_interval, opcua.sampling_interval);

    let opcua = accepted(&folder(
        "node = \"/Objects/2:Line1\"\ninclude = \"**/Temp*\"\nexclude = [\"*/Diagnostics\"]\ndepth = 3\n\
         max_points = 50\nunit = \"°C\"\nkind = \"gauge\"\nsampling_interval = \"5s\"\ndeadband = 0.5",
    ));
    let found = &opcua.devices[0].folders[0];
    assert!(found.includes(&["Press", "Oil", "Temp"]) && !found.includes(&["Press", "Flow"]));
    // What is left out is left out with all below it.
    assert!(found.excludes(&["Press", "Diagnostics"]) && !found.excludes(&["Press"]));
    assert_eq!((found.depth, found.max_points, found.unit.as_str()), (3, 50, "°C"));
    assert_eq!(found.deadband, Some(Deadband::Absolute(0.5)));
}

#[test]
fn a_folder_that_cannot_be_meant_is_refused_with_the_way_out() {
    for (keys, key, word) in [
        ("", "folder[1]", "`node` is missing"),
        ("node = \"Line1\"", "node", "not a node id"),
        ("node = \"i=85\"\ninclude = []", "include", "nothing is included"),
        ("node = \"i=85\"\ninclude = [\"/Press\"]", "include", "without a name"),
        ("node = \"i=85\"\nexclude = [\"a**\"]", "exclude", "stands alone"),
        ("node = \"i=85\"\nexclude = [7]", "exclude", "7 is not a pattern"),
        ("node = \"i=85\"\ndepth = 0", "depth", "between 1 and 32"),
        ("node = \"i=85\"\nmax_points = 10001", "max_points", "between 1 and 10000"),
        ("node = \"i=85\"\nincludes = [\"a\"]", "includes", "unknown key"),
        ("node = \"i=85\"\nkind = \"gage\"", "kind", "not known"),
    ] {
        let finding = refused(&folder(keys));
        assert!(finding.key.ends_with(key) && finding.message.contains(word), "{keys}: {finding}");
        assert!(finding.line > 5, "{keys}: {finding}");
    }
    let finding = refused(&folder("node = \"i=85\"\ninclude = [\"a//b\"]"));
    assert!(finding.hint.contains("**/Temp*"), "{finding}");
    let polled = folder("node = \"i=85\"\ndeadband = 1").replace("plc\"\n", "plc\"\nmode = \"poll\"\n");
    assert!(refused(&polled).message.contains("subscribed"), "{polled}");
    let neither = folder("").replace("[[link.press.device.d.folder]]", "[link.press.device.d]");
    assert!(refused(&neither).hint.contains("folder"), "{}", refused(&neither));
}

#[test]
fn polling_takes_no_key_of_subscriptions() {
    assert_eq!(accepted(&link("mode = \"poll\"")).reading, OpcUaReading::Poll);
    let publishing_interval = std::time::Duration::from_secs(2);
    let keys = "mode = \"subscribe\"\npublishing_interval = \"2s\"";
    assert_eq!(accepted(&link(keys)).reading, OpcUaReading::Subscribe { publishing_interval });
    for key in ["publishing_interval = \"1s\"", "queue_size = 3"] {
        let finding = refused(&link(&format!("mode = \"poll\"\n{key}")));
        assert!(finding.hint.contains("`sampling_interval`"), "{finding}");
    }
    let finding = refused(&with("node = \"i=1\", deadband = 1", "mode = \"poll\""));
    assert!(finding.key.ends_with("deadband"), "{finding}");
    let finding = refused(&link("mode = \"push\""));
    assert!(finding.hint.contains("subscribe"), "{finding}");
}

#[test]
fn elements_and_fields_make_points_of_parts_of_a_value() {
    let with = |keys: &str| point(&format!("node = \"i=2258\", {keys}"));
    for (keys, wanted) in [
        ("element = 3", &["x [3]"][..]),
        ("element = \"[1,2]\"", &["x [1,2]"]),
        ("field = \"Position.X\"", &["x Position.X"]),
        ("element = 1, field = \"Torque\"", &["x [1].Torque"]),
        ("elements = \"0:2\"", &["x[0] [0]", "x[1] [1]", "x[2] [2]"]),
        ("elements = \"0..1,3\", field = \"a\"", &["x[0,3] [0,3].a", "x[1,3] [1,3].a"]),
        ("field = \"Axes[0:1].Torque\", unit = \"Nm\"", &["x[0] Axes[0].Torque", "x[1] Axes[1].Torque"]),
    ] {
        let points = &accepted(&with(keys)).devices[0].points;
        let parts: Vec<String> =
            points.iter().map(|point| format!("{} {}", point.meta.name, point.part)).collect();
        assert_eq!(parts, wanted, "{keys}");
    }
    for (keys, key, message, hint) in [
        ("element = \"x\"", "element", "`x`", "element = 3"),
        ("element = -1", "element", "not an index", "from 0"),
        ("element = \"0:3\"", "element", "more than one element", "`elements`"),
        ("element = true", "element", "true is not", ""),
        ("elements = \"15:0\"", "elements", "ends before", "0:15"),
        ("elements = 16", "elements", "16 is not a range of elements", "0:15"),
        ("elements = \"0:3\", element = 1", "elements", "does not go with", "one of them"),
        ("field = \"a..b\"", "field", "without a name", "Position.X"),
        ("field = \"a[1\"", "field", "without its `]`", "Axes[1].Torque"),
        ("elements = \"0:1\", field = \"a[0:1]\"", "field", "only one step", "Position.X"),
        ("elements = \"0:10000\"", "x", "10001 points", "that are wanted"),
        ("elemnt = 3", "elemnt", "unknown key", "`element`"),
    ] {
        let finding = refused(&with(keys));
        assert!(
            finding.key.ends_with(key) && finding.message.contains(message) && finding.hint.contains(hint),
            "{keys}: {finding:?}"
        );
    }
    // What folders unfold.
    let folder = |keys: &str| {
        let folder = format!("[[link.press.device.d.folder]]\nnode = \"i=85\"\n{keys}\n");
        format!("{}{folder}", point("node = \"i=2258\""))
    };
    assert_eq!(accepted(&folder("")).devices[0].folders[0].unfold, 0);
    assert_eq!(accepted(&folder("unfold = 32")).devices[0].folders[0].unfold, 32);
    assert!(refused(&folder("unfold = 1001")).message.contains("1000"));
}

#[test]
fn the_name_of_an_element_is_no_longer_than_others() {
    let long = "n".repeat(60);
    let text = point("node = \"i=2258\", elements = \"0:999\"").replace("x = {", &format!("{long} = {{"));
    let finding = refused(&text);
    assert!(finding.message.contains("[100]` is longer than 64"), "said once: {finding}");
}
