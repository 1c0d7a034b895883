//! Pure: what EndpointSlices say of a service's endpoints.
//! Never: decides whether slices or selectors count.
use std::{collections::BTreeMap, net::IpAddr};

use super::{
    super::objects::{self, Metadata},
    Name,
    members::Maker,
    services::{Endpoints, is_tcp},
};
use crate::discovery::{Outsider, Snapshot, Target};

/// Endpoints that the mesh knows; others have no identity that could be expected of them.
pub(super) fn sliced(snapshot: &Snapshot, groups: &[(Vec<IpAddr>, Target)]) -> Endpoints {
    let mut endpoints = Endpoints::new();
    for (addresses, target) in groups {
        let workloads = addresses.iter().filter_map(|address| snapshot.workload_at(*address));
        for workload in workloads {
            endpoints.entry(workload.uid.clone()).or_default().extend(target);
        }
    }
    endpoints
}

/// Ready endpoints of slices that may be none of the mesh's.
pub(super) fn outsiders(
    maker: &Maker<'_>,
    of: &Metadata,
    slices: Option<&BTreeMap<Name, objects::EndpointSlice>>,
) -> Vec<Outsider> {
    let endpoints = slices.into_iter().flat_map(BTreeMap::values).flat_map(|s| &s.endpoints);
    let ready = endpoints.filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
    let outsider = |endpoint: &objects::SliceEndpoint| match &endpoint.target_ref {
        Some(pod) if pod.kind == "Pod" => {
            let uid = format!("{}//Pod/{}/{}", maker.settings.cluster, of.namespace, pod.name);
            Some(Outsider::Pod(uid.into()))
        }
        Some(_) | None => Some(Outsider::Address(endpoint.addresses.first()?.parse().ok()?)),
    };
    ready.filter_map(outsider).collect()
}

/// Addresses and ports of slices' endpoints that take connections.
pub(super) fn groups<'a>(
    spec: &objects::ServiceSpec,
    slices: impl Iterator<Item = &'a objects::EndpointSlice>,
) -> Vec<(Vec<IpAddr>, Target)> {
    let of_slice = |slice: &objects::EndpointSlice| {
        let ports = spec.ports.iter().filter(|port| is_tcp(port)).filter_map(|port| {
            let same = slice.ports.iter().find(|other| other.name == port.name)?;
            Some((port.port, same.port?))
        });
        let ready = |e: &&objects::SliceEndpoint| {
            e.conditions.ready.unwrap_or(true) || spec.publish_not_ready_addresses
        };
        let addresses = slice.endpoints.iter().filter(ready).flat_map(|e| &e.addresses);
        (addresses.filter_map(|text| text.parse().ok()).collect(), ports.collect())
    };
    slices.map(of_slice).collect()
}
