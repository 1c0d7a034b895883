//! Who may connect to whom, and which connections end when that changes.
use std::io::Read;

use anyhow::Result;
use e2e::{Lab, Pod, lab::PodSpec, until};

use crate::{
    explain::{agrees, explained},
    mesh::{Mesh, ask, echo, is_cut, joined, pod, unmeshed},
};

/// As the field writes it: one namespace, or one kind of pod, takes no plaintext.
const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  namespace: shop\nspec:\n  mtls:\n    mode: STRICT\n";
const STRICT_FOR: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: database-strict\n  namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: server\n  mtls:\n    mode: STRICT\n";

#[test]
fn strict_refuses_plaintext_before_a_byte_and_accepts_the_mesh() -> Result<()> {
    for yaml in [STRICT, STRICT_FOR] {
        let mesh = Mesh::new()?;
        let stranger = unmeshed(&mesh.lab, 1, "stranger")?;
        let to = mesh.server.at(80);
        let listener = mesh.server.inside.listen(to)?;
        joined(&listener, &stranger.inside, to)?;
        mesh.lab.apply("strict.yaml", yaml)?;
        // One that is open when the policy comes is cut; the next is refused.
        until("plaintext is refused", || {
            let cut = is_cut(&stranger.inside, to, b"hello").is_ok();
            cut && mesh.a2.records().iter().any(|r| r.reason == "denied")
        });
        let record = mesh.a2.record("the refusal", |r| r.reason == "denied");
        let policy = record.policy.unwrap_or_default();
        assert!(policy.contains("STRICT") && policy.contains("strict.yaml:1"), "{policy}");
        let before = mesh.a2.records().len();
        listener.set_nonblocking(true)?;
        while listener.accept().is_ok() {}
        is_cut(&stranger.inside, to, b"hello")?;
        until("it was recorded", || mesh.a2.records().len() > before);
        assert!(listener.accept().is_err(), "the application was reached");
        listener.set_nonblocking(false)?;
        joined(&listener, &mesh.client.inside, to)?;
    }
    Ok(())
}

/// Word for word as a well-known introduction to service meshes has them.
const ARTICLE: [&str; 2] = [
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: database-strict\n  namespace: payment-service\nspec:\n  selector:\n    matchLabels:\n      app: postgres\n  mtls:\n    mode: STRICT\n",
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  namespace: payment-service\nspec:\n  mtls:\n    mode: STRICT\n",
];

#[test]
fn the_resources_that_users_read_of_work_unchanged() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("payment-service", true)?;
    let labels = [[("app", "postgres")], [("app", "api")]];
    let [postgres, api] = labels.each_ref().map(|labels| {
        let name = labels[0].1;
        lab.pod(2, &PodSpec { name, namespace: "payment-service", account: name, labels })
    });
    let (postgres, api) = (postgres?, api?);
    let client = [("app", "client")];
    let spec = |name, namespace| PodSpec { name, namespace, account: name, labels: &client };
    let meshed = lab.pod(1, &spec("client", "payment-service"))?;
    let stranger = unmeshed(&lab, 1, "stranger")?;
    let (_a1, _a2) = (lab.agent(1)?, lab.agent(2)?);
    for server in [&postgres, &api] {
        echo(server.inside.listen(server.at(5432))?);
    }
    let passes = |from: &Pod, to: &Pod| {
        from.inside.connect(to.at(5432)).is_ok_and(|mut stream| ask(&mut stream, 1).is_ok())
    };
    assert!(passes(&stranger, &postgres) && passes(&stranger, &api), "PERMISSIVE is the default");
    for (number, (yaml, api_open)) in ARTICLE.into_iter().zip([true, false]).enumerate() {
        lab.apply(&format!("{number}.yaml"), yaml)?;
        until("plaintext is refused where it should be", || {
            !passes(&stranger, &postgres) && passes(&stranger, &api) == api_open
        });
        assert!(passes(&meshed, &postgres) && passes(&meshed, &api), "the mesh is served");
        for (name, server, allowed) in [("postgres", &postgres, false), ("api", &api, api_open)] {
            let said = explained(&lab, "shop/stranger", &server.at(5432).to_string())?;
            assert_eq!(said["allowed"], allowed, "{name}: {said:#}");
        }
    }
    Ok(())
}

