//! Fail closed: what happens while no agent runs, and what is left when it is unloaded.
use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Write},
    path::PathBuf,
};

use anyhow::{Context, Result};
use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{ProgramInfo, loaded_programs},
};
use e2e::{
    Lab,
    lab::{Node, ensure_nothing_left},
    until,
    wire::{RST, contains, segment, server_ports},
};

use crate::{
    explain::explained,
    mesh::{Mesh, ask, echo, joined, say, unmeshed},
};

const SECRET: &[u8] = b"not one byte of this";

#[test]
fn while_the_agent_is_dead_nothing_leaves_in_the_clear_and_nothing_enters() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let stranger = unmeshed(&mesh.lab, 1, "stranger")?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    let pods = (mesh.client.inside.pid(), mesh.server.inside.pid());
    ask(&mut mesh.client.inside.connect(to)?, 1)?;
    let mut open = mesh.client.inside.connect(to)?;
    ask(&mut open, 2)?;
    let wire = mesh.lab.capture()?;

    mesh.a1.kill()?;
    assert!(open.read(&mut [0; 8]).is_err(), "a connection ended as if it were whole");
    let _ = open.write_all(SECRET);
    for _ in 0..20 {
        let error = mesh.client.inside.connect(to).expect_err("no agent, no connection");
        let refused = error.downcast::<std::io::Error>()?;
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    mesh.a2.kill()?;
    assert!(stranger.inside.connect(to).is_err());
    let frames = wire.finish();
    assert!(!contains(&frames, SECRET));
    let mut clear = frames.iter().filter_map(|f| segment(f)).filter(|s| s.from == 80 || s.to == 80);
    assert!(
        clear.all(|s| s.payload.is_empty() && (s.to == 80 || s.flags & RST != 0)),
        "a pod answered in the clear with something else than a refusal"
    );

    mesh.a1.restart()?;
    mesh.a2.restart()?;
    ask(&mut mesh.client.inside.connect(to)?, 3)?;
    assert_eq!(pods, (mesh.client.inside.pid(), mesh.server.inside.pid()));
    Ok(())
}

#[test]
fn a_restarted_agent_adopts_what_the_kernel_holds() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    ask(&mut mesh.client.inside.connect(to)?, 1)?;
    let programs = |mesh: &Mesh| -> Result<Vec<_>> {
        let pins = fs::read_dir(pins(&mesh.lab.nodes[0])?)?;
        Ok(pins.map(|pin| pin.map(|pin| pin.file_name())).collect::<Result<Vec<_>, _>>()?)
    };
    let before = programs(&mesh)?;
    let redirected = mesh.a1.kernel("connect_redirected")?;
    mesh.a1.kill()?;
    mesh.a1.restart()?;
    assert_eq!(programs(&mesh)?, before, "programs or maps were made anew");
    ask(&mut mesh.client.inside.connect(to)?, 2)?;
    assert_eq!(mesh.a1.kernel("connect_redirected")?, redirected + 1, "counters began anew");
    Ok(())
}

#[test]
fn a_pod_whose_label_went_while_the_agent_was_dead_is_released_by_the_next() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    let listener = mesh.server.inside.listen(to)?;
    mesh.a1.kill()?;
    mesh.lab.declare(&mesh.client, &[("istio.io/dataplane-mode", "none")])?;
    mesh.a1.restart()?;
    let wire = mesh.lab.capture()?;
    let (mut near, mut far, _) = joined(&listener, &mesh.client.inside, to)?;
    say(&mut near, &mut far, b"in the clear, as asked")?;
    until("the wire showed it", || contains(&wire.take(), b"as asked"));
    Ok(())
}

/// What the agents have in the kernel: the programs of pods, and all maps.
fn in_kernel(mesh: &Mesh) -> Result<(BTreeSet<u32>, BTreeSet<u32>)> {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for node in &mesh.lab.nodes {
        for pin in fs::read_dir(pins(node)?)? {
            let path = pin?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("programs-") {
                programs.insert(ProgramInfo::from_pin(path.join("steer"))?.id());
            } else if path.is_file() {
                maps.insert(MapInfo::from_pin(&path)?.id());
            }
        }
    }
    Ok((programs, maps))
}

#[test]
fn unload_leaves_nothing_and_pods_talk_as_before() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    let listener = mesh.server.inside.listen(to)?;
    let (programs, maps) = in_kernel(&mesh)?;
    assert!(programs.len() == 2 && maps.len() >= 20, "{programs:?} {maps:?}");
    for agent in [&mut mesh.a1, &mut mesh.a2] {
        agent.terminate()?;
        agent.wait()?;
        let said = agent.unload()?;
        assert!(said.contains("removed"), "{said}");
        let again = agent.unload()?;
        assert!(again.contains("removed 0 pins"), "{again}");
    }
    for node in &mesh.lab.nodes {
        assert!(!node.pin().exists(), "{} is still there", node.pin().display());
    }
    until("the kernel has freed programs and maps", || {
        let mut left = loaded_programs().flatten().map(|program| program.id());
        let mut left_maps = loaded_maps().flatten().map(|map| map.id());
        !left.any(|id| programs.contains(&id)) && !left_maps.any(|id| maps.contains(&id))
    });
    let wire = mesh.lab.capture()?;
    let (mut near, mut far, peer) = joined(&listener, &mesh.client.inside, to)?;
    say(&mut near, &mut far, b"plain again")?;
    assert_eq!(peer, near.local_addr()?);
    drop((near, far));
    assert!(server_ports(&wire.finish()).contains(&80));
    Ok(())
}

