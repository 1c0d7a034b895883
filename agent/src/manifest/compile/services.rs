//! Pure: Services and ServiceEntries (see `entries`), and what is behind them: by selector, by slices, or as
//! they say.
//! Never: looks through all services for one workload, or through all workloads for one service.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    super::{
        declared::Name,
        documents::Found,
        objects::{self, Labels, Metadata, Object},
    },
    entries,
    facts::{Asking, Kind},
    members::{Maker, Member, PortSpec},
    slices,
};
use crate::{
    discovery::{Distribution, Service, ServicePort, Snapshot, Speech, Target, Waypoint},
    origin::Origin,
};

/// The label with which a slice says whose endpoints it has.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace, key and value of a label.
type Label = (String, String, String);
/// Workloads and their ports, by uid.
pub(super) type Endpoints = BTreeMap<Arc<str>, Target>;
/// The members of a namespace, by uid.
pub(super) type Members = BTreeMap<Arc<str>, Member>;

/// All services, with what it takes to find those that a workload may be behind.
#[derive(Debug, Default)]
pub(super) struct Services {
    compiled: HashMap<Name, Compiled>,
    /// By the first label of their selectors.
    selecting: HashMap<Label, BTreeSet<Name>>,
    /// By the addresses in their slices.
    mentioning: HashMap<IpAddr, BTreeSet<Name>>,
    slices: HashMap<Name, BTreeMap<Name, objects::EndpointSlice>>,
    service_of_slice: HashMap<Name, Name>,
}

#[derive(Debug)]
pub(super) struct Compiled {
    /// One per host name.
    pub(super) services: Vec<Arc<Service>>,
    pub(super) behind: Behind,
    /// Workloads that stand in the ServiceEntry itself.
    pub(super) machines: Vec<Arc<str>>,
}

/// What is behind a service.
#[derive(Debug)]
pub(super) enum Behind {
    /// Members of its namespace that have these labels.
    Selected { selector: Labels, ports: Vec<PortSpec>, unready: bool },
    /// Who has these addresses.
    Sliced(Vec<(Vec<IpAddr>, Target)>),
    /// What it says itself.
    Fixed,
}

impl Services {
    /// A slice came, went (`None`) or is another now. Gives the services that it concerns.
    pub(super) fn slice(
        &mut self,
        name: &Name,
        slice: Option<&objects::EndpointSlice>,
    ) -> Vec<Name> {
        let mut concerned = Vec::new();
        if let Some(service) = self.service_of_slice.remove(name) {
            if let Some(slices) = self.slices.get_mut(&service) {
                slices.remove(name);
            }
            concerned.push(service);
        }
        if let Some(slice) = slice
            && let Some(service) = slice.metadata.labels.get(SERVICE_NAME)
        {
            let service = ("Service", slice.metadata.namespace.clone(), service.clone());
            self.service_of_slice.insert(name.clone(), service.clone());
            self.slices.entry(service.clone()).or_default().insert(name.clone(), slice.clone());
            concerned.push(service);
        }
        concerned
    }

    /// A member was one thing and is another now: services that it is, or was, behind follow.
    pub(super) fn member(
        &mut self,
        snapshot: &mut Snapshot,
        (then, now): (Option<&Member>, Option<&Member>),
    ) {
        let Some(uid) = now.or(then).map(|member| member.workload.uid.clone()) else { return };
        let both = then.into_iter().chain(now);
        let concerned: BTreeSet<Name> = both.flat_map(|member| self.concerned(member)).collect();
        for name in concerned {
            self.change(snapshot, &name, |snapshot, behind, endpoints| match behind {
                Behind::Selected { .. } => {
                    endpoints.remove(&uid);
                    let target = now.and_then(|now| behind.target(now));
                    endpoints.extend(target.map(|target| (uid.clone(), target)));
                }
                Behind::Sliced(groups) => *endpoints = slices::sliced(snapshot, groups),
                Behind::Fixed => {}
            });
        }
    }

    /// Puts all members behind the services that select them.
    pub(super) fn fill(&mut self, snapshot: &mut Snapshot, members: &HashMap<String, Members>) {
        let mut behind = HashMap::<Name, Endpoints>::new();
        for member in members.values().flat_map(BTreeMap::values) {
            for name in self.concerned(member) {
                let target = self.compiled.get(&name).and_then(|c| c.behind.target(member));
                let endpoint = target.map(|target| (member.workload.uid.clone(), target));
                behind.entry(name).or_default().extend(endpoint);
            }
        }
        for (name, found) in behind {
            self.change(snapshot, &name, |_, _, endpoints| endpoints.extend(found.clone()));
        }
    }

