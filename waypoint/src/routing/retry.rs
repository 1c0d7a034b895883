//! Pure: when a failed try is followed by another (`retries`).
//! Never: the trying.
use std::{collections::BTreeSet, str::FromStr, time::Duration};

use http::StatusCode;

/// The rule for retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many tries may follow the first; 0 for none.
    pub attempts: u32,
    /// How long one try may take; `None` for as long as the request may.
    pub per_try_timeout: Option<Duration>,
    /// Which failures are tried again.
    pub on: BTreeSet<RetryOn>,
    /// Which statuses are tried again, with [`RetryOn::StatusCodes`].
    pub codes: Vec<StatusCode>,
    /// Whether later tries go to other localities (`retryRemoteLocalities`).
    pub remote_localities: bool,
    /// Whether later tries go to other endpoints (`retryIgnorePreviousHosts`).
    pub ignore_previous_hosts: bool,
    /// The base of the pause before a try; no pause is longer than ten times that.
    pub backoff: Duration,
}

impl Retry {
    /// Istio's default base of the pause before another try.
    pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

    /// No retries.
    pub fn none() -> Self {
        Self { attempts: 0, ..Self::default() }
    }
}

/// Istio's default (`pilot/pkg/networking/core/route/retry`): two, after failures that cannot have done
/// anything.
impl Default for Retry {
    fn default() -> Self {
        let on = [
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::Unavailable,
            RetryOn::Cancelled,
            RetryOn::StatusCodes,
        ];
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: on.into(),
            codes: Vec::new(),
            remote_localities: false,
            ignore_previous_hosts: true,
            backoff: Self::DEFAULT_BACKOFF,
        }
    }
}

/// A kind of failure (Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RetryOn {
    /// A status of 500 and above, or no response.
    ServerError,
    /// 502, 503 or 504, or no response.
    GatewayError,
    /// No response at all.
    Reset,
    /// No response, and no byte of the request was sent.
    ResetBeforeRequest,
    /// No connection.
    ConnectFailure,
    /// HTTP/2's REFUSED_STREAM.
    RefusedStream,
    /// 409.
    Conflict,
    /// The statuses of the rule.
    StatusCodes,
    /// Responses with the headers that the request names.
    Headers,
    /// Responses with `x-envoy-ratelimited`.
    RateLimited,
    /// HTTP/3, which is never spoken here.
    Http3ConnectFailure,
    /// gRPC status 1 in the head of the response.
    Cancelled,
    /// gRPC status 4 in the head of the response.
    DeadlineExceeded,
    /// gRPC status 13 in the head of the response.
    Internal,
    /// gRPC status 8 in the head of the response.
    ResourceExhausted,
    /// gRPC status 14 in the head of the response.
    Unavailable,
}

/// The word is none of Envoy's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no condition for a retry has this name")]
pub struct UnknownRetryOn;

impl FromStr for RetryOn {
    type Err = UnknownRetryOn;

    fn from_str(word: &str) -> Result<Self, UnknownRetryOn> {
        Ok(match word {
            "5xx" => Self::ServerError,
            "gateway-error" => Self::GatewayError,
            "reset" => Self::Reset,
            "reset-before-request" => Self::ResetBeforeRequest,
            "connect-failure" => Self::ConnectFailure,
            "refused-stream" => Self::RefusedStream,
            "retriable-4xx" => Self::Conflict,
            "retriable-status-codes" => Self::StatusCodes,
            "retriable-headers" => Self::Headers,
            "envoy-ratelimited" => Self::RateLimited,
            "http3-post-connect-failure" => Self::Http3ConnectFailure,
            "cancelled" => Self::Cancelled,
            "deadline-exceeded" => Self::DeadlineExceeded,
            "internal" => Self::Internal,
            "resource-exhausted" => Self::ResourceExhausted,
            "unavailable" => Self::Unavailable,
            _ => return Err(UnknownRetryOn),
        })
    }
}
