//! Pure: latencies → percentiles, and when requests are due at a fixed rate.
//! Never: a clock.
use std::time::Duration;

/// The value below or at which this share of all is (nearest rank); 0 of nothing. `sorted` is in
/// ascending order.
pub(super) fn percentile(sorted: &[u32], share: f64) -> u32 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied().unwrap_or(0)
}

/// When request `number` (from 0) is due after the beginning, at `rate` requests a second. Counted from
/// the beginning each time, so that nothing adds up.
pub(super) fn due(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (values, share, expected) in [
            (&hundred[..], 0.5, 50),
            (&hundred, 0.99, 99),
            (&hundred, 1.0, 100),
            (&hundred, 0.0, 1),
            (&[7], 0.99, 7),
            (&[1, 9], 0.5, 1),
            (&[1, 9], 0.99, 9),
            (&[], 0.5, 0),
        ] {
            assert_eq!(percentile(values, share), expected, "{share}");
        }
    }

    #[test]
    fn what_waits_behind_a_slow_answer_is_late_since_it_was_due() {
        // Ten a second over one connection; the first answer takes 0.35 s, the others nothing.
        let mut free = Duration::ZERO;
        let latency = |number: u64| {
            let due = due(number, 10.0);
            let sent = due.max(free);
            free = sent + Duration::from_millis(if number == 0 { 350 } else { 0 });
            (free - due).as_millis()
        };
        let latencies: Vec<_> = (0..5).map(latency).collect();
        assert_eq!(latencies, [350, 250, 150, 50, 0]);
    }
}
