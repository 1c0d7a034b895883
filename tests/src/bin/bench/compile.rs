//! Shell: what a large mesh costs a waypoint: time and memory to read it, and until a changed rule is
//! in force.
use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{Lab, Waypoint};

use crate::measure::share;

/// What it is called, for `--only`.
pub(crate) const NAME: &str = "compiling 10,000 services";

const SERVICES: usize = 10_000;
/// Of them with a VirtualService and a DestinationRule.
const ROUTED: usize = 1_000;
/// Services in one file.
const PER_FILE: usize = 10;
/// Changes whose median counts.
const CHANGES: usize = 15;

/// One line for the reader.
pub(crate) fn compile() -> Result<String> {
    eprintln!("{NAME}");
    let idle = measure(0, 0)?;
    let plain = measure(SERVICES, 0)?;
    let routed = measure(SERVICES, ROUTED)?;
    let mut text = "| services | with rules | read and compiled, s | memory (PSS), MB | change of one rule in force, ms |\n\
                    |---:|---:|---:|---:|---:|\n"
        .to_owned();
    for (services, with_rules, of) in
        [(0, 0, idle), (SERVICES, 0, plain), (SERVICES, ROUTED, routed)]
    {
        let change = of.change.map_or("–".into(), millis);
        text += &format!(
            "| {services} | {with_rules} | {:.2} | {:.1} | {change} |\n",
            of.ready.as_secs_f64(),
            of.memory / 1024.0
        );
    }
    Ok(text)
}

struct Cost {
    /// From the start of the process until it takes requests.
    ready: Duration,
    /// KB.
    memory: f64,
    change: Option<Duration>,
}

fn measure(services: usize, routed: usize) -> Result<Cost> {
    let lab = Lab::new(1)?;
    lab.namespace("shop", true)?;
    for file in 0..services / PER_FILE {
        fs::write(lab.manifests().join(format!("{file:06}.yaml")), objects(file, routed, 0))?;
    }
    let start = Instant::now();
    let waypoint = Waypoint::configured("waypoint", (&lab, 1), ("10.96.0.99", "service"), "")?;
    let ready = start.elapsed();
    let memory = share(&[waypoint.pid()])?;
    let mut changes: Vec<Duration> = (1..=CHANGES)
        .filter(|_| routed > 0)
        .map(|turn| change(&lab, &waypoint, (turn, routed)))
        .collect::<Result<_>>()?;
    changes.sort();
    Ok(Cost { ready, memory, change: changes.get(changes.len() / 2).copied() })
}

/// From the change of a rule's file until the waypoint goes by it.
fn change(lab: &Lab, waypoint: &Waypoint, (turn, routed): (usize, usize)) -> Result<Duration> {
    let file = turn * 7 % (routed / PER_FILE);
    let query = format!("/routes?service=s{}.shop", file * PER_FILE);
    let is_known = || waypoint.get(15000, &query).is_ok_and(|said| said.contains(&version(turn)));
    ensure!(!is_known(), "the rule is there already");
    let changed = objects(file, routed, turn);
    let start = Instant::now();
    lab.apply(&format!("{file:06}.yaml"), &changed)?;
    while !is_known() {
        ensure!(start.elapsed() < Duration::from_secs(60), "the change was not seen");
    }
    Ok(start.elapsed())
}

fn version(turn: usize) -> String {
    format!("/changed/{turn}/")
}

/// Ten services, the first of which has another rule in each turn; those of the first files have rules.
fn objects(file: usize, routed: usize, turn: usize) -> String {
    let mut text = String::new();
    for number in file * PER_FILE..(file + 1) * PER_FILE {
        let (high, low) = (number / 250, number % 250 + 1);
        text += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: shop, labels: {{istio.io/use-waypoint: waypoint}}}}, \
             spec: {{clusterIP: 10.97.{high}.{low}, selector: {{app: s{number}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n"
        );
        if number >= routed {
            continue;
        }
        let turn = if number % PER_FILE == 0 { turn } else { 0 };
        text += &format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: s{number}, namespace: shop}}, \
             spec: {{host: s{number}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}}}\n\
             ---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: s{number}, namespace: shop}}, spec: {{hosts: [s{number}], http: [\
             {{match: [{{headers: {{x-canary: {{exact: 'true'}}}}}}], route: [{{destination: {{host: s{number}, subset: v2}}}}]}}, \
             {{match: [{{uri: {{prefix: {}}}}}], timeout: 2s, route: [{{destination: {{host: s{number}, subset: v2}}}}]}}, \
             {{route: [{{destination: {{host: s{number}, subset: v1}}, weight: 95}}, {{destination: {{host: s{number}, subset: v2}}, weight: 5}}]}}]}}}}\n",
            version(turn)
        );
    }
    text
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}
