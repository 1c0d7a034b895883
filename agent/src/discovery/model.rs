//! Pure: workloads and services as every source describes them.
//! Never: indexes (see `snapshot`), wire types.
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;

use crate::{identity::Identity, origin::Origin};

/// One pod or virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Unique name, in Istio's form: `<cluster>//Pod/<namespace>/<name>`.
    pub uid: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Every address of the pod, IPv4 and IPv6; never a node's own address.
    pub addresses: Vec<IpAddr>,
    /// The name whose addresses are its own, in lower case: then it has no others (`hostname` of Istio's
    /// workload API). Waypoints look it up; agents do not.
    pub hostname: Option<Arc<str>>,
    /// The node that it runs on; empty when it is on none yet.
    pub node: Arc<str>,
    /// Where that node stands.
    pub locality: Locality,
    /// Whom its certificate must prove it to be.
    pub identity: Identity,
    /// How peers reach it.
    pub protocol: Protocol,
    /// The network that its addresses belong to; empty for the mesh's own.
    pub network: Arc<str>,
    /// Where connections to its own addresses go first.
    pub waypoint: Option<Waypoint>,
    /// Its share of a service's connections beside other endpoints'.
    pub capacity: u32,
    /// Whether the pod reports itself ready.
    pub ready: bool,
    /// The name that dashboards group by: `app.kubernetes.io/name`, `app`, or the workload's name.
    pub canonical_name: Arc<str>,
    /// The version that dashboards group by: `app.kubernetes.io/version`, `version`, or `latest`.
    pub canonical_revision: Arc<str>,
    /// Its labels, which selectors look at.
    pub labels: BTreeMap<String, String>,
    /// The owner's name (deployment, job, or the pod itself).
    pub workload_name: Arc<str>,
    /// Where its network namespace is, when it runs on this node.
    pub netns: Option<PathBuf>,
    /// Its control group, when that is known.
    pub cgroup: Option<PathBuf>,
    /// Where it was declared.
    pub origin: Origin,
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Outside the mesh: plain TCP.
    Tcp,
    /// Enrolled: mTLS tunnels on port 15008.
    Hbone,
}

/// The proxy to which connections go first, for what only HTTP can decide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waypoint {
    /// Who it is.
    pub destination: WaypointDestination,
    /// The port on which it takes tunnels.
    pub port: u16,
}

/// Who a waypoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WaypointDestination {
    /// The service with this host name.
    Host(Arc<str>),
    /// A service or workload at this address.
    Address(IpAddr),
}

/// A Kubernetes Service, or a host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The Service's name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// `<name>.<namespace>.svc.<cluster domain>`, or what a ServiceEntry says.
    pub hostname: Arc<str>,
    /// Its addresses; empty for headless services.
    pub vips: Vec<IpAddr>,
    /// Ranges of addresses that are all its own (ServiceEntry).
    pub ranges: Vec<IpNet>,
    /// Connections go to where they were dialled, whatever endpoints there are (ServiceEntry with
    /// `resolution: NONE`).
    pub passthrough: bool,
    /// Where connections to it go first.
    pub waypoint: Option<Waypoint>,
    /// Waypoints with weights, one of them drawn for each connection (`weighted_waypoints` of Istio's
    /// workload API); when no weight is above zero, `waypoint` takes all.
    pub waypoint_shares: Vec<(Waypoint, u32)>,
    /// What it listens on.
    pub ports: Vec<ServicePort>,
    /// Which endpoints clients prefer.
    pub distribution: Distribution,
    /// Workloads behind it (by uid), with the target port of each service port there: none while it
    /// is not ready.
    pub endpoints: BTreeMap<Arc<str>, Target>,
    /// What its slices name that may be nothing that the mesh can know.
    pub outsiders: Vec<Outsider>,
    /// Where it was declared.
    pub origin: Origin,
}

impl Service {
    /// All waypoints that its connections may go to.
    pub fn waypoints(&self) -> impl Iterator<Item = &Waypoint> {
        self.waypoint.iter().chain(self.waypoint_shares.iter().map(|(waypoint, _)| waypoint))
    }

    /// Where a connection goes first: with any number for `draw`, each as likely as any other, each
    /// waypoint is as likely as its weight.
    pub fn drawn_waypoint(&self, draw: u32) -> Option<&Waypoint> {
        let sum: u64 = self.waypoint_shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = (u64::from(draw) * sum) >> u32::BITS;
        let drawn = self.waypoint_shares.iter().find(|(_, weight)| {
            let hit = left < u64::from(*weight);
            left = left.saturating_sub((*weight).into());
            hit
        });
        drawn.map(|(waypoint, _)| waypoint).or(self.waypoint.as_ref())
    }

