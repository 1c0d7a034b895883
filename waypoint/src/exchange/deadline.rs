//! Pure: how long a request may take.
//! Never: reads the clock.
use std::time::Duration;

use http::HeaderMap;

use super::headers::TIMEOUT;
use crate::grpc;

/// What a client says of the time that its request has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    /// In place of what the rule says; zero for ever.
    asked: Option<Duration>,
    /// The deadline of a gRPC call.
    call: Option<Duration>,
}

impl Limit {
    /// Reads it out of a request's headers.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let asked = text(TIMEOUT).and_then(|text| text.parse().ok()).map(Duration::from_millis);
        let call = text(grpc::TIMEOUT).filter(|_| grpc::is_grpc(headers)).and_then(grpc::timeout);
        Self { asked, call }
    }

    /// The time that all tries of the request have together, from its end: what the client says, else
    /// the rule; and a gRPC call no more than its own deadline. `None` for ever.
    pub(super) fn with(self, rule: Option<Duration>) -> Option<Duration> {
        let own = self.asked.or(rule).filter(|time| !time.is_zero());
        match (own, self.call) {
            (Some(own), Some(call)) => Some(own.min(call)),
            (own, call) => own.or(call),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_comes_before_the_rule_and_a_call_has_its_own() {
        let seconds = Duration::from_secs;
        for (rule, asked, call, expected) in [
            (None, "", "", None),
            (Some(3), "", "", Some(seconds(3))),
            (Some(3), "100", "", Some(Duration::from_millis(100))),
            (Some(3), "9000", "", Some(seconds(9))),
            (Some(3), "0", "", None),
            (Some(3), "x", "", Some(seconds(3))),
            (Some(3), "", "1S", Some(seconds(1))),
            (Some(3), "", "9S", Some(seconds(3))),
            (None, "", "9S", Some(seconds(9))),
            (None, "", "9", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            for (name, value) in [(TIMEOUT, asked), (grpc::TIMEOUT, call)] {
                if !value.is_empty() {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            let timeout = Limit::read(&headers).with(rule.map(seconds));
            assert_eq!(timeout, expected, "{asked} {call}");
        }
    }
}