#[test]
fn a_port_may_be_an_exception_from_strict() -> Result<()> {
    let mesh = Mesh::new()?;
    let stranger = unmeshed(&mesh.lab, 1, "stranger")?;
    let ports = "  portLevelMtls:\n    8080: {mode: PERMISSIVE}\n";
    mesh.lab.apply("strict.yaml", &format!("{STRICT_FOR}{ports}"))?;
    echo(mesh.server.inside.listen(mesh.server.at(80))?);
    echo(mesh.server.inside.listen(mesh.server.at(8080))?);
    until("plaintext is refused", || {
        is_cut(&stranger.inside, mesh.server.at(80), b"hello").is_ok()
    });
    ask(&mut stranger.inside.connect(mesh.server.at(8080))?, 1)?;
    for (port, allowed) in [(80, false), (8080, true)] {
        let said = explained(&mesh.lab, "shop/stranger", &mesh.server.at(port).to_string())?;
        assert_eq!(said["allowed"], allowed, "{port}: {said:#}");
    }
    Ok(())
}

/// A policy for all pods of the namespace.
fn policy(action: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
         spec:\n  selector: {{matchLabels: {{app: server}}}}\n  action: {action}\n  rules:\n  - {rule}\n"
    )
}

#[test]
fn allow_and_deny_by_principal_namespace_port_and_address() -> Result<()> {
    let mesh = Mesh::new()?;
    let (to, other) = (mesh.server.at(80), mesh.server.at(81));
    echo(mesh.server.inside.listen(to)?);
    echo(mesh.server.inside.listen(other)?);
    let client = &mesh.client.inside;
    let passes = |to| client.connect(to).is_ok_and(|mut stream| ask(&mut stream, 1).is_ok());
    for (action, rule, on_80, on_81) in [
        ("ALLOW", "from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]", true, true),
        ("ALLOW", "from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]", false, false),
        (
            "ALLOW",
            "{from: [{source: {namespaces: [sh*]}}], to: [{operation: {ports: ['80']}}]}",
            true,
            false,
        ),
        ("DENY", "from: [{source: {namespaces: [shop]}}]", false, false),
        ("DENY", "to: [{operation: {ports: ['81']}}]", true, false),
        ("ALLOW", "from: [{source: {ipBlocks: [10.1.0.0/24]}}]", true, true),
        ("DENY", "from: [{source: {notIpBlocks: [10.1.0.0/24]}}]", true, true),
        ("ALLOW", "when: [{key: destination.port, values: ['80']}]", true, false),
        // Methods need HTTP: never allowed; and a denial keeps what is left of it.
        ("ALLOW", "to: [{operation: {methods: [GET]}}]", false, false),
        ("DENY", "to: [{operation: {methods: [GET], ports: ['80']}}]", false, true),
    ] {
        mesh.lab.apply("policy.yaml", &policy(action, rule))?;
        until(&format!("{action} {rule}"), || passes(to) == on_80 && passes(other) == on_81);
        for (address, allowed) in [(to, on_80), (other, on_81)] {
            agrees(&mesh.lab, ("shop/client", &address.to_string()), allowed);
        }
    }
    let dump = mesh.a2.dump()?;
    let problems = dump["problems"].as_array().cloned().unwrap_or_default();
    assert!(
        problems.iter().any(|p| p["text"].as_str().is_some_and(|t| t.contains("methods"))),
        "{dump}"
    );
    let denied = mesh.a2.record("a denial", |r| r.reason == "denied");
    assert_eq!(denied.source_identity, Some(mesh.client.identity()));
    assert!(denied.policy.is_some_and(|policy| policy.contains("policy.yaml:1")));
    let told = mesh
        .a1
        .record("the client's side", |r| r.error.as_deref().is_some_and(|e| e.contains("401")));
    assert_eq!(told.source_identity, Some(mesh.client.identity()));
    assert_eq!(told.destination_identity, Some(mesh.server.identity()));
    Ok(())
}

