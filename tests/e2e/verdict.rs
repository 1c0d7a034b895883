//! What the kernel remembers of a verdict of the agent: nobody else's, and not a moment too long.
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use e2e::{Factory, Pod, hoard::Hoard, system::ip, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::{Domain, Protocol, SockRef};

use crate::{
    direct::{OneNode, meet},
    mesh::{ask, echo, is_cut, pod, say},
};

#[test]
fn a_verdict_is_one_pods_own_and_for_one_destination() -> Result<()> {
    let node = OneNode::new()?;
    let other = pod(&node.lab, 1, "other")?;
    until("all are enrolled", || node.agent.enrolled().is_ok_and(|pods| pods == 3));
    for port in [80, 81] {
        echo(node.server.inside.listen(node.server.at(port))?);
    }
    let to = node.server.at(80);
    node.introduce(&node.client, to)?;
    node.directly(&node.client, to)?;
    ask(&mut node.by_agent(&node.client, node.server.at(81))?, 1)?;
    // The other pod has no verdict, whatever port it comes from.
    let port = node.directly(&node.client, to)?.local_addr()?.port();
    node.deny("other")?;
    until("the other pod is refused", || is_cut(&other.inside, to, b"hello").is_ok());
    let before = node.ways()?;
    for bound in [0, port] {
        let socket = other.inside.tcp(to)?;
        socket.bind(&other.at(bound).into())?;
        let refused = socket.connect(&to.into()).and_then(|()| {
            let mut stream = TcpStream::from(socket.try_clone()?);
            stream.write_all(b"hello")?;
            stream.read(&mut [0; 8])
        });
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(node.ways()?, (before.0 + 2, before.1), "past the agent");
    ask(&mut node.directly(&node.client, to)?, 2)
}

#[test]
fn a_denial_ends_exactly_what_it_denies_within_a_second() -> Result<()> {
    const MANY: usize = 1000;
    let node = OneNode::new()?;
    let other = pod(&node.lab, 1, "other")?;
    until("all are enrolled", || node.agent.enrolled().is_ok_and(|pods| pods == 3));
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    for pod in [&node.client, &other] {
        node.introduce(pod, to)?;
    }
    let open = |pod: &Pod, count: usize| -> Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        let before = node.ways()?;
        for number in 0..count {
            let mut stream = pod.inside.connect(to)?;
            ask(&mut stream, number as u64)?;
            streams.push(stream);
        }
        assert_eq!(node.ways()?, (before.0, before.1 + count as u64));
        Ok(streams)
    };
    let (mut denied, mut kept) = (open(&node.client, MANY)?, open(&other, 100)?);
    node.lab.apply("strict.yaml", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n")?;
    until("it is known", || {
        node.agent.dump().is_ok_and(|dump| dump.to_string().contains("strict.yaml"))
    });
    for stream in denied.iter_mut().chain(&mut kept) {
        ask(stream, 7).context("STRICT is no reason: the node proves who they are")?;
    }
    let start = Instant::now();
    node.deny("client")?;
    for stream in &mut denied {
        let cut = stream.read(&mut [0; 8]).expect_err("a cut, not an end");
        assert!(matches!(cut.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset));
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for stream in &mut kept {
        ask(stream, 8).context("it is allowed")?;
    }
    is_cut(&node.client.inside, to, b"hello")?;
    ask(&mut node.directly(&other, to)?, 9)?;
    let revoked = |direction: &str, reason: &str| {
        let records = node.agent.records();
        records.iter().filter(|r| r.direction == direction && r.reason == reason).count()
    };
    until("all are recorded", || {
        (revoked("inbound", "revoked"), revoked("outbound", "reset_by_server")) == (MANY, MANY)
    });
    let record = node.agent.record("revoked", |r| r.reason == "revoked");
    assert!(record.error.is_some_and(|error| error.contains("policy.yaml:1")));
    Ok(())
}

#[test]
fn sockets_of_either_family_go_past_the_agent_and_are_ended() -> Result<()> {
    let node = OneNode::new()?;
    for at in [node.server.at(80), node.server.at6(80)] {
        echo(node.server.inside.listen(at)?);
        node.introduce(&node.client, at)?;
    }
    let mapped = SocketAddr::from((node.server.v4.to_ipv6_mapped(), 80));
    let mut open = Vec::new();
    for to in [node.server.at(80), node.server.at6(80), mapped] {
        let mut stream = node.directly(&node.client, to)?;
        ask(&mut stream, 1)?;
        assert_eq!(stream.peer_addr()?, to);
        open.push(stream);
    }
    node.deny("client")?;
    for stream in &mut open {
        let cut = stream.read(&mut [0; 8]).expect_err("a cut, not an end");
        assert_ne!(cut.kind(), ErrorKind::WouldBlock, "{stream:?}");
        let source = stream.local_addr()?;
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        for record in node.both(source, ["reset_by_server", "revoked"]) {
            assert_eq!((record.bytes_sent, record.bytes_recv), (8, 8));
        }
    }
    Ok(())
}

#[test]
fn a_denial_in_the_midst_of_new_connections_lets_none_through() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    for _ in 0..3 {
        node.introduce(&node.client, to)?;
        let inside = node.client.inside.clone();
        let worker = std::thread::spawn(move || keeps_dialling(&inside, to));
        let before = node.ways()?.1;
        until("some are open", || node.ways().is_ok_and(|(_, direct)| direct > before + 100));
        node.deny("client")?;
        let streams = worker.join().expect("no panic");
        assert!(!streams.is_empty());
        until("every connection is cut", || {
            streams.iter().all(|stream| {
                let mut stream = stream;
                let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
                stream.read(&mut [0; 8]).is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
            })
        });
        node.lab.apply("policy.yaml", "")?;
        until("it is allowed again", || {
            node.client.inside.connect(to).is_ok_and(|mut stream| ask(&mut stream, 3).is_ok())
        });
    }
    Ok(())
}

/// Connections that were answered, as many as there is time for.
fn keeps_dialling(inside: &Factory, to: SocketAddr) -> Vec<TcpStream> {
    let start = Instant::now();
    let mut streams = Vec::new();
    while start.elapsed() < Duration::from_secs(1) {
        let asked = inside.connect(to).and_then(|mut stream| ask(&mut stream, 1).map(|()| stream));
        streams.extend(asked);
    }
    streams
}

#[test]
fn without_an_agent_verdicts_end_after_a_moment_and_what_is_open_goes_with_the_next_agent()
-> Result<()> {
    let mut node = OneNode::new()?;
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    node.introduce(&node.client, to)?;
    let mut open = node.directly(&node.client, to)?;
    ask(&mut open, 1)?;
    node.agent.kill()?;
    ask(&mut open, 2).context("it needs no agent")?;
    let start = Instant::now();
    until("new connections are refused", || node.client.inside.connect(to).is_err());
    assert!(start.elapsed() < Duration::from_secs(6));
    for _ in 0..5 {
        assert!(node.client.inside.connect(to).is_err());
    }
    node.agent.restart()?;
    assert!(open.read(&mut [0; 8]).is_err(), "nobody judges it any more");
    ask(&mut node.by_agent(&node.client, to)?, 3)?;
    ask(&mut node.directly(&node.client, to)?, 4)
}

#[test]
fn whoever_leaves_the_mesh_is_reached_in_the_other_way() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    for pod in [&node.client, &node.server] {
        node.introduce(&node.client, to)?;
        let mut open = node.directly(&node.client, to)?;
        node.lab.declare(pod, &[("app", &pod.name), ("istio.io/dataplane-mode", "none")])?;
        until("the pod is released", || node.agent.enrolled().is_ok_and(|pods| pods == 1));
        ask(&mut open, 1).context("what is open stays")?;
        let before = node.agent.kernel("connect_direct")?;
        ask(&mut node.client.inside.connect(to)?, 2)?;
        assert_eq!(node.agent.kernel("connect_direct")?, before);
        node.lab.declare(pod, &[("app", &pod.name)])?;
        until("it is back", || node.agent.enrolled().is_ok_and(|pods| pods == 2));
        until("the agent is asked again", || {
            let before = node.agent.kernel("connect_redirected").unwrap_or(0);
            node.introduce(&node.client, to).is_ok()
                && node.agent.kernel("connect_redirected").is_ok_and(|now| now > before)
        });
    }
    Ok(())
}

#[test]
fn an_address_that_another_pod_has_by_now_inherits_nothing() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    node.introduce(&node.client, to)?;
    let mut open = node.directly(&node.client, to)?;
    ask(&mut open, 1)?;
    let OneNode { agent, client, server, lab } = node;
    // The same address, another pod, and nobody can tell the agent: it stands still.
    let still = |signal| kill(Pid::from_raw(agent.pid().cast_signed()), signal);
    still(Signal::SIGSTOP)?;
    let server = lab.renew(server)?;
    let name = client.netns().file_name().and_then(|name| name.to_str());
    ip(name, "neigh flush dev eth0\n")?;
    let listener = server.inside.listen(to)?;
    listener.set_nonblocking(true)?;
    let mut near = client.inside.connect(to)?;
    near.write_all(b"for the old pod")?;
    still(Signal::SIGCONT)?;
    assert!(near.read(&mut [0; 8]).is_err(), "an answer");
    let accepted = listener.accept();
    assert!(accepted.is_err(), "the new pod took it: {accepted:?}");
    assert_eq!(agent.kernel("open_misled")?, 1);
    let source = near.local_addr()?;
    // The agent learns of the new pod and of the connection's end in either order.
    let failed = ["connect_failed", "revoked"];
    agent.record("it failed", |r| r.source == source && failed.contains(&r.reason.as_str()));
    drop(listener);
    // Another test's new process has the old one, too, for a moment.
    until("the port is free", || server.inside.listen(to).map(echo).is_ok());
    until("the new pod is reached through the agent", || {
        let before = agent.kernel("connect_redirected").unwrap_or(0);
        let asked = client.inside.connect(to).is_ok_and(|mut stream| ask(&mut stream, 2).is_ok());
        asked && agent.kernel("connect_redirected").is_ok_and(|now| now > before)
    });
    Ok(())
}

