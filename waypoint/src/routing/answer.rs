//! Pure: answers that the waypoint gives itself.
//! Never: the form that clients of gRPC get them in.
use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};

use super::{
    fault::{AbortStatus, GrpcStatus},
    model::DirectResponse,
};

/// An answer instead of the upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The status for clients of gRPC, when a rule names one; else it follows from `status`.
    pub grpc: Option<GrpcStatus>,
    /// Headers, without the body's length.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Why.
    pub cause: Cause,
}

/// Why the waypoint answers a request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No rule matches.
    RouteNotFound,
    /// Nobody is behind the destination that was drawn; for people.
    ClusterNotFound(Arc<str>),
    /// No destination has a weight.
    NoDestination,
    /// The rule's rewrite or redirect makes no valid path of this one.
    BadRewrite,
    /// The rule says so.
    Direct,
    /// The rule redirects.
    Redirect,
    /// The rule fails requests on purpose.
    FaultAbort,
    /// A preflight of CORS.
    Preflight,
}

impl Cause {
    /// Envoy's response flag.
    pub fn flag(&self) -> Option<&'static str> {
        match self {
            Self::RouteNotFound => Some("NR"),
            Self::ClusterNotFound(_) => Some("NC"),
            Self::FaultAbort => Some("FI"),
            Self::NoDestination
            | Self::BadRewrite
            | Self::Direct
            | Self::Redirect
            | Self::Preflight => None,
        }
    }

    /// Envoy's response code details.
    pub fn details(&self) -> &'static str {
        match self {
            Self::RouteNotFound => "route_not_found",
            Self::ClusterNotFound(_) => "cluster_not_found",
            Self::NoDestination | Self::Direct | Self::Redirect => "direct_response",
            Self::BadRewrite => "rewrite_failed",
            Self::FaultAbort => "fault_filter_abort",
            Self::Preflight => "cors_response",
        }
    }
}

impl Answer {
    pub(super) fn new(status: StatusCode, cause: Cause) -> Self {
        Self { status, grpc: None, headers: HeaderMap::new(), body: Bytes::new(), cause }
    }

    pub(super) fn abort(status: AbortStatus) -> Self {
        let (status, grpc) = match status {
            AbortStatus::Http(status) => (status, None),
            AbortStatus::Grpc(grpc) => (grpc.http(), Some(grpc)),
        };
        let answer = Self { grpc, ..Self::new(status, Cause::FaultAbort) };
        answer.with_body(Bytes::from_static(b"fault filter abort"))
    }

    pub(super) fn direct(direct: &DirectResponse) -> Self {
        Self::new(direct.status, Cause::Direct).with_body(direct.body.clone())
    }

    pub(super) fn redirect(status: StatusCode, location: HeaderValue) -> Self {
        let mut answer = Self::new(status, Cause::Redirect);
        answer.headers.insert(LOCATION, location);
        answer
    }

    pub(super) fn preflight(headers: HeaderMap) -> Self {
        Self { headers, ..Self::new(StatusCode::OK, Cause::Preflight) }
    }

    /// What has a body is plain text, unless a rule says otherwise.
    fn with_body(mut self, body: Bytes) -> Self {
        if !body.is_empty() {
            self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        Self { body, ..self }
    }
}
