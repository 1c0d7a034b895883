//! Shell: which targets were served a moment ago. Agents and waypoints hear of a change at different
//! moments: what an agent still sends here after a label was taken away is served to its end.
//! Never: grows with what peers ask for: only what was served is noted.
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// For how long a target is served after it was detached.
const GRACE: Duration = Duration::from_secs(10);
/// Targets that are noted, at most.
const MOST: usize = 1 << 16;

/// When each target was served last, and under which name: an address may be somebody else's by now.
#[derive(Debug, Default)]
pub struct Lately(Mutex<HashMap<SocketAddr, (Instant, Arc<str>)>>);

impl Lately {
    /// It is served now; the name is its service's host, or its workload's.
    pub(super) fn note(&self, (dialled, name): (SocketAddr, &Arc<str>), now: Instant) {
        let mut served = self.lock();
        if served.len() >= MOST && !served.contains_key(&dialled) {
            served.retain(|_, (at, _)| now.saturating_duration_since(*at) < GRACE);
        }
        if served.len() < MOST || served.contains_key(&dialled) {
            served.insert(dialled, (now, name.clone()));
        }
    }

    /// Whether it was, under this name, a moment ago.
    pub(super) fn has(&self, (dialled, name): (SocketAddr, &str), now: Instant) -> bool {
        let served = self.lock();
        let same = served.get(&dialled).filter(|(_, served)| **served == *name);
        same.is_some_and(|(at, _)| now.saturating_duration_since(*at) < GRACE)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, (Instant, Arc<str>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_served_is_known_for_a_moment() {
        let (lately, start) = (Lately::default(), culvert_agent::clock::now());
        let (cart, at) = (Arc::from("cart"), SocketAddr::from(([10, 96, 0, 1], 80)));
        assert!(!lately.has((at, "cart"), start));
        lately.note((at, &cart), start);
        assert!(lately.has((at, "cart"), start + GRACE / 2));
        assert!(!lately.has((at, "cart"), start + GRACE));
        assert!(!lately.has((at, "other"), start), "the address is another's now");
    }
}
