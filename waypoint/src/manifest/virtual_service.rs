//! Pure: VirtualService as it is written (`networking/v1alpha3/virtual_service.proto`).
//! Never: what a field means (see `validate` and `translate`).
use std::{collections::BTreeMap, sync::OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{expression::Expression, time::Time};
use crate::routing::{Substitution, SubstitutionError};

/// The spec of a VirtualService.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VirtualService {
    pub(crate) hosts: Vec<String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) http: Vec<HttpRoute>,
    pub(crate) tls: Vec<TlsRoute>,
    pub(crate) tcp: Vec<TcpRoute>,
    pub(crate) export_to: Vec<String>,
}

/// One rule for requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HttpRoute {
    pub(crate) name: String,
    #[serde(rename = "match")]
    pub(crate) matches: Vec<HttpMatch>,
    pub(crate) route: Vec<HttpDestination>,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) direct_response: Option<DirectResponse>,
    pub(crate) delegate: Option<Delegate>,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) timeout: Option<Time>,
    pub(crate) retries: Option<Retries>,
    pub(crate) fault: Option<Fault>,
    pub(crate) mirror: Option<Destination>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) mirror_percent: Option<u32>,
    pub(crate) mirror_percentage: Option<Percent>,
    pub(crate) cors_policy: Option<Cors>,
    pub(crate) headers: Option<Headers>,
}

impl HttpRoute {
    /// The rule by which nothing passes.
    pub(crate) fn closed() -> Self {
        let status = u32::from(StatusCode::INTERNAL_SERVER_ERROR.as_u16());
        let direct_response = Some(DirectResponse { status, body: None });
        Self { name: "closed".into(), direct_response, ..Self::default() }
    }
}

/// One block of conditions on a request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HttpMatch {
    pub(crate) name: String,
    pub(crate) uri: Option<StringMatch>,
    pub(crate) scheme: Option<StringMatch>,
    pub(crate) method: Option<StringMatch>,
    pub(crate) authority: Option<StringMatch>,
    pub(crate) headers: BTreeMap<String, StringMatch>,
    pub(crate) port: u32,
    pub(crate) source_labels: BTreeMap<String, String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) query_params: BTreeMap<String, StringMatch>,
    pub(crate) ignore_uri_case: bool,
    pub(crate) without_headers: BTreeMap<String, StringMatch>,
    pub(crate) source_namespace: String,
    pub(crate) stat_prefix: String,
}

/// A condition on a text; none of the fields asks only that it is there.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct StringMatch {
    pub(crate) exact: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) regex: Option<Expression>,
}

/// A weighted destination of requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct HttpDestination {
    pub(crate) destination: Option<Destination>,
    pub(crate) weight: i32,
    pub(crate) headers: Option<Headers>,
}

/// A weighted destination of connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct RouteDestination {
    pub(crate) destination: Option<Destination>,
    pub(crate) weight: i32,
}

/// A service, or a subset of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Destination {
    pub(crate) host: String,
    pub(crate) subset: String,
    pub(crate) port: Option<PortSelector>,
}

/// A service port.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct PortSelector {
    pub(crate) number: u32,
}

/// The VirtualService whose rules stand in place of this one.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Delegate {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// Changes to headers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Headers {
    pub(crate) request: HeaderOperations,
    pub(crate) response: HeaderOperations,
}

/// Changes to the headers of one direction.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct HeaderOperations {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) add: BTreeMap<String, String>,
    pub(crate) remove: Vec<String>,
}

/// One rule for connections that begin with a ClientHello.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct TlsRoute {
    #[serde(rename = "match")]
    pub(crate) matches: Vec<TlsMatch>,
    pub(crate) route: Vec<RouteDestination>,
}

/// One rule for connections.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct TcpRoute {
    #[serde(rename = "match")]
    pub(crate) matches: Vec<L4Match>,
    pub(crate) route: Vec<RouteDestination>,
}

/// One block of conditions on a connection with a ClientHello.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TlsMatch {
    pub(crate) sni_hosts: Vec<String>,
    pub(crate) destination_subnets: Vec<String>,
    pub(crate) port: u32,
    pub(crate) source_labels: BTreeMap<String, String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) source_namespace: String,
}

