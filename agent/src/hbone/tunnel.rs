//! Shell: one CONNECT stream, as a source and a sink of bytes.
//! Never: copies a byte.
use std::{future::poll_fn, io};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

/// An open tunnel. Dropped before both directions ended, it resets the stream.
#[derive(Debug)]
pub struct Tunnel {
    pub(super) send: SendStream<Bytes>,
    pub(super) receive: RecvStream,
    /// Keeps the stream counted until both halves are gone.
    pub(super) permit: Option<super::pool::StreamPermit>,
}

/// What comes out of a tunnel.
#[derive(Debug)]
pub struct TunnelSource {
    receive: RecvStream,
    _permit: Option<super::pool::StreamPermit>,
}

/// What goes into a tunnel.
#[derive(Debug)]
pub struct TunnelSink {
    send: SendStream<Bytes>,
}

impl Tunnel {
    /// The two directions.
    pub fn split(self) -> (TunnelSource, TunnelSink) {
        let source = TunnelSource { receive: self.receive, _permit: self.permit };
        (source, TunnelSink { send: self.send })
    }
}

impl TunnelSource {
    /// The next bytes; `None` at the end. The peer may send more only after they were
    /// [released](Self::release).
    ///
    /// # Errors
    /// When the peer reset the stream, or the connection broke.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self.receive.data().await {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            // A peer that has nothing more to say and nothing to hear may end like this; Istio's
            // agents do, and read it as an end.
            Some(Err(error)) if is_end(&error) => Ok(None),
            Some(Err(error)) => Err(broken(error)),
        }
    }

    /// Lets the peer send as many bytes again.
    pub fn release(&mut self, bytes: usize) {
        // Fails only when more is released than was received.
        let _ = self.receive.flow_control().release_capacity(bytes);
    }
}

impl TunnelSink {
    /// Sends all of `bytes`, as fast as the peer lets it.
    ///
    /// # Errors
    /// When the peer reset the stream, or the connection broke.
    pub async fn put(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            let room = match poll_fn(|context| self.send.poll_capacity(context)).await {
                Some(room) => room.map_err(broken)?,
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            let part = bytes.split_to(room.min(bytes.len()));
            self.send.send_data(part, false).map_err(broken)?;
        }
        Ok(())
    }

    /// Says that nothing more will come.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(broken)
    }

    /// Tells the peer that the connection it stands for broke (RFC 9113 §8.5).
    pub fn abort(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }
}

fn is_end(error: &h2::Error) -> bool {
    error.is_reset() && matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
