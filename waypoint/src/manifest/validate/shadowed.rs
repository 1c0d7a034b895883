//! Pure: rules of a VirtualService that are never reached (IST0130, IST0131; Istio's
//! `analyzeUnreachableHTTPRules`).
//! Never: refuses one for it.
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fmt::Debug,
};

use super::super::{
    finding::{Findings, What},
    virtual_service::{HttpMatch, StringMatch, VirtualService},
};

/// Blocks whose prefixes are compared with each other, at most.
const MOST: usize = 2_000;

/// Rules and blocks that those before them leave nothing to.
pub(in super::super) fn rules(object: &VirtualService, findings: &mut Findings) {
    let bare = |block: &HttpMatch| HttpMatch { name: String::new(), ..block.clone() };
    let http = object.http.iter().enumerate().map(|(number, route)| Listed {
        rule: called(&route.name, number),
        blocks: route.matches.iter().map(bare).collect(),
        names: route.matches.iter().enumerate().map(|(i, block)| called(&block.name, i)).collect(),
    });
    let http = http.collect::<Vec<_>>();
    duplicates("/spec/http", &http, findings);
    prefixes(&http, findings);
    let tls: Vec<_> = object.tls.iter().map(|route| &route.matches).collect();
    duplicates("/spec/tls", &numbered(&tls), findings);
    let tcp: Vec<_> = object.tcp.iter().map(|route| &route.matches).collect();
    duplicates("/spec/tcp", &numbered(&tcp), findings);
}

/// A rule and its conditions, with names for people.
struct Listed<M> {
    rule: String,
    blocks: Vec<M>,
    names: Vec<String>,
}

fn called(name: &str, number: usize) -> String {
    if name.is_empty() { format!("#{number}") } else { format!("{name:?}") }
}

fn numbered<M: Clone>(all: &[&Vec<M>]) -> Vec<Listed<M>> {
    let listed = all.iter().enumerate().map(|(number, blocks)| Listed {
        rule: called("", number),
        blocks: blocks.to_vec(),
        names: (0..blocks.len()).map(|number| called("", number)).collect(),
    });
    listed.collect()
}

fn duplicates<M: Debug>(at: &str, rules: &[Listed<M>], findings: &mut Findings) {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut catch_all = false;
    for (number, listed) in rules.iter().enumerate() {
        let at = format!("{at}/{number}");
        let unreachable = |reason| What::Unreachable { rule: listed.rule.clone(), reason };
        if listed.blocks.is_empty() {
            if catch_all {
                findings.add(&at, unreachable("only the last rule can have no matches"));
            }
            catch_all = true;
            continue;
        }
        if catch_all {
            findings.add(&at, unreachable("route without matches defined before"));
            continue;
        }
        let mut duplicates = 0;
        for (index, (block, name)) in listed.blocks.iter().zip(&listed.names).enumerate() {
            match seen.entry(format!("{block:?}")) {
                Entry::Occupied(by) => {
                    let what = What::Ineffective {
                        rule: listed.rule.clone(),
                        block: name.clone(),
                        by: (*by.get()).to_owned(),
                    };
                    findings.add(&format!("{at}/match/{index}"), what);
                    duplicates += 1;
                }
                Entry::Vacant(first) => drop(first.insert(&listed.rule)),
            }
        }
        if duplicates == listed.blocks.len() {
            findings.add(&at, unreachable("all matches used by prior rules"));
        }
    }
}

/// A prefix that is longer than one before it, all else being alike.
fn prefixes(rules: &[Listed<HttpMatch>], findings: &mut Findings) {
    let mut before: Vec<(&str, &str, &HttpMatch, &str)> = Vec::new();
    for (number, listed) in rules.iter().enumerate() {
        if listed.blocks.is_empty() {
            return;
        }
        for (index, (block, name)) in listed.blocks.iter().zip(&listed.names).enumerate() {
            let Some(prefix) = plain_prefix(block).filter(|_| before.len() < MOST) else {
                continue;
            };
            let covering = before.iter().find(|(.., other, shorter)| {
                prefix != *shorter && prefix.starts_with(shorter) && asks_no_more(other, block)
            });
            if let Some((rule, by, _, shorter)) = covering {
                let what = What::Ineffective {
                    rule: listed.rule.clone(),
                    block: format!("{name} of prefix {prefix}"),
                    by: format!("{by} of prefix {shorter} on {rule}"),
                };
                findings.add(&format!("/spec/http/{number}/match/{index}"), what);
            }
            before.push((&listed.rule, name, block, prefix));
        }
    }
}

fn plain_prefix(block: &HttpMatch) -> Option<&str> {
    block.uri.as_ref()?.prefix.as_deref().filter(|prefix| !prefix.is_empty())
}

/// Whether a block asks nothing beside its path that another does not ask too.
fn asks_no_more(less: &HttpMatch, more: &HttpMatch) -> bool {
    let text =
        |less: &Option<StringMatch>, more: &Option<StringMatch>| less.is_none() || less == more;
    let among = |less: &BTreeMap<String, StringMatch>, more: &BTreeMap<String, StringMatch>| {
        less.iter().all(|(key, value)| more.get(key) == Some(value))
    };
    text(&less.method, &more.method)
        && text(&less.authority, &more.authority)
        && text(&less.scheme, &more.scheme)
        && among(&less.headers, &more.headers)
        && among(&less.without_headers, &more.without_headers)
        && among(&less.query_params, &more.query_params)
        && (less.port == 0 || less.port == more.port)
        && (less.gateways.is_empty() || less.gateways == more.gateways)
        && (less.source_namespace.is_empty() || less.source_namespace == more.source_namespace)
        && less.source_labels.iter().all(|(key, value)| more.source_labels.get(key) == Some(value))
        && (less.ignore_uri_case || less.ignore_uri_case == more.ignore_uri_case)
}
