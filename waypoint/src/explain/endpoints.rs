//! Shell: the endpoints of a service as requests see them at this moment, and what is under way.
//! Never: changes what is known of them.
use std::{sync::Arc, time::Instant};

use culvert_agent::discovery::Service;
use serde_json::{Value, json};

use super::service;
use crate::{
    backend::{CallPolicy, ConnectionPool, OutlierDetection},
    balance::{Balance, Balancer, Group, Kind, Traffic, host::Host},
    dump::{duration, without_nothing},
    mesh::Mesh,
    routing::{BackendRef, Protocol},
};

/// All backends of a service, with their endpoints.
///
/// # Errors
/// When there is no such service.
pub fn endpoints(
    mesh: &Mesh,
    balance: &Balance,
    name: &str,
    now: Instant,
) -> Result<Value, String> {
    let (service, port) = service::named(&mesh.snapshot, name)?;
    for reference in backends(mesh, service) {
        let backend = mesh.backends.find(&reference);
        let Some(backend) = backend.filter(|_| !service.passthrough) else { continue };
        // It is there to be looked at before the first request.
        let group = balance.group(&reference, traffic(mesh, &reference));
        group.follow(mesh.generation, || mesh.view(&backend));
    }
    let groups = balance.groups().into_iter().filter(|group| {
        group.backend.host == service.hostname && port.is_none_or(|port| port == group.backend.port)
    });
    let shown: Vec<_> = groups.map(|group| one(&group, now)).collect();
    Ok(json!({ "service": *service.hostname, "backends": shown }))
}

/// Its ports, and the subsets behind each.
fn backends(mesh: &Mesh, service: &Service) -> Vec<Arc<BackendRef>> {
    let rules = mesh.backends.services.get(&*service.hostname);
    let subsets = rules.into_iter().flat_map(|rules| rules.subsets.keys().cloned());
    let all: Vec<_> = std::iter::once(None).chain(subsets.map(Some)).collect();
    let of_port = |port: u16| {
        let host = service.hostname.clone();
        all.iter().map(move |subset| {
            Arc::new(BackendRef { host: host.clone(), port, subset: subset.clone() })
        })
    };
    service.ports.iter().flat_map(|port| of_port(port.port)).collect()
}

fn traffic(mesh: &Mesh, reference: &BackendRef) -> Traffic {
    match mesh.protocol(reference) {
        Protocol::Tcp | Protocol::Tls => Traffic::Tcp,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Unknown => Traffic::Http,
    }
}

fn one(group: &Group, now: Instant) -> Value {
    let BackendRef { host: _, port, subset } = &*group.backend;
    group.look(|balancer| {
        let policy = balancer.policy();
        let detection = policy.outlier_detection.as_ref();
        let hosts = balancer.hosts().iter();
        without_nothing(json!({
            "port": port,
            "subset": subset.as_deref(),
            "traffic": group.traffic.as_str(),
            "panic": balancer.panics(),
            "underWay": under_way(group, policy),
            "endpoints": hosts.map(|host| endpoint(host, detection, balancer, now)).collect::<Vec<_>>(),
        }))
    })
}

/// How much there is, and how much there may be.
fn under_way(group: &Group, policy: &CallPolicy) -> Value {
    let pool = &policy.connection_pool;
    let found_out = group.found_out().filter(|_| policy.adaptive);
    let requests =
        found_out.map_or(pool.max_requests, |found_out| found_out.min(pool.max_requests));
    let of = |kind, most: u32| {
        let most = (most < ConnectionPool::UNLIMITED).then_some(most);
        let refused = group.limits.refused(kind);
        without_nothing(json!({ "now": group.taken(kind), "most": most, "refused": refused }))
    };
    json!({
        "connections": of(Kind::Connection, pool.max_connections),
        "pending": of(Kind::Pending, pool.max_pending_requests),
        "requests": of(Kind::Request, requests),
        "retries": of(Kind::Retry, pool.max_retries),
    })
}

fn endpoint(
    host: &Host,
    detection: Option<&OutlierDetection>,
    balancer: &Balancer,
    now: Instant,
) -> Value {
    let workload = &host.endpoint.workload;
    let until = detection.and_then(|detection| host.standing.until(detection));
    let warming = balancer.policy().load_balancer.warmup.is_some_and(|w| host.is_new(w, now));
    let state = match (until, warming) {
        (Some(_), _) => "ejected",
        (None, true) => "warming up",
        (None, false) => "healthy",
    };
    let zone = [&*workload.locality.region, &*workload.locality.zone];
    // It returns at the first sweep that finds its time over.
    let returns = until.and_then(|until| balancer.returns(until));
    without_nothing(json!({
        "name": format!("{}/{}", workload.namespace, workload.name),
        "workload": *workload.uid,
        "address": host.name(),
        "locality": zone.join("/").trim_matches('/'),
        "state": state,
        "returnsIn": returns.map(|at| duration(at.saturating_duration_since(now))),
        "active": host.load(),
        "failures": host.standing.failures(),
        "weight": workload.capacity,
    }))
}
