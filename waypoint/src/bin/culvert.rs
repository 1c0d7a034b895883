//! Shell: arguments of the operator's command line.
#![forbid(unsafe_code)]

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use culvert_agent::manifest::{self, Folder};
use culvert_waypoint::{
    admin::{Whom, encoded, get},
    analyze::{self, Level, Suppression},
    connections::{CONNECTIONS, connections},
    health::endpoints,
    manifest::Settings,
    rules::{explained, fails, rules},
    status::{status, wrong},
    table::{Column, table},
};
use serde_json::Value;

/// Look into the mesh: how an agent is, what it knows, why a connection is allowed or denied, and which
/// rule takes a request. Run it on a node (in its network namespace), where it asks the agent's admin
/// endpoint; what is about rules, in the network namespace of a waypoint's pod, where it asks the waypoint's.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// The admin endpoint of the agent, or of the waypoint.
    #[arg(
        long,
        visible_alias = "waypoint",
        global = true,
        default_value = "127.0.0.1:15000",
        value_name = "ADDRESS"
    )]
    agent: SocketAddr,
    /// Tables for people, JSON or YAML for programs.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    #[value(alias = "log")]
    Table,
    Json,
    Yaml,
}

/// How `culvert analyze` ends when it found something: istioctl's code for it.
const FOUND: u8 = 79;

#[derive(Args)]
struct Analyze {
    /// Files, folders with files in them, or - for the standard input.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Ends with 79 when there is a message at least as bad as this: Error, Warning or Info.
    #[arg(long, default_value = "Error", value_name = "LEVEL")]
    failure_threshold: Level,
    /// Show only messages at least as bad as this.
    #[arg(long, default_value = "Info", value_name = "LEVEL")]
    output_threshold: Level,
    /// Leave messages of a code about an object out, for example "IST0173=DestinationRule *.shop".
    #[arg(long, short = 'S', value_name = "CODE=OBJECT")]
    suppress: Vec<Suppression>,
    /// All namespaces; they always are.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// The domain of service names.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// The namespace of what is the whole mesh's.
    #[arg(long, default_value = "istio-system", value_name = "NAMESPACE")]
    root_namespace: String,
}

/// What is asked of a service. All of it that is not given is what curl would say.
#[derive(Args)]
#[command(next_help_heading = "A request, which the service's waypoint explains")]
struct Request {
    /// Its method; GET if only something else is given.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Its path, with the query after ?; / if only something else is given.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// A header of it, any number of times.
    #[arg(long, short = 'H', value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// The service port; needed if the service has several.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Its authority or Host header; the service's host name if none is given.
    #[arg(long, value_name = "HOST[:PORT]")]
    authority: Option<String>,
}

