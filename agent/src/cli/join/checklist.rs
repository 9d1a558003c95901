//! What was tried, in order, and how it went. For people: one step a line, the remedy under the
//! step that failed.

use std::fmt;

/// The steps so far. The last one is under way until it passes or fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checklist {
    steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is checked: "server reachable".
    pub what: &'static str,
    /// How it went.
    pub mark: Mark,
    /// What was found, or the remedy.
    pub words: String,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Not there yet.
    Open,
    /// Good.
    Passed,
    /// Good enough, with something to look at.
    Warned,
    /// Mend this first.
    Failed,
}

impl Checklist {
    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(super) fn begin(&mut self, what: &'static str) {
        self.steps.push(Step { what, mark: Mark::Open, words: String::new() });
    }

    pub(super) fn pass(&mut self, words: String) {
        self.end(Mark::Passed, words);
    }

    pub(super) fn warn(&mut self, words: String) {
        self.end(Mark::Warned, words);
    }

    pub(super) fn fail(&mut self, words: String) {
        self.end(Mark::Failed, words);
    }

    fn end(&mut self, mark: Mark, words: String) {
        if let Some(step) = self.steps.last_mut() {
            (step.mark, step.words) = (mark, words);
        }
    }
}

impl fmt::Display for Checklist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { what, mark, words } in &self.steps {
            let mark = match mark {
                Mark::Open => "...",
                Mark::Passed => "OK",
                Mark::Warned => "NOTE",
                Mark::Failed => "FAIL",
            };
            writeln!(f, "{mark:<5} {what:<17} {words}")?;
        }
        Ok(())
    }
}
