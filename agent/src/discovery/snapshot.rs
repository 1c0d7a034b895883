//! Pure: the immutable, indexed view of all workloads and services.
//! Never: a reader that sees a change half done. A clone shares everything with its original, so that
//! the next snapshot is made of the last one in time for what changed. Published whole through a watch
//! channel.
use std::{net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdSet};
use ipnet::IpNet;

use super::{
    claims::Claims,
    model::{Protocol, Service, Workload},
};
use crate::{
    origin::Problem,
    policy::{Attached, Guard, PeerAuthentication, Policy, Target},
};

/// Our own class of Gateways, and Istio's.
const CLASSES: [&str; 2] = ["culvert-waypoint", "istio-waypoint"];

/// Everything the mesh knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    workloads: HashMap<Arc<str>, Arc<Workload>>,
    by_address: Claims<IpAddr, Workload>,
    by_node: HashMap<Arc<str>, OrdSet<Arc<str>>>,
    by_name: Claims<Arc<str>, Service>,
    by_vip: Claims<IpAddr, Service>,
    /// The addresses of ServiceEntries among them.
    by_entry: Claims<IpAddr, Service>,
    by_range: Claims<IpNet, Service>,
    policies: Arc<Policies>,
    problems: Arc<[Problem]>,
    partial: bool,
}

/// Everything that decides who may connect to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// AuthorizationPolicies, by name.
    pub policies: Vec<Arc<Policy>>,
    /// Those that waypoints ask, by name.
    pub attached: Vec<Attached>,
    /// PeerAuthentications, from workloads' over namespaces' to the mesh's; the oldest first.
    pub peers: Vec<Arc<PeerAuthentication>>,
    /// There may be others that nobody could read: nothing is allowed.
    pub damaged: bool,
}

impl Snapshot {
    /// Adds a workload, or puts it in the place of the one with its uid. Of two workloads with one
    /// address the first in uid order is found there.
    pub fn insert_workload(&mut self, workload: Arc<Workload>) {
        self.remove_workload(&workload.uid);
        let uid = &workload.uid;
        for address in &workload.addresses {
            self.by_address.insert(*address, uid.clone(), workload.clone());
        }
        self.by_node.entry(workload.node.clone()).or_default().insert(uid.clone());
        self.workloads.insert(uid.clone(), workload);
    }

    /// Removes a workload, if it is there.
    pub fn remove_workload(&mut self, uid: &str) {
        let Some(workload) = self.workloads.remove(uid) else { return };
        for address in &workload.addresses {
            self.by_address.remove(address, uid);
        }
        let on_node = self.by_node.entry(workload.node.clone()).or_default();
        on_node.remove(uid);
        if on_node.is_empty() {
            self.by_node.remove(&workload.node);
        }
    }

    /// Adds a service, which is not there yet. Of two with one address or host name the first in
    /// order of their namespaces and names is found there.
    pub fn insert_service(&mut self, service: Arc<Service>) {
        let name = claimant(&service);
        for vip in &service.vips {
            self.by_vip.insert(*vip, name.clone(), service.clone());
            if is_entry(&service) {
                self.by_entry.insert(*vip, name.clone(), service.clone());
            }
        }
        for range in &service.ranges {
            self.by_range.insert(*range, name.clone(), service.clone());
        }
        self.by_name.insert(service.hostname.clone(), name, service);
    }

    /// Removes a service. It must be as it was inserted.
    pub fn remove_service(&mut self, service: &Service) {
        let name = claimant(service);
        for vip in &service.vips {
            self.by_vip.remove(vip, &name);
            self.by_entry.remove(vip, &name);
        }
        for range in &service.ranges {
            self.by_range.remove(range, &name);
        }
        self.by_name.remove(&service.hostname, &name);
    }

    /// Sets what is wrong with the declarations, and whether some may be missing that nobody could
    /// read.
    pub fn set_problems(&mut self, problems: Vec<Problem>, partial: bool) {
        self.problems = problems.into();
        self.partial = partial;
    }

    /// Whether declarations may be missing: what is not here may exist all the same.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// Sets the policies.
    pub fn set_policies(&mut self, policies: Arc<Policies>) {
        self.policies = policies;
    }

    /// All policies.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// What decides about connections to this workload.
    pub fn guard(&self, workload: &Workload) -> Guard {
        let (namespace, labels) = (&workload.namespace, &workload.labels);
        let Policies { policies, peers, damaged, attached: _ } = &*self.policies;
        let covered = |scope: &crate::policy::Scope| scope.covers(namespace, labels);
        Guard {
            policies: policies.iter().filter(|policy| covered(&policy.scope)).cloned().collect(),
            peers: peers.iter().filter(|peer| covered(&peer.scope)).cloned().collect(),
            damaged: *damaged,
        }
    }

    /// What decides, at the waypoint of this `gateway` (`namespace/name`), about connections to a
    /// service, or to a workload.
    pub fn guard_at(&self, gateway: &str, service: Option<&Service>) -> Guard {
        let Policies { attached, damaged, .. } = &*self.policies;
        let concerned = attached.iter().filter(|attached| concerns(attached, gateway, service));
        let policies = concerned.map(|attached| attached.policy.clone()).collect();
        Guard { policies, peers: Vec::new(), damaged: *damaged }
    }

    /// Policies of services that pass no waypoint: nobody asks them.
    pub fn unasked(&self) -> impl Iterator<Item = (&Attached, String)> {
        let passes = |namespace: &str, name: &str| {
            let is = |s: &&Arc<Service>| *s.namespace == *namespace && *s.name == *name;
            self.services().filter(is).any(|service| service.waypoints().next().is_some())
        };
        self.policies.attached.iter().filter_map(move |attached| {
            let home = home(&attached.policy);
            let mut names = attached.targets.iter().filter_map(service_name);
            let name = names.find(|name| !passes(home, name))?;
            let text = format!(
                "targetRefs name {home}/{name}, which is no service that passes a waypoint: for it nobody asks this policy"
            );
            Some((attached, text))
        })
    }