    /// The weight of each waypoint that is drawn at all, with a number that draws it.
    pub fn waypoint_draws(&self) -> impl Iterator<Item = (u32, u32)> {
        let sum: u64 = self.waypoint_shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let drawn = self.waypoint_shares.iter().filter(|(_, weight)| *weight > 0);
        drawn.scan(0, move |before, (_, weight)| {
            // The middle of what draws it.
            let at = (2 * *before + u64::from(*weight)) << (u32::BITS - 1);
            *before += u64::from(*weight);
            Some((*weight, u32::try_from(at / sum).unwrap_or(u32::MAX)))
        })
    }
}

/// An endpoint that may be none of the mesh's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outsider {
    /// Who is there is said to be no pod.
    Address(IpAddr),
    /// The pod with this uid: if it runs in its node's network, it has no address of its own.
    Pod(Arc<str>),
    /// Nothing says who is there.
    Anybody,
}

/// Which of a service's endpoints a client prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// All alike.
    #[default]
    Any,
    /// Those of its zone, else of its region, else any (`trafficDistribution: PreferClose` or
    /// `PreferSameZone`).
    SameZone,
    /// Those of its node, else as `SameZone` (`PreferSameNode`).
    SameNode,
    /// Those of its node and no others (`internalTrafficPolicy: Local`).
    OnlyNode,
}

/// Where a node stands (`topology.kubernetes.io/region` and `zone`); empty when nobody says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// The region.
    pub region: Arc<str>,
    /// The zone within it.
    pub zone: Arc<str>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name; empty when it has none.
    pub name: Arc<str>,
    /// The port that clients dial.
    pub port: u16,
    /// What is spoken there.
    pub speech: Speech,
}

/// What is spoken on a port, as far as its service says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Speech {
    /// HTTP/1.1, and whatever a client upgrades it to.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
    /// TLS, with whatever is in it.
    Tls,
    /// Something that is neither.
    Tcp,
    /// Nobody says.
    #[default]
    Unknown,
}

impl Speech {
    /// What a Kubernetes port says by `appProtocol`, or else by the beginning of its name
    /// (`http-web`), in Istio's way (`pkg/config/kube/conversion.go`). Ports of which it is known that
    /// their servers speak first are not guessed at.
    pub fn of_port(port: u16, name: &str, app_protocol: Option<&str>) -> Self {
        match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Tls,
            Some(_) | None => {}
        }
        let word = app_protocol.unwrap_or(name).to_ascii_lowercase();
        if word.starts_with("grpc-web") {
            return Self::Grpc;
        }
        let speech = Self::of_protocol(word.split('-').next().unwrap_or_default());
        let server_first = speech == Self::Unknown && SERVER_FIRST.contains(&port);
        if server_first { Self::Tcp } else { speech }
    }

    /// What the name of a protocol means.
    pub fn of_protocol(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "http" | "http_proxy" => Self::Http,
            "http2" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "https" | "tls" => Self::Tls,
            "tcp" | "mongo" | "redis" | "mysql" => Self::Tcp,
            _ => Self::Unknown,
        }
    }
}

/// SMTP, DNS, MySQL and MongoDB.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// Service port → port on that workload. A port without entry is not served by that workload.
pub type Target = BTreeMap<u16, u16>;

#[cfg(test)]
mod tests {
    use super::Speech;

    #[test]
    fn a_port_says_what_is_spoken() {
        for (name, app_protocol, expected) in [
            ("http", None, Speech::Http),
            ("http-web", None, Speech::Http),
            ("HTTP2-web", None, Speech::Http2),
            ("grpc-web", None, Speech::Grpc),
            ("grpc-cart", None, Speech::Grpc),
            ("https", None, Speech::Tls),
            ("tls-x", None, Speech::Tls),
            ("tcp-http", None, Speech::Tcp),
            ("redis", None, Speech::Tcp),
            ("web", None, Speech::Unknown),
            ("httpweb", None, Speech::Unknown),
            ("", None, Speech::Unknown),
            ("tcp", Some("http"), Speech::Http),
            ("http", Some("kubernetes.io/h2c"), Speech::Http2),
            ("http", Some("kubernetes.io/ws"), Speech::Http),
            ("http", Some("kubernetes.io/wss"), Speech::Tls),
            ("http", Some("example.com/mine"), Speech::Unknown),
        ] {
            assert_eq!(
                Speech::of_port(80, name, app_protocol),
                expected,
                "{name} {app_protocol:?}"
            );
        }
        assert_eq!(Speech::of_port(3306, "", None), Speech::Tcp);
        assert_eq!(Speech::of_port(3306, "http", None), Speech::Http);
    }
}
