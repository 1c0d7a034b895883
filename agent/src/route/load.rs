//! Shell: connections that are open to each endpoint, as far as this agent opened them.
//! Never: chooses (see `route`).
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long an endpoint that could not be reached counts as busier than any other. Else it would
/// draw connections, because none are open to it.
const AVOIDED: Duration = Duration::from_secs(5);
/// What it counts as then.
const BUSY: usize = 1 << 20;

/// Open connections by workload. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Loads(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: HashMap<Arc<str>, usize>,
    failed: HashMap<Arc<str>, Instant>,
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
pub struct Load {
    loads: Loads,
    workload: Arc<str>,
}

impl Loads {
    /// Counts a connection to `workload`.
    pub fn open(&self, workload: &Arc<str>) -> Load {
        *self.lock().open.entry(workload.clone()).or_default() += 1;
        Load { loads: self.clone(), workload: workload.clone() }
    }

    /// Notes that `workload` could not be reached.
    pub fn failed(&self, workload: &Arc<str>, now: Instant) {
        let mut state = self.lock();
        state.failed.retain(|_, at| now.saturating_duration_since(*at) < AVOIDED);
        state.failed.insert(workload.clone(), now);
    }

    /// How busy `workload` is: connections that are open to it, and more if it failed just now.
    pub fn of(&self, workload: &str, now: Instant) -> usize {
        let state = self.lock();
        let failed = state.failed.get(workload);
        let avoided = failed.is_some_and(|at| now.saturating_duration_since(*at) < AVOIDED);
        state.open.get(workload).copied().unwrap_or(0) + if avoided { BUSY } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut state = self.loads.lock();
        if let Some(count) = state.open.get_mut(&self.workload) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.workload);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn connections_count_while_they_live_and_leave_nothing() {
        let (loads, web, now) = (Loads::default(), Arc::from("web"), clock::now());
        let (first, second) = (loads.open(&web), loads.open(&web));
        assert_eq!((loads.of("web", now), loads.of("other", now)), (2, 0));
        drop((first, second));
        assert_eq!(loads.of("web", now), 0);
        assert!(loads.lock().open.is_empty());
    }

    #[test]
    fn who_could_not_be_reached_is_avoided_for_a_while() {
        let (loads, web, now) = (Loads::default(), Arc::from("web"), clock::now());
        loads.failed(&web, now);
        assert!(loads.of("web", now + AVOIDED / 2) >= BUSY);
        assert_eq!(loads.of("web", now + AVOIDED), 0);
        loads.failed(&Arc::from("other"), now + 2 * AVOIDED);
        assert_eq!(loads.lock().failed.len(), 1);
    }
}
