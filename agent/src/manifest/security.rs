//! Pure: AuthorizationPolicy and PeerAuthentication, as Kubernetes has them → policies.
//! Never: drops what it does not understand: such a field makes an ALLOW rule match nothing, and
//! leaves a DENY rule its other conditions.
mod words;

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

pub use self::words::is_misspelt;
use super::objects::Metadata;
use crate::{
    origin::{Origin, Problem},
    policy::{
        Action, Clause, Condition, Mode, Pattern, PeerAuthentication, Policy, Rule, Scope, Target,
        model::Test,
    },
};

/// Keeps a policy from being enforced: it only says what it would have done.
const DRY_RUN: &str = "istio.io/dry-run";

/// An AuthorizationPolicy.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct AuthorizationPolicy {
    pub(super) metadata: Metadata,
    #[serde(default)]
    spec: PolicySpec,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct PolicySpec {
    action: String,
    selector: LabelSelector,
    target_ref: Value,
    target_refs: Vec<Value>,
    rules: Vec<RuleSpec>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct LabelSelector {
    match_labels: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct RuleSpec {
    from: Vec<From>,
    to: Vec<To>,
    when: Vec<When>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct From {
    source: BTreeMap<String, Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct To {
    operation: BTreeMap<String, Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct When {
    key: String,
    values: Vec<String>,
    not_values: Vec<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// A PeerAuthentication.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct PeerAuthenticationObject {
    pub(super) metadata: Metadata,
    #[serde(default)]
    spec: PeerSpec,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct PeerSpec {
    selector: LabelSelector,
    mtls: Mtls,
    port_level_mtls: BTreeMap<String, Mtls>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Mtls {
    mode: String,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Fields by name.
type Fields = BTreeMap<String, Value>;

/// Gathers what was not understood, for the report.
struct Report<'a> {
    origin: &'a Origin,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, text: String) {
        self.problems.push(Problem { origin: self.origin.clone(), text });
    }
}

fn scope(metadata: &Metadata, selector: &LabelSelector, root: &str) -> Scope {
    let namespace = (metadata.namespace != root).then(|| metadata.namespace.as_str().into());
    Scope { namespace, selector: selector.match_labels.clone() }
}

/// The policy, and what it is attached to if waypoints ask it.
pub(super) fn policy(
    object: &AuthorizationPolicy,
    origin: &Origin,
    root: &str,
    problems: &mut Vec<Problem>,
) -> (Policy, Vec<Target>) {
    let mut report = Report { origin, problems };
    let (metadata, spec) = (&object.metadata, &object.spec);
    let single = Some(&spec.target_ref).filter(|target| !target.is_null());
    let targets: Vec<_> = spec.target_refs.iter().chain(single).map(target).collect();
    if targets.contains(&Target::Unknown) {
        report.add("targetRefs must name a Service, ServiceEntry, Gateway or GatewayClass: until then the policy is for everything of its namespace that passes a waypoint".into());
    }
    let action = match spec.action.as_str() {
        "" | "ALLOW" => Action::Allow,
        "DENY" => Action::Deny,
        "AUDIT" => Action::Audit,
        other => {
            report.add(format!("action {other} {}", words::UNSUPPORTED));
            Action::Deny
        }
    };
    words::policy(spec).into_iter().for_each(|text| report.add(text));
    let rules = spec.rules.iter().map(|rule| compile_rule(rule, &metadata.namespace)).collect();
    let policy = Policy {
        name: format!("{}/{}", metadata.namespace, metadata.name).into(),
        origin: origin.clone(),
        action,
        dry_run: metadata.annotations.get(DRY_RUN).is_some_and(|value| value == "true"),
        scope: scope(metadata, &spec.selector, root),
        rules,
    };
    for (number, rule) in policy.rules.iter().enumerate() {
        for field in &rule.unsupported {
            let effect = match action {
                Action::Allow => "the rule allows nothing",
                Action::Deny => "the rule denies whatever its other fields match",
                Action::Audit => "the rule notes nothing",
            };
            let why = match targets.is_empty() {
                true => "cannot be asked without HTTP",
                false => "is not asked by waypoints yet",
            };
            report.add(format!("rule {number}: {field} {why}: {effect}"));
        }
    }
    (policy, targets)
}

fn target(reference: &Value) -> Target {
    let name = reference["name"].as_str().map(str::to_owned);
    match (reference["kind"].as_str().unwrap_or_default(), name) {
        ("Service", Some(name)) => Target::Service(name),
        ("ServiceEntry", Some(name)) => Target::ServiceEntry(name),
        ("Gateway", Some(name)) => Target::Gateway(name),
        ("GatewayClass", Some(name)) => Target::GatewayClass(name),
        _ => Target::Unknown,
    }
}

fn compile_rule(spec: &RuleSpec, namespace: &str) -> Rule {
    let mut rule = Rule::default();
    rule.unsupported.extend(spec.rest.keys().cloned());
    let from: Vec<_> = spec.from.iter().map(|from| (&from.source, &from.rest)).collect();
    let to: Vec<_> = spec.to.iter().map(|to| (&to.operation, &to.rest)).collect();
    for (group, alternatives) in [("from.source", from), ("to.operation", to)] {
        if !alternatives.is_empty() {
            let clause = clause(group, &alternatives, namespace, &mut rule.unsupported);
            rule.clauses.push(clause);
        }
    }
    for when in &spec.when {
        if when.values.is_empty() && when.not_values.is_empty() || !when.rest.is_empty() {
            rule.unsupported.push(format!("when.{} without values, or with others", when.key));
        }
        for (negative, values) in [(false, &when.values), (true, &when.not_values)] {
            match when_test(&when.key, values, namespace) {
                _ if values.is_empty() => {}
                Some((field, test)) => {
                    let alternatives = vec![vec![Condition { field, negative, test }]];
                    rule.clauses.push(Clause { alternatives });
                }
                None => rule.unsupported.push(format!("when.{}", when.key)),
            }
        }
    }
    rule
}

/// The alternatives of `from` or `to`. One of which nothing can be asked at L4 holds: its rule never
/// allows, and denies by the rest. One that asks nothing at all is none, as in Istio.
fn clause(
    group: &str,
    sources: &[(&Fields, &Fields)],
    namespace: &str,
    unsupported: &mut Vec<String>,
) -> Clause {
    let mut alternatives = Vec::new();
    for (fields, rest) in sources.iter().filter(|(a, b)| !a.is_empty() || !b.is_empty()) {
        let (mut conditions, mut unknown) = (Vec::new(), Vec::new());
        unknown.extend(rest.keys().map(|field| format!("{field} beside {group}")));
        for (field, value) in *fields {
            let known = test(group, field, value, namespace);
            unknown.extend(known.is_none().then(|| format!("{group}.{field}")));
            conditions.extend(known);
        }
        unsupported.extend(unknown);
        alternatives.push(conditions);
    }
    Clause { alternatives }
}

/// The condition of one field; `None` when it cannot be asked at L4, or has a value of no sense.
fn test(group: &str, field: &str, value: &Value, namespace: &str) -> Option<Condition> {
    let values: Vec<String> = value
        .as_array()?
        .iter()
        .map(|v| v.as_str().map(ToOwned::to_owned))
        .collect::<Option<_>>()?;
    let patterns = || values.iter().map(|text| Pattern::new(text)).collect::<Vec<_>>();
    let (field, negative, test) = match (group, field) {
        ("from.source", "principals") => {
            ("from.source.principals", false, Test::Principal(principals(&values)))
        }
        ("from.source", "notPrincipals") => {
            ("from.source.notPrincipals", true, Test::Principal(principals(&values)))
        }
        ("from.source", "namespaces") => {
            ("from.source.namespaces", false, Test::Namespace(patterns()))
        }
        ("from.source", "notNamespaces") => {
            ("from.source.notNamespaces", true, Test::Namespace(patterns()))
        }
        ("from.source", "serviceAccounts") => {
            ("from.source.serviceAccounts", false, accounts(&values, namespace)?)
        }
        ("from.source", "notServiceAccounts") => {
            ("from.source.notServiceAccounts", true, accounts(&values, namespace)?)
        }
        ("from.source", "ipBlocks") => {
            ("from.source.ipBlocks", false, Test::SourceIp(blocks(&values)?))
        }
        ("from.source", "notIpBlocks") => {
            ("from.source.notIpBlocks", true, Test::SourceIp(blocks(&values)?))
        }
        // Without HTTP there is no other client than the one that connects.
        ("from.source", "remoteIpBlocks") => {
            ("from.source.remoteIpBlocks", false, Test::SourceIp(blocks(&values)?))
        }
        ("from.source", "notRemoteIpBlocks") => {
            ("from.source.notRemoteIpBlocks", true, Test::SourceIp(blocks(&values)?))
        }
        ("to.operation", "ports") => {
            ("to.operation.ports", false, Test::DestinationPort(ports(&values)?))
        }
        ("to.operation", "notPorts") => {
            ("to.operation.notPorts", true, Test::DestinationPort(ports(&values)?))
        }
        _ => return None,
    };
    Some(Condition { field, negative, test })
}

fn when_test(key: &str, values: &[String], namespace: &str) -> Option<(&'static str, Test)> {
    let patterns = || values.iter().map(|text| Pattern::new(text)).collect::<Vec<_>>();
    Some(match key {
        "source.principal" => ("when source.principal", Test::Principal(principals(values))),
        "source.namespace" => ("when source.namespace", Test::Namespace(patterns())),
        "source.serviceAccount" => ("when source.serviceAccount", accounts(values, namespace)?),
        "source.ip" => ("when source.ip", Test::SourceIp(blocks(values)?)),
        "remote.ip" => ("when remote.ip", Test::SourceIp(blocks(values)?)),
        "destination.ip" => ("when destination.ip", Test::DestinationIp(blocks(values)?)),
        "destination.port" => ("when destination.port", Test::DestinationPort(ports(values)?)),
        _ => return None,
    })
}

/// Some write principals as SPIFFE IDs, though Istio's form lacks the scheme.
fn principals(values: &[String]) -> Vec<Pattern> {
    let bare = |text: &String| Pattern::new(text.strip_prefix("spiffe://").unwrap_or(text));
    values.iter().map(bare).collect()
}

/// `namespace/account`, or `account` in the policy's own namespace.
fn accounts(values: &[String], namespace: &str) -> Option<Test> {
    let account = |text: &String| match text.split_once('/') {
        Some((namespace, account)) => (namespace.to_owned(), account.to_owned()),
        None => (namespace.to_owned(), text.clone()),
    };
    let accounts: Vec<_> = values.iter().map(account).collect();
    let whole = accounts.iter().all(|(n, a)| !n.is_empty() && !a.is_empty() && !a.contains('/'));
    whole.then_some(Test::ServiceAccount(accounts))
}

fn blocks(values: &[String]) -> Option<Vec<IpNet>> {
    let block = |text: &String| {
        text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
    };
    values.iter().map(block).collect()
}

fn ports(values: &[String]) -> Option<Vec<u16>> {
    values.iter().map(|text| text.parse().ok().filter(|port| *port > 0)).collect()
}

/// What the object asks for. A mode that nobody knows is taken for STRICT.
pub(super) fn peer_authentication(
    object: &PeerAuthenticationObject,
    origin: &Origin,
    root: &str,
    problems: &mut Vec<Problem>,
) -> PeerAuthentication {
    let mut report = Report { origin, problems };
    let (metadata, spec) = (&object.metadata, &object.spec);
    words::peer(spec).into_iter().for_each(|text| report.add(text));
    let mut scope = scope(metadata, &spec.selector, root);
    // Unlike an AuthorizationPolicy's, a selector never reaches beyond its own namespace.
    if !scope.selector.is_empty() {
        scope.namespace = Some(metadata.namespace.as_str().into());
    }
    let mode = mode(&spec.mtls.mode, &mut report);
    let mut ports = BTreeMap::new();
    for (port, mtls) in &spec.port_level_mtls {
        match port.parse() {
            Ok(_) if scope.selector.is_empty() => {
                report.add("portLevelMtls needs a selector, and is left out".into());
            }
            Ok(number) => drop(ports.insert(number, self::mode(&mtls.mode, &mut report))),
            Err(_) => report.add(format!("portLevelMtls: {port:?} is no port")),
        }
    }
    PeerAuthentication {
        name: format!("{}/{}", metadata.namespace, metadata.name).into(),
        origin: origin.clone(),
        created: metadata.creation_timestamp.clone(),
        scope,
        mode,
        ports,
    }
}

fn mode(text: &str, report: &mut Report<'_>) -> Option<Mode> {
    match text {
        "" | "UNSET" => None,
        "STRICT" => Some(Mode::Strict),
        "PERMISSIVE" | "DISABLE" => Some(Mode::Permissive),
        other => {
            report.add(format!("mtls.mode {other:?} {}: STRICT is assumed", words::NO_MODE));
            Some(Mode::Strict)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy_of(spec: &str) -> (Policy, Vec<Problem>) {
        let value = serde_json::json!({ "metadata": { "name": "p", "namespace": "shop" },
            "spec": serde_json::from_str::<Value>(spec).unwrap() });
        let object: AuthorizationPolicy = serde_json::from_value(value).unwrap();
        let origin = Origin { file: "m.yaml".into(), line: 1 };
        let mut problems = Vec::new();
        let policy = policy(&object, &origin, "istio-system", &mut problems);
        (policy.0, problems)
    }

    #[test]
    fn what_http_alone_can_tell_is_kept_as_unsupported_and_reported() {
        for (spec, unsupported) in [
            (r#"{"rules":[{"to":[{"operation":{"methods":["GET"]}}]}]}"#, "to.operation.methods"),
            (
                r#"{"rules":[{"to":[{"operation":{"paths":["/a"],"ports":["80"]}}]}]}"#,
                "to.operation.paths",
            ),
            (
                r#"{"rules":[{"from":[{"source":{"requestPrincipals":["*"]}}]}]}"#,
                "from.source.requestPrincipals",
            ),
            (
                r#"{"rules":[{"when":[{"key":"request.headers[x]","values":["y"]}]}]}"#,
                "when.request.headers[x]",
            ),
            (r#"{"rules":[{"to":[{"operation":{"ports":["http"]}}]}]}"#, "to.operation.ports"),
            (
                r#"{"rules":[{"from":[{"source":{"ipBlocks":["10.0.0.0/99"]}}]}]}"#,
                "from.source.ipBlocks",
            ),
            (r#"{"rules":[{"form":[]}]}"#, "form"),
        ] {
            let (policy, problems) = policy_of(spec);
            assert_eq!(policy.rules[0].unsupported, [unsupported], "{spec}");
            assert!(problems[0].text.contains(unsupported), "{problems:?}");
        }
    }

    #[test]
    fn the_l4_part_of_each_field_is_understood() {
        let (policy, problems) = policy_of(
            r#"{"action":"DENY","selector":{"matchLabels":{"app":"x"}},"rules":[{
                "from":[{"source":{"principals":["cluster.local/ns/a/sa/*"],"notNamespaces":["b"],
                    "serviceAccounts":["a/x","y"],"ipBlocks":["10.0.0.0/8","fd00::1"],"notRemoteIpBlocks":["10.9.0.0/16"]}}],
                "to":[{"operation":{"ports":["80"],"notPorts":["81"]}}],
                "when":[{"key":"source.namespace","values":["a"],"notValues":["c"]},{"key":"destination.port","values":["80"]}]}]}"#,
        );
        assert!(problems.is_empty(), "{problems:?}");
        let rule = &policy.rules[0];
        assert!(rule.unsupported.is_empty());
        let counts: Vec<_> = rule.clauses.iter().map(|c| c.alternatives[0].len()).collect();
        assert_eq!(counts, [5, 2, 1, 1, 1]);
        assert_eq!(policy.scope.namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn a_mode_that_nobody_knows_is_strict_and_ports_need_a_selector() {
        for (spec, mode, ports, problems) in [
            (r#"{"mtls":{"mode":"STRICT"}}"#, Some(Mode::Strict), 0, 0),
            (r#"{"mtls":{"mode":"DISABLE"}}"#, Some(Mode::Permissive), 0, 0),
            (r#"{"mtls":{"mode":"UNSET"}}"#, None, 0, 0),
            (r#"{"mtls":{"mode":"STRCIT"}}"#, Some(Mode::Strict), 0, 1),
            (r#"{"portLevelMtls":{"80":{"mode":"STRICT"}}}"#, None, 0, 1),
            (
                r#"{"selector":{"matchLabels":{"a":"b"}},"portLevelMtls":{"80":{"mode":"STRICT"}}}"#,
                None,
                1,
                0,
            ),
            (r#"{"selectr":{}}"#, None, 0, 1),
        ] {
            let value = serde_json::json!({ "metadata": { "name": "p", "namespace": "istio-system" },
                "spec": serde_json::from_str::<Value>(spec).unwrap() });
            let object = serde_json::from_value(value).unwrap();
            let origin = Origin { file: "m.yaml".into(), line: 1 };
            let mut found = Vec::new();
            let peer = peer_authentication(&object, &origin, "istio-system", &mut found);
            assert_eq!(
                (peer.mode, peer.ports.len(), found.len()),
                (mode, ports, problems),
                "{spec}"
            );
        }
    }

    #[test]
    fn what_is_misspelt_never_allows_and_is_reported() {
        for spec in [
            r#"{"rules": [{"from": [{"principals": ["x"]}]}]}"#,
            r#"{"rules": [{"to": [{"ports": ["80"]}]}]}"#,
            r#"{"rules": [{"when": [{"key": "source.ip"}]}]}"#,
            r#"{"rules": [{"when": [{"key": "source.namespace", "value": ["x"]}]}]}"#,
        ] {
            let (policy, problems) = policy_of(spec);
            assert!(!policy.rules[0].unsupported.is_empty(), "{spec}");
            assert!(!problems.is_empty(), "{spec}");
        }
        // Of a DENY what is left decides: here everything.
        let (deny, _) =
            policy_of(r#"{"action": "DENY", "rules": [{"from": [{"principals": ["x"]}]}]}"#);
        assert_eq!(deny.rules[0].clauses[0].alternatives, [vec![]]);
    }
}
