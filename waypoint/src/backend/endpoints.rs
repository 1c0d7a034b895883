//! Pure: which workloads are behind a backend.
//! Never: picks one.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use culvert_agent::discovery::{Snapshot, Workload};

use super::{model::Backend, names::Names};

/// A workload that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Its port.
    pub port: u16,
}

/// The endpoints behind a backend that take connections, in order of their uids; none when its service
/// is not there. One that is a name stands for one at each of its addresses.
pub fn endpoints(snapshot: &Snapshot, names: &Names, backend: &Backend) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (workload, port) in all(snapshot, backend) {
        match &workload.hostname {
            None => endpoints.push(Endpoint { workload: workload.clone(), port }),
            Some(name) => endpoints.extend(names.addresses(name).iter().map(|address| Endpoint {
                workload: Arc::new(Workload {
                    uid: format!("{}/{address}", workload.uid).into(),
                    addresses: vec![*address],
                    ..(**workload).clone()
                }),
                port,
            })),
        }
    }
    endpoints
}

/// Whether there is one.
pub fn is_anybody(snapshot: &Snapshot, names: &Names, backend: &Backend) -> bool {
    let known = |name: &Arc<str>| !names.addresses(name).is_empty();
    all(snapshot, backend).any(|(workload, _)| workload.hostname.as_ref().is_none_or(known))
}

/// Whether one of them is a name, whether it has addresses or not.
pub fn is_named(snapshot: &Snapshot, backend: &Backend) -> bool {
    all(snapshot, backend).any(|(workload, _)| workload.hostname.is_some())
}

/// The host names of all endpoints. Machines are on no node.
pub fn hostnames(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    snapshot.workloads_on("").filter_map(|workload| workload.hostname.clone()).collect()
}

fn all<'s>(
    snapshot: &'s Snapshot,
    backend: &'s Backend,
) -> impl Iterator<Item = (&'s Arc<Workload>, u16)> {
    let reference = &backend.reference;
    let service = snapshot.service_named(&reference.host);
    service.into_iter().flat_map(|service| &service.endpoints).filter_map(|(uid, target)| {
        let workload = snapshot.workload(uid)?;
        let port = *target.get(&reference.port)?;
        has(workload, &backend.labels).then_some((workload, port))
    })
}

/// Whether a workload has these labels.
pub fn has(workload: &Workload, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| label(workload, key) == Some(value))
}

/// The value of a workload's label. Those of Istio's topology come from where it runs
/// (`pilot/pkg/serviceregistry/util/label`).
pub fn label<'w>(workload: &'w Workload, key: &str) -> Option<&'w str> {
    let derived = match key {
        "topology.kubernetes.io/region" => Some(&workload.locality.region),
        "topology.kubernetes.io/zone" => Some(&workload.locality.zone),
        "topology.istio.io/network" => Some(&workload.network),
        "kubernetes.io/hostname" => Some(&workload.node),
        _ => None,
    };
    let derived = derived.filter(|text| !text.is_empty()).map(|text| &**text);
    derived.or(workload.labels.get(key).map(String::as_str))
}
