//! Shell: arguments of the operator's command line.
#![forbid(unsafe_code)]

use std::{io::Write, net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use culvert_waypoint::{
    admin::{encoded, get},
    connections::{CONNECTIONS, connections},
    status::{status, wrong},
    table::{Column, table},
};
use serde_json::Value;

/// Look into the mesh: how an agent is, what it knows, and why a connection is allowed or denied. Run it on a
/// node (in its network namespace): it asks the agent's admin endpoint.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// The agent's admin endpoint.
    #[arg(long, global = true, default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
    agent: SocketAddr,
    /// Tables for people, or JSON for programs.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Say which way a connection would take, whether it would be allowed, and which object decides,
    /// with file and line. Ends with 1 when it would not be allowed.
    ///
    /// Example: culvert explain shop/web cart.shop.svc.cluster.local:80
    Explain {
        /// The client: namespace/pod, or an address.
        source: String,
        /// The destination: namespace/pod:port, a service's host name with a port, or address:port.
        destination: String,
    },
    /// How the agent is, and what is wrong. Ends with 1 when something is.
    Status,
    /// The connections of this node's pods that are open now.
    Connections,
    /// All pods that the agent knows.
    Workloads,
    /// All services that the agent knows.
    Services,
    /// All authorization policies and peer authentications.
    Policies,
    /// The certificates of this node's pods.
    Certificates,
    /// What is wrong with the manifests.
    Problems,
}

const WORKLOADS: &[Column] = &[
    ("NAMESPACE", "namespace"),
    ("POD", "name"),
    ("ADDRESSES", "workloadIps"),
    ("NODE", "node"),
    ("PROTOCOL", "protocol"),
    ("SERVICE ACCOUNT", "serviceAccount"),
    ("STATUS", "status"),
    ("DECLARED", "origin"),
];
const SERVICES: &[Column] = &[
    ("NAMESPACE", "namespace"),
    ("SERVICE", "name"),
    ("ADDRESSES", "vips"),
    ("PORTS", "ports"),
    ("ENDPOINTS", "endpoints"),
    ("DECLARED", "origin"),
];
const POLICIES: &[Column] = &[
    ("NAMESPACE", "namespace"),
    ("POLICY", "name"),
    ("ACTION", "action"),
    ("SCOPE", "scope"),
    ("RULES", "rules"),
    ("DRY RUN", "dryRun"),
    ("DECLARED", "origin"),
];
const PEERS: &[Column] = &[
    ("PEER AUTHENTICATION", "name"),
    ("MODE", "mode"),
    ("SCOPE", "scope"),
    ("PORTS", "ports"),
    ("DECLARED", "origin"),
];
const CERTIFICATES: &[Column] = &[
    ("IDENTITY", "identity"),
    ("STATE", "state"),
    ("SERIAL", "certChain.0.serialNumber"),
    ("EXPIRES", "certChain.0.expirationTime"),
];
const PROBLEMS: &[Column] = &[("WHERE", "at"), ("WHAT", "text")];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("culvert: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let lists: &[(&str, &[Column])] = match &arguments.command {
        Command::Status => return show_status(arguments),
        Command::Explain { source, destination } => {
            return explain(arguments, source, destination);
        }
        Command::Connections => &[("connections", CONNECTIONS)],
        Command::Workloads => &[("workloads", WORKLOADS)],
        Command::Services => &[("services", SERVICES)],
        Command::Policies => &[("policies", POLICIES), ("peerAuthentications", PEERS)],
        Command::Certificates => &[("certificates", CERTIFICATES)],
        Command::Problems => &[("problems", PROBLEMS)],
    };
    let dump = get(arguments.agent, "/config_dump")?;
    let mut out = std::io::stdout();
    for (name, columns) in lists {
        let rows = rows(&dump, name);
        match arguments.output {
            Output::Table => writeln!(out, "{}", table(columns, &rows).trim_end())?,
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(dump: &Value, list: &str) -> Vec<Value> {
    let all = || dump[list].as_array().into_iter().flatten();
    match list {
        "connections" => connections(dump),
        // There PeerAuthentications stand once more, in the words of a policy.
        "policies" => all().filter(|row| row["kind"] != "PeerAuthentication").cloned().collect(),
        _ => all().cloned().collect(),
    }
}

fn show_status(arguments: &Arguments) -> Result<ExitCode> {
    let answer = get(arguments.agent, "/status")?;
    let mut out = std::io::stdout();
    match arguments.output {
        Output::Table => write!(out, "{}", status(&answer))?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?,
    }
    Ok(if wrong(&answer).is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(arguments: &Arguments, source: &str, destination: &str) -> Result<ExitCode> {
    let path = format!("/explain?source={}&destination={}", encoded(source), encoded(destination));
    let answer = get(arguments.agent, &path)?;
    let mut out = std::io::stdout();
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?,
        Output::Table => {
            for (title, field) in [
                ("from", "/source/workload"),
                ("identity", "/source/identity"),
                ("declared", "/source/declared"),
                ("dials", "/dialled"),
                ("service", "/service"),
                ("to", "/destination/workload"),
                ("declared", "/destination/declared"),
                ("path", "/path"),
                ("verdict", "/verdict"),
                ("decided at", "/decided"),
            ] {
                if let Some(text) = answer.pointer(field).and_then(Value::as_str) {
                    writeln!(out, "{title:<12}{text}")?;
                }
            }
        }
    }
    let allowed = answer["allowed"].as_bool().unwrap_or(false);
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