#[test]
fn a_change_of_policy_closes_exactly_the_connections_that_it_forbids() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let (one, two) = (pod(&lab, 1, "one")?, pod(&lab, 1, "two")?);
    let (server, stranger) = (pod(&lab, 2, "server")?, unmeshed(&lab, 1, "stranger")?);
    let (_a1, a2) = (lab.agent(1)?, lab.agent(2)?);
    let to = server.at(80);
    echo(server.inside.listen(to)?);
    let mut streams =
        [one.inside.connect(to)?, two.inside.connect(to)?, stranger.inside.connect(to)?];
    for stream in &mut streams {
        ask(stream, 1)?;
    }
    let [mut of_one, mut of_two, mut plain] = streams;
    let rule = "from: [{source: {principals: [cluster.local/ns/shop/sa/one]}}]";
    lab.apply("policy.yaml", &policy("DENY", rule))?;
    let revoked = a2.record("one is cut", |r| r.reason == "revoked");
    assert_eq!(revoked.source_identity, Some(one.identity()));
    assert!(of_one.read(&mut [0; 8]).is_err(), "a cut stream looks whole");
    ask(&mut of_two, 2)?;
    ask(&mut plain, 2)?;
    lab.apply("strict.yaml", STRICT)?;
    a2.record("plaintext is cut", |r| r.reason == "revoked" && r.protocol == "tcp");
    assert!(plain.read(&mut [0; 8]).is_err());
    ask(&mut of_two, 3)?;
    // A label takes the pod out of the policy's reach, or into it.
    lab.declare(&server, &[("app", "other")])?;
    until("one may connect again", || {
        one.inside.connect(to).is_ok_and(|mut stream| ask(&mut stream, 4).is_ok())
    });
    ask(&mut of_two, 5)
}

#[test]
fn audit_and_dry_run_are_noted_in_the_log_and_change_nothing() -> Result<()> {
    let mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    let rule = "from: [{source: {namespaces: [shop]}}]";
    let dry = "metadata: {name: d, namespace: shop, annotations: {istio.io/dry-run: 'true'}}";
    let tried = policy("DENY", rule).replace("metadata: {name: p, namespace: shop}", dry);
    mesh.lab.apply("policy.yaml", &format!("{}---\n{tried}", policy("AUDIT", rule)))?;
    let noted = |name: &str| -> Option<serde_json::Value> {
        let log = mesh.a2.log();
        let mut lines = log.lines().filter_map(|l| serde_json::from_str(l).ok());
        lines.find(|l: &serde_json::Value| l["message"] == "policy matched" && l["policy"] == name)
    };
    until("both are noted", || {
        let asked = mesh.client.inside.connect(to).map(|mut stream| ask(&mut stream, 1));
        assert!(asked.is_ok_and(|answered| answered.is_ok()), "it is refused");
        noted("shop/p").is_some() && noted("shop/d").is_some()
    });
    for (name, action, dry_run) in [("shop/p", "AUDIT", false), ("shop/d", "DENY", true)] {
        let line = noted(name).unwrap_or_default();
        assert_eq!((&line["level"], &line["rule"]), (&"INFO".into(), &0.into()), "{line:#}");
        assert_eq!((&line["action"], &line["dry_run"]), (&action.into(), &dry_run.into()));
        assert_eq!(line["src.identity"], mesh.client.identity());
        assert_eq!(line["dst.addr"], to.to_string());
        assert_eq!(line["dst.workload"], "server");
    }
    Ok(())
}

#[test]
fn a_policy_that_was_damaged_when_the_agent_started_allows_nothing() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    ask(&mut mesh.client.inside.connect(to)?, 1)?;
    mesh.a2.kill()?;
    let rule = "from: [{source: {namespaces: [evil]}}]";
    let good = policy("DENY", rule);
    mesh.lab.apply("policy.yaml", &good.replace("rules:", "rules: ["))?;
    mesh.a2.restart()?;
    is_cut(&mesh.client.inside, to, b"hello")?;
    mesh.a2.record("it says why", |r| r.policy.as_deref().is_some_and(|p| p.contains("damaged")));
    mesh.lab.apply("policy.yaml", &good)?;
    until("all is well again", || {
        mesh.client.inside.connect(to).is_ok_and(|mut stream| ask(&mut stream, 2).is_ok())
    });
    Ok(())
}
