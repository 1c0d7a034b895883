//! Shell: builds and starts the demo.
use std::os::unix::process::CommandExt;

use anyhow::Result;

use crate::{
    bpf,
    setup::{self, Part},
    step::{cargo, program, run as run_program, say, target},
};

/// Sets the machine up, builds, and becomes the demo.
///
/// # Errors
/// When something cannot be installed or built.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run(&[Part::Base, Part::Bpf])?;
    bpf::build(false)?;
    say("building the agent, the waypoint and the demo (the first time takes minutes)");
    run_program(&mut cargo(&[
        "build",
        "--package",
        "culvert-agent",
        "--package",
        "culvert-waypoint",
        "--package",
        "e2e",
        "--bins",
    ]))?;
    let mut demo = program(target().join("debug/demo"), &[]);
    Err(demo.args(arguments).exec().into())
}
