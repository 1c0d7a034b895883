//! Shell: moves bytes both ways between two ends; the only place where they are copied.
//! Never: knows who is talking.
//!
//! An end of one direction is passed on as an end of that direction, a reset as a reset. Whatever
//! stops the relay half-way (a reset, drain, revocation) resets both ends, so that no application
//! takes a cut stream for a whole one.
use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    hbone::{
        Tunnel,
        http2::Pieces,
        tunnel::{TunnelSink, TunnelSource},
    },
    read::ReadSize,
};

/// Pieces that one write takes.
const MOST_PIECES: usize = 64;

/// Bytes of one connection, counted as they are passed on.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the client to the server.
    pub sent: AtomicU64,
    /// From the server to the client.
    pub received: AtomicU64,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides said that they were done.
    Finished,
    /// The client's side broke.
    ResetByClient,
    /// The server's side broke.
    ResetByServer,
}

/// One of the two things that a relay joins.
pub trait End {
    /// What comes out of it.
    type Source: Source;
    /// What goes into it.
    type Sink: Sink;

    /// The two directions.
    fn split(self) -> (Self::Source, Self::Sink);
}

/// What comes out of an end.
pub trait Source {
    /// The next bytes, into `pieces`, which are empty; `false` at the end.
    fn next(&mut self, pieces: &mut Pieces) -> impl Future<Output = io::Result<bool>> + Send;
    /// As many of them have been passed on.
    fn release(&mut self, bytes: usize);
}

/// What goes into an end.
pub trait Sink {
    /// Passes all pieces on, and leaves none.
    fn put(&mut self, pieces: &mut Pieces) -> impl Future<Output = io::Result<()>> + Send;
    /// Says that nothing more will come.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Says that the connection broke.
    fn abort(&mut self);
    /// Both directions have ended: closing it says nothing more.
    fn settle(&mut self);
}

/// Joins `client` and `server` until both directions have ended, or one side breaks.
/// Dropped half-way it resets both.
pub async fn relay(client: impl End, server: impl End, counters: &Counters) -> Ended {
    let (mut from_client, to_client) = client.split();
    let (mut from_server, to_server) = server.split();
    let mut sinks = Sinks { to_client, to_server, finished: false };
    let up = async {
        pump(&mut from_client, &mut sinks.to_server, &counters.sent).await.map_err(
            |side| match side {
                Side::Source => Ended::ResetByClient,
                Side::Sink => Ended::ResetByServer,
            },
        )
    };
    let down = async {
        pump(&mut from_server, &mut sinks.to_client, &counters.received).await.map_err(|side| {
            match side {
                Side::Source => Ended::ResetByServer,
                Side::Sink => Ended::ResetByClient,
            }
        })
    };
    match tokio::try_join!(up, down) {
        Ok(((), ())) => {
            sinks.finished = true;
            Ended::Finished
        }
        Err(ended) => ended,
    }
}

/// Closes a connection that leads nowhere, so that its client does not take it for a short answer.
pub fn reset(stream: TcpStream) {
    drop(End::split(stream));
}

/// Aborts both ends unless both directions have finished.
struct Sinks<C: Sink, S: Sink> {
    to_client: C,
    to_server: S,
    finished: bool,
}

impl<C: Sink, S: Sink> Drop for Sinks<C, S> {
    fn drop(&mut self) {
        if self.finished {
            self.to_client.settle();
            self.to_server.settle();
        } else {
            self.to_client.abort();
            self.to_server.abort();
        }
    }
}

/// Which of the two broke.
enum Side {
    Source,
    Sink,
}

