//! `[processing.NAME]` as an operator may get it wrong.

use forebay_config::load;

#[test]
fn rules_of_processing_that_cannot_be_meant_are_told_with_the_way_out() {
    let text = r#"
[agent]
site = "north"
gateway = "boiler-house"
[processing.idle]
points = ["*/*"]
[processing.silent]
points = ["pump"]
max_silence = "1m"
[processing.twice]
points = ["*/*"]
on_change = false
deadband = "3%"
round = 0
[processing.window]
points = ["*/*"]
window = "1m"
min_interval = "1s"
[processing.keep]
points = ["*/*"]
keep = ["mean", "mode"]
"#;
    let findings: Vec<String> = load::agent_text("agent.toml", text)
        .expect_err("this configuration has mistakes")
        .0
        .into_iter()
        .map(|finding| finding.to_string().split(" (agent.toml").next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        findings,
        [
            "processing.idle: the rule does nothing",
            "processing.silent.points: \"pump\" is not device/point",
            "processing.silent.max_silence: nothing is left out that could be silent",
            "processing.twice.on_change: a `deadband` reports changes only",
            "processing.twice.round: a step is more than 0",
            "processing.window.window: nothing is kept of the window",
            "processing.window.min_interval: a `window` spaces its results already",
            "processing.keep.keep: \"mode\" is not known here",
        ]
    );
}
