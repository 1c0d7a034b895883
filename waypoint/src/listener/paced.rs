//! Shell: a connection whose client must end soon what it begins to say. Between requests it may be
//! silent.
//! Never: limits a body.
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{TunnelStream, frames::Frames, serve::HEAD_TIMEOUT};

/// Such a connection.
#[derive(Debug)]
pub(super) struct Paced {
    stream: TunnelStream,
    pace: Pace,
    /// For what has this number.
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

/// What must be whole in time.
#[derive(Debug)]
enum Pace {
    /// The head that has begun, by its number.
    Http1(Turns, Option<u64>),
    Http2(Frames),
}

/// Whose turn it is on a connection of HTTP/1. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Turn>);

#[derive(Debug, Default)]
struct Turn {
    /// A request is being answered.
    is_ours: AtomicBool,
    /// Requests so far.
    requests: AtomicU64,
}

/// A request is being answered.
#[derive(Debug)]
pub(super) struct Busy(Turns);

/// A body until whose end its request is being answered.
#[derive(Debug)]
pub(super) struct Held<B> {
    body: B,
    _busy: Busy,
}

impl Paced {
    /// A connection of HTTP/1.
    pub(super) fn first(stream: TunnelStream, turns: &Turns) -> Self {
        Self { stream, pace: Pace::Http1(turns.clone(), None), timer: None }
    }

    /// A connection of HTTP/2.
    pub(super) fn second(stream: TunnelStream) -> Self {
        Self { stream, pace: Pace::Http2(Frames::default()), timer: None }
    }

    /// The number of what is awaited.
    fn awaited(&self) -> Option<u64> {
        match &self.pace {
            // What was upgraded has no heads.
            Pace::Http1(turns, began) => {
                began.filter(|began| self.stream.is_http() && turns.next() == Some(*began))
            }
            Pace::Http2(frames) => frames.awaited(),
        }
    }

    fn heard(&mut self, bytes: &[u8]) {
        match &mut self.pace {
            Pace::Http1(turns, began) => *began = turns.next(),
            Pace::Http2(frames) => frames.take(bytes),
        }
    }

    /// Ready when it took too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(number) = self.awaited() else {
            self.timer = None;
            return Poll::Pending;
        };
        let known = self.timer.take().filter(|(of, _)| *of == number);
        let (_, timer) =
            self.timer.insert(known.unwrap_or_else(|| (number, Box::pin(sleep(HEAD_TIMEOUT)))));
        timer.as_mut().poll(context)
    }
}

impl Turns {
    /// It is ours.
    pub(super) fn take(&self) -> Busy {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.is_ours.store(true, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// The number of the request that its client may begin.
    fn next(&self) -> Option<u64> {
        let is_ours = self.0.is_ours.load(Ordering::Relaxed);
        (!is_ours).then(|| self.0.requests.load(Ordering::Relaxed))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.is_ours.store(false, Ordering::Relaxed);
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        if polled.is_pending() {
            return self.poll_late(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        let bytes = into.filled().get(before..).unwrap_or_default();
        if !bytes.is_empty() {
            self.heard(bytes);
        }
        polled
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<B> Held<B> {
    /// Such a body.
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
