//! Pure: failures on purpose (`fault`), and shares of requests.
//! Never: dice; numbers are handed in.
use std::time::Duration;

use http::StatusCode;

/// Failures on purpose; the delay comes first, and each is drawn for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// A pause before the request goes on.
    pub delay: Option<Delay>,
    /// An answer instead of the request.
    pub abort: Option<Abort>,
}

/// A pause on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// For how many requests.
    pub share: Percentage,
    /// How long.
    pub length: Duration,
}

/// A failure on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// For how many requests.
    pub share: Percentage,
    /// What the client sees.
    pub status: AbortStatus,
}

/// What the client of an aborted request sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// This status (`httpStatus`).
    Http(StatusCode),
    /// This status of gRPC (`grpcStatus`), for others the HTTP status that goes with it.
    Grpc(GrpcStatus),
}

/// A status of gRPC (<https://grpc.io/docs/guides/status-codes/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrpcStatus(u8);

/// The names of gRPC's statuses, in order of their codes.
const GRPC_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl GrpcStatus {
    /// The status with this name, in any case; `None` when there is none.
    pub fn named(name: &str) -> Option<Self> {
        let code = (0..).zip(GRPC_NAMES).find(|(_, other)| other.eq_ignore_ascii_case(name))?.0;
        Some(Self(code))
    }

    /// Its number.
    pub fn code(self) -> u8 {
        self.0
    }
}

/// A share of all requests, in steps of 0.0001 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentage(u32);

impl Percentage {
    /// All requests.
    pub const ALL: Self = Self(Self::STEPS);
    const STEPS: u32 = 1_000_000;

    /// A share in percent, rounded to the nearest step; `None` below 0 and above 100.
    pub fn of_percent(percent: f64) -> Option<Self> {
        let steps = (percent * f64::from(Self::STEPS / 100)).round();
        // The range is checked, so that the cast loses nothing.
        (0.0..=f64::from(Self::STEPS)).contains(&steps).then(|| Self(steps as u32))
    }

    /// A share as a fraction (Gateway API `fraction`); `None` above one and for nothing of nothing.
    pub fn of_fraction(numerator: u32, denominator: u32) -> Option<Self> {
        let steps =
            (u64::from(numerator) * u64::from(Self::STEPS)).checked_div(denominator.into())?;
        (steps <= Self::STEPS.into()).then_some(Self(u32::try_from(steps).ok()?))
    }

    /// Whether a request is of this share, for a number that is drawn from all `u32` alike.
    pub fn hits(self, number: u32) -> bool {
        (u64::from(number) * u64::from(Self::STEPS)) >> u32::BITS < u64::from(self.0)
    }
}
