//! Pure: how a backend is called, as DestinationRules say it, with inheritance done and Istio's defaults
//! in place (`networking/v1alpha3/destination_rule.proto`).
//! Never: what comes of it at run time; wire types. Made by `manifest`.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use culvert_agent::origin::Origin;

use crate::routing::BackendRef;

/// All services that a DestinationRule says something of; a value that shares with the last one what
/// did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// By host name.
    pub services: imbl::HashMap<Arc<str>, Arc<ServiceBackends>>,
}

impl Backends {
    /// How this backend is called; `None` when its service has no such subset. That the service is
    /// there, and has the port, is for the table to know.
    pub fn find(&self, reference: &BackendRef) -> Option<Backend> {
        let Some(service) = self.services.get(&*reference.host) else {
            return reference.subset.is_none().then(|| Backend::default_of(reference));
        };
        let (labels, policies) = match &reference.subset {
            Some(subset) => {
                let subset = service.subsets.get(&**subset)?;
                (subset.labels.clone(), &subset.policies)
            }
            None => (Arc::default(), &service.policies),
        };
        Some(Backend {
            reference: reference.clone(),
            labels,
            policy: policies.of_port(reference.port).clone(),
            rules: service.rules.clone(),
        })
    }
}

/// What DestinationRules say of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceBackends {
    /// The DestinationRules that say it, the one whose policy counts first.
    pub rules: Arc<[RuleName]>,
    /// How the whole service is called.
    pub policies: PortPolicies,
    /// Its subsets, by name.
    pub subsets: BTreeMap<Arc<str>, Subset>,
}

/// A DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it was declared.
    pub origin: Origin,
}

/// A named selection of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// Labels that its endpoints have, beside those that the service selects.
    pub labels: Arc<BTreeMap<String, String>>,
    /// How it is called.
    pub policies: PortPolicies,
}

/// One policy for all ports but those that have their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicies {
    /// The policy of other ports.
    pub default: Arc<CallPolicy>,
    /// By service port; they inherit no `loadBalancer`, `connectionPool`, `outlierDetection` or `tls`.
    pub ports: BTreeMap<u16, Arc<CallPolicy>>,
}

impl PortPolicies {
    /// The policy of a service port.
    pub fn of_port(&self, port: u16) -> &Arc<CallPolicy> {
        self.ports.get(&port).unwrap_or(&self.default)
    }
}

/// One port of a service, or a subset behind it, and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Who it is.
    pub reference: BackendRef,
    /// Labels that its endpoints have.
    pub labels: Arc<BTreeMap<String, String>>,
    /// How it is called.
    pub policy: Arc<CallPolicy>,
    /// The DestinationRules that say so; empty for the defaults.
    pub rules: Arc<[RuleName]>,
}

impl Backend {
    fn default_of(reference: &BackendRef) -> Self {
        Self {
            reference: reference.clone(),
            labels: Arc::default(),
            policy: Arc::default(),
            rules: Arc::default(),
        }
    }
}

impl CallPolicy {
    /// What it asks for that connections must not be without, and that is not built: a tunnel through
    /// another proxy, the PROXY protocol.
    pub fn unmet(&self) -> Option<&'static str> {
        let proxy = self.proxy_protocol.map(|_| "proxyProtocol");
        self.tunnel.as_ref().map(|_| "tunnel").or(proxy)
    }
}

/// How endpoints are called (`trafficPolicy`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallPolicy {
    /// Which endpoint is picked.
    pub load_balancer: LoadBalancer,
    /// Limits.
    pub connection_pool: ConnectionPool,
    /// When an endpoint that fails is left out; `None` for never.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS of the waypoint's own towards the service.
    pub tls: Option<Arc<ClientTls>>,
    /// A tunnel through another proxy (connections that are no HTTP).
    pub tunnel: Option<Tunnel>,
    /// The header of the PROXY protocol that connections begin with.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How many retries there may be beside other requests; in place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// The DestinationRule that says so, for reports; `None` for the defaults.
    pub origin: Option<Origin>,
    /// How many requests there may be at once is found out, below `max_requests` (the annotation
    /// `culvert.dev/concurrency: adaptive` of a DestinationRule).
    pub adaptive: bool,
    /// What says it cannot be obeyed (it is refused and was never good, or a BackendTLSPolicy): nothing
    /// goes there.
    pub refused: bool,
}