impl Request {
    /// As a part of a query; `None` when nothing is asked.
    fn query(&self) -> Option<String> {
        let Self { method, path, header, port, authority } = self;
        let port = port.map(|port| port.to_string());
        let given = [("method", method), ("path", path), ("port", &port), ("authority", authority)];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let all = given.chain(header.iter().map(|header| ("header", header)));
        let query: String =
            all.map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
        (!query.is_empty()).then_some(query)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Say which way a connection would take, whether it would be allowed, and which object decides,
    /// with file and line. Ends with 1 when it would not be allowed.
    ///
    /// With any of the options of a request it asks the service's waypoint, which says what it would do
    /// with that request: which rule of which object decides, what every rule before it asks that the
    /// request is not, and who is ready behind each destination. Ends with 1 when the waypoint would
    /// answer with an error.
    ///
    /// Examples:
    ///   culvert explain shop/web cart.shop.svc.cluster.local:80
    ///   culvert explain shop/web cart.shop --method GET --path '/api?page=1' -H 'x-canary-user: true'
    #[command(verbatim_doc_comment)]
    Explain {
        /// The client: namespace/pod, or an address.
        source: String,
        /// The destination: namespace/pod:port, a service's host name with a port, or address:port. Of a
        /// request: a service, by host name, name.namespace or namespace/name.
        #[arg(value_name = "DESTINATION|SERVICE")]
        destination: String,
        #[command(flatten)]
        request: Request,
    },
    /// The rules of a service as its waypoint has them: per port, in the order in which they are asked,
    /// what each asks, what it does, and who wrote it where. The first that matches decides.
    ///
    /// Example: culvert routes cart.shop
    Routes {
        /// The service: its host name, name.namespace or namespace/name.
        service: String,
    },
    /// The endpoints of a service as its waypoint has them: which are left out because they failed, when
    /// they return, how many requests are under way at each, and how often it failed in a row.
    ///
    /// Example: culvert endpoints cart.shop
    Endpoints {
        /// The service: its host name, name.namespace or namespace/name; with :PORT only that port.
        service: String,
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
    /// Say what is wrong with manifests before they are applied, in the words and codes of istioctl
    /// analyze. It asks no agent.
    ///
    /// Example: culvert analyze deploy/ --failure-threshold Warning
    Analyze(Analyze),
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
        Command::Explain { source, destination, request } => {
            return match request.query() {
                None => explain(arguments, source, destination),
                Some(query) => explain_request(arguments, (source, destination), &query),
            };
        }
        Command::Routes { service } => {
            let path = format!("/routes?service={}", encoded(service));
            let answer = get(Whom::Waypoint, arguments.agent, &path)?;
            show(arguments.output, &answer, rules)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Endpoints { service } => {
            let path = format!("/endpoints?service={}", encoded(service));
            let answer = get(Whom::Waypoint, arguments.agent, &path)?;
            show(arguments.output, &answer, endpoints)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Connections => &[("connections", CONNECTIONS)],
        Command::Workloads => &[("workloads", WORKLOADS)],
        Command::Services => &[("services", SERVICES)],
        Command::Policies => &[("policies", POLICIES), ("peerAuthentications", PEERS)],
        Command::Certificates => &[("certificates", CERTIFICATES)],
        Command::Problems => &[("problems", PROBLEMS)],
        Command::Analyze(asked) => return analyze(asked, arguments.output),
    };
    let dump = get(Whom::Agent, arguments.agent, "/config_dump")?;
    let mut out = std::io::stdout();
    for (name, columns) in lists {
        let rows = rows(&dump, name);
        match arguments.output {
            Output::Table => writeln!(out, "{}", table(columns, &rows).trim_end())?,
            Output::Json | Output::Yaml => print(arguments.output, &rows.into())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A value for programs, or in the words of `people`.
fn show(output: Output, value: &Value, people: impl Fn(&Value) -> String) -> Result<()> {
    match output {
        Output::Table => Ok(write!(std::io::stdout(), "{}", people(value))?),
        Output::Json | Output::Yaml => print(output, value),
    }
}

/// A value for programs.
fn print(output: Output, value: &Value) -> Result<()> {
    let mut out = std::io::stdout();
    match output {
        Output::Yaml => write!(out, "{}", analyze::yaml(value))?,
        Output::Json | Output::Table => {
            writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
        }
    }
    Ok(())
}

fn analyze(asked: &Analyze, output: Output) -> Result<ExitCode> {
    for code in asked.suppress.iter().filter_map(Suppression::unknown) {
        eprintln!(
            "Warning: Supplied message code '{code}' is an unknown message code and will not have any effect."
        );
    }
    let (texts, skipped) = analyze::contents(&asked.paths)?;
    for path in skipped {
        let path = path.display();
        eprintln!("Skipping file {path}, recognized file extensions are: [.json .yaml .yml]");
    }
    let names: Vec<_> = texts.keys().cloned().collect();
    anyhow::ensure!(
        !names.is_empty(),
        "no file with objects among these: give .yaml, .yml or .json"
    );
    let mut folder = Folder::default();
    folder.update(texts.into_iter().map(|(path, text)| (path, Ok(text))).collect());
    let domain = || asked.cluster_domain.clone();
    let root = || asked.root_namespace.clone();
    let agent = manifest::Settings {
        cluster_domain: domain(),
        root_namespace: root(),
        ..manifest::Settings::default()
    };
    let settings =
        Settings { cluster_domain: domain(), root_namespace: root(), ..Settings::default() };
    let snapshot = manifest::compile(&folder, &agent);
    let mut messages = analyze::analyze(&folder, &snapshot, &settings);
    messages.retain(|message| !asked.suppress.iter().any(|suppressed| suppressed.covers(message)));
    let found = messages.iter().any(|message| message.level.reaches(asked.failure_threshold));
    messages.retain(|message| message.level.reaches(asked.output_threshold));
    match output {
        Output::Table => write!(std::io::stdout(), "{}", analyze::text(&messages))?,
        Output::Json | Output::Yaml => print(output, &analyze::json(&messages))?,
    }
    if messages.is_empty() {
        let list = match names.as_slice() {
            [only] => format!(" {only}."),
            several => format!(":\n  - {}", several.join("\n  - ")),
        };
        eprintln!("✔ No validation issues found when analyzing{list}");
    }
    Ok(if found { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
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
    let answer = get(Whom::Agent, arguments.agent, "/status")?;
    show(arguments.output, &answer, status)?;
    Ok(if wrong(&answer).is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(arguments: &Arguments, source: &str, destination: &str) -> Result<ExitCode> {
    let path = format!("/explain?source={}&destination={}", encoded(source), encoded(destination));
    let answer = get(Whom::Agent, arguments.agent, &path)?;
    let mut out = std::io::stdout();
    match arguments.output {
        Output::Json | Output::Yaml => print(arguments.output, &answer)?,
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

fn explain_request(
    arguments: &Arguments,
    (source, service): (&str, &str),
    request: &str,
) -> Result<ExitCode> {
    let (source, service) = (encoded(source), encoded(service));
    let path = format!("/explain/request?source={source}&service={service}{request}");
    let answer = get(Whom::Waypoint, arguments.agent, &path)?;
    show(arguments.output, &answer, explained)?;
    Ok(if fails(&answer) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
