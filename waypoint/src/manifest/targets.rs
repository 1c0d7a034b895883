//! Pure: destinations by name → backends that are there, or why they are not.
//! Never: endpoints.
use std::{collections::BTreeSet, sync::Arc};

use culvert_agent::discovery::{Service, Snapshot};

use super::virtual_service::Destination;
use crate::{
    backend::{Algorithm, Backends},
    routing::{BackendRef, Missing, Target},
};

/// What destinations are looked for in, for the routes of one service.
#[derive(Debug)]
pub(super) struct Targets<'a> {
    /// All services.
    pub(super) snapshot: &'a Snapshot,
    /// What DestinationRules say of them.
    pub(super) backends: &'a Backends,
    /// Hosts that were asked for: when one of them changes, so do the routes.
    pub(super) asked: BTreeSet<String>,
}

impl Targets<'_> {
    /// A destination of a VirtualService. Without a port it means the only one of its service, or the one
    /// that was dialled.
    pub(super) fn destination(&mut self, destination: &Destination, dialled: u16) -> Target {
        match self.cluster(destination, dialled) {
            Ok(backend) => Target::Backend(backend.into()),
            Err(why) => Target::Missing(Missing::Cluster(why.into())),
        }
    }

    fn cluster(&mut self, destination: &Destination, dialled: u16) -> Result<BackendRef, String> {
        let Destination { host, subset, port } = destination;
        let service = self.service(host)?;
        let port = match (port, service.ports.as_slice()) {
            (Some(port), _) => u16::try_from(port.number).unwrap_or_default(),
            (None, [only]) => only.port,
            (None, _) => dialled,
        };
        let subset = Some(subset).filter(|subset| !subset.is_empty());
        self.backend(&service, port, subset.map(String::as_str))
    }

    /// A service by its host name in full.
    pub(super) fn service(&mut self, host: &str) -> Result<Arc<Service>, String> {
        self.asked.insert(host.to_owned());
        let service = self.snapshot.service_named(host);
        service.cloned().ok_or_else(|| format!("there is no service {host}"))
    }

    /// A port of a service, or a subset behind it.
    pub(super) fn backend(
        &self,
        service: &Service,
        port: u16,
        subset: Option<&str>,
    ) -> Result<BackendRef, String> {
        let host = &service.hostname;
        if !service.ports.iter().any(|other| other.port == port) {
            return Err(format!("service {host} has no port {port}"));
        }
        let reference = BackendRef { host: host.clone(), port, subset: subset.map(Arc::from) };
        match (self.backends.find(&reference), subset) {
            (Some(_), _) | (None, None) => Ok(reference),
            (None, Some(subset)) => {
                Err(format!("no DestinationRule of service {host} has a subset {subset}"))
            }
        }
    }

    /// Whether requests of one key go to one endpoint there, which another try must not leave.
    pub(super) fn is_hashed(&self, target: &Target) -> bool {
        let Target::Backend(reference) = target else { return false };
        let backend = self.backends.find(reference);
        backend.is_some_and(|backend| {
            let algorithm = &backend.policy.load_balancer.algorithm;
            matches!(algorithm, Algorithm::ConsistentHash { .. })
        })
    }
}
