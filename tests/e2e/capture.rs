//! Capture by the kernel, encryption on the wire, addresses as applications see them.
use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::Result;
use e2e::{
    Factory, Lab, until,
    wire::{contains, segment, server_ports},
};
use socket2::Socket;

use crate::mesh::{Mesh, is_cut, joined, pod, say};

const SECRET: &[u8] = b"a secret that nobody may read";

#[test]
fn traffic_between_nodes_is_captured_and_encrypted() -> Result<()> {
    let mesh = Mesh::new()?;
    let wire = mesh.lab.capture()?;
    let (mut near, mut far) = mesh.connection(80)?;
    say(&mut near, &mut far, SECRET)?;
    say(&mut far, &mut near, SECRET)?;
    let client = near.local_addr()?;
    drop((near, far));
    let out = mesh.a1.record("the client's agent recorded", |r| r.direction == "outbound");
    let into = mesh.a2.record("the server's agent recorded", |r| r.direction == "inbound");
    for record in [&out, &into] {
        assert_eq!(record.source_identity.as_ref(), Some(&mesh.client.identity()));
        assert_eq!(record.destination_identity.as_ref(), Some(&mesh.server.identity()));
        assert_eq!((record.source, record.protocol.as_str()), (client, "hbone"));
        assert_eq!((record.bytes_sent, record.bytes_recv), (29, 29));
        assert_eq!(record.reason, "ok");
    }
    let frames = wire.finish();
    assert!(!contains(&frames, b"secret"));
    assert_eq!(server_ports(&frames), BTreeSet::from([15008]));
    assert!(is_tls(&frames), "a connection on 15008 does not begin with a TLS handshake");
    Ok(())
}

/// The first bytes of each connection are a TLS handshake record (RFC 8446 §5.1).
fn is_tls(frames: &[Vec<u8>]) -> bool {
    let mut begun = BTreeSet::new();
    let segments = frames.iter().filter_map(|frame| segment(frame));
    let mut firsts = segments
        .filter(|segment| segment.to == 15008 && !segment.payload.is_empty())
        .filter(|segment| begun.insert(segment.from))
        .peekable();
    firsts.peek().is_some() && firsts.all(|segment| segment.payload.starts_with(&[22, 3]))
}

#[test]
fn the_application_sees_its_client_and_the_client_what_it_dialled() -> Result<()> {
    let mesh = Mesh::new()?;
    for to in [mesh.server.at(80), mesh.server.at6(80)] {
        let listener = mesh.server.inside.listen(to)?;
        let (near, far, peer) = joined(&listener, &mesh.client.inside, to)?;
        let own = if to.is_ipv4() { mesh.client.at(0) } else { mesh.client.at6(0) };
        assert_eq!(near.peer_addr()?, to);
        assert_eq!(near.local_addr()?.ip(), own.ip());
        assert_eq!(peer, near.local_addr()?, "accept() told another client");
        assert_eq!(far.peer_addr()?, near.local_addr()?, "getpeername() told another client");
        assert_eq!(far.local_addr()?, to);
    }
    Ok(())
}

#[test]
fn each_way_to_connect_is_captured() -> Result<()> {
    let mesh = Mesh::new()?;
    let wire = mesh.lab.capture()?;
    let dual = mesh.server.inside.listen("[::]:80".parse()?)?;
    let mapped = SocketAddr::new(mesh.server.v4.to_ipv6_mapped().into(), 80);
    for to in [mesh.server.at(80), mesh.server.at6(80), mapped] {
        let (mut near, mut far, peer) = joined(&dual, &mesh.client.inside, to)?;
        assert_eq!(near.peer_addr()?, to);
        assert_eq!(peer.ip().to_canonical(), near.local_addr()?.ip().to_canonical());
        assert_eq!(peer.port(), near.local_addr()?.port());
        say(&mut near, &mut far, SECRET)?;
        let socket = nonblocking(&mesh.client.inside, to)?;
        let (_far, _) = dual.accept()?;
        assert_eq!(socket.peer_addr()?.as_socket(), Some(to));
    }
    until("six connections were redirected", || {
        mesh.a1.kernel("connect_redirected").is_ok_and(|count| count == 6)
    });
    let frames = wire.finish();
    assert!(!contains(&frames, SECRET));
    assert_eq!(server_ports(&frames), BTreeSet::from([15008]));
    Ok(())
}

/// Connects without waiting, then waits for the socket to become writable.
fn nonblocking(inside: &Factory, to: SocketAddr) -> Result<Socket> {
    let socket = inside.tcp(to)?;
    socket.set_nonblocking(true)?;
    let begun = socket.connect(&to.into()).map_err(|error| error.raw_os_error());
    assert_eq!(begun, Err(Some(nix::libc::EINPROGRESS)));
    until("the socket is connected", || socket.peer_addr().is_ok());
    assert!(socket.take_error()?.is_none());
    Ok(socket)
}

