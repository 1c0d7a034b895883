//! Pure: what would become of a connection, and why: the route and the verdict of the very functions
//! that connections go through.
//! Never: a second opinion.
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    discovery::{Protocol, Snapshot, Workload},
    identity::Identity,
    origin::Origin,
    policy::{Asked, Verdict, authorize},
    route::{self, Choice, NextHop, Via},
};

/// Explains a connection from `source` (`namespace/pod`, or an address) to `destination`
/// (`namespace/pod:port`, a service's host name with a port, or address and port), as it would be carried
/// by `choice`.
///
/// # Errors
/// Says what is not known.
pub fn explain(
    snapshot: &Snapshot,
    choice: &Choice<'_>,
    (source, destination): (&str, &str),
) -> Result<Value, String> {
    let client = workload(snapshot, source).ok_or_else(|| {
        format!("{source} is no pod of the mesh: give namespace/pod or an address")
    })?;
    let dialled = target(snapshot, destination)?;
    let meshed = client.protocol == Protocol::Hbone;
    let from = json!({ "workload": client.uid, "identity": meshed.then(|| client.identity.to_string()),
        "declared": client.origin.to_string() });
    let hop = if meshed {
        route::next_hop(snapshot, &client.uid, dialled, choice)
    } else {
        route::unmeshed_hop(snapshot, &client.uid, dialled, choice)
    };
    let hop = match hop {
        Ok(hop) => hop,
        Err(error) => {
            return Ok(json!({ "source": from, "dialled": dialled, "path": error.to_string(),
                "allowed": false, "verdict": error.to_string() }));
        }
    };
    let verdict = judged(snapshot, client, &hop);
    Ok(json!({
        "source": from,
        "dialled": dialled,
        "service": hop.service.as_ref().map(|service| &service.hostname),
        "destination": hop.workload.as_ref().map(|workload| json!({
            "workload": workload.uid,
            "identity": workload.identity.to_string(),
            "declared": workload.origin.to_string(),
        })),
        "endpoint": hop.endpoint,
        "path": paths(&hop, |share| {
            let choice = Choice { share, ..*choice };
            route::next_hop(snapshot, &client.uid, dialled, &choice)
        }),
        "allowed": verdict.is_allowed(),
        "verdict": verdict.to_string(),
        "decided": verdict.origin().map(Origin::to_string),
    }))
}

/// Policies are asked where the connection arrives, if that is a pod of the mesh.
fn judged(snapshot: &Snapshot, client: &Workload, hop: &NextHop) -> Verdict {
    // What a pod says to itself never leaves it.
    let other = hop.workload.as_ref().filter(|workload| workload.uid != client.uid);
    let server = other.filter(|workload| workload.protocol == Protocol::Hbone);
    let guard = server.map(|server| snapshot.guard(server)).unwrap_or_default();
    let same = |address: &&IpAddr| address.is_ipv4() == hop.endpoint.is_ipv4();
    let address = client.addresses.iter().find(same).or_else(|| client.addresses.first());
    let source = SocketAddr::new(address.copied().unwrap_or(hop.endpoint.ip()), 0);
    let peer = (hop.via != Via::Plain).then_some(&client.identity);
    authorize(&guard, &Asked { peer, source, destination: hop.endpoint })
}

