//! Pure: how long a request may take: the rule, and what the client asks for.
//! Never: the clock; websockets and streams, which whoever forwards exempts.
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{edit::Changes, model::Forward, request::RequestHead};

const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What clients tell the waypoint with headers that the upstream does not get (Envoy's router filter).
const FOR_US: [HeaderName; 8] = [
    REQUEST_TIMEOUT,
    PER_TRY_TIMEOUT,
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// How long a request may take, from its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// All tries together; `None` for ever.
    pub request: Option<Duration>,
    /// One try, always shorter than all; `None` for as long as all.
    pub per_try: Option<Duration>,
}

impl Timeouts {
    /// Those of a request: the rule's, which for gRPC only bounds what the client asks for
    /// (`grpc-timeout`), unless the client asks for another (`x-envoy-upstream-rq-timeout-ms`); 0 is
    /// none.
    pub fn of(forward: &Forward, head: &RequestHead<'_>) -> Self {
        let some = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        let grpc = head.headers.get(GRPC_TIMEOUT).filter(|_| head.is_grpc());
        let request = match (some(forward.timeout), some(grpc.and_then(grpc_timeout))) {
            (Some(rule), Some(asked)) => Some(rule.min(asked)),
            (rule, asked) => rule.or(asked),
        };
        let asked = |name, rule| milliseconds(head.headers, name).map_or(rule, Some);
        let request = some(asked(REQUEST_TIMEOUT, request));
        let per_try = some(asked(PER_TRY_TIMEOUT, forward.retry.per_try_timeout));
        let shorter = |per_try: &Duration| request.is_none_or(|request| *per_try < request);
        Self { request, per_try: per_try.filter(shorter) }
    }

    /// Tells a try that begins so late what time it has; at least a millisecond, because 0 is none.
    pub fn tell_rest(self, spent: Duration, headers: &mut HeaderMap) {
        let Some(all) = self.request.filter(|_| headers.contains_key(EXPECTED_TIMEOUT)) else {
            return;
        };
        let rest = all.saturating_sub(spent).max(Duration::from_millis(1));
        let expected = self.per_try.map_or(rest, |per_try| per_try.min(rest));
        let milliseconds = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPECTED_TIMEOUT, milliseconds.into());
        if headers.contains_key(GRPC_TIMEOUT) {
            headers.insert(GRPC_TIMEOUT, grpc_value(milliseconds));
        }
    }

    /// Appends what the upstream is told about these, and removes what was meant for the waypoint.
    pub(super) fn plan(self, head: &RequestHead<'_>, changes: &mut Changes) {
        let names = head.headers.keys().filter(|name| name.as_str().starts_with("x-envoy-"));
        names.filter(|name| FOR_US.contains(name)).for_each(|name| changes.remove(name.clone()));
        let Some(expected) = self.per_try.or(self.request) else { return };
        let milliseconds = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        changes.set(EXPECTED_TIMEOUT, milliseconds.into());
        if head.is_grpc() {
            changes.set(GRPC_TIMEOUT, grpc_value(milliseconds));
        }
    }
}

fn milliseconds(headers: &HeaderMap, name: HeaderName) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

/// Reads `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Requests").
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (unit, digits) = (text.chars().next_back()?, text.get(..text.len().saturating_sub(1))?);
    let digit = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8 && digit(digits))?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes `grpc-timeout`, in seconds when there are too many milliseconds for eight digits.
fn grpc_value(milliseconds: u64) -> HeaderValue {
    let (number, unit) = match milliseconds {
        0..=99_999_999 => (milliseconds, 'm'),
        _ => ((milliseconds / 1000).min(99_999_999), 'S'),
    };
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_tries_are_told_what_is_left() {
        let (ms, name) = (Duration::from_millis, "x-envoy-expected-rq-timeout-ms");
        for (request, per_try, spent, told) in [
            (Some(2000), None, 600, "1400"),
            (Some(2000), Some(500), 600, "500"),
            (Some(2000), Some(500), 1700, "300"),
            (Some(2000), Some(500), 5000, "1"),
            (None, Some(500), 5000, "9"),
        ] {
            let timeouts = Timeouts { request: request.map(ms), per_try: per_try.map(ms) };
            let mut headers = HeaderMap::from_iter([(EXPECTED_TIMEOUT, 9_u16.into())]);
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("9m"));
            timeouts.tell_rest(ms(spent), &mut headers);
            assert_eq!(headers[name], told);
            assert_eq!(headers[GRPC_TIMEOUT], format!("{told}m"));
            // What a rule took out stays out.
            let mut none = HeaderMap::new();
            timeouts.tell_rest(ms(spent), &mut none);
            assert!(none.is_empty());
        }
    }
}
