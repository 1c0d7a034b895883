//! Pure: the fields that we honour of each kind of Kubernetes object.
//! Never: behaviour. Fields that we do not know are other people's, and no error.
use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer};

use super::{
    declared::Declared,
    security::{AuthorizationPolicy, PeerAuthenticationObject},
};

/// An object that the mesh is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    /// A Namespace, for its labels.
    Namespace(Namespace),
    /// A Node, for where it stands.
    Node(Namespace),
    /// A Pod.
    Pod(Box<Pod>),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    Slice(EndpointSlice),
    /// An AuthorizationPolicy.
    Policy(Box<AuthorizationPolicy>),
    /// A PeerAuthentication.
    Peer(Box<PeerAuthenticationObject>),
    /// A ServiceEntry.
    Entry(Box<ServiceEntry>),
    /// A WorkloadEntry.
    Member(Box<WorkloadEntry>),
    /// A Gateway, for the waypoints.
    Gateway(Gateway),
    /// What only waypoints understand.
    Declared(Arc<Declared>),
}

impl Object {
    /// What only waypoints understand, if it is that.
    pub(super) fn declared(&self) -> Option<&Arc<Declared>> {
        if let Self::Declared(declared) = self { Some(declared) } else { None }
    }
}

/// What all objects begin with.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    /// Group and version.
    #[serde(default)]
    pub(super) api_version: String,
    /// The kind of object.
    #[serde(default)]
    pub(super) kind: String,
}

/// Labels and annotations.
pub type Labels = BTreeMap<String, String>;

/// Name and labels of an object.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The object's name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default")]
    pub namespace: String,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// Its annotations.
    #[serde(default)]
    pub annotations: Labels,
    /// When it was made, RFC 3339; empty when nobody says (kubectl writes `null` then).
    #[serde(default, deserialize_with = "or_empty")]
    pub creation_timestamp: String,
    /// Since when it is being removed.
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub owner_references: Vec<Owner>,
}

/// Who made an object.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it is the one that manages the object.
    #[serde(default)]
    pub controller: bool,
}

/// A Namespace, or a Node: only the metadata matter.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Namespace {
    /// Name and labels.
    pub(super) metadata: Metadata,
}

/// A Pod.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Pod {
    /// Name and labels.
    pub(super) metadata: Metadata,
    /// What was asked for.
    pub(super) spec: PodSpec,
    /// What is.
    #[serde(default)]
    pub(super) status: PodStatus,
}

/// What was asked for.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    /// The node that it runs on.
    #[serde(default)]
    pub(super) node_name: String,
    /// Whose rights it has.
    #[serde(default = "default")]
    pub(super) service_account_name: String,
    /// Whether it shares the node's network namespace.
    #[serde(default)]
    pub(super) host_network: bool,
    /// Its containers, for their named ports.
    #[serde(default)]
    pub(super) containers: Vec<Container>,
}

/// One container.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Container {
    /// What it listens on.
    #[serde(default)]
    pub(super) ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPort {
    /// Its name, for services to refer to.
    #[serde(default)]
    pub(super) name: String,
    /// Its number.
    pub(super) container_port: u16,
}

/// What is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    /// `Running`, `Succeeded`, `Failed` and so on.
    #[serde(default)]
    pub(super) phase: String,
    /// The first address.
    #[serde(default, rename = "podIP")]
    pub(super) pod_ip: String,
    /// All addresses.
    #[serde(default, rename = "podIPs")]
    pub(super) pod_ips: Vec<PodIp>,
    /// `Ready` among others.
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
}

/// One address of a pod.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct PodIp {
    /// The address.
    pub(super) ip: String,
}

/// One condition of a pod.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// `True`, `False` or `Unknown`.
    pub(super) status: String,
}

/// A Service.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Service {
    /// Name and labels.
    pub(super) metadata: Metadata,
    /// What was asked for.
    pub(super) spec: ServiceSpec,
}

/// What was asked for.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    /// The first cluster address, or `None`.
    #[serde(default, rename = "clusterIP")]
    pub(super) cluster_ip: String,
    /// All cluster addresses.
    #[serde(default, rename = "clusterIPs")]
    pub(super) cluster_ips: Vec<String>,
    /// Which pods are behind it.
    #[serde(default)]
    pub(super) selector: Labels,
    /// What it listens on.
    #[serde(default)]
    pub(super) ports: Vec<ServicePort>,
    /// `Cluster` or `Local`.
    #[serde(default)]
    pub(super) internal_traffic_policy: String,
    /// `PreferClose` and its kind.
    #[serde(default)]
    pub(super) traffic_distribution: String,
    /// Whether pods that are not ready are behind it too.
    #[serde(default)]
    pub(super) publish_not_ready_addresses: bool,
}

/// An EndpointSlice (discovery.k8s.io/v1): endpoints of a service as somebody else knows them.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct EndpointSlice {
    /// Name and labels; one of them names the service.
    pub(super) metadata: Metadata,
    /// The endpoints.
    #[serde(default)]
    pub(super) endpoints: Vec<SliceEndpoint>,
    /// What all of them listen on.
    #[serde(default)]
    pub(super) ports: Vec<SlicePort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceEndpoint {
    /// Its address; Kubernetes gives one.
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    /// Its state.
    #[serde(default)]
    pub(super) conditions: SliceConditions,
    /// The object that it is.
    #[serde(default)]
    pub(super) target_ref: Option<TargetRef>,
}