    /// The workload with this address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address)
    }

    /// Addresses that several workloads claim, with those, of which the first counts.
    pub fn contested_addresses(&self) -> impl Iterator<Item = (&IpAddr, Vec<&Arc<Workload>>)> {
        self.by_address.contested()
    }

    /// Addresses and host names that several services claim, with those, of which the first counts.
    pub fn contested_services(&self) -> impl Iterator<Item = (String, Vec<&Arc<Service>>)> {
        let vips = self.by_vip.contested().map(|(vip, all)| (vip.to_string(), all));
        vips.chain(self.by_name.contested().map(|(name, all)| (name.to_string(), all)))
    }

    /// The workload with this uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The service with this address; for one that is no workload's, the service within the narrowest
    /// of whose ranges it is. No ServiceEntry leads away from a workload of the mesh.
    pub fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        let workload = self.by_address.get(&vip);
        let meshed = workload.is_some_and(|workload| workload.protocol == Protocol::Hbone);
        let within = || {
            if workload.is_some() {
                return None;
            }
            let around = self.by_range.iter().filter(|(range, _)| range.contains(&vip));
            around.max_by_key(|(range, _)| range.prefix_len()).map(|(_, service)| service)
        };
        let own = self.by_vip.get(&vip);
        own.filter(|service| !meshed || !is_entry(service)).or_else(within)
    }

    /// ServiceEntries with the address of a workload of the mesh, which does not count.
    pub fn overreaching(&self) -> impl Iterator<Item = (IpAddr, &Arc<Service>)> {
        let over = |(vip, _): &(&IpAddr, _)| self.service_at(**vip).is_none();
        self.by_entry.iter().filter(over).map(|(vip, service)| (*vip, service))
    }

    /// The service with this host name, in lower case.
    pub fn service_named(&self, hostname: &str) -> Option<&Arc<Service>> {
        self.by_name.get(hostname)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workloads of a node, by uid.
    pub fn workloads_on(&self, node: &str) -> impl Iterator<Item = &Arc<Workload>> {
        let uids = self.by_node.get(node).into_iter().flatten();
        uids.filter_map(|uid| self.workloads.get(uid))
    }

    /// All services, by host name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_name.iter().map(|(_, service)| service)
    }

    /// How many services there are.
    pub fn count_services(&self) -> usize {
        self.by_name.len()
    }

    /// What is wrong with the declarations; what is not named here is in force as declared.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many addresses a connection may be captured for.
    pub fn count_addresses(&self) -> usize {
        self.by_vip.len() + self.by_address.len()
    }

    /// Every address that a connection may be captured for: services and workloads.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_vip.keys().chain(self.by_address.keys()).copied()
    }

    /// Addresses that are captured in one of the two snapshots and perhaps not in the other.
    pub fn addresses_changed_since(&self, earlier: &Self) -> impl Iterator<Item = IpAddr> {
        let vips = self.by_vip.changed_since(&earlier.by_vip);
        let addresses = self.by_address.changed_since(&earlier.by_address);
        vips.into_iter().chain(addresses).map(|(address, _)| address)
    }

    /// Host names whose services are in one of the two snapshots only, or differ.
    pub fn services_changed_since(&self, earlier: &Self) -> impl Iterator<Item = Arc<str>> {
        self.by_name.differing_from(&earlier.by_name).into_iter()
    }

    /// Whether a connection to this address may be captured for its own sake.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.by_vip.get(&address).is_some() || self.by_address.get(&address).is_some()
    }

    /// Ranges of addresses that connections may be captured for.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> {
        self.by_range.keys().copied()
    }
}

/// The name under which a service claims what there is one of: what Kubernetes assigned comes before
/// what a ServiceEntry says.
fn claimant(service: &Service) -> Arc<str> {
    let Service { namespace, name, hostname, origin, .. } = service;
    format!("{}/{namespace}/{name}/{hostname}/{origin}", u8::from(is_entry(service))).into()
}

/// The namespace that a policy stands in.
fn home(policy: &Policy) -> &str {
    policy.name.split('/').next().unwrap_or_default()
}

/// The service that a policy is attached to.
fn service_name(target: &Target) -> Option<&str> {
    match target {
        Target::Service(name) | Target::ServiceEntry(name) => Some(name),
        Target::Gateway(_) | Target::GatewayClass(_) | Target::Unknown => None,
    }
}

fn concerns(attached: &Attached, gateway: &str, service: Option<&Service>) -> bool {
    let policy = &attached.policy;
    let home = home(policy);
    let own = service.filter(|service| *service.namespace == *home);
    attached.targets.iter().any(|target| match target {
        Target::Service(name) => own.is_some_and(|s| *s.name == **name && !is_entry(s)),
        Target::ServiceEntry(name) => own.is_some_and(|s| *s.name == **name && is_entry(s)),
        Target::Gateway(name) => gateway.split_once('/') == Some((home, name.as_str())),
        Target::GatewayClass(name) => {
            policy.scope.namespace.is_none() && CLASSES.contains(&name.as_str())
        }
        Target::Unknown => {
            policy.scope.namespace.is_none()
                || own.is_some()
                || gateway.split('/').next() == Some(home)
        }
    })
}

fn is_entry(service: &Service) -> bool {
    let Service { namespace, name, hostname, .. } = service;
    !hostname.starts_with(&format!("{name}.{namespace}.svc."))
}
