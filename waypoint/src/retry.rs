//! Pure: whether another try follows one, and when: the rule, and what the client asks for
//! (`envoy:source/common/router/retry_state_impl.cc`).
//! Never: the trying, the clock; which endpoint is next (see `balance`).
use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, HeaderName, StatusCode};

use crate::{
    outcome::{Answered, Failure, Late, Outcome},
    routing::retry::{Retry, RetryOn},
};

#[cfg(test)]
mod tests;

/// What clients of the mesh may ask for (Envoy's router filter).
const RETRY_ON: &str = "x-envoy-retry-on";
const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const STATUS_CODES: &str = "x-envoy-retriable-status-codes";
const HEADER_NAMES: &str = "x-envoy-retriable-header-names";

/// The most tries that a client may ask for after the first.
const MOST_ASKED: u32 = 100;
/// The most statuses and header names that are read of a client's headers.
const MOST_NAMED: usize = 32;
/// The longest pause, in bases.
const LONGEST_PAUSE: u32 = 10;

/// What operators want beyond what rules and Istio's default say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// What could not be sent because nobody listens is tried again whatever the rule says; as often as
    /// by Istio's default, when the rule allows no tries.
    pub no_listener: bool,
    /// Istio's default repeats 503, too (its `EXCLUDE_UNSAFE_503_FROM_DEFAULT_RETRY=false`).
    pub default_503: bool,
}

/// The tries of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    on: BTreeSet<RetryOn>,
    codes: Vec<StatusCode>,
    names: Vec<HeaderName>,
    base: Duration,
    no_listener: bool,
    left: u32,
    done: u32,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is what the client gets.
    Pass,
    /// Another try was due, but there were as many as there may be (flag URX).
    Exhausted,
    /// Another try.
    Again,
}

impl Plan {
    /// The plan of a request with these headers: a client may add conditions, and set the number of
    /// tries; one more when the rule has none.
    pub fn of(rule: &Retry, headers: &HeaderMap, beyond: Beyond) -> Self {
        let mut on = if rule.attempts == 0 { BTreeSet::new() } else { rule.on.clone() };
        let is_default = rule.codes.is_empty() && on == Retry::default().on;
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let added = (is_default && beyond.default_503).then_some(unavailable);
        let asked = list(headers, RETRY_ON).chain(list(headers, RETRY_GRPC_ON));
        on.extend(asked.filter_map(|word| word.parse::<RetryOn>().ok()));
        let left = match rule.attempts {
            0 if !on.is_empty() => 1,
            0 if beyond.no_listener => Retry::default().attempts,
            attempts => attempts,
        };
        let repeats = !on.is_empty() || beyond.no_listener;
        let most = list(headers, MAX_RETRIES).next().and_then(|text| text.parse::<u32>().ok());
        let codes = list(headers, STATUS_CODES).filter_map(|code| code.parse().ok());
        Self {
            left: most.filter(|_| repeats).map_or(left, |most| most.min(MOST_ASKED)),
            on,
            codes: rule.codes.iter().copied().chain(added).chain(codes).collect(),
            names: list(headers, HEADER_NAMES).filter_map(|name| name.parse().ok()).collect(),
            base: rule.backoff,
            no_listener: beyond.no_listener,
            done: 0,
        }
    }

    /// Whether another try may follow at all.
    pub fn may_repeat(&self) -> bool {
        self.left > 0 && (!self.on.is_empty() || self.no_listener)
    }

    /// Whether there was another try already.
    pub fn has_repeated(&self) -> bool {
        self.done > 0
    }

    /// The headers of responses by which the client asks for another try.
    pub fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// What follows an attempt that came to this.
    pub fn next(&self, outcome: &Outcome) -> Next {
        let due = match outcome {
            Outcome::Answered(answered) => self.on_answer(answered),
            Outcome::Failed { failure, unsent } => self.on_failure(failure, *unsent),
            Outcome::Late(Late::Try) => self.on_silence(),
            Outcome::Late(Late::Request | Late::Client) | Outcome::Cut(_) | Outcome::Opened => {
                false
            }
        };
        match (due, self.left) {
            (false, _) => Next::Pass,
            // Who asked for none is not told that they were used up.
            (true, 0) if self.done == 0 => Next::Pass,
            (true, 0) => Next::Exhausted,
            (true, _) => Next::Again,
        }
    }

    /// One try begins; how long it waits, for a number that is drawn from all `u32` alike: anything
    /// below (2^N − 1) bases for the Nth, and below ten.
    pub fn begin(&mut self, drawn: u32) -> Duration {
        self.left = self.left.saturating_sub(1);
        self.done = self.done.saturating_add(1);
        let bases = 2_u32.saturating_pow(self.done).saturating_sub(1).min(LONGEST_PAUSE);
        let most = u64::try_from((self.base * bases).as_micros()).unwrap_or(u64::MAX);
        let part = (u128::from(most) * u128::from(drawn)) >> u32::BITS;
        Duration::from_micros(u64::try_from(part).unwrap_or(most))
    }

    fn has(&self, on: RetryOn) -> bool {
        self.on.contains(&on)
    }

    fn on_answer(&self, answered: &Answered) -> bool {
        if answered.rate_limited {
            return self.has(RetryOn::RateLimited);
        }
        let Answered { status, grpc, named, .. } = answered;
        self.has(RetryOn::ServerError) && status.is_server_error()
            || self.has(RetryOn::GatewayError) && matches!(status.as_u16(), 502..=504)
            || self.has(RetryOn::Conflict) && *status == StatusCode::CONFLICT
            || self.has(RetryOn::StatusCodes) && self.codes.contains(status)
            || self.has(RetryOn::Headers) && *named
            || grpc.and_then(of_grpc).is_some_and(|on| self.has(on))
    }

    fn on_failure(&self, failure: &Failure, unsent: bool) -> bool {
        match failure {
            // What the waypoint itself or the client broke, and what another try cannot help.
            Failure::Unmet(_) | Failure::Overflow | Failure::Request | Failure::Denied => {
                return false;
            }
            Failure::Refused if self.has(RetryOn::RefusedStream) => return true,
            Failure::Absent(_) if unsent && self.no_listener => return true,
            Failure::Absent(_)
            | Failure::Tls(_)
            | Failure::Connect(_)
            | Failure::ConnectTimeout
            | Failure::Terminated
            | Failure::Reset
            | Failure::Refused
            | Failure::Protocol => {}
        }
        self.on_silence()
            || failure.is_connect() && self.has(RetryOn::ConnectFailure)
            || unsent && self.has(RetryOn::ResetBeforeRequest)
    }

    /// No response at all, for whatever reason.
    fn on_silence(&self) -> bool {
        [RetryOn::ServerError, RetryOn::GatewayError, RetryOn::Reset].iter().any(|on| self.has(*on))
    }
}

fn of_grpc(status: u16) -> Option<RetryOn> {
    match status {
        1 => Some(RetryOn::Cancelled),
        4 => Some(RetryOn::DeadlineExceeded),
        8 => Some(RetryOn::ResourceExhausted),
        13 => Some(RetryOn::Internal),
        14 => Some(RetryOn::Unavailable),
        _ => None,
    }
}

/// The words of a header that has a list.
fn list<'h>(headers: &'h HeaderMap, name: &'static str) -> impl Iterator<Item = &'h str> {
    let all = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|text| text.split(',')).map(str::trim).take(MOST_NAMED)
}
