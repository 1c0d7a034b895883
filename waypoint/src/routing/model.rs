//! Pure: compiled route tables: services, their ports, rules, destinations.
//! Never: wire types, names that still have to be resolved. Made by `manifest`.
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use culvert_agent::origin::Origin;
use http::StatusCode;

use super::{
    condition::{ClientMatch, Match},
    cors::Cors,
    edit::HeaderEdits,
    fault::{Fault, Percentage},
    redirect::Redirect,
    retry::Retry,
    rewrite::Rewrite,
};

/// The routes of every service that the waypoint serves: one immutable value, swapped whole.
///
/// A table made of the last one shares all services that did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By the service's host name.
    pub services: imbl::HashMap<Arc<str>, Arc<ServiceRoutes>>,
}

impl Table {
    /// The routes of one service port; `None` when the waypoint does not serve it.
    pub fn port(&self, host: &str, port: u16) -> Option<&PortRoutes> {
        self.services.get(host)?.ports.get(&port)
    }
}

/// The routes of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRoutes {
    /// By the service port that clients dial.
    pub ports: BTreeMap<u16, PortRoutes>,
}

/// What becomes of what arrives for one port of a service.
///
/// A port for which nobody wrote rules has [`Rule::default_route`] and [`TcpRule::default_route`];
/// empty lists match nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRoutes {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Rules for requests; the first that matches decides, and none is an answer of 404.
    pub http: Vec<Rule>,
    /// Rules for connections that begin with a ClientHello; asked before `tcp`.
    pub tls: Vec<TlsRule>,
    /// Rules for other connections that are not HTTP.
    pub tcp: Vec<TcpRule>,
}

/// What is spoken on a service port (`appProtocol`, else the port's name).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP, as the client says it: 1.1, or 2 by its preface.
    Http,
    /// HTTP/2 only.
    Http2,
    /// gRPC, which is HTTP/2 with trailers.
    Grpc,
    /// Bytes.
    Tcp,
    /// TLS that ends elsewhere; only the ClientHello is read.
    Tls,
    /// Nobody says: the first bytes tell.
    #[default]
    Unknown,
}

/// One rule under one of its conditions: a rule with three `match` blocks is three of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name for logs (`%ROUTE_NAME%`); empty when nobody gave one.
    pub name: Arc<str>,
    /// Who wrote it; `None` for the default route.
    pub source: Option<Arc<Source>>,
    /// Which requests it is for.
    pub matches: Match,
    /// Failures on purpose, which come before everything else.
    pub fault: Option<Fault>,
    /// Who may call from a browser; after faults.
    pub cors: Option<Cors>,
    /// Changes to headers at the level of the rule. Those of the request are for the upstream; those
    /// of the response are for redirects and direct responses too.
    pub headers: HeaderEdits,
    /// What becomes of the request.
    pub action: Action,
}

impl Rule {
    /// What happens where nobody wrote a rule: every request goes to the service itself, without a
    /// timeout and with Istio's default retries.
    pub fn default_route(backend: Arc<BackendRef>) -> Self {
        let destination = Destination {
            target: Target::Backend(backend),
            weight: 1,
            headers: HeaderEdits::default(),
        };
        Self {
            name: "default".into(),
            source: None,
            matches: Match::default(),
            fault: None,
            cors: None,
            headers: HeaderEdits::default(),
            action: Action::Forward(Box::new(Forward {
                destinations: Destinations::new(vec![destination]),
                rewrite: Rewrite::default(),
                mirrors: Vec::new(),
                timeout: None,
                retry: Retry::default(),
            })),
        }
    }
}

/// Who wrote a rule, so that every report can name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The object's kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it was declared.
    pub origin: Origin,
    /// Where in the object, for people: `http[1].match[0]`.
    pub field: Arc<str>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, origin, field } = self;
        write!(f, "{} {namespace}/{name} {field} ({origin})", kind.as_str())
    }
}

/// The kinds of objects that hold routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `networking.istio.io` VirtualService.
    VirtualService,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    TlsRoute,
    /// `gateway.networking.k8s.io` TCPRoute.
    TcpRoute,
}

impl Kind {
    /// The word in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to one of the destinations.
    Forward(Box<Forward>),
    /// The client is told to ask elsewhere.
    Redirect(Redirect),
    /// It is answered with what is written in the rule.
    Direct(DirectResponse),
}

