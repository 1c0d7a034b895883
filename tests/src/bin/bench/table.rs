//! Pure: samples → the table of the README.
use std::fmt::Write;

use crate::{
    measure::{Row, SHAPES, Sample},
    plane::Plane,
};

impl Row {
    const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50, µs",
            Self::P99 => "p99, µs",
            Self::Rate => "per second",
            Self::Throughput => "Gbit/s",
            Self::AgentsPerOperation => "agents' CPU each, µs",
            Self::MachinePerOperation => "machine's CPU each, µs",
            Self::AgentsPerGigabyte => "agents' CPU per GB, s",
            Self::MachinePerGigabyte => "machine's CPU per GB, s",
            Self::Memory => "agents' memory, MB",
        }
    }

    const fn more_is_better(self) -> bool {
        matches!(self, Self::Rate | Self::Throughput)
    }
}

/// Markdown. The last column says how much better Culvert is than the peer, or than plain TCP where
/// there is no peer: above 1 is better.
pub(crate) fn table(planes: &[Plane], samples: &[Sample]) -> String {
    let names: Vec<_> = planes.iter().map(|plane| plane.name).collect();
    let [.., rival, _] = names.as_slice() else { return String::new() };
    let mut text = format!("| work | measure | {} | against {rival} |\n", names.join(" | "));
    let _ = writeln!(text, "|---|---|{}---:|", "---:|".repeat(names.len()));
    let mut worse = Vec::new();
    for shape in SHAPES {
        for row in shape.rows {
            let medians: Vec<_> =
                names.iter().map(|plane| median(samples, shape.name, plane, *row)).collect();
            let [.., Some(other), Some(own)] = medians.as_slice() else { continue };
            let better = if row.more_is_better() { own / other } else { other / own };
            if better < 1.0 {
                worse.push(format!("{}: {} ({better:.2})", shape.name, row.name()));
            }
            let cells: Vec<_> = medians.iter().map(|figure| cell(*figure)).collect();
            let ratio = if *other > 0.0 { format!("×{better:.2}") } else { "–".into() };
            let row = format!("| {} | {} |", row.name(), cells.join(" | "));
            let _ = writeln!(text, "| {} {row} {ratio} |", shape.name);
        }
    }
    let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
    let _ = writeln!(text, "\nErrors in all samples: {errors}.");
    match worse.as_slice() {
        [] => text + &format!("Culvert is behind {rival} in no row."),
        worse => text + &format!("Culvert is behind {rival} in:\n- {}", worse.join("\n- ")),
    }
}

fn median(samples: &[Sample], shape: &str, plane: &str, row: Row) -> Option<f64> {
    let of = |sample: &&Sample| sample.shape == shape && sample.plane == plane;
    let mut figures: Vec<f64> =
        samples.iter().filter(of).filter_map(|sample| sample.figure(row)).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn cell(figure: Option<f64>) -> String {
    match figure {
        None | Some(0.0) => "–".into(),
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    }
}
