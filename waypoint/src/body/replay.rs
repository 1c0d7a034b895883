//! Shell: the body of a request that may be sent more than once: what passes is kept, up to a bound.
//! Never: keeps more; gives one try what belongs to another.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Broken, RequestBody, copied};

/// What a frame costs beside its bytes.
const FRAME: usize = 128;

/// A body, and what has passed of it. Clones share both.
#[derive(Clone, Debug)]
pub struct Replay(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    rest: RequestBody,
    passed: Vec<Frame<Bytes>>,
    size: usize,
    most: usize,
    /// Something that has passed is kept no longer.
    lost: bool,
    /// The try that may read.
    turn: u32,
}

/// One try's reading of it.
#[derive(Debug)]
pub(super) struct Reading {
    of: Replay,
    turn: u32,
    next: usize,
}

impl Replay {
    /// Keeps at most so many bytes of a body.
    pub fn new(rest: RequestBody, most: usize) -> Self {
        let passed = Vec::new();
        Self(Arc::new(Mutex::new(Kept { rest, passed, size: 0, most, lost: false, turn: 0 })))
    }

    /// The whole body, for the next try; whoever reads it still hears no more. `None` when it was too
    /// long to be kept.
    pub fn read(&self) -> Option<RequestBody> {
        let mut kept = self.lock();
        if kept.lost {
            return None;
        }
        kept.turn = kept.turn.wrapping_add(1);
        let reading = Reading { of: self.clone(), turn: kept.turn, next: 0 };
        drop(kept);
        Some(RequestBody::again(reading))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        self.size += FRAME + frame.data_ref().map_or(0, Bytes::len);
        self.lost |= self.size > self.most;
        match self.lost {
            true => self.passed = Vec::new(),
            false => self.passed.push(copied(frame)),
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
        if let Some(frame) = kept.passed.get(self.next).map(copied) {
            self.next += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = std::pin::Pin::new(&mut kept.rest).poll_frame(context);
        if let Poll::Ready(Some(frame)) = &polled {
            match frame {
                Ok(frame) => kept.keep(frame),
                Err(_) => kept.lost = true,
            }
            self.next += 1;
        }
        polled
    }

    pub(super) fn is_end(&self) -> bool {
        let kept = self.of.lock();
        let read = kept.lost || self.next >= kept.passed.len();
        kept.turn == self.turn && read && kept.rest.is_end_stream()
    }

    pub(super) fn hint(&self) -> SizeHint {
        let kept = self.of.lock();
        let ahead = kept.passed.iter().skip(self.next).filter_map(Frame::data_ref);
        let ahead: u64 = ahead.map(|data| data.len() as u64).sum();
        let rest = kept.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, task::Waker};

    use tokio::sync::mpsc;

    use super::{super::Mirror, *};

    /// What a reader has to say now.
    fn heard(body: &mut RequestBody) -> String {
        let mut context = Context::from_waker(Waker::noop());
        let mut text = String::new();
        loop {
            match std::pin::Pin::new(&mut *body).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.data_ref().map_or(b"<trailers>".as_slice(), |data| data);
                    text.push_str(std::str::from_utf8(data).unwrap());
                }
                Poll::Ready(Some(Err(error))) => return format!("{text}<{error}>"),
                Poll::Ready(None) => return format!("{text}<end>"),
                Poll::Pending => return format!("{text}<more>"),
            }
        }
    }

    fn body() -> (Mirror, RequestBody) {
        let (frames, receiver) = mpsc::channel(8);
        let mirror = Mirror { frames, copied: Arc::default() };
        let body = RequestBody::of_copy(receiver, mirror.copied.clone());
        (mirror, body)
    }

    fn say(sender: &Mirror, text: &'static [u8]) {
        assert!(sender.give(&Frame::data(Bytes::from_static(text))));
    }

    fn end(sender: Mirror) {
        sender.copied.whole.store(true, Ordering::Release);
    }

    #[test]
    fn each_try_reads_all_of_it_whenever_it_begins() {
        let (sender, body) = body();
        let replay = Replay::new(body, 4096);
        let mut first = replay.read().unwrap();
        say(&sender, b"one ");
        assert_eq!(heard(&mut first), "one <more>");
        let mut second = replay.read().unwrap();
        say(&sender, b"two");
        assert_eq!(heard(&mut first), "<another try has the body>");
        assert_eq!(heard(&mut second), "one two<more>");
        assert!(sender.give(&Frame::trailers(http::HeaderMap::new())));
        end(sender);
        assert_eq!(heard(&mut second), "<trailers><end>");
        assert!(second.meter().has_ended() && !first.meter().has_ended());
        assert_eq!(heard(&mut replay.read().unwrap()), "one two<trailers><end>");
    }

    #[test]
    fn what_is_too_long_passes_once() {
        let (sender, body) = body();
        let replay = Replay::new(body, 2 * FRAME + 5);
        let mut first = replay.read().unwrap();
        say(&sender, b"12345");
        assert_eq!(heard(&mut first), "12345<more>");
        let mut second = replay.read().unwrap();
        say(&sender, b"6");
        assert_eq!(heard(&mut second), "123456<more>");
        assert!(replay.read().is_none(), "a byte too many");
        end(sender);
        assert_eq!(heard(&mut second), "<end>", "who reads it goes on");
    }

    #[test]
    fn what_broke_off_is_not_sent_again() {
        let (sender, body) = body();
        let replay = Replay::new(body, 4096);
        let mut first = replay.read().unwrap();
        drop(sender);
        assert_eq!(heard(&mut first), "<a mirror was too slow>");
        assert!(replay.read().is_none());
    }
}
