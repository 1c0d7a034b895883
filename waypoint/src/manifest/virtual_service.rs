//! Pure: VirtualService as it is written (`networking/v1alpha3/virtual_service.proto`).
//! Never: what a field means (see `validate` and `translate`).
use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;

use super::time::Time;

/// The spec of a VirtualService.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VirtualService {
    pub(super) hosts: Vec<String>,
    pub(super) gateways: Vec<String>,
    pub(super) http: Vec<HttpRoute>,
    pub(super) tls: Vec<TlsRoute>,
    pub(super) tcp: Vec<TcpRoute>,
    pub(super) export_to: Vec<String>,
}

/// One rule for requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpRoute {
    pub(super) name: String,
    #[serde(rename = "match")]
    pub(super) matches: Vec<HttpMatch>,
    pub(super) route: Vec<HttpDestination>,
    pub(super) redirect: Option<Redirect>,
    pub(super) direct_response: Option<DirectResponse>,
    pub(super) delegate: Option<Delegate>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) timeout: Option<Time>,
    pub(super) retries: Option<Retries>,
    pub(super) fault: Option<Fault>,
    pub(super) mirror: Option<Destination>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) mirror_percent: Option<u32>,
    pub(super) mirror_percentage: Option<Percent>,
    pub(super) cors_policy: Option<Cors>,
    pub(super) headers: Option<Headers>,
}

/// One block of conditions on a request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpMatch {
    pub(super) name: String,
    pub(super) uri: Option<StringMatch>,
    pub(super) scheme: Option<StringMatch>,
    pub(super) method: Option<StringMatch>,
    pub(super) authority: Option<StringMatch>,
    pub(super) headers: BTreeMap<String, StringMatch>,
    pub(super) port: u32,
    pub(super) source_labels: BTreeMap<String, String>,
    pub(super) gateways: Vec<String>,
    pub(super) query_params: BTreeMap<String, StringMatch>,
    pub(super) ignore_uri_case: bool,
    pub(super) without_headers: BTreeMap<String, StringMatch>,
    pub(super) source_namespace: String,
    pub(super) stat_prefix: String,
}

/// A condition on a text; none of the fields asks only that it is there.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct StringMatch {
    pub(super) exact: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) regex: Option<String>,
}

/// A weighted destination of requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct HttpDestination {
    pub(super) destination: Option<Destination>,
    pub(super) weight: i32,
    pub(super) headers: Option<Headers>,
}

/// A weighted destination of connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct RouteDestination {
    pub(super) destination: Option<Destination>,
    pub(super) weight: i32,
}

/// A service, or a subset of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Destination {
    pub(super) host: String,
    pub(super) subset: String,
    pub(super) port: Option<PortSelector>,
}

/// A service port.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct PortSelector {
    pub(super) number: u32,
}

/// The VirtualService whose rules stand in place of this one.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Delegate {
    pub(super) name: String,
    pub(super) namespace: String,
}

/// Changes to headers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Headers {
    pub(super) request: HeaderOperations,
    pub(super) response: HeaderOperations,
}

/// Changes to the headers of one direction.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct HeaderOperations {
    pub(super) set: BTreeMap<String, String>,
    pub(super) add: BTreeMap<String, String>,
    pub(super) remove: Vec<String>,
}

/// One rule for connections that begin with a ClientHello.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct TlsRoute {
    #[serde(rename = "match")]
    pub(super) matches: Vec<TlsMatch>,
    pub(super) route: Vec<RouteDestination>,
}

/// One rule for connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct TcpRoute {
    #[serde(rename = "match")]
    pub(super) matches: Vec<L4Match>,
    pub(super) route: Vec<RouteDestination>,
}

/// One block of conditions on a connection with a ClientHello.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TlsMatch {
    pub(super) sni_hosts: Vec<String>,
    pub(super) destination_subnets: Vec<String>,
    pub(super) port: u32,
    pub(super) source_labels: BTreeMap<String, String>,
    pub(super) gateways: Vec<String>,
    pub(super) source_namespace: String,
}

/// One block of conditions on a connection.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct L4Match {
    pub(super) destination_subnets: Vec<String>,
    pub(super) port: u32,
    pub(super) source_subnet: String,
    pub(super) source_labels: BTreeMap<String, String>,
    pub(super) gateways: Vec<String>,
    pub(super) source_namespace: String,
}

/// Where the client is told to ask.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Redirect {
    pub(super) uri: String,
    pub(super) authority: String,
    pub(super) port: Option<u32>,
    pub(super) derive_port: Option<DerivePort>,
    pub(super) scheme: String,
    pub(super) redirect_code: u32,
    pub(super) prefix_rewrite: String,
}

/// A port that follows from something else.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

/// An answer of the waypoint itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct DirectResponse {
    pub(super) status: u32,
    pub(super) body: Option<Body>,
}

/// Its body: text, or bytes in base64.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Body {
    pub(super) string: Option<String>,
    pub(super) bytes: Option<String>,
}

/// Under which path and authority a request goes on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rewrite {
    pub(super) uri: String,
    pub(super) authority: String,
    pub(super) uri_regex_rewrite: Option<RegexRewrite>,
}

/// An expression and its replacement.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct RegexRewrite {
    #[serde(rename = "match")]
    pub(super) text: String,
    pub(super) rewrite: String,
}

/// When a failed try is followed by another.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Retries {
    pub(super) attempts: i32,
    pub(super) per_try_timeout: Option<Time>,
    pub(super) retry_on: String,
    pub(super) retry_remote_localities: Option<bool>,
    pub(super) retry_ignore_previous_hosts: Option<bool>,
    pub(super) backoff: Option<Time>,
}

/// Which pages of other origins may call.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Cors {
    pub(super) allow_origin: Vec<String>,
    pub(super) allow_origins: Vec<StringMatch>,
    pub(super) allow_methods: Vec<String>,
    pub(super) allow_headers: Vec<String>,
    pub(super) expose_headers: Vec<String>,
    pub(super) max_age: Option<Time>,
    pub(super) allow_credentials: Option<bool>,
    pub(super) unmatched_preflights: UnmatchedPreflights,
}

/// What becomes of preflights of other origins.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum UnmatchedPreflights {
    #[default]
    Unspecified,
    Forward,
    Ignore,
}

/// Failures on purpose.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) delay: Option<Delay>,
    pub(super) abort: Option<Abort>,
}

/// A pause on purpose.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Delay {
    pub(super) percent: i32,
    pub(super) fixed_delay: Option<Time>,
    pub(super) exponential_delay: Option<Time>,
    pub(super) percentage: Option<Percent>,
}

/// A failure on purpose.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Abort {
    pub(super) http_status: Option<i32>,
    pub(super) grpc_status: Option<String>,
    pub(super) http2_error: Option<String>,
    pub(super) percentage: Option<Percent>,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Percent {
    pub(super) value: f64,
}

/// A copy of requests to somebody else.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Mirror {
    pub(super) destination: Option<Destination>,
    pub(super) percentage: Option<Percent>,
}

impl Body {
    /// What it says.
    pub(super) fn content(&self) -> Result<Bytes, String> {
        match (&self.string, &self.bytes) {
            (Some(text), _) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(text)) => {
                STANDARD.decode(text).map(Bytes::from).map_err(|error| format!("base64: {error}"))
            }
            (None, None) => Ok(Bytes::new()),
        }
    }
}
