//! What an operator sees of a running agent: open connections, its standing, series within bounds.
use std::process::Output;

use anyhow::{Context, Result};
use e2e::{Agent, factory::lab_command, until};
use serde_json::Value;

use crate::{
    explain::culvert,
    mesh::{Mesh, ask, echo, say},
};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The open connections of the agent's one pod.
fn open(agent: &Agent, direction: &str) -> Result<Vec<Value>> {
    let dump = agent.dump()?;
    let pods = dump["workloadState"].as_object().context("no pods")?;
    let lists = pods.values().filter_map(|pod| pod["connections"][direction].as_array());
    Ok(lists.flatten().cloned().collect())
}

#[test]
fn connections_between_agents_have_the_congestion_control_that_was_asked_for() -> Result<()> {
    for (extra, expected) in [("", "cubic"), ("agent.congestion_control = \"reno\"", "reno")] {
        let mesh = Mesh::with(extra)?;
        echo(mesh.server.inside.listen(mesh.server.at(80))?);
        let mut open = mesh.client.inside.connect(mesh.server.at(80))?;
        ask(&mut open, 1)?;
        for pod in [&mesh.client, &mesh.server] {
            let said = lab_command(pod.netns(), pod.cgroup())
                .args(["--", "ss", "-tinH", "( sport = :15008 or dport = :15008 )"])
                .output()?;
            let said = String::from_utf8(said.stdout)?;
            assert!(said.contains(expected), "{expected} is not in {said}");
        }
    }
    Ok(())
}

#[test]
fn connections_are_listed_while_they_are_open_with_their_bytes_so_far() -> Result<()> {
    let mesh = Mesh::new()?;
    let (mut near, mut far) = mesh.connection(80)?;
    say(&mut near, &mut far, b"hello")?;
    say(&mut far, &mut near, b"and to you")?;
    let (client, server) = (near.local_addr()?, mesh.server.at(80));
    for (agent, direction, original, actual, sent, received) in [
        (&mesh.a1, "outbound", Value::from(server.to_string()), mesh.server.at(15008), 5, 10),
        (&mesh.a2, "inbound", Value::Null, server, 10, 5),
    ] {
        until("its bytes are counted", || {
            open(agent, direction).is_ok_and(|all| {
                all.len() == 1 && all[0]["bytesSent"] == sent && all[0]["bytesReceived"] == received
            })
        });
        let one = &open(agent, direction)?[0];
        assert_eq!(one["src"], client.to_string(), "{one:#}");
        assert_eq!((&one["originalDst"], &one["protocol"]), (&original, &"HBONE".into()));
        assert_eq!(one["actualDst"], actual.to_string());
        assert_eq!(one["sourceIdentity"], mesh.client.identity());
        assert_eq!(one["destinationIdentity"], mesh.server.identity());
    }
    let table = text(&culvert(&mesh.lab, 1, &["connections"])?);
    let row = table.lines().nth(1).unwrap_or_default();
    let words: Vec<_> = row.split_whitespace().collect();
    let expected = ["outbound", "shop/client", "shop/server", "-", "HBONE", "shop/client"];
    assert_eq!(words.get(..6), Some(&expected[..]), "{table}");
    let json = text(&culvert(&mesh.lab, 2, &["connections", "-o", "json"])?);
    let rows: Value = serde_json::from_str(&json)?;
    assert_eq!((&rows[0]["bytesUp"], &rows[0]["direction"]), (&5.into(), &"inbound".into()));
    drop((near, far));
    until("none is open", || {
        open(&mesh.a1, "outbound").is_ok_and(|all| all.is_empty())
            && open(&mesh.a2, "inbound").is_ok_and(|all| all.is_empty())
    });
    Ok(())
}

