//! Shell: a tunnel of which the first bytes are looked at.
//! Never: loses one of them.
use std::{io, mem};

use culvert_agent::{
    hbone::{
        Tunnel,
        http2::Pieces,
        tunnel::{TunnelSink, TunnelSource},
    },
    relay::{End, Source},
};

use super::{TunnelStream, hello::LONGEST_HELLO};

/// Nobody looks at more first bytes than these.
const MOST_SEEN: usize = LONGEST_HELLO;

/// A tunnel, and what was read of it.
#[derive(Debug)]
pub struct Opening {
    source: TunnelSource,
    sink: TunnelSink,
    read: Pieces,
    /// The first bytes in one piece, as soon as they are in several.
    seen: Vec<u8>,
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
        Self { source, sink, read: Pieces::new(), seen: Vec::new() }
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
        let known = if self.seen.is_empty() { 0 } else { self.read.len() };
        self.read.append(&mut pieces);
        if self.read.len() > 1 {
            self.see(known);
        }
        Ok(more)
    }

    /// Adds what came after the pieces that are `known`.
    fn see(&mut self, known: usize) {
        for piece in self.read.range(known..) {
            let room = MOST_SEEN.saturating_sub(self.seen.len());
            self.seen.extend_from_slice(&piece[..piece.len().min(room)]);
        }
    }

    /// What was read.
    pub fn first(&self) -> &[u8] {
        match self.read.front() {
            Some(piece) if self.read.len() == 1 => piece,
            Some(_) | None => &self.seen,
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
