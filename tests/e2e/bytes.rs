//! What goes in comes out: much of it, many at a time, half-closed, reset, spoken by the server first.
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use e2e::{Factory, Lab, until};

use crate::mesh::{Mesh, ask, echo, ends_alone, is_cut, joined, pod, resets, say, stalls};

const GIB: usize = 1 << 30;
/// Prime, so that a lost or doubled buffer of any round size shows.
const PERIOD: usize = 1_048_573;

/// Bytes that look like nothing else, the same on both sides.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..PERIOD).map(|_| next()).collect()
}

fn send(mut stream: &TcpStream, pattern: &[u8]) -> Result<()> {
    let mut left = GIB;
    while left > 0 {
        let part = &pattern[..left.min(PERIOD)];
        stream.write_all(part)?;
        left -= part.len();
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

/// Compares every byte.
fn receive(mut stream: &TcpStream, pattern: &[u8]) -> Result<()> {
    let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
    loop {
        let wanted = buffer.len().min(PERIOD - total % PERIOD);
        let read = stream.read(&mut buffer[..wanted])?;
        if read == 0 {
            ensure!(total == GIB, "{total} bytes came");
            return Ok(());
        }
        let at = total % PERIOD;
        ensure!(buffer[..read] == pattern[at..at + read], "other bytes near {total}");
        total += read;
    }
}

#[test]
fn a_gibibyte_each_way_at_once_arrives_unchanged() -> Result<()> {
    let mesh = Mesh::new()?;
    let (near, far) = mesh.connection(80)?;
    let pattern = pattern();
    thread::scope(|scope| {
        let jobs = [
            scope.spawn(|| send(&near, &pattern)),
            scope.spawn(|| send(&far, &pattern)),
            scope.spawn(|| receive(&near, &pattern)),
            scope.spawn(|| receive(&far, &pattern)),
        ];
        jobs.into_iter().try_for_each(|job| job.join().expect("no panic"))
    })?;
    drop((near, far));
    let record = mesh.a1.record("it was recorded", |r| r.direction == "outbound");
    assert_eq!((record.bytes_sent, record.bytes_recv), (GIB as u64, GIB as u64));
    assert_eq!(record.reason, "ok");
    Ok(())
}

#[test]
fn five_hundred_connections_at_a_time_none_lost() -> Result<()> {
    let mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    let client: &Factory = &mesh.client.inside;
    let (open, gate) = (AtomicUsize::new(0), std::sync::Barrier::new(500));
    let one = &|number: u64| {
        let mut stream = client.connect(to)?;
        ask(&mut stream, number)?;
        open.fetch_add(1, Ordering::Relaxed);
        // Nobody closes before all are open.
        gate.wait();
        ask(&mut stream, number + 1)
    };
    thread::scope(|scope| {
        let small = || thread::Builder::new().stack_size(256 << 10);
        let start = |number| small().spawn_scoped(scope, move || one(number));
        let jobs = (0..500).map(start).collect::<Result<Vec<_>, _>>()?;
        jobs.into_iter().try_for_each(|job| job.join().expect("no panic"))
    })?;
    assert_eq!(open.load(Ordering::Relaxed), 500);
    until("each has its record on both sides", || {
        mesh.a1.records().len() == 500 && mesh.a2.records().len() == 500
    });
    assert!(mesh.a1.records().iter().chain(&mesh.a2.records()).all(|r| r.reason == "ok"));
    Ok(())
}

#[test]
fn five_thousand_connections_one_after_the_other_none_lost() -> Result<()> {
    let mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    for number in 0..5_000 {
        ask(&mut mesh.client.inside.connect(to)?, number)?;
    }
    until("each has its record", || mesh.a1.records().len() == 5_000);
    assert!(mesh.a1.records().iter().all(|r| r.reason == "ok"));
    Ok(())
}

#[test]
fn each_direction_ends_by_itself() -> Result<()> {
    let mesh = Mesh::new()?;
    let listener = mesh.server.inside.listen(mesh.server.at(80))?;
    for client_first in [true, false] {
        let (near, far, _) = joined(&listener, &mesh.client.inside, mesh.server.at(80))?;
        ends_alone(if client_first { (near, far) } else { (far, near) })?;
    }
    let ended = || mesh.a2.records().iter().filter(|r| r.reason == "ok").count();
    until("both ended well", || ended() == 2);
    Ok(())
}

#[test]
fn a_reset_is_passed_on_as_a_reset() -> Result<()> {
    let mesh = Mesh::new()?;
    let listener = mesh.server.inside.listen(mesh.server.at(80))?;
    for (client_resets, reason) in [(true, "reset_by_client"), (false, "reset_by_server")] {
        let (near, far, _) = joined(&listener, &mesh.client.inside, mesh.server.at(80))?;
        resets(if client_resets { (near, far) } else { (far, near) })?;
        mesh.a1.record(reason, |r| r.reason == reason);
        mesh.a2.record(reason, |r| r.reason == reason);
    }
    Ok(())
}

#[test]
fn the_server_may_speak_first() -> Result<()> {
    let mesh = Mesh::new()?;
    let (mut near, mut far) = mesh.connection(25)?;
    say(&mut far, &mut near, b"220 ready")?;
    say(&mut near, &mut far, b"HELO")?;
    Ok(())
}

#[test]
fn a_port_on_which_nobody_listens_is_a_reset_and_recorded_as_refused() -> Result<()> {
    let mesh = Mesh::new()?;
    is_cut(&mesh.client.inside, mesh.server.at(81), b"hello")?;
    mesh.a2.record("the server's side", |r| r.reason == "connect_refused");
    mesh.a1.record("the client's side", |r| r.reason == "rejected");
    Ok(())
}

#[test]
fn a_slow_reader_stops_its_own_connection_and_no_other() -> Result<()> {
    let mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    let (mut stalled, _unread) = mesh.connection(81)?;
    stalls(&mut stalled)?;
    echo(mesh.server.inside.listen(to)?);
    let client: Arc<Factory> = mesh.client.inside.clone();
    for number in 0..50 {
        ask(&mut client.connect(to)?, number)?;
    }
    Ok(())
}

#[test]
fn a_pod_opens_more_connections_than_it_has_ports() -> Result<()> {
    const WORKERS: u64 = 8;
    const EACH: u64 = 5_000;
    let mesh = Mesh::new()?;
    let ports = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let ends: Vec<u64> = ports.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    assert!(ends[1] - ends[0] < WORKERS * EACH, "the range {ports} does not run out");
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    let client: &Factory = &mesh.client.inside;
    // The client closes first, and so it is the client's ports that wait.
    let worker = |worker: u64| {
        let mut numbers = worker * EACH..(worker + 1) * EACH;
        numbers.try_for_each(|number| ask(&mut client.connect(to)?, number))
    };
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..WORKERS).map(|n| scope.spawn(move || worker(n))).collect();
        jobs.into_iter().try_for_each(|job| job.join().expect("no panic"))
    })
}

