//! Pure: which workloads are behind a backend.
//! Never: picks one.
use std::{collections::BTreeMap, sync::Arc};

use culvert_agent::discovery::{Snapshot, Workload};

use super::model::Backend;

/// A workload that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Its port.
    pub port: u16,
}

/// The endpoints behind a backend that take connections, in order of their uids; none when its service
/// is not there.
pub fn endpoints(snapshot: &Snapshot, backend: &Backend) -> Vec<Endpoint> {
    let reference = &backend.reference;
    let Some(service) = snapshot.service_named(&reference.host) else { return Vec::new() };
    let all = service.endpoints.iter().filter_map(|(uid, target)| {
        let workload = snapshot.workload(uid)?;
        let port = *target.get(&reference.port)?;
        has(workload, &backend.labels).then(|| Endpoint { workload: workload.clone(), port })
    });
    all.collect()
}

/// Whether a workload has these labels. Those of Istio's topology come from where it runs
/// (`pilot/pkg/serviceregistry/util/label`).
pub fn has(workload: &Workload, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| {
        let derived = match key.as_str() {
            "topology.kubernetes.io/region" => Some(&workload.locality.region),
            "topology.kubernetes.io/zone" => Some(&workload.locality.zone),
            "topology.istio.io/network" => Some(&workload.network),
            "kubernetes.io/hostname" => Some(&workload.node),
            _ => None,
        };
        let derived = derived.filter(|text| !text.is_empty()).map(|text| &**text);
        derived.or(workload.labels.get(key).map(String::as_str)) == Some(value.as_str())
    })
}
