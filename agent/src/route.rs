//! Pure: snapshot + destination → where to dial, and whom to expect there.
//! Never: dials, asks for certificates.
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use culvert_ebpf::abi::HBONE_PORT;

use crate::{
    discovery::{Distribution, Protocol, Service, Snapshot, Workload},
    identity::Identity,
};

pub mod load;

pub use load::{Load, Loads};

/// Where a connection goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// How to get there.
    pub via: Via,
    /// The endpoint itself: pod address and target port, or the address that was dialled.
    pub endpoint: SocketAddr,
    /// The workload there, if the mesh knows it.
    pub workload: Option<Arc<Workload>>,
    /// The service that was dialled, if it was one.
    pub service: Option<Arc<Service>>,
}

/// How a hop is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Plain TCP to the endpoint: it is outside the mesh, or the dialling pod itself.
    Plain,
    /// A tunnel to the agent that serves the endpoint.
    Tunnel {
        /// Where that agent listens.
        address: SocketAddr,
        /// Who may answer there.
        expected: Vec<Identity>,
    },
}

/// Why there is no next hop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The service has no such port.
    #[error("{service} has no port {port}")]
    NoPort {
        /// Host name of the service.
        service: Arc<str>,
        /// The port that was dialled.
        port: u16,
    },
    /// No endpoint of the service is ready for that port.
    #[error("no healthy upstream: {service} has no ready endpoint for port {port}")]
    NoEndpoint {
        /// Host name of the service.
        service: Arc<str>,
        /// The port that was dialled.
        port: u16,
    },
}

/// Decides where a connection from the workload `source` to `destination` goes.
/// Of a service's endpoints it is one that the service prefers for this client; of two that `random`
/// picks, the one to which `choice` says fewer connections are open. Those that were tried come last.
///
/// # Errors
/// When the destination is a service that cannot serve the port at the moment.
pub fn next_hop(
    snapshot: &Snapshot,
    source: &str,
    destination: SocketAddr,
    choice: &Choice<'_>,
) -> Result<NextHop, Error> {
    if let Some(service) = snapshot.service_at(destination.ip()) {
        let client = snapshot.workload(source).map(|workload| &**workload);
        let (workload, endpoint) = endpoint(snapshot, service, (client, destination), choice)?;
        return Ok(hop(source, endpoint, Some(workload), Some(service.clone())));
    }
    let workload = snapshot.workload_at(destination.ip()).cloned();
    Ok(hop(source, destination, workload, None))
}

fn hop(
    source: &str,
    endpoint: SocketAddr,
    workload: Option<Arc<Workload>>,
    service: Option<Arc<Service>>,
) -> NextHop {
    let via = match &workload {
        Some(workload) if workload.protocol == Protocol::Hbone && *workload.uid != *source => {
            Via::Tunnel {
                address: SocketAddr::new(endpoint.ip(), HBONE_PORT),
                expected: vec![workload.identity.clone()],
            }
        }
        Some(_) | None => Via::Plain,
    };
    NextHop { via, endpoint, workload, service }
}

/// What the choice among endpoints depends on, beside what the mesh looks like.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// Workloads that could not be reached just now.
    pub tried: &'a [Arc<str>],
    /// Connections that are open to a workload.
    pub load: &'a dyn Fn(&str) -> usize,
    /// Any number, each as likely as any other.
    pub random: u64,
}

impl fmt::Debug for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("tried", &self.tried).finish_non_exhaustive()
    }
}

/// Whether the service that was dialled has a ready endpoint beyond the workloads `tried`.
pub fn has_others(snapshot: &Snapshot, destination: SocketAddr, tried: &[Arc<str>]) -> bool {
    let service = snapshot.service_at(destination.ip());
    service.is_some_and(|service| {
        ready(snapshot, service, destination).any(|(workload, _)| !tried.contains(&workload.uid))
    })
}

/// The service's endpoints that can take a connection to the port that was dialled.
fn ready<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    destination: SocketAddr,
) -> impl Iterator<Item = (&'a Arc<Workload>, SocketAddr)> {
    service.endpoints.iter().filter_map(move |(uid, targets)| {
        let workload = snapshot.workload(uid)?;
        let target = *targets.get(&destination.port())?;
        let address = address_like(workload, destination.ip())?;
        Some((workload, SocketAddr::new(address, target)))
    })
}

/// How close an endpoint is, by what the service prefers: the highest present is taken. `None` for
/// one that may not be taken at all.
fn closeness(distribution: Distribution, client: Option<&Workload>, to: &Workload) -> Option<u8> {
    let Some(client) = client else {
        return (distribution != Distribution::OnlyNode).then_some(0);
    };
    let (own, other) = (&client.locality, &to.locality);
    let region = !own.region.is_empty() && own.region == other.region;
    let zone = !own.zone.is_empty() && own.zone == other.zone && own.region == other.region;
    let node = !client.node.is_empty() && client.node == to.node;
    let near = if zone { 2 } else { u8::from(region) };
    match distribution {
        Distribution::Any => Some(0),
        Distribution::SameZone => Some(near),
        Distribution::SameNode => Some(if node { 3 } else { near }),
        Distribution::OnlyNode => node.then_some(0),
    }
}

