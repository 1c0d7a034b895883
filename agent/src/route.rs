//! Pure: snapshot + destination → where to dial, and whom to expect there.
//! Never: dials, asks for certificates.
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use culvert_ebpf::abi::HBONE_PORT;

use crate::{
    discovery::{Outsider, Protocol, Service, Snapshot, Waypoint, WaypointDestination, Workload},
    identity::Identity,
};

pub mod endpoint;
pub mod load;

pub use endpoint::{Choice, Held};
pub use load::{Load, Loads};

use endpoint::Chosen;

/// Where a connection goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// How to get there.
    pub via: Via,
    /// The endpoint itself: pod address and target port, or the address that was dialled.
    pub endpoint: SocketAddr,
    /// The workload that is dialled, if the mesh knows it.
    pub workload: Option<Arc<Workload>>,
    /// The service that was dialled, if it was one.
    pub service: Option<Arc<Service>>,
    /// Whether others could take the connection, if this one does not.
    pub others: bool,
}

impl NextHop {
    fn plain(
        workload: Option<Arc<Workload>>,
        endpoint: SocketAddr,
        service: Option<Arc<Service>>,
    ) -> Self {
        Self { via: Via::Plain, endpoint, workload, service, others: false }
    }

    /// The address that stands for what is dialled: a waypoint's own, else the endpoint's.
    pub fn dialled(&self) -> SocketAddr {
        match self.via {
            Via::Waypoint { address, .. } => address,
            Via::Plain | Via::Tunnel { .. } | Via::Joined => self.endpoint,
        }
    }
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
    /// A tunnel to a waypoint, which goes on to the endpoint, or to another one.
    Waypoint {
        /// Where it listens.
        address: SocketAddr,
        /// Who may answer there.
        expected: Vec<Identity>,
    },
    /// Both pods are on this agent's node: it joins their connections itself.
    Joined,
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
    /// The waypoint that must be passed is not there. Nothing goes past it.
    #[error("unknown waypoint: {of} must be reached through {waypoint}, which is not there")]
    NoWaypoint {
        /// What was dialled.
        of: Arc<str>,
        /// The waypoint.
        waypoint: String,
    },
    /// The kernel holds the address for one of the mesh's, and what describes it cannot be read.
    #[error("{0} is of the mesh, but what describes it is damaged")]
    Damaged(IpAddr),
    /// The endpoint is in another network.
    #[error("{of} is in network {network:?}, and gateways to other networks are not spoken yet")]
    OtherNetwork {
        /// The workload.
        of: Arc<str>,
        /// Its network.
        network: Arc<str>,
    },
}

/// Decides where a connection from the workload `source` to `destination` goes: to the waypoint of
/// what was dialled, if it has one; else, of a service's endpoints, to one that the service prefers
/// for this client; of two that `random` picks, to the one to which `choice` says fewer connections
/// are open. Those that were tried come last.
///
/// # Errors
/// When the destination cannot be reached at the moment, or not without leaving out what must be
/// passed.
pub fn next_hop(
    snapshot: &Snapshot,
    source: &str,
    destination: SocketAddr,
    choice: &Choice<'_>,
) -> Result<NextHop, Error> {
    let from = From { snapshot, client: snapshot.workload(source), source };
    let (address, service) = (destination.ip(), snapshot.service_at(destination.ip()));
    // What describes an address may be damaged, and what is known now of its surroundings is not it.
    if snapshot.is_partial() && !snapshot.has_address(address) {
        match (choice.held)(address) {
            Held::Itself => return Err(Error::Damaged(address)),
            Held::InRange if service.is_none() => return Err(Error::Damaged(address)),
            Held::InRange | Held::No => {}
        }
    }
    match service {
        Some(service) => from.to_service(service, destination, choice),
        None => from.to_address(destination, choice),
    }
}

/// Where a connection of a client that is not of the mesh ends, as the node's own rules would have it.
///
/// # Errors
/// When a service has nobody who would take it.
pub fn unmeshed_hop(
    snapshot: &Snapshot,
    source: &str,
    destination: SocketAddr,
    choice: &Choice<'_>,
) -> Result<NextHop, Error> {
    let from = From { snapshot, client: snapshot.workload(source), source };
    let service = snapshot.service_at(destination.ip()).filter(|service| !service.passthrough);
    let Some(service) = service else {
        let workload = snapshot.workload_at(destination.ip()).cloned();
        return Ok(NextHop::plain(workload, destination, None));
    };
    let client = from.client.map(|client| &**client);
    match endpoint::of_service(snapshot, service, (client, destination), choice) {
        Ok(chosen) => Ok(NextHop::plain(Some(chosen.workload), chosen.at, Some(service.clone()))),
        Err(Error::NoEndpoint { .. }) if from.has_only_outsiders(service) => {
            Ok(NextHop::plain(None, destination, Some(service.clone())))
        }
        Err(error) => Err(error),
    }
}

/// Where a connection comes from.
struct From<'a> {
    snapshot: &'a Snapshot,
    client: Option<&'a Arc<Workload>>,
    source: &'a str,
}

