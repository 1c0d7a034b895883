//! Pure: Gateways of Istio that are named and not there, and those whose pods or Secrets are not (IST0101).
//! Never: Gateways of the Gateway API.
use std::collections::BTreeMap;

use culvert_agent::{
    discovery::Snapshot,
    manifest::{Declared, Folder, ISTIO_GATEWAY, SECRET},
};
use serde::Deserialize;

use super::{destinations::not_found, message::Message, schema::Typed};

/// What stands for all of the mesh among the names of Gateways.
const MESH: &str = "mesh";

/// The part of Istio's Gateway that names others.
#[derive(Deserialize)]
struct Gateway {
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    servers: Vec<Server>,
}

#[derive(Deserialize)]
struct Server {
    #[serde(default)]
    tls: Option<Tls>,
}

#[derive(Deserialize)]
struct Tls {
    #[serde(default, rename = "credentialName")]
    credential: String,
}

pub(super) fn messages(folder: &Folder, objects: &Typed<'_>, snapshot: &Snapshot) -> Vec<Message> {
    let mut messages = Vec::new();
    for (declared, object) in &objects.virtual_services {
        for (index, name) in object.gateways.iter().enumerate() {
            if name != MESH && !exists(folder, ISTIO_GATEWAY, home(declared), name) {
                messages.push(about(declared, &format!("/spec/gateways/{index}"), "gateway", name));
            }
        }
    }
    let gateways = folder.for_waypoints().filter(|((kind, ..), _)| *kind == ISTIO_GATEWAY);
    for (_, declared) in gateways {
        // One that cannot be read is another message's.
        let spec = declared.object.get("spec").cloned().unwrap_or_default();
        let spec: Result<Gateway, _> = serde_json::from_value(spec);
        messages.extend(spec.iter().flat_map(|gateway| of(folder, declared, gateway, snapshot)));
    }
    messages
}

/// A Gateway's Secrets are those of the namespace that its pods are in.
fn of(
    folder: &Folder,
    declared: &Declared,
    gateway: &Gateway,
    snapshot: &Snapshot,
) -> Vec<Message> {
    let mut pods = snapshot.workloads().filter(|workload| {
        gateway.selector.iter().all(|(name, value)| workload.labels.get(name) == Some(value))
    });
    let Some(pod) = pods.next() else {
        let labels: Vec<_> =
            gateway.selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
        return vec![about(declared, "/spec/selector", "selector", &labels.join(","))];
    };
    let named = gateway.servers.iter().enumerate().filter_map(|(index, server)| {
        let name = &server.tls.as_ref()?.credential;
        let missing = !name.is_empty() && !exists(folder, SECRET, &pod.namespace, name);
        let pointer = format!("/spec/servers/{index}/tls/credentialName");
        missing.then(|| about(declared, &pointer, "credentialName", name))
    });
    named.collect()
}

fn about(declared: &Declared, pointer: &str, what: &str, name: &str) -> Message {
    let (code, text) = not_found(what, name);
    Message::about(code, declared, pointer, text)
}

fn home(declared: &Declared) -> &str {
    &declared.metadata.namespace
}

/// By `name`, or `namespace/name`.
fn exists(folder: &Folder, kind: &'static str, home: &str, name: &str) -> bool {
    let (namespace, name) = name.split_once('/').unwrap_or((home, name));
    folder.declared(&(kind, namespace.to_owned(), name.to_owned())).is_some()
}