/// One of the service's ready endpoints.
fn endpoint(
    snapshot: &Snapshot,
    service: &Arc<Service>,
    (client, destination): (Option<&Workload>, SocketAddr),
    choice: &Choice<'_>,
) -> Result<(Arc<Workload>, SocketAddr), Error> {
    let port = destination.port();
    if !service.ports.iter().any(|known| known.port == port) {
        return Err(Error::NoPort { service: service.hostname.clone(), port });
    }
    let close = |to: &Workload| closeness(service.distribution, client, to);
    let mut ready: Vec<_> = ready(snapshot, service, destination)
        .filter_map(|(workload, address)| Some((close(workload)?, workload, address)))
        .collect();
    let fresh = |workload: &Arc<Workload>| !choice.tried.contains(&workload.uid);
    if ready.iter().any(|(_, workload, _)| fresh(workload)) {
        ready.retain(|(_, workload, _)| fresh(workload));
    }
    let closest = ready.iter().map(|(close, ..)| *close).max();
    ready.retain(|(close, ..)| Some(*close) == closest);
    two_choices(&ready, choice)
        .map(|(_, workload, address)| ((*workload).clone(), *address))
        .ok_or_else(|| Error::NoEndpoint { service: service.hostname.clone(), port })
}

type Candidate<'a> = (u8, &'a Arc<Workload>, SocketAddr);

/// Of two different candidates at random the one with fewer open connections: nearly as even as the
/// least loaded of all, without a herd that runs after it (Mitzenmacher, 2001).
fn two_choices<'a, 'b>(
    candidates: &'b [Candidate<'a>],
    choice: &Choice<'_>,
) -> Option<&'b Candidate<'a>> {
    let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
    let first = (choice.random & 0xffff_ffff) % count;
    let other = (first + 1 + (choice.random >> 32) % count.saturating_sub(1).max(1)) % count;
    let candidate = |index: u64| candidates.get(usize::try_from(index).ok()?);
    let (first, other) = (candidate(first)?, candidate(other)?);
    let load = |candidate: &Candidate<'_>| (choice.load)(&candidate.1.uid);
    Some(if load(other) < load(first) { other } else { first })
}

