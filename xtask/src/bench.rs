//! Shell: builds and starts the bench, optimised.
use std::os::unix::process::CommandExt;

use anyhow::Result;

use crate::{
    bpf,
    setup::{self, Part},
    step::{cargo, program, run as run_program, say, target},
};

/// Sets the machine up, builds, and becomes the bench.
///
/// # Errors
/// When something cannot be installed or built.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run(&[Part::Base, Part::Bpf])?;
    bpf::build(false)?;
    let what = arguments.first().map(String::as_str);
    let is_waypoint = matches!(what, Some("l7" | "balance"));
    let measured = if is_waypoint { "culvert-waypoint" } else { "culvert-agent" };
    say(format!("building {measured} and the bench, optimised (the first time takes minutes)"));
    let packages = ["--package", measured, "--package", "e2e"];
    let programs = ["--bin", measured, "--bin", "lab", "--bin", "bench"];
    run_program(cargo(&["build", "--release"]).args(packages).args(programs))?;
    let mut bench = program(target().join("release/bench"), &[]);
    if what == Some("l7") {
        bench.env(setup::PEER, setup::envoy()?);
    }
    Err(bench.args(arguments).exec().into())
}
