//! Shell: a tunnel of which the first bytes are looked at.
//! Never: loses one of them.
use std::{borrow::Cow, io, mem};

use bytes::Bytes;
use culvert_agent::{
    hbone::{
        Tunnel,
        http2::Pieces,
        tunnel::{TunnelSink, TunnelSource},
    },
    relay::{End, Source},
};

use super::TunnelStream;

/// A tunnel, and what was read of it.
#[derive(Debug)]
pub struct Opening {
    source: TunnelSource,
    sink: TunnelSink,
    read: Pieces,
}

/// What comes out of it: first what was read already.
#[derive(Debug)]
pub struct Reread {
    source: TunnelSource,
    read: Pieces,
}

impl From<Tunnel> for Opening {
    fn from(tunnel: Tunnel) -> Self {
        let (source, sink) = tunnel.split();
        Self { source, sink, read: Pieces::new() }
    }
}

impl Opening {
    /// Reads more; `false` at the end. Dropped while it waits, it loses nothing.
    ///
    /// # Errors
    /// When the tunnel broke.
    pub async fn more(&mut self) -> io::Result<bool> {
        let mut pieces = Pieces::new();
        let more = self.source.next(&mut pieces).await?;
        self.read.append(&mut pieces);
        Ok(more)
    }

    /// What was read.
    pub fn first(&self) -> Cow<'_, [u8]> {
        match (self.read.front(), self.read.len()) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(piece), 1) => Cow::Borrowed(piece),
            (Some(_), _) => self.read.iter().flat_map(Bytes::as_ref).copied().collect(),
        }
    }

    /// The tunnel as a stream.
    pub fn into_stream(self) -> TunnelStream {
        TunnelStream::new(self.source, self.sink, self.read)
    }

    /// Tells the peer that the connection broke.
    pub fn abort(mut self) {
        self.sink.abort();
    }
}

impl End for Opening {
    type Source = Reread;
    type Sink = TunnelSink;

    fn split(self) -> (Reread, TunnelSink) {
        (Reread { source: self.source, read: self.read }, self.sink)
    }
}

impl Source for Reread {
    async fn next(&mut self, pieces: &mut Pieces) -> io::Result<bool> {
        if self.read.is_empty() {
            return self.source.next(pieces).await;
        }
        mem::swap(pieces, &mut self.read);
        Ok(true)
    }

    fn release(&mut self, bytes: usize) {
        self.source.release(bytes);
    }
}
