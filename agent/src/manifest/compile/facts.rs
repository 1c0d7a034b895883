//! Pure: what namespaces, nodes and Gateways say about everything else.
//! Never: a workload, a service.
use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        documents::Folder,
        objects::{self, Labels, Object},
    },
    Settings,
};
use crate::{
    discovery::{Locality, Waypoint, WaypointDestination},
    origin::{Origin, Problem},
};

/// Istio's label that enrols pods, and those of a namespace.
const MODE: &str = "istio.io/dataplane-mode";
/// The network that a namespace's addresses, or a pod's, belong to.
pub(super) const NETWORK: &str = "topology.istio.io/network";
/// The Gateway that is the waypoint of an object, or of a namespace's objects; `none` for none.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// The namespace of that Gateway; the object's own unless given.
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// A second Gateway that takes a share of the connections to a service, and its namespace.
const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
/// Its share, an annotation: percent, 0 unless given.
const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
/// What a Gateway is a waypoint for: `service` unless given, `workload`, `all` or `none`.
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// How a proxy in front would hand connections to the waypoint, an annotation of Gateways.
const BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";
/// Whose Gateway a pod, or a service, is part of: it has no waypoint of its own.
const PART_OF_GATEWAY: [&str; 2] =
    ["gateway.networking.k8s.io/gateway-name", "gateway.istio.io/managed"];
/// Classes of Gateways that are waypoints; those of the edge are none.
const CLASSES: [&str; 2] = ["culvert-waypoint", "istio-waypoint"];
/// The port for tunnels.
const HBONE: &str = "HBONE";

/// The kinds of objects that all others depend on.
pub(super) const KINDS: [&str; 3] = ["Namespace", "Node", "Gateway"];

/// What everything else depends on.
#[derive(Debug, Default)]
pub(super) struct Facts {
    namespaces: HashMap<String, objects::Metadata>,
    localities: HashMap<String, Locality>,
    gateways: HashMap<(String, String), Gateway>,
    /// A namespace that nothing declares may stand in a damaged file.
    pub(super) partial: bool,
    cluster_domain: String,
    /// What is wrong with namespaces.
    pub(super) problems: Vec<Problem>,
}

#[derive(Debug)]
struct Gateway {
    is_waypoint: bool,
    destination: WaypointDestination,
    port: u16,
    serves: String,
    annotations: Labels,
    admits: Admits,
}

/// Objects of which namespaces a Gateway serves, beside its own.
#[derive(Debug)]
enum Admits {
    None,
    All,
    Labelled(objects::LabelSelector),
}

/// What would go through a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Service,
    Workload,
}

/// Who asks for a waypoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
    pub(super) labels: &'a Labels,
}

impl Facts {
    pub(super) fn of(folder: &Folder, settings: &Settings) -> Self {
        let mut facts = Self {
            partial: folder.is_partial(),
            cluster_domain: settings.cluster_domain.clone(),
            ..Self::default()
        };
        for (_, found) in KINDS.into_iter().flat_map(|kind| folder.of_kind(kind)) {
            match &found.object {
                Object::Namespace(namespace) => {
                    let metadata = &namespace.metadata;
                    facts.namespaces.insert(metadata.name.clone(), metadata.clone());
                }
                Object::Node(node) => {
                    facts.localities.insert(node.metadata.name.clone(), locality(&node.metadata));
                }
                Object::Gateway(gateway) => {
                    let metadata = &gateway.metadata;
                    let name = (metadata.namespace.clone(), metadata.name.clone());
                    facts.problems.extend(binding(metadata, &found.origin));
                    let gateway = facts.gateway(gateway);
                    facts.gateways.insert(name, gateway);
                }
                Object::Pod(_)
                | Object::Service(_)
                | Object::Slice(_)
                | Object::Policy(_)
                | Object::Peer(_)
                | Object::Entry(_)
                | Object::Member(_)
                | Object::Declared(_) => {}
            }
        }
        for (_, found) in folder.of_kind("Namespace") {
            let Object::Namespace(namespace) = &found.object else { continue };
            let metadata = &namespace.metadata;
            let (kind, namespace, labels) = (Kind::Service, &*metadata.name, &metadata.labels);
            let by = (USE_WAYPOINT, USE_WAYPOINT_NAMESPACE);
            let refused = named(labels, namespace, by).and_then(|(name, home)| {
                let why = facts.admitted(&name, &home, namespace).err()?;
                Some(without(&name, &home, why))
            });
            let primary = facts.waypoint(Asking { kind, namespace, labels }).0;
            let canary = primary.and_then(|to| facts.canary(&to, namespace, metadata).err());
            for text in refused.into_iter().chain(canary) {
                facts.problems.push(Problem { origin: found.origin.clone(), text });
            }
        }
        facts
    }