/// The object that an endpoint is.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct TargetRef {
    /// `Pod`, as a rule.
    #[serde(default)]
    pub(super) kind: String,
    /// Its name, in the namespace of the slice.
    #[serde(default)]
    pub(super) name: String,
}

/// The state of a slice's endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct SliceConditions {
    /// Whether it takes new connections; it does when nothing is said.
    #[serde(default)]
    pub(super) ready: Option<bool>,
    /// Whether it is being removed. It may be called ready all the same, where a service asks for that.
    #[serde(default)]
    pub(super) terminating: Option<bool>,
}

/// One port of a slice's endpoints.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct SlicePort {
    /// The name of the service's port.
    #[serde(default)]
    pub(super) name: String,
    /// Where the endpoints listen.
    #[serde(default)]
    pub(super) port: Option<u16>,
}

/// One port of a service.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    /// Its name.
    #[serde(default)]
    pub(super) name: String,
    /// What clients dial.
    pub(super) port: u16,
    /// Where pods listen; the same port unless given.
    #[serde(default)]
    pub(super) target_port: Option<TargetPort>,
    /// `TCP` unless given.
    #[serde(default)]
    pub(super) protocol: Option<String>,
    /// What is spoken there.
    #[serde(default)]
    pub(super) app_protocol: Option<String>,
}

/// A ServiceEntry (networking.istio.io): a service that Kubernetes does not know.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct ServiceEntry {
    /// Name and labels.
    pub(super) metadata: Metadata,
    /// What was asked for.
    pub(super) spec: EntrySpec,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EntrySpec {
    /// Its host names.
    pub(super) hosts: Vec<String>,
    /// Its addresses, single ones or ranges.
    pub(super) addresses: Vec<String>,
    /// What it listens on.
    pub(super) ports: Vec<EntryPort>,
    /// How endpoints are found: `NONE`, `STATIC`, `DNS`, `DNS_ROUND_ROBIN` or `DYNAMIC_DNS`.
    pub(super) resolution: String,
    /// The endpoints, if they stand here.
    pub(super) endpoints: Vec<Machine>,
    /// Pods and WorkloadEntries of the namespace that are the endpoints.
    pub(super) workload_selector: Option<WorkloadSelector>,
}

/// Which workloads are meant.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct WorkloadSelector {
    /// Labels that they must have.
    pub(super) labels: Labels,
}

/// One port of a ServiceEntry.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntryPort {
    /// What clients dial.
    pub(super) number: u16,
    /// Its name.
    #[serde(default)]
    pub(super) name: String,
    /// What is spoken there: `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP` or `TLS`.
    #[serde(default)]
    pub(super) protocol: String,
    /// Where endpoints listen; the same port unless given.
    #[serde(default)]
    pub(super) target_port: Option<u16>,
}

/// A WorkloadEntry (networking.istio.io): a machine outside Kubernetes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct WorkloadEntry {
    /// Name and labels.
    pub(super) metadata: Metadata,
    /// What it is.
    pub(super) spec: Machine,
}

/// One machine outside Kubernetes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Machine {
    /// Its address.
    pub(super) address: String,
    /// Where it listens, by the names of a service's ports.
    pub(super) ports: BTreeMap<String, u16>,
    /// Its labels.
    pub(super) labels: Labels,
    /// The network that the address belongs to.
    pub(super) network: String,
    /// `region/zone/subzone`.
    pub(super) locality: String,
    /// Its share of connections beside other endpoints'.
    pub(super) weight: u32,
    /// Whose certificate it has.
    pub(super) service_account: String,
}

/// A Gateway (gateway.networking.k8s.io).
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Gateway {
    /// Name and labels.
    pub(super) metadata: Metadata,
    /// What was asked for.
    #[serde(default)]
    pub(super) spec: GatewaySpec,
    /// What is.
    #[serde(default)]
    pub(super) status: GatewayStatus,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GatewaySpec {
    /// Who is to build it.
    pub(super) gateway_class_name: String,
    /// Where it listens.
    pub(super) listeners: Vec<Listener>,
}

/// One port of a Gateway.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listener {
    /// Its number.
    pub(super) port: u16,
    /// What is spoken; `HBONE` on a waypoint's.
    #[serde(default)]
    pub(super) protocol: String,
    /// Who may use it.
    #[serde(default)]
    pub(super) allowed_routes: AllowedRoutes,
}

/// Who may use a listener.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct AllowedRoutes {
    /// Objects of which namespaces.
    pub(super) namespaces: AllowedNamespaces,
}

/// Objects of which namespaces.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct AllowedNamespaces {
    /// `Same` unless given, `All`, or `Selector`.
    pub(super) from: String,
    /// Which, if by their labels.
    pub(super) selector: LabelSelector,
}

/// Labels that something must have.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LabelSelector {
    /// All of these.
    pub(super) match_labels: Labels,
    /// Conditions that are not understood: who has some selects nothing.
    pub(super) match_expressions: Vec<serde_json::Value>,
}

/// What is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct GatewayStatus {
    /// Where it can be reached.
    pub(super) addresses: Vec<GatewayAddress>,
}

/// One address of a Gateway.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct GatewayAddress {
    /// `IPAddress` unless given, or `Hostname`.
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    /// The address.
    pub(super) value: String,
}

/// Where pods listen.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(super) enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container's port.
    Name(String),
}

fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn default() -> String {
    "default".into()
}