#[test]
fn sockets_that_are_tied_to_an_interface_are_ended_all_the_same() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    let listener = node.server.inside.listen(to)?;
    meet(&listener, &node.client, to)?;
    let mut open = node.directly(&node.client, to)?;
    let mut far = listener.accept()?.0;
    for stream in [&open, &far] {
        SockRef::from(stream).bind_device(Some(b"eth0"))?;
    }
    say(&mut open, &mut far, b"hello")?;
    node.deny("client")?;
    for stream in [&mut open, &mut far] {
        let cut = stream.read(&mut [0; 8]).expect_err("a cut, not an end");
        assert_ne!(cut.kind(), ErrorKind::WouldBlock, "{stream:?}");
        assert!(stream.write(b"more").is_err());
    }
    node.both(open.local_addr()?, ["reset_by_server", "revoked"]);
    Ok(())
}

#[test]
fn both_sockets_are_ended_where_no_reset_arrives() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    let listener = node.server.inside.listen(to)?;
    meet(&listener, &node.client, to)?;
    let mut open = node.directly(&node.client, to)?;
    let mut far = listener.accept()?.0;
    say(&mut open, &mut far, b"hello")?;
    // A pod that may change its own network drops what it does not want to hear, or to say.
    for pod in [&node.client, &node.server] {
        let name = pod.netns().file_name().and_then(|name| name.to_str());
        ip(name, "link set eth0 down\n")?;
    }
    node.deny("client")?;
    for stream in [&mut open, &mut far] {
        let cut = stream.read(&mut [0; 8]).expect_err("a cut, not an end");
        assert_ne!(cut.kind(), ErrorKind::WouldBlock, "{stream:?}");
    }
    Ok(())
}

