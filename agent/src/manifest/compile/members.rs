//! Pure: pods and machines outside Kubernetes → workloads.
//! Never: which services they are behind.
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use super::{
    super::objects::{self, Labels, Machine, Metadata, TargetPort},
    Settings,
    facts::{Asking, Facts, Kind},
};
use crate::{
    discovery::{Locality, Protocol, Workload},
    identity::Identity,
    origin::Origin,
};

const NETNS: &str = "culvert.dev/netns";
const CGROUP: &str = "culvert.dev/cgroup";
/// What a machine outside Kubernetes says that takes tunnels.
const TUNNEL: &str = "networking.istio.io/tunnel";
/// What Istio's injector writes on a pod with a sidecar: that already stands where an agent would.
const SIDECAR: &str = "sidecar.istio.io/status";

/// A workload that services may select.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) workload: Arc<Workload>,
    ports: Ports,
}

/// Where a workload listens, by name.
#[derive(Clone, Debug)]
enum Ports {
    /// By the names of containers' ports.
    Containers(BTreeMap<String, u16>),
    /// By the names of services' ports.
    Services(BTreeMap<String, u16>),
}

/// Where a machine takes connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// At this address.
    Address(IpAddr),
    /// At the addresses of this name.
    Name(Arc<str>),
}

impl At {
    /// The address that a text is.
    pub(super) fn address(text: &str) -> Result<Self, String> {
        let address: IpAddr = text.parse().map_err(|_| {
            format!("address {text:?} is no IP address: names and sockets are not supported")
        })?;
        Ok(Self::Address(address.to_canonical()))
    }

    /// The address that a text is, or else the name.
    pub(super) fn address_or_name(text: &str) -> Result<Self, String> {
        if let Ok(at) = Self::address(text) {
            return Ok(at);
        }
        match is_name(text) {
            true => Ok(Self::Name(text.trim_end_matches('.').to_ascii_lowercase().into())),
            false => Err(format!("address {text:?} is neither an IP address nor a host name")),
        }
    }
}

/// Whether a text can be a host name (RFC 1123 §2.1, and underscores, which are in use).
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| matches!(label.len(), 1..=63) && label.bytes().all(good);
    text.len() <= 253 && text.split('.').all(label)
}

/// A port of a service, and where it leads.
#[derive(Clone, Debug)]
pub(super) struct PortSpec {
    pub(super) port: u16,
    pub(super) name: String,
    pub(super) target: Option<TargetPort>,
}

impl Member {
    /// Where the workload listens for a port of a service.
    pub(super) fn target(&self, of: &PortSpec) -> Option<u16> {
        match (&self.ports, &of.target) {
            (Ports::Services(named), _) if named.contains_key(&of.name) => {
                named.get(&of.name).copied()
            }
            (_, None) => Some(of.port),
            (_, Some(TargetPort::Number(number))) => Some(*number),
            (Ports::Containers(named), Some(TargetPort::Name(name))) => named.get(name).copied(),
            (Ports::Services(_), Some(TargetPort::Name(_))) => None,
        }
    }

    /// Whether it has all of these labels.
    pub(super) fn has(&self, selector: &Labels) -> bool {
        selector.iter().all(|(key, value)| self.workload.labels.get(key) == Some(value))
    }
}

/// What workloads are made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker<'a> {
    pub(super) settings: &'a Settings,
    pub(super) facts: &'a Facts,
}

/// A member, and what is wrong with it that does not keep it from being one.
pub(super) type Made = Result<Option<(Member, Option<String>)>, String>;

