//! Pure: what one attempt, or a whole request, came to, and what the client is told of it.
//! Never: decides what follows from it.
mod attempt;

use std::{borrow::Cow, fmt};

use http::StatusCode;

pub use self::attempt::{Answered, Late, Outcome};
use crate::grpc;

/// Why something went otherwise than it should (Envoy's `%RESPONSE_FLAGS%`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    /// No ready endpoint.
    NoHealthyUpstream,
    /// No connection to the endpoint.
    UpstreamConnectionFailure,
    /// The endpoint closed the connection.
    UpstreamConnectionTermination,
    /// A limit of ours was reached.
    UpstreamOverflow,
    /// No rule for the request.
    NoRoute,
    /// Nobody behind the rule's destination.
    NoCluster,
    /// It took too long.
    UpstreamRequestTimeout,
    /// The endpoint reset the stream.
    UpstreamRemoteReset,
    /// The endpoint does not keep to HTTP.
    UpstreamProtocolError,
    /// The client left.
    DownstreamConnectionTermination,
    /// The client does not keep to HTTP.
    DownstreamProtocolError,
    /// Delayed on purpose.
    DelayInjected,
    /// Failed on purpose.
    FaultInjected,
    /// All tries failed.
    RetryLimitExceeded,
    /// The client's own request did not go on.
    StreamIdleTimeout,
    /// The connection became as old as it may.
    DurationTimeout,
}

impl Flag {
    const ALL: [Self; 16] = [
        Self::NoHealthyUpstream,
        Self::UpstreamConnectionFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamOverflow,
        Self::NoRoute,
        Self::NoCluster,
        Self::UpstreamRequestTimeout,
        Self::UpstreamRemoteReset,
        Self::UpstreamProtocolError,
        Self::DownstreamConnectionTermination,
        Self::DownstreamProtocolError,
        Self::DelayInjected,
        Self::FaultInjected,
        Self::RetryLimitExceeded,
        Self::StreamIdleTimeout,
        Self::DurationTimeout,
    ];

    /// The flag with this abbreviation.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flag| flag.as_str() == word)
    }

    /// Envoy's abbreviation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamOverflow => "UO",
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamProtocolError => "UPE",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::RetryLimitExceeded => "URX",
            Self::StreamIdleTimeout => "SI",
            Self::DurationTimeout => "DT",
        }
    }
}

/// All flags of a request; `-` for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// One more.
    pub fn add(&mut self, flag: Flag) {
        self.0 |= 1 << (flag as u16);
    }

    /// Whether one of them says why it ended as it did. A delay of ours says nothing of that.
    pub fn say_why(self) -> bool {
        self.0 & !(1 << (Flag::DelayInjected as u16)) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let set = Flag::ALL.into_iter().filter(|flag| self.0 & (1 << (*flag as u16)) != 0);
        for (number, flag) in set.enumerate() {
            f.write_str(if number > 0 { "," } else { "" })?;
            f.write_str(flag.as_str())?;
        }
        Ok(())
    }
}

/// Why one attempt brought no response. Whose fault it is: the endpoint's, but for `Unmet` and
/// the last two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody listens: the dial was refused, or the endpoint's agent says so (CONNECT answered with 503).
    #[error("{0}")]
    Absent(String),
    /// TLS with the endpoint or its agent failed, or they are not who they should be.
    #[error("{0}")]
    Tls(String),
    /// There is no connection, for another reason. The application has seen nothing.
    #[error("{0}")]
    Connect(String),
    /// What its DestinationRule asks of connections cannot be had: to try again cannot help.
    #[error("{0}")]
    Unmet(String),
    /// Nobody answered in time. The application has seen nothing.
    #[error("connection timeout")]
    ConnectTimeout,
    /// The endpoint's agent does not let the waypoint in: to try again cannot help.
    #[error("the endpoint's policy denies this waypoint")]
    Denied,
    /// The connection ended before the head of a response.
    #[error("connection termination")]
    Terminated,
    /// The stream was reset before the head of a response.
    #[error("remote reset")]
    Reset,
    /// The stream was refused: the application has seen nothing (RFC 9113 §8.7).
    #[error("remote refused stream reset")]
    Refused,
    /// What came was no HTTP.
    #[error("protocol error")]
    Protocol,
    /// A limit of ours was reached.
    #[error("overflow")]
    Overflow,
    /// The client's own request broke off.
    #[error("the request broke off")]
    Request,
}

