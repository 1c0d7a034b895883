//! Shell: what runs inside the lab's namespaces: socket factories, programs, load.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, os::unix::process::CommandExt, path::PathBuf, process::Command};

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::{factory, hoard, http, load, shop, visit};

/// Runs things inside the lab's namespaces and control groups.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a program in a network namespace and a control group.
    Exec {
        /// The namespace's file.
        #[arg(long)]
        netns: PathBuf,
        /// The control group's folder.
        #[arg(long)]
        cgroup: PathBuf,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    /// Make sockets for whoever holds the other end of standard input.
    Factory,
    /// Dial an address many times, and hold the sockets until standard input is closed.
    Hoard {
        /// Where to.
        to: SocketAddr,
        /// How many times.
        count: u32,
    },
    /// Be an HTTP application that tells what it was asked.
    Http {
        /// Where it listens.
        listen: SocketAddr,
        /// Which version of itself it is.
        version: String,
    },
    /// Put load on a TCP service, or be one. Prints one JSON line.
    Load(load::Arguments),
    /// Be an application of the demo's shop.
    Shop(shop::Arguments),
    /// Be visitors of the demo's shop.
    Visit(visit::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Task::Exec { netns, cgroup, program } => {
            // Whoever started the lab takes its processes along.
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            factory::enter(&netns, &cgroup)?;
            let [name, arguments @ ..] = program.as_slice() else {
                unreachable!("clap asks for one")
            };
            Err(Command::new(name).args(arguments).exec().into())
        }
        Task::Factory => factory::serve(),
        Task::Hoard { to, count } => hoard::run(to, count),
        Task::Http { listen, version } => http::run(listen, &version),
        Task::Load(arguments) => load::run(&arguments),
        Task::Shop(arguments) => shop::run(&arguments),
        Task::Visit(arguments) => visit::run(&arguments),
    }
}
