//! Pure: durations as Istio and the Gateway API write them (Go's `time.ParseDuration`): `1.5s`, `1h30m`.
//! Never: rounds.
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A duration in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) Duration);

impl Time {
    /// Istio's rule for durations (`ValidateDuration`).
    pub(crate) fn check(self) -> Result<(), String> {
        if self.0 < Duration::from_millis(1) {
            Err("duration must be greater than 1ms".into())
        } else if !self.0.subsec_nanos().is_multiple_of(1_000_000) {
            Err("only durations to ms precision are supported".into())
        } else {
            Ok(())
        }
    }

    /// The duration, unless it is zero.
    pub(crate) fn nonzero(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = parse(&text).map(Time);
        time.ok_or_else(|| D::Error::custom(format!("time: invalid duration {text:?}")))
    }
}

/// Units and their nanoseconds; the longer names first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Digits that are kept of a fraction: more are below a nanosecond of the largest unit.
const FRACTION: usize = 13;

fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0_u64;
    loop {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, tail) = rest.split_at_checked(number)?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (unit, nanos) = UNITS.into_iter().find(|(unit, _)| tail.starts_with(unit))?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = fraction.get(..FRACTION).unwrap_or(fraction);
        let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = u64::try_from(part * u128::from(nanos) / scale).ok()?;
        total = total.checked_add(whole.checked_mul(nanos)?.checked_add(part)?)?;
        rest = tail.strip_prefix(unit)?;
        if rest.is_empty() {
            return Some(Duration::from_nanos(total));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("3s", Some(3_000)),
            ("100ms", Some(100)),
            ("1.5s", Some(1_500)),
            (".5s", Some(500)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("+2s", Some(2_000)),
            ("3", None),
            ("-3s", None),
            ("", None),
            ("s", None),
            ("1.2.3s", None),
            ("3 s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse(text), expected.map(Duration::from_millis), "{text}");
        }
        assert_eq!(parse("1us"), Some(Duration::from_micros(1)));
        assert!(Time(Duration::from_micros(1_500)).check().is_err());
        assert!(Time(Duration::ZERO).check().is_err());
        assert!(Time(Duration::from_millis(1)).check().is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9.+a-zµ]{0,40}") {
            let _ = parse(&text);
        }
    }
}