    fn gateway(&self, gateway: &objects::Gateway) -> Gateway {
        let metadata = &gateway.metadata;
        let listener = gateway.spec.listeners.iter().find(|listener| listener.protocol == HBONE);
        let given = |hostname: bool| {
            let mut all = gateway.status.addresses.iter();
            all.find(|address| (address.kind == "Hostname") == hostname)
        };
        let address = || Some(WaypointDestination::Address(given(false)?.value.parse().ok()?));
        let hostname = given(true).map(|address| address.value.to_ascii_lowercase());
        let service = || self.host_of(&metadata.name, &metadata.namespace);
        let class = gateway.spec.gateway_class_name.as_str();
        Gateway {
            is_waypoint: listener.is_some() || class.is_empty() || CLASSES.contains(&class),
            destination: match hostname {
                Some(hostname) => WaypointDestination::Host(hostname.into()),
                None => address().unwrap_or_else(service),
            },
            port: listener.map_or(culvert_ebpf::abi::HBONE_PORT, |listener| listener.port),
            serves: metadata.labels.get(WAYPOINT_FOR).cloned().unwrap_or_default(),
            annotations: metadata.annotations.clone(),
            admits: listener.map_or(Admits::None, |listener| {
                let allowed = &listener.allowed_routes.namespaces;
                match allowed.from.as_str() {
                    "All" => Admits::All,
                    "Selector" => Admits::Labelled(allowed.selector.clone()),
                    _ => Admits::None,
                }
            }),
        }
    }

    /// The Service that is deployed for a Gateway.
    fn host_of(&self, name: &str, namespace: &str) -> WaypointDestination {
        let host = format!("{name}.{namespace}.svc.{}", self.cluster_domain);
        WaypointDestination::Host(host.into())
    }

    /// Whether pods of the namespace are enrolled that do not say otherwise.
    pub(super) fn is_enrolled(&self, namespace: &str, labels: &Labels) -> bool {
        let mode = |labels: &Labels| labels.get(MODE).map(|mode| mode == "ambient");
        let of_namespace = || self.labels(namespace).map(|labels| mode(labels) == Some(true));
        let opted_out = labels.get(MODE).is_some_and(|mode| mode == "none");
        !opted_out && (mode(labels) == Some(true) || of_namespace().unwrap_or(self.partial))
    }

