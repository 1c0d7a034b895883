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
    say("building agent and bench, optimised (the first time takes minutes)");
    let packages = ["--package", "culvert-agent", "--package", "e2e"];
    let programs = ["--bin", "culvert-agent", "--bin", "lab", "--bin", "bench"];
    run_program(cargo(&["build", "--release"]).args(packages).args(programs))?;
    let mut bench = program(target().join("release/bench"), &[]);
    Err(bench.args(arguments).exec().into())
}
