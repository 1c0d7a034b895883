//! Pure: which DestinationRules count for a service (`PushContext.destinationRule`).
//! Never: what they mean (see `policy`).
use std::cmp::Reverse;

use super::{
    destination_rule::DestinationRule,
    host,
    objects::{Held, Objects},
    visibility::{is_private, seen},
};

/// A service, and who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The service's host name.
    pub(super) host: &'a str,
    /// Its namespace.
    pub(super) home: &'a str,
    /// The waypoint's namespace.
    pub(super) waypoint: &'a str,
    /// The namespace of what is the whole mesh's.
    pub(super) root: &'a str,
}

/// The rules that count for a service, the oldest first. Looked for in the waypoint's namespace, then in
/// the service's, then in the mesh's; where there are any, those of the most specific host count. Rules
/// for some clients alone are for no waypoint.
pub(super) fn rules<'o>(objects: &'o Objects, asked: Asked<'_>) -> Vec<&'o Held<DestinationRule>> {
    let Asked { host, home, waypoint, root } = asked;
    let export = |rule: &Held<DestinationRule>| {
        let own = is_private(&rule.spec.export_to, &rule.name.1);
        (own, seen(&rule.spec.export_to, &rule.name.1, waypoint).is_some())
    };
    let candidates = objects.rules_for(host).filter(|rule| rule.spec.workload_selector.is_none());
    let candidates: Vec<_> = candidates.map(|rule| (rule, export(rule))).collect();
    let of = |namespace: &str, counts: fn(bool, bool) -> bool| {
        let all = candidates.iter().filter(|(rule, _)| rule.name.1 == *namespace);
        most_specific(all.filter(|(_, (own, visible))| counts(*own, *visible)))
    };
    // Public rules of the mesh's namespace are for those who find none of their own.
    let near: fn(bool, bool) -> bool =
        if waypoint == root { |own, _| own } else { |_, visible| visible };
    let mut found = of(waypoint, near);
    for namespace in [home, root] {
        if found.is_empty() {
            found = of(namespace, |own, _| !own);
            found.retain(|(_, (_, visible))| *visible);
        }
    }
    let mut found: Vec<_> = found.into_iter().map(|(rule, _)| *rule).collect();
    found.sort_by(|a, b| a.age().cmp(&b.age()));
    found
}

type Candidate<'o> = (&'o Held<DestinationRule>, (bool, bool));

/// Those whose host is the narrowest.
fn most_specific<'c, 'o>(rules: impl Iterator<Item = &'c Candidate<'o>>) -> Vec<&'c Candidate<'o>> {
    let rank = |(rule, _): &Candidate<'_>| {
        (host::is_wildcard(&rule.spec.host), Reverse(rule.spec.host.len()))
    };
    let rules: Vec<_> = rules.collect();
    let Some(best) = rules.iter().map(|rule| rank(rule)).min() else { return Vec::new() };
    rules.into_iter().filter(|rule| rank(rule) == best).collect()
}
