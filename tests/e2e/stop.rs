//! Agents that are asked to stop.
use std::{io::Read, time::Instant};

use anyhow::Result;
use e2e::until;

use crate::mesh::{Mesh, say};

#[test]
fn on_sigterm_open_streams_finish_and_new_ones_are_refused() -> Result<()> {
    let mut mesh = Mesh::with("[shutdown]\ngrace = \"20s\"")?;
    let (mut near, mut far) = mesh.connection(80)?;
    say(&mut near, &mut far, b"hello")?;
    mesh.a1.terminate()?;
    until("new connections are refused", || {
        mesh.client.inside.connect(mesh.server.at(80)).is_err()
    });
    say(&mut near, &mut far, b"still here")?;
    say(&mut far, &mut near, b"so am I")?;
    drop((near, far));
    mesh.a1.wait()?;
    assert!(mesh.a1.records().iter().any(|r| r.reason == "ok" && r.bytes_sent == 15));
    Ok(())
}

#[test]
fn after_the_grace_period_what_is_left_is_reset_and_recorded() -> Result<()> {
    let mut mesh = Mesh::with("[shutdown]\ngrace = \"300ms\"")?;
    let (mut near, mut far) = mesh.connection(80)?;
    say(&mut near, &mut far, b"hello")?;
    let start = Instant::now();
    mesh.a1.terminate()?;
    mesh.a1.wait()?;
    assert!(start.elapsed().as_millis() >= 300, "no grace was given");
    assert!(near.read(&mut [0; 8]).is_err(), "a cut stream looks whole to the client");
    assert!(far.read(&mut [0; 8]).is_err(), "a cut stream looks whole to the server");
    mesh.a1.record("the client's agent recorded it", |r| r.reason == "drained");
    mesh.a2.record("the server's agent recorded it", |r| r.reason == "reset_by_client");
    Ok(())
}
