//! Pure: the immutable, indexed view of all workloads and services.
//! Never: partial updates in place. Published whole through a watch channel.
use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::model::{Service, Workload};
use crate::{
    origin::Problem,
    policy::{Guard, PeerAuthentication, Policy},
};

/// Everything the mesh knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    workloads: HashMap<Arc<str>, Arc<Workload>>,
    services: Vec<Arc<Service>>,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    by_vip: HashMap<IpAddr, Arc<Service>>,
    by_name: HashMap<Arc<str>, Arc<Service>>,
    policies: Arc<Policies>,
    problems: Vec<Problem>,
    partial: bool,
}

/// Everything that decides who may connect to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// AuthorizationPolicies, by name.
    pub policies: Vec<Arc<Policy>>,
    /// PeerAuthentications, from workloads' over namespaces' to the mesh's; the oldest first.
    pub peers: Vec<Arc<PeerAuthentication>>,
    /// There may be others that nobody could read: nothing is allowed.
    pub damaged: bool,
}

impl Snapshot {
    /// Indexes `workloads` and `services`. Of two objects with one address the first in uid order wins.
    pub fn new(workloads: Vec<Workload>, services: Vec<Service>, problems: Vec<Problem>) -> Self {
        let mut snapshot = Self { problems, ..Self::default() };
        let mut workloads: Vec<_> = workloads.into_iter().map(Arc::new).collect();
        workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        for workload in workloads {
            for address in &workload.addresses {
                snapshot.by_address.entry(*address).or_insert_with(|| workload.clone());
            }
            snapshot.workloads.insert(workload.uid.clone(), workload);
        }
        snapshot.services = services.into_iter().map(Arc::new).collect();
        snapshot.services.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        for service in &snapshot.services {
            snapshot.by_name.insert(service.hostname.clone(), service.clone());
            for vip in &service.vips {
                snapshot.by_vip.entry(*vip).or_insert_with(|| service.clone());
            }
        }
        snapshot
    }

    /// The same, with the note that declarations may be missing which nobody could read.
    pub fn partial(mut self, partial: bool) -> Self {
        self.partial = partial;
        self
    }

    /// Whether declarations may be missing: what is not here may exist all the same.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// The same with policies.
    pub fn with_policies(mut self, policies: Policies) -> Self {
        self.policies = Arc::new(policies);
        self
    }

    /// All policies.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// What decides about connections to this workload.
    pub fn guard(&self, workload: &Workload) -> Guard {
        let (namespace, labels) = (&workload.namespace, &workload.labels);
        let Policies { policies, peers, damaged } = &*self.policies;
        let covered = |scope: &crate::policy::Scope| scope.covers(namespace, labels);
        Guard {
            policies: policies.iter().filter(|policy| covered(&policy.scope)).cloned().collect(),
            peers: peers.iter().filter(|peer| covered(&peer.scope)).cloned().collect(),
            damaged: *damaged,
        }
    }

    /// The workload with this address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address)
    }

    /// The workload with this uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The service with this cluster address.
    pub fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        self.by_vip.get(&vip)
    }

    /// The service with this host name, in lower case.
    pub fn service_named(&self, hostname: &str) -> Option<&Arc<Service>> {
        self.by_name.get(hostname)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, by host name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// What is wrong with the declarations; what is not named here is in force as declared.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Every address that a connection may be captured for: services and workloads.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_vip.keys().chain(self.by_address.keys()).copied()
    }
}
