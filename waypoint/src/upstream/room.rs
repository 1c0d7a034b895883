//! Shell: room for a request towards one endpoint: on a connection that is free, or for a new one.
//! Never: more connections than the backend may have, except that each endpoint may have one.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::lane::{Connection, Lane};
use crate::{
    backend::ConnectionPool,
    balance::{Kind, Limits, Permit},
};

/// Room for a request.
#[derive(Debug)]
pub(super) enum Room {
    /// On this connection.
    On(Connection),
    /// On one that may be opened.
    For(Open),
}

/// The connections of one endpoint that are open, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct Doors {
    open: AtomicUsize,
    freed: Notify,
}

/// A connection, counted as long as it is open.
#[derive(Debug)]
pub(super) struct Open {
    permit: Option<Permit>,
    doors: Arc<Doors>,
}

impl Doors {
    /// Somebody who waits may look again.
    pub(super) fn free(&self) {
        self.freed.notify_one();
    }

    fn open(self: &Arc<Self>, limits: &Arc<Limits>, most: u32) -> Option<Open> {
        let first = self.open.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let permit = match first {
            true => limits.force(Kind::Connection),
            false => {
                let permit = limits.take(Kind::Connection, most)?;
                self.open.fetch_add(1, Ordering::AcqRel);
                permit
            }
        };
        Some(Open { permit: Some(permit), doors: self.clone() })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Whoever is woken finds the place free.
        drop(self.permit.take());
        self.doors.open.fetch_sub(1, Ordering::AcqRel);
        self.doors.free();
    }
}

impl Lane {
    /// Waits until there is room.
    ///
    /// # Cancel safety
    /// Whoever waits no longer passes its turn on.
    pub(super) async fn room(&self, limits: &Arc<Limits>, pool: &ConnectionPool) -> Room {
        loop {
            let freed = self.doors.freed.notified();
            tokio::pin!(freed);
            // Before looking: what is freed in between counts.
            freed.as_mut().enable();
            if let Some(connection) = self.take(pool).await {
                return Room::On(connection);
            }
            if let Some(open) = self.doors.open(limits, pool.max_connections) {
                return Room::For(open);
            }
            freed.await;
        }
    }
}

/// What a connection has behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    born: Instant,
    uses: u32,
}

impl Life {
    pub(super) fn new(now: Instant) -> Self {
        Self { born: now, uses: 1 }
    }

    /// It takes one more request.
    pub(super) fn used(self) -> Self {
        Self { uses: self.uses.saturating_add(1), ..self }
    }

    /// Whether it takes no more.
    pub(super) fn is_over(self, pool: &ConnectionPool, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.born);
        pool.max_requests_per_connection.is_some_and(|most| self.uses >= most)
            || pool.max_connection_duration.is_some_and(|most| age >= most)
    }
}

/// How long a connection may carry nothing.
pub(super) fn idle(pool: &ConnectionPool) -> Duration {
    pool.http_idle_timeout.map_or(super::lane::IDLE, |idle| idle.min(super::lane::IDLE))
}