// Its numbers are finite: `manifest` checks them.
impl Eq for CallPolicy {}

/// Which endpoint is picked (`loadBalancer`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancer {
    /// How.
    pub algorithm: Algorithm,
    /// Endpoints by where they are; `None` for what service and mesh say.
    pub locality: Option<LocalityPolicy>,
    /// How new endpoints get their share; only with `LeastRequest` and `RoundRobin`.
    pub warmup: Option<Warmup>,
}

/// How an endpoint is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Of two at random the one with fewer requests.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// At random.
    Random,
    /// None is: connections go to where they were dialled.
    Passthrough,
    /// Requests of one key go to one endpoint; those without a key to any.
    ConsistentHash {
        /// What the key is.
        key: HashKey,
        /// How keys find endpoints.
        table: HashTable,
    },
}

/// What the key of a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this header.
    Header(Arc<str>),
    /// The value of this query parameter.
    Query(Arc<str>),
    /// The client's address.
    SourceIp,
    /// The value of a cookie.
    Cookie(Cookie),
}

/// A cookie that is the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: Arc<str>,
    /// The path that it is set for; empty for none.
    pub path: Arc<str>,
    /// A client without it is given one that lasts so long, zero for its session; `None`: it is not.
    pub ttl: Option<Duration>,
    /// Further attributes, name and value.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// How keys find endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    /// A ring with at least so many points.
    Ring(u64),
    /// A Maglev table with so many entries, a prime number.
    Maglev(u64),
}

impl HashTable {
    /// Points of a ring unless given (Istio).
    pub const RING: u64 = 1024;
    /// The most points of a ring (Envoy).
    pub const MAX_RING: u64 = 8 * 1024 * 1024;
    /// Entries of a Maglev table must be fewer (Envoy).
    pub const MAX_MAGLEV: u64 = 5_000_011;
}

/// Endpoints by where they are (`localityLbSetting`, `zoneAwareLbSetting`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityPolicy {
    /// Whether it counts; `None` when nothing is said, which means yes.
    pub enabled: Option<bool>,
    /// Where each locality's requests go; the first that fits the waypoint's own counts.
    pub distribute: Vec<Shares>,
    /// Which region stands in for which.
    pub failover: Vec<(Arc<str>, Arc<str>)>,
    /// Labels, `key` or `key=value`, that make endpoints near, the weightiest first.
    pub failover_priority: Vec<Arc<str>>,
    /// It was `zoneAwareLbSetting`, for clusters of at least so many endpoints.
    pub zone_aware: Option<u64>,
}

/// Where the requests of a locality (`region/zone/subzone`, `*` for any) go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// The locality.
    pub from: Arc<str>,
    /// Localities with weights that sum to 100.
    pub to: BTreeMap<Arc<str>, u32>,
}

/// How new endpoints get their share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// How long they are new.
    pub duration: Duration,
    /// The share that they begin with, percent.
    pub minimum_percent: f64,
    /// How steeply it grows.
    pub aggression: f64,
}

/// Limits of connections and requests (`connectionPool`), for each replica of the waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionPool {
    /// Connections at once.
    pub max_connections: u32,
    /// How long a dial may take.
    pub connect_timeout: Duration,
    /// How old a connection may become.
    pub max_connection_duration: Option<Duration>,
    /// How long a connection of bytes may be idle; `None` for ever.
    pub tcp_idle_timeout: Option<Duration>,
    /// Probes of connections; `None` for the system's.
    pub keepalive: Option<Keepalive>,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests at once.
    pub max_requests: u32,
    /// Requests that a connection may carry; `None` for any number.
    pub max_requests_per_connection: Option<u32>,
    /// Retries at once.
    pub max_retries: u32,
    /// How long a connection for requests may be idle; `None` for ever.
    pub http_idle_timeout: Option<Duration>,
    /// What the application is spoken to in.
    pub upgrade: Upgrade,
    /// Streams at once of one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// PINGs of HTTP/2.
    pub http2_keepalive: Option<Http2Keepalive>,
}

