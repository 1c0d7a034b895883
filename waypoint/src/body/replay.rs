//! Shell: the body of a request that may be sent more than once: what passes is kept, up to a bound.
//! Never: keeps more; gives one try what belongs to another; holds on to what it did not copy.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Broken, RequestBody};

#[cfg(test)]
mod tests;

/// Bytes of all requests of a process that are kept at one time; beyond them bodies are sent once.
const MOST_KEPT_OF_ALL: usize = 256 << 20;
/// Bytes of which room is taken at least.
const LEAST: usize = 4 << 10;
/// Bytes that a frame has at most when it is sent again.
const LONGEST: usize = 64 << 10;

/// Room for what is kept of requests. Clones share it.
#[derive(Clone, Debug)]
pub struct Shelf(Arc<Semaphore>);

impl Shelf {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self::new(MOST_KEPT_OF_ALL)
    }
}

/// A body, and what has passed of it. Clones share both.
#[derive(Clone, Debug)]
pub struct Replay(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    rest: RequestBody,
    /// What has passed, as long as all of it is here, and what is left of it for the try that reads.
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    is_whole: bool,
    /// How far the try has read.
    read: usize,
    trailers_read: bool,
    shelf: Shelf,
    held: Option<OwnedSemaphorePermit>,
    most: usize,
    /// The try that may read.
    turn: u32,
}

/// One try's reading of it.
#[derive(Debug)]
pub(super) struct Reading {
    of: Replay,
    turn: u32,
}

impl Replay {
    /// Keeps at most so many bytes of a body, if there is room for them.
    pub fn new(rest: RequestBody, most: usize, shelf: Shelf) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            rest,
            bytes: Vec::new(),
            trailers: None,
            is_whole: true,
            read: 0,
            trailers_read: false,
            shelf,
            held: None,
            most,
            turn: 0,
        })))
    }

    /// Whether it can be read again.
    pub fn is_whole(&self) -> bool {
        self.lock().is_whole
    }

    /// The whole body, for the next try; whoever reads it still hears no more. `None` when it was too
    /// long to be kept.
    pub fn read(&self) -> Option<RequestBody> {
        let mut kept = self.lock();
        if !kept.is_whole {
            return None;
        }
        kept.turn = kept.turn.wrapping_add(1);
        (kept.read, kept.trailers_read) = (0, false);
        // Until this try asks, nobody waits for the client.
        kept.rest.meter.rest();
        let reading = Reading { of: self.clone(), turn: kept.turn };
        drop(kept);
        Some(RequestBody::again(reading))
    }

    /// There will be no other try: only who reads it goes on.
    pub fn done(&self) {
        self.lock().lose();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// What the try has yet to read of it.
    fn ahead(&self) -> &[u8] {
        self.bytes.get(self.read..).unwrap_or_default()
    }

    /// The next of that.
    fn next(&mut self) -> Option<Frame<Bytes>> {
        let ahead = self.ahead();
        if ahead.is_empty() {
            let trailers = self.trailers.as_ref().filter(|_| !self.trailers_read).cloned()?;
            self.trailers_read = true;
            return Some(Frame::trailers(trailers));
        }
        let part = ahead.get(..LONGEST).unwrap_or(ahead);
        let part = Bytes::copy_from_slice(part);
        self.read += part.len();
        self.tidy();
        Some(Frame::data(part))
    }

    /// Something passes.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.is_whole {
            return;
        }
        let data = frame.data_ref().map_or(b"".as_slice(), |data| data);
        let trailers = frame.trailers_ref();
        let length = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            name.as_str().len() + value.len()
        };
        let trailing: usize = trailers.map_or(0, |all| all.iter().map(length).sum());
        if !self.reserve(data.len() + trailing) {
            return self.lose();
        }
        self.bytes.extend_from_slice(data);
        self.read = self.bytes.len();
        if let Some(trailers) = trailers {
            self.trailers = Some(trailers.clone());
            self.trailers_read = true;
        }
    }

    /// Takes room for so many bytes more, for twice as many as before if that may be.
    fn reserve(&mut self, more: usize) -> bool {
        let (needed, have) = (self.bytes.len() + more, self.bytes.capacity());
        if needed <= have {
            return true;
        }
        let wanted = needed.max(2 * have).max(LEAST).min(self.most);
        let room = (needed <= self.most).then(|| self.shelf.take(wanted - have)).flatten();
        let Some(room) = room else { return false };
        match &mut self.held {
            Some(held) => held.merge(room),
            held @ None => *held = Some(room),
        }
        self.bytes.reserve_exact(wanted - self.bytes.len());
        true
    }

    /// It is kept no longer.
    fn lose(&mut self) {
        self.is_whole = false;
        self.tidy();
    }

    /// Gives back what nobody will read.
    fn tidy(&mut self) {
        if !self.is_whole && self.ahead().is_empty() {
            (self.bytes, self.read, self.held) = (Vec::new(), 0, None);
        }
    }
}

impl Reading {
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut kept = self.of.lock();
        if kept.turn != self.turn {
            return Poll::Ready(Some(Err(Broken::Again)));
        }
        if let Some(frame) = kept.next() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = std::pin::Pin::new(&mut kept.rest).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => kept.keep(frame),
            Poll::Ready(Some(Err(_))) => kept.lose(),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    pub(super) fn is_end(&self) -> bool {
        let kept = self.of.lock();
        let ahead = !kept.ahead().is_empty() || kept.trailers.is_some() && !kept.trailers_read;
        kept.turn == self.turn && !ahead && kept.rest.is_end_stream()
    }

    pub(super) fn hint(&self) -> SizeHint {
        let kept = self.of.lock();
        let ahead = kept.ahead().len() as u64;
        let rest = kept.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let kept = self.of.lock();
        if kept.turn == self.turn {
            kept.rest.meter.rest();
        }
    }
}
