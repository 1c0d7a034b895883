//! Pods and certificates come, change and go while traffic flows.
use std::fs;

use anyhow::Result;
use e2e::{Agent, Lab, until, wire::contains};

use crate::mesh::{Mesh, Traffic, ask, echo, joined, pod, say};

#[test]
fn labelling_and_unlabelling_under_load_cuts_no_connection() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", false)?;
    let (client, server) = (pod(&lab, 1, "client")?, pod(&lab, 2, "server")?);
    let (a1, a2) = (lab.agent(1)?, lab.agent(2)?);
    let pids = (client.inside.pid(), server.inside.pid());
    echo(server.inside.listen(server.at(80))?);
    let traffic = Traffic::start(&client.inside, server.at(80), 4)?;
    for _ in 0..3 {
        lab.namespace("shop", true)?;
        until("both are enrolled", || {
            [&a1, &a2].iter().all(|agent| agent.enrolled().is_ok_and(|pods| pods == 1))
        });
        traffic.goes_on("enrolment");
        lab.namespace("shop", false)?;
        until("both are released", || {
            [&a1, &a2].iter().all(|agent| agent.enrolled().is_ok_and(|pods| pods == 0))
        });
        traffic.goes_on("release");
    }
    let turns = traffic.end()?;
    assert!(turns > 600, "{turns}");
    a1.record("some went by tunnel", |r| r.direction == "outbound" && r.protocol == "hbone");
    a2.record("and arrived", |r| r.direction == "inbound" && r.protocol == "hbone");
    assert_eq!(pids, (client.inside.pid(), server.inside.pid()));
    Ok(())
}

#[test]
fn a_label_on_the_pod_wins_over_its_namespace() -> Result<()> {
    let mesh = Mesh::new()?;
    let listener = mesh.server.inside.listen(mesh.server.at(80))?;
    let wire = mesh.lab.capture()?;
    mesh.lab.declare(&mesh.client, &[("istio.io/dataplane-mode", "none")])?;
    until("the pod is released", || mesh.a1.enrolled().is_ok_and(|pods| pods == 0));
    let (mut near, mut far, _) = joined(&listener, &mesh.client.inside, mesh.server.at(80))?;
    say(&mut near, &mut far, b"opted out")?;
    until("the wire showed it", || contains(&wire.take(), b"opted out"));
    mesh.lab.namespace("shop", false)?;
    until("the server is released", || mesh.a2.enrolled().is_ok_and(|pods| pods == 0));
    mesh.lab.declare(&mesh.client, &[("istio.io/dataplane-mode", "ambient")])?;
    until("the pod opted in", || mesh.a1.enrolled().is_ok_and(|pods| pods == 1));
    Ok(())
}

#[test]
fn certificates_that_rotate_every_second_disturb_nobody() -> Result<()> {
    // Tunnels end soon, so that new certificates shake hands.
    let mesh = Mesh::with("ca.ttl = \"2s\"\n[limits]\ntunnel_idle = \"50ms\"")?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    let traffic = Traffic::start(&mesh.client.inside, to, 4)?;
    let serial = || -> Option<String> {
        let dump = mesh.a2.dump().ok()?;
        let chain = dump["certificates"][0]["certChain"][0]["serialNumber"].as_str()?;
        Some(chain.to_owned())
    };
    let mut seen = std::collections::BTreeSet::new();
    until("the server had four certificates", || {
        seen.extend(serial());
        seen.len() >= 4
    });
    traffic.goes_on("rotation");
    traffic.end()?;
    let handshakes = || mesh.a2.kernel("lookup_hbone").unwrap_or(0);
    let before = handshakes();
    until("five further certificates and tunnels", || {
        let tunnels = mesh.a1.get(15020, "/metrics").unwrap_or_default();
        if tunnels.contains("\nculvert_tunnels_open 0\n") {
            let asked = mesh.client.inside.connect(to).and_then(|mut stream| ask(&mut stream, 7));
            asked.expect("a new tunnel with a new certificate");
        }
        seen.extend(serial());
        seen.len() >= 9 && handshakes() >= before + 5
    });
    let records = [mesh.a1.records(), mesh.a2.records()].concat();
    let bad: Vec<_> = records.into_iter().filter(|r| r.reason != "ok").collect();
    assert!(bad.is_empty(), "{bad:?}");
    Ok(())
}

