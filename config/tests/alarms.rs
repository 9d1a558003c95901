//! `[alarm.NAME]` and `[webhook.NAME]`: what stands by itself, what a file changes, what is refused.

use std::time::Duration;

use forebay_config::alarms::{Alarms, Priority, When};
use forebay_config::load;

fn alarms(text: &str) -> Alarms {
    load::server_text("server.toml", text).expect("no mistakes").alarms
}

fn refused(text: &str) -> Vec<(usize, String)> {
    let found = load::server_text("server.toml", text).expect_err("mistakes").0;
    found.into_iter().map(|finding| (finding.line, finding.message)).collect()
}

#[test]
fn the_usual_alarms_stand_and_a_file_changes_one_ends_one_and_adds_one() {
    let usual: Vec<String> = alarms("").rules.iter().map(|rule| rule.name.to_string()).collect();
    assert_eq!(
        usual,
        ["silent", "backlog", "clock", "certificate", "fork", "imbalance", "wiped", "restored"]
    );
    let text = "[alarm.silent]\nafter = \"30s\"\n[alarm.clock]\nenabled = false\n\
                [alarm.hot]\nwhen = \"value\"\npoints = [\"boiler/t*\"]\nagents = [\"north/*\"]\n\
                above = 90\ndeadband = 2.5\ndelay = \"5s\"\npriority = \"high\"\n";
    let rules = alarms(text).rules;
    assert_eq!(rules.len(), 8);
    assert_eq!(rules[0].when, When::Silent { after: Duration::from_secs(30) });
    assert_eq!(rules[0].delay, Duration::from_secs(60), "what the file does not say is as usual");
    assert!(rules.iter().all(|rule| rule.name.as_str() != "clock"));
    let hot = &rules[7];
    assert_eq!((hot.priority, hot.delay), (Priority::High, Duration::from_secs(5)));
    assert!(hot.concerns("north", "one") && !hot.concerns("south", "one"));
    let When::Value(limits) = &hot.when else { panic!("{hot:?}") };
    assert_eq!((limits.above, limits.below, limits.deadband), (Some(90.0), None, 2.5));
}

#[test]
fn another_kind_under_a_usual_name_takes_nothing_from_it() {
    let rules = alarms("[alarm.silent]\nwhen = \"clock\"\n").rules;
    assert_eq!(rules[0].when, When::Clock { off: Duration::from_secs(10) });
    assert_eq!(rules[0].delay, Duration::from_secs(120));
}

#[test]
fn a_rule_stands_for_every_tenant_or_for_those_it_names_and_a_webhook_for_one() {
    let text = "[alarm.silent]\ntenants = [\"main\", \"Acme\"]\n\
                [webhook.a]\nurl = \"https://a.example/\"\nsecret = \"0123456789abcdef\"\n\
                [webhook.b]\nurl = \"https://b.example/\"\nsecret = \"0123456789abcdef\"\ntenant = \"Acme\"\n";
    let Alarms { rules, webhooks } = alarms(text);
    assert_eq!((rules[0].is_of("acme"), rules[0].is_of("other")), (true, false));
    assert!(rules[1].is_of("other"), "what says nothing is everybody's");
    let whose: Vec<&str> = webhooks.iter().map(|hook| hook.tenant.as_str()).collect();
    assert_eq!(whose, ["main", "acme"], "nobody is told of another's alarms by leaving something away");
    let told = refused("[alarm.silent]\ntenants = []\n[alarm.clock]\ntenants = \"acme\"\n");
    assert_eq!(told.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4], "{told:?}");
}

#[test]
fn alarms_that_cannot_be_are_refused_with_their_place() {
    let text = "[alarm.silent]\nafter = \"1s\"\noff = \"3s\"\n\
                [alarm.a]\nwhen = \"value\"\npoints = [\"x/y\"]\n\
                [alarm.b]\nwhen = \"value\"\npoints = [\"x/y\"]\nabove = 1\nbelow = 2\n\
                [alarm.c]\nwhen = \"value\"\npoints = [\"x/y\"]\nabove = 3\nbelow = 2\ndeadband = 0.6\n\
                [alarm.d]\npriority = \"urgent\"\n\
                [alarm.e]\nwhen = \"silnt\"\n";
    let told = refused(text);
    let words = |line| told.iter().find(|(at, _)| *at == line).map_or("", |(_, words)| words.as_str());
    assert_eq!(words(2), "\"1s\" is too short");
    assert_eq!(words(3), "unknown key `off`");
    assert_eq!(words(4), "there is no limit");
    assert_eq!(words(10), "above = 1 does not lie above below = 2");
    assert_eq!(words(17), "a deadband of 0.6 leaves nothing between 2 and 3: it would never clear");
    assert_eq!(words(18), "`when` is missing");
    assert_eq!(words(21), "\"silnt\" is not known here");
}

#[test]
fn a_webhook_is_signed_and_its_secrets_are_never_repeated() {
    let text = "[webhook.desk]\nurl = \"https://alerts.example/t0ken\"\nsecret = \"0123456789abcdef\"\n\
                priority = \"high\"\n";
    let hooks = alarms(text).webhooks;
    assert_eq!((hooks[0].url.port, hooks[0].priority), (443, Priority::High));
    let shown = format!("{hooks:?}");
    assert!(!shown.contains("t0ken") && !shown.contains("0123456789"), "{shown}");

    let text = "[webhook.a]\nurl = \"alerts.example/t0ken\"\nsecret = \"short-t0ken\"\n\
                [webhook.b]\nurl = \"http://alerts.example/\"\nsecret = \"0123456789abcdef\"\nca = \"/ca.pem\"\n\
                [webhook.c]\n";
    let told = refused(text);
    assert!(told.iter().all(|(_, words)| !words.contains("t0ken")), "{told:?}");
    let lines: Vec<usize> = told.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 7, 8, 8], "{told:?}");
}
