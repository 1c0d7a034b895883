//! Shell: builds and starts the bench, optimised.
use std::os::unix::process::CommandExt;

use anyhow::Result;

use crate::{
    bpf,
    setup::{self, Part},
    step::{cargo, program, run as run_program, say, target},
};

/// Names the binary of the waypoint's peer.
const PEER: &str = "ENVOY";

/// Sets the machine up, builds, and becomes the bench.
///
/// # Errors
/// When something cannot be installed or built.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run(&[Part::Base, Part::Bpf])?;
    bpf::build(false)?;
    let is_waypoint = arguments.first().is_some_and(|what| what == "l7");
    let measured = if is_waypoint { "culvert-waypoint" } else { "culvert-agent" };
    say(format!("building {measured} and the bench, optimised (the first time takes minutes)"));
    let packages = ["--package", measured, "--package", "e2e"];
    let programs = ["--bin", measured, "--bin", "lab", "--bin", "bench"];
    run_program(cargo(&["build", "--release"]).args(packages).args(programs))?;
    let mut bench = program(target().join("release/bench"), &[]);
    if is_waypoint && std::env::var_os(PEER).is_none() {
        bench.env(PEER, setup::envoy()?);
    }
    Err(bench.args(arguments).exec().into())
}
