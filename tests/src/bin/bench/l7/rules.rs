//! Pure: the services that are asked, and their rules: as VirtualServices and as Envoy's routes.
//! Never: two rules of one list that mean different things to the two planes.
use std::fmt::Write;

use serde_json::{Value, json};

/// What the path of every request begins with.
pub(super) const PATH: &str = "/app/items/4711?page=2";

/// A service that is asked: its rules, and who must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) rules: usize,
    pub(super) name: &'static str,
    pub(super) vip: [u8; 4],
    /// The subset that the rules send the requests to; `None` for both in turn.
    pub(super) subset: Option<&'static str>,
    /// Whether it has retries, timeouts, limits and outlier detection.
    pub(super) guarded: bool,
}

pub(super) const SERVICES: [Service; 4] = [
    Service { rules: 0, name: "free", vip: [10, 96, 1, 10], subset: None, guarded: false },
    Service { rules: 1, name: "one", vip: [10, 96, 1, 11], subset: Some("v1"), guarded: false },
    // After its like, which it stands beside.
    Service { rules: 1, name: "guarded", vip: [10, 96, 1, 13], subset: Some("v1"), guarded: true },
    Service { rules: 50, name: "fifty", vip: [10, 96, 1, 12], subset: Some("v2"), guarded: false },
];

/// Policies of a guarded service, none of which the load meets: what they cost is what is measured.
const TRAFFIC: &str = "trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}, \
    connectionPool: {tcp: {maxConnections: 1000, connectTimeout: 1s}, http: {http1MaxPendingRequests: 1000, http2MaxRequests: 1000, maxRetries: 100}}, \
    outlierDetection: {consecutive5xxErrors: 5, consecutiveGatewayErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50, minHealthPercent: 30}}, ";
const TRIES: &str = "    timeout: 10s\n    retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,connect-failure,refused-stream,retriable-4xx'}\n";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Http {
    #[value(name = "1")]
    One,
    #[value(name = "2")]
    Two,
}

impl Http {
    pub(super) const BOTH: [Self; 2] = [Self::One, Self::Two];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::One => "HTTP/1.1",
            Self::Two => "HTTP/2",
        }
    }

    pub(super) const fn number(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
        }
    }

    /// The services' port for it.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::One => 80,
            Self::Two => 81,
        }
    }

    /// The pods' port for it.
    pub(super) const fn target(self) -> u16 {
        match self {
            Self::One => 8080,
            Self::Two => 8081,
        }
    }
}

/// What a rule asks of a request.
enum Match {
    Prefix(String),
    Header(String),
}

impl Service {
    /// Only the last one takes the requests of the load: half of the others look at the path, half at
    /// a header.
    fn matches(&self) -> Vec<Match> {
        let one = |number: usize| match number {
            last if last + 1 == self.rules => Match::Prefix("/app/".into()),
            even if even % 2 == 0 => Match::Prefix(format!("/api/v{even}/")),
            odd => Match::Header(format!("x-group-{odd}")),
        };
        (0..self.rules).map(one).collect()
    }

    /// Service and rules.
    pub(super) fn manifest(&self) -> String {
        let Self { name, vip: [a, b, c, d], .. } = self;
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
             spec: {{clusterIP: {a}.{b}.{c}.{d}, selector: {{app: product}}, ports: [{{name: http, port: 80, targetPort: 8080}}, \
             {{name: http2, port: 81, targetPort: 8081}}]}}\n"
        );
        let Some(subset) = self.subset else { return text };
        let (policy, tries) = if self.guarded { (TRAFFIC, TRIES) } else { ("", "") };
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{host: {name}, {policy}subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  hosts: [{name}]\n  http:\n"
        );
        for what in self.matches() {
            let asked = match what {
                Match::Prefix(prefix) => format!("uri: {{prefix: {prefix}}}"),
                Match::Header(name) => format!("headers: {{{name}: {{exact: \"yes\"}}}}"),
            };
            let _ = write!(
                text,
                "  - match: [{{{asked}}}]\n    route: [{{destination: {{host: {name}, subset: {subset}}}}}]\n{tries}"
            );
        }
        text
    }

    /// The same as routes of Envoy, with the tries that Istio has for those that say nothing.
    pub(super) fn routes(&self, http: Http) -> Value {
        let (timeout, tries, on) = match self.guarded {
            true => ("10s", 3, "5xx,connect-failure,refused-stream,retriable-4xx"),
            false => (
                "0s",
                2,
                "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            ),
        };
        let kind = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
        let mut retries = json!({
            "num_retries": tries, "retry_on": on, "host_selection_retry_max_attempts": "5",
            "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": { "@type": format!("type.googleapis.com/{kind}") } }],
        });
        if self.guarded {
            retries["per_try_timeout"] = "2s".into();
        }
        let to = |what: Value| {
            json!({ "match": what,
                    "route": { "cluster": self.cluster(http), "timeout": timeout,
                               "retry_policy": retries } })
        };
        let rules = self.matches().into_iter().map(|what| match what {
            Match::Prefix(prefix) => to(json!({ "prefix": prefix })),
            Match::Header(name) => to(json!({ "prefix": "/",
                "headers": [{ "name": name, "string_match": { "exact": "yes" } }] })),
        });
        let mut rules: Vec<Value> = rules.collect();
        if rules.is_empty() {
            rules.push(to(json!({ "prefix": "/" })));
        }
        rules.into()
    }

    /// The name of Envoy's cluster for its destination.
    pub(super) fn cluster(&self, http: Http) -> String {
        format!("product-{}-{}", self.name, http.number())
    }

    /// What that cluster has of policies: those of the DestinationRule, or what istiod writes without.
    pub(super) fn guard(&self, cluster: &mut Value) {
        let [connections, pending, requests, retries] =
            if self.guarded { [1000, 1000, 1000, 100] } else { [u32::MAX; 4] };
        cluster["circuit_breakers"] = json!({ "thresholds": [{
            "max_connections": connections, "max_pending_requests": pending,
            "max_requests": requests, "max_retries": retries }] });
        cluster["lb_policy"] = "LEAST_REQUEST".into();
        if !self.guarded {
            return;
        }
        cluster["connect_timeout"] = "1s".into();
        cluster["outlier_detection"] = json!({
            "consecutive_5xx": 5, "enforcing_consecutive_5xx": 100,
            "consecutive_gateway_failure": 5, "enforcing_consecutive_gateway_failure": 100,
            "enforcing_success_rate": 0, "interval": "10s", "base_ejection_time": "30s",
            "max_ejection_percent": 50 });
        cluster["common_lb_config"] = json!({ "healthy_panic_threshold": { "value": 30 } });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_planes_have_as_many_rules_and_only_the_last_is_for_the_load() {
        for service in SERVICES {
            let routes = service.routes(Http::One);
            let routes = routes.as_array().unwrap();
            assert_eq!(routes.len(), service.rules.max(1));
            assert_eq!(service.manifest().matches("- match").count(), service.rules);
            let takes = |route: &Value| {
                let prefix = route["match"]["prefix"].as_str().unwrap();
                PATH.starts_with(prefix) && route["match"]["headers"].is_null()
            };
            assert_eq!(routes.iter().position(takes), Some(routes.len() - 1));
        }
    }
}
