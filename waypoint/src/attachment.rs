//! Pure: what a tunnel to a waypoint leads to, by its target alone.
//! Never: serves what is not attached to this waypoint; looks at a Host header.
use std::{collections::HashSet, net::IpAddr, net::SocketAddr, sync::Arc};

use culvert_agent::discovery::{Service, Snapshot, Waypoint, WaypointDestination, Workload};

use crate::mesh::Mesh;

/// Which waypoint this is.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Host name of the service that is deployed for its Gateway.
    pub host: Arc<str>,
    /// This pod's own address.
    pub address: IpAddr,
}

/// What a tunnel leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a service.
    Service(Arc<Service>),
    /// A workload's own address.
    Workload(Arc<Workload>),
}

/// Why a tunnel leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody has this address.
    #[error("{0} is nobody's address")]
    Unknown(IpAddr),
    /// Its connections go past this waypoint, if through any.
    #[error("{0} is not attached to this waypoint")]
    Foreign(Arc<str>),
    /// The service has no such port.
    #[error("{service} has no port {port}")]
    NoPort {
        /// Host name of the service.
        service: Arc<str>,
        /// The port.
        port: u16,
    },
}

/// What services call this waypoint, of everything that they call waypoints: by this the table is made.
pub fn names(snapshot: &Snapshot, gateway: &Gateway) -> HashSet<WaypointDestination> {
    let called: HashSet<_> = snapshot
        .services()
        .flat_map(|service| service.waypoints())
        .map(|w| &w.destination)
        .collect();
    called.into_iter().filter(|name| is_own(snapshot, gateway, name)).cloned().collect()
}

impl Target {
    /// The service's host name, or the workload's unique one.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Service(service) => &service.hostname,
            Self::Workload(workload) => &workload.uid,
        }
    }
}

/// What a tunnel to `dialled` leads to. What was served a moment ago (`lately`) may have been detached
/// before the client's agent knew; of what is attached there are routes.
///
/// # Errors
/// When it is not this waypoint's to serve.
pub fn target(
    Mesh { snapshot, table, .. }: &Mesh,
    gateway: &Gateway,
    (dialled, lately): (SocketAddr, bool),
) -> Result<Target, Error> {
    let is_attached = |waypoint: &Waypoint| is_own(snapshot, gateway, &waypoint.destination);
    if let Some(service) = snapshot.service_at(dialled.ip()) {
        let (host, port) = (&service.hostname, dialled.port());
        let routed = || table.services.contains_key(host);
        let served = lately || (service.waypoints().any(is_attached) && routed());
        if !served {
            return Err(Error::Foreign(host.clone()));
        }
        if !service.ports.iter().any(|known| known.port == port) {
            return Err(Error::NoPort { service: host.clone(), port });
        }
        return Ok(Target::Service(service.clone()));
    }
    match snapshot.workload_at(dialled.ip()) {
        Some(workload) if lately || workload.waypoint.as_ref().is_some_and(is_attached) => {
            Ok(Target::Workload(workload.clone()))
        }
        Some(workload) => Err(Error::Foreign(workload.uid.clone())),
        None => Err(Error::Unknown(dialled.ip())),
    }
}

