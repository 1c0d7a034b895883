//! Shell: the same requests through Culvert's waypoint and through Envoy, taking turns.
//! Never: a figure of a plane that answers wrongly: the first wrong answer ends the bench.
mod envoy;
mod guards;
mod http1;
mod latency;
pub(crate) mod load;
mod mesh;
mod rules;
pub(crate) mod server;
mod table;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use culvert_agent::identity::{Credentials, Identity, Svid, ca::LocalCa};
use serde_json::json;

use self::{
    mesh::{Mesh, Plane},
    rules::{Http, SERVICES, Service},
    table::{Row, Sample},
};
use crate::{
    compile,
    measure::{cpu, share},
};

/// The header in which a pod says which version it is.
const VERSION: &str = "x-version";
/// Bytes of the body of an answer.
const BODY: usize = 1024;
/// Service accounts.
const CLIENT: &str = "client";
const WAYPOINT: &str = "waypoint";
const ACCOUNT: &str = "product";
/// So long after something happened an allocator has given back what it will soon give back.
const SETTLED: Duration = Duration::from_secs(3);

/// What is measured, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.5)]
    secs: f64,
    /// Turns that each plane gets; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only work whose name contains this, for example "HTTP/2, 50", or "1 rule" for what policies cost.
    #[arg(long, default_value = "")]
    only: String,
    /// Requests a second where the rate is fixed; latencies count from when a request was due.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Neither plane writes an access log.
    #[arg(long)]
    no_log: bool,
    /// Also write all samples to this file, JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One measurement of one plane.
#[derive(Clone, Copy)]
struct Turn<'a> {
    service: &'a Service,
    http: Http,
    secs: f64,
    /// Requests a second; 0 means as fast as answers come.
    rate: f64,
}

impl Turn<'_> {
    fn name(&self) -> String {
        let rules = self.service.rules;
        let guarded = if self.service.guarded { guards::GUARDED } else { "" };
        format!("{}, {rules} rule{}{guarded}", self.http.name(), if rules == 1 { "" } else { "s" })
    }
}

/// Every kind of request.
fn turns(secs: f64, rate: f64) -> impl Iterator<Item = Turn<'static>> {
    let one = move |http| SERVICES.iter().map(move |service| Turn { service, http, secs, rate });
    Http::BOTH.into_iter().flat_map(one)
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { only, rate, json, .. } = arguments;
    let mut samples = Vec::new();
    if turns(0.0, 0.0).any(|turn| turn.name().contains(only)) {
        samples = requests(arguments)?;
        writeln!(std::io::stdout(), "{}", table::table(&samples, *rate))?;
        writeln!(std::io::stdout(), "{}", guards::table(&samples, *rate))?;
    }
    if compile::NAME.contains(only) {
        writeln!(std::io::stdout(), "{}", compile::compile()?)?;
    }
    if let Some(file) = json {
        let all: Vec<_> = samples.iter().map(Sample::to_json).collect();
        fs::write(file, serde_json::to_string_pretty(&json!(all))?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn requests(arguments: &Arguments) -> Result<Vec<Sample>> {
    let Arguments { secs, rounds, only, rate, no_log, .. } = arguments;
    let envoy = std::env::var_os("ENVOY");
    let envoy = envoy.context(
        "ENVOY is not set: it names the peer's binary; `cargo xtask bench l7` sees to that",
    )?;
    eprintln!(
        "setting up a client, two pods, the waypoint and Envoy ({} threads)",
        mesh::threads()
    );
    let mesh = Mesh::start(Path::new(&envoy), !no_log)?;
    let mut samples = Vec::new();
    samples.extend(memory(&mesh, "after a hundred requests of each kind")?);
    for round in 1..=*rounds {
        let kinds = [0.0, *rate].into_iter().flat_map(|rate| turns(*secs, rate));
        let wanted = kinds.filter(|turn| turn.name().contains(only));
        for (turn, plane) in wanted.flat_map(|turn| mesh.planes.iter().map(move |p| (turn, p))) {
            let (work, rate) = (turn.name(), turn.rate);
            eprintln!("turn {round} of {rounds} · {work} · {rate} a second · {}", plane.name);
            samples.extend(measure(&mesh, plane, &turn)?);
        }
    }
    samples.extend(memory(&mesh, "after all of them")?);
    Ok(samples)
}

fn measure(mesh: &Mesh, plane: &Plane, turn: &Turn<'_>) -> Result<Vec<Sample>> {
    let load = mesh.load(plane, turn)?;
    let before = cpu(&[plane.pid])?;
    let report = load.run()?;
    let used = cpu(&[plane.pid])? - before;
    let number = |name: &str| report[name].as_f64().context("no such figure in the report");
    let cpu = used * 1e5 / number("n")?.max(1.0);
    let figures = if turn.rate == 0.0 {
        vec![(Row::Rate, number("per_s")?), (Row::BusyCpu, cpu)]
    } else {
        vec![(Row::P50, number("p50_us")?), (Row::P99, number("p99_us")?), (Row::PacedCpu, cpu)]
    };
    let sample = |(row, figure)| Sample { plane: plane.name, work: turn.name(), row, figure };
    Ok(figures.into_iter().map(sample).collect())
}

fn memory(mesh: &Mesh, when: &str) -> Result<Vec<Sample>> {
    thread::sleep(SETTLED);
    let of = |plane: &Plane| {
        let figure = share(&[plane.pid])? / 1024.0;
        Ok(Sample { plane: plane.name, work: when.to_owned(), row: Row::Memory, figure })
    };
    mesh.planes.iter().map(of).collect()
}

fn identity(account: &str) -> Result<Identity> {
    Identity::new("cluster.local", "shop", account).context("an identity")
}

/// A certificate of an account, of the lab's own authority.
fn certificate(ca: &Path, account: &str) -> Result<Svid> {
    let day = Duration::from_secs(86_400);
    let ca = LocalCa::open(ca, "cluster.local", day, SystemTime::now())?;
    Ok(ca.issue(&identity(account)?, SystemTime::now())?)
}

fn credentials(ca: &Path, account: &str) -> Result<Credentials> {
    Ok(Credentials::new(certificate(ca, account)?)?)
}
