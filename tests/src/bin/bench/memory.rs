//! Shell: what a mesh keeps in memory: idle, for each connection, for each pod, and when all is over.
use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    measure::{Sample, load, resident, share},
    plane::{Plane, To},
    shapes::{
        ENDED, ENROLLED, HELD, IDLE,
        Row::{Growth, Idle, Memory, PerConnection, PerPod},
    },
};

/// So long after something happened an allocator has given back what it will soon give back.
const SETTLED: Duration = Duration::from_secs(3);
/// Connections that are held.
const CONNECTIONS: usize = 1_000;
/// Pods that come.
const PODS: usize = 50;
/// Ten thousand connections, of which so many are open at one time: a process may have 20,000 files.
const TURNS: usize = 5;
const AT_ONE_TIME: usize = 2_000;
/// So much later everything should be as before.
const LATER: Duration = Duration::from_secs(60);

/// Of a plane that has done nothing yet.
pub(crate) fn of_fresh(mut plane: Plane) -> Result<Vec<Sample>> {
    thread::sleep(SETTLED);
    let idle = share(&plane.agents)?;
    let mut samples = vec![Sample::new(IDLE, &plane, vec![(Idle, idle / 1024.0)])];
    let pods = plane.enrol(PODS)?;
    thread::sleep(SETTLED);
    let more = (share(&plane.agents)? - idle) / pods.len() as f64;
    let figures = vec![(PerPod, more), (Memory, resident(&plane.agents)?)];
    samples.push(Sample::new(ENROLLED, &plane, figures));
    let before = share(&plane.agents)?;
    let mut held = hold(&plane, CONNECTIONS, SETTLED * 2)?;
    thread::sleep(SETTLED);
    let more = (share(&plane.agents)? - before) / CONNECTIONS as f64;
    let figures = vec![(PerConnection, more), (Memory, resident(&plane.agents)?)];
    samples.push(Sample::new(HELD, &plane, figures));
    held.wait()?;
    Ok(samples)
}

/// Of a plane that has done nothing yet: how much larger it is long after much work.
pub(crate) fn after_much(plane: &Plane) -> Result<Sample> {
    thread::sleep(SETTLED);
    let before = resident(&plane.agents)?;
    for _ in 0..TURNS {
        hold(plane, AT_ONE_TIME, Duration::ZERO)?.wait()?;
    }
    thread::sleep(LATER);
    let after = resident(&plane.agents)?;
    let growth = (after / before - 1.0) * 100.0;
    Ok(Sample::new(ENDED, plane, vec![(Growth, growth), (Memory, after)]))
}

/// Opens connections, which stay for `time`.
fn hold(plane: &Plane, count: usize, time: Duration) -> Result<std::process::Child> {
    let arguments = ["hold", "--conns", &count.to_string()];
    let (child, report) = load(plane, To::OtherNode, &arguments, time.as_secs_f64())?;
    ensure!(report["errors"] == 0, "{}: not all connections came about: {report}", plane.name);
    Ok(child)
}
