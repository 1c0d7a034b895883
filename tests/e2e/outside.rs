//! Neighbours that are not of the mesh: unmeshed pods, processes of the node.
use std::net::SocketAddr;

use anyhow::Result;
use e2e::{Factory, Lab, until, wire::contains};

use crate::mesh::{joined, pod, say, unmeshed};

const SECRET: &[u8] = b"said in the clear";

#[test]
fn an_unmeshed_client_reaches_a_meshed_server_and_is_recorded_as_plaintext() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let (client, server) = (unmeshed(&lab, 1, "client")?, pod(&lab, 2, "server")?);
    let (a1, a2) = (lab.agent(1)?, lab.agent(2)?);
    for to in [server.at(80), server.at6(80)] {
        let listener = server.inside.listen(to)?;
        let (mut near, mut far, peer) = joined(&listener, &client.inside, to)?;
        say(&mut near, &mut far, SECRET)?;
        assert_eq!(peer, near.local_addr()?);
        assert_eq!(far.peer_addr()?, near.local_addr()?);
        drop((near, far));
        let record = a2.record("it was recorded", |r| r.source == peer);
        assert_eq!((record.protocol.as_str(), record.direction.as_str()), ("tcp", "inbound"));
        assert_eq!((record.source_identity, record.destination), (None, to));
        assert_eq!(record.source_workload.as_deref(), Some("client"));
    }
    assert!(a1.records().is_empty(), "an agent that serves nobody recorded something");
    Ok(())
}

#[test]
fn a_meshed_client_reaches_an_unmeshed_server() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let (client, server) = (pod(&lab, 1, "client")?, unmeshed(&lab, 2, "server")?);
    let (a1, _a2) = (lab.agent(1)?, lab.agent(2)?);
    let wire = lab.capture()?;
    let listener = server.inside.listen(server.at(80))?;
    let (mut near, mut far, peer) = joined(&listener, &client.inside, server.at(80))?;
    say(&mut near, &mut far, SECRET)?;
    assert_eq!(near.peer_addr()?, server.at(80));
    assert_eq!(peer.ip(), client.at(0).ip());
    drop((near, far));
    let record = a1.record("it was recorded", |r| r.direction == "outbound");
    assert_eq!((record.protocol.as_str(), record.destination_identity), ("tcp", None));
    until("the wire showed it", || contains(&wire.take(), SECRET));
    Ok(())
}

/// From a port of its choice, which is free again at once.
fn from_port(maker: &Factory, port: u16, to: SocketAddr) -> Result<std::net::TcpStream> {
    let socket = maker.tcp(to)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
    socket.set_linger(Some(std::time::Duration::ZERO))?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

#[test]
fn a_node_process_goes_straight_to_the_pod_and_nobody_inherits_that() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let server = pod(&lab, 2, "server")?;
    let a2 = lab.agent(2)?;
    let node = &lab.nodes[1];
    let to = server.at(80);
    let listener = server.inside.listen(to)?;
    let direct = from_port(&node.host, 41_000, to)?;
    let (_far, peer) = listener.accept()?;
    assert_eq!(peer, (node.address(), 41_000).into());
    assert_eq!(a2.kernel("lookup_probe")?, 1);
    drop(direct);
    // The same addresses and ports, from a process that is not the node's.
    let other = from_port(&node.outsider, 41_000, to)?;
    let (_far, peer) = listener.accept()?;
    assert_eq!(peer, (node.address(), 41_000).into());
    drop(other);
    a2.record("the outsider came through the agent", |r| r.direction == "inbound");
    assert_eq!((a2.kernel("lookup_probe")?, a2.records().len()), (1, 1));
    Ok(())
}

#[test]
fn an_exemption_that_is_in_use_serves_no_other_address() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let (server, stranger) = (pod(&lab, 2, "server")?, unmeshed(&lab, 2, "stranger")?);
    let a2 = lab.agent(2)?;
    let to = server.at(80);
    let listener = server.inside.listen(to)?;
    let _direct = from_port(&lab.nodes[1].host, 41_000, to)?;
    let (_probed, _) = listener.accept()?;
    let plain = from_port(&stranger.inside, 41_000, to)?;
    let (_far, peer) = listener.accept()?;
    assert_eq!(peer, (stranger.at(0).ip(), 41_000).into());
    drop(plain);
    a2.record("the stranger came through the agent", |r| r.source == peer);
    Ok(())
}
