//! Pure: samples → the table of the README, and which goals are reached.
use std::fmt::Write;

use crate::{
    measure::Sample,
    shapes::{
        Goal, HEALTHY,
        Row::{self, AddedP50, AddedP99, Lost, P50, P99, Throughput},
        SHAPES,
    },
};

const PLAIN: &str = "plain TCP";
const PEER: &str = "ztunnel";
const OWN: &str = "Culvert";

/// Markdown. The quotient is Culvert's figure by the peer's, or by that of plain TCP where there is no
/// peer; the goals are quotients of the same kind.
pub(crate) fn table(samples: &[Sample]) -> String {
    let medians = Medians(samples);
    let has_peer = samples.iter().any(|sample| sample.plane == PEER);
    let planes: &[_] = if has_peer { &[PLAIN, PEER, OWN] } else { &[PLAIN, OWN] };
    let rival = if has_peer { PEER } else { PLAIN };
    let mut text =
        format!("| work | measure | {} | {OWN} ÷ {rival} | goal |\n", planes.join(" | "));
    let _ = writeln!(text, "|---|---|{}---:|---|", "---:|".repeat(planes.len()));
    let (mut goals, mut short, mut behind) = (0, Vec::new(), Vec::new());
    for (shape, (row, goal)) in
        SHAPES.iter().flat_map(|shape| shape.rows.iter().map(move |row| (shape.name, *row)))
    {
        let Some(own) = medians.of(shape, OWN, row) else { continue };
        let cells: Vec<_> = planes.iter().map(|p| cell(medians.of(shape, p, row))).collect();
        let other = medians.of(shape, rival, row).filter(|other| *other > 0.0 && row.has_ratio());
        let quotient = other.map(|other| own / other);
        let is_worse = |q: f64| if row.more_is_better() { q < 1.0 } else { q > 1.0 };
        if let Some(quotient) = quotient.filter(|quotient| is_worse(*quotient)) {
            behind.push(format!("{shape}: {} (×{quotient:.2})", row.name()));
        }
        let judged = goal.map(|goal| medians.judge((shape, row, own), goal));
        if let Some(Judged { text, reached: Some(reached) }) = &judged {
            goals += 1;
            if !reached {
                short.push(format!("{shape}: {}: {text}", row.name()));
            }
        }
        let goal = judged.map(|judged| judged.text).unwrap_or_default();
        let quotient = quotient.map_or("–".into(), |quotient| format!("×{quotient:.2}"));
        let measured = format!("| {} | {} |", row.name(), cells.join(" | "));
        let _ = writeln!(text, "| {shape} {measured} {quotient} | {goal} |");
    }
    let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
    let _ = writeln!(text, "\nErrors in all samples: {errors}.");
    text += &list(&format!("Culvert is behind {rival} in"), &behind);
    let reached = goals - short.len();
    text + &list(&format!("Goals reached: {reached} of {goals}; short of it"), &short)
}

pub(crate) fn list(head: &str, items: &[String]) -> String {
    if items.is_empty() {
        return format!("{head}: nothing.\n");
    }
    format!("{head}:\n- {}\n", items.join("\n- "))
}

/// A goal in words, and whether it is reached, where that can be said.
struct Judged {
    text: String,
    reached: Option<bool>,
}

impl Judged {
    fn new(goal: &str, found: Option<(f64, bool)>) -> Self {
        let text = match found {
            None => format!("{goal}: not measured"),
            Some((found, true)) => format!("{goal}: {found:.2}, reached"),
            Some((found, false)) => format!("{goal}: {found:.2}, **short**"),
        };
        Self { text, reached: found.map(|(_, reached)| reached) }
    }
}

struct Medians<'a>(&'a [Sample]);

impl Medians<'_> {
    fn of(&self, shape: &str, plane: &str, row: Row) -> Option<f64> {
        if row == Lost {
            let healthy = self.of(HEALTHY, plane, Throughput)?;
            return Some((1.0 - self.of(shape, plane, Throughput)? / healthy) * 100.0);
        }
        if let Some((_, whole)) = [(AddedP50, P50), (AddedP99, P99)].iter().find(|(r, _)| *r == row)
        {
            let added = self.of(shape, plane, *whole)? - self.of(shape, PLAIN, *whole)?;
            return Some(added).filter(|_| plane != PLAIN);
        }
        let figures = self.sorted(shape, plane, row);
        figures.get(figures.len() / 2).copied()
    }

    fn sorted(&self, shape: &str, plane: &str, row: Row) -> Vec<f64> {
        let of = |sample: &&Sample| sample.shape == shape && sample.plane == plane;
        let mut figures: Vec<f64> =
            self.0.iter().filter(of).filter_map(|sample| sample.figure(row)).collect();
        figures.sort_by(f64::total_cmp);
        figures
    }

    fn judge(&self, (shape, row, own): (&str, Row, f64), goal: Goal) -> Judged {
        let plain = self.of(shape, PLAIN, row);
        let times = |bound: f64, of: &str, other: Option<f64>| {
            let (sign, fits): (_, fn(f64, f64) -> bool) =
                if row.more_is_better() { ("≥", |q, b| q >= b) } else { ("≤", |q, b| q <= b) };
            let quotient = other.filter(|other| *other > 0.0).map(|other| own / other);
            let found = quotient.map(|quotient| (quotient, fits(quotient, bound)));
            Judged::new(&format!("{sign} {bound} × {of}"), found)
        };
        match goal {
            Goal::OfPeer(bound) => times(bound, PEER, self.of(shape, PEER, row)),
            Goal::OfPlain(bound) => times(bound, PLAIN, plain),
            Goal::AtMost(bound) => Judged::new(&format!("≤ {bound} %"), Some((own, own <= bound))),
            Goal::LikePlain => {
                let turns = self.sorted(shape, PLAIN, row);
                let quartile = |quarter: usize| turns.get(turns.len() * quarter / 4);
                let (Some(plain), Some(low), Some(high)) = (plain, quartile(1), quartile(3)) else {
                    return Judged::new("as plain TCP", None);
                };
                let (spread, apart) = (high - low, own - plain);
                let goal = format!("≤ {spread:.2} above {PLAIN}, as its own turns differ");
                Judged::new(&goal, Some((apart, apart <= spread)))
            }
        }
    }
}

pub(crate) fn cell(figure: Option<f64>) -> String {
    match figure {
        None | Some(0.0) => "–".into(),
        Some(figure) if figure.abs() >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure.abs() >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    }
}
