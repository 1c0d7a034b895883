//! Capture by the kernel, encryption on the wire, addresses as applications see them.
use std::io::{Read, Write};

use anyhow::Result;
use e2e::{
    Lab,
    lab::PodSpec,
    wire::{contains, server_ports},
};

#[test]
fn traffic_between_nodes_is_captured_and_encrypted() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let spec = |name| PodSpec { name, namespace: "shop", account: name, labels: &[] };
    let client = lab.pod(1, &spec("client"))?;
    let server = lab.pod(2, &spec("server"))?;
    let (a1, a2) = (lab.agent(1)?, lab.agent(2)?);
    let listener = server.inside.listen(server.at(80))?;
    let wire = lab.capture()?;
    let mut stream = client.inside.connect(server.at(80))?;
    stream.write_all(b"a secret that nobody may read")?;
    let (mut accepted, _peer) = listener.accept()?;
    let mut heard = [0; 29];
    accepted.read_exact(&mut heard)?;
    assert_eq!(&heard, b"a secret that nobody may read");
    drop((stream, accepted));
    let record = a1.record("the client's agent recorded", |r| r.direction == "outbound");
    println!("{record:?}");
    let record = a2.record("the server's agent recorded", |r| r.direction == "inbound");
    println!("{record:?}");
    let frames = wire.finish();
    assert!(!contains(&frames, b"secret"));
    assert_eq!(server_ports(&frames).into_iter().collect::<Vec<_>>(), [15008]);
    Ok(())
}
