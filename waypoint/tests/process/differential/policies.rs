//! Pure: the policies of a service, as Istio's objects and as what istiod makes of them for Envoy.
//! Never: a field in one of the two that the other does not have.
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Http, Setting, port};

/// What is said of a service; what is not has Istio's defaults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policies {
    pub(super) retries: Option<Retries>,
    /// For all tries, milliseconds.
    pub(super) timeout: Option<u64>,
    pub(super) detection: Option<Detection>,
    pub(super) pool: Pool,
    pub(super) balancer: Balancer,
}

/// `retries` of a VirtualService.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retries {
    pub(super) attempts: u32,
    pub(super) on: &'static str,
    /// Milliseconds.
    pub(super) per_try: Option<u64>,
}

/// No second try.
pub(super) const NONE: Option<Retries> = Some(Retries { attempts: 0, on: "", per_try: None });

/// `outlierDetection` of a DestinationRule; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detection {
    pub(super) server: u32,
    pub(super) gateway: Option<u32>,
    /// Failures before an answer, which are told apart then.
    pub(super) local: Option<u32>,
    pub(super) interval: u64,
    pub(super) base: u64,
    pub(super) most: u32,
    pub(super) healthy: u32,
}

impl Default for Detection {
    fn default() -> Self {
        Self {
            server: 5,
            gateway: None,
            local: None,
            interval: 500,
            base: 60_000,
            most: 50,
            healthy: 0,
        }
    }
}

/// `connectionPool` of a DestinationRule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pool {
    pub(super) connections: Option<u32>,
    pub(super) pending: Option<u32>,
    pub(super) requests: Option<u32>,
    pub(super) retries: Option<u32>,
}

/// `loadBalancer` of a DestinationRule. Keys are the header `x-key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Balancer {
    #[default]
    RoundRobin,
    LeastRequest,
    Random,
    Ring,
    Maglev,
}

/// Points of a ring, entries of a Maglev table: the defaults of both.
const RING: u32 = 1024;
const MAGLEV: u32 = 65_537;
/// Istio's, unless a VirtualService says something.
const DEFAULT: Retries = Retries {
    attempts: 2,
    on: "connect-failure,refused-stream,unavailable,cancelled",
    per_try: None,
};

pub(super) fn host(number: usize) -> String {
    format!("s{number}.example.com")
}

/// What its clients dial through the waypoint.
pub(super) fn vip(number: usize) -> [u8; 4] {
    [10, 97, 0, u8::try_from(number + 1).expect("few services")]
}

fn milliseconds(time: u64) -> String {
    format!("{time}ms")
}

fn seconds(time: u64) -> String {
    format!("{}.{:03}s", time / 1000, time % 1000)
}

/// The objects of a service.
pub(super) fn manifest(number: usize, setting: &Setting, at: &[SocketAddr]) -> String {
    let host = host(number);
    let protocol = if setting.http == Http::One { "HTTP" } else { "HTTP2" };
    let [a, b, c, d] = vip(number);
    let object = |kind: &str, spec: Value| {
        let metadata = json!({ "name": format!("s{number}"), "namespace": "shop" });
        let version = "networking.istio.io/v1";
        let object =
            json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "spec": spec });
        format!("{object}\n---\n")
    };
    let endpoints: Vec<_> = at.iter().map(|at| json!({ "address": at.ip() })).collect();
    let entry = json!({
        "hosts": [host], "addresses": [format!("{a}.{b}.{c}.{d}")],
        "location": "MESH_EXTERNAL", "resolution": "STATIC", "endpoints": endpoints,
        "ports": [{ "number": 80, "targetPort": port(9000, number), "name": "http", "protocol": protocol }],
    });
    let policies = &setting.policies;
    let mut rule = json!({ "route": [{ "destination": { "host": host } }] });
    if let Some(Retries { attempts, on, per_try }) = policies.retries {
        rule["retries"] = json!({ "attempts": attempts });
        if attempts > 0 {
            rule["retries"]["retryOn"] = on.into();
        }
        if let Some(time) = per_try {
            rule["retries"]["perTryTimeout"] = milliseconds(time).into();
        }
    }
    if let Some(time) = policies.timeout {
        rule["timeout"] = milliseconds(time).into();
    }
    let rules = json!({ "hosts": [host], "http": [rule] });
    let destination = json!({ "host": host, "trafficPolicy": policies.traffic() });
    [("ServiceEntry", entry), ("VirtualService", rules), ("DestinationRule", destination)]
        .map(|(kind, spec)| object(kind, spec))
        .concat()
}

