//! Shell: one shape of work under one plane; what came out, and what it cost.
use std::{fs, io::BufRead, io::BufReader, process::Stdio};

use anyhow::{Context, Result, ensure};
use e2e::factory::{binary, lab_command};
use serde_json::{Value, json};

use crate::plane::Plane;

/// A kind of work.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    arguments: &'static [&'static str],
    /// What is worth a row.
    pub(crate) rows: &'static [Row],
}

/// A figure of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// Median, microseconds.
    P50,
    /// 99th percentile, microseconds.
    P99,
    /// Operations per second.
    Rate,
    /// Gigabits per second.
    Throughput,
    /// CPU time of both agents per operation, microseconds.
    AgentsPerOperation,
    /// CPU time of the machine per operation, microseconds.
    MachinePerOperation,
    /// CPU time of both agents per gigabyte, seconds.
    AgentsPerGigabyte,
    /// CPU time of the machine per gigabyte, seconds.
    MachinePerGigabyte,
    /// Resident memory of both agents, MB.
    Memory,
}

use Row::{
    AgentsPerGigabyte, AgentsPerOperation, MachinePerGigabyte, MachinePerOperation, Memory, P50,
    P99, Rate, Throughput,
};

const ROUND_TRIPS: &[Row] = &[P50, P99, AgentsPerOperation, MachinePerOperation];
const BUSY: &[Row] = &[Rate, P50, P99, AgentsPerOperation, MachinePerOperation];
const BULK: &[Row] = &[Throughput, AgentsPerGigabyte, MachinePerGigabyte];

pub(crate) const SHAPES: &[Shape] = &[
    Shape {
        name: "round trips, 128 B, 1 connection",
        arguments: &["pingpong", "--conns", "1"],
        rows: ROUND_TRIPS,
    },
    Shape {
        name: "round trips, 128 B, 16 connections",
        arguments: &["pingpong", "--conns", "16"],
        rows: BUSY,
    },
    Shape {
        name: "round trips, 128 B, 64 connections",
        arguments: &["pingpong", "--conns", "64"],
        rows: BUSY,
    },
    Shape {
        name: "round trips, 128 B, 1,000 a second over 16 connections",
        arguments: &["pingpong", "--conns", "16", "--rate", "1000"],
        // The machine's own account is too coarse for so little work.
        rows: &[P50, P99, AgentsPerOperation],
    },
    Shape {
        name: "round trips, 16 KiB, 4 connections",
        arguments: &["pingpong", "--conns", "4", "--size", "16384"],
        rows: BUSY,
    },
    Shape { name: "bulk up, 1 stream", arguments: &["stream", "--conns", "1"], rows: BULK },
    Shape { name: "bulk up, 8 streams", arguments: &["stream", "--conns", "8"], rows: BULK },
    Shape {
        name: "bulk down, 1 stream",
        arguments: &["stream", "--conns", "1", "--down"],
        rows: BULK,
    },
    Shape {
        name: "bulk down, 8 streams",
        arguments: &["stream", "--conns", "8", "--down"],
        rows: BULK,
    },
    Shape { name: "new connections, 1 client", arguments: &["rate", "--conns", "1"], rows: BUSY },
    Shape {
        name: "new connections, 16 clients",
        arguments: &["rate", "--conns", "16"],
        rows: BUSY,
    },
    Shape {
        name: "1,000 connections held",
        arguments: &["hold", "--conns", "1000"],
        rows: &[Memory],
    },
];

/// One turn of one plane at one shape.
pub(crate) struct Sample {
    pub(crate) shape: &'static str,
    pub(crate) plane: &'static str,
    pub(crate) errors: u64,
    figures: Vec<(Row, f64)>,
    report: Value,
}

impl Sample {
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
    let before = (cpu(&plane.agents)?, machine_cpu()?);
    let mut command = lab_command(plane.client.netns(), plane.client.cgroup());
    command.arg("--").arg(binary("lab")?).arg("load").args(shape.arguments);
    command.arg("--addr").arg(plane.address().to_string()).arg("--secs").arg(secs.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    let memory = resident(&plane.agents)?;
    ensure!(child.wait()?.success(), "the load failed");
    let (agents, machine) = (cpu(&plane.agents)? - before.0, machine_cpu()? - before.1);
    let report: Value = serde_json::from_str(&line).context("the load printed no report")?;
    let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
    let (operations, gigabytes) = (number("n").max(1.0), (number("bytes") * 1e-9).max(1e-9));
    let figures = shape.rows.iter().map(|row| {
        let figure = match row {
            P50 => number("p50_us"),
            P99 => number("p99_us"),
            Rate => number("per_s"),
            Throughput => number("gbit_s"),
            AgentsPerOperation => agents * 1e6 / operations,
            MachinePerOperation => machine * 1e6 / operations,
            AgentsPerGigabyte => agents / gigabytes,
            MachinePerGigabyte => machine / gigabytes,
            Memory => memory,
        };
        (*row, figure)
    });
    Ok(Sample {
        shape: shape.name,
        plane: plane.name,
        errors: report["errors"].as_u64().unwrap_or(0),
        figures: figures.collect(),
        report,
    })
}

/// Seconds of CPU time that processes have used, user and system.
fn cpu(pids: &[u32]) -> Result<f64> {
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
    let mut kilobytes = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes += number.unwrap_or(0);
    }
    Ok(kilobytes as f64 / 1024.0)
}
