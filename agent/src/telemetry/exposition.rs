//! Prometheus' text format, version 0.0.4: what each metric is, and its lines.
//!
//! Written here, for the figures are taken anew at each look: a recorder that keeps counters and histograms between
//! looks is much program for nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a metric is called, and what it says.
pub struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

impl Metric {
    /// Only ever grows, but for a new start.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "counter", help }
    }

    /// Goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "gauge", help }
    }
}

/// A text to be. The lines of a metric stand together, wherever they were told.
#[derive(Default)]
pub struct Exposition {
    metrics: BTreeMap<&'static str, String>,
}

impl Exposition {
    /// One line of `metric`: labels with their values, and the figure.
    pub fn tell(&mut self, metric: &Metric, labels: &[(&str, &str)], value: impl Into<Figure>) {
        let Metric { name, kind, help } = metric;
        let text = self
            .metrics
            .entry(name)
            .or_insert_with(|| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        text.push_str(name);
        for (place, (label, of)) in labels.iter().enumerate() {
            text.push_str(if place == 0 { "{" } else { "," });
            text.push_str(label);
            text.push_str("=\"");
            of.chars().for_each(|letter| match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            });
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        // A String takes everything.
        let _ = match value.into() {
            Figure::Whole(whole) => writeln!(text, " {whole}"),
            Figure::Any(value) => writeln!(text, " {value}"),
        };
    }

    /// The whole text, metrics by name.
    pub fn text(self) -> String {
        self.metrics.into_values().collect::<Vec<_>>().join("\n")
    }
}

/// A number as it is written.
pub enum Figure {
    /// Counted, to the last digit.
    Whole(u64),
    /// Measured.
    Any(f64),
}

impl From<u64> for Figure {
    fn from(whole: u64) -> Self {
        Self::Whole(whole)
    }
}

impl From<bool> for Figure {
    fn from(yes: bool) -> Self {
        Self::Whole(u64::from(yes))
    }
}

impl From<f64> for Figure {
    fn from(value: f64) -> Self {
        Self::Any(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_metric_stand_together_under_what_it_says() {
        const UP: Metric = Metric::gauge("up", "1 while it is up.");
        const SEEN: Metric = Metric::counter("seen_total", "How many.");
        let mut page = Exposition::default();
        page.tell(&UP, &[("link", "hall"), ("device", "a")], true);
        page.tell(&SEEN, &[], u64::MAX);
        page.tell(&UP, &[("link", "roof")], 0.25);
        assert_eq!(
            page.text(),
            "# HELP seen_total How many.\n# TYPE seen_total counter\nseen_total 18446744073709551615\n\n\
             # HELP up 1 while it is up.\n# TYPE up gauge\nup{link=\"hall\",device=\"a\"} 1\nup{link=\"roof\"} 0.25\n"
        );
    }

    #[test]
    fn a_label_holds_any_text() {
        let mut page = Exposition::default();
        page.tell(&Metric::gauge("x", "x"), &[("name", "a\"b\\c\nd")], 1_u64);
        let text = page.text();
        assert!(text.ends_with("\nx{name=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
    }
}