#[test]
fn status_says_what_is_wrong_and_ends_with_one_then() -> Result<()> {
    let mesh = Mesh::with("[shutdown]\ngrace = \"30s\"")?;
    let status = || culvert(&mesh.lab, 1, &["status"]);
    let well = status()?;
    assert!(well.status.success(), "{}", text(&well));
    for line in
        ["on n1, up ", "state         ready", "pods          1 enrolled", "next to expire in"]
    {
        assert!(text(&well).contains(line), "{line} is not in\n{}", text(&well));
    }
    let nowhere = "apiVersion: v1\nkind: Pod\nmetadata: {name: lost, namespace: shop}\n\
                   spec: {nodeName: n1}\nstatus: {podIP: 10.1.0.200, podIPs: [{ip: 10.1.0.200}]}\n";
    for (yaml, word) in [
        ("kind: [", "wrong.yaml"),
        (nowhere, "lost cannot be enrolled: the annotation culvert.dev/netns is missing"),
    ] {
        mesh.lab.apply("wrong.yaml", yaml)?;
        until("it says so", || {
            let said = status().expect("run culvert");
            said.status.code() == Some(1) && text(&said).contains(word)
        });
        mesh.lab.apply("wrong.yaml", "")?;
        until("all is well again", || status().is_ok_and(|said| said.status.success()));
    }
    let (_near, _far) = mesh.connection(80)?;
    mesh.a1.terminate()?;
    until("it is draining", || {
        let said = culvert(&mesh.lab, 1, &["status", "-o", "json"]).expect("run culvert");
        let json: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        json["state"] == "draining" && json["connections"]["outbound"] == 1
    });
    Ok(())
}

/// All series of traffic.
fn series(agent: &Agent) -> Result<Vec<String>> {
    let metrics = agent.get(15020, "/metrics")?;
    let traffic =
        |line: &&str| line.starts_with("istio_tcp_") && !line.starts_with("istio_tcp_sockets_open");
    Ok(metrics.lines().filter(traffic).map(str::to_owned).collect())
}

/// The sum of a family, whatever its labels are.
fn total(series: &[String], family: &str) -> u64 {
    let of = series.iter().filter(|line| line.starts_with(&format!("{family}{{")));
    of.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[test]
fn the_series_of_a_workload_that_is_gone_expire() -> Result<()> {
    let mesh = Mesh::with("[limits]\nmetric_expiry = \"1s\"")?;
    drop(mesh.connection(80)?);
    let named = |agent: &Agent| {
        let word = "destination_workload=\"server\"";
        series(agent).is_ok_and(|all| all.iter().any(|line| line.contains(word)))
    };
    until("it is counted", || named(&mesh.a1) && named(&mesh.a2));
    std::fs::remove_file(mesh.lab.manifests().join("pod-shop-server.yaml"))?;
    until("its series are gone", || !named(&mesh.a1) && !named(&mesh.a2));
    assert_eq!(series(&mesh.a1)?, Vec::<String>::new(), "it is counted elsewhere");
    Ok(())
}

#[test]
fn series_stay_within_their_budget_and_totals_only_grow() -> Result<()> {
    const BUDGET: usize = 200;
    const SERVICES: u64 = 60;
    let mesh = Mesh::with(&format!("[limits]\nmax_metric_series = {BUDGET}"))?;
    let service = |n: u64| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.1.{n}, selector: {{app: server}}, ports: [{{port: 80}}]}}\n"
        )
    };
    let services: Vec<_> = (1..=SERVICES).map(service).collect();
    mesh.lab.apply("services.yaml", &services.join("---\n"))?;
    echo(mesh.server.inside.listen(mesh.server.at(80))?);
    until("the services are known", || {
        let dump = mesh.a1.dump();
        dump.is_ok_and(|dump| dump["services"].as_array().is_some_and(|all| all.len() == 60))
    });
    let mut held = Vec::new();
    for n in 1..=SERVICES {
        let mut stream = mesh.client.inside.connect(format!("10.96.1.{n}:80").parse()?)?;
        ask(&mut stream, n)?;
        // The first ones keep their series to themselves.
        if n <= 5 {
            held.push(stream);
        } else {
            drop(stream);
        }
        until("it is counted", || {
            let all = series(&mesh.a1).expect("metrics");
            assert!(all.len() <= BUDGET, "{} series", all.len());
            let opened = total(&all, "istio_tcp_connections_opened_total");
            let closed = total(&all, "istio_tcp_connections_closed_total");
            assert!(opened <= n && closed <= n, "{opened} opened, {closed} closed of {n}");
            opened == n && closed == n.saturating_sub(5)
        });
    }
    let all = series(&mesh.a1)?;
    assert_eq!(total(&all, "istio_tcp_received_bytes_total"), 8 * (SERVICES - 5));
    for (service, stays) in [("s1", true), ("s6", false), ("s60", true)] {
        let label = format!("destination_service_name=\"{service}\"");
        assert_eq!(all.iter().any(|line| line.contains(&label)), stays, "{service}");
    }
    let metrics = mesh.a1.get(15020, "/metrics")?;
    for line in ["culvert_metrics_folded_total 0\n", "workload_manager_proxies_started_total 1\n"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    Ok(())
}
