//! Two pods of one node: from the second connection on without the agent, under the same rules.
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Result;
use e2e::{Agent, Lab, Pod, until};
use socket2::SockRef;

use crate::{
    explain::{culvert, explained},
    mesh::{ask, echo, ends_alone, joined, pod, resets, say, stalls},
};

const HEADER: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n";

/// An agent of one node, and pods there.
pub(crate) struct OneNode {
    pub(crate) agent: Agent,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) lab: Lab,
}

impl OneNode {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new(1)?;
        lab.namespace("shop", true)?;
        let (client, server) = (pod(&lab, 1, "client")?, pod(&lab, 1, "server")?);
        let agent = lab.agent(1)?;
        Ok(Self { agent, client, server, lab })
    }

    /// Connections of enrolled pods that were taken to the agent, and those that were not.
    pub(crate) fn ways(&self) -> Result<(u64, u64)> {
        Ok((self.agent.kernel("connect_redirected")?, self.agent.kernel("connect_direct")?))
    }

    /// Lets the agent see the pair once, with an echo at `to`.
    pub(crate) fn introduce(&self, client: &Pod, to: SocketAddr) -> Result<()> {
        ask(&mut client.inside.connect(to)?, 1)
    }

    /// A connection that the agent does not see.
    #[track_caller]
    pub(crate) fn directly(&self, client: &Pod, to: SocketAddr) -> Result<TcpStream> {
        let before = self.ways()?;
        let stream = client.inside.connect(to)?;
        assert_eq!(self.ways()?, (before.0, before.1 + 1), "by the agent");
        Ok(stream)
    }

    /// A connection that the agent joins.
    #[track_caller]
    pub(crate) fn by_agent(&self, client: &Pod, to: SocketAddr) -> Result<TcpStream> {
        let before = self.ways()?;
        let stream = client.inside.connect(to)?;
        assert_eq!(self.ways()?, (before.0 + 1, before.1), "past the agent");
        Ok(stream)
    }

    /// Waits for both records of a connection from this address.
    #[track_caller]
    pub(crate) fn both(&self, source: SocketAddr, reasons: [&str; 2]) -> [e2e::agent::Record; 2] {
        let pairs = [("outbound", reasons[0]), ("inbound", reasons[1])];
        pairs.map(|(direction, reason)| {
            let record =
                self.agent.record(direction, |r| r.direction == direction && r.source == source);
            assert_eq!((record.reason.as_str(), record.protocol.as_str()), (reason, "direct"));
            record
        })
    }

    pub(crate) fn deny(&self, client: &str) -> Result<()> {
        let rule =
            format!("{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/{client}]}}}}]}}");
        self.lab.apply("policy.yaml", &format!("{HEADER}spec: {{action: DENY, rules: [{rule}]}}\n"))
    }
}

/// The first connection of a pair: once a byte has passed, the agent has left its verdict.
pub(crate) fn meet(listener: &TcpListener, client: &Pod, to: SocketAddr) -> Result<()> {
    let (mut near, mut far, _) = joined(listener, &client.inside, to)?;
    say(&mut near, &mut far, b"hello")
}

#[test]
fn the_second_connection_of_a_pair_goes_past_the_agent_and_is_recorded_all_the_same() -> Result<()>
{
    let node = OneNode::new()?;
    node.lab.service("shop", "server", "10.96.0.7", (8000, 80))?;
    until("the service is captured", || {
        node.client.inside.connect(([10, 96, 0, 7], 1).into()).is_ok()
    });
    for (number, (to, real)) in [
        (node.server.at(80), node.server.at(80)),
        (node.server.at6(80), node.server.at6(80)),
        ("10.96.0.7:8000".parse()?, node.server.at(80)),
    ]
    .into_iter()
    .enumerate()
    {
        let listener = node.server.inside.listen(real)?;
        meet(&listener, &node.client, to)?;
        let mut near = node.directly(&node.client, to)?;
        let (mut far, peer) = listener.accept()?;
        assert_eq!((near.peer_addr()?, far.peer_addr()?), (to, peer));
        assert_eq!((near.local_addr()?, far.local_addr()?), (peer, real));
        let own = if to.is_ipv4() { node.client.at(0) } else { node.client.at6(0) };
        assert_eq!(peer.ip(), own.ip());
        say(&mut near, &mut far, b"hello")?;
        say(&mut far, &mut near, b"good day")?;
        let listed = || culvert(&node.lab, 1, &["connections", "-o", "json"]);
        until("it is listed", || {
            let text = String::from_utf8(listed().expect("run culvert").stdout).unwrap_or_default();
            text.contains(&peer.to_string())
        });
        drop((near, far));
        for record in node.both(peer, ["ok", "ok"]) {
            assert_eq!(record.source_identity, Some(node.client.identity()));
            assert_eq!(record.destination_identity, Some(node.server.identity()));
            assert_eq!(record.destination, real);
            assert_eq!(record.service.is_some(), number == 2);
            let (up, down) = (record.bytes_sent, record.bytes_recv);
            assert_eq!((up, down), if record.direction == "outbound" { (5, 8) } else { (8, 5) });
            assert_eq!(record.policy.is_some(), record.direction == "inbound");
        }
    }
    let said = explained(&node.lab, "shop/client", "10.96.0.7:8000")?;
    assert!(
        said["path"].as_str().is_some_and(|path| path.starts_with("direct, same node")),
        "{said:#}"
    );
    Ok(())
}