#[test]
fn connections_beyond_the_limit_are_reset_and_recorded() -> Result<()> {
    for limited in [1, 2] {
        let lab = Lab::new(2)?;
        lab.namespace("shop", true)?;
        let (client, server) = (pod(&lab, 1, "client")?, pod(&lab, 2, "server")?);
        // A connection that carries tunnels takes a place, and so does each tunnel in it.
        let limit = format!("[limits]\nmax_connections = {}", 1 + limited);
        let agents = [
            lab.agent_with(1, if limited == 1 { &limit } else { "" })?,
            lab.agent_with(2, if limited == 2 { &limit } else { "" })?,
        ];
        let to = server.at(80);
        echo(server.inside.listen(to)?);
        let mut open = [client.inside.connect(to)?, client.inside.connect(to)?];
        for stream in &mut open {
            ask(stream, 1)?;
        }
        is_cut(&client.inside, to, b"hello")?;
        let agent = &agents[limited - 1];
        let record = agent.record("it was recorded", |r| r.reason == "limit_exceeded");
        assert!(record.error.is_some_and(|error| error.contains("limits.max_connections")));
        drop(open);
        until("there is room again", || {
            let again = client.inside.connect(to).map(|mut stream| ask(&mut stream, 2));
            matches!(again, Ok(Ok(())))
        });
    }
    Ok(())
}
