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

/// Endpoints of slices that may be none of the mesh's, whether they are ready or not: others may
/// know that sooner.
pub(super) fn outsiders(
    maker: &Maker<'_>,
    (of, spec): (&Metadata, &objects::ServiceSpec),
    slices: Option<&BTreeMap<Name, objects::EndpointSlice>>,
) -> Vec<Outsider> {
    let endpoints = slices.into_iter().flat_map(BTreeMap::values).flat_map(|s| &s.endpoints);
    let outsiders = endpoints.flat_map(|endpoint| {
        let pod = endpoint.target_ref.as_ref().filter(|of| of.kind == "Pod");
        if let Some(pod) = pod {
            let uid = format!("{}//Pod/{}/{}", maker.settings.cluster, of.namespace, pod.name);
            return vec![Outsider::Pod(uid.into())];
        }
        // A slice of pods says so, but one that somebody wrote by hand may not.
        let no_pod = endpoint.target_ref.is_some() || spec.selector.is_empty();
        let known = |text: &String| address(text).filter(|_| no_pod);
        let outsider = |text| known(text).map_or(Outsider::Anybody, Outsider::Address);
        endpoint.addresses.iter().map(outsider).collect()
    });
    outsiders.collect()
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
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
            let ready = e.conditions.ready.unwrap_or(true) || spec.publish_not_ready_addresses;
            ready && e.conditions.terminating != Some(true)
        };
        let addresses = slice.endpoints.iter().filter(ready).flat_map(|e| &e.addresses);
        (addresses.filter_map(|text| address(text)).collect(), ports.collect())
    };
    slices.map(of_slice).collect()
}
