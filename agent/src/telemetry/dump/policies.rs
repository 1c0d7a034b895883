//! Pure: policies as `istioctl ztunnel-config` reads them: rules of clauses of matches.
//! Never: a condition left out.
use serde_json::{Map, Value, json};

use crate::policy::{
    Action, Clause, Condition, Mode, Pattern, PeerAuthentication, Policy, Rule, Scope, Test,
};

/// An AuthorizationPolicy.
pub(super) fn policy(policy: &Policy) -> Value {
    let (namespace, name) = policy.name.split_once('/').unwrap_or_default();
    let unsupported: Vec<_> = (policy.rules.iter().enumerate())
        .flat_map(|(n, rule)| {
            rule.unsupported.iter().map(move |field| format!("rule {n}: {field}"))
        })
        .collect();
    json!({
        "kind": "AuthorizationPolicy",
        "name": name,
        "namespace": namespace,
        "scope": scope(&policy.scope),
        "action": match policy.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
            Action::Audit => "Audit",
        },
        "dryRun": policy.dry_run,
        "rules": policy.rules.iter().map(rule).collect::<Vec<_>>(),
        "unsupported": unsupported,
        "origin": policy.origin.to_string(),
    })
}

/// A PeerAuthentication.
pub(super) fn peer(peer: &PeerAuthentication) -> Value {
    let mode = |mode: Option<Mode>| match mode {
        Some(Mode::Strict) => "STRICT",
        Some(Mode::Permissive) => "PERMISSIVE",
        None => "UNSET",
    };
    let ports = peer.ports.iter().map(|(port, of)| (port.to_string(), json!(mode(*of))));
    json!({
        "name": peer.name,
        "scope": scope(&peer.scope),
        "mode": mode(peer.mode),
        "ports": ports.collect::<Map<_, _>>(),
        "origin": peer.origin.to_string(),
    })
}

/// What a PeerAuthentication refuses, in the words of a policy: whoever has no principal, except on
/// permissive ports, or only on strict ones. `None` when it refuses nobody. Of several the closest
/// scope decides, which these words cannot say.
pub(super) fn strict(peer: &PeerAuthentication) -> Option<Value> {
    let with = |wanted: Mode| -> Vec<u16> {
        let of = |(port, mode): (&u16, &Option<Mode>)| (*mode == Some(wanted)).then_some(*port);
        peer.ports.iter().filter_map(of).collect()
    };
    let mut clauses = vec![json!([{ "notPrincipals": [{ "Presence": [] }] }])];
    match (peer.mode, with(Mode::Strict), with(Mode::Permissive)) {
        (Some(Mode::Strict), _, open) if open.is_empty() => {}
        (Some(Mode::Strict), _, open) => clauses.push(json!([{ "notDestinationPorts": open }])),
        (Some(Mode::Permissive) | None, closed, _) if closed.is_empty() => return None,
        (Some(Mode::Permissive) | None, closed, _) => {
            clauses.push(json!([{ "destinationPorts": closed }]));
        }
    }
    let (namespace, name) = peer.name.split_once('/').unwrap_or_default();
    Some(json!({
        "kind": "PeerAuthentication",
        "name": name,
        "namespace": namespace,
        "scope": scope(&peer.scope),
        "action": "Deny",
        "dryRun": false,
        "rules": [clauses],
        "origin": peer.origin.to_string(),
    }))
}

fn scope(scope: &Scope) -> &'static str {
    match (scope.selector.is_empty(), scope.namespace.is_none()) {
        (false, _) => "WorkloadSelector",
        (true, true) => "Global",
        (true, false) => "Namespace",
    }
}

fn rule(rule: &Rule) -> Value {
    rule.clauses.iter().map(clause).collect()
}

fn clause(clause: &Clause) -> Value {
    clause.alternatives.iter().map(|conditions| matching(conditions)).collect()
}

/// One match. Two conditions with one key (`ipBlocks` and `remoteIpBlocks`) must both hold, which a
/// list under that key would not say: the second stands under its own name.
fn matching(conditions: &[Condition]) -> Value {
    let mut object = Map::new();
    for condition in conditions {
        let key = key(condition);
        let key = if object.contains_key(key) { condition.field } else { key };
        object.insert(key.to_owned(), values(&condition.test));
    }
    object.into()
}

fn key(condition: &Condition) -> &'static str {
    match (&condition.test, condition.negative) {
        (Test::Principal(_), false) => "principals",
        (Test::Principal(_), true) => "notPrincipals",
        (Test::Namespace(_), false) => "namespaces",
        (Test::Namespace(_), true) => "notNamespaces",
        (Test::ServiceAccount(_), false) => "serviceAccounts",
        (Test::ServiceAccount(_), true) => "notServiceAccounts",
        (Test::SourceIp(_), false) => "sourceIps",
        (Test::SourceIp(_), true) => "notSourceIps",
        (Test::DestinationIp(_), false) => "destinationIps",
        (Test::DestinationIp(_), true) => "notDestinationIps",
        (Test::DestinationPort(_), false) => "destinationPorts",
        (Test::DestinationPort(_), true) => "notDestinationPorts",
    }
}

fn values(test: &Test) -> Value {
    match test {
        Test::Principal(patterns) | Test::Namespace(patterns) => {
            patterns.iter().map(pattern).collect()
        }
        Test::ServiceAccount(accounts) => accounts
            .iter()
            .map(
                |(namespace, account)| json!({ "namespace": namespace, "serviceAccount": account }),
            )
            .collect(),
        Test::SourceIp(blocks) | Test::DestinationIp(blocks) => json!(blocks),
        Test::DestinationPort(ports) => json!(ports),
    }
}

fn pattern(pattern: &Pattern) -> Value {
    match pattern {
        Pattern::Exact(text) => json!({ "Exact": text }),
        Pattern::Prefix(text) => json!({ "Prefix": text }),
        Pattern::Suffix(text) => json!({ "Suffix": text }),
        Pattern::Present => json!({ "Presence": [] }),
    }
}
