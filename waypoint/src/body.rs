//! Shell: the body of a request on its way to an endpoint: counted, and copied to mirrors.
//! Never: keeps a byte, but for another try (`replay`); waits for a mirror.
mod meter;
mod replay;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

pub use self::{
    meter::Meter,
    replay::{Replay, Shelf},
};

/// Frames that wait for a mirror, at most; a slower one gets no more of the body.
const MOST_WAITING: usize = 64;
/// Bytes that wait for a mirror, at most.
const MOST_BYTES: usize = 128 << 10;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Its client, or the endpoint, did.
    #[error("the body broke off")]
    Peer(#[from] hyper::Error),
    /// Its client ended the stream before it.
    #[error("the body ended before its end")]
    Short,
    /// A mirror was too slow for it.
    #[error("a mirror was too slow")]
    Slow,
    /// The try that it was for is over.
    #[error("another try has the body")]
    Again,
}

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    /// It comes as a stream of HTTP/2.
    is_stream: bool,
    meter: Arc<Meter>,
    mirrors: Vec<Mirror>,
}

/// Who gets a copy, and whether all of it was handed on.
#[derive(Debug)]
struct Mirror {
    frames: mpsc::Sender<Frame<Bytes>>,
    copied: Arc<Copied>,
}

/// What the two sides of a copy know of each other.
#[derive(Debug, Default)]
struct Copied {
    whole: AtomicBool,
    /// Bytes that wait.
    waiting: AtomicUsize,
}

#[derive(Debug)]
enum Source {
    /// The client's, and what is taken out of its trailers.
    Client(Incoming, fn(&mut HeaderMap)),
    /// A copy, and whether all of it was handed on.
    Copy(mpsc::Receiver<Frame<Bytes>>, Arc<Copied>),
    /// One try's, of several.
    Again(replay::Reading),
    Nothing,
}

impl RequestBody {
    /// What comes from the client, by HTTP/2 if it `is_stream`; `clean` takes out of its trailers what
    /// ends here.
    pub fn new(
        body: Incoming,
        is_stream: bool,
        meter: Arc<Meter>,
        clean: fn(&mut HeaderMap),
    ) -> Self {
        let mut body = Self::of(Source::Client(body, clean), meter);
        body.is_stream = is_stream;
        body.begun()
    }

    fn of(source: Source, meter: Arc<Meter>) -> Self {
        Self { source, is_stream: false, meter, mirrors: Vec::new() }
    }

    fn begun(self) -> Self {
        if self.has_all() {
            self.meter.end();
        }
        self
    }

    /// Whether nothing can follow: a client may say its length, and never the end (RFC 9113 §8.1.1).
    fn has_all(&self) -> bool {
        self.is_end_stream() || self.size_hint().exact() == Some(0)
    }

    /// No bytes.
    pub fn nothing() -> Self {
        let meter = Arc::new(Meter::default());
        meter.end();
        Self::of(Source::Nothing, meter)
    }

    /// A copy of what will pass.
    pub fn copy(&mut self) -> Self {
        if self.is_end_stream() {
            return Self::nothing();
        }
        let (frames, receiver) = mpsc::channel(MOST_WAITING);
        let copied = Arc::new(Copied::default());
        self.mirrors.push(Mirror { frames, copied: copied.clone() });
        Self::of_copy(receiver, copied)
    }

    fn of_copy(frames: mpsc::Receiver<Frame<Bytes>>, copied: Arc<Copied>) -> Self {
        Self::of(Source::Copy(frames, copied), Arc::default())
    }

    /// One try's. Its meter says how much of it that try was sent.
    fn again(reading: replay::Reading) -> Self {
        Self::of(Source::Again(reading), Arc::default()).begun()
    }

    /// What is known of it while it passes.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// A mirror that is slow, or gone, gets no more.
    fn mirror(&mut self, frame: &Frame<Bytes>) {
        self.mirrors.retain(|mirror| mirror.give(frame));
    }

    fn poll_source(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.source {
            Source::Client(body, clean) => {
                let polled = Pin::new(&mut *body).poll_frame(context);
                // hyper takes a stream that was reset with NO_ERROR for a whole one.
                if self.is_stream && matches!(polled, Poll::Ready(None)) && !body.is_end_stream() {
                    return Poll::Ready(Some(Err(Broken::Short)));
                }
                polled.map_ok(|frame| trailers(frame, *clean)).map_err(Broken::from)
            }
            Source::Copy(frames, copied) => match frames.poll_recv(context) {
                Poll::Ready(None) if copied.whole.load(Ordering::Acquire) => Poll::Ready(None),
                // Cut short, it must not look whole.
                Poll::Ready(None) => Poll::Ready(Some(Err(Broken::Slow))),
                Poll::Ready(Some(frame)) => {
                    copied.waiting.fetch_sub(length(&frame), Ordering::Relaxed);
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Pending => Poll::Pending,
            },
            Source::Again(reading) => reading.poll(context),
            Source::Nothing => Poll::Ready(None),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.meter.rest();
    }
}

impl Mirror {
    /// Whether it takes a copy of a frame.
    fn give(&self, frame: &Frame<Bytes>) -> bool {
        let length = length(frame);
        let waiting = self.copied.waiting.fetch_add(length, Ordering::Relaxed) + length;
        waiting <= MOST_BYTES && self.frames.try_send(copied(frame)).is_ok()
    }
}

fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

/// A frame, with its trailers as `clean` leaves them.
pub fn trailers(frame: Frame<Bytes>, clean: fn(&mut HeaderMap)) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

fn copied(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, Some(trailers)) => Frame::trailers(trailers.clone()),
        (None, None) => Frame::data(Bytes::new()),
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = self.poll_source(context);
        self.meter.asked(polled.is_pending());
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.meter.pass(data);
                }
                if !self.mirrors.is_empty() {
                    self.mirror(frame);
                }
            }
            Poll::Ready(None | Some(Err(_))) | Poll::Pending => {}
        }
        if matches!(polled, Poll::Ready(None)) || self.has_all() {
            self.meter.end();
        }
        if matches!(polled, Poll::Ready(None)) || self.is_end_stream() {
            let all = self.mirrors.drain(..);
            all.for_each(|mirror| mirror.copied.whole.store(true, Ordering::Release));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Client(body, _) => body.is_end_stream(),
            Source::Copy(..) => false,
            Source::Again(reading) => reading.is_end(),
            Source::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Client(body, _) => body.size_hint(),
            Source::Copy(..) => SizeHint::default(),
            Source::Again(reading) => reading.hint(),
            Source::Nothing => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_bytes_wait_for_a_mirror() {
        let (frames, receiver) = mpsc::channel(MOST_WAITING);
        let mirror = Mirror { frames, copied: Arc::default() };
        let mut copy = RequestBody::of_copy(receiver, mirror.copied.clone());
        let half = Frame::data(Bytes::from(vec![0; MOST_BYTES / 2]));
        assert!(mirror.give(&half) && mirror.give(&half));
        std::future::poll_fn(|context| Pin::new(&mut copy).poll_frame(context)).await;
        assert!(mirror.give(&half), "there is room again");
        assert!(!mirror.give(&half), "too much waits");
    }
}
