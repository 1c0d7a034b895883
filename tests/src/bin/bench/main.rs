//! Shell: the same work under plain TCP, Culvert and, where it is given, ztunnel; the same requests
//! through Culvert's waypoint and Envoy; side by side.
//! Never: a verdict by a clock alone: what counts are ratios within one run.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "only the product reads its clock in one place; a tool measures where it works"
)]

mod balance;
mod compile;
mod cost;
mod l7;
mod measure;
mod memory;
mod plane;
mod scale;
mod shapes;
mod sink;
mod table;
mod zds;

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::json;

use crate::{
    measure::Sample,
    plane::Plane,
    shapes::{ENDED, ENROLLED, HELD, IDLE, OUTSIDE, SHAPES, Shape},
};

/// What [`sink::steady`] measures, for `--only`.
const CAPTURE: &str = "capture alone";

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
    /// The connection path: round trips, bulk, new connections, a slow reader among others, the same
    /// node, memory, and what connections that are none of the mesh's pay; with the goal beside each.
    /// About eight minutes. ZTUNNEL names a ready-made binary of the peer, which needs
    /// iptables-legacy.
    L4 {
        /// Seconds per measurement.
        #[arg(long, default_value_t = 1.25)]
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
    /// The waypoint: HTTP/1.1 and HTTP/2 through services of 0, 1 and 50 rules, Culvert's waypoint
    /// beside Envoy with the same rules; then what a mesh of 10,000 services costs it. About six
    /// minutes. ENVOY names the peer's binary; `cargo xtask` installs one where it does not.
    L7(l7::Arguments),
    /// What it costs a request that the waypoint chooses one of 10, 100 or 1,000 endpoints for it and
    /// judges that by what came of it, with each balancer. Half a minute.
    Balance(balance::Arguments),
    #[command(hide = true)]
    Sink(sink::Arguments),
    #[command(hide = true)]
    L7Load(l7::load::Arguments),
    #[command(hide = true)]
    L7Server(l7::server::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::L4 { secs, rounds, only, json } => l4(secs, rounds, &only, json),
        What::Capture => Ok(writeln!(std::io::stdout(), "{}", sink::steady()?)?),
        What::Scale { pods } => Ok(writeln!(std::io::stdout(), "{}", scale::scale(pods)?)?),
        What::L7(arguments) => l7::run(&arguments),
        What::Balance(arguments) => {
            Ok(writeln!(std::io::stdout(), "{}", balance::run(arguments)?)?)
        }
        What::Sink(arguments) => sink::run(&arguments),
        What::L7Load(arguments) => l7::load::run(&arguments),
        What::L7Server(arguments) => l7::server::run(&arguments),
    }
}

fn l4(secs: f64, rounds: usize, only: &str, json: Option<PathBuf>) -> Result<()> {
    let is_wanted = |name: &str| name.contains(only);
    let mut samples = memory(is_wanted)?;
    let shapes: Vec<_> = SHAPES.iter().filter(|s| s.needs_planes() && is_wanted(s.name)).collect();
    let mut remarks = Vec::new();
    if !shapes.is_empty() {
        let planes = planes()?;
        samples.extend(turns(&planes, &shapes, (secs, rounds))?);
        if shapes.iter().any(|shape| shape.name == OUTSIDE) {
            eprintln!("{OUTSIDE}");
            let (more, account) = cost::of_other_connections(&planes)?;
            samples.extend(more);
            remarks.push(account);
        }
    }
    if is_wanted(CAPTURE) {
        eprintln!("{CAPTURE}");
        remarks.push(sink::steady()?);
    }
    writeln!(std::io::stdout(), "{}\n{}", table::table(&samples), remarks.join("\n"))?;
    if let Some(file) = json {
        let all: Vec<_> = samples.iter().map(Sample::to_json).collect();
        fs::write(&file, serde_json::to_string_pretty(&json!(all))?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// All shapes in each round, so that what else the machine does meets all of them alike.
fn turns(planes: &[Plane], shapes: &[&Shape], (secs, rounds): (f64, usize)) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for shape in shapes.iter().filter(|shape| !shape.arguments.is_empty()) {
            for plane in planes {
                eprintln!("turn {round} of {rounds} · {} · {}", shape.name, plane.name);
                samples.push(measure::run(shape, plane, secs)?);
            }
        }
    }
    Ok(samples)
}

/// Of planes of their own, which have done nothing yet.
fn memory(is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for make in meshes() {
        if [IDLE, HELD, ENROLLED].into_iter().any(&is_wanted) {
            let plane = make()?;
            eprintln!("{IDLE}, pods enrolled, connections held · {}", plane.name);
            samples.extend(memory::of_fresh(plane)?);
        }
        if is_wanted(ENDED) {
            let plane = make()?;
            eprintln!("{ENDED} · {}", plane.name);
            samples.push(memory::after_much(&plane)?);
        }
    }
    Ok(samples)
}

type Make = Box<dyn Fn() -> Result<Plane>>;

/// The planes that have agents, Culvert last.
fn meshes() -> Vec<Make> {
    let peer = std::env::var_os("ZTUNNEL");
    if peer.is_none() {
        eprintln!("ZTUNNEL is not set: without a peer, only plain TCP stands beside Culvert");
    }
    let peer = peer.map(|binary| -> Make { Box::new(move || Plane::ztunnel(binary.as_ref())) });
    peer.into_iter().chain([Box::new(Plane::culvert) as Make]).collect()
}

fn planes() -> Result<Vec<Plane>> {
    eprintln!("setting up plain TCP and the meshes, two nodes each");
    let plain = Plane::plain()?;
    let meshes = meshes().into_iter().map(|make| make());
    std::iter::once(Ok(plain)).chain(meshes).collect()
}
