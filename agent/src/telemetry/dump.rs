//! Pure: the state of the agent as `istioctl ztunnel-config` reads it, with some fields of our own.
//! Never: a private key.
mod certificates;
mod mesh;
mod policies;
mod state;

use std::{sync::Arc, time::Instant};

use serde_json::{Map, Value, json};

use super::open::Open;
use crate::{
    discovery::{Snapshot, Workload},
    identity::{Credentials, Identity},
};

/// What there is to show.
#[derive(Debug)]
pub struct View<'a> {
    /// What the mesh looks like.
    pub snapshot: &'a Snapshot,
    /// Identities of this node, each with its certificate if it has been issued.
    pub certificates: &'a [(Identity, Option<Arc<Credentials>>)],
    /// Enrolled pods of this node.
    pub pods: &'a [Arc<Workload>],
    /// Open connections.
    pub open: &'a [Arc<Open>],
    /// The configuration, with its keys as the file has them.
    pub config: &'a Value,
    /// The time of the answer.
    pub now: Instant,
}

/// The answer to `/config_dump`.
pub fn dump(view: &View<'_>) -> Value {
    let View { snapshot, .. } = view;
    let policies = snapshot.policies();
    let strict = policies.peers.iter().filter_map(|peer| policies::strict(peer));
    json!({
        "workloads": mesh::workloads(snapshot),
        "services": mesh::services(snapshot),
        "policies": policies.policies.iter().map(|p| policies::policy(p)).chain(strict).collect::<Vec<_>>(),
        "peerAuthentications": policies.peers.iter().map(|p| policies::peer(p)).collect::<Vec<_>>(),
        "certificates": certificates::certificates(view.certificates),
        "workloadState": state::pods(view),
        "stagedServices": {},
        "staticConfig": { "workloads": [], "policies": [], "services": [] },
        "problems": snapshot.problems().iter()
            .map(|problem| json!({ "at": problem.origin.to_string(), "text": problem.text }))
            .collect::<Vec<_>>(),
        "version": version(),
        "config": camel_case(view.config),
    })
}

/// What this binary was made of.
pub fn version() -> Value {
    json!({
        "component": "culvert-agent",
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": option_env!("CULVERT_REVISION").unwrap_or("unknown"),
        "rustVersion": env!("CULVERT_RUSTC"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": "unknown",
        "cryptoProvider": "aws-lc-rs",
        "istioVersion": "unknown",
    })
}

/// The same with keys in the style of ztunnel's own dump.
fn camel_case(value: &Value) -> Value {
    let key = |name: &String| {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |text, word| {
            let (head, tail) = word.split_at(word.len().min(1));
            text + &head.to_ascii_uppercase() + tail
        })
    };
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| (key(name), camel_case(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(camel_case).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests;