#[test]
fn a_lab_that_ends_in_a_panic_leaves_nothing() -> Result<()> {
    let mut prefix = String::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mesh = Mesh::new().expect("a mesh");
        prefix = mesh.lab.prefix().to_owned();
        assert!(ensure_nothing_left(&prefix).is_err(), "a lab that nobody can see");
        panic!("on purpose");
    }));
    assert!(panicked.is_err() && !prefix.is_empty());
    ensure_nothing_left(&prefix)
}

#[test]
fn agents_whose_programs_are_gone_attach_them_again() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut agent = lab.agent(1)?;
    agent.kill()?;
    fs::remove_dir_all(lab.nodes[0].pin())?;
    agent.restart()?;
    assert_eq!(agent.kernel("connect_redirected")?, 0);
    Ok(())
}

#[test]
fn what_an_agent_of_another_version_left_is_taken_over_and_removed() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    let listener = mesh.server.inside.listen(to)?;
    drop(joined(&listener, &mesh.client.inside, to)?);
    for (agent, node) in [(&mut mesh.a1, &mesh.lab.nodes[0]), (&mut mesh.a2, &mesh.lab.nodes[1])] {
        agent.kill()?;
        let own = pins(node)?;
        let other = node.pin().join("v1");
        fs::rename(&own, &other)?;
        agent.restart()?;
        assert!(own.exists());
        until("the other version is gone", || !other.exists());
    }
    let (mut near, mut far, peer) = joined(&listener, &mesh.client.inside, to)?;
    say(&mut near, &mut far, b"by the new one")?;
    assert_eq!(peer, near.local_addr()?);
    assert!(mesh.a1.kernel("connect_redirected")? > 0);
    Ok(())
}

#[test]
fn an_agent_that_starts_with_a_damaged_folder_opens_nothing() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    ask(&mut mesh.client.inside.connect(to)?, 1)?;
    for (file, damaged) in [
        ("pod-shop-server.yaml", "kind: ["),
        ("namespace-shop.yaml", "kind: ["),
        ("pod-shop-client.yaml", "kind: ["),
    ] {
        mesh.a1.kill()?;
        let good = fs::read_to_string(mesh.lab.manifests().join(file))?;
        mesh.lab.apply(file, damaged)?;
        let wire = mesh.lab.capture()?;
        mesh.a1.restart()?;
        if let Ok(mut stream) = mesh.client.inside.connect(to) {
            let _ = stream.write_all(SECRET);
            let _ = stream.read(&mut [0; 8]);
        }
        let frames = wire.finish();
        assert!(!contains(&frames, SECRET), "{file} was damaged, and a byte left in the clear");
        if file == "pod-shop-server.yaml" {
            let said = explained(&mesh.lab, "shop/client", &to.to_string())?;
            let verdict = said["verdict"].as_str().unwrap_or_default();
            assert!(said["allowed"] == false && verdict.contains("damaged"), "{said:#}");
        }
        mesh.lab.apply(file, &good)?;
        until("all is well again", || {
            let asked = mesh.client.inside.connect(to).map(|mut stream| ask(&mut stream, 2));
            matches!(asked, Ok(Ok(())))
        });
    }
    Ok(())
}

#[test]
fn a_pod_whose_addresses_change_is_never_open_meanwhile() -> Result<()> {
    let mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    let traffic = crate::mesh::Traffic::start(&mesh.client.inside, to, 2)?;
    let wire = mesh.lab.capture()?;
    let manifest = fs::read_to_string(mesh.lab.manifests().join("pod-shop-client.yaml"))?;
    let fewer: String = manifest
        .lines()
        .filter(|l| !l.contains("podIPs"))
        .fold(String::new(), |text, line| text + line + "\n");
    for (text, addresses) in [(&fewer, 1), (&manifest, 2), (&fewer, 1), (&manifest, 2)] {
        mesh.lab.apply("pod-shop-client.yaml", text)?;
        until("the agent took it", || {
            let dump = mesh.a1.dump().unwrap_or_default();
            let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
            let client = workloads.iter().find(|workload| workload["name"] == "client");
            client.is_some_and(|w| w["workloadIps"].as_array().map(Vec::len) == Some(addresses))
        });
        traffic.goes_on("a change of addresses");
    }
    traffic.end()?;
    assert_eq!(server_ports(&wire.finish()), BTreeSet::from([15008]));
    Ok(())
}

/// The directory of the node's pins, below the version of their layout.
fn pins(node: &Node) -> Result<PathBuf> {
    let version = fs::read_dir(node.pin())?.next().context("nothing is pinned")??;
    Ok(version.path())
}
