//! Pure: a rule that delegates, and one of its delegate's → the rule that comes of both (Istio's
//! `mergeHTTPRoute`).
//! Never: looks for a delegate.
use std::collections::BTreeMap;

use super::virtual_service::{HttpMatch, HttpRoute, StringMatch};

/// What the delegate's rule is below the root's; `None` when it asks for something that the root never
/// lets through.
pub(super) fn merged(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let redirect = delegate.redirect.is_some();
    Some(HttpRoute {
        name: joined(&root.name, &delegate.name),
        matches: blocks(&root.matches, &delegate.matches)?,
        route: delegate.route.clone(),
        redirect: delegate.redirect.clone(),
        // With destinations, or a redirect, of its own there is nothing left to answer.
        direct_response: delegate.direct_response.clone().or_else(|| {
            let routed = redirect || !delegate.route.is_empty();
            root.direct_response.clone().filter(|_| !routed)
        }),
        delegate: None,
        rewrite: delegate.rewrite.clone().or_else(|| root.rewrite.clone()),
        timeout: delegate.timeout.or(root.timeout),
        retries: delegate.retries.clone().or_else(|| root.retries.clone()),
        fault: delegate.fault.clone().or_else(|| root.fault.clone()),
        mirror: delegate.mirror.clone().or_else(|| root.mirror.clone()),
        mirrors: if delegate.mirrors.is_empty() { &root.mirrors } else { &delegate.mirrors }
            .clone(),
        mirror_percent: delegate.mirror_percent.or(root.mirror_percent),
        mirror_percentage: delegate.mirror_percentage.or(root.mirror_percentage),
        cors_policy: delegate.cors_policy.clone().or_else(|| root.cors_policy.clone()),
        headers: delegate.headers.clone().or_else(|| root.headers.clone()),
    })
}

fn joined(root: &str, delegate: &str) -> String {
    match (root, delegate) {
        ("", name) | (name, "") => name.to_owned(),
        (root, delegate) => format!("{root}-{delegate}"),
    }
}

/// Each block of the delegate must fit below one of the root; on a side without blocks there are all.
fn blocks(root: &[HttpMatch], delegate: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(delegate.to_vec());
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut all = Vec::new();
    for leaf in delegate {
        let before = all.len();
        all.extend(root.iter().filter(|root| fits(root, leaf)).map(|root| block(root, leaf)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

fn block(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    fn union<V: Clone>(
        root: &BTreeMap<String, V>,
        leaf: &BTreeMap<String, V>,
    ) -> BTreeMap<String, V> {
        root.iter().chain(leaf).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
    let word = |root: &String, leaf: &String| if leaf.is_empty() { root } else { leaf }.clone();
    HttpMatch {
        name: joined(&root.name, &leaf.name),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: union(&root.headers, &leaf.headers),
        port: if leaf.port == 0 { root.port } else { leaf.port },
        source_labels: union(&root.source_labels, &leaf.source_labels),
        gateways: if leaf.gateways.is_empty() { &root.gateways } else { &leaf.gateways }.clone(),
        query_params: union(&root.query_params, &leaf.query_params),
        ignore_uri_case: leaf.ignore_uri_case,
        without_headers: union(&root.without_headers, &leaf.without_headers),
        source_namespace: word(&root.source_namespace, &leaf.source_namespace),
        stat_prefix: word(&root.stat_prefix, &leaf.stat_prefix),
    }
}

/// Whether a block asks for nothing that the root's block keeps out.
fn fits(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let within = |root: &BTreeMap<String, StringMatch>, leaf: &BTreeMap<String, StringMatch>| {
        leaf.iter().all(|(key, value)| root.get(key).is_none_or(|root| below(root, value)))
    };
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let below = |(root, leaf): (&Option<StringMatch>, &Option<StringMatch>)| match (root, leaf) {
        (Some(root), Some(leaf)) => below(root, leaf),
        _ => true,
    };
    texts.into_iter().all(below)
        && within(&root.headers, &leaf.headers)
        && within(&root.without_headers, &leaf.without_headers)
        && within(&root.query_params, &leaf.query_params)
        && root.ignore_uri_case == leaf.ignore_uri_case
        && (root.port == 0 || leaf.port == 0 || root.port == leaf.port)
        && (root.source_namespace.is_empty() || root.source_namespace == leaf.source_namespace)
        && leaf.source_labels.iter().all(|(k, v)| root.source_labels.get(k).is_none_or(|o| o == v))
        && (root.gateways.is_empty() || leaf.gateways.iter().all(|g| root.gateways.contains(g)))
}

/// Whether every text of the leaf is one of the root. Of expressions nobody can tell.
fn below(root: &StringMatch, leaf: &StringMatch) -> bool {
    fn given(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|text| !text.is_empty())
    }
    let asks = |of: &StringMatch| of.regex.as_ref().is_some_and(|regex| !regex.as_str().is_empty());
    if asks(root) || asks(leaf) {
        return false;
    }
    match (given(&root.exact), given(&root.prefix)) {
        (Some(exact), _) => given(&leaf.exact) == Some(exact),
        (None, Some(prefix)) => {
            let leaf = given(&leaf.prefix).or(given(&leaf.exact));
            leaf.is_some_and(|leaf| leaf.starts_with(prefix))
        }
        (None, None) => false,
    }
}
