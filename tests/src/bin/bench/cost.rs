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

use crate::plane::Plane;

/// Connections per turn.
const CONNECTIONS: usize = 2_000;
const TURNS: usize = 8;

pub(crate) fn of_other_connections(planes: &[Plane]) -> Result<String> {
    let (Some(plain), Some(culvert)) = (planes.first(), planes.last()) else {
        return Ok(String::new());
    };
    let stats = enable_stats(Stats::RunTime).context("switch on the kernel's statistics")?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let before = run_time()?;
    for _ in 0..TURNS {
        with.extend(connects(culvert)?);
    }
    let programs = run_time()?.saturating_sub(before);
    drop(stats);
    with.clear();
    for _ in 0..TURNS {
        without.extend(connects(plain)?);
        with.extend(connects(culvert)?);
    }
    let count = u32::try_from(TURNS * CONNECTIONS)?;
    Ok(format!(
        "\nA connection to a destination outside the mesh: the programs run for {:.0} ns in all \
         (the kernel's account, {count} connections); connect() takes {:.2} µs without and {:.2} µs \
         with Culvert (medians of {count}, taking turns).",
        programs.as_nanos() as f64 / f64::from(count),
        median(&mut without),
        median(&mut with),
    ))
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

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