    fn labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace).map(|metadata| &metadata.labels)
    }

    /// Where a node stands.
    pub(super) fn locality(&self, node: &str) -> Locality {
        self.localities.get(node).cloned().unwrap_or_default()
    }

    /// The network of the addresses of an object with these labels.
    pub(super) fn network(&self, namespace: &str, labels: &Labels) -> Arc<str> {
        let own = labels.get(NETWORK);
        let of_namespace = || self.labels(namespace)?.get(NETWORK);
        own.or_else(of_namespace).map_or("", String::as_str).into()
    }

    pub(super) fn annotation_of_gateway(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Option<&str> {
        let gateway = self.gateways.get(&(namespace.to_owned(), name.to_owned()))?;
        gateway.annotations.get(key).map(String::as_str)
    }

    /// The waypoint of an object. One that is asked for and not there is none, as in Istio, and the text
    /// says so; only while it may stand in a file that was never read it is still what must be passed:
    /// then there is a waypoint that nobody can reach.
    pub(super) fn waypoint(&self, asking: Asking<'_>) -> (Option<Waypoint>, Option<String>) {
        let Asking { kind, namespace, labels } = asking;
        if PART_OF_GATEWAY.iter().any(|label| labels.contains_key(*label)) {
            return (None, None);
        }
        let own = labels.contains_key(USE_WAYPOINT);
        let labels = if own { Some(labels) } else { self.labels(namespace) };
        let by = (USE_WAYPOINT, USE_WAYPOINT_NAMESPACE);
        let Some((name, home)) = labels.and_then(|labels| named(labels, namespace, by)) else {
            return (None, None);
        };
        match self.admitted(&name, &home, namespace) {
            Ok(gateway) if gateway.is_for(kind) => (Some(gateway.waypoint()), None),
            Ok(_) => (None, None),
            // Of a namespace's own label the namespace tells.
            Err(why) if !self.may_be_unread(&name, &home) => {
                (None, own.then(|| without(&name, &home, why)))
            }
            Err(why) => {
                let destination = WaypointDestination::Host(format!("{home}/{name}").into());
                let waypoint = Waypoint { destination, port: culvert_ebpf::abi::HBONE_PORT };
                (Some(waypoint), own.then(|| without(&name, &home, why)))
            }
        }
    }

    /// The waypoints of a service with their weights, when a second one takes a share of what goes to
    /// `primary`. What cannot be leaves all to that, and the text says so.
    pub(super) fn shares(
        &self,
        primary: &Waypoint,
        of: &objects::Metadata,
    ) -> (Vec<(Waypoint, u32)>, Option<String>) {
        let own = of.labels.contains_key(CANARY) || of.annotations.contains_key(CANARY_WEIGHT);
        match self.canary(primary, &of.namespace, of) {
            Ok(shares) => (shares, None),
            // Of a namespace's own label the namespace tells.
            Err(text) => (Vec::new(), own.then_some(text)),
        }
    }

    fn canary(
        &self,
        primary: &Waypoint,
        namespace: &str,
        of: &objects::Metadata,
    ) -> Result<Vec<(Waypoint, u32)>, String> {
        let outer = self.namespaces.get(namespace);
        let labels = match of.labels.contains_key(CANARY) {
            true => Some(&of.labels),
            false => outer.map(|outer| &outer.labels),
        };
        let by = (CANARY, CANARY_NAMESPACE);
        let Some((name, home)) = labels.and_then(|labels| named(labels, namespace, by)) else {
            return Ok(Vec::new());
        };
        let all = format!("{} takes all connections", primary.destination);
        let refused = |why: &str| format!("{CANARY} names Gateway {home}/{name}, {why}: {all}");
        let said = [Some(of), outer].into_iter().flatten();
        let weight = match said.filter_map(|of| of.annotations.get(CANARY_WEIGHT)).next() {
            None => 0,
            Some(text) => text.parse().ok().filter(|weight| *weight <= 100).ok_or_else(|| {
                format!("{CANARY_WEIGHT} {text:?} is no whole number from 0 to 100: {all}")
            })?,
        };
        let gateway = self.admitted(&name, &home, namespace).map_err(refused)?;
        let canary = gateway.waypoint();
        if !gateway.is_for(Kind::Service) {
            return Err(refused("which is not for services"));
        }
        if canary == *primary {
            return Err(refused("which is that of istio.io/use-waypoint too"));
        }
        Ok(vec![(primary.clone(), 100 - weight), (canary, weight)])
    }

    fn may_be_unread(&self, name: &str, home: &str) -> bool {
        self.partial && !self.gateways.contains_key(&(home.to_owned(), name.to_owned()))
    }

    fn admitted(&self, name: &str, home: &str, namespace: &str) -> Result<&Gateway, &'static str> {
        match self.gateways.get(&(home.to_owned(), name.to_owned())) {
            None => Err("which does not exist"),
            Some(gateway) if !gateway.is_waypoint => Err(
                "which is no waypoint (gatewayClassName culvert-waypoint or istio-waypoint, or an HBONE listener)",
            ),
            Some(gateway) if home != namespace && !self.is_admitted(gateway, namespace) => Err(
                "which does not admit this namespace (allowedRoutes.namespaces on its HBONE listener: from All, or from Selector with its matchLabels)",
            ),
            Some(gateway) => Ok(gateway),
        }
    }

    fn is_admitted(&self, gateway: &Gateway, namespace: &str) -> bool {
        let selector = match &gateway.admits {
            Admits::None => return false,
            Admits::All => return true,
            Admits::Labelled(selector) => selector,
        };
        let labels = self.labels(namespace);
        let has = |(key, value): (&String, &String)| {
            // Kubernetes gives every namespace this one.
            (key == "kubernetes.io/metadata.name" && value == namespace)
                || labels.and_then(|labels| labels.get(key)) == Some(value)
        };
        selector.match_expressions.is_empty()
            && !selector.match_labels.is_empty()
            && selector.match_labels.iter().all(has)
    }
}

impl Gateway {
    fn waypoint(&self) -> Waypoint {
        Waypoint { destination: self.destination.clone(), port: self.port }
    }

    fn is_for(&self, kind: Kind) -> bool {
        match self.serves.as_str() {
            "all" => true,
            "workload" => kind == Kind::Workload,
            "none" => false,
            _ => kind == Kind::Service,
        }
    }
}

/// That a Gateway asks for a proxy in front of its waypoint.
fn binding(gateway: &objects::Metadata, origin: &Origin) -> Option<Problem> {
    gateway.annotations.get(BINDING).filter(|binding| !binding.is_empty()).map(|_| Problem {
        origin: origin.clone(),
        text: format!(
            "{BINDING} is not obeyed: waypoints are reached by tunnels on their own port, and take nothing else"
        ),
    })
}

/// The Gateway that labels name by these two: its name and namespace.
fn named(labels: &Labels, namespace: &str, by: (&str, &str)) -> Option<(String, String)> {
    let name = labels.get(by.0).filter(|name| !name.is_empty() && *name != "none")?;
    let home = labels.get(by.1).map_or(namespace, String::as_str);
    Some((name.clone(), home.to_owned()))
}

/// That a Gateway is asked for that is not there.
fn without(name: &str, home: &str, why: &str) -> String {
    format!(
        "{USE_WAYPOINT} names Gateway {home}/{name}, {why}: connections go on without it, under L4 policy alone"
    )
}

fn locality(node: &objects::Metadata) -> Locality {
    let label = |name: &str| {
        let name = format!("topology.kubernetes.io/{name}");
        node.labels.get(&name).map_or("", String::as_str).into()
    };
    Locality { region: label("region"), zone: label("zone") }
}
