//! Shell: one shape of work under one plane; what came out, and what it cost.
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use e2e::factory::{binary, lab_command};
use serde_json::{Value, json};

use crate::{
    plane::{Plane, To},
    shapes::{
        Row::{
            self, AgentsPerGigabyte, AgentsPerOperation, MachinePerGigabyte, MachinePerOperation,
            Memory, P50, P99, Rate, Throughput,
        },
        Shape,
    },
};

/// One turn of one plane at one shape.
pub(crate) struct Sample {
    pub(crate) shape: &'static str,
    pub(crate) plane: &'static str,
    pub(crate) errors: u64,
    figures: Vec<(Row, f64)>,
    report: Value,
}

impl Sample {
    pub(crate) fn new(shape: &'static str, plane: &Plane, figures: Vec<(Row, f64)>) -> Self {
        Self { shape, plane: plane.name, errors: 0, figures, report: Value::Null }
    }

    pub(crate) fn figure(&self, row: Row) -> Option<f64> {
        self.figures.iter().find(|(is, _)| *is == row).map(|(_, figure)| *figure)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "shape": self.shape, "plane": self.plane, "report": self.report,
                "figures": self.figures.iter().map(|(row, figure)| json!({ format!("{row:?}"): figure })).collect::<Vec<_>>() })
    }
}

/// Runs the shape for `secs` seconds.
pub(crate) fn run(shape: &Shape, plane: &Plane, secs: f64) -> Result<Sample> {
    // What is remembered of a pair of pods is remembered by now, whatever that may be.
    ensure!(plane.answers(shape.to), "{} does not answer", plane.name);
    let before = (cpu(&plane.agents)?, machine_cpu()?);
    let (mut child, report) = load(plane, shape.to, shape.arguments, secs)?;
    let memory = resident(&plane.agents)?;
    ensure!(child.wait()?.success(), "the load failed");
    let (agents, machine) = (cpu(&plane.agents)? - before.0, machine_cpu()? - before.1);
    let number = |name: &str| report[name].as_f64();
    let operations = number("n").map(|n| n.max(1.0));
    let gigabytes = number("bytes").map(|bytes| (bytes * 1e-9).max(1e-9));
    let figures = [
        (P50, number("p50_us")),
        (P99, number("p99_us")),
        (Rate, number("per_s")),
        (Throughput, number("gbit_s")),
        (AgentsPerOperation, operations.map(|n| agents * 1e6 / n)),
        (MachinePerOperation, operations.map(|n| machine * 1e6 / n)),
        (AgentsPerGigabyte, gigabytes.map(|gb| agents / gb)),
        (MachinePerGigabyte, gigabytes.map(|gb| machine / gb)),
        (Memory, Some(memory)),
    ];
    Ok(Sample {
        shape: shape.name,
        plane: plane.name,
        errors: report["errors"].as_u64().unwrap_or(0),
        figures: figures.into_iter().filter_map(|(row, figure)| Some((row, figure?))).collect(),
        report,
    })
}

/// A load from the client, and what it reports; it may go on holding its connections.
pub(crate) fn load(plane: &Plane, to: To, arguments: &[&str], secs: f64) -> Result<(Child, Value)> {
    let mut command = lab_command(plane.client.netns(), plane.client.cgroup());
    command.arg("--").arg(binary("lab")?).arg("load").args(arguments);
    command.arg("--addr").arg(plane.address(to).to_string()).arg("--secs").arg(secs.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    Ok((child, serde_json::from_str(&line).context("the load printed no report")?))
}

/// Seconds of CPU time that processes have used, user and system.
pub(crate) fn cpu(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("an agent is gone")?;
        let (_, fields) = stat.rsplit_once(')').context("no process state")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        for index in [11, 12] {
            ticks += fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(ticks as f64 / 100.0)
}

/// Seconds of CPU time that the machine has used.
fn machine_cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().context("no line")?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((ticks.iter().sum::<u64>() - idle) as f64 / 100.0)
}

/// Resident memory, MB.
pub(crate) fn resident(pids: &[u32]) -> Result<f64> {
    kilobytes(pids, "status", "VmRSS:").map(|kilobytes| kilobytes / 1024.0)
}

/// Memory of their own, and a fair share of what they share with others, KB.
pub(crate) fn share(pids: &[u32]) -> Result<f64> {
    kilobytes(pids, "smaps_rollup", "Pss:")
}

fn kilobytes(pids: &[u32], file: &str, field: &str) -> Result<f64> {
    let mut sum = 0.0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).context("an agent is gone")?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        sum += number.context("no such figure of memory")?;
    }
    Ok(sum)
}
