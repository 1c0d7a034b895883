//! Front: every command that people and CI run beyond plain cargo. One file per command.
//! Never: work, and no dependency on the product: it must run before that can be built.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "only the product reads its clock in one place; a tool measures where it works"
)]

mod bench;
mod bpf;
mod count;
mod demo;
mod setup;
mod step;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Culvert's commands for people and CI. Start with `cargo xtask demo`.
#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what this machine lacks: Debian packages, the BPF tool chain, bpf-linker. Root.
    Setup,
    /// Build the kernel object that the agent embeds.
    Bpf {
        /// With a log line for each redirected connection: for development only.
        #[arg(long)]
        log: bool,
    },
    /// Two nodes, a shop, and the moment it joins the mesh. Root.
    Demo {
        /// Arguments of the demo, for example --once.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Every check and every test, as CI runs them. Root.
    Test,
    /// The same as `test`, by the name that CI uses.
    Ci,
    /// Measure against plain TCP, and against ztunnel where ZTUNNEL names its binary; the waypoint
    /// against Envoy, which is installed below target/ unless ENVOY names a binary. Root.
    Bench {
        /// What to measure, and its arguments. `l4` is the connection path, `l7` the waypoint,
        /// `balance` its choice of endpoints.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count the instructions of the hot functions, beside their budget.
    Count {
        /// Arguments of the counter, for example --bless.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check the structure of the repository: sizes, room order, gatekeepers, words.
    Tidy,
}

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    step::say(format!("error: {error:#}"));
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    match Arguments::parse().command {
        Command::Setup => setup::run(&setup::EVERYTHING),
        Command::Bpf { log } => bpf::run(log),
        Command::Demo { arguments } => demo::run(&arguments),
        Command::Test | Command::Ci => test::run(),
        Command::Bench { arguments } => bench::run(&arguments),
        Command::Count { arguments } => count::run(&arguments),
        Command::Tidy => tidy::run(),
    }
}
