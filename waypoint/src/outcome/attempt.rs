//! Pure: what one attempt at one endpoint came to; retries, balancing and outlier detection know
//! nothing else of it.
//! Never: decides what follows from it.
use http::{HeaderMap, HeaderName, StatusCode};

use super::Failure;
use crate::grpc;

/// An upstream proxy says that it limited the rate (Envoy's router filter).
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a connection, for bytes that nobody looks at.
    Opened,
    /// The head of a response came.
    Answered(Answered),
    /// No response came.
    Failed {
        /// Why.
        failure: Failure,
        /// Nothing of the request was sent.
        unsent: bool,
    },
    /// No response came in time.
    Late(Late),
    /// The response broke off after its head.
    Cut(Failure),
}

/// Whose time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// That of one try (`perTryTimeout`).
    Try,
    /// That of the whole request (`timeout`).
    Request,
    /// The client did not go on with its request.
    Client,
}

/// The head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// gRPC's, when it stands there: a call that ended before it began. What stands in trailers comes
    /// after everything else, when nothing can follow from it any more.
    pub grpc: Option<u16>,
    /// A proxy on the way limited the rate.
    pub rate_limited: bool,
    /// It has one of the headers by which the client asks for another try.
    pub named: bool,
}

impl Answered {
    /// What a head says; `names` are the headers by which the client asks for another try.
    pub fn read(status: StatusCode, headers: &HeaderMap, names: &[HeaderName]) -> Self {
        let of_grpc = headers.get(grpc::STATUS).and_then(|value| value.to_str().ok());
        Self {
            status,
            grpc: of_grpc.and_then(|text| text.parse().ok()),
            rate_limited: headers.contains_key(RATE_LIMITED),
            named: names.iter().any(|name| headers.contains_key(name)),
        }
    }
}

impl Outcome {
    /// A failure before anything was sent.
    pub fn unsent(failure: Failure) -> Self {
        Self::Failed { failure, unsent: true }
    }
}

impl Failure {
    /// Whether there was no connection to send a request on.
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Tls(_) | Self::Connect(_) | Self::ConnectTimeout => true,
            Self::Unmet(_)
            | Self::Denied
            | Self::Terminated
            | Self::Reset
            | Self::Refused
            | Self::Protocol
            | Self::Overflow
            | Self::Request => false,
        }
    }
}
