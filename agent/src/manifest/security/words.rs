//! Pure: fields of policies that nobody knows, which are misspelt: each may be what the policy is about.
//! Never: fields that are known and cannot be asked.
use std::collections::BTreeMap;

use serde_json::Value;

use super::{PeerSpec, PolicySpec};
use crate::origin::Problem;

/// What is said of such a field, at the end.
const UNKNOWN: &str = "is not known";
/// What is said of such an action, and of such a mode.
pub(super) const UNSUPPORTED: &str = "is not supported: what its rules match is denied";
pub(super) const NO_MODE: &str = "is none of STRICT, PERMISSIVE, DISABLE, UNSET";

const SOURCE: [&str; 12] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];
const OPERATION: [&str; 8] =
    ["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"];
/// What a `when` may ask for; what follows a bracket or a full stop at the end is a name.
const KEYS: [&str; 14] = [
    "request.headers[",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "experimental.envoy.filters.",
];

/// Whether a problem is that a policy is misspelt, which Istio's API server would refuse.
pub fn is_misspelt(problem: &Problem) -> bool {
    problem.text.ends_with(UNKNOWN)
        || [UNSUPPORTED, NO_MODE].iter().any(|words| problem.text.contains(words))
}

/// What is misspelt in an AuthorizationPolicy.
pub(super) fn policy(spec: &PolicySpec) -> Vec<String> {
    let mut said = unknown("spec", spec.rest.keys());
    said.extend(unknown("spec.selector", spec.selector.rest.keys()));
    for (number, rule) in spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{number}]");
        said.extend(unknown(&at, rule.rest.keys()));
        for from in &rule.from {
            said.extend(unknown(&format!("{at}.from"), from.rest.keys()));
            let fields = strangers(&from.source, &SOURCE);
            said.extend(unknown(&format!("{at}.from.source"), fields));
        }
        for to in &rule.to {
            said.extend(unknown(&format!("{at}.to"), to.rest.keys()));
            let fields = strangers(&to.operation, &OPERATION);
            said.extend(unknown(&format!("{at}.to.operation"), fields));
        }
        for when in &rule.when {
            said.extend(unknown(&format!("{at}.when"), when.rest.keys()));
            let key = Some(&when.key).filter(|key| !is_key(key));
            said.extend(unknown(&format!("{at}.when.key"), key.into_iter()));
        }
    }
    said
}

/// What is misspelt in a PeerAuthentication.
pub(super) fn peer(spec: &PeerSpec) -> Vec<String> {
    let ports = spec.port_level_mtls.iter();
    let ports = ports.map(|(port, mtls)| (format!("spec.portLevelMtls.{port}"), &mtls.rest));
    let all = [
        ("spec".to_owned(), &spec.rest),
        ("spec.selector".to_owned(), &spec.selector.rest),
        ("spec.mtls".to_owned(), &spec.mtls.rest),
    ];
    let all = all.into_iter().chain(ports);
    all.flat_map(|(at, rest)| unknown(&at, rest.keys())).collect()
}

fn unknown<'a>(at: &str, fields: impl Iterator<Item = &'a String>) -> Vec<String> {
    fields.map(|field| format!("{at}.{field} {UNKNOWN}")).collect()
}

fn is_key(key: &str) -> bool {
    KEYS.iter().any(|known| match known.ends_with(['[', '.']) {
        true => key.starts_with(known),
        false => key == *known,
    })
}

fn strangers<'a>(
    fields: &'a BTreeMap<String, Value>,
    known: &'a [&str],
) -> impl Iterator<Item = &'a String> {
    fields.keys().filter(|field| !known.contains(&field.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_named_with_its_place() {
        let said = |spec: &str| policy(&serde_json::from_str(spec).unwrap());
        assert_eq!(said(r#"{"acton":"DENY"}"#), ["spec.acton is not known"]);
        let rules = r#"{"selector":{"matchLabel":{}},"rules":[{},{"form":[],"from":[{"source":{"principal":[],"namespaces":[]}}],
            "to":[{"operation":{"method":[],"paths":[]},"x":1}],"when":[{"key":"source.ip"},{"key":"request.headers[x]"},{"key":"request.header[x]","value":[]}]}]}"#;
        assert_eq!(
            said(rules),
            [
                "spec.selector.matchLabel is not known",
                "spec.rules[1].form is not known",
                "spec.rules[1].from.source.principal is not known",
                "spec.rules[1].to.x is not known",
                "spec.rules[1].to.operation.method is not known",
                "spec.rules[1].when.value is not known",
                "spec.rules[1].when.key.request.header[x] is not known",
            ]
        );
        let said = |spec: &str| peer(&serde_json::from_str(spec).unwrap());
        let spec = r#"{"mtls":{"mod":"STRICT"},"portLevelMtls":{"80":{"modes":"x"}}}"#;
        assert_eq!(
            said(spec),
            ["spec.mtls.mod is not known", "spec.portLevelMtls.80.modes is not known"]
        );
    }
}
