//! Pure: samples → what policies cost each plane: the same requests with them and without.
//! Never: a verdict on latencies: five per cent of those are noise.
use std::fmt::Write;

use super::table::{OWN, PEER, Row, Sample};

/// What the name of work ends with that has all policies; without it, that of its like.
pub(super) const GUARDED: &str = ", all policies";
/// Policies may cost so much of throughput and CPU.
const GOAL: f64 = 0.05;
const ROWS: [Row; 5] = [Row::Rate, Row::BusyCpu, Row::P50, Row::P99, Row::PacedCpu];

/// Markdown: figures with policies by those without, each of one round; the median of the rounds.
pub(super) fn table(samples: &[Sample], rate: f64) -> String {
    let mut works: Vec<&str> = Vec::new();
    for work in samples.iter().filter_map(|sample| sample.work.strip_suffix(GUARDED)) {
        if !works.contains(&work) {
            works.push(work);
        }
    }
    let mut text = format!(
        "| requests | measure | {PEER}, with ÷ without | {OWN}, with ÷ without | goal | {OWN} ÷ {PEER}, both with |\n\
         |---|---|---:|---:|---|---:|\n"
    );
    for (work, row) in works.iter().flat_map(|work| ROWS.map(|row| (*work, row))) {
        let guarded = format!("{work}{GUARDED}");
        let figures = |plane, work: &str| figures(samples, (plane, work, row));
        let cost = |plane| quotient(&figures(plane, &guarded), &figures(plane, work));
        let beside = quotient(&figures(OWN, &guarded), &figures(PEER, &guarded));
        let (Some(peer), Some(own), Some(beside)) = (cost(PEER), cost(OWN), beside) else {
            continue;
        };
        let (name, goal) = (row.name(rate), verdict(row, own));
        let _ =
            writeln!(text, "| {work} | {name} | ×{peer:.3} | ×{own:.3} | {goal} | ×{beside:.2} |");
    }
    if works.is_empty() { String::new() } else { text }
}

fn verdict(row: Row, quotient: f64) -> String {
    let (sign, bound, fits) = match row {
        Row::Rate => ("≥", 1.0 - GOAL, quotient >= 1.0 - GOAL),
        Row::BusyCpu | Row::PacedCpu => ("≤", 1.0 + GOAL, quotient <= 1.0 + GOAL),
        Row::P50 | Row::P99 | Row::Memory => return String::new(),
    };
    format!("{sign} {bound}: {}", if fits { "reached" } else { "**short**" })
}

fn figures(samples: &[Sample], (plane, work, row): (&str, &str, Row)) -> Vec<f64> {
    let of = |sample: &&Sample| sample.plane == plane && sample.work == work && sample.row == row;
    samples.iter().filter(of).map(|sample| sample.figure).collect()
}

/// The median of quotients within one round each.
fn quotient(some: &[f64], others: &[f64]) -> Option<f64> {
    let mut all: Vec<f64> = some.iter().zip(others).map(|(some, other)| some / other).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_each_with_itself() {
        let mut samples = Vec::new();
        // The machine is slower from round to round; what policies cost is the same.
        for (plane, cost) in [(PEER, 0.8), (OWN, 0.97)] {
            for speed in [1000.0, 500.0, 200.0] {
                let works = [("HTTP/2", speed), ("HTTP/2, all policies", speed * cost)];
                samples.extend(works.map(|(work, figure)| Sample {
                    plane,
                    work: work.to_owned(),
                    row: Row::Rate,
                    figure,
                }));
            }
        }
        let row = "| HTTP/2 | requests per second | ×0.800 | ×0.970 | ≥ 0.95: reached | ×1.21 |";
        let text = table(&samples, 1000.0);
        assert!(text.contains(row), "{text}");
        samples.retain(|sample| !sample.work.ends_with(GUARDED));
        assert_eq!(table(&samples, 1000.0), "");
        assert!(verdict(Row::BusyCpu, 1.06).contains("short"));
    }
}
