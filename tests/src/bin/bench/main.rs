//! Shell: the same work under plain TCP, Culvert and, where it is given, ztunnel; side by side.
//! Never: a verdict by a clock alone: what counts are ratios within one run.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "only the product reads its clock in one place; a tool measures where it works"
)]

mod cost;
mod measure;
mod plane;
mod table;

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::json;

use crate::{
    measure::{SHAPES, Sample},
    plane::Plane,
};

/// Measures Culvert beside plain TCP and beside ztunnel: all at the same work, on two nodes made of
/// network namespaces, taking turns. What counts are the ratios.
#[derive(Parser)]
#[command(name = "cargo xtask bench", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The connection path: round trips, bulk, new connections, memory, and what connections that
    /// are none of the mesh's pay. ZTUNNEL and INPODSERVER name ready-made binaries of the peer,
    /// which needs iptables-legacy.
    L4 {
        /// Seconds per measurement.
        #[arg(long, default_value_t = 3.0)]
        secs: f64,
        /// Turns that each data plane gets; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Only shapes whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
        /// Also write all samples to this file, JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let What::L4 { secs, rounds, only, json } = Arguments::parse().what;
    let planes = planes()?;
    let mut samples: Vec<Sample> = Vec::new();
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(&only)) {
        for round in 0..rounds {
            for plane in &planes {
                eprintln!("{} · {} · turn {} of {rounds}", shape.name, plane.name, round + 1);
                samples.push(measure::run(shape, plane, secs)?);
            }
        }
    }
    let cost = cost::of_other_connections(&planes)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", table::table(&planes, &samples))?;
    writeln!(out, "{cost}")?;
    if let Some(file) = json {
        let all: Vec<_> = samples.iter().map(Sample::to_json).collect();
        fs::write(&file, serde_json::to_string_pretty(&json!(all))?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn planes() -> Result<Vec<Plane>> {
    eprintln!("setting up plain TCP and Culvert, two nodes each");
    let mut planes = vec![Plane::plain()?];
    match std::env::var_os("ZTUNNEL") {
        Some(binary) => {
            eprintln!("setting up {}", binary.display());
            let server = std::env::var_os("INPODSERVER").context(
                "INPODSERVER is not set: it names the ZDS server that comes with ztunnel's tests",
            )?;
            planes.push(Plane::ztunnel(binary.as_ref(), server.as_ref())?);
        }
        None => {
            eprintln!("ZTUNNEL is not set: without a peer, only plain TCP stands beside Culvert")
        }
    }
    planes.push(Plane::culvert()?);
    Ok(planes)
}
