//! Pure: ServiceEntries → services, one per host, and the machines that stand in them
//! (`networking/v1alpha3/service_entry.proto`).
//! Never: looks up a name (see `Workload::hostname`).
use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    super::objects::{self, EntryPort, EntrySpec, Machine, Metadata},
    members::{At, Maker, PortSpec},
    services::{Behind, Compiled, Endpoints, waypoints},
};
use crate::{
    discovery::{Distribution, Service, ServicePort, Snapshot, Speech, Target},
    origin::Origin,
};

/// How endpoints are found (`resolution`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resolution {
    /// By their addresses.
    Static,
    /// Not at all: connections go to where they were dialled.
    None,
    /// By their names.
    Names,
}

impl Resolution {
    /// Of several addresses of a name Istio's `DNS_ROUND_ROBIN` takes one for each connection, and `DNS`
    /// balances among them: here both are balanced.
    fn of(text: &str) -> Result<Self, String> {
        match text {
            "STATIC" => Ok(Self::Static),
            "" | "NONE" => Ok(Self::None),
            "DNS" | "DNS_ROUND_ROBIN" => Ok(Self::Names),
            other => Err(format!(
                "spec.resolution {other} is not supported: endpoints are found by their addresses (STATIC), by their names (DNS, DNS_ROUND_ROBIN), or not at all (NONE)"
            )),
        }
    }
}

/// A ServiceEntry that is being compiled.
struct Entry<'a> {
    maker: &'a Maker<'a>,
    metadata: &'a Metadata,
    spec: &'a EntrySpec,
    resolution: Resolution,
    origin: &'a Origin,
}

/// The services of a ServiceEntry, one per host.
pub(super) fn compiled(
    maker: &Maker<'_>,
    entry: &objects::ServiceEntry,
    origin: &Origin,
    problems: &mut Vec<String>,
    snapshot: &mut Snapshot,
) -> Result<Compiled, Option<String>> {
    let (metadata, spec) = (&entry.metadata, &entry.spec);
    let resolution = Resolution::of(&spec.resolution)?;
    let (vips, ranges) = addresses(&spec.addresses)?;
    let (waypoint, waypoint_shares) = waypoints(maker, metadata, problems);
    if resolution == Resolution::Names && waypoint.is_none() && !spec.addresses.is_empty() {
        problems.push(format!(
            "spec.resolution {}: nobody but a waypoint looks names up, and it has none: connections to spec.addresses go to where they were dialled",
            spec.resolution
        ));
    }
    let behind = match &spec.workload_selector {
        Some(selector) if !selector.labels.is_empty() => Behind::Selected {
            selector: selector.labels.clone(),
            ports: spec.ports.iter().map(port_spec).collect(),
            unready: false,
        },
        Some(_) | None => Behind::Fixed,
    };
    let entry = Entry { maker, metadata, spec, resolution, origin };
    let listed = entry.listed(problems, snapshot);
    let own = resolution == Resolution::Names && spec.endpoints.is_empty();
    let own = own && matches!(behind, Behind::Fixed);
    let mut services = Vec::new();
    for host in &spec.hosts {
        let endpoints = if own { entry.own(host, problems, snapshot) } else { listed.clone() };
        services.push(Arc::new(Service {
            name: metadata.name.as_str().into(),
            namespace: metadata.namespace.as_str().into(),
            hostname: host.to_ascii_lowercase().into(),
            vips: vips.clone(),
            ranges: ranges.clone(),
            passthrough: resolution == Resolution::None,
            waypoint: waypoint.clone(),
            waypoint_shares: waypoint_shares.clone(),
            ports: spec.ports.iter().map(service_port).collect(),
            distribution: Distribution::Any,
            outsiders: Vec::new(),
            endpoints,
            origin: origin.clone(),
        }));
    }
    let all = services.iter().flat_map(|service| service.endpoints.keys().cloned());
    let mut machines: Vec<_> = all.collect();
    machines.sort();
    machines.dedup();
    Ok(Compiled { services, behind, machines })
}

impl Entry<'_> {
    /// The endpoints that it lists.
    fn listed(&self, problems: &mut Vec<String>, snapshot: &mut Snapshot) -> Endpoints {
        let mut endpoints = Endpoints::new();
        for (index, machine) in self.spec.endpoints.iter().enumerate() {
            match self.machine(machine, snapshot) {
                Ok((uid, target)) => drop(endpoints.insert(uid, target)),
                Err(text) => problems.push(format!("spec.endpoints[{index}]: {text}")),
            }
        }
        endpoints
    }

    /// A host that is its own endpoint.
    fn own(&self, host: &str, problems: &mut Vec<String>, snapshot: &mut Snapshot) -> Endpoints {
        let machine = Machine { address: host.to_ascii_lowercase(), ..Machine::default() };
        match self.machine(&machine, snapshot) {
            Ok(endpoint) => Endpoints::from([endpoint]),
            Err(_) => {
                problems.push(format!(
                    "spec.hosts {host:?} has no addresses to look up: give spec.endpoints"
                ));
                Endpoints::new()
            }
        }
    }

    fn machine(
        &self,
        machine: &Machine,
        snapshot: &mut Snapshot,
    ) -> Result<(Arc<str>, Target), String> {
        let Metadata { namespace, name, .. } = self.metadata;
        let uid =
            format!("networking.istio.io/ServiceEntry/{namespace}/{name}/{}", machine.address);
        let at = match self.resolution {
            Resolution::Names => At::address_or_name(&machine.address)?,
            Resolution::Static | Resolution::None => At::address(&machine.address)?,
        };
        let workload = self.maker.machine((machine, at), (namespace, name, uid), self.origin)?;
        let target = |port: &EntryPort| {
            let own = machine.ports.get(&port.name).copied();
            (port.number, own.or(port.target_port).unwrap_or(port.number))
        };
        let uid = workload.uid.clone();
        snapshot.insert_workload(workload.into());
        Ok((uid, self.spec.ports.iter().map(target).collect()))
    }
}

fn service_port(port: &EntryPort) -> ServicePort {
    let speech = Speech::of_protocol(&port.protocol);
    ServicePort { name: port.name.as_str().into(), port: port.number, speech }
}

fn port_spec(port: &EntryPort) -> PortSpec {
    let target = port.target_port.map(objects::TargetPort::Number);
    PortSpec { port: port.number, name: port.name.clone(), target }
}

/// Single addresses, and ranges.
fn addresses(texts: &[String]) -> Result<(Vec<IpAddr>, Vec<IpNet>), String> {
    let (mut single, mut ranges) = (Vec::new(), Vec::new());
    for text in texts {
        if let Ok(address) = text.parse::<IpAddr>() {
            single.push(address.to_canonical());
        } else {
            let range: IpNet = text.parse().map_err(|_| {
                format!("spec.addresses {text:?} is neither an IP address nor a range of them")
            })?;
            ranges.push(range.trunc());
        }
    }
    Ok((single, ranges))
}
