//! Shell: a tunnel as a stream that hyper reads and writes.
//! Never: looks at a byte; lets a stream that was cut look whole.
use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use culvert_agent::hbone::{
    Tunnel,
    http2::Pieces,
    tunnel::{TunnelSink, TunnelSource, TunnelWatch},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Bytes that one write takes at most. They wait here when the peer takes no more.
const MOST_WRITTEN: usize = 64 << 10;
/// Who was told the end may go on sending for so long; what it says is not heard (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(5);

/// A tunnel as a stream. Dropped before its end was said, it tells the peer that the connection broke.
#[derive(Debug)]
pub struct TunnelStream {
    source: TunnelSource,
    sink: TunnelSink,
    inbox: Pieces,
    outbox: Pieces,
    /// The peer has said its end.
    received_all: bool,
    /// We have.
    finished: bool,
    linger: Option<Pin<Box<Sleep>>>,
    seen: Arc<Seen>,
}

/// What is seen of a stream from outside.
#[derive(Debug, Default)]
struct Seen {
    /// HTTP is spoken on it.
    is_http: AtomicBool,
    /// Bytes that were read and written.
    moved: AtomicU64,
}

/// HTTP is spoken on a stream as long as this is held: its last end is one of both directions. Without
/// it, an end of ours is that of one direction, and the other goes on.
#[derive(Debug)]
pub struct Speaking {
    seen: Arc<Seen>,
    watch: TunnelWatch,
}

impl Speaking {
    /// Waits until the stream breaks; only the task that reads it may.
    pub async fn broken(&self) {
        self.watch.broken().await;
    }

    /// Bytes that were read and written so far.
    pub fn moved(&self) -> u64 {
        self.seen.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        self.seen.is_http.store(false, Ordering::Relaxed);
    }
}

impl From<Tunnel> for TunnelStream {
    fn from(tunnel: Tunnel) -> Self {
        let (source, sink) = tunnel.split();
        Self::new(source, sink, Pieces::new())
    }
}

impl TunnelStream {
    /// A stream of which `read` was read already.
    pub fn new(source: TunnelSource, sink: TunnelSink, read: Pieces) -> Self {
        Self {
            source,
            sink,
            inbox: read,
            outbox: Pieces::new(),
            received_all: false,
            finished: false,
            linger: None,
            seen: Arc::default(),
        }
    }

    /// From here on HTTP is spoken on it.
    pub fn speak(&self) -> Speaking {
        self.seen.is_http.store(true, Ordering::Relaxed);
        Speaking { seen: self.seen.clone(), watch: self.source.watch() }
    }

    /// Whether HTTP is spoken on it.
    pub(super) fn is_http(&self) -> bool {
        self.seen.is_http.load(Ordering::Relaxed)
    }

    fn moves(&self, bytes: usize) {
        self.seen.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.sink.poll_put(context, &mut self.outbox)
    }

    fn add(&mut self, context: &mut Context<'_>, bytes: Bytes) -> Poll<io::Result<usize>> {
        let length = bytes.len();
        self.moves(length);
        self.outbox.push_back(bytes);
        match self.poll_sent(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What waits here is sent before anything else is taken.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    /// Waits for the peer's end, and hears nothing of what comes before it.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.received_all {
            let unheard = self.inbox.drain(..).map(|piece| piece.len()).sum();
            self.source.release(unheard);
            match self.source.poll_next(context, &mut self.inbox) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => self.received_all = true,
                Poll::Pending => {
                    let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
                    return linger.as_mut().poll(context);
                }
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.inbox.is_empty() {
            if this.received_all {
                return Poll::Ready(Ok(()));
            }
            if !ready!(this.source.poll_next(context, &mut this.inbox))? {
                this.received_all = true;
                return Poll::Ready(Ok(()));
            }
        }
        let mut taken = 0;
        while let Some(piece) = this.inbox.front_mut() {
            let length = piece.len().min(into.remaining());
            into.put_slice(&piece[..length]);
            piece.advance(length);
            taken += length;
            if !piece.is_empty() {
                break;
            }
            this.inbox.pop_front();
        }
        this.source.release(taken);
        this.moves(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(context))?;
        let bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(MOST_WRITTEN)]);
        self.add(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(context))?;
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut bytes = BytesMut::with_capacity(all.min(MOST_WRITTEN));
        for slice in slices {
            let room = MOST_WRITTEN - bytes.len();
            bytes.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.add(context, bytes.freeze())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            ready!(self.poll_sent(context))?;
            self.sink.finish()?;
            self.finished = true;
        }
        // After an upgrade the peer may have more to say, and somebody who hears it.
        if !self.is_http() {
            return Poll::Ready(Ok(()));
        }
        self.poll_end(context).map(Ok)
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if !self.finished {
            self.sink.abort();
        }
    }
}