    /// The services that may select the member, or whose slices name its addresses.
    fn concerned(&self, member: &Member) -> Vec<Name> {
        let namespace = member.workload.namespace.to_string();
        let label = |(key, value): (&String, &String)| {
            self.selecting.get(&(namespace.clone(), key.clone(), value.clone()))
        };
        let selecting = member.workload.labels.iter().filter_map(label).flatten();
        let addresses = member.workload.addresses.iter();
        let mentioning = addresses.filter_map(|at| self.mentioning.get(at)).flatten();
        selecting.chain(mentioning).cloned().collect()
    }

    /// Changes the endpoints of the services that one object stands for.
    fn change(
        &mut self,
        snapshot: &mut Snapshot,
        name: &Name,
        how: impl Fn(&Snapshot, &Behind, &mut Endpoints),
    ) {
        let Some(compiled) = self.compiled.get_mut(name) else { return };
        for service in &mut compiled.services {
            let mut endpoints = service.endpoints.clone();
            how(snapshot, &compiled.behind, &mut endpoints);
            if endpoints == service.endpoints {
                continue;
            }
            snapshot.remove_service(service);
            *service = Arc::new(Service { endpoints, ..(**service).clone() });
            snapshot.insert_service(service.clone());
        }
    }

    /// A service came, went (`None`), or is another now. Of `members` some may be behind it. Says what
    /// is wrong with it.
    pub(super) fn service(
        &mut self,
        snapshot: &mut Snapshot,
        maker: &Maker<'_>,
        (name, found): (&Name, Option<&Found>),
        members: Option<&Members>,
    ) -> Vec<String> {
        let mut machines = self.remove(snapshot, name);
        let mut problems = Vec::new();
        let compiled = match found.map(|found| (&found.object, &found.origin)) {
            Some((Object::Service(service), origin)) => {
                let slices = self.slices.get(name);
                kubernetes(maker, service, slices, origin, &mut problems)
            }
            Some((Object::Entry(entry), origin)) => {
                entries::compiled(maker, entry, origin, &mut problems, snapshot)
            }
            Some(_) | None => Err(None),
        };
        let mut compiled = match compiled {
            Ok(compiled) => compiled,
            Err(problem) => {
                problems.extend(problem);
                self.resolve(snapshot, &machines);
                return problems;
            }
        };
        let address = |uid: &Arc<str>| Some(snapshot.workload(uid)?.addresses.clone());
        machines.extend(compiled.machines.iter().filter_map(address).flatten());
        let endpoints = match &compiled.behind {
            Behind::Selected { .. } => {
                let all = members.into_iter().flat_map(BTreeMap::values);
                let uid = |member: &Member| member.workload.uid.clone();
                Some(all.filter_map(|m| Some((uid(m), compiled.behind.target(m)?))).collect())
            }
            Behind::Sliced(groups) => Some(slices::sliced(snapshot, groups)),
            Behind::Fixed => None,
        };
        for service in &mut compiled.services {
            if let Some(endpoints) = &endpoints {
                Arc::make_mut(service).endpoints.clone_from(endpoints);
            }
            snapshot.insert_service(service.clone());
        }
        self.insert(name, compiled);
        self.resolve(snapshot, &machines);
        problems
    }

    /// Somebody else may be at these addresses by now: services whose slices name them follow.
    fn resolve(&mut self, snapshot: &mut Snapshot, addresses: &[IpAddr]) {
        let named = addresses.iter().filter_map(|address| self.mentioning.get(address)).flatten();
        for name in named.cloned().collect::<BTreeSet<_>>() {
            self.change(snapshot, &name, |snapshot, behind, endpoints| match behind {
                Behind::Sliced(groups) => *endpoints = slices::sliced(snapshot, groups),
                Behind::Selected { .. } | Behind::Fixed => {}
            });
        }
    }

    /// Gives the addresses of the machines that go with it.
    fn remove(&mut self, snapshot: &mut Snapshot, name: &Name) -> Vec<IpAddr> {
        let Some(compiled) = self.compiled.remove(name) else { return Vec::new() };
        compiled.services.iter().for_each(|service| snapshot.remove_service(service));
        let address = |uid: &Arc<str>| Some(snapshot.workload(uid)?.addresses.clone());
        let machines = compiled.machines.iter().filter_map(address).flatten().collect();
        compiled.machines.iter().for_each(|uid| snapshot.remove_workload(uid));
        if let Some(label) = compiled.behind.first_label(&name.1) {
            forget(&mut self.selecting, &label, name);
        }
        for address in compiled.behind.addresses() {
            forget(&mut self.mentioning, &address, name);
        }
        machines
    }

