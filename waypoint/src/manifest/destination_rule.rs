//! Pure: DestinationRule as it is written (`networking/v1alpha3/destination_rule.proto`).
//! Never: what a field means (see `validate` and `policy`).
use std::collections::BTreeMap;

use serde::Deserialize;

use super::{time::Time, virtual_service::PortSelector};

/// The spec of a DestinationRule.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DestinationRule {
    pub(super) host: String,
    pub(super) traffic_policy: Option<TrafficPolicy>,
    pub(super) subsets: Vec<Subset>,
    pub(super) export_to: Vec<String>,
    pub(super) workload_selector: Option<WorkloadSelector>,
}

/// Which clients a rule is for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WorkloadSelector {
    pub(super) match_labels: BTreeMap<String, String>,
}

/// A named selection of a service's endpoints.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subset {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) traffic_policy: Option<TrafficPolicy>,
}

/// How a service is called.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TrafficPolicy {
    pub(super) load_balancer: Option<LoadBalancer>,
    pub(super) connection_pool: Option<ConnectionPool>,
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) tls: Option<ClientTls>,
    pub(super) port_level_settings: Vec<PortPolicy>,
    pub(super) tunnel: Option<Tunnel>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) retry_budget: Option<RetryBudget>,
}

/// How one port of a service is called.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PortPolicy {
    pub(super) port: Option<PortSelector>,
    pub(super) load_balancer: Option<LoadBalancer>,
    pub(super) connection_pool: Option<ConnectionPool>,
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) tls: Option<ClientTls>,
}

/// A tunnel through another proxy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Tunnel {
    pub(super) protocol: String,
    pub(super) target_host: String,
    pub(super) target_port: u32,
}

/// The header of the PROXY protocol.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct ProxyProtocol {
    pub(super) version: ProxyVersion,
}

/// Its version.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) enum ProxyVersion {
    #[default]
    V1,
    V2,
}

/// How many retries there may be beside other requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RetryBudget {
    pub(super) percent: Option<f64>,
    pub(super) min_retry_concurrency: Option<u32>,
    pub(super) budget_interval: Option<Time>,
}

/// Which endpoint is picked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LoadBalancer {
    pub(super) simple: Option<SimpleLb>,
    pub(super) consistent_hash: Option<ConsistentHash>,
    pub(super) locality_lb_setting: Option<LocalityLb>,
    pub(super) zone_aware_lb_setting: Option<ZoneAwareLb>,
    pub(super) warmup_duration_secs: Option<Time>,
    pub(super) warmup: Option<Warmup>,
}

/// A way to pick without a key.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum SimpleLb {
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
pub(super) struct ConsistentHash {
    pub(super) http_header_name: Option<String>,
    pub(super) http_cookie: Option<HttpCookie>,
    pub(super) use_source_ip: Option<bool>,
    pub(super) http_query_parameter_name: Option<String>,
    pub(super) ring_hash: Option<RingHash>,
    pub(super) maglev: Option<MagLev>,
    pub(super) minimum_ring_size: u64,
}

/// The size of a ring.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RingHash {
    pub(super) minimum_ring_size: u64,
}

/// The size of a Maglev table.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MagLev {
    pub(super) table_size: u64,
}

/// A cookie that is the key.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct HttpCookie {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) ttl: Option<Time>,
    pub(super) attributes: Vec<CookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct CookieAttribute {
    pub(super) name: String,
    pub(super) value: String,
}

/// Endpoints by where they are.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LocalityLb {
    pub(super) distribute: Vec<Distribute>,
    pub(super) failover: Vec<Failover>,
    pub(super) failover_priority: Vec<String>,
    pub(super) enabled: Option<bool>,
}

/// Shares of localities.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Distribute {
    pub(super) from: String,
    pub(super) to: BTreeMap<String, u32>,
}

/// The region to go to when one fails.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Failover {
    pub(super) from: String,
    pub(super) to: String,
}

/// Endpoints by zone.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ZoneAwareLb {
    pub(super) enabled: Option<bool>,
    pub(super) failover: Vec<Failover>,
    pub(super) failover_priority: Vec<String>,
    pub(super) min_cluster_size: Option<u64>,
}

/// How new endpoints get their share.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Warmup {
    pub(super) duration: Option<Time>,
    pub(super) minimum_percent: Option<f64>,
    pub(super) aggression: Option<f64>,
}

/// Limits of connections and requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct ConnectionPool {
    pub(super) tcp: Option<TcpSettings>,
    pub(super) http: Option<HttpSettings>,
}

/// Limits of connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TcpSettings {
    pub(super) max_connections: i32,
    pub(super) connect_timeout: Option<Time>,
    pub(super) tcp_keepalive: Option<TcpKeepalive>,
    pub(super) max_connection_duration: Option<Time>,
    pub(super) idle_timeout: Option<Time>,
}

/// Probes of connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct TcpKeepalive {
    pub(super) probes: u32,
    pub(super) time: Option<Time>,
    pub(super) interval: Option<Time>,
}

/// Limits of requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpSettings {
    pub(super) http1_max_pending_requests: i32,
    pub(super) http2_max_requests: i32,
    pub(super) max_requests_per_connection: i32,
    pub(super) max_retries: i32,
    pub(super) idle_timeout: Option<Time>,
    pub(super) h2_upgrade_policy: H2UpgradePolicy,
    pub(super) use_client_protocol: bool,
    pub(super) max_concurrent_streams: i32,
    #[serde(rename = "http2KeepAlive")]
    pub(super) http2_keep_alive: Option<Http2KeepAlive>,
}

/// Whether the application is spoken to in HTTP/2.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum H2UpgradePolicy {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

/// PINGs of HTTP/2.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Http2KeepAlive {
    pub(super) interval: Option<Time>,
    pub(super) timeout: Option<Time>,
}

/// When an endpoint that fails is left out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct OutlierDetection {
    pub(super) consecutive_errors: i32,
    pub(super) split_external_local_origin_errors: bool,
    pub(super) consecutive_local_origin_failures: Option<u32>,
    pub(super) consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors")]
    pub(super) consecutive_5xx_errors: Option<u32>,
    pub(super) interval: Option<Time>,
    pub(super) base_ejection_time: Option<Time>,
    pub(super) max_ejection_percent: i32,
    pub(super) min_health_percent: i32,
    pub(super) outlier_detection_http_error_codes: Vec<u32>,
}

/// TLS towards the service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClientTls {
    pub(super) mode: TlsMode,
    pub(super) client_certificate: String,
    pub(super) private_key: String,
    pub(super) ca_certificates: String,
    pub(super) credential_name: String,
    pub(super) subject_alt_names: Vec<String>,
    pub(super) sni: String,
    pub(super) insecure_skip_verify: Option<bool>,
    pub(super) ca_crl: String,
}

/// Which TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}
