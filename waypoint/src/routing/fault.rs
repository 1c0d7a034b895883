//! Pure: failures on purpose (`fault`), and shares of requests.
//! Never: dice; numbers are handed in.
use std::{fmt, time::Duration};

use http::StatusCode;

/// Failures on purpose; the delay comes first, and each is drawn for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// A pause before the request goes on.
    pub delay: Option<Delay>,
    /// An answer instead of the request.
    pub abort: Option<Abort>,
}

/// What happens to one request on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Injected {
    /// How long it waits.
    pub(super) delay: Option<Duration>,
    /// How it then ends.
    pub(super) abort: Option<AbortStatus>,
}

impl Fault {
    /// What happens to one request; `draw` gives numbers that are drawn from all `u32` alike.
    pub(super) fn inject(&self, draw: &mut impl FnMut() -> u32) -> Injected {
        let delay = self.delay.as_ref().filter(|delay| delay.share.hits(draw()));
        let abort = self.abort.as_ref().filter(|abort| abort.share.hits(draw()));
        Injected { delay: delay.map(|delay| delay.length), abort: abort.map(|abort| abort.status) }
    }
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

    /// The HTTP status that clients see who do not speak gRPC (Envoy's `grpcToHttpStatus`).
    pub fn http(self) -> StatusCode {
        match self.0 {
            0 => StatusCode::OK,
            1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            3 | 9 | 11 => StatusCode::BAD_REQUEST,
            4 => StatusCode::GATEWAY_TIMEOUT,
            5 => StatusCode::NOT_FOUND,
            6 | 10 => StatusCode::CONFLICT,
            7 => StatusCode::FORBIDDEN,
            8 => StatusCode::TOO_MANY_REQUESTS,
            12 => StatusCode::NOT_IMPLEMENTED,
            14 => StatusCode::SERVICE_UNAVAILABLE,
            16 => StatusCode::UNAUTHORIZED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
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
        // The cast loses nothing within the range.
        (0.0..=f64::from(Self::STEPS)).contains(&steps).then_some(Self(steps as u32))
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

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / f64::from(Self::STEPS / 100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a million numbers, spread evenly, are of a share.
    fn hits(share: Percentage) -> usize {
        let spread = |n: u64| u32::try_from((n << u32::BITS) / 1_000_000).unwrap();
        (0..1_000_000).filter(|n| share.hits(spread(*n))).count()
    }

    #[test]
    fn shares_have_steps_of_a_ten_thousandth_percent() {
        let percent = |percent| Percentage::of_percent(percent);
        let near = |share: Percentage, expected: usize| hits(share).abs_diff(expected) <= 1;
        assert!(near(percent(0.1).unwrap(), 1000));
        assert!(near(percent(50.0).unwrap(), 500_000));
        assert!(near(Percentage::of_fraction(1, 8).unwrap(), 125_000));
        assert_eq!(percent(100.0), Some(Percentage::ALL));
        assert_eq!(percent(0.0001), Percentage::of_fraction(1, 1_000_000));
        assert!(Percentage::ALL.hits(u32::MAX) && Percentage::ALL.hits(0));
        assert!(!percent(0.0).unwrap().hits(0));
        for wrong in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(percent(wrong), None, "{wrong}");
        }
        assert_eq!(Percentage::of_fraction(2, 1), None);
        assert_eq!(Percentage::of_fraction(0, 0), None);
    }

    #[test]
    fn b61_delay_and_abort_are_drawn_each_for_itself() {
        let half = Percentage::of_percent(50.0).unwrap();
        let delay = Some(Delay { share: half, length: Duration::from_secs(5) });
        let status = AbortStatus::Http(StatusCode::from_u16(555).unwrap());
        let fault = Fault { delay, abort: Some(Abort { share: half, status }) };
        let mut numbers = [0, u32::MAX, u32::MAX, 0].into_iter();
        let mut draw = || numbers.next().unwrap();
        let delayed = Injected { delay: Some(Duration::from_secs(5)), abort: None };
        assert_eq!(fault.inject(&mut draw), delayed);
        assert_eq!(fault.inject(&mut draw), Injected { delay: None, abort: Some(status) });
    }

    #[test]
    fn names_of_grpc_are_known() {
        let unavailable = GrpcStatus::named("UNAVAILABLE").unwrap();
        assert_eq!((unavailable.code(), unavailable.http().as_u16()), (14, 503));
        assert_eq!(GrpcStatus::named("cancelled").unwrap().http().as_u16(), 499);
        assert_eq!(GrpcStatus::named("NOPE"), None);
    }
}
