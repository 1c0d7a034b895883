//! Shell: one agent and a large mesh, most of it elsewhere.
use std::{
    fmt::Write,
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{Agent, Lab, lab::PodSpec};

use crate::measure::resident;

/// Pods in one file, and per service.
const PER_FILE: usize = 10;
/// Changes whose median counts.
const CHANGES: usize = 15;

/// Markdown: a row for each size.
pub(crate) fn scale(pods: usize) -> Result<String> {
    let mut table = "| pods | services | load, s | agent's memory, MB | change of one pod in force, ms |\n|---:|---:|---:|---:|---:|\n".to_owned();
    for pods in [pods / 100, pods / 10, pods] {
        eprintln!("{pods} pods");
        let services = pods / PER_FILE;
        let (load, memory, change) = measure(pods)?;
        writeln!(
            table,
            "| {pods} | {services} | {:.2} | {memory:.0} | {:.1} |",
            load.as_secs_f64(),
            change.as_secs_f64() * 1e3
        )?;
    }
    Ok(table)
}

fn measure(pods: usize) -> Result<(Duration, f64, Duration)> {
    let lab = Lab::new(1)?;
    lab.namespace("bench", true)?;
    let spec = PodSpec { name: "client", namespace: "bench", account: "client", labels: &[] };
    let _client = lab.pod(1, &spec)?;
    for number in 0..pods / PER_FILE {
        fs::write(lab.manifests().join(format!("{number:06}.yaml")), file(number, 0))?;
    }
    let start = Instant::now();
    let agent = lab.agent(1)?;
    let load = start.elapsed();
    let memory = resident(&[agent.pid()])?;
    let mut changes: Vec<Duration> =
        (1..=CHANGES).map(|turn| change(&lab, &agent, turn)).collect::<Result<_>>()?;
    changes.sort();
    Ok((load, memory, changes[CHANGES / 2]))
}

/// From the change of a file until the agent goes by it.
fn change(lab: &Lab, agent: &Agent, turn: usize) -> Result<Duration> {
    let number = turn * 7 % 10;
    let moved = format!("/explain?source=bench/client&destination={}:80", address(number, 0, turn));
    let is_known = || agent.get(15000, &moved).is_ok_and(|said| said.contains("HBONE tunnel"));
    ensure!(!is_known(), "the pod is there already");
    let start = Instant::now();
    lab.apply(&format!("{number:06}.yaml"), &file(number, turn))?;
    while !is_known() {
        ensure!(start.elapsed() < Duration::from_secs(60), "the change was not seen");
    }
    Ok(start.elapsed())
}

/// Ten pods of one service; the first has another address in each turn.
fn file(number: usize, turn: usize) -> String {
    let space = number % 100;
    let mut text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: ns{space}}}, \
         spec: {{clusterIP: 172.{}.{}.{}, selector: {{app: s{number}}}, ports: [{{port: 80, targetPort: 8080}}]}}}}\n",
        16 + number / 65_536,
        number / 256 % 256,
        number % 256
    );
    if number < 100 {
        let _ = write!(
            text,
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: ns{number}, labels: {{istio.io/dataplane-mode: ambient}}}}}}\n"
        );
    }
    for pod in 0..PER_FILE {
        let turn = if pod == 0 { turn } else { 0 };
        let _ = write!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: s{number}-{pod}, namespace: ns{space}, labels: {{app: s{number}, version: v1, \
             pod-template-hash: 5d4f8c7b9}}}}, spec: {{nodeName: node-{}, serviceAccountName: s{number}, containers: [{{name: app, ports: [{{name: http, \
             containerPort: 8080}}]}}]}}, status: {{phase: Running, podIP: {}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n",
            (number * PER_FILE + pod) % 1000,
            address(number, pod, turn)
        );
    }
    text
}

fn address(number: usize, pod: usize, turn: usize) -> Ipv4Addr {
    let index = u32::try_from(number * PER_FILE + pod + turn * (1 << 20)).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + index)
}
