//! Shell: the only reader of the clock.
//! Never: imported by Pure files, which take the time as a parameter.
use std::time::{Instant, SystemTime};

/// The monotonic clock, for durations and deadlines.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The calendar clock, for certificates.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
