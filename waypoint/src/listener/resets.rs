//! Shell: counts requests that a client gave up before they were answered: many at once are an attack
//! (CVE-2023-44487, after their acceptance).
//! Never: counts what took long.
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use culvert_agent::clock;
use tokio::sync::Notify;

/// Requests of one connection before anything is said of them (Envoy's
/// `overload.premature_reset_total_stream_count`).
const LEAST: u64 = 500;
/// One that is given up sooner was hardly meant (Envoy's
/// `overload.premature_reset_min_stream_lifetime_seconds`).
const SOON: Duration = Duration::from_secs(1);

/// The requests of one connection. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Resets(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    given_up: AtomicU64,
    too_many: Notify,
}

/// A request that is not answered yet; dropped like this, it was given up.
#[derive(Debug)]
pub(super) struct Unanswered {
    resets: Resets,
    since: Instant,
    answered: bool,
}

impl Resets {
    /// A request has begun.
    pub(super) fn begin(&self) -> Unanswered {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        Unanswered { resets: self.clone(), since: clock::now(), answered: false }
    }

    /// Waits until half of all were given up at once.
    pub(super) async fn too_many(&self) {
        self.0.too_many.notified().await;
    }

    fn given_up(&self) {
        let given_up = self.0.given_up.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = self.0.opened.load(Ordering::Relaxed);
        if opened >= LEAST && given_up * 2 > opened {
            self.0.too_many.notify_one();
        }
    }
}

impl Unanswered {
    /// It is answered.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.answered && clock::now().saturating_duration_since(self.since) < SOON {
            self.resets.given_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_over(resets: &Resets) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(resets.too_many()).poll(&mut context).is_ready()
    }

    #[test]
    fn half_of_many_is_too_many() {
        let resets = Resets::default();
        for _ in 0..LEAST / 2 {
            resets.begin().answered();
            drop(resets.begin());
        }
        assert!(!is_over(&resets), "as many were answered");
        drop(resets.begin());
        assert!(is_over(&resets));
    }

    #[test]
    fn few_are_nothing() {
        let resets = Resets::default();
        (1..LEAST).for_each(|_| drop(resets.begin()));
        assert!(!is_over(&resets));
    }
}
