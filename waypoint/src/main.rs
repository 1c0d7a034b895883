//! Shell: arguments of the waypoint, and what `app` makes of them.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use culvert_waypoint::app;
use tikv_jemallocator::Jemalloc;

/// It gives memory back a second after a burst; how is in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The optional HTTP proxy of the Culvert service mesh: takes the tunnels to services that name its
/// Gateway (HBONE, port 15008), and routes their requests as VirtualServices and HTTPRoutes say.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the waypoint until SIGTERM or Ctrl-C.
    Run {
        /// The configuration, TOML. Every key is explained in deploy/config/waypoint.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Folder of Kubernetes manifests, instead of `manifests.directory`.
        #[arg(long, value_name = "DIR")]
        manifests: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Command::Run { config, manifests } = Arguments::parse().command;
    match app::run(&config, manifests) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("culvert-waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}
