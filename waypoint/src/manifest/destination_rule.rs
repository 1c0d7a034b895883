//! Pure: DestinationRule as it is written (`networking/v1alpha3/destination_rule.proto`).
//! Never: what a field means (see `validate` and `policy`).
use std::collections::BTreeMap;

use serde::Deserialize;

use super::{time::Time, virtual_service::PortSelector};

/// The spec of a DestinationRule.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DestinationRule {
    pub(crate) host: String,
    pub(crate) traffic_policy: Option<TrafficPolicy>,
    pub(crate) subsets: Vec<Subset>,
    pub(crate) export_to: Vec<String>,
    pub(crate) workload_selector: Option<WorkloadSelector>,
    /// How many requests there may be at once is found out (an annotation of ours).
    #[serde(skip)]
    pub(crate) adaptive: bool,
    /// It stands for one that is refused and was never good: nobody knows how its host is called.
    #[serde(skip)]
    pub(crate) refused: bool,
}

/// Which clients a rule is for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WorkloadSelector {
    pub(crate) match_labels: BTreeMap<String, String>,
}

/// A named selection of a service's endpoints.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Subset {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) traffic_policy: Option<TrafficPolicy>,
}

/// How a service is called.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TrafficPolicy {
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) connection_pool: Option<ConnectionPool>,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) port_level_settings: Vec<PortPolicy>,
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    pub(crate) retry_budget: Option<RetryBudget>,
}

/// How one port of a service is called.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PortPolicy {
    pub(crate) port: Option<PortSelector>,
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) connection_pool: Option<ConnectionPool>,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) tls: Option<ClientTls>,
}

/// A tunnel through another proxy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Tunnel {
    pub(crate) protocol: String,
    pub(crate) target_host: String,
    pub(crate) target_port: u32,
}

/// The header of the PROXY protocol.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct ProxyProtocol {
    pub(crate) version: ProxyVersion,
}

/// Its version.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) enum ProxyVersion {
    #[default]
    V1,
    V2,
}

/// How many retries there may be beside other requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RetryBudget {
    pub(crate) percent: Option<f64>,
    pub(crate) min_retry_concurrency: Option<u32>,
    pub(crate) budget_interval: Option<Time>,
}

/// Which endpoint is picked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoadBalancer {
    pub(crate) simple: Option<SimpleLb>,
    pub(crate) consistent_hash: Option<ConsistentHash>,
    pub(crate) locality_lb_setting: Option<LocalityLb>,
    pub(crate) zone_aware_lb_setting: Option<ZoneAwareLb>,
    pub(crate) warmup_duration_secs: Option<Time>,
    pub(crate) warmup: Option<Warmup>,
}

/// A way to pick without a key.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum SimpleLb {
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

/// Requests of one key go to one endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConsistentHash {
    pub(crate) http_header_name: Option<String>,
    pub(crate) http_cookie: Option<HttpCookie>,
    pub(crate) use_source_ip: Option<bool>,
    pub(crate) http_query_parameter_name: Option<String>,
    pub(crate) ring_hash: Option<RingHash>,
    pub(crate) maglev: Option<MagLev>,
    pub(crate) minimum_ring_size: u64,
}

/// The size of a ring.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RingHash {
    pub(crate) minimum_ring_size: u64,
}

/// The size of a Maglev table.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MagLev {
    pub(crate) table_size: u64,
}

/// A cookie that is the key.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct HttpCookie {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) ttl: Option<Time>,
    pub(crate) attributes: Vec<CookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct CookieAttribute {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Endpoints by where they are.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LocalityLb {
    pub(crate) distribute: Vec<Distribute>,
    pub(crate) failover: Vec<Failover>,
    pub(crate) failover_priority: Vec<String>,
    pub(crate) enabled: Option<bool>,
}

/// Shares of localities.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Distribute {
    pub(crate) from: String,
    pub(crate) to: BTreeMap<String, u32>,
}

/// The region to go to when one fails.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Failover {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// Endpoints by zone.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ZoneAwareLb {
    pub(crate) enabled: Option<bool>,
    pub(crate) failover: Vec<Failover>,
    pub(crate) failover_priority: Vec<String>,
    pub(crate) min_cluster_size: Option<u64>,
}

/// How new endpoints get their share.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Warmup {
    pub(crate) duration: Option<Time>,
    pub(crate) minimum_percent: Option<f64>,
    pub(crate) aggression: Option<f64>,
}

/// Limits of connections and requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct ConnectionPool {
    pub(crate) tcp: Option<TcpSettings>,
    pub(crate) http: Option<HttpSettings>,
}

/// Limits of connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TcpSettings {
    pub(crate) max_connections: i32,
    pub(crate) connect_timeout: Option<Time>,
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
    pub(crate) max_connection_duration: Option<Time>,
    pub(crate) idle_timeout: Option<Time>,
}

/// Probes of connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct TcpKeepalive {
    pub(crate) probes: u32,
    pub(crate) time: Option<Time>,
    pub(crate) interval: Option<Time>,
}

/// Limits of requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HttpSettings {
    pub(crate) http1_max_pending_requests: i32,
    pub(crate) http2_max_requests: i32,
    pub(crate) max_requests_per_connection: i32,
    pub(crate) max_retries: i32,
    pub(crate) idle_timeout: Option<Time>,
    pub(crate) h2_upgrade_policy: H2UpgradePolicy,
    pub(crate) use_client_protocol: bool,
    pub(crate) max_concurrent_streams: i32,
    #[serde(rename = "http2KeepAlive")]
    pub(crate) http2_keep_alive: Option<Http2KeepAlive>,
}

/// Whether the application is spoken to in HTTP/2.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum H2UpgradePolicy {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

/// PINGs of HTTP/2.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Http2KeepAlive {
    pub(crate) interval: Option<Time>,
    pub(crate) timeout: Option<Time>,
}

/// When an endpoint that fails is left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OutlierDetection {
    pub(crate) consecutive_errors: i32,
    pub(crate) split_external_local_origin_errors: bool,
    pub(crate) consecutive_local_origin_failures: Option<u32>,
    pub(crate) consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors")]
    pub(crate) consecutive_5xx_errors: Option<u32>,
    pub(crate) interval: Option<Time>,
    pub(crate) base_ejection_time: Option<Time>,
    pub(crate) max_ejection_percent: i32,
    pub(crate) min_health_percent: i32,
    pub(crate) outlier_detection_http_error_codes: Vec<u32>,
}

/// TLS towards the service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientTls {
    pub(crate) mode: TlsMode,
    pub(crate) client_certificate: String,
    pub(crate) private_key: String,
    pub(crate) ca_certificates: String,
    pub(crate) credential_name: String,
    pub(crate) subject_alt_names: Vec<String>,
    pub(crate) sni: String,
    pub(crate) insecure_skip_verify: Option<bool>,
    pub(crate) ca_crl: String,
}

/// Which TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}