#[test]
fn who_fills_the_kernels_list_costs_others_nothing_but_the_short_way() -> Result<()> {
    let node = OneNode::new()?;
    let other = pod(&node.lab, 1, "other")?;
    until("all are enrolled", || node.agent.enrolled().is_ok_and(|pods| pods == 3));
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    node.introduce(&other, to)?;
    ask(&mut node.directly(&other, to)?, 1)?;
    // A listener whose queue is full leaves a SYN without an answer.
    let mut hoards = Vec::new();
    let mut listeners = Vec::new();
    // Of the ports that a client may come from, one half is found at once.
    for port in 81..=85 {
        let to = node.server.at(port);
        let listener = node.server.inside.tcp(to)?;
        listener.bind(&to.into())?;
        listener.listen(0)?;
        let listener = TcpListener::from(listener);
        meet(&listener, &node.client, to)?;
        listeners.push(listener);
        hoards.push(Hoard::start((node.client.netns(), node.client.cgroup()), to, 14_000)?);
    }
    until("the list is full", || node.agent.kernel("open_full").is_ok_and(|full| full > 0));
    let before = node.ways()?.1;
    for number in 0..20 {
        ask(&mut other.inside.connect(to)?, number)?;
    }
    assert_eq!(node.ways()?.1, before, "past the agent");
    assert!(node.agent.kernel("connect_crowded")? >= 20);
    drop(hoards);
    until("the way is short again", || {
        let before = node.ways().expect("counters").1;
        node.introduce(&other, to).expect("an answer");
        node.ways().expect("counters").1 > before
    });
    Ok(())
}

#[test]
fn a_multipath_socket_is_under_the_same_rules() -> Result<()> {
    let node = OneNode::new()?;
    let to = node.server.at(80);
    echo(node.server.inside.listen(to)?);
    node.introduce(&node.client, to)?;
    let socket = node.client.inside.socket(Domain::IPV4, Protocol::MPTCP)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.connect(&to.into())?;
    let mut open = TcpStream::from(socket);
    ask(&mut open, 1)?;
    let source = open.local_addr()?;
    node.deny("client")?;
    assert!(open.read(&mut [0; 8]).is_err(), "a cut, not an end");
    let record = node.agent.record("it was known whose it is", |r| {
        r.direction == "inbound" && r.source == source && r.reason == "revoked"
    });
    assert_eq!(record.source_identity, Some(node.client.identity()));
    Ok(())
}