fn is_own(snapshot: &Snapshot, gateway: &Gateway, name: &WaypointDestination) -> bool {
    let of_service = |service: &Arc<Service>| {
        let workload = |uid| snapshot.workload(uid);
        let has_us = |uid| workload(uid).is_some_and(|w| w.addresses.contains(&gateway.address));
        service.hostname == gateway.host || service.endpoints.keys().any(|uid| has_us(uid))
    };
    match name {
        WaypointDestination::Host(host) => {
            *host == gateway.host || snapshot.service_named(host).is_some_and(of_service)
        }
        WaypointDestination::Address(address) => {
            *address == gateway.address || snapshot.service_at(*address).is_some_and(of_service)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use culvert_agent::manifest::{Folder, Settings, compile};

    use super::*;

    const MESH: &str = r"
{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: waypoint, namespace: shop}, spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: pods, namespace: shop, labels: {istio.io/waypoint-for: workload}}, status: {addresses: [{value: 10.0.0.9}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: free, namespace: shop, labels: {istio.io/use-waypoint: none}}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: next, namespace: shop}}
---
{kind: Service, apiVersion: v1, metadata: {name: both, namespace: shop, labels: {istio.io/use-waypoint-canary: next}, annotations: {istio.io/use-waypoint-canary-weight: '5'}}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-0, namespace: shop}, spec: {}, status: {podIP: 10.0.0.1}}
---
{kind: Pod, apiVersion: v1, metadata: {name: db-0, namespace: shop, labels: {istio.io/use-waypoint: pods}}, spec: {}, status: {podIP: 10.0.0.2}}
---
{kind: Pod, apiVersion: v1, metadata: {name: waypoint-0, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}, spec: {}, status: {podIP: 10.0.0.8}}
---
{kind: Service, apiVersion: v1, metadata: {name: front, namespace: infra}, spec: {clusterIP: 10.97.0.1, selector: {gateway.networking.k8s.io/gateway-name: waypoint}, ports: [{port: 15008}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: waypoint-1, namespace: infra, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}, spec: {}, status: {podIP: 10.0.0.10}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: waypoint, namespace: infra}, spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}, status: {addresses: [{type: IPAddress, value: 10.97.0.1}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: led, namespace: infra, labels: {istio.io/use-waypoint: waypoint}}, spec: {clusterIP: 10.96.1.1, ports: [{port: 80}]}}
";

    fn mesh(gateway: &Gateway) -> Mesh {
        let mut folder = Folder::default();
        let changes = folder.update(BTreeMap::from([("m.yaml".into(), Ok(MESH.into()))]));
        let snapshot = compile(&folder, &Settings::default());
        let destinations = names(&snapshot, gateway);
        let waypoint = crate::manifest::Waypoint { namespace: "shop".into(), destinations };
        let settings = crate::manifest::Settings { waypoint: Some(waypoint), ..Default::default() };
        let table =
            crate::manifest::Compiler::new(settings).apply(&folder, &changes, &snapshot).table;
        Mesh { snapshot, table, ..Mesh::default() }
    }

    #[test]
    fn a_gateway_that_asks_for_a_proxy_in_front_is_reported() {
        for (binding, reported) in [("NONE", true), ("PROXY/15088", true), ("''", false)] {
            let annotation = format!("ambient.istio.io/waypoint-inbound-binding: {binding}");
            let asking =
                format!("{{name: waypoint, namespace: shop, annotations: {{{annotation}}}}}");
            let text = MESH.replacen("{name: waypoint, namespace: shop}", &asking, 1);
            let mut folder = Folder::default();
            folder.update(BTreeMap::from([("m.yaml".into(), Ok(text))]));
            let snapshot = compile(&folder, &Settings::default());
            let texts = snapshot.problems().iter().map(|problem| problem.text.as_str());
            let found =
                texts.filter(|text| text.contains("waypoint-inbound-binding is not obeyed"));
            assert_eq!(found.count(), usize::from(reported), "{binding}");
        }
    }

    #[test]
    fn only_what_is_attached_is_served() {
        let own =
            |host: &str, address: [u8; 4]| Gateway { host: host.into(), address: address.into() };
        let services = own("waypoint.shop.svc.cluster.local", [10, 0, 0, 8]);
        let pods = own("pods.shop.svc.cluster.local", [10, 0, 0, 9]);
        let infra = own("waypoint.infra.svc.cluster.local", [10, 0, 0, 10]);
        let next = own("next.shop.svc.cluster.local", [10, 0, 0, 7]);
        for (gateway, dialled, served) in [
            (&services, "10.96.0.1:80", true),
            // A second waypoint has a share of it.
            (&services, "10.96.0.3:80", true),
            (&next, "10.96.0.3:80", true),
            (&next, "10.96.0.1:80", false),
            // No such port.
            (&services, "10.96.0.1:81", false),
            // It opted out.
            (&services, "10.96.0.2:80", false),
            // Of a namespace's Gateway for services, pods are none.
            (&services, "10.0.0.1:80", false),
            // Another waypoint's.
            (&services, "10.0.0.2:80", false),
            (&pods, "10.0.0.2:80", true),
            (&pods, "10.96.0.1:80", false),
            // Our own address, and its admin ports.
            (&services, "10.0.0.8:15000", false),
            (&services, "127.0.0.1:15000", false),
            (&services, "192.0.2.1:80", false),
            // Its Gateway's status names another Service that has the waypoint's pods behind it.
            (&infra, "10.96.1.1:80", true),
            (&infra, "10.96.0.1:80", false),
        ] {
            let mesh = mesh(gateway);
            let target = target(&mesh, gateway, (dialled.parse().unwrap(), false));
            assert_eq!(target.is_ok(), served, "{dialled}: {target:?}");
            // Whoever is served is served by routes.
            if let Ok(Target::Service(service)) = target {
                assert!(mesh.table.port(&service.hostname, 80).is_some(), "{dialled}");
            }
        }
    }
}