/// One block of conditions on a connection.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct L4Match {
    pub(crate) destination_subnets: Vec<String>,
    pub(crate) port: u32,
    pub(crate) source_subnet: String,
    pub(crate) source_labels: BTreeMap<String, String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) source_namespace: String,
}

/// Where the client is told to ask.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Redirect {
    pub(crate) uri: String,
    pub(crate) authority: String,
    pub(crate) port: Option<u32>,
    pub(crate) derive_port: Option<DerivePort>,
    pub(crate) scheme: String,
    pub(crate) redirect_code: u32,
    pub(crate) prefix_rewrite: String,
}

/// A port that follows from something else.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

/// An answer of the waypoint itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct DirectResponse {
    pub(crate) status: u32,
    pub(crate) body: Option<Body>,
}

/// Its body, which all the rules share that come of it: text, or bytes in base64.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Body {
    #[serde(deserialize_with = "plain")]
    pub(crate) string: Option<Bytes>,
    #[serde(deserialize_with = "decoded")]
    pub(crate) bytes: Option<Bytes>,
}

/// Under which path and authority a request goes on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rewrite {
    pub(crate) uri: String,
    pub(crate) authority: String,
    pub(crate) uri_regex_rewrite: Option<RegexRewrite>,
}

/// An expression and its replacement.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct RegexRewrite {
    #[serde(rename = "match")]
    pub(crate) text: String,
    pub(crate) rewrite: String,
    #[serde(skip)]
    compiled: OnceLock<Result<Substitution, SubstitutionError>>,
}

impl RegexRewrite {
    /// What both mean, compiled once for all the rules that come of it.
    pub(crate) fn substitution(&self) -> Result<Substitution, SubstitutionError> {
        self.compiled.get_or_init(|| Substitution::new(&self.text, &self.rewrite)).clone()
    }
}

/// When a failed try is followed by another.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Retries {
    pub(crate) attempts: i32,
    pub(crate) per_try_timeout: Option<Time>,
    pub(crate) retry_on: String,
    pub(crate) retry_remote_localities: Option<bool>,
    pub(crate) retry_ignore_previous_hosts: Option<bool>,
    pub(crate) backoff: Option<Time>,
}

/// Which pages of other origins may call.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Cors {
    pub(crate) allow_origin: Vec<String>,
    pub(crate) allow_origins: Vec<StringMatch>,
    pub(crate) allow_methods: Vec<String>,
    pub(crate) allow_headers: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Option<Time>,
    pub(crate) allow_credentials: Option<bool>,
    pub(crate) unmatched_preflights: UnmatchedPreflights,
}

/// What becomes of preflights of other origins.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum UnmatchedPreflights {
    #[default]
    Unspecified,
    Forward,
    Ignore,
}

/// Failures on purpose.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Fault {
    pub(crate) delay: Option<Delay>,
    pub(crate) abort: Option<Abort>,
}

/// A pause on purpose.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Delay {
    pub(crate) percent: i32,
    pub(crate) fixed_delay: Option<Time>,
    pub(crate) exponential_delay: Option<Time>,
    pub(crate) percentage: Option<Percent>,
}

/// A failure on purpose.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Abort {
    pub(crate) http_status: Option<i32>,
    pub(crate) grpc_status: Option<String>,
    pub(crate) http2_error: Option<String>,
    pub(crate) percentage: Option<Percent>,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Percent {
    pub(crate) value: f64,
}

/// A copy of requests to somebody else.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Mirror {
    pub(crate) destination: Option<Destination>,
    pub(crate) percentage: Option<Percent>,
}

impl Body {
    /// What it says.
    pub(crate) fn content(&self) -> Bytes {
        self.string.clone().or_else(|| self.bytes.clone()).unwrap_or_default()
    }
}

fn plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Bytes::from))
}

fn decoded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let decoded = text.map(|text| STANDARD.decode(text)).transpose();
    decoded
        .map(|bytes| bytes.map(Bytes::from))
        .map_err(|error| D::Error::custom(format!("base64: {error}")))
}