impl From<'_> {
    fn to_service(
        &self,
        service: &Arc<Service>,
        destination: SocketAddr,
        choice: &Choice<'_>,
    ) -> Result<NextHop, Error> {
        let service_is = |hop: NextHop| NextHop { service: Some(service.clone()), ..hop };
        if let Some(waypoint) = service.drawn_waypoint(choice.share) {
            let of = (&service.hostname, destination);
            return self.to_waypoint(waypoint, of, choice).map(service_is);
        }
        if service.passthrough {
            let workload = self.snapshot.workload_at(destination.ip()).cloned();
            return self.to_workload(workload, destination, choice).map(service_is);
        }
        let client = self.client.map(|client| &**client);
        match endpoint::of_service(self.snapshot, service, (client, destination), choice) {
            Ok(Chosen { workload, at, others }) => {
                let hop = self.to_workload(Some(workload), at, choice)?;
                Ok(NextHop { others, ..service_is(hop) })
            }
            Err(Error::NoEndpoint { .. }) if self.has_only_outsiders(service) => {
                self.to_workload(None, destination, choice).map(service_is)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether behind the service there is nobody of the mesh, but somebody that it cannot know:
    /// processes of nodes, machines that only slices name. Then, as without a mesh, the node's own
    /// rules find them. A pod that is not known yet is none of those: it may be of the mesh.
    fn has_only_outsiders(&self, service: &Service) -> bool {
        let workload = |uid: &str| self.snapshot.workload(uid);
        // A pod of the mesh may lack an address for a moment; one of the node's network has none, and
        // those of a name are not looked up here.
        let is_node = |w: &Arc<Workload>| w.addresses.is_empty() && w.protocol == Protocol::Tcp;
        let on_node = |uid: &str| workload(uid).is_some_and(is_node);
        let outsider = |of: &Outsider| match of {
            Outsider::Address(address) => self.snapshot.workload_at(*address).is_none(),
            Outsider::Pod(uid) => on_node(uid),
            Outsider::Anybody => false,
        };
        !self.snapshot.is_partial()
            && service.endpoints.keys().all(|uid| on_node(uid))
            && service.outsiders.iter().all(outsider)
            && !(service.endpoints.is_empty() && service.outsiders.is_empty())
    }

    fn to_address(&self, destination: SocketAddr, choice: &Choice<'_>) -> Result<NextHop, Error> {
        let workload = self.snapshot.workload_at(destination.ip()).cloned();
        if let Some(to) = &workload
            && let Some(waypoint) = &to.waypoint
            && !self.is_waypoint(waypoint)
            && *to.uid != *self.source
        {
            return self.to_waypoint(waypoint, (&to.uid, destination), choice);
        }
        self.to_workload(workload, destination, choice)
    }

    /// Whether the client is the waypoint itself, which goes on without it.
    fn is_waypoint(&self, waypoint: &Waypoint) -> bool {
        let members = endpoint::of_waypoint(self.snapshot, waypoint);
        members.iter().any(|(workload, _)| *workload.uid == *self.source)
    }

    fn to_waypoint(
        &self,
        waypoint: &Waypoint,
        (of, destination): (&Arc<str>, SocketAddr),
        choice: &Choice<'_>,
    ) -> Result<NextHop, Error> {
        let members = endpoint::of_waypoint(self.snapshot, waypoint);
        let client = self.client.map(|client| &**client);
        let chosen = endpoint::closest(members, client, choice).ok_or_else(|| {
            Error::NoWaypoint { of: of.clone(), waypoint: waypoint.destination.to_string() }
        })?;
        let Chosen { workload, at: address, others } = chosen;
        self.same_network(&workload)?;
        let via = Via::Waypoint { address, expected: vec![workload.identity.clone()] };
        Ok(NextHop { via, endpoint: destination, workload: Some(workload), service: None, others })
    }

    fn to_workload(
        &self,
        workload: Option<Arc<Workload>>,
        endpoint: SocketAddr,
        choice: &Choice<'_>,
    ) -> Result<NextHop, Error> {
        let via = match &workload {
            Some(to) if *to.uid != *self.source => {
                self.same_network(to)?;
                self.way_to(to, endpoint, choice)
            }
            Some(_) | None => Via::Plain,
        };
        Ok(NextHop { via, endpoint, workload, service: None, others: false })
    }

    fn way_to(&self, to: &Workload, endpoint: SocketAddr, choice: &Choice<'_>) -> Via {
        let near = |client: &Arc<Workload>| !to.node.is_empty() && client.node == to.node;
        match to.protocol {
            Protocol::Tcp => Via::Plain,
            Protocol::Hbone if choice.join && self.client.is_some_and(near) => Via::Joined,
            Protocol::Hbone => Via::Tunnel {
                address: SocketAddr::new(endpoint.ip(), HBONE_PORT),
                expected: vec![to.identity.clone()],
            },
        }
    }

    fn same_network(&self, to: &Workload) -> Result<(), Error> {
        let own = self.client.map_or("", |client| &client.network);
        if *to.network == *own {
            return Ok(());
        }
        Err(Error::OtherNetwork { of: to.uid.clone(), network: to.network.clone() })
    }
}

impl fmt::Display for WaypointDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "{host}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests;