#[test]
fn bytes_ends_resets_and_pressure_pass_as_they_are() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    let listener = node.server.inside.listen(to)?;
    meet(&listener, &node.client, to)?;
    let connection = || -> Result<(TcpStream, TcpStream)> {
        let near = node.directly(&node.client, to)?;
        Ok((near, listener.accept()?.0))
    };
    let bytes: Vec<u8> =
        (0..32_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut near, far) = connection()?;
    let (source, expected) = (near.local_addr()?, bytes.clone());
    let reader = std::thread::spawn(move || {
        let (mut far, mut heard) = (far, Vec::new());
        far.read_to_end(&mut heard).map(|_| heard == expected)
    });
    near.write_all(&bytes)?;
    drop(near);
    assert!(reader.join().expect("no panic")?, "other bytes arrived");
    let [out, _] = node.both(source, ["ok", "ok"]);
    assert_eq!((out.bytes_sent, out.bytes_recv), (bytes.len() as u64, 0));
    for client_first in [true, false] {
        let (near, far) = connection()?;
        let source = near.local_addr()?;
        ends_alone(if client_first { (near, far) } else { (far, near) })?;
        let [out, _] = node.both(source, ["ok", "ok"]);
        let (first, second) = (16, 22);
        let expected = if client_first { (first, second) } else { (second, first) };
        assert_eq!((out.bytes_sent, out.bytes_recv), expected);
    }
    for (client_resets, reason) in [(true, "reset_by_client"), (false, "reset_by_server")] {
        let (near, far) = connection()?;
        let source = near.local_addr()?;
        resets(if client_resets { (near, far) } else { (far, near) })?;
        node.both(source, [reason, reason]);
    }
    let (mut stalled, _unread) = connection()?;
    stalls(&mut stalled)
}

#[test]
fn a_socket_that_is_bound_or_used_again_goes_the_same_way() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    node.introduce(&node.client, to)?;
    let mut ports = Vec::new();
    for port in [0, 40_000, 40_000, 40_000] {
        let socket = node.client.inside.tcp(to)?;
        socket.set_reuse_address(true)?;
        socket.bind(&node.client.at(port).into())?;
        let before = node.ways()?;
        socket.connect(&to.into())?;
        assert_eq!(node.ways()?, (before.0, before.1 + 1));
        let mut stream = TcpStream::from(socket);
        ask(&mut stream, u64::from(port))?;
        ports.push(stream.local_addr()?);
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    for source in &ports {
        node.both(*source, ["reset_by_client", "reset_by_client"]);
    }
    until("each has its records", || {
        node.agent.records().iter().filter(|r| r.source.port() == 40_000).count() == 6
    });
    // A wildcard is no address of the pod: the agent is asked.
    let socket = node.client.inside.tcp(to)?;
    socket.bind(&"0.0.0.0:40001".parse::<SocketAddr>()?.into())?;
    let before = node.ways()?;
    socket.connect(&to.into())?;
    assert_eq!(node.ways()?, (before.0 + 1, before.1));
    ask(&mut socket.into(), 9)
}

#[test]
fn a_service_with_two_endpoints_is_balanced_by_the_agent() -> Result<()> {
    let node = OneNode::new()?;
    let labels = [("app", "server")];
    let spec =
        e2e::lab::PodSpec { name: "second", namespace: "shop", account: "second", labels: &labels };
    let second = node.lab.pod(1, &spec)?;
    node.lab.service("shop", "server", "10.96.0.7", (80, 80))?;
    until("all are enrolled", || node.agent.enrolled().is_ok_and(|pods| pods == 3));
    for server in [&node.server, &second] {
        echo(server.inside.listen(server.at(80))?);
    }
    let vip: SocketAddr = "10.96.0.7:80".parse()?;
    let ask_once = || node.introduce(&node.client, vip);
    until("the service is known", || ask_once().is_ok());
    for _ in 0..20 {
        ask(&mut node.by_agent(&node.client, vip)?, 1)?;
    }
    until("both were chosen", || {
        ask_once().expect("an answer");
        ["server", "second"].iter().all(|name| {
            let records = node.agent.records();
            records.iter().any(|r| r.destination_workload.as_deref() == Some(*name))
        })
    });
    // One is gone: the other one is meant.
    node.lab.declare(&second, &[("app", "other")])?;
    until("one is left", || {
        ask_once().expect("an answer");
        let before = node.ways().expect("counters").1;
        ask_once().expect("an answer");
        node.ways().expect("counters").1 > before
    });
    node.lab.declare(&second, &labels)?;
    until("there are two again", || {
        let before = node.ways().expect("counters").1;
        ask_once().expect("an answer");
        node.ways().expect("counters").1 == before
    });
    Ok(())
}

#[test]
fn where_nobody_listens_the_client_is_refused_and_both_records_say_so() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    let listener = node.server.inside.listen(to)?;
    meet(&listener, &node.client, to)?;
    drop(listener);
    let refused = node.client.inside.connect(to).expect_err("nobody listens");
    let refused = refused.downcast::<std::io::Error>()?;
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    for (direction, reason) in [("outbound", "rejected"), ("inbound", "connect_refused")] {
        node.agent.record(direction, |r| r.direction == direction && r.reason == reason);
    }
    // The next one is for the agent, which resets it, perhaps before `connect()` has returned.
    let before = node.ways()?;
    drop(node.client.inside.connect(to));
    assert_eq!(node.ways()?, (before.0 + 1, before.1));
    Ok(())
}

#[test]
fn a_stopping_agent_waits_for_direct_connections_and_then_ends_them() -> Result<()> {
    let mut node = OneNode::new()?;
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    node.introduce(&node.client, to)?;
    let mut open = node.directly(&node.client, to)?;
    ask(&mut open, 1)?;
    node.agent.terminate()?;
    until("new ones are refused", || node.client.inside.connect(to).is_err());
    ask(&mut open, 2)?;
    let source = open.local_addr()?;
    drop(open);
    node.agent.wait()?;
    node.both(source, ["ok", "ok"]);
    Ok(())
}
