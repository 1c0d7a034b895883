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
mod scale;
mod sink;
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
    /// One pod that opens 14,000 connections per second, with a sink in the agent's place: what the
    /// kernel's capture does by itself.
    Capture,
    /// What a large mesh costs one agent: time and memory to read it, and the time until a change of
    /// one pod is in force, at a tenth, and at a hundredth of the size.
    Scale {
        /// Pods; there is one service for every ten.
        #[arg(long, default_value_t = 100_000)]
        pods: usize,
    },
    #[command(hide = true)]
    Sink(sink::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::L4 { secs, rounds, only, json } => l4(secs, rounds, &only, json),
        What::Capture => Ok(writeln!(std::io::stdout(), "{}", sink::steady()?)?),
        What::Scale { pods } => Ok(writeln!(std::io::stdout(), "{}", scale::scale(pods)?)?),
        What::Sink(arguments) => sink::run(&arguments),
    }
}

fn l4(secs: f64, rounds: usize, only: &str, json: Option<PathBuf>) -> Result<()> {
    let planes = planes()?;
    let mut samples: Vec<Sample> = Vec::new();
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(only)) {
        for round in 0..rounds {
            for plane in &planes {
                eprintln!("{} · {} · turn {} of {rounds}", shape.name, plane.name, round + 1);
                samples.push(measure::run(shape, plane, secs)?);
            }
        }
    }
    let cost = cost::of_other_connections(&planes)?;
    let capture = sink::steady()?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", table::table(&planes, &samples))?;
    writeln!(out, "{cost}\n{capture}")?;
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