/// Moves one direction to its end.
async fn pump(
    source: &mut impl Source,
    sink: &mut impl Sink,
    count: &AtomicU64,
) -> Result<(), Side> {
    loop {
        // Anew each time: a connection that is idle keeps no room for pieces.
        let mut pieces = Pieces::new();
        if !source.next(&mut pieces).await.map_err(|_| Side::Source)? {
            break;
        }
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        sink.put(&mut pieces).await.map_err(|_| Side::Sink)?;
        count.fetch_add(length as u64, Ordering::Relaxed);
        source.release(length);
        // Where both sides are always ready nothing else would let other connections run.
        tokio::task::consume_budget().await;
    }
    // A side that is gone altogether when the other is done is no loss: its own direction has the
    // last word.
    let _ = sink.finish().await;
    Ok(())
}

/// What comes out of a socket. While nothing does, it holds no buffer.
#[derive(Debug)]
pub struct TcpSource {
    stream: Arc<TcpStream>,
    size: ReadSize,
}

/// What goes into a socket.
#[derive(Debug)]
pub struct TcpSink(Arc<TcpStream>);

impl End for TcpStream {
    type Source = TcpSource;
    type Sink = TcpSink;

    /// With no time to linger, closing the socket sends RST: when the relay stops half-way, and
    /// also when the agent is killed.
    fn split(self) -> (TcpSource, TcpSink) {
        linger(&self, Some(Duration::ZERO));
        let stream = Arc::new(self);
        (TcpSource { stream: stream.clone(), size: ReadSize::default() }, TcpSink(stream))
    }
}

impl Source for TcpSource {
    async fn next(&mut self, pieces: &mut Pieces) -> io::Result<bool> {
        loop {
            poll_fn(|context| self.stream.poll_read_ready(context)).await?;
            let mut buffer = BytesMut::new();
            match self.size.read(&self.stream, &mut buffer) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    pieces.push_back(buffer.freeze());
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn release(&mut self, _bytes: usize) {}
}

impl Sink for TcpSink {
    async fn put(&mut self, pieces: &mut Pieces) -> io::Result<()> {
        while !pieces.is_empty() {
            match self.write(pieces) {
                Ok(written) => forget(pieces, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| self.0.poll_write_ready(context)).await?
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        SockRef::from(&*self.0).shutdown(Shutdown::Write)
    }

    fn abort(&mut self) {}

    fn settle(&mut self) {
        linger(&self.0, None);
    }
}

impl TcpSink {
    fn write(&self, pieces: &Pieces) -> io::Result<usize> {
        if let [piece] = pieces.as_slices().0
            && pieces.len() == 1
        {
            return self.0.try_write(piece);
        }
        let mut slices = [IoSlice::new(&[]); MOST_PIECES];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
        }
        self.0.try_write_vectored(&slices[..pieces.len().min(MOST_PIECES)])
    }
}

/// Removes what was written.
fn forget(pieces: &mut Pieces, mut written: usize) {
    while let Some(piece) = pieces.front_mut() {
        let taken = piece.len().min(written);
        piece.advance(taken);
        written -= taken;
        if !piece.is_empty() {
            return;
        }
        pieces.pop_front();
    }
}

/// Fails only for what is not a socket.
fn linger(stream: &TcpStream, time: Option<Duration>) {
    let _ = SockRef::from(stream).set_linger(time);
}

impl End for Tunnel {
    type Source = TunnelSource;
    type Sink = TunnelSink;

    fn split(self) -> (TunnelSource, TunnelSink) {
        Tunnel::split(self)
    }
}

impl Source for TunnelSource {
    async fn next(&mut self, pieces: &mut Pieces) -> io::Result<bool> {
        TunnelSource::next(self, pieces).await
    }

    fn release(&mut self, bytes: usize) {
        TunnelSource::release(self, bytes);
    }
}

impl Sink for TunnelSink {
    async fn put(&mut self, pieces: &mut Pieces) -> io::Result<()> {
        TunnelSink::put(self, pieces).await
    }

    async fn finish(&mut self) -> io::Result<()> {
        TunnelSink::finish(self)
    }

    fn abort(&mut self) {
        TunnelSink::abort(self);
    }

    fn settle(&mut self) {}
}
