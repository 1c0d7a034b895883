//! What operators see: records, metrics, readiness, dumps, kernel features.
use std::process::Command;

use anyhow::Result;
use e2e::{factory::binary, until};

use crate::mesh::{Mesh, say};

#[test]
fn each_connection_has_exactly_one_record_also_when_its_client_gave_up() -> Result<()> {
    let mesh = Mesh::new()?;
    let listener = mesh.server.inside.listen(mesh.server.at(80))?;
    for _ in 0..10 {
        drop(mesh.client.inside.connect(mesh.server.at(80))?);
        drop(listener.accept()?);
    }
    for _ in 0..10 {
        // Nobody listens there; the reset may come before connect() has returned.
        drop(mesh.client.inside.connect(mesh.server.at(81)));
    }
    until("twenty records here, twenty there", || {
        mesh.a1.records().len() >= 20 && mesh.a2.records().len() >= 20
    });
    mesh.a1.get(15000, "/config_dump")?;
    assert_eq!((mesh.a1.records().len(), mesh.a2.records().len()), (20, 20));
    Ok(())
}

#[test]
fn metrics_count_connections_and_bytes_under_istios_names() -> Result<()> {
    let mesh = Mesh::new()?;
    let (mut near, mut far) = mesh.connection(80)?;
    say(&mut near, &mut far, b"hello")?;
    say(&mut far, &mut near, b"and to you")?;
    drop((near, far));
    mesh.a1.record("it ended", |r| r.direction == "outbound");
    let metrics = mesh.a1.get(15020, "/metrics")?;
    let value = |name: &str| -> Option<f64> {
        let line = metrics.lines().find(|line| {
            line.starts_with(&format!("{name}{{")) && line.contains("reporter=\"source\"")
        })?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    for (name, expected) in [
        ("istio_tcp_connections_opened_total", 1.0),
        ("istio_tcp_connections_closed_total", 1.0),
        ("istio_tcp_sent_bytes_total", 10.0),
        ("istio_tcp_received_bytes_total", 5.0),
    ] {
        assert_eq!(value(name), Some(expected), "{name} in\n{metrics}");
    }
    for label in [
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/client\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/server\"",
        "connection_security_policy=\"mutual_tls\"",
        "source_workload=\"client\"",
        "destination_workload_namespace=\"shop\"",
    ] {
        assert!(metrics.contains(label), "{label} is not in\n{metrics}");
    }
    Ok(())
}

#[test]
fn operators_can_look_and_only_ask_for_what_changes_with_post() -> Result<()> {
    let mesh = Mesh::new()?;
    assert!(mesh.a1.get(15021, "/healthz/ready").is_ok());
    let dump = mesh.a1.dump()?;
    assert!(dump["workloads"].as_array().is_some_and(|workloads| workloads.len() == 2), "{dump}");
    assert!(mesh.a1.request("GET", 15000, "/quitquitquit")?.starts_with("HTTP/1.1 405"));
    assert!(mesh.a1.request("GET", 15000, "/nothing")?.starts_with("HTTP/1.1 404"));
    assert!(mesh.a1.request("POST", 15000, "/logging?level=debug")?.starts_with("HTTP/1.1 200"));
    assert!(mesh.a1.request("POST", 15000, "/logging?level=dbg=x=y")?.starts_with("HTTP/1.1 400"));
    assert!(mesh.a1.kernel("connect_redirected")? == 0);
    let Mesh { mut a1, .. } = mesh;
    assert!(a1.request("POST", 15000, "/quitquitquit")?.starts_with("HTTP/1.1 200"));
    a1.wait()
}

#[test]
fn check_names_each_kernel_feature_with_the_release_that_has_it() -> Result<()> {
    let output = Command::new(binary("culvert-agent")?).args(["check", "--json"]).output()?;
    let features: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let features = features.as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(features.len() >= 5, "{features:?}");
    for feature in features {
        assert_eq!(feature["present"], true, "{feature}");
        assert!(feature["since"].as_str().is_some_and(|since| since.contains('.')), "{feature}");
    }
    assert!(output.status.success());
    Ok(())
}