#[test]
fn a_broken_manifest_is_named_and_the_last_good_objects_stay() -> Result<()> {
    let mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    ask(&mut mesh.client.inside.connect(to)?, 1)?;
    let file = "pod-shop-server.yaml";
    let good = fs::read_to_string(mesh.lab.manifests().join(file))?;
    for broken in [
        good.replace("podIP:", "podIP: [unclosed"),
        good.replace("nodeName: n2", "nodeName: [n2]"),
        "kind: [".to_owned(),
        String::from("\u{0}\u{1}"),
    ] {
        mesh.lab.apply(file, &broken)?;
        for agent in [&mesh.a1, &mesh.a2] {
            until("file and line are named", || problems(agent).contains("pod-shop-server.yaml:"));
        }
        ask(&mut mesh.client.inside.connect(to)?, 2)?;
        assert_eq!(mesh.a2.enrolled()?, 1);
        mesh.lab.apply(file, &good)?;
        until("all is well again", || problems(&mesh.a1).is_empty());
    }
    assert!(mesh.a1.log().contains("pod-shop-server.yaml:"), "nothing was logged");
    ask(&mut mesh.client.inside.connect(to)?, 3)?;
    let last = mesh.a1.record("all went through tunnels", |r| r.direction == "outbound");
    assert_eq!(last.protocol, "hbone");
    Ok(())
}

/// Where the agent sees problems in its manifests.
fn problems(agent: &Agent) -> String {
    let dump = agent.dump().unwrap_or_default();
    let problems = dump["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().filter_map(|problem| problem["at"].as_str()).collect()
}

#[test]
fn a_pod_that_is_made_anew_under_the_same_name_is_enrolled_anew() -> Result<()> {
    let mesh = Mesh::new()?;
    let Mesh { a1, a2, client, server, lab } = mesh;
    fs::remove_file(lab.manifests().join("pod-shop-server.yaml"))?;
    until("the old pod is gone", || a2.enrolled().is_ok_and(|pods| pods == 0));
    drop(server);
    let server = pod(&lab, 2, "server")?;
    until("the new pod is enrolled", || a2.enrolled().is_ok_and(|pods| pods == 1));
    let listener = server.inside.listen(server.at(80))?;
    let (mut near, mut far, _) = joined(&listener, &client.inside, server.at(80))?;
    say(&mut near, &mut far, b"hello")?;
    drop((near, far));
    let record = a1.record("by tunnel", |r| r.direction == "outbound");
    assert_eq!(record.protocol, "hbone");
    Ok(())
}

#[test]
fn a_pod_whose_namespace_is_made_anew_under_its_old_path_is_enrolled_anew() -> Result<()> {
    let Mesh { a1, a2: _a2, client, server, lab } = Mesh::new()?;
    let redirected = || a1.kernel("connect_redirected").unwrap_or(0);
    let client = lab.renew(client)?;
    until("what the new namespace dials is captured", || {
        let before = redirected();
        drop(client.inside.connect(server.at(81)));
        redirected() > before
    });
    let listener = server.inside.listen(server.at(80))?;
    let tunnelled = || {
        a1.records().iter().filter(|r| r.direction == "outbound" && r.protocol == "hbone").count()
    };
    let before = tunnelled();
    let (mut near, mut far, _) = joined(&listener, &client.inside, server.at(80))?;
    say(&mut near, &mut far, b"hello")?;
    drop((near, far));
    until("it was carried by a tunnel", || tunnelled() > before);
    Ok(())
}
