//! Shell: which targets were served a moment ago. Agents and waypoints hear of a change at different
//! moments: what an agent still sends here after a label was taken away is served to its end.
//! Never: grows with what peers ask for: only what was served is noted.
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// For how long a target is served after it was detached.
const GRACE: Duration = Duration::from_secs(10);
/// Targets that are noted, at most.
const MOST: usize = 1 << 16;

/// When each target was served last.
#[derive(Debug, Default)]
pub struct Lately(Mutex<HashMap<SocketAddr, Instant>>);

impl Lately {
    /// It is served now.
    pub(super) fn note(&self, dialled: SocketAddr, now: Instant) {
        let mut served = self.lock();
        if served.len() >= MOST && !served.contains_key(&dialled) {
            served.retain(|_, at| now.saturating_duration_since(*at) < GRACE);
        }
        if served.len() < MOST || served.contains_key(&dialled) {
            served.insert(dialled, now);
        }
    }

    /// Whether it was, a moment ago.
    pub(super) fn has(&self, dialled: SocketAddr, now: Instant) -> bool {
        let at = self.lock().get(&dialled).copied();
        at.is_some_and(|at| now.saturating_duration_since(at) < GRACE)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_served_is_known_for_a_moment() {
        let (lately, start) = (Lately::default(), culvert_agent::clock::now());
        let cart = SocketAddr::from(([10, 96, 0, 1], 80));
        assert!(!lately.has(cart, start));
        lately.note(cart, start);
        assert!(lately.has(cart, start + GRACE / 2));
        assert!(!lately.has(cart, start + GRACE));
    }
}
