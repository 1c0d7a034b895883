//! Pure: the closed set of ways that a connection ends, and every room's error folded into it.
//! Never: a wildcard arm.
use http::StatusCode;

use crate::{hbone, relay::Ended, route};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Both sides said that they were done.
    Ok,
    /// The client's side broke.
    ResetByClient,
    /// The server's side broke.
    ResetByServer,
    /// Nobody listens at the destination.
    ConnectRefused,
    /// The destination did not answer.
    ConnectTimeout,
    /// The destination could not be reached for another cause.
    ConnectFailed,
    /// No TLS session came about.
    TlsFailure,
    /// The peer is somebody else than expected.
    IdentityMismatch,
    /// HTTP/2 failed.
    H2Failure,
    /// The peer's agent refused the tunnel.
    Rejected,
    /// The peer asked for something that is not a CONNECT to host and port.
    BadRequest,
    /// The peer asked for an address that is not this pod's.
    NotLocal,
    /// The service has no such port, or what was dialled is in another network.
    NoRoute,
    /// No endpoint of the service is ready.
    NoEndpoint,
    /// The waypoint that must be passed is not there.
    NoWaypoint,
    /// The pod's certificate is not there.
    NoCertificate,
    /// The connection would come back to the agent.
    Loop,
    /// A named limit is reached.
    LimitExceeded,
    /// A policy refuses it.
    Denied,
    /// A policy refuses it by now, and did not when it began.
    Revoked,
    /// The agent stopped before the connection ended.
    Drained,
    /// The task was dropped for another cause.
    Cancelled,
}

/// Why a connection did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which kind.
    pub reason: Reason,
    /// For people.
    pub detail: String,
}

impl Reason {
    /// The word in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ResetByClient => "reset_by_client",
            Self::ResetByServer => "reset_by_server",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::TlsFailure => "tls_failure",
            Self::IdentityMismatch => "identity_mismatch",
            Self::H2Failure => "h2_failure",
            Self::Rejected => "rejected",
            Self::BadRequest => "bad_request",
            Self::NotLocal => "not_local",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::NoWaypoint => "no_waypoint",
            Self::NoCertificate => "no_certificate",
            Self::Loop => "loop",
            Self::LimitExceeded => "limit_exceeded",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Drained => "drained",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether another endpoint of the same service may do better.
    pub const fn is_endpoints_own(self) -> bool {
        match self {
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::TlsFailure
            | Self::IdentityMismatch
            | Self::H2Failure
            | Self::Rejected => true,
            Self::Ok
            | Self::ResetByClient
            | Self::ResetByServer
            | Self::BadRequest
            | Self::NotLocal
            | Self::NoRoute
            | Self::NoEndpoint
            | Self::NoWaypoint
            | Self::NoCertificate
            | Self::Loop
            | Self::LimitExceeded
            | Self::Denied
            | Self::Revoked
            | Self::Drained
            | Self::Cancelled => false,
        }
    }

    /// The value of Istio's metric label `response_flags`.
    pub const fn response_flags(self) -> &'static str {
        match self {
            Self::Ok
            | Self::ResetByClient
            | Self::ResetByServer
            | Self::Drained
            | Self::Cancelled => "-",
            Self::Denied | Self::Revoked => "DENY",
            Self::ConnectTimeout => "NETWORK_POLICY",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2Failure => "H2_HANDSHAKE_FAILURE",
            Self::IdentityMismatch | Self::NoCertificate => "IDENTITY_ERROR",
            Self::ConnectRefused
            | Self::ConnectFailed
            | Self::Rejected
            | Self::BadRequest
            | Self::NotLocal
            | Self::NoRoute
            | Self::NoEndpoint
            | Self::NoWaypoint
            | Self::Loop
            | Self::LimitExceeded => "CONNECT",
        }
    }

    /// What the peer of a tunnel is told.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            Self::BadRequest | Self::NotLocal => StatusCode::BAD_REQUEST,
            Self::IdentityMismatch | Self::Denied | Self::Revoked => StatusCode::UNAUTHORIZED,
            Self::ResetByClient
            | Self::ResetByServer
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::TlsFailure
            | Self::H2Failure
            | Self::Rejected
            | Self::NoRoute
            | Self::NoEndpoint
            | Self::NoWaypoint
            | Self::NoCertificate
            | Self::Loop
            | Self::LimitExceeded
            | Self::Drained
            | Self::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Failure {
    /// A failure with its explanation.
    pub fn new(reason: Reason, detail: impl ToString) -> Self {
        Self { reason, detail: detail.to_string() }
    }

    /// What the client's side of a tunnel learns of it, by the status of the answer.
    pub fn as_told(&self) -> Self {
        let reason = match self.reason.status() {
            StatusCode::UNAUTHORIZED => Reason::Denied,
            _ => Reason::Rejected,
        };
        Self::new(reason, &self.detail)
    }

    /// A dial of plain TCP failed.
    pub fn dial(error: &std::io::Error) -> Self {
        Self::new(dialled(error), format!("connection failed: {error}"))
    }
}

impl From<Ended> for Reason {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Finished => Self::Ok,
            Ended::ResetByClient => Self::ResetByClient,
            Ended::ResetByServer => Self::ResetByServer,
        }
    }
}

impl From<route::Error> for Failure {
    fn from(error: route::Error) -> Self {
        let reason = match &error {
            route::Error::NoPort { .. }
            | route::Error::Damaged(_)
            | route::Error::OtherNetwork { .. } => Reason::NoRoute,
            route::Error::NoWaypoint { .. } => Reason::NoWaypoint,
            route::Error::NoEndpoint { .. } => Reason::NoEndpoint,
        };
        Self::new(reason, error)
    }
}

impl From<hbone::Error> for Failure {
    fn from(error: hbone::Error) -> Self {
        let reason = match &error {
            hbone::Error::Dial(source) => dialled(source),
            hbone::Error::DialTimeout | hbone::Error::Timeout(_) => Reason::ConnectTimeout,
            hbone::Error::Tls(_) => Reason::TlsFailure,
            hbone::Error::Identity { .. } => Reason::IdentityMismatch,
            hbone::Error::Http2(_) => Reason::H2Failure,
            hbone::Error::Status(StatusCode::UNAUTHORIZED) => Reason::Denied,
            hbone::Error::Status(_) => Reason::Rejected,
            hbone::Error::Full(_) => Reason::LimitExceeded,
        };
        let mut detail = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            let cause = source.to_string();
            if !detail.contains(&cause) {
                detail = format!("{detail}: {cause}");
            }
        }
        Self { reason, detail }
    }
}

/// Only three kinds of I/O error mean something to a reader of records.
#[expect(clippy::wildcard_enum_match_arm, reason = "the set of I/O errors is open")]
fn dialled(error: &std::io::Error) -> Reason {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        std::io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    }
}
