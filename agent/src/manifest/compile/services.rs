//! Pure: a Service and what is behind it, by its selector or by its slices.
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    super::{
        documents::Found,
        objects::{self, Object, TargetPort},
    },
    Mesh,
};
use crate::{
    discovery::{Distribution, Service, ServicePort, Target},
    origin::{Origin, Problem},
};

/// The label with which a slice says whose endpoints it has.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A service's namespace and name → the slices that a label says are its own.
pub(super) type Slices<'a> = HashMap<(&'a str, &'a str), Vec<&'a objects::EndpointSlice>>;

pub(super) fn slices<'a>(objects: &[&'a Found]) -> Slices<'a> {
    let mut slices = Slices::new();
    for found in objects {
        if let Object::Slice(slice) = &found.object
            && let Some(service) = slice.metadata.labels.get(SERVICE_NAME)
        {
            let name = (slice.metadata.namespace.as_str(), service.as_str());
            slices.entry(name).or_default().push(slice);
        }
    }
    slices
}

/// Kubernetes' `internalTrafficPolicy` comes before `trafficDistribution`.
fn distribution(spec: &objects::ServiceSpec) -> Result<Distribution, String> {
    match (spec.internal_traffic_policy.as_str(), spec.traffic_distribution.as_str()) {
        ("Local", _) => Ok(Distribution::OnlyNode),
        ("" | "Cluster", "") => Ok(Distribution::Any),
        ("" | "Cluster", "PreferClose" | "PreferSameZone") => Ok(Distribution::SameZone),
        ("" | "Cluster", "PreferSameNode") => Ok(Distribution::SameNode),
        ("" | "Cluster", other) => Err(format!(
            "spec.trafficDistribution {other:?} is none of PreferClose, PreferSameZone, PreferSameNode"
        )),
        (other, _) => {
            Err(format!("spec.internalTrafficPolicy {other:?} is none of Cluster, Local"))
        }
    }
}

impl Mesh<'_> {
    pub(super) fn service(
        &mut self,
        service: &objects::Service,
        slices: Option<&[&objects::EndpointSlice]>,
        origin: &Origin,
    ) -> Option<Service> {
        let metadata = &service.metadata;
        let vips = match vips(&service.spec) {
            Ok(vips) => vips,
            Err(text) => {
                self.problems.push(Problem { origin: origin.clone(), text });
                return None;
            }
        };
        let distribution = distribution(&service.spec).unwrap_or_else(|text| {
            self.problems.push(Problem { origin: origin.clone(), text });
            Distribution::Any
        });
        let domain = &self.settings.cluster_domain;
        let ports = service.spec.ports.iter().filter(|port| is_tcp(port));
        Some(Service {
            name: metadata.name.as_str().into(),
            namespace: metadata.namespace.as_str().into(),
            hostname: format!("{}.{}.svc.{domain}", metadata.name, metadata.namespace).into(),
            vips,
            ports: ports
                .map(|port| ServicePort { name: port.name.as_str().into(), port: port.port })
                .collect(),
            distribution,
            // Where there are slices they are the word, as for kube-proxy.
            endpoints: match slices {
                Some(slices) => self.sliced_endpoints(service, slices),
                None => self.endpoints(service),
            },
            origin: origin.clone(),
        })
    }

    /// Endpoints that are pods; others have no identity that could be expected of them.
    fn sliced_endpoints(
        &self,
        service: &objects::Service,
        slices: &[&objects::EndpointSlice],
    ) -> BTreeMap<Arc<str>, Target> {
        let spec = &service.spec;
        let mut endpoints = BTreeMap::<Arc<str>, Target>::new();
        for slice in slices {
            let ports = spec.ports.iter().filter(|port| is_tcp(port)).filter_map(|port| {
                let same = slice.ports.iter().find(|other| other.name == port.name)?;
                Some((port.port, same.port?))
            });
            let target: Target = ports.collect();
            let ready = |e: &&objects::SliceEndpoint| {
                e.conditions.ready.unwrap_or(true) || spec.publish_not_ready_addresses
            };
            let addresses = slice.endpoints.iter().filter(ready).flat_map(|e| &e.addresses);
            for uid in addresses.filter_map(|text| self.by_address.get(&text.parse().ok()?)) {
                endpoints.entry(uid.clone()).or_default().extend(&target);
            }
        }
        endpoints
    }

    fn endpoints(&self, service: &objects::Service) -> BTreeMap<Arc<str>, Target> {
        let spec = &service.spec;
        let none = Vec::new();
        let members = self.by_namespace.get(service.metadata.namespace.as_str()).unwrap_or(&none);
        let chosen = members
            .iter()
            .filter_map(|index| self.pods.get(*index))
            .filter(|_| !spec.selector.is_empty())
            .filter(|(workload, _)| workload.ready || spec.publish_not_ready_addresses)
            .filter(|(_, pod)| {
                spec.selector.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
            });
        chosen
            .map(|(workload, pod)| {
                let ports = spec.ports.iter().filter(|port| is_tcp(port));
                let target = ports.filter_map(|port| Some((port.port, target_port(port, pod)?)));
                (workload.uid.clone(), target.collect())
            })
            .collect()
    }
}

fn vips(spec: &objects::ServiceSpec) -> Result<Vec<IpAddr>, String> {
    let all = spec.cluster_ips.iter().map(String::as_str);
    let mut vips = Vec::new();
    for text in std::iter::once(spec.cluster_ip.as_str()).chain(all) {
        if text.is_empty() || text == "None" {
            continue;
        }
        let vip: IpAddr = text
            .parse()
            .map_err(|_| format!("spec.clusterIP {text:?} is neither an IP address nor None"))?;
        if !vips.contains(&vip) {
            vips.push(vip);
        }
    }
    Ok(vips)
}

fn is_tcp(port: &objects::ServicePort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

fn target_port(port: &objects::ServicePort, pod: &objects::Pod) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => {
            let mut ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
            ports.find(|candidate| candidate.name == *name).map(|found| found.container_port)
        }
    }
}
