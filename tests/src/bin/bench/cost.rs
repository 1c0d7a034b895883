//! Shell: what connections pay that are none of the mesh's: the kernel's own account of the time
//! that the programs ran, and connect() side by side in an enrolled pod and in one that is not.
use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use e2e::Factory;
use socket2::SockRef;

use crate::{
    measure::Sample,
    plane::Plane,
    shapes::{
        OUTSIDE,
        Row::{P50, P99},
    },
};

/// Connections per turn.
const CONNECTIONS: usize = 2_000;
const TURNS: usize = 8;

/// The planes in turns, and what the kernel says of the programs.
pub(crate) fn of_other_connections(planes: &[Plane]) -> Result<(Vec<Sample>, String)> {
    let culvert = planes.last().context("no plane")?;
    let stats = enable_stats(Stats::RunTime).context("switch on the kernel's statistics")?;
    let before = run_time()?;
    for _ in 0..TURNS {
        connects(culvert)?;
    }
    let programs = run_time()?.saturating_sub(before);
    drop(stats);
    let mut samples = Vec::new();
    for _ in 0..TURNS {
        for plane in planes {
            let mut all = connects(plane)?;
            all.sort_by(f64::total_cmp);
            let at = |share: usize| all.get(all.len() * share / 100).copied().unwrap_or(0.0);
            samples.push(Sample::new(OUTSIDE, plane, vec![(P50, at(50)), (P99, at(99))]));
        }
    }
    let each = programs.as_nanos() as f64 / (TURNS * CONNECTIONS) as f64;
    let account = format!(
        "In the life of a connection to a destination outside the mesh the programs run for \
         {each:.0} ns in all, at both of its ends (the kernel's account, {} connections).",
        TURNS * CONNECTIONS
    );
    Ok((samples, account))
}

/// Microseconds of each connect() from the pod to a process of its own node.
fn connects(plane: &Plane) -> Result<Vec<f64>> {
    let node = plane.lab.nodes.first().context("no node")?;
    let to = SocketAddr::new(node.address(), 7000);
    let listener = node.host.listen(to)?;
    let connect = |inside: &Factory| -> Result<f64> {
        let socket = inside.tcp(to)?;
        socket.set_linger(Some(Duration::ZERO))?;
        let start = Instant::now();
        socket.connect(&to.into())?;
        let took = start.elapsed();
        let (accepted, _): (TcpStream, _) = listener.accept()?;
        SockRef::from(&accepted).set_linger(Some(Duration::ZERO))?;
        Ok(took.as_nanos() as f64 / 1e3)
    };
    (0..CONNECTIONS).map(|_| connect(&plane.client.inside)).collect()
}

/// Time that all of the mesh's programs have run.
fn run_time() -> Result<Duration> {
    const OURS: [&str; 6] =
        ["connect4", "connect6", "getpeername4", "getpeername6", "connections", "steer"];
    let mut sum = Duration::ZERO;
    for program in loaded_programs() {
        let program = program.context("list the kernel's programs")?;
        if program.name_as_str().is_some_and(|name| OURS.contains(&name)) {
            sum += program.run_time();
        }
    }
    Ok(sum)
}
