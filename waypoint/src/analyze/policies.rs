//! Pure: policies that are for nobody (IST0127).
//! Never: whether they allow anything.
use culvert_agent::{discovery::Snapshot, origin::Origin, policy::Scope};

use super::message::{Code, Message, Object};

pub(super) fn messages(snapshot: &Snapshot) -> Vec<Message> {
    let policies = snapshot.policies();
    let all =
        policies.policies.iter().map(|p| ("AuthorizationPolicy", &p.name, &p.scope, &p.origin));
    // Without a selector it is a namespace's, which may be empty for now.
    let peers = policies.peers.iter().filter(|peer| !peer.scope.selector.is_empty());
    let peers = peers.map(|p| ("PeerAuthentication", &p.name, &p.scope, &p.origin));
    let unmatched = all.chain(peers).filter(|(_, _, scope, _)| {
        !is_mesh_wide(scope) && !snapshot.workloads().any(|w| scope.covers(&w.namespace, &w.labels))
    });
    unmatched.map(|(kind, name, scope, origin)| message((kind, name), scope, origin)).collect()
}

fn is_mesh_wide(scope: &Scope) -> bool {
    scope.namespace.is_none() && scope.selector.is_empty()
}

fn message((kind, name): (&str, &str), scope: &Scope, origin: &Origin) -> Message {
    let labels: Vec<_> =
        scope.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let text = format!(
        "No matching workloads for this resource with the following labels: {}",
        labels.join(",")
    );
    let object = Some(Object { kind: kind.to_owned(), name: name.to_owned() });
    Message { object, ..Message::bare(Code::NoMatchingWorkloadsFound, origin.clone(), text) }
}
