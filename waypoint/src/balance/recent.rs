//! Pure: how many requests began lately (Envoy's retry budget with an interval).
//! Never: the clock.
use std::time::{Duration, Instant};

/// Parts of the interval; the oldest is forgotten whole.
const SLOTS: usize = 10;

/// Requests that began within an interval.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    slot: Duration,
    counts: [u32; SLOTS],
    newest: usize,
    /// When the newest slot began.
    since: Instant,
}

impl Recent {
    /// None yet.
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        // An interval of no length is none.
        let slot = (interval / SLOTS as u32).max(Duration::from_nanos(1));
        Self { slot, counts: [0; SLOTS], newest: 0, since: now }
    }

    /// Whether it counts for this interval.
    pub(super) fn is_for(&self, interval: Duration) -> bool {
        self.slot == Self::new(interval, self.since).slot
    }

    /// One begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.advance(now);
        if let Some(count) = self.counts.get_mut(self.newest) {
            *count = count.saturating_add(1);
        }
    }

    /// How many began within the interval.
    pub(super) fn count(&mut self, now: Instant) -> u32 {
        self.advance(now);
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_nanos() / self.slot.as_nanos();
        if passed >= SLOTS as u128 {
            (self.counts, self.since) = ([0; SLOTS], now);
            return;
        }
        for _ in 0..passed {
            self.newest = (self.newest + 1) % SLOTS;
            if let Some(count) = self.counts.get_mut(self.newest) {
                *count = 0;
            }
            self.since += self.slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "only differences count")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn what_began_within_the_interval_counts_and_no_more() {
        let start = start();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut recent = Recent::new(Duration::from_secs(1), start);
        (0..30).for_each(|_| recent.begin(at(0)));
        (0..20).for_each(|_| recent.begin(at(500)));
        assert_eq!(recent.count(at(999)), 50);
        assert_eq!(recent.count(at(1_000)), 20, "the first slot is forgotten");
        assert_eq!(recent.count(at(1_499)), 20);
        assert_eq!(recent.count(at(1_500)), 0);
        recent.begin(at(1_500));
        assert_eq!(recent.count(at(1_500)), 1);
        assert_eq!(recent.count(at(60_000)), 0, "after a long silence");
        assert!(recent.is_for(Duration::from_secs(1)) && !recent.is_for(Duration::from_secs(2)));
    }
}
