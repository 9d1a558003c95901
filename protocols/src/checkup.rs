//! What the `doctor` of either program finds: one check after the other, each with its verdict and with what to do
//! about it; how that is shown, as text and as JSON, and which exit code it makes. Pure.

use std::fmt::Write;

use serde_json::{Value as Json, json};

/// Where the words of a check begin; wider than every check's name.
const WORDS_AT: usize = 28;

/// How a check went, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and deserves a look.
    Warn,
    /// It does not work.
    Fail,
}

impl Verdict {
    /// `OK`, `WARN`, `FAIL`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One check, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub what: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub words: String,
    /// What to do, in lines; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(what: impl Into<String>, words: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, words: words.into(), remedy: String::new() }
    }

    /// It works, and deserves a look.
    pub fn warn(what: impl Into<String>, words: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warn, words: words.into(), remedy: remedy.into() }
    }

    /// It does not work.
    pub fn fail(what: impl Into<String>, words: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Fail, words: words.into(), remedy: remedy.into() }
    }
}

/// The worst of them; [`Verdict::Ok`] of none.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

/// 0 all is well, 1 something deserves a look, 2 something does not work.
pub fn exit_code(findings: &[Finding]) -> u8 {
    match worst(findings) {
        Verdict::Ok => 0,
        Verdict::Warn => 1,
        Verdict::Fail => 2,
    }
}

/// One object: the worst `verdict`, and `checks`, each with `check`, `verdict`, `words` and `remedy`.
pub fn json(findings: &[Finding]) -> Json {
    let one = |finding: &Finding| {
        let Finding { what, verdict, words, remedy } = finding;
        json!({ "check": what, "verdict": verdict.word(), "words": words, "remedy": remedy })
    };
    json!({ "verdict": worst(findings).word(), "checks": findings.iter().map(one).collect::<Vec<_>>() })
}

/// A line for each check, the remedy below those that need one, and a sum. `paint` gives the mark of a verdict its
/// colour, or leaves it as it is.
pub fn text(findings: &[Finding], paint: impl Fn(Verdict, &str) -> String) -> String {
    let mut page = String::new();
    for Finding { what, verdict, words, remedy } in findings {
        let mark = paint(*verdict, &format!("{:<4}", verdict.word()));
        // A String takes everything.
        let _ = writeln!(page, "{mark}  {what:<width$}  {words}", width = WORDS_AT - 8);
        remedy.lines().for_each(|line| {
            let _ = writeln!(page, "{:<WORDS_AT$}{line}", "");
        });
    }
    let number = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let _ = match (number(Verdict::Fail), number(Verdict::Warn)) {
        (0, 0) => writeln!(page, "All is well."),
        (failed, warned) => writeln!(page, "{failed} FAIL, {warned} WARN, {} OK.", number(Verdict::Ok)),
    };
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> [Finding; 3] {
        [
            Finding::ok("clock", "synchronised"),
            Finding::warn("disk", "nearly full", "make room"),
            Finding::fail("port", "in use", "end the other\nor take another"),
        ]
    }

    #[test]
    fn the_worst_verdict_is_the_exit_code() {
        let [ok, warn, fail] = three();
        assert_eq!(exit_code(&[]), 0);
        assert_eq!(exit_code(std::slice::from_ref(&ok)), 0);
        assert_eq!(exit_code(&[ok.clone(), warn.clone()]), 1);
        assert_eq!(exit_code(&[fail, warn, ok]), 2);
    }

    #[test]
    fn each_check_has_its_line_with_the_remedy_below() {
        let plain = |_: Verdict, mark: &str| mark.to_owned();
        assert_eq!(
            text(&three(), plain),
            "OK    clock                 synchronised\n\
             WARN  disk                  nearly full\n\
             \x20                           make room\n\
             FAIL  port                  in use\n\
             \x20                           end the other\n\
             \x20                           or take another\n\
             1 FAIL, 1 WARN, 1 OK.\n"
        );
        assert_eq!(text(&[], plain), "All is well.\n");
        let marked = text(&three()[2..], |verdict, mark| format!("<{verdict:?} {mark}>"));
        assert!(marked.starts_with("<Fail FAIL>  port"), "{marked}");
    }

    #[test]
    fn json_has_the_same() {
        let told = json(&three());
        assert_eq!(told["verdict"], "FAIL");
        let warned =
            json!({ "check": "disk", "verdict": "WARN", "words": "nearly full", "remedy": "make room" });
        assert_eq!(told["checks"][1], warned);
        assert_eq!(json(&[])["verdict"], "OK");
    }
}
