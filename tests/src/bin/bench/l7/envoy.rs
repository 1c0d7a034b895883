//! Pure: Envoy's configuration as istiod writes it for a waypoint, for the services of the bench.
//! Never: less than Culvert does for a request, or more.
//!
//! Three listeners, as in Istio: one ends the tunnels of clients (mutual TLS, CONNECT), one for each
//! service has its rules, one for each pod opens the tunnel to it (mutual TLS, its SPIFFE ID alone).
//! There is no filter but the router, and none of Istio's own for metrics.
use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use super::rules::{Http, SERVICES, Service};

/// Istio's default text format (`pilot/pkg/model/telemetry_logging.go`).
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// What the configuration is made of.
pub(super) struct Setting<'a> {
    /// The folder of `chain.pem`, `key.pem` and `root.pem`.
    pub(super) certificates: &'a Path,
    /// Where the access log goes, if there is one.
    pub(super) log: Option<&'a Path>,
    /// The pods' versions and addresses.
    pub(super) pods: &'a [(&'static str, SocketAddr)],
    /// The one identity of all pods.
    pub(super) identity: &'a str,
}

impl Setting<'_> {
    /// Everything.
    pub(super) fn config(&self) -> Value {
        let (mut listeners, mut clusters) = (vec![self.terminate()], Vec::new());
        for http in Http::BOTH {
            for service in &SERVICES {
                listeners.push(self.service(service, http));
                let name = inside(service, http);
                clusters.push(json!({ "name": name, "type": "STATIC",
                    "load_assignment": assignment(&name, &[internal(&name)]),
                    "transport_socket": passed_on() }));
                clusters.push(self.product(service, http));
            }
            for (version, _) in self.pods {
                listeners.push(originate(version, http, &self.target(version, http)));
            }
        }
        clusters.extend(self.pods.iter().map(|(version, at)| self.tunnel(version, *at)));
        json!({
            "bootstrap_extensions": [{ "name": "envoy.bootstrap.internal_listener", "typed_config":
                of_type("bootstrap.internal_listener.v3.InternalListener", json!({})) }],
            "static_resources": { "listeners": listeners, "clusters": clusters },
        })
    }

    fn target(&self, version: &str, http: Http) -> String {
        let at = self.pods.iter().find(|(name, _)| *name == version).map(|(_, at)| at.ip());
        at.map(|ip| SocketAddr::new(ip, http.target()).to_string()).unwrap_or_default()
    }

    /// Ends the tunnels of clients; which service, their authority says.
    fn terminate(&self) -> Value {
        let hosts = SERVICES.iter().flat_map(|service| {
            Http::BOTH.map(|http| {
                let authority = SocketAddr::from((service.vip, http.port())).to_string();
                let connect = json!({ "upgrade_type": "CONNECT", "connect_config": {} });
                json!({ "name": authority, "domains": [authority], "routes": [{
                    "match": { "connect_matcher": {} },
                    "route": { "cluster": inside(service, http), "timeout": "0s",
                               "upgrade_configs": [connect] } }] })
            })
        });
        let hosts: Vec<Value> = hosts.collect();
        let manager = json!({
            "stat_prefix": "connect_terminate", "codec_type": "AUTO",
            "http2_protocol_options": { "allow_connect": true },
            "upgrade_configs": [{ "upgrade_type": "CONNECT" }], "stream_idle_timeout": "0s",
            "route_config": { "name": "default", "virtual_hosts": hosts },
            "http_filters": [router()],
        });
        let context = json!({ "require_client_certificate": true,
                              "common_tls_context": self.common(json!({})) });
        json!({
            "name": "connect_terminate",
            "address": { "socket_address": { "address": "0.0.0.0", "port_value": 15008 } },
            "filter_chains": [{
                "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config":
                    of_type("transport_sockets.tls.v3.DownstreamTlsContext", context) },
                "filters": [connection_manager(manager)],
            }],
        })
    }

    /// The rules of one service.
    fn service(&self, service: &Service, http: Http) -> Value {
        let name = inside(service, http);
        let log = self.log.map(|path| {
            let file = json!({ "path": path,
                "log_format": { "text_format_source": { "inline_string": FORMAT } } });
            json!({ "name": "envoy.access_loggers.file", "typed_config":
                of_type("access_loggers.file.v3.FileAccessLog", file) })
        });
        let log: Vec<Value> = log.into_iter().collect();
        let manager = json!({
            "stat_prefix": name, "codec_type": "AUTO", "server_name": "istio-envoy",
            "normalize_path": true, "stream_idle_timeout": "0s", "access_log": log,
            "route_config": { "name": name, "virtual_hosts": [{
                "name": name, "domains": ["*"], "routes": service.routes(http) }] },
            "http_filters": [router()],
        });
        json!({ "name": name, "internal_listener": {},
                "filter_chains": [{ "filters": [connection_manager(manager)] }] })
    }

    /// The pods behind a service's rules, through their tunnels.
    fn product(&self, service: &Service, http: Http) -> Value {
        let name = service.cluster(http);
        let is_chosen = |version: &str| service.subset.is_none_or(|subset| subset == version);
        let chosen = self.pods.iter().filter(|(version, _)| is_chosen(version));
        let pods: Vec<Value> = chosen.map(|(v, _)| internal(&origin(v, http))).collect();
        let protocol = match http {
            Http::One => "http_protocol_options",
            Http::Two => "http2_protocol_options",
        };
        let mut cluster = json!({
            "name": name, "type": "STATIC", "transport_socket": passed_on(),
            "typed_extension_protocol_options": spoken(json!({ protocol: {} })),
            "load_assignment": assignment(&name, &pods) });
        service.guard(&mut cluster);
        cluster
    }

    /// The tunnel to a pod; nobody else may be there.
    fn tunnel(&self, version: &str, at: SocketAddr) -> Value {
        let name = tunnel(version);
        let names = json!([{ "san_type": "URI", "matcher": { "exact": self.identity } }]);
        let context = json!({
            "common_tls_context": self.common(json!({ "match_typed_subject_alt_names": names })) });
        let address = json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } });
        json!({ "name": name, "type": "STATIC", "circuit_breakers": unbounded(),
                "typed_extension_protocol_options": spoken(json!({ "http2_protocol_options": {} })),
                "load_assignment": assignment(&name, &[json!({ "endpoint": { "address": address } })]),
                "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config":
                    of_type("transport_sockets.tls.v3.UpstreamTlsContext", context) } })
    }

    fn common(&self, mut validation: Value) -> Value {
        let file = |name: &str| json!({ "filename": self.certificates.join(name) });
        validation["trusted_ca"] = file("root.pem");
        json!({
            "alpn_protocols": ["h2"],
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3",
                            "tls_maximum_protocol_version": "TLSv1_3" },
            "tls_certificates": [{ "certificate_chain": file("chain.pem"),
                                   "private_key": file("key.pem") }],
            "validation_context": validation,
        })
    }
}

