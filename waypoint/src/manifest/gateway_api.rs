//! Pure: routes and grants of the Gateway API as they are written (`gateway.networking.k8s.io`, `apis/v1`).
//! Never: what a field means (see `mesh_route`).
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use super::{expression::Expression, time::Time};
use crate::routing::{Regex, TextMatch};

/// A route of any kind.
#[derive(Clone, Debug)]
pub(super) enum Route {
    Http(HttpRoute),
    Grpc(GrpcRoute),
    Tcp(TcpRoute),
    Tls(TlsRoute),
}

impl Route {
    /// Whose route it is.
    pub(super) fn parents(&self) -> &[ParentRef] {
        match self {
            Self::Http(route) => &route.parent_refs,
            Self::Grpc(route) => &route.parent_refs,
            Self::Tcp(route) => &route.parent_refs,
            Self::Tls(route) => &route.parent_refs,
        }
    }
}

impl Route {
    /// How many rules it has.
    pub(super) fn count_rules(&self) -> usize {
        match self {
            Self::Http(route) => route.rules.len(),
            Self::Grpc(route) => route.rules.len(),
            Self::Tcp(route) => route.rules.len(),
            Self::Tls(route) => route.rules.len(),
        }
    }
}

/// The spec of an HTTPRoute.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpRoute {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) use_default_gateways: Option<String>,
    pub(super) hostnames: Vec<String>,
    pub(super) rules: Vec<HttpRule>,
}

/// The spec of a GRPCRoute.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GrpcRoute {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) use_default_gateways: Option<String>,
    pub(super) hostnames: Vec<String>,
    pub(super) rules: Vec<GrpcRule>,
}

/// The spec of a TCPRoute.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TcpRoute {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) use_default_gateways: Option<String>,
    pub(super) rules: Vec<BytesRule>,
}

/// The spec of a TLSRoute.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TlsRoute {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) use_default_gateways: Option<String>,
    pub(super) hostnames: Vec<String>,
    pub(super) rules: Vec<BytesRule>,
}

/// Whose route it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ParentRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) section_name: Option<String>,
    pub(super) port: Option<u16>,
}

/// One rule for requests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpRule {
    pub(super) name: Option<String>,
    pub(super) matches: Vec<HttpMatch>,
    pub(super) filters: Vec<Filter>,
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) retry: Option<Retry>,
    pub(super) session_persistence: Option<Value>,
}

/// One rule for calls of gRPC.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GrpcRule {
    pub(super) name: Option<String>,
    pub(super) matches: Vec<GrpcMatch>,
    pub(super) filters: Vec<Filter>,
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) session_persistence: Option<Value>,
}

/// One rule for connections.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BytesRule {
    pub(super) name: Option<String>,
    pub(super) backend_refs: Vec<BackendRef>,
}

/// Conditions on a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpMatch {
    pub(super) path: Option<PathMatch>,
    pub(super) headers: Vec<NamedMatch>,
    pub(super) query_params: Vec<NamedMatch>,
    pub(super) method: Option<String>,
}

/// A condition on a path.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PathMatch {
    #[serde(rename = "type")]
    pub(super) kind: PathKind,
    pub(super) value: Option<Expression>,
}

/// What a condition on a path compares.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) enum PathKind {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NamedMatch {
    #[serde(rename = "type", default)]
    pub(super) kind: TextKind,
    pub(super) name: String,
    pub(super) value: Expression,
}

/// What a condition on a text compares.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) enum TextKind {
    #[default]
    Exact,
    RegularExpression,
}

/// Conditions on a call of gRPC.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GrpcMatch {
    pub(super) method: Option<MethodMatch>,
    pub(super) headers: Vec<NamedMatch>,
}

/// A condition on the method that is called.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MethodMatch {
    #[serde(rename = "type")]
    pub(super) kind: TextKind,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
    /// What both mean, compiled once for all the rules that come of it.
    #[serde(skip)]
    pub(super) path: OnceLock<Option<Regex>>,
}