impl Maker<'_> {
    /// The workload that is a pod; `None` for one that has ended.
    pub(super) fn pod(&self, pod: &objects::Pod, origin: &Origin) -> Made {
        if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            return Ok(None);
        }
        let Metadata { namespace, name, labels, annotations, .. } = &pod.metadata;
        let taken = pod.spec.host_network || annotations.contains_key(SIDECAR);
        let enrolled = !taken && self.facts.is_enrolled(namespace, labels);
        let annotation = |name: &str| annotations.get(name).map(PathBuf::from);
        let kind = Kind::Workload;
        let (waypoint, problem) = self.facts.waypoint(Asking { kind, namespace, labels });
        let owner = workload_name(pod);
        let workload = Workload {
            uid: format!("{}//Pod/{namespace}/{name}", self.settings.cluster).into(),
            name: name.as_str().into(),
            namespace: namespace.as_str().into(),
            addresses: if pod.spec.host_network { Vec::new() } else { addresses(&pod.status)? },
            hostname: None,
            node: pod.spec.node_name.as_str().into(),
            locality: self.facts.locality(&pod.spec.node_name),
            identity: self.identity(namespace, &pod.spec.service_account_name)?,
            protocol: if enrolled { Protocol::Hbone } else { Protocol::Tcp },
            network: self.facts.network(namespace, labels),
            waypoint,
            capacity: 1,
            // Whoever is being terminated takes nothing new, whatever it still says of itself.
            ready: pod.metadata.deletion_timestamp.is_none() && is_ready(&pod.status),
            canonical_name: canonical_name(labels, &owner),
            canonical_revision: canonical_revision(labels),
            labels: labels.clone(),
            workload_name: owner.as_str().into(),
            netns: annotation(NETNS),
            cgroup: annotation(CGROUP),
            origin: origin.clone(),
        };
        let ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
        let named = ports.filter(|port| !port.name.is_empty());
        let ports = named.map(|port| (port.name.clone(), port.container_port)).collect();
        let ports = Ports::Containers(ports);
        Ok(Some((Member { workload: workload.into(), ports }, problem)))
    }

    /// The workload that is a WorkloadEntry.
    pub(super) fn entry(&self, entry: &objects::WorkloadEntry, origin: &Origin) -> Made {
        let Metadata { namespace, name, labels, .. } = &entry.metadata;
        let mut machine = entry.spec.clone();
        machine.labels.extend(labels.clone());
        let uid = format!("networking.istio.io/WorkloadEntry/{namespace}/{name}");
        let kind = Kind::Workload;
        let asking = Asking { kind, namespace, labels: &machine.labels };
        let (waypoint, problem) = self.facts.waypoint(asking);
        let at = At::address(&machine.address)?;
        let mut workload = self.machine((&machine, at), (namespace, name, uid), origin)?;
        workload.waypoint = waypoint;
        let ports = Ports::Services(machine.ports);
        Ok(Some((Member { workload: workload.into(), ports }, problem)))
    }

    /// A machine outside Kubernetes, called `name`, with the last part of its uid.
    pub(super) fn machine(
        &self,
        (machine, at): (&Machine, At),
        (namespace, name, uid): (&str, &str, String),
        origin: &Origin,
    ) -> Result<Workload, String> {
        let (addresses, hostname) = match at {
            At::Address(address) => (vec![address], None),
            At::Name(name) => (Vec::new(), Some(name)),
        };
        let account = Some(machine.service_account.as_str()).filter(|account| !account.is_empty());
        let tunnels = machine.labels.get(TUNNEL).is_some_and(|tunnel| tunnel == "http");
        let mut parts = machine.locality.split('/');
        let mut part = || parts.next().unwrap_or_default().into();
        let network = Some(machine.network.as_str()).filter(|network| !network.is_empty());
        Ok(Workload {
            uid: format!("{}/{uid}", self.settings.cluster).into(),
            name: name.into(),
            namespace: namespace.into(),
            addresses,
            hostname,
            node: "".into(),
            locality: Locality { region: part(), zone: part() },
            identity: self.identity(namespace, account.unwrap_or("default"))?,
            protocol: if tunnels { Protocol::Hbone } else { Protocol::Tcp },
            network: network
                .map_or_else(|| self.facts.network(namespace, &machine.labels), Arc::from),
            waypoint: None,
            capacity: machine.weight.max(1),
            ready: true,
            canonical_name: canonical_name(&machine.labels, name),
            canonical_revision: canonical_revision(&machine.labels),
            labels: machine.labels.clone(),
            workload_name: name.into(),
            netns: None,
            cgroup: None,
            origin: origin.clone(),
        })
    }

    fn identity(&self, namespace: &str, account: &str) -> Result<Identity, String> {
        Identity::new(&self.settings.trust_domain, namespace, account).map_err(|_| {
            format!(
                "{namespace}/{account} cannot be part of a SPIFFE ID: use letters, digits, dots and dashes"
            )
        })
    }
}

fn canonical_name(labels: &Labels, workload: &str) -> Arc<str> {
    let names = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    label(labels, names).unwrap_or(workload).into()
}

fn canonical_revision(labels: &Labels) -> Arc<str> {
    let names = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
    label(labels, names).unwrap_or("latest").into()
}

fn addresses(status: &objects::PodStatus) -> Result<Vec<IpAddr>, String> {
    let all = status.pod_ips.iter().map(|ip| ip.ip.as_str());
    let first = std::iter::once(status.pod_ip.as_str());
    let mut addresses = Vec::new();
    for text in first.chain(all).filter(|text| !text.is_empty()) {
        let address: IpAddr =
            text.parse().map_err(|_| format!("status.podIP {text:?} is no IP address"))?;
        if !addresses.contains(&address.to_canonical()) {
            addresses.push(address.to_canonical());
        }
    }
    Ok(addresses)
}

/// A folder that says nothing about readiness means ready.
fn is_ready(status: &objects::PodStatus) -> bool {
    let mut ready = status.conditions.iter().filter(|condition| condition.kind == "Ready");
    ready.all(|condition| condition.status == "True")
}

fn label<'a>(labels: &'a Labels, names: [&str; 3]) -> Option<&'a str> {
    names.into_iter().find_map(|name| labels.get(name)).map(String::as_str)
}

/// The owner's name; of a ReplicaSet without the hash that its Deployment added.
fn workload_name(pod: &objects::Pod) -> String {
    let owner = pod.metadata.owner_references.iter().find(|owner| owner.controller);
    match owner {
        Some(owner) if owner.kind == "ReplicaSet" => {
            owner.name.rsplit_once('-').map_or(owner.name.as_str(), |(name, _)| name).to_owned()
        }
        Some(owner) => owner.name.clone(),
        None => pod.metadata.name.clone(),
    }
}
