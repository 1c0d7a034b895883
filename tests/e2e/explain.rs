//! `culvert explain` says what happens, and what happens is what it said.
use std::process::Output;

use anyhow::Result;
use e2e::{
    Lab,
    factory::{binary, lab_command},
    until,
};
use serde_json::Value;

use crate::mesh::{ask, echo, pod, unmeshed};

/// Runs `culvert` on a node.
pub(crate) fn culvert(lab: &Lab, node: usize, arguments: &[&str]) -> Result<Output> {
    let node = &lab.nodes[node - 1];
    let mut command = lab_command(&node.netns(), &node.cgroup().join("host"));
    Ok(command.arg("--").arg(binary("culvert")?).args(arguments).output()?)
}

/// What `culvert explain` says on the first node.
///
/// # Errors
/// When it says nothing.
pub(crate) fn explained(lab: &Lab, source: &str, destination: &str) -> Result<Value> {
    let said = culvert(lab, 1, &["explain", source, destination, "--output", "json"])?;
    Ok(serde_json::from_slice(&said.stdout)?)
}

/// Waits until explain on the first node says whether it is allowed, as the second has it already.
#[track_caller]
pub(crate) fn agrees(lab: &Lab, (source, to): (&str, &str), allowed: bool) -> Value {
    let mut said = Value::Null;
    until(&format!("{source} to {to} is allowed: {allowed}"), || {
        said = explained(lab, source, to).unwrap_or_default();
        said["allowed"] == allowed
    });
    said
}

#[test]
fn explain_agrees_with_what_happens() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let (client, server) = (pod(&lab, 1, "client")?, pod(&lab, 2, "server")?);
    let stranger = unmeshed(&lab, 1, "stranger")?;
    let (_a1, _a2) = (lab.agent(1)?, lab.agent(2)?);
    echo(server.inside.listen(server.at(8080))?);
    let to = server.at(8080).to_string();
    let header = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n";
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: s, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
    for (yaml, meshed, plain, word) in [
        (String::new(), true, true, "no policy applies"),
        (strict.into(), true, false, "STRICT"),
        (
            format!(
                "{header}  action: DENY\n  rules: [{{from: [{{source: {{namespaces: [shop]}}}}]}}]\n"
            ),
            false,
            true,
            "denied by shop/p rule 0",
        ),
        (
            format!("{header}  rules: [{{from: [{{source: {{principals: [x]}}}}]}}]\n"),
            false,
            false,
            "nearest shop/p rule 0",
        ),
        (
            format!("{header}  rules: [{{to: [{{operation: {{ports: ['8080']}}}}]}}]\n"),
            true,
            true,
            "allowed by shop/p rule 0",
        ),
    ] {
        lab.apply("policy.yaml", &yaml)?;
        let passes = |pod: &e2e::Pod| {
            let connected = pod.inside.connect(server.at(8080));
            connected.is_ok_and(|mut stream| ask(&mut stream, 1).is_ok())
        };
        until("both are as they should be", || {
            passes(&client) == meshed && passes(&stranger) == plain
        });
        let mut verdicts = String::new();
        for (name, allowed) in [("shop/client", meshed), ("shop/stranger", plain)] {
            let json = agrees(&lab, (name, &to), allowed);
            let said = culvert(&lab, 1, &["explain", name, &to, "--output", "json"])?;
            assert_eq!(said.status.success(), allowed);
            verdicts += json["verdict"].as_str().unwrap_or_default();
            let decided = json["decided"].as_str();
            assert!(decided.is_none_or(|at| at.ends_with("policy.yaml:1")), "{json:#}");
        }
        assert!(verdicts.contains(word), "{word:?} is not in {verdicts}");
    }
    Ok(())
}

#[test]
fn an_operator_sees_what_an_agent_knows() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let (_client, server) = (pod(&lab, 1, "client")?, pod(&lab, 2, "server")?);
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    lab.apply("policy.yaml", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {rules: [{}]}\n")?;
    let _a1 = lab.agent(1)?;
    let to = server.at(8080).to_string();
    let table = culvert(&lab, 1, &["explain", "shop/client", "server.shop.svc.cluster.local:80"])?;
    let table = String::from_utf8(table.stdout)?;
    for line in ["service     server.shop.svc.cluster.local", "HBONE tunnel to 10.2.0.10:15008"] {
        assert!(table.contains(line), "{table}");
    }
    let unknown = culvert(&lab, 1, &["explain", "shop/nobody", &to])?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8(unknown.stderr)?.contains("shop/nobody is no pod of the mesh"));
    for (command, word) in [
        ("workloads", "client"),
        ("services", "10.96.0.10"),
        ("policies", "policy.yaml:1"),
        ("certificates", "spiffe://cluster.local/ns/shop/sa/client"),
        ("problems", "WHERE"),
        ("status", "ready"),
        ("connections", "DIRECTION"),
    ] {
        let said = culvert(&lab, 1, &[command])?;
        let text = String::from_utf8(said.stdout)?;
        assert!(said.status.success() && text.contains(word), "{command}: {text}");
    }
    Ok(())
}