/// A change of requests or responses.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) request_header_modifier: Option<HeaderFilter>,
    pub(super) response_header_modifier: Option<HeaderFilter>,
    pub(super) request_mirror: Option<MirrorFilter>,
    pub(super) request_redirect: Option<RedirectFilter>,
    pub(super) url_rewrite: Option<RewriteFilter>,
    pub(super) cors: Option<CorsFilter>,
    #[serde(rename = "externalAuth")]
    pub(super) _external_auth: Option<Value>,
    #[serde(rename = "extensionRef")]
    pub(super) _extension_ref: Option<Value>,
}

/// Changes to headers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HeaderFilter {
    pub(super) set: Vec<Header>,
    pub(super) add: Vec<Header>,
    pub(super) remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

/// A copy of requests to somebody else.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MirrorFilter {
    pub(super) backend_ref: BackendRef,
    pub(super) percent: Option<u32>,
    pub(super) fraction: Option<Fraction>,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Fraction {
    pub(super) numerator: u32,
    pub(super) denominator: Option<u32>,
}

/// Where the client is told to ask.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RedirectFilter {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
    pub(super) port: Option<u16>,
    pub(super) status_code: Option<u16>,
}

/// Under which path and host a request goes on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RewriteFilter {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
}

/// A change of a path.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathModifier {
    #[serde(rename = "type")]
    pub(super) kind: PathModifierKind,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

/// Which part of a path changes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(super) enum PathModifierKind {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

/// Which pages of other origins may call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CorsFilter {
    pub(super) allow_origins: Vec<String>,
    pub(super) allow_credentials: Option<bool>,
    pub(super) allow_methods: Vec<String>,
    pub(super) allow_headers: Vec<String>,
    pub(super) expose_headers: Vec<String>,
    pub(super) max_age: Option<u64>,
    /// What the origins mean, compiled once for all the rules that come of it.
    #[serde(skip)]
    pub(super) origins: OnceLock<Option<Vec<TextMatch>>>,
}

/// A weighted destination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) weight: Option<u32>,
    pub(super) filters: Vec<Filter>,
}

/// How long requests may take.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Timeouts {
    pub(super) request: Option<Time>,
    pub(super) backend_request: Option<Time>,
}

/// When a failed try is followed by another.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Retry {
    pub(super) codes: Vec<u16>,
    pub(super) attempts: Option<u32>,
    pub(super) backoff: Option<Time>,
}

/// The spec of a ReferenceGrant: who of other namespaces may refer to what is here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Grant {
    pub(super) from: Vec<GrantFrom>,
    pub(super) to: Vec<GrantTo>,
}

/// The spec of a BackendTLSPolicy, as far as anybody looks: whom it is for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TlsPolicy {
    pub(super) target_refs: Vec<TlsTarget>,
    #[serde(rename = "validation")]
    pub(super) _validation: Value,
    #[serde(rename = "options")]
    pub(super) _options: Value,
}

/// A target of a BackendTLSPolicy, in its own namespace.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TlsTarget {
    pub(super) kind: String,
    pub(super) name: String,
    #[serde(rename = "group", default)]
    pub(super) _group: Value,
    #[serde(rename = "sectionName", default)]
    pub(super) _section_name: Value,
}

/// Objects that may refer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct GrantFrom {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) namespace: String,
}

/// What may be referred to; without a name, all of a kind.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct GrantTo {
    pub(super) group: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: Option<String>,
}

impl Filter {
    /// Whether it has the field that goes with its type, and no other.
    pub(super) fn is_whole(&self) -> bool {
        let fields = [
            ("RequestHeaderModifier", self.request_header_modifier.is_some()),
            ("ResponseHeaderModifier", self.response_header_modifier.is_some()),
            ("RequestMirror", self.request_mirror.is_some()),
            ("RequestRedirect", self.request_redirect.is_some()),
            ("URLRewrite", self.url_rewrite.is_some()),
            ("CORS", self.cors.is_some()),
        ];
        fields.into_iter().all(|(kind, given)| given == (kind == self.kind))
    }
}
