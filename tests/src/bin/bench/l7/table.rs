//! Pure: samples → the table of the README, and whether the goal is reached.
use std::fmt::Write;

use serde_json::{Value, json};

use crate::table::{cell, list};

/// A figure of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// Requests a second, each sent after the answer to the last.
    Rate,
    /// CPU time of the plane for 100,000 of those, seconds.
    BusyCpu,
    /// Median at the fixed rate, microseconds.
    P50,
    /// 99th percentile at the fixed rate, microseconds.
    P99,
    /// CPU time of the plane for 100,000 requests at the fixed rate, seconds.
    PacedCpu,
    /// Memory (PSS), MB.
    Memory,
}

/// One figure of one turn of one plane.
pub(super) struct Sample {
    pub(super) plane: &'static str,
    /// What was asked.
    pub(super) work: String,
    pub(super) row: Row,
    pub(super) figure: f64,
}

/// The two planes, the measure last.
pub(super) const PEER: &str = "Envoy";
pub(super) const OWN: &str = "Culvert";
/// CPU by request, as a multiple of the peer's: not more.
const GOAL: f64 = 1.0;

impl Row {
    const ALL: [Self; 6] =
        [Self::Rate, Self::BusyCpu, Self::P50, Self::P99, Self::PacedCpu, Self::Memory];

    pub(super) fn name(self, rate: f64) -> String {
        match self {
            Self::Rate => "requests per second".into(),
            Self::BusyCpu => "CPU per 100,000 requests, s".into(),
            Self::P50 => format!("p50 at {rate} a second, µs"),
            Self::P99 => format!("p99 at {rate} a second, µs"),
            Self::PacedCpu => format!("CPU per 100,000 requests at {rate} a second, s"),
            Self::Memory => "memory (PSS), MB".into(),
        }
    }

    fn has_goal(self) -> bool {
        matches!(self, Self::BusyCpu | Self::PacedCpu)
    }
}

impl Sample {
    pub(super) fn to_json(&self) -> Value {
        let Self { plane, work, row, figure } = self;
        json!({ "plane": plane, "work": work, "row": format!("{row:?}"), "figure": figure })
    }
}

/// Markdown: medians, Culvert's by Envoy's, the goal and whether it is reached.
pub(super) fn table(samples: &[Sample], rate: f64) -> String {
    let mut text = format!(
        "| requests | measure | {PEER} | {OWN} | {OWN} ÷ {PEER} | goal |\n|---|---|---:|---:|---:|---|\n"
    );
    let mut works: Vec<&str> = Vec::new();
    for sample in samples {
        if !works.contains(&sample.work.as_str()) {
            works.push(&sample.work);
        }
    }
    let (mut goals, mut short, mut behind) = (0, Vec::new(), Vec::new());
    for (work, row) in works.iter().flat_map(|work| Row::ALL.map(|row| (*work, row))) {
        let of = |plane| median(samples, (plane, work, row));
        let (Some(peer), Some(own)) = (of(PEER), of(OWN)) else { continue };
        let (quotient, name) = (own / peer, row.name(rate));
        let is_worse = if row == Row::Rate { quotient < 1.0 } else { quotient > 1.0 };
        if is_worse {
            behind.push(format!("{work}: {name} (×{quotient:.2})"));
        }
        let goal = if row.has_goal() { verdict(quotient) } else { String::new() };
        goals += usize::from(row.has_goal());
        if row.has_goal() && quotient > GOAL {
            short.push(format!("{work}: {name}: {goal}"));
        }
        let (peer, own) = (cell(Some(peer)), cell(Some(own)));
        let _ = writeln!(text, "| {work} | {name} | {peer} | {own} | ×{quotient:.2} | {goal} |");
    }
    text += "\nEvery answer was the one that the rules ask for.\n";
    text += &list(&format!("{OWN} is behind {PEER} in"), &behind);
    let reached = goals - short.len();
    text + &list(&format!("Goals reached: {reached} of {goals}; short of it"), &short)
}

fn verdict(quotient: f64) -> String {
    let verdict = if quotient <= GOAL { "reached" } else { "**short**" };
    format!("≤ {GOAL} × {PEER}: {quotient:.2}, {verdict}")
}

fn median(samples: &[Sample], (plane, work, row): (&str, &str, Row)) -> Option<f64> {
    let of = |sample: &&Sample| sample.plane == plane && sample.work == work && sample.row == row;
    let mut figures: Vec<f64> = samples.iter().filter(of).map(|sample| sample.figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared_and_judged() {
        let mut samples = Vec::new();
        for (plane, figures) in [(PEER, [4.0, 9.0, 5.0]), (OWN, [6.0, 1.0, 7.0])] {
            for figure in figures {
                let work = "HTTP/2".to_owned();
                samples.push(Sample { plane, work, row: Row::BusyCpu, figure });
            }
        }
        let row = "| HTTP/2 | CPU per 100,000 requests, s | 5.00 | 6.00 | ×1.20 | ≤ 1 × Envoy: 1.20, **short** |";
        let text = table(&samples, 1000.0);
        assert!(text.contains(row), "{text}");
        assert!(text.contains("Goals reached: 0 of 1"), "{text}");
        samples.retain(|sample| sample.plane == PEER);
        assert!(!table(&samples, 1000.0).contains("HTTP/2"));
    }
}