impl Policies {
    /// `trafficPolicy` of a DestinationRule.
    fn traffic(&self) -> Value {
        let keyed = |table: &str, size: &str, number: u32| json!({ "consistentHash": { "httpHeaderName": "x-key", table: { size: number } } });
        let mut policy = json!({ "loadBalancer": match self.balancer {
            Balancer::RoundRobin => json!({ "simple": "ROUND_ROBIN" }),
            Balancer::LeastRequest => json!({ "simple": "LEAST_REQUEST" }),
            Balancer::Random => json!({ "simple": "RANDOM" }),
            Balancer::Ring => keyed("ringHash", "minimumRingSize", RING),
            Balancer::Maglev => keyed("maglev", "tableSize", MAGLEV),
        } });
        let Pool { connections, pending, requests, retries } = self.pool;
        policy["connectionPool"] = json!({
            "tcp": { "maxConnections": connections.unwrap_or(0) },
            "http": { "http1MaxPendingRequests": pending.unwrap_or(0),
                      "http2MaxRequests": requests.unwrap_or(0),
                      "maxRetries": retries.unwrap_or(0) },
        });
        let Some(detection) = self.detection else { return policy };
        let Detection { server, gateway, local, interval, base, most, healthy } = detection;
        let mut outlier = json!({
            "consecutive5xxErrors": server, "interval": milliseconds(interval),
            "baseEjectionTime": milliseconds(base), "maxEjectionPercent": most,
            "minHealthPercent": healthy,
        });
        if let Some(gateway) = gateway {
            outlier["consecutiveGatewayErrors"] = gateway.into();
        }
        if let Some(local) = local {
            outlier["splitExternalLocalOriginErrors"] = true.into();
            outlier["consecutiveLocalOriginFailures"] = local.into();
        }
        policy["outlierDetection"] = outlier;
        policy
    }

    /// Envoy's route (`pilot/pkg/networking/core/route/route.go`, `retry/retry.go`).
    pub(super) fn route(&self, cluster: &str) -> Value {
        let timeout = self.timeout.map_or_else(|| "0s".into(), seconds);
        let mut route = json!({ "cluster": cluster, "timeout": timeout });
        let Retries { attempts, on, per_try } = self.retries.unwrap_or(DEFAULT);
        if attempts > 0 {
            let (codes, mut words): (Vec<_>, Vec<_>) =
                on.split(',').partition(|word| word.parse::<u32>().is_ok());
            if !codes.is_empty() || self.retries.is_none() {
                words.push("retriable-status-codes");
            }
            let codes: Vec<u32> = codes.iter().filter_map(|code| code.parse().ok()).collect();
            route["retry_policy"] = json!({
                "num_retries": attempts, "retry_on": words.join(","), "retriable_status_codes": codes,
                "host_selection_retry_max_attempts": "5",
                "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": { "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" } }],
            });
            if let Some(time) = per_try {
                route["retry_policy"]["per_try_timeout"] = seconds(time).into();
            }
        }
        if matches!(self.balancer, Balancer::Ring | Balancer::Maglev) {
            route["hash_policy"] = json!([{ "header": { "header_name": "x-key" } }]);
            if let Some(policy) = route.get_mut("retry_policy").and_then(Value::as_object_mut) {
                policy.remove("retry_host_predicate");
            }
        }
        route
    }

    /// What Envoy's cluster has of them (`pilot/pkg/networking/core/cluster_traffic_policy.go`).
    pub(super) fn cluster(&self, cluster: &mut Value) {
        let Pool { connections, pending, requests, retries } = self.pool;
        let most = |number: Option<u32>| number.unwrap_or(u32::MAX);
        cluster["circuit_breakers"] = json!({ "thresholds": [{
            "max_connections": most(connections), "max_pending_requests": most(pending),
            "max_requests": most(requests), "max_retries": most(retries) }] });
        cluster["lb_policy"] = match self.balancer {
            Balancer::RoundRobin => "ROUND_ROBIN",
            Balancer::LeastRequest => "LEAST_REQUEST",
            Balancer::Random => "RANDOM",
            Balancer::Ring => "RING_HASH",
            Balancer::Maglev => "MAGLEV",
        }
        .into();
        if self.balancer == Balancer::Ring {
            cluster["ring_hash_lb_config"] = json!({ "minimum_ring_size": RING });
        }
        if self.balancer == Balancer::Maglev {
            cluster["maglev_lb_config"] = json!({ "table_size": MAGLEV });
        }
        // Otherwise its worker learns of a second change of health up to a second later.
        cluster["common_lb_config"] = json!({ "update_merge_window": "0s" });
        let Some(detection) = self.detection else { return };
        let Detection { server, gateway, local, interval, base, most, healthy } = detection;
        let all = |number: u32| u32::from(number > 0) * 100;
        let mut outlier = json!({
            "consecutive_5xx": server, "enforcing_consecutive_5xx": all(server),
            "enforcing_success_rate": 0, "interval": seconds(interval),
            "base_ejection_time": seconds(base), "max_ejection_percent": most,
        });
        if let Some(gateway) = gateway {
            outlier["consecutive_gateway_failure"] = gateway.into();
            outlier["enforcing_consecutive_gateway_failure"] = all(gateway).into();
        }
        if let Some(local) = local {
            outlier["split_external_local_origin_errors"] = true.into();
            outlier["consecutive_local_origin_failure"] = local.into();
            outlier["enforcing_consecutive_local_origin_failure"] = all(local).into();
        }
        cluster["outlier_detection"] = outlier;
        cluster["common_lb_config"]["healthy_panic_threshold"] = json!({ "value": healthy });
    }
}
