//! Shell: arguments, and what `app` makes of them.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use culvert_agent::app;
use tikv_jemallocator::Jemalloc;

/// It gives memory back a second after a burst; how is in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The node agent of the Culvert service mesh: takes pods' connections, captured by the kernel,
/// through mutually authenticated tunnels (HBONE, port 15008) to the agents of other nodes.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent of this node until SIGTERM or Ctrl-C.
    Run {
        /// The configuration, TOML. Every key is explained in deploy/config/agent.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Folder of Kubernetes manifests, instead of `manifests.directory`.
        #[arg(long, value_name = "DIR")]
        manifests: Option<PathBuf>,
        /// This node's name, instead of `node`.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Remove every program, link and map that agents with this configuration left in the kernel.
    /// Pods that are enrolled then talk in the clear: stop the agent and mean it.
    Unload {
        /// The configuration whose `capture.pin` is removed.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say which kernel features are there, and which release brings those that are missing.
    Check {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run { config, manifests, node } => app::run(&config, manifests, node),
        Command::Unload { config } => app::unload(&config),
        Command::Check { json } => app::check(json),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("culvert-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
