//! Shell: the only reader of the clock.
//! Never: imported by Pure files, which take the time as a parameter.
use std::time::{Instant, SystemTime};

/// The monotonic clock, for durations and deadlines.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The kernel's monotonic clock as its programs read it, nanoseconds; never goes backwards.
pub fn kernel() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    // The clock is always there.
    now.ok()
        .and_then(|now| u64::try_from(std::time::Duration::from(now).as_nanos()).ok())
        .unwrap_or(0)
}

/// The calendar clock, for certificates.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
