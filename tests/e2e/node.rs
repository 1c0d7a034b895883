//! Two pods of one node: joined by the agent, under the same rules as between nodes.
use std::io::{ErrorKind, Read};

use anyhow::Result;
use e2e::{Agent, Lab, Pod, until};

use crate::{
    explain::explained,
    mesh::{ask, echo, ends_alone, is_cut, joined, pod, resets, say, stalls, unmeshed},
};

/// An agent of one node, and two pods there.
struct OneNode {
    agent: Agent,
    client: Pod,
    server: Pod,
    lab: Lab,
}

impl OneNode {
    fn new(extra: &str) -> Result<Self> {
        let lab = Lab::new(1)?;
        lab.namespace("shop", true)?;
        let (client, server) = (pod(&lab, 1, "client")?, pod(&lab, 1, "server")?);
        let agent = lab.agent_with(1, extra)?;
        Ok(Self { agent, client, server, lab })
    }

    /// Waits for both records of a connection that ended so.
    fn both(&self, reason: &str) {
        for direction in ["outbound", "inbound"] {
            self.agent.record(direction, |r| r.direction == direction && r.reason == reason);
        }
    }
}

/// The agent joins each connection, not only the first of a pair.
const JOINED: &str = "agent.same_node = \"direct\"";

#[test]
fn pods_of_one_node_are_joined_and_both_records_say_so() -> Result<()> {
    for (extra, protocol, path) in [
        (JOINED, "direct", "direct, same node, without a tunnel"),
        ("agent.same_node = \"hbone\"", "hbone", "HBONE tunnel"),
    ] {
        let node = OneNode::new(extra)?;
        let to = node.server.at(80);
        let listener = node.server.inside.listen(to)?;
        let (mut near, mut far, peer) = joined(&listener, &node.client.inside, to)?;
        assert_eq!((peer, near.peer_addr()?), (near.local_addr()?, to));
        say(&mut near, &mut far, b"hello")?;
        say(&mut far, &mut near, b"good day")?;
        drop((near, far));
        for direction in ["outbound", "inbound"] {
            let record = node.agent.record(direction, |r| r.direction == direction);
            assert_eq!((record.protocol.as_str(), record.reason.as_str()), (protocol, "ok"));
            assert_eq!(record.source_identity, Some(node.client.identity()));
            assert_eq!(record.destination_identity, Some(node.server.identity()));
            let (up, down) = (record.bytes_sent, record.bytes_recv);
            assert_eq!((up, down), if direction == "outbound" { (5, 8) } else { (8, 5) });
        }
        let said = explained(&node.lab, "shop/client", &to.to_string())?;
        assert!(said["path"].as_str().is_some_and(|text| text.starts_with(path)), "{said:#}");
    }
    Ok(())
}

#[test]
fn policies_hold_between_pods_of_one_node() -> Result<()> {
    let node = OneNode::new(JOINED)?;
    let OneNode { agent, client, server, lab } = &node;
    let (to, stranger) = (server.at(80), unmeshed(lab, 1, "stranger")?);
    echo(server.inside.listen(to)?);
    let mut open = client.inside.connect(to)?;
    ask(&mut open, 1)?;
    lab.apply("strict.yaml", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n")?;
    until("plaintext is refused", || is_cut(&stranger.inside, to, b"hello").is_ok());
    ask(&mut open, 2)?;
    let rule = "{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}";
    let header = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n";
    lab.apply("policy.yaml", &format!("{header}spec: {{action: DENY, rules: [{rule}]}}\n"))?;
    let cut = open.read(&mut [0; 8]).expect_err("a reset, not an end");
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    agent.record("it is cut", |r| r.direction == "inbound" && r.reason == "revoked");
    agent.record("so its client", |r| r.direction == "outbound" && r.reason == "reset_by_server");
    is_cut(&client.inside, to, b"hello")?;
    node.both("denied");
    for direction in ["outbound", "inbound"] {
        let denied = agent.record("a denial", |r| {
            r.direction == direction && r.reason == "denied" && r.protocol == "direct"
        });
        assert_eq!(denied.source_identity, Some(client.identity()));
        assert_eq!(denied.destination_identity, Some(server.identity()));
        let rule = |policy: String| policy.contains("policy.yaml:1");
        assert!(direction == "outbound" || denied.policy.is_some_and(rule));
    }
    let said = explained(lab, "shop/client", &to.to_string())?;
    assert_eq!(said["allowed"], false, "{said:#}");
    lab.apply("policy.yaml", &format!("{header}spec: {{rules: [{rule}]}}\n"))?;
    until("it is allowed again", || {
        client.inside.connect(to).is_ok_and(|mut stream| ask(&mut stream, 3).is_ok())
    });
    Ok(())
}

#[test]
fn ends_resets_and_pressure_pass_between_pods_of_one_node() -> Result<()> {
    let node = OneNode::new(JOINED)?;
    let to = node.server.at(80);
    let listener = node.server.inside.listen(to)?;
    let connection = || joined(&listener, &node.client.inside, to);
    for client_first in [true, false] {
        let (near, far, _) = connection()?;
        ends_alone(if client_first { (near, far) } else { (far, near) })?;
    }
    node.both("ok");
    for (client_resets, reason) in [(true, "reset_by_client"), (false, "reset_by_server")] {
        let (near, far, _) = connection()?;
        resets(if client_resets { (near, far) } else { (far, near) })?;
        node.both(reason);
    }
    let (mut stalled, _unread, _) = connection()?;
    stalls(&mut stalled)
}
