//! Pure: workloads and services as `istioctl ztunnel-config` reads them.
//! Never: what nobody declared, in the place of what is not known.
use std::{collections::HashMap, net::IpAddr};

use serde_json::{Map, Value, json};

use crate::discovery::{
    Distribution, Protocol, Service, Snapshot, Waypoint, WaypointDestination, Workload,
};

/// All workloads, by unique name.
pub(super) fn workloads(snapshot: &Snapshot) -> Vec<Value> {
    let mut services: HashMap<&str, Vec<String>> = HashMap::new();
    for service in snapshot.services() {
        for uid in service.endpoints.keys() {
            let name = format!("{}/{}", service.namespace, service.hostname);
            services.entry(uid).or_default().push(name);
        }
    }
    let mut workloads: Vec<_> = snapshot.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    let of = |uid: &str| services.get(uid).map(Vec::as_slice).unwrap_or_default();
    workloads.into_iter().map(|one| workload(snapshot, one, of(&one.uid))).collect()
}

/// All services, by host name.
pub(super) fn services(snapshot: &Snapshot) -> Vec<Value> {
    snapshot.services().map(|one| service(snapshot, one)).collect()
}

fn workload(snapshot: &Snapshot, workload: &Workload, services: &[String]) -> Value {
    let (namespace, labels) = (&workload.namespace, &workload.labels);
    let policies = &snapshot.policies().policies;
    let selecting = policies.iter().filter(|policy| {
        !policy.scope.selector.is_empty() && policy.scope.covers(namespace, labels)
    });
    json!({
        "uid": workload.uid,
        "name": workload.name,
        "namespace": namespace,
        "serviceAccount": workload.identity.service_account(),
        "trustDomain": workload.identity.trust_domain(),
        "network": workload.network,
        "workloadIps": workload.addresses,
        "hostname": "",
        "protocol": match workload.protocol {
            Protocol::Hbone => "HBONE",
            Protocol::Tcp => "TCP",
        },
        "networkMode": "Standard",
        "node": workload.node,
        "nativeTunnel": false,
        "waypoint": waypoint(snapshot, workload.waypoint.as_ref()),
        "workloadName": workload.workload_name,
        // Of an owner only the name is kept.
        "workloadType": (workload.workload_name == workload.name).then_some("pod"),
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "clusterId": workload.uid.split("//").next(),
        "locality": {
            "region": workload.locality.region,
            "zone": workload.locality.zone,
            "subzone": "",
        },
        "authorizationPolicies": selecting.map(|policy| &*policy.name).collect::<Vec<_>>(),
        "services": services,
        "capacity": workload.capacity,
        "status": health(workload.ready),
        "origin": workload.origin.to_string(),
    })
}

fn service(snapshot: &Snapshot, service: &Service) -> Value {
    let endpoints: Map<_, _> = service
        .endpoints
        .iter()
        .map(|(uid, port)| {
            let ready = snapshot.workload(uid).is_some_and(|workload| workload.ready);
            let endpoint = json!({ "workloadUid": uid, "port": port, "status": health(ready) });
            (uid.to_string(), endpoint)
        })
        .collect();
    json!({
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": service.vips.iter().map(vip).collect::<Vec<_>>(),
        "cidrVips": service.ranges.iter().map(|range| format!("/{range}")).collect::<Vec<_>>(),
        "ports": ports(service),
        "endpoints": endpoints,
        "subjectAltNames": [],
        "waypoint": waypoint(snapshot, service.waypoint.as_ref()),
        "weightedWaypoints": shares(snapshot, service),
        "loadBalancer": load_balancer(service),
        "ipFamilies": families(&service.vips),
        "origin": service.origin.to_string(),
    })
}

/// Service port → target port; 0 where endpoints differ in it, or there are none.
fn ports(service: &Service) -> Map<String, Value> {
    let target = |port: u16| {
        let mut targets = service.endpoints.values().filter_map(|target| target.get(&port));
        let first = targets.next().copied().unwrap_or_default();
        if targets.all(|target| *target == first) { first } else { 0 }
    };
    let pair = |port: u16| (port.to_string(), target(port).into());
    service.ports.iter().map(|port| pair(port.port)).collect()
}

/// `<namespace>/<host name>`, or `<network>/<address>`.
fn waypoint(snapshot: &Snapshot, waypoint: Option<&Waypoint>) -> Option<Value> {
    let waypoint = waypoint?;
    let destination = match &waypoint.destination {
        WaypointDestination::Address(address) => vip(address),
        WaypointDestination::Host(host) => {
            let service = snapshot.service_named(host);
            format!("{}/{host}", service.map(|service| &*service.namespace).unwrap_or_default())
        }
    };
    Some(json!({ "destination": destination, "hboneMtlsPort": waypoint.port }))
}

fn shares(snapshot: &Snapshot, service: &Service) -> Vec<Value> {
    let share = |(to, weight): &(Waypoint, u32)| json!({ "destination": waypoint(snapshot, Some(to)), "weight": weight });
    service.waypoint_shares.iter().map(share).collect()
}

fn load_balancer(service: &Service) -> Value {
    let (mode, preferences): (_, &[&str]) = match service.distribution {
        Distribution::Any if service.passthrough => ("Passthrough", &[]),
        Distribution::Any => return Value::Null,
        Distribution::SameZone => ("Failover", &["Region", "Zone"]),
        Distribution::SameNode => ("Failover", &["Region", "Zone", "Node"]),
        Distribution::OnlyNode => ("Strict", &["Node"]),
    };
    json!({ "mode": mode, "routingPreferences": preferences, "healthPolicy": "OnlyHealthy" })
}

fn families(vips: &[IpAddr]) -> Value {
    match (vips.iter().any(IpAddr::is_ipv4), vips.iter().any(IpAddr::is_ipv6)) {
        (true, true) => "Dual".into(),
        (true, false) => "IPv4".into(),
        (false, true) => "IPv6".into(),
        (false, false) => Value::Null,
    }
}

/// `<network>/<address>`, in the one network that there is.
fn vip(address: &IpAddr) -> String {
    format!("/{address}")
}

fn health(ready: bool) -> &'static str {
    if ready { "Healthy" } else { "Unhealthy" }
}
