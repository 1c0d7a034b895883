//! Shell: one CONNECT stream, as a source and a sink of bytes.
//! Never: copies a byte.
use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    http2::{Pieces, frame::code, link::Stream},
    pool::StreamPermit,
};

/// An open tunnel. Dropped before both directions ended, it resets the stream.
#[derive(Debug)]
pub struct Tunnel {
    stream: Stream,
    /// Keeps the stream counted until both halves are gone.
    _permit: Option<StreamPermit>,
}

/// What comes out of a tunnel.
#[derive(Debug)]
pub struct TunnelSource(Arc<Tunnel>);

/// What goes into a tunnel.
#[derive(Debug)]
pub struct TunnelSink(Arc<Tunnel>);

/// Sees a tunnel break while others read and write it.
#[derive(Debug)]
pub struct TunnelWatch(Arc<Tunnel>);

impl Tunnel {
    pub(super) fn new(stream: Stream, permit: Option<StreamPermit>) -> Self {
        Self { stream, _permit: permit }
    }

    /// The two directions.
    pub fn split(self) -> (TunnelSource, TunnelSink) {
        let tunnel = Arc::new(self);
        (TunnelSource(tunnel.clone()), TunnelSink(tunnel))
    }
}

impl TunnelWatch {
    /// Waits until the peer resets the stream, or the connection breaks. Only the task that reads the
    /// tunnel may wait for that: one waker is kept for both.
    pub async fn broken(&self) {
        self.0.stream.broken().await;
    }
}

impl TunnelSource {
    /// Sees it break. What breaks is gone for good only when this is dropped, too.
    pub fn watch(&self) -> TunnelWatch {
        TunnelWatch(self.0.clone())
    }

    /// The next bytes, into `pieces`, which are empty; `false` at the end. The peer may send more only
    /// after they were [released](Self::release).
    ///
    /// # Errors
    /// When the peer reset the stream, or the connection broke.
    pub async fn next(&mut self, pieces: &mut Pieces) -> io::Result<bool> {
        poll_fn(|context| self.poll_next(context, pieces)).await
    }

    /// The same, for who polls.
    pub fn poll_next(
        &mut self,
        context: &Context<'_>,
        pieces: &mut Pieces,
    ) -> Poll<io::Result<bool>> {
        self.0.stream.poll_next(context, pieces).map_err(io::Error::from)
    }

    /// Lets the peer send as many bytes again.
    pub fn release(&mut self, bytes: usize) {
        self.0.stream.release(bytes);
    }
}

impl TunnelSink {
    /// Sends all pieces, as fast as the peer lets it.
    ///
    /// # Errors
    /// When the peer reset the stream, or the connection broke.
    pub async fn put(&mut self, pieces: &mut Pieces) -> io::Result<()> {
        poll_fn(|context| self.poll_put(context, pieces)).await
    }

    /// The same, for who polls; what was taken is gone from `pieces`.
    pub fn poll_put(
        &mut self,
        context: &mut Context<'_>,
        pieces: &mut Pieces,
    ) -> Poll<io::Result<()>> {
        self.0.stream.poll_put(context, pieces).map_err(io::Error::from)
    }

    /// Says that nothing more will come.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        Ok(self.0.stream.finish()?)
    }

    /// Tells the peer that the connection it stands for broke (RFC 9113 §8.5).
    pub fn abort(&mut self) {
        self.0.stream.reset(code::CONNECT_ERROR);
    }
}