impl Failure {
    /// Its flag.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Absent(_)
            | Self::Tls(_)
            | Self::Connect(_)
            | Self::Unmet(_)
            | Self::ConnectTimeout
            | Self::Denied => Flag::UpstreamConnectionFailure,
            Self::Terminated => Flag::UpstreamConnectionTermination,
            Self::Reset | Self::Refused => Flag::UpstreamRemoteReset,
            Self::Protocol => Flag::UpstreamProtocolError,
            Self::Overflow => Flag::UpstreamOverflow,
            Self::Request => Flag::DownstreamConnectionTermination,
        }
    }

    /// The words of Envoy's `%RESPONSE_CODE_DETAILS%`.
    fn reason(&self) -> &'static str {
        match self {
            Self::Absent(_) | Self::Tls(_) | Self::Connect(_) | Self::Unmet(_) => {
                "connection_failure"
            }
            Self::Denied => "connection_denied",
            Self::ConnectTimeout => "connection_timeout",
            Self::Terminated => "connection_termination",
            Self::Reset => "remote_reset",
            Self::Refused => "remote_refused_stream_reset",
            Self::Protocol => "protocol_error",
            Self::Overflow => "overflow",
            Self::Request => "local_reset",
        }
    }

    /// What people read in the body of the answer.
    fn text(&self) -> String {
        match self {
            Self::Absent(_) | Self::Tls(_) | Self::Connect(_) | Self::Unmet(_) | Self::Denied => {
                format!("remote connection failure, transport failure reason: {self}")
            }
            Self::ConnectTimeout
            | Self::Terminated
            | Self::Reset
            | Self::Refused
            | Self::Protocol
            | Self::Overflow
            | Self::Request => self.to_string(),
        }
    }
}

/// An answer that the waypoint gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// The status.
    pub status: StatusCode,
    /// Why.
    pub flag: Option<Flag>,
    /// Why, in the words of Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// What people read.
    pub body: Cow<'static, str>,
    /// What a gRPC client is told; the status that goes with HTTP's unless given.
    pub grpc: Option<u8>,
    /// Why there was no connection, for the access log.
    pub transport_failure: Option<String>,
}

const UPGRADE_FAILED: &str = "upgrade_failed";
/// With which words answers begin when there was no other.
const BEFORE_HEAD: &str = "upstream connect error or disconnect/reset before headers. ";

impl LocalReply {
    /// An answer with these words.
    pub fn new(
        status: StatusCode,
        flag: Option<Flag>,
        details: &'static str,
        body: &'static str,
    ) -> Self {
        let (details, body) = (details.into(), body.into());
        Self { status, flag, details, body, grpc: None, transport_failure: None }
    }