    fn insert(&mut self, name: &Name, compiled: Compiled) {
        if let Some(label) = compiled.behind.first_label(&name.1) {
            self.selecting.entry(label).or_default().insert(name.clone());
        }
        for address in compiled.behind.addresses() {
            self.mentioning.entry(address).or_default().insert(name.clone());
        }
        self.compiled.insert(name.clone(), compiled);
    }
}

fn forget<K: Eq + std::hash::Hash>(index: &mut HashMap<K, BTreeSet<Name>>, key: &K, name: &Name) {
    let left = index.get_mut(key).is_some_and(|names| {
        names.remove(name);
        !names.is_empty()
    });
    if !left {
        index.remove(key);
    }
}

impl Behind {
    /// Where a member takes connections to the service: nowhere while it is not ready. `None` when it
    /// is not behind it.
    fn target(&self, member: &Member) -> Option<Target> {
        match self {
            Self::Selected { selector, ports, unready } => {
                let takes = member.workload.ready || *unready;
                let target = |port: &PortSpec| Some((port.port, member.target(port)?));
                let ports = ports.iter().filter(|_| takes);
                member.has(selector).then(|| ports.filter_map(target).collect())
            }
            Self::Sliced(_) | Self::Fixed => None,
        }
    }

    fn first_label(&self, namespace: &str) -> Option<Label> {
        match self {
            Self::Selected { selector, .. } => {
                let (key, value) = selector.first_key_value()?;
                Some((namespace.to_owned(), key.clone(), value.clone()))
            }
            Self::Sliced(_) | Self::Fixed => None,
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Sliced(groups) => groups.iter().flat_map(|(all, _)| all).copied().collect(),
            Self::Selected { .. } | Self::Fixed => Vec::new(),
        }
    }
}

/// A Kubernetes Service. Where there are slices they are the word, as for kube-proxy.
fn kubernetes(
    maker: &Maker<'_>,
    service: &objects::Service,
    of: Option<&BTreeMap<Name, objects::EndpointSlice>>,
    origin: &Origin,
    problems: &mut Vec<String>,
) -> Result<Compiled, Option<String>> {
    let (metadata, spec) = (&service.metadata, &service.spec);
    let distribution = distribution(spec).unwrap_or_else(|text| {
        problems.push(text);
        Distribution::Any
    });
    let (waypoint, waypoint_shares) = waypoints(maker, metadata, problems);
    let ports = spec.ports.iter().filter(|port| is_tcp(port));
    let domain = &maker.settings.cluster_domain;
    let behind = match of.filter(|slices| !slices.is_empty()) {
        Some(slices) => Behind::Sliced(slices::groups(spec, slices.values())),
        None if spec.selector.is_empty() => Behind::Fixed,
        None => Behind::Selected {
            selector: spec.selector.clone(),
            ports: ports.clone().map(port_spec).collect(),
            unready: spec.publish_not_ready_addresses,
        },
    };
    let service = Service {
        name: metadata.name.as_str().into(),
        namespace: metadata.namespace.as_str().into(),
        hostname: format!("{}.{}.svc.{domain}", metadata.name, metadata.namespace).into(),
        vips: vips(spec)?,
        ranges: Vec::new(),
        passthrough: false,
        waypoint,
        waypoint_shares,
        ports: ports.map(kubernetes_port).collect(),
        distribution,
        outsiders: slices::outsiders(maker, (metadata, spec), of),
        endpoints: Endpoints::new(),
        origin: origin.clone(),
    };
    Ok(Compiled { services: vec![service.into()], behind, machines: Vec::new() })
}

/// The waypoint of a service, and what others take of it.
pub(super) fn waypoints(
    maker: &Maker<'_>,
    metadata: &Metadata,
    problems: &mut Vec<String>,
) -> (Option<Waypoint>, Vec<(Waypoint, u32)>) {
    let (kind, labels) = (Kind::Service, &metadata.labels);
    let asking = Asking { kind, namespace: &metadata.namespace, labels };
    let (waypoint, problem) = maker.facts.waypoint(asking);
    problems.extend(problem);
    let shares = waypoint.as_ref().map(|waypoint| maker.facts.shares(waypoint, metadata));
    let (shares, problem) = shares.unwrap_or_default();
    problems.extend(problem);
    (waypoint, shares)
}

fn kubernetes_port(port: &objects::ServicePort) -> ServicePort {
    let speech = Speech::of_port(port.port, &port.name, port.app_protocol.as_deref());
    ServicePort { name: port.name.as_str().into(), port: port.port, speech }
}

fn port_spec(port: &objects::ServicePort) -> PortSpec {
    PortSpec { port: port.port, name: port.name.clone(), target: port.target_port.clone() }
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

pub(super) fn is_tcp(port: &objects::ServicePort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}