impl ConnectionPool {
    /// No limit.
    pub const UNLIMITED: u32 = u32::MAX;
    /// How long a dial may take unless given (mesh `connectTimeout`).
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// How long a connection may be idle unless given.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
    /// Streams at once unless given (Envoy).
    pub const MAX_STREAMS: u32 = i32::MAX as u32;
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self {
            max_connections: Self::UNLIMITED,
            connect_timeout: Self::CONNECT_TIMEOUT,
            max_connection_duration: None,
            tcp_idle_timeout: Some(Self::IDLE_TIMEOUT),
            keepalive: None,
            max_pending_requests: Self::UNLIMITED,
            max_requests: Self::UNLIMITED,
            max_requests_per_connection: None,
            max_retries: Self::UNLIMITED,
            http_idle_timeout: Some(Self::IDLE_TIMEOUT),
            upgrade: Upgrade::No,
            max_concurrent_streams: Self::MAX_STREAMS,
            http2_keepalive: None,
        }
    }
}

/// Probes of a TCP connection; what is `None` is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Unanswered probes after which it is dead.
    pub probes: Option<u32>,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Pause between probes.
    pub interval: Option<Duration>,
}

/// What an application is spoken to in, where its port says HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// HTTP/1.1.
    #[default]
    No,
    /// HTTP/2, whatever the client spoke (`h2UpgradePolicy: UPGRADE`).
    Http2,
    /// What the client spoke (`useClientProtocol`).
    LikeClient,
}

/// PINGs of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Pause between them.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// When an endpoint that fails is left out (`outlierDetection`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 5xx in a row, and failures before an answer unless those are told apart; `None`: not counted.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503 and 504 in a row, likewise.
    pub consecutive_gateway: Option<u32>,
    /// Failures before an answer in a row, which then count for nothing else; `None`: not told apart.
    pub consecutive_local: Option<u32>,
    /// Failures before an answer are told apart (`splitExternalLocalOriginErrors`).
    pub split_local: bool,
    /// Pause between looks at who may return.
    pub interval: Duration,
    /// How long the first time out lasts.
    pub base_ejection_time: Duration,
    /// How many may be out, percent.
    pub max_ejection_percent: u32,
    /// Below this share of healthy ones health is not looked at, percent.
    pub min_health_percent: u32,
    /// Statuses that count as errors beside 5xx.
    pub http_error_codes: Vec<u16>,
}

impl Default for OutlierDetection {
    /// What an empty `outlierDetection: {}` means.
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway: None,
            consecutive_local: None,
            split_local: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
            http_error_codes: Vec::new(),
        }
    }
}

/// TLS of the waypoint's own towards a service (`tls`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// Which.
    pub mode: TlsMode,
    /// Paths of certificate chain and key.
    pub certificate: Option<(Arc<str>, Arc<str>)>,
    /// Path of the authorities' certificates; `None` for the system's.
    pub ca_certificates: Option<Arc<str>>,
    /// The Secret that has all of these.
    pub credential_name: Option<Arc<str>>,
    /// Names of which the server must have one; empty for the one that is asked for.
    pub subject_alt_names: Vec<Arc<str>>,
    /// The name that is asked for; `None` for the host of the service.
    pub sni: Option<Arc<str>>,
    /// The server may be anybody.
    pub insecure_skip_verify: bool,
    /// Path of a list of revoked certificates.
    pub ca_crl: Option<Arc<str>>,
}

/// Which TLS a service is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// None beside the mesh's own.
    Disable,
    /// Only the server proves who it is.
    Simple,
    /// Both do.
    Mutual,
    /// The mesh's own.
    IstioMutual,
}

/// The version of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// A tunnel through another proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// It is asked for with POST, not CONNECT.
    pub post: bool,
    /// Whom the other proxy connects to.
    pub host: Arc<str>,
    /// On which port.
    pub port: u16,
}

/// How many retries there may be beside other requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Percent of the requests that are active or wait.
    pub percent: f64,
    /// How many there may always be.
    pub min_retry_concurrency: u32,
    /// Over which time requests are counted; `None` for those of this moment.
    pub interval: Option<Duration>,
}
