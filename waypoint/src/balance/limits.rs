//! Pure: how much may be under way at one time to one backend, whichever thread asks
//! (Envoy's circuit breakers).
//! Never: waits.
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::backend::RetryBudget;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connections that are open (`tcp.maxConnections`).
    Connection,
    /// Requests that wait for one (`http1MaxPendingRequests`).
    Pending,
    /// Requests that are under way (`http2MaxRequests`).
    Request,
    /// Retries that are under way, the pause before them counted (`maxRetries`, `retryBudget`).
    Retry,
}

/// What is under way.
#[derive(Debug, Default)]
pub struct Limits {
    gauges: [Gauge; 4],
}

#[derive(Debug, Default)]
struct Gauge {
    now: AtomicU32,
    refused: AtomicU64,
}

/// A place. It is given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    kind: Kind,
}

impl Limits {
    /// A place, if fewer than `most` are taken.
    pub fn take(self: &Arc<Self>, kind: Kind, most: u32) -> Option<Permit> {
        let gauge = self.gauge(kind);
        let more = |now: u32| (now < most).then(|| now.saturating_add(1));
        if gauge.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            gauge.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit { limits: self.clone(), kind })
    }

    /// A place, whatever is taken.
    pub fn force(self: &Arc<Self>, kind: Kind) -> Permit {
        self.gauge(kind).now.fetch_add(1, Ordering::Relaxed);
        Permit { limits: self.clone(), kind }
    }

    /// A place for a retry: a budget counts in place of `most`. It is a share of the requests that are
    /// under way or wait, or of those that began lately, where it says so and `recent` tells.
    pub fn retry(
        self: &Arc<Self>,
        most: u32,
        budget: Option<&RetryBudget>,
        recent: Option<u32>,
    ) -> Option<Permit> {
        let most = budget.map_or(most, |budget| {
            let active =
                f64::from(self.taken(Kind::Request)) + f64::from(self.taken(Kind::Pending));
            // Negative ones and what is no number become nothing.
            let share = (recent.map_or(active, f64::from) * budget.percent / 100.0) as u32;
            share.max(budget.min_retry_concurrency)
        });
        self.take(Kind::Retry, most)
    }

    /// How many places are taken.
    pub fn taken(&self, kind: Kind) -> u32 {
        self.gauge(kind).now.load(Ordering::Relaxed)
    }

    /// How often there was none.
    pub fn refused(&self, kind: Kind) -> u64 {
        self.gauge(kind).refused.load(Ordering::Relaxed)
    }

    fn gauge(&self, kind: Kind) -> &Gauge {
        let [connection, pending, request, retry] = &self.gauges;
        match kind {
            Kind::Connection => connection,
            Kind::Pending => pending,
            Kind::Request => request,
            Kind::Retry => retry,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.gauge(self.kind).now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_however_they_end() {
        let limits = Arc::new(Limits::default());
        let two: Vec<_> = (0..3).filter_map(|_| limits.take(Kind::Request, 2)).collect();
        assert_eq!((two.len(), limits.refused(Kind::Request)), (2, 1));
        assert!(limits.take(Kind::Pending, 2).is_some(), "each kind is counted for itself");
        drop(two);
        assert_eq!((limits.taken(Kind::Request), limits.taken(Kind::Pending)), (0, 0));
        let held = limits.force(Kind::Connection);
        assert!(limits.take(Kind::Connection, 1).is_none());
        drop(held);
        assert!(limits.take(Kind::Connection, 1).is_some());
    }

    #[test]
    fn a_budget_is_a_share_of_what_is_under_way_or_a_minimum() {
        let limits = Arc::new(Limits::default());
        let budget = RetryBudget { percent: 20.0, min_retry_concurrency: 3, interval: None };
        let retries = |limits: &Arc<Limits>| {
            let all = (0..100).map_while(|_| limits.retry(50, Some(&budget), None));
            all.collect::<Vec<_>>().len()
        };
        assert_eq!(retries(&limits), 3);
        let _active: Vec<_> = (0..30).map(|_| limits.force(Kind::Request)).collect();
        let _waiting: Vec<_> = (0..10).map(|_| limits.force(Kind::Pending)).collect();
        assert_eq!(retries(&limits), 8);
        let lately = (0..100).map_while(|_| limits.retry(50, Some(&budget), Some(100)));
        assert_eq!(lately.collect::<Vec<_>>().len(), 20);
        let one = limits.retry(1, None, None);
        assert!(one.is_some() && limits.retry(1, None, None).is_none());
    }

    #[test]
    fn limits_hold_across_threads() {
        const MOST: u32 = 7;
        let limits = Arc::new(Limits::default());
        let highest = AtomicU32::new(0);
        let hurry = || {
            for _ in 0..5_000 {
                let held = limits.take(Kind::Request, MOST);
                highest.fetch_max(limits.taken(Kind::Request), Ordering::Relaxed);
                drop(held);
            }
        };
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(hurry))));
        assert!(highest.load(Ordering::Relaxed) <= MOST);
        assert_eq!(limits.taken(Kind::Request), 0);
    }
}
