//! Shell: the streams of an HTTP/2 connection to an endpoint: how many there are, and may be.
//! Never: opens one.
use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use hyper::{
    client::conn::http2,
    rt::{Read, Write},
};
use tokio::sync::Notify;

use super::room::Doors;
use crate::{
    body::RequestBody,
    listener::serve::{Owned, STREAMS},
};

/// A stream of an HTTP/2 connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Streams>, Arc<Doors>);

/// The streams of an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Streams {
    open: AtomicUsize,
    /// How many the endpoint takes.
    most: AtomicUsize,
    /// The endpoint has answered one, so it has said how many.
    answered: AtomicBool,
    said: Notify,
}

impl Default for Streams {
    fn default() -> Self {
        let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(STREAMS as usize));
        Self { open, most, answered: AtomicBool::new(false), said: Notify::new() }
    }
}

impl Streams {
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self, most: usize) -> bool {
        self.open() < most.min(self.most.load(Ordering::Relaxed))
    }

    fn answered(&self) {
        if !self.answered.swap(true, Ordering::Relaxed) {
            self.said.notify_one();
        }
    }

    /// The endpoint takes so many.
    fn takes(&self, most: usize, doors: &Doors) {
        if self.most.swap(most, Ordering::Relaxed) < most {
            doors.free();
        }
    }

    /// Drives their connection to its end, and follows how many the endpoint takes.
    pub(super) async fn carry<T>(
        &self,
        connection: http2::Connection<T, RequestBody, Owned>,
        doors: &Doors,
    ) where
        T: Read + Write + Send + Unpin + 'static,
    {
        let mut connection = std::pin::pin!(connection);
        loop {
            let carried = poll_fn(|context| {
                let polled = connection.as_mut().poll(context);
                self.takes(connection.current_max_send_streams(), doors);
                polled
            });
            tokio::select! {
                // How it ended, its requests say.
                _ = carried => return,
                () = self.said.notified() => {}
            }
        }
    }
}

impl Place {
    pub(super) fn new(streams: &Arc<Streams>, doors: &Arc<Doors>) -> Self {
        streams.open.fetch_add(1, Ordering::Relaxed);
        Self(streams.clone(), doors.clone())
    }

    /// It was answered.
    pub(super) fn answered(&self) {
        self.0.answered();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.1.free();
    }
}