/// The workload's address of the family that was dialled, else any.
fn address_like(workload: &Workload, dialled: IpAddr) -> Option<IpAddr> {
    let same = |address: &&IpAddr| address.is_ipv4() == dialled.is_ipv4();
    workload.addresses.iter().find(same).or_else(|| workload.addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::manifest::{Folder, Settings, compile};

    /// Two meshed pods behind `cart`, one that is not ready, one outside the mesh, and the client.
    const MESH: &str = r"
kind: Namespace
apiVersion: v1
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
{kind: Pod, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {serviceAccountName: web}, status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-0, namespace: shop, labels: {app: cart}}, spec: {serviceAccountName: cart}, status: {podIPs: [{ip: 10.1.0.2}, {ip: 'fd00::2'}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-1, namespace: shop, labels: {app: cart}}, spec: {serviceAccountName: cart}, status: {podIP: 10.1.0.3}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-2, namespace: shop, labels: {app: cart}}, spec: {serviceAccountName: cart}, status: {podIP: 10.1.0.4, conditions: [{type: Ready, status: 'False'}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: old, namespace: shop, labels: {app: old, istio.io/dataplane-mode: none}}, spec: {}, status: {podIP: 10.1.0.5}}
---
{kind: Service, apiVersion: v1, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00:96::1'], selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: old, namespace: shop}, spec: {clusterIP: 10.96.0.2, selector: {app: old}, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: nobody, namespace: shop}, spec: {clusterIP: 10.96.0.3, selector: {app: nobody}, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}}
";

    fn mesh() -> Snapshot {
        let settings = Settings {
            trust_domain: "cluster.local".into(),
            cluster: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
        };
        let mut folder = Folder::default();
        folder.update(BTreeMap::from([("mesh.yaml".into(), Ok(MESH.into()))]));
        let snapshot = compile(&folder, &settings);
        assert!(snapshot.problems().is_empty(), "{:?}", snapshot.problems());
        snapshot
    }

    /// `plain <endpoint>`, `tunnel <endpoint> via <agent> as <identity>`, or the error.
    fn described(destination: &str, random: u64) -> String {
        let source = "Kubernetes//Pod/shop/web";
        match next_hop(&mesh(), source, destination.parse().unwrap(), &choice(&[], random)) {
            Err(error) => error.to_string(),
            Ok(NextHop { via: Via::Plain, endpoint, .. }) => format!("plain {endpoint}"),
            Ok(NextHop { via: Via::Tunnel { address, expected }, endpoint, .. }) => {
                let [identity] = expected.as_slice() else { panic!("{expected:?}") };
                format!("tunnel {endpoint} via {address} as {}", identity.service_account())
            }
        }
    }

    fn choice(tried: &[Arc<str>], random: u64) -> Choice<'_> {
        Choice { tried, load: &|_| 0, random }
    }

    #[test]
    fn of_two_choices_the_one_with_fewer_connections_wins() {
        let (mesh, vip) = (mesh(), "10.96.0.1:80".parse().unwrap());
        for random in [0, 1, 2, 3, u64::MAX, 1 << 33] {
            let load = |uid: &str| if uid.ends_with("cart-0") { 5 } else { 4 };
            let choice = Choice { tried: &[], load: &load, random };
            let hop = next_hop(&mesh, "Kubernetes//Pod/shop/web", vip, &choice).unwrap();
            assert_eq!(&*hop.workload.unwrap().name, "cart-1");
        }
    }

    #[test]
    fn a_service_may_prefer_what_is_close_or_insist_on_it() {
        use crate::discovery::Locality;
        let workload = |node: &str, region: &str, zone: &str| {
            let mut workload = (**mesh().workload("Kubernetes//Pod/shop/web").unwrap()).clone();
            workload.node = node.into();
            workload.locality = Locality { region: region.into(), zone: zone.into() };
            workload
        };
        let client = workload("n1", "eu", "a");
        for (node, region, zone, expected) in [
            ("n1", "eu", "a", [Some(0), Some(2), Some(3), Some(0)]),
            ("n2", "eu", "a", [Some(0), Some(2), Some(2), None]),
            ("n3", "eu", "b", [Some(0), Some(1), Some(1), None]),
            ("n4", "us", "a", [Some(0), Some(0), Some(0), None]),
            ("n5", "", "", [Some(0), Some(0), Some(0), None]),
        ] {
            let to = workload(node, region, zone);
            let all = [
                Distribution::Any,
                Distribution::SameZone,
                Distribution::SameNode,
                Distribution::OnlyNode,
            ];
            assert_eq!(all.map(|d| closeness(d, Some(&client), &to)), expected, "{node}");
        }
        let nowhere = workload("", "", "");
        assert_eq!(closeness(Distribution::SameNode, Some(&nowhere), &nowhere), Some(0));
    }

    #[test]
    fn endpoints_that_were_tried_come_last() {
        let (mesh, vip) = (mesh(), "10.96.0.1:80".parse().unwrap());
        let (first, second): (Arc<str>, Arc<str>) =
            ("Kubernetes//Pod/shop/cart-0".into(), "Kubernetes//Pod/shop/cart-1".into());
        let chosen = |tried: &[Arc<str>], random| {
            let choice = choice(tried, random);
            let hop = next_hop(&mesh, "Kubernetes//Pod/shop/web", vip, &choice).unwrap();
            hop.workload.unwrap().uid.clone()
        };
        for random in 0..4 {
            assert_eq!(chosen(std::slice::from_ref(&first), random), second);
            assert_eq!(chosen(std::slice::from_ref(&second), random), first);
        }
        let both = [first, second];
        assert_ne!(chosen(&both, 0), chosen(&both, 1));
        assert!(has_others(&mesh, vip, &both[..1]) && !has_others(&mesh, vip, &both));
        assert!(!has_others(&mesh, "10.1.0.2:80".parse().unwrap(), &[]));
    }

    #[test]
    fn each_kind_of_destination_has_its_way() {
        for (destination, random, way) in [
            // A service address, over both of its ready endpoints.
            ("10.96.0.1:80", 0, "tunnel 10.1.0.2:8080 via 10.1.0.2:15008 as cart"),
            ("10.96.0.1:80", 1, "tunnel 10.1.0.3:8080 via 10.1.0.3:15008 as cart"),
            ("10.96.0.1:80", 2, "tunnel 10.1.0.2:8080 via 10.1.0.2:15008 as cart"),
            // The endpoint's address of the family that was dialled, else the one that it has.
            ("[fd00:96::1]:80", 0, "tunnel [fd00::2]:8080 via [fd00::2]:15008 as cart"),
            ("[fd00:96::1]:80", 1, "tunnel 10.1.0.3:8080 via 10.1.0.3:15008 as cart"),
            // A service of pods that are not of the mesh.
            ("10.96.0.2:80", 7, "plain 10.1.0.5:80"),
            ("10.96.0.1:81", 0, "cart.shop.svc.cluster.local has no port 81"),
            (
                "10.96.0.3:80",
                0,
                "no healthy upstream: nobody.shop.svc.cluster.local has no ready endpoint for port 80",
            ),
            // A pod's own address, on any port, ready or not.
            ("10.1.0.2:9", 0, "tunnel 10.1.0.2:9 via 10.1.0.2:15008 as cart"),
            ("10.1.0.4:80", 0, "tunnel 10.1.0.4:80 via 10.1.0.4:15008 as cart"),
            ("[fd00::2]:80", 0, "tunnel [fd00::2]:80 via [fd00::2]:15008 as cart"),
            ("10.1.0.5:80", 0, "plain 10.1.0.5:80"),
            // Back to the pod that dials.
            ("10.1.0.1:80", 0, "plain 10.1.0.1:80"),
            // Nobody that the mesh knows.
            ("192.0.2.1:443", 0, "plain 192.0.2.1:443"),
        ] {
            assert_eq!(described(destination, random), way, "{destination}");
        }
    }
}
