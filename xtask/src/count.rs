//! Shell: builds and starts the counter of instructions.
use anyhow::Result;

use crate::{
    bpf,
    setup::{self, Part},
    step::{cargo, run as run_program},
};

/// What cargo is told. Our own code is compiled as in a release, but for optimisation at link time;
/// of other people's, which development optimises as much, nothing is compiled again.
pub(crate) const COUNT: [&str; 23] = [
    "run",
    "--quiet",
    "--locked",
    "--package",
    "e2e",
    "--bin",
    "count",
    "--config",
    "profile.dev.package.culvert-agent.opt-level=3",
    "--config",
    "profile.dev.package.culvert-agent.debug-assertions=false",
    "--config",
    "profile.dev.package.culvert-agent.overflow-checks=false",
    "--config",
    "profile.dev.package.culvert-waypoint.opt-level=3",
    "--config",
    "profile.dev.package.culvert-waypoint.debug-assertions=false",
    "--config",
    "profile.dev.package.culvert-waypoint.overflow-checks=false",
    "--config",
    "profile.dev.package.e2e.opt-level=3",
    "--config",
    "profile.dev.package.e2e.debug-assertions=false",
];

/// Sets the machine up, builds, and counts.
///
/// # Errors
/// When something cannot be installed or built, or a function is beyond its budget.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run(&[Part::Base, Part::Bpf])?;
    bpf::build(false)?;
    run_program(cargo(&COUNT).arg("--").args(arguments))
}
