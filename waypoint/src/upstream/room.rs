//! Shell: room for a request towards one endpoint: on a connection that is free, or for a new one.
//! Never: more connections than the backend may have, except that each endpoint may have one.
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use culvert_agent::clock;
use tokio::sync::Notify;

use super::lane::{Connection, Lane};
use crate::{
    backend::ConnectionPool,
    balance::{Kind, Limits, Permit},
    outcome::Failure,
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
    /// Who waits looks in the order of coming.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    /// When and why the last dial failed: that is so for all who waited then.
    failed: Mutex<Option<(Instant, Failure)>>,
}

/// One who waits, until it is dropped.
struct Waiting<'d>(&'d Doors);

impl<'d> Waiting<'d> {
    fn new(doors: &'d Doors) -> Self {
        doors.waiting.fetch_add(1, Ordering::AcqRel);
        Self(doors)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
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

    /// Whether one of them is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// Whether somebody waits, who comes first.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// A dial failed.
    pub(super) fn failed(&self, failure: &Failure) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = Some((clock::now(), failure.clone()));
    }

    /// Why one failed since then.
    pub(super) fn failed_since(&self, asked: Instant) -> Result<(), Failure> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failed {
            Some((at, failure)) if *at >= asked => Err(failure.clone()),
            Some(_) | None => Ok(()),
        }
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
    /// Waits until there is room, in the order of coming.
    ///
    /// # Errors
    /// When a dial failed meanwhile: whoever waits would only find that out once more.
    ///
    /// # Cancel safety
    /// Whoever waits no longer passes its turn on.
    pub(super) async fn room(
        &self,
        limits: &Arc<Limits>,
        pool: &ConnectionPool,
    ) -> Result<Room, Failure> {
        if !self.doors.is_awaited()
            && let Some(room) = self.look(limits, pool).await
        {
            return Ok(room);
        }
        let asked = clock::now();
        let _waiting = Waiting::new(&self.doors);
        let _turn = self.doors.turn.lock().await;
        loop {
            let freed = self.doors.freed.notified();
            tokio::pin!(freed);
            // Before looking: what is freed in between counts.
            freed.as_mut().enable();
            self.doors.failed_since(asked)?;
            if let Some(room) = self.look(limits, pool).await {
                return Ok(room);
            }
            freed.await;
        }
    }

    async fn look(&self, limits: &Arc<Limits>, pool: &ConnectionPool) -> Option<Room> {
        match self.take(pool).await {
            Some(connection) => Some(Room::On(connection)),
            None => self.doors.open(limits, pool.max_connections).map(Room::For),
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

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_served_in_the_order_of_coming() {
        let (lane, limits) = (Lane::default(), Arc::new(Limits::default()));
        let pool = ConnectionPool { max_connections: 1, ..ConnectionPool::default() };
        let room = || lane.room(&limits, &pool);
        let Ok(Room::For(first)) = room().await else { panic!("nobody is there") };
        let (mut second, mut third) = (pin!(room()), pin!(room()));
        assert!(poll!(second.as_mut()).is_pending() && poll!(third.as_mut()).is_pending());
        drop(first);
        // Somebody comes before those who wait have looked.
        let mut last = pin!(room());
        assert!(poll!(last.as_mut()).is_pending(), "it is the second's turn");
        assert!(poll!(third.as_mut()).is_pending());
        let Poll::Ready(Ok(Room::For(second))) = poll!(second) else { panic!("it has room") };
        assert!(poll!(third.as_mut()).is_pending() && poll!(last.as_mut()).is_pending());
        drop(second);
        let Poll::Ready(Ok(Room::For(third))) = poll!(third) else { panic!("it has room") };
        assert!(poll!(last.as_mut()).is_pending());
        drop(third);
        assert!(matches!(poll!(last), Poll::Ready(Ok(Room::For(_)))));
        assert!(!lane.doors.is_awaited() && !lane.doors.is_open());
    }

    #[tokio::test]
    async fn who_waited_for_a_dial_that_failed_dials_no_more() {
        let (lane, limits) = (Lane::default(), Arc::new(Limits::default()));
        let pool = ConnectionPool { max_connections: 1, ..ConnectionPool::default() };
        let room = || lane.room(&limits, &pool);
        let Ok(Room::For(first)) = room().await else { panic!("nobody is there") };
        let (mut second, mut third) = (pin!(room()), pin!(room()));
        assert!(poll!(second.as_mut()).is_pending() && poll!(third.as_mut()).is_pending());
        lane.doors.failed(&Failure::ConnectTimeout);
        drop(first);
        for waiting in [second, third] {
            assert!(matches!(poll!(waiting), Poll::Ready(Err(Failure::ConnectTimeout))));
        }
        assert!(matches!(room().await, Ok(Room::For(_))), "who comes later tries");
    }
}