    /// No rule is for the request.
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, Some(Flag::NoRoute), "route_not_found", "")
    }

    /// A VirtualService names a destination that is not there.
    pub fn no_cluster() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, Some(Flag::NoCluster), "cluster_not_found", "")
    }

    /// A Gateway API route has nobody to go to.
    pub fn no_backend() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, Some(Flag::NoCluster), "cluster_not_found", "")
    }

    /// No endpoint is ready.
    pub fn no_healthy_upstream() -> Self {
        let (status, flag) = (StatusCode::SERVICE_UNAVAILABLE, Flag::NoHealthyUpstream);
        Self::new(status, Some(flag), "no_healthy_upstream", "no healthy upstream")
    }

    /// A DestinationRule asks for what is not built.
    pub fn unmet(field: &'static str) -> Self {
        Self::not_called(&format!("trafficPolicy.{field} of the DestinationRule is not built"))
    }

    /// Nobody is called, for this reason: it cannot be done as it must be.
    pub fn not_called(why: &str) -> Self {
        let (status, flag) = (StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamConnectionFailure);
        let reply = Self::new(
            status,
            Some(flag),
            "unmet_traffic_policy",
            "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        );
        Self { transport_failure: Some(why.to_owned()), ..reply }
    }

    /// It took too long.
    pub fn timeout() -> Self {
        let (status, flag) = (StatusCode::GATEWAY_TIMEOUT, Flag::UpstreamRequestTimeout);
        let words = ("response_timeout", "upstream request timeout");
        let grpc = Some(grpc::DEADLINE_EXCEEDED);
        Self { grpc, ..Self::new(status, Some(flag), words.0, words.1) }
    }

    /// One try, the whole request or its client took too long.
    pub fn late(late: Late) -> Self {
        match late {
            Late::Request => Self::timeout(),
            Late::Try => Self { details: "upstream_per_try_timeout".into(), ..Self::timeout() },
            Late::Client => Self::stalled(),
        }
    }

    /// The client began a request and does not go on with it.
    pub fn stalled() -> Self {
        let (status, flag) = (StatusCode::REQUEST_TIMEOUT, Flag::StreamIdleTimeout);
        Self::new(status, Some(flag), "stream_idle_timeout", "stream timeout")
    }

    /// The client does not keep to HTTP.
    pub fn bad_request(details: &'static str) -> Self {
        let flag = Some(Flag::DownstreamProtocolError);
        Self::new(StatusCode::BAD_REQUEST, flag, details, "Bad Request")
    }

    /// The client's head is too long.
    pub fn too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, Some(Flag::DownstreamProtocolError), "http1.headers_too_large", "")
    }

    /// An upgrade that nobody allowed.
    pub fn no_upgrade() -> Self {
        Self::new(StatusCode::FORBIDDEN, None, UPGRADE_FAILED, "")
    }

    /// A policy, or that there is none that allows it (`none`), keeps it out.
    pub fn denied(policy: &str) -> Self {
        let reply = Self::new(StatusCode::FORBIDDEN, None, "", "RBAC: access denied");
        let details = format!("rbac_access_denied_matched_policy[{policy}]");
        Self { details: details.into(), ..reply }
    }

    /// What an attempt that failed comes to when it is the last one.
    pub fn failed(failure: &Failure) -> Self {
        let status = match failure {
            Failure::Protocol => StatusCode::BAD_GATEWAY,
            Failure::Request => StatusCode::BAD_REQUEST,
            Failure::Unmet(why) => return Self::not_called(why),
            Failure::Absent(_)
            | Failure::Tls(_)
            | Failure::Connect(_)
            | Failure::ConnectTimeout
            | Failure::Denied
            | Failure::Terminated
            | Failure::Reset
            | Failure::Refused
            | Failure::Overflow => StatusCode::SERVICE_UNAVAILABLE,
        };
        let text = failure.text();
        let transport_failure = failure.is_connect() || *failure == Failure::Denied;
        Self {
            status,
            flag: Some(failure.flag()),
            details: format!("upstream_reset_before_response_started{{{}}}", failure.reason())
                .into(),
            body: format!("{BEFORE_HEAD}reset reason: {text}").into(),
            grpc: None,
            transport_failure: transport_failure.then(|| failure.to_string()),
        }
    }

    /// The same after other tries.
    pub fn retried(self) -> Self {
        let Some(reason) = self.body.strip_prefix(BEFORE_HEAD) else { return self };
        Self { body: format!("{BEFORE_HEAD}retried and the latest {reason}").into(), ..self }
    }

    /// What an attempt without a response comes to when it is the last one.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Failed { failure, .. } | Outcome::Cut(failure) => Self::failed(failure),
            Outcome::Late(late) => Self::late(*late),
            // There is a response, or a connection.
            Outcome::Answered(_) | Outcome::Opened => Self::failed(&Failure::Terminated),
        }
    }

    /// Whether a connection of HTTP/1 ends with it: what its client meant may be something else than
    /// what was read, or is not all there.
    pub fn is_last(&self) -> bool {
        matches!(self.flag, Some(Flag::DownstreamProtocolError | Flag::StreamIdleTimeout))
            || self.details == UPGRADE_FAILED
    }

    /// Whether the client may take it for a sign of too much load (`x-envoy-overloaded`).
    pub fn is_overload(&self) -> bool {
        self.flag == Some(Flag::UpstreamOverflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_joined_in_one_order() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        flags.add(Flag::DelayInjected);
        assert!(!flags.say_why() && !flags.is_empty());
        flags.add(Flag::UpstreamRequestTimeout);
        assert_eq!(flags.to_string(), "UT,DI");
        for (number, flag) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, number);
        }
    }

    #[test]
    fn failures_are_told_in_envoys_words() {
        let before = "upstream connect error or disconnect/reset before headers. reset reason: ";
        for (failure, status, flag, details, reason) in [
            (Failure::Terminated, 503, "UC", "connection_termination", "connection termination"),
            (Failure::Reset, 503, "UR", "remote_reset", "remote reset"),
            (Failure::Protocol, 502, "UPE", "protocol_error", "protocol error"),
            (Failure::Overflow, 503, "UO", "overflow", "overflow"),
            (Failure::ConnectTimeout, 503, "UF", "connection_timeout", "connection timeout"),
        ] {
            let reply = LocalReply::failed(&failure);
            assert_eq!(reply.status.as_u16(), status);
            assert_eq!(reply.flag.map(Flag::as_str), Some(flag));
            let expected = format!("upstream_reset_before_response_started{{{details}}}");
            assert_eq!(reply.details, expected);
            assert_eq!(reply.body, format!("{before}{reason}"));
            let again = format!("retried and the latest reset reason: {reason}");
            assert!(reply.retried().body.ends_with(&again));
            assert_eq!(LocalReply::timeout().retried(), LocalReply::timeout());
        }
    }
}