/// Opens a tunnel for each connection to a pod.
fn originate(version: &str, http: Http, target: &str) -> Value {
    let (name, cluster) = (origin(version, http), tunnel(version));
    let proxy = json!({ "stat_prefix": name, "cluster": cluster,
                        "tunneling_config": { "hostname": target } });
    json!({ "name": name, "internal_listener": {}, "filter_chains": [{ "filters": [{
        "name": "envoy.filters.network.tcp_proxy", "typed_config":
            of_type("filters.network.tcp_proxy.v3.TcpProxy", proxy) }] }] })
}

fn inside(service: &Service, http: Http) -> String {
    format!("inside-{}-{}", service.name, http.number())
}

fn origin(version: &str, http: Http) -> String {
    format!("originate-{version}-{}", http.number())
}

fn tunnel(version: &str) -> String {
    format!("tunnel-{version}")
}

fn of_type(name: &str, mut value: Value) -> Value {
    value["@type"] = format!("type.googleapis.com/envoy.extensions.{name}").into();
    value
}

fn router() -> Value {
    json!({ "name": "envoy.filters.http.router",
            "typed_config": of_type("filters.http.router.v3.Router", json!({})) })
}

fn connection_manager(manager: Value) -> Value {
    let kind = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({ "name": "envoy.filters.network.http_connection_manager",
            "typed_config": of_type(kind, manager) })
}

fn internal(listener: &str) -> Value {
    json!({ "endpoint": { "address": {
        "envoy_internal_address": { "server_listener_name": listener } } } })
}

fn assignment(cluster: &str, endpoints: &[Value]) -> Value {
    json!({ "cluster_name": cluster, "endpoints": [{ "lb_endpoints": endpoints }] })
}

/// To an internal listener, without a copy.
fn passed_on() -> Value {
    let raw = json!({ "name": "envoy.transport_sockets.raw_buffer", "typed_config":
        of_type("transport_sockets.raw_buffer.v3.RawBuffer", json!({})) });
    let kind = "transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
    json!({ "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": of_type(kind, json!({ "transport_socket": raw })) })
}

fn spoken(protocol: Value) -> Value {
    let kind = "upstreams.http.v3.HttpProtocolOptions";
    json!({ format!("envoy.extensions.{kind}"):
        of_type(kind, json!({ "explicit_http_config": protocol })) })
}

/// As istiod writes it.
fn unbounded() -> Value {
    let most = u32::MAX;
    json!({ "thresholds": [{ "max_connections": most, "max_pending_requests": most,
                             "max_requests": most, "max_retries": most }] })
}
