//! Pure: which endpoint of a service takes a connection.
//! Never: how it is reached.
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::Error;
use crate::discovery::{Distribution, Service, Snapshot, Waypoint, WaypointDestination, Workload};

/// What the choice depends on, beside what the mesh looks like.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// Workloads that could not be reached just now.
    pub tried: &'a [Arc<str>],
    /// Connections that are open to a workload.
    pub load: &'a dyn Fn(&str) -> usize,
    /// Any number, each as likely as any other.
    pub random: u64,
    /// Another such number, the same for all tries of one connection: which of the waypoints of a
    /// service takes it.
    pub share: u32,
    /// Whether two pods of one node are joined without a tunnel.
    pub join: bool,
    /// What the kernel takes an address for.
    pub held: &'a dyn Fn(IpAddr) -> Held,
}

/// What the kernel takes an address for: it may know more than a damaged folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Somebody's outside the mesh.
    No,
    /// One of the mesh's, for the range that it is in.
    InRange,
    /// One of the mesh's.
    Itself,
}

impl Default for Choice<'_> {
    fn default() -> Self {
        Self { tried: &[], load: &|_| 0, random: 0, share: 0, join: false, held: &|_| Held::No }
    }
}

impl fmt::Debug for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("tried", &self.tried).finish_non_exhaustive()
    }
}

/// A workload, and where it takes the connection.
pub(super) type Endpoint = (Arc<Workload>, SocketAddr);

/// The endpoint that takes a connection.
pub(super) struct Chosen {
    /// Who.
    pub(super) workload: Arc<Workload>,
    /// Where.
    pub(super) at: SocketAddr,
    /// Whether there are more that were not tried.
    pub(super) others: bool,
}

/// One of the service's ready endpoints.
pub(super) fn of_service(
    snapshot: &Snapshot,
    service: &Service,
    (client, destination): (Option<&Workload>, SocketAddr),
    choice: &Choice<'_>,
) -> Result<Chosen, Error> {
    let port = destination.port();
    if !service.ports.iter().any(|known| known.port == port) {
        return Err(Error::NoPort { service: service.hostname.clone(), port });
    }
    let target = |targets: &crate::discovery::Target| targets.get(&port).copied();
    let ready = ready(snapshot, service, destination.ip(), target).collect();
    let all = Candidates { distribution: service.distribution, endpoints: ready };
    closest(all, client, choice)
        .ok_or_else(|| Error::NoEndpoint { service: service.hostname.clone(), port })
}

/// Endpoints, and which of them a client prefers.
pub(super) struct Candidates {
    distribution: Distribution,
    endpoints: Vec<Endpoint>,
}

impl Candidates {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }
}

/// Where a waypoint takes tunnels. It may take them on a port that its service does not name.
pub(super) fn of_waypoint(snapshot: &Snapshot, waypoint: &Waypoint) -> Candidates {
    let (service, address) = match &waypoint.destination {
        WaypointDestination::Host(host) => (snapshot.service_named(host), None),
        WaypointDestination::Address(address) => {
            (snapshot.service_at(*address), snapshot.workload_at(*address).map(|w| (w, *address)))
        }
    };
    if let Some(service) = service {
        let like = service.vips.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let target = |targets: &crate::discovery::Target| {
            Some(targets.get(&waypoint.port).copied().unwrap_or(waypoint.port))
        };
        let endpoints = ready(snapshot, service, like, target).collect();
        return Candidates { distribution: service.distribution, endpoints };
    }
    let one = address
        .map(|(workload, address)| (workload.clone(), SocketAddr::new(address, waypoint.port)));
    Candidates { distribution: Distribution::Any, endpoints: one.into_iter().collect() }
}

/// The service's endpoints that are ready, with an address like the one that was dialled.
fn ready<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    like: IpAddr,
    target: impl Fn(&crate::discovery::Target) -> Option<u16> + 'a,
) -> impl Iterator<Item = Endpoint> + 'a {
    service.endpoints.iter().filter_map(move |(uid, targets)| {
        let workload = snapshot.workload(uid)?;
        let address = address_like(workload, like)?;
        Some((workload.clone(), SocketAddr::new(address, target(targets)?)))
    })
}

/// Of the candidates that `client` prefers, without those that were tried as long as there are
/// others, the better one of two.
pub(super) fn closest(
    candidates: Candidates,
    client: Option<&Workload>,
    choice: &Choice<'_>,
) -> Option<Chosen> {
    let close = |to: &Workload| closeness(candidates.distribution, client, to);
    let mut ready: Vec<_> = candidates
        .endpoints
        .iter()
        .filter_map(|endpoint| Some((close(&endpoint.0)?, endpoint)))
        .collect();
    let fresh = |endpoint: &Endpoint| !choice.tried.contains(&endpoint.0.uid);
    let untried = ready.iter().filter(|(_, endpoint)| fresh(endpoint)).count();
    if untried > 0 {
        ready.retain(|(_, endpoint)| fresh(endpoint));
    }
    let closest = ready.iter().map(|(close, _)| *close).max();
    ready.retain(|(close, _)| Some(*close) == closest);
    let ready: Vec<_> = ready.into_iter().map(|(_, endpoint)| endpoint).collect();
    let (workload, at) = two_choices(&ready, choice)?;
    Some(Chosen { workload, at, others: untried > 1 })
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

/// Of two different candidates, drawn by their capacity, the one with fewer open connections for its
/// capacity: nearly as even as the least loaded of all, without a herd that runs after it
/// (Mitzenmacher, 2001).
fn two_choices(candidates: &[&Endpoint], choice: &Choice<'_>) -> Option<Endpoint> {
    let first = drawn(candidates, None, choice.random & 0xffff_ffff)?;
    let other = drawn(candidates, Some(first), choice.random >> 32).unwrap_or(first);
    let (first, other) = (*candidates.get(first)?, *candidates.get(other)?);
    let load = |(workload, _): &Endpoint| (choice.load)(&workload.uid) as u64;
    let capacity = |(workload, _): &Endpoint| u64::from(workload.capacity);
    // load / capacity, without the division.
    let lighter = load(other) * capacity(first) < load(first) * capacity(other);
    Some(if lighter { other.clone() } else { first.clone() })
}

/// A candidate's place, each as likely as its capacity, leaving out one.
fn drawn(candidates: &[&Endpoint], without: Option<usize>, random: u64) -> Option<usize> {
    let weights = candidates.iter().enumerate().map(|(at, (workload, _))| {
        if Some(at) == without { 0 } else { u64::from(workload.capacity) }
    });
    let sum: u64 = weights.clone().sum();
    let mut left = random % Some(sum).filter(|sum| *sum > 0)?;
    weights.enumerate().find_map(|(at, weight)| {
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit.then_some(at)
    })
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
    use crate::{
        discovery::Locality,
        manifest::{Folder, Settings, compile},
    };

    const POD: &str = "{kind: Pod, apiVersion: v1, metadata: {name: web}, spec: {}}";

    #[test]
    fn a_service_may_prefer_what_is_close_or_insist_on_it() {
        let workload = |node: &str, region: &str, zone: &str| {
            let mut folder = Folder::default();
            folder.update(BTreeMap::from([("m.yaml".into(), Ok(POD.into()))]));
            let snapshot = compile(&folder, &Settings::default());
            let mut workload = (**snapshot.workloads().next().unwrap()).clone();
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
}
