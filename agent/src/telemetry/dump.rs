//! Pure: the state of the agent as `istioctl ztunnel-config` reads it.
//! Never: a private key.
use std::{net::IpAddr, sync::Arc, time::SystemTime};

use serde_json::{Value, json};

use crate::{
    discovery::{Protocol, Service, Snapshot, Workload},
    identity::Credentials,
    policy::{Action, Mode, PeerAuthentication, Policy, Scope},
};

/// The answer to `/config_dump`.
pub fn dump(
    snapshot: &Snapshot,
    certificates: &[Arc<Credentials>],
    pods: &[Arc<Workload>],
) -> Value {
    let mut workloads: Vec<_> = snapshot.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    json!({
        "workloads": workloads.into_iter().map(|w| workload(w)).collect::<Vec<_>>(),
        "services": snapshot.services().map(|s| service(s)).collect::<Vec<_>>(),
        "policies": snapshot.policies().policies.iter().map(|p| policy(p)).collect::<Vec<_>>(),
        "peerAuthentications": snapshot.policies().peers.iter().map(|p| peer(p)).collect::<Vec<_>>(),
        "certificates": certificates.iter().map(|c| certificate(c)).collect::<Vec<_>>(),
        "workloadState": pods.iter().map(|pod| (pod.uid.to_string(), state(pod)))
            .collect::<serde_json::Map<_, _>>(),
        "problems": snapshot.problems().iter()
            .map(|problem| json!({ "at": problem.origin.to_string(), "text": problem.text }))
            .collect::<Vec<_>>(),
        "version": { "version": env!("CARGO_PKG_VERSION"), "component": "culvert-agent" },
    })
}

fn workload(workload: &Workload) -> Value {
    json!({
        "uid": workload.uid,
        "name": workload.name,
        "namespace": workload.namespace,
        "serviceAccount": workload.identity.service_account(),
        "trustDomain": workload.identity.trust_domain(),
        "workloadIps": workload.addresses,
        "protocol": match workload.protocol {
            Protocol::Hbone => "HBONE",
            Protocol::Tcp => "TCP",
        },
        "node": workload.node,
        "workloadName": workload.workload_name,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "status": if workload.ready { "Healthy" } else { "Unhealthy" },
        "origin": workload.origin.to_string(),
    })
}

fn service(service: &Service) -> Value {
    let endpoints: serde_json::Map<_, _> = service
        .endpoints
        .iter()
        .map(|(uid, port)| (uid.to_string(), json!({ "workloadUid": uid, "port": port })))
        .collect();
    json!({
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": service.vips.iter().map(vip).collect::<Vec<_>>(),
        "ports": service.ports.iter().map(|p| (p.port.to_string(), json!(p.port)))
            .collect::<serde_json::Map<_, _>>(),
        "endpoints": endpoints,
        "origin": service.origin.to_string(),
    })
}

fn policy(policy: &Policy) -> Value {
    let (namespace, name) = policy.name.split_once('/').unwrap_or_default();
    json!({
        "name": name,
        "namespace": namespace,
        "scope": scope(&policy.scope),
        "action": match policy.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
            Action::Audit => "Audit",
        },
        "dryRun": policy.dry_run,
        "rules": policy.rules.len(),
        "origin": policy.origin.to_string(),
    })
}

fn peer(peer: &PeerAuthentication) -> Value {
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
        "ports": ports.collect::<serde_json::Map<_, _>>(),
        "origin": peer.origin.to_string(),
    })
}

fn scope(scope: &Scope) -> &'static str {
    match (scope.selector.is_empty(), scope.namespace.is_none()) {
        (false, _) => "WorkloadSelector",
        (true, true) => "Global",
        (true, false) => "Namespace",
    }
}

/// `<network>/<address>`, in the one network that there is.
fn vip(address: &IpAddr) -> String {
    format!("/{address}")
}

fn certificate(credentials: &Credentials) -> Value {
    let svid = &credentials.svid;
    json!({
        "identity": svid.identity.to_string(),
        "state": "Available",
        "certChain": [{
            "serialNumber": svid.serial,
            "validFrom": seconds(svid.not_before),
            "expirationTime": seconds(svid.not_after),
        }],
    })
}

/// Seconds since 1970; a certificate is never older.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn state(pod: &Workload) -> Value {
    json!({
        "state": "Up",
        "info": {
            "name": pod.name,
            "namespace": pod.namespace,
            "serviceAccount": pod.identity.service_account(),
        },
    })
}
