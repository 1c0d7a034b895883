//! Pure: when a certificate is renewed, and how long to wait after a failure.
//! Never: sleeps.
use std::time::{Duration, SystemTime};

/// First pause after a failed renewal.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long to wait before a certificate is renewed that was issued just now: until `part` of its
/// life is over, give or take 5 % of that, so that the certificates of a node do not all come due
/// at once. `random` is uniform in 0..=`u64::MAX`.
pub fn renew_after(issued: SystemTime, not_after: SystemTime, part: f64, random: u64) -> Duration {
    let life = not_after.duration_since(issued).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a jitter needs no precision")]
    let jitter = 0.95 + 0.1 * (random as f64 / u64::MAX as f64);
    life.mul_f64(part * jitter)
}

/// How long to wait after the `failures`th failure in a row (from 1): doubling, with full jitter in
/// its upper half.
pub fn back_off(failures: u32, random: u64) -> Duration {
    let doubled = FIRST_PAUSE
        .saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let pause = doubled.min(LONGEST_PAUSE);
    #[expect(clippy::cast_precision_loss, reason = "a jitter needs no precision")]
    let jitter = 0.5 + 0.5 * (random as f64 / u64::MAX as f64);
    pause.mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn renewal_is_due_around_half_of_the_life() {
        let start = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        let wait = |life, part, random| renew_after(start, start + life, part, random);
        assert_eq!(wait(24 * HOUR, 0.5, 0), HOUR.mul_f64(11.4));
        assert_eq!(wait(24 * HOUR, 0.5, u64::MAX), HOUR.mul_f64(12.6));
        assert!(wait(24 * HOUR, 0.9, u64::MAX) < 24 * HOUR);
        assert!(wait(Duration::from_secs(2), 0.5, 0) > Duration::from_millis(900));
        assert_eq!(wait(Duration::ZERO, 0.5, 0), Duration::ZERO);
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!(back_off(1, u64::MAX), FIRST_PAUSE);
        assert_eq!(back_off(2, 0), FIRST_PAUSE);
        assert_eq!(back_off(40, u64::MAX), LONGEST_PAUSE);
        assert_eq!(back_off(u32::MAX, 0), LONGEST_PAUSE / 2);
    }
}
