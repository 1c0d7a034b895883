//! Shell: arguments of the waypoint.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// The optional HTTP proxy of the Culvert service mesh. It routes nothing yet: this binary only
/// keeps its place in the workspace.
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    eprintln!("culvert-waypoint: routing is not implemented yet, so there is nothing to run");
    ExitCode::FAILURE
}
