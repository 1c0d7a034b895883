//! Pure: which VirtualServices count for a service, and in which order (Istio's
//! `getVirtualServiceForWaypoint` and `VirtualServicesForGateway`).
//! Never: what their rules mean.
use std::{borrow::Cow, sync::Arc};

use culvert_agent::origin::Problem;

use super::{
    budget::{Budget, FULL, Size},
    delegate,
    objects::{Held, Objects, place},
    virtual_service::{Delegate, HttpRoute, VirtualService},
    visibility::{Seen, seen},
};
use crate::routing::{Kind, Source};

/// The gateway that a waypoint is.
const MESH: &str = "mesh";

/// Where an object comes among those of one service: private ones first, then those that name the
/// waypoint's namespace, then public ones; of those the Gateway API's of that namespace first, then the
/// oldest.
pub(super) type Order = (Seen, bool, String, String, String);

/// A rule for requests, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Listed<'o> {
    /// The rule, perhaps merged with the one that delegates to it.
    pub(super) route: Cow<'o, HttpRoute>,
    held: &'o Held<VirtualService>,
    index: usize,
}

impl Listed<'_> {
    /// Who wrote it, or one of its blocks.
    pub(super) fn source(&self, block: Option<usize>) -> Arc<Source> {
        // Blocks of a merged rule are those of two.
        let block = block.filter(|_| matches!(self.route, Cow::Borrowed(_)));
        let (field, pointer) = match block {
            Some(block) => (
                format!("http[{}].match[{block}]", self.index),
                format!("/spec/http/{}/match/{block}", self.index),
            ),
            None => (format!("http[{}]", self.index), format!("/spec/http/{}", self.index)),
        };
        source(self.held, Kind::VirtualService, &field, &pointer)
    }
}

/// Who wrote a rule: the object, and the field in it.
pub(super) fn source<T>(held: &Held<T>, kind: Kind, field: &str, pointer: &str) -> Arc<Source> {
    let (_, namespace, name) = &held.name;
    Arc::new(Source {
        kind,
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
        origin: place(held, pointer),
        field: field.into(),
    })
}

/// The VirtualServices for a service of the namespace `home`, in order. Those of a third namespace, of
/// gateways of the edge alone, and those that the waypoint's namespace does not see, do not count.
pub(super) fn virtual_services<'o>(
    objects: &'o Objects,
    host: &str,
    home: &str,
    waypoint: &str,
) -> Vec<(Order, &'o Held<VirtualService>)> {
    let counted = objects.virtual_services_for(host).filter_map(|held| {
        let (_, namespace, name) = &held.name;
        let of_mesh = held.spec.gateways.is_empty() || held.spec.gateways.iter().any(|g| g == MESH);
        if !of_mesh || (namespace != home && namespace != waypoint) {
            return None;
        }
        let seen = seen(&held.spec.export_to, namespace, waypoint)?;
        let created = held.declared.metadata.creation_timestamp.clone();
        Some(((seen, true, created, name.clone(), namespace.clone()), held))
    });
    let mut all: Vec<_> = counted.collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// The rules for requests of a VirtualService, with those that it delegates to in place of those that
/// do. One whose delegate is not there is left out, and reported; where there is no room for more, nothing
/// passes.
pub(super) fn listed<'o>(
    objects: &'o Objects,
    held: &'o Held<VirtualService>,
    budget: &mut Budget,
    problems: &mut Vec<Problem>,
) -> Vec<Listed<'o>> {
    let mut all = Vec::new();
    for (index, route) in held.spec.http.iter().enumerate() {
        let size = size(held, "http", index);
        let Some(named) = &route.delegate else {
            if !budget.take(size) {
                all.push(full(held, index, problems));
                return all;
            }
            all.push(Listed { route: Cow::Borrowed(route), held, index });
            continue;
        };
        let at = format!("/spec/http/{index}/delegate");
        let delegate = match named_by(objects, held, named) {
            Ok(delegate) => delegate,
            Err(text) => {
                report(held, &at, &text, problems);
                continue;
            }
        };
        for (number, other) in delegate.spec.http.iter().enumerate() {
            if !budget.take(self::size(delegate, "http", number).below(size)) {
                all.push(full(held, index, problems));
                return all;
            }
            let Some(merged) = delegate::merged(route, other) else {
                let (_, namespace, name) = &delegate.name;
                let text = format!(
                    "rule http[{number}] of delegate {namespace}/{name} asks for what this rule never lets through; it does not count"
                );
                report(held, &at, &text, problems);
                continue;
            };
            all.push(Listed { route: Cow::Owned(merged), held: delegate, index: number });
        }
    }
    all
}

/// What one of its rules comes to.
pub(super) fn size(held: &Held<VirtualService>, section: &str, index: usize) -> Size {
    Size::of(held.declared.object.pointer(&format!("/spec/{section}/{index}")))
}

/// The VirtualService that a rule delegates to.
fn named_by<'o>(
    objects: &'o Objects,
    held: &Held<VirtualService>,
    named: &Delegate,
) -> Result<&'o Held<VirtualService>, String> {
    let (_, home, _) = &held.name;
    let namespace = if named.namespace.is_empty() { home } else { &named.namespace };
    let why = match objects.virtual_service(namespace, &named.name) {
        None => "does not exist",
        Some(other) if !other.spec.hosts.is_empty() => "has hosts, and so is no delegate",
        Some(other) if seen(&other.spec.export_to, namespace, home).is_none() => {
            "is not exported to this namespace"
        }
        Some(delegate) => return Ok(delegate),
    };
    Err(format!("delegate {namespace}/{} {why}; the rule does not count", named.name))
}

/// In place of the first rule for which there is no room, and of all after it.
fn full<'o>(
    held: &'o Held<VirtualService>,
    index: usize,
    problems: &mut Vec<Problem>,
) -> Listed<'o> {
    report(held, &format!("/spec/http/{index}"), FULL, problems);
    Listed { route: Cow::Owned(HttpRoute::closed()), held, index }
}

/// That something is wrong with a field of it.
pub(super) fn report(
    held: &Held<VirtualService>,
    pointer: &str,
    text: &str,
    problems: &mut Vec<Problem>,
) {
    let (_, namespace, name) = &held.name;
    let text = format!("VirtualService {namespace}/{name}: {text}");
    problems.push(Problem { origin: place(held, pointer), text });
}