/// How requests go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where to.
    pub destinations: Destinations,
    /// Under which path and authority.
    pub rewrite: Rewrite,
    /// Who else gets a copy.
    pub mirrors: Vec<Mirror>,
    /// How long all tries together may take, from the end of the request; `None` for ever.
    pub timeout: Option<Duration>,
    /// When a failed try is followed by another.
    pub retry: Retry,
}

/// An answer that the waypoint gives itself (`directResponse`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// At most [`DirectResponse::MAX_BODY`] bytes.
    pub body: Bytes,
}

impl DirectResponse {
    /// The largest body in bytes (Istio's admission refuses more).
    pub const MAX_BODY: usize = 1024 * 1024;
}

/// Weighted destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    list: Vec<Destination>,
    total: u64,
}

impl Destinations {
    /// Keeps those with a weight above zero. A VirtualService's only destination counts whatever its
    /// weight: give it 1.
    pub fn new(mut list: Vec<Destination>) -> Self {
        list.retain(|destination| destination.weight > 0);
        let total = list.iter().map(|destination| u64::from(destination.weight)).sum();
        Self { list, total }
    }

    /// All that can be drawn.
    pub fn iter(&self) -> std::slice::Iter<'_, Destination> {
        self.list.iter()
    }

    /// The destination for a number that is drawn from all `u32` alike; `None` when there is none with
    /// a weight, which is an answer of 500 (Gateway API).
    pub fn draw(&self, number: u32) -> Option<&Destination> {
        if let [only] = self.list.as_slice() {
            return Some(only);
        }
        let mut left = (u128::from(number) * u128::from(self.total)) >> u32::BITS;
        self.list.iter().find(|destination| {
            let weight = u128::from(destination.weight);
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })
    }
}

/// One destination of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Who.
    pub target: Target,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// Changes to headers after those of the rule.
    pub headers: HeaderEdits,
}

/// Who a destination is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This backend.
    Backend(Arc<BackendRef>),
    /// Nobody, and why.
    Missing(Missing),
}

/// A backend by name: one port of a service, or a subset behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendRef {
    /// The service's host name.
    pub host: Arc<str>,
    /// The service port.
    pub port: u16,
    /// The subset of its DestinationRule.
    pub subset: Option<Arc<str>>,
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        self.subset.iter().try_for_each(|subset| write!(f, " subset {subset}"))
    }
}

/// Why there is nobody behind a destination; each says why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A VirtualService names a service, port or subset that is not there: 503, flag NC.
    Cluster(Arc<str>),
    /// A Gateway API route names one that is not there or not permitted: 500.
    Backend(Arc<str>),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(why) | Self::Backend(why) => write!(f, "nobody: {why}"),
        }
    }
}

/// A copy of requests to somebody else, whose answer is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets it; requests for one that is missing are not copied.
    pub target: Target,
    /// How many requests are copied.
    pub share: Percentage,
}

/// One rule for connections that begin with a ClientHello (`tls[]`, TLSRoute).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRule {
    /// Who wrote it.
    pub source: Option<Arc<Source>>,
    /// Server names, exact or `*.suffix`, lower case; none means every one, and none given.
    pub sni: Vec<Arc<str>>,
    /// From whom.
    pub client: ClientMatch,
    /// Where to.
    pub destinations: Destinations,
}

/// One rule for connections (`tcp[]`, TCPRoute).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRule {
    /// Who wrote it; `None` for the default route.
    pub source: Option<Arc<Source>>,
    /// From whom.
    pub client: ClientMatch,
    /// Where to.
    pub destinations: Destinations,
}

impl TcpRule {
    /// Nobody is connected with anybody.
    pub fn closed() -> Self {
        let (client, destinations) = (ClientMatch::default(), Destinations::default());
        Self { source: None, client, destinations }
    }

    /// What happens where nobody wrote a rule: every connection goes to the service itself.
    pub fn default_route(backend: Arc<BackendRef>) -> Self {
        let destination = Destination {
            target: Target::Backend(backend),
            weight: 1,
            headers: HeaderEdits::default(),
        };
        Self {
            source: None,
            client: ClientMatch::default(),
            destinations: Destinations::new(vec![destination]),
        }
    }
}
