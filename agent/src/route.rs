//! Pure: snapshot + destination → where to dial, and whom to expect there.
//! Never: dials, asks for certificates.
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use culvert_ebpf::abi::HBONE_PORT;

use crate::{
    discovery::{Protocol, Service, Snapshot, Workload},
    identity::Identity,
};

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
/// `random` chooses among the endpoints of a service.
///
/// # Errors
/// When the destination is a service that cannot serve the port at the moment.
pub fn next_hop(
    snapshot: &Snapshot,
    source: &str,
    destination: SocketAddr,
    random: u64,
) -> Result<NextHop, Error> {
    if let Some(service) = snapshot.service_at(destination.ip()) {
        let (workload, endpoint) = endpoint(snapshot, service, destination, random)?;
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

/// One of the service's ready endpoints, each as likely as any other.
fn endpoint(
    snapshot: &Snapshot,
    service: &Arc<Service>,
    destination: SocketAddr,
    random: u64,
) -> Result<(Arc<Workload>, SocketAddr), Error> {
    let port = destination.port();
    if !service.ports.iter().any(|known| known.port == port) {
        return Err(Error::NoPort { service: service.hostname.clone(), port });
    }
    let ready: Vec<_> = service
        .endpoints
        .iter()
        .filter_map(|(uid, targets)| {
            let workload = snapshot.workload(uid)?;
            let target = *targets.get(&port)?;
            let address = address_like(workload, destination.ip())?;
            Some((workload, SocketAddr::new(address, target)))
        })
        .collect();
    let count = ready.len() as u64;
    let chosen =
        random.checked_rem(count).and_then(|index| ready.get(usize::try_from(index).ok()?));
    chosen
        .map(|(workload, address)| ((*workload).clone(), *address))
        .ok_or_else(|| Error::NoEndpoint { service: service.hostname.clone(), port })
}

/// The workload's address of the family that was dialled, else any.
fn address_like(workload: &Workload, dialled: IpAddr) -> Option<IpAddr> {
    let same = |address: &&IpAddr| address.is_ipv4() == dialled.is_ipv4();
    workload.addresses.iter().find(same).or_else(|| workload.addresses.first()).copied()
}