/// Of several waypoints each that there may be, with its share of connections.
fn paths(hop: &NextHop, drawn: impl Fn(u32) -> Result<NextHop, route::Error>) -> String {
    let service = hop.service.as_ref().filter(|_| matches!(hop.via, Via::Waypoint { .. }));
    let draws: Vec<_> = service.into_iter().flat_map(|service| service.waypoint_draws()).collect();
    if draws.len() < 2 {
        return path(hop);
    }
    let sum: u64 = draws.iter().map(|(weight, _)| u64::from(*weight)).sum();
    let one = |(weight, draw): &(u32, u32)| {
        let path = drawn(*draw).map_or_else(|error| error.to_string(), |hop| path(&hop));
        format!("{weight} of {sum}: {path}")
    };
    draws.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn path(hop: &NextHop) -> String {
    match &hop.via {
        Via::Plain => format!("plain TCP to {}", hop.endpoint),
        Via::Joined => format!("direct, same node, without a tunnel, to {}", hop.endpoint),
        Via::Tunnel { address, expected } => tunnel(*address, expected),
        Via::Waypoint { address, expected } => {
            format!("{}, a waypoint, which decides where it goes on", tunnel(*address, expected))
        }
    }
}

fn tunnel(address: SocketAddr, expected: &[Identity]) -> String {
    let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    format!("HBONE tunnel to {address}, who must be {}", expected.join(" or "))
}

/// The workload that people call `namespace/pod`, or by an address.
pub fn workload<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Arc<Workload>> {
    if let Ok(address) = name.parse() {
        return snapshot.workload_at(address);
    }
    let (namespace, pod) = name.split_once('/')?;
    let named =
        |workload: &&Arc<Workload>| *workload.namespace == *namespace && *workload.name == *pod;
    snapshot.workloads().find(named)
}

fn target(snapshot: &Snapshot, text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = || format!("{text} is none of address:port, namespace/pod:port, service:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if let Some(service) = snapshot.service_named(&host.to_ascii_lowercase()) {
        let vip = service.vips.first();
        let vip = vip.ok_or_else(|| format!("{host} has no address: name one of its pods"))?;
        return Ok(SocketAddr::new(*vip, port));
    }
    let pod = workload(snapshot, host).ok_or_else(|| format!("{host} is not known here"))?;
    let address = pod.addresses.first().ok_or_else(|| format!("{host} has no address yet"))?;
    Ok(SocketAddr::new(*address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Folder, Settings, compile};

    fn path_of(weight: u32) -> String {
        let waypoint = |name: &str, at: u8| {
            format!(
                "{{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: shop}}, status: {{addresses: [{{value: 10.3.0.{at}}}]}}}}\n---\n\
                 {{kind: Pod, apiVersion: v1, metadata: {{name: {name}-0, namespace: shop}}, spec: {{serviceAccountName: {name}}}, status: {{podIP: 10.3.0.{at}}}}}\n---\n"
            )
        };
        let yaml = format!(
            "{{kind: Namespace, apiVersion: v1, metadata: {{name: shop, labels: {{istio.io/dataplane-mode: ambient}}}}}}\n---\n\
             {}{}{{kind: Pod, apiVersion: v1, metadata: {{name: web, namespace: shop}}, spec: {{}}, status: {{podIP: 10.1.0.1}}}}\n---\n\
             {{kind: Service, apiVersion: v1, metadata: {{name: x, namespace: shop, labels: {{istio.io/use-waypoint: old, istio.io/use-waypoint-canary: new}}, annotations: {{istio.io/use-waypoint-canary-weight: '{weight}'}}}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}\n",
            waypoint("old", 1),
            waypoint("new", 2),
        );
        let mut folder = Folder::default();
        folder.update([("m.yaml".into(), Ok(yaml))].into());
        let snapshot = compile(&folder, &Settings::default());
        let said = explain(&snapshot, &Choice::default(), ("shop/web", "10.96.0.1:80"));
        said.unwrap()["path"].as_str().unwrap().to_owned()
    }

    #[test]
    fn each_of_several_waypoints_is_told_with_its_share() {
        let path = path_of(5);
        let (old, new) = path.split_once("; ").unwrap();
        assert!(old.starts_with("95 of 100: ") && old.contains("10.3.0.1:15008"), "{path}");
        assert!(new.starts_with("5 of 100: ") && new.contains("10.3.0.2:15008"), "{path}");
        for (weight, at) in [(0, "10.3.0.1:15008"), (100, "10.3.0.2:15008")] {
            let path = path_of(weight);
            assert!(path.starts_with("HBONE tunnel") && path.contains(at), "{path}");
        }
    }
}