#[test]
fn a_destination_outside_the_mesh_never_touches_the_agent() -> Result<()> {
    let mesh = Mesh::new()?;
    let wire = mesh.lab.capture()?;
    let outside: SocketAddr = "172.31.0.2:9000".parse()?;
    let listener = mesh.lab.nodes[1].host.listen(outside)?;
    let (mut near, mut far, peer) = joined(&listener, &mesh.client.inside, outside)?;
    say(&mut near, &mut far, SECRET)?;
    assert_eq!(peer, near.local_addr()?);
    assert_eq!(near.local_addr()?.ip(), mesh.client.at(0).ip());
    assert_eq!(mesh.a1.kernel("connect_redirected")?, 0);
    assert_eq!(mesh.a1.kernel("connect_not_mesh")?, 1);
    until("the wire showed it", || contains(&wire.take(), SECRET));
    drop((near, far));
    assert!(mesh.a1.records().is_empty());
    Ok(())
}

#[test]
fn capture_all_takes_every_destination_to_the_agent() -> Result<()> {
    let mesh = Mesh::with("capture.mode = \"all\"")?;
    let outside: SocketAddr = "172.31.0.2:9000".parse()?;
    let listener = mesh.lab.nodes[1].host.listen(outside)?;
    let (mut near, mut far, _) = joined(&listener, &mesh.client.inside, outside)?;
    say(&mut near, &mut far, SECRET)?;
    assert_eq!(near.peer_addr()?, outside);
    drop((near, far));
    let record = mesh.a1.record("it was recorded", |r| r.destination == outside);
    assert_eq!((record.protocol.as_str(), record.bytes_sent), ("tcp", 29));
    Ok(())
}

#[test]
fn what_stays_within_the_pod_is_never_touched() -> Result<()> {
    let mesh = Mesh::with("capture.mode = \"all\"")?;
    for own in
        ["127.0.0.1:80".parse()?, "[::1]:80".parse()?, mesh.client.at(81), mesh.client.at6(81)]
    {
        let listener = mesh.client.inside.listen(own)?;
        let (mut near, mut far, peer) = joined(&listener, &mesh.client.inside, own)?;
        say(&mut near, &mut far, SECRET)?;
        assert_eq!(peer, near.local_addr()?);
    }
    assert_eq!(mesh.a1.kernel("connect_redirected")?, 0);
    assert!(mesh.a1.records().is_empty());
    Ok(())
}

#[test]
fn a_service_address_is_spread_over_its_endpoints() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    let client = pod(&lab, 1, "client")?;
    let labels = [("app", "server")];
    let spec =
        |name| e2e::lab::PodSpec { name, namespace: "shop", account: "server", labels: &labels };
    let servers = [lab.pod(1, &spec("one"))?, lab.pod(2, &spec("two"))?];
    let (a1, _a2) = (lab.agent(1)?, lab.agent(2)?);
    let listeners = [
        servers[0].inside.listen(servers[0].at(8080))?,
        servers[1].inside.listen(servers[1].at(8080))?,
    ];
    let vip: SocketAddr = "10.96.0.10:80".parse()?;
    let mut counts = [0; 2];
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    for _ in 0..60 {
        let near = client.inside.connect(vip)?;
        assert_eq!(near.peer_addr()?, vip);
        until("one of them accepts", || {
            let taken = listeners.iter().position(|listener| listener.accept().is_ok());
            taken.inspect(|index| counts[*index] += 1).is_some()
        });
    }
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
    a1.record("the service is named", |r| {
        r.service.as_deref() == Some("server.shop.svc.cluster.local")
    });
    is_cut(&client.inside, "10.96.0.10:81".parse()?, b"hello")?;
    let record = a1.record("a port that the service lacks", |r| r.reason == "no_route");
    assert!(record.error.is_some_and(|error| error.contains("81")));
    Ok(())
}

#[test]
fn a_socket_that_is_bound_already_keeps_its_port_and_its_address() -> Result<()> {
    let mesh = Mesh::new()?;
    let listener = mesh.server.inside.listen(mesh.server.at(80))?;
    for (own, seen) in [
        ("0.0.0.0:4321".parse::<SocketAddr>()?, mesh.client.at(4321)),
        (mesh.client.at(4322), mesh.client.at(4322)),
    ] {
        let socket = mesh.client.inside.tcp(own)?;
        socket.bind(&own.into())?;
        socket.connect(&mesh.server.at(80).into())?;
        let (_far, peer) = listener.accept()?;
        assert_eq!(socket.local_addr()?.as_socket(), Some(seen));
        assert_eq!(socket.peer_addr()?.as_socket(), Some(mesh.server.at(80)));
        assert_eq!(peer, seen);
    }
    Ok(())
}
