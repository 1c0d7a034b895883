//! Shell: a stream within TLS: for hyper, or as an end of a relay, of which the first bytes may be looked
//! at.
//! Never: lets a stream that was cut look whole: what ends without the server's goodbye is broken (RFC
//! 8446 §6.1).
use std::{io, mem};

use bytes::BytesMut;
use culvert_agent::{
    hbone::http2::Pieces,
    relay::{End, Sink, Source},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio_rustls::client::TlsStream;

/// Bytes that one read takes at most: a record's (RFC 8446 §5.1).
const MOST_READ: usize = 16 << 10;

/// A stream within TLS.
#[derive(Debug)]
pub struct Secured<T> {
    stream: TlsStream<T>,
    first: BytesMut,
}

impl<T> From<TlsStream<T>> for Secured<T> {
    fn from(stream: TlsStream<T>) -> Self {
        Self { stream, first: BytesMut::new() }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Secured<T> {
    /// Reads more; `false` at the end. Dropped while it waits, it loses nothing.
    ///
    /// # Errors
    /// When the stream broke.
    pub async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.first).await? > 0)
    }

    /// What was read.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// What it goes through.
    pub(in crate::upstream) fn inner(&self) -> &T {
        self.stream.get_ref().0
    }

    /// The stream, of which nothing was read yet.
    pub(in crate::upstream) fn into_stream(self) -> TlsStream<T> {
        self.stream
    }
}

/// What comes out of it.
#[derive(Debug)]
pub struct SecuredSource<T> {
    stream: ReadHalf<TlsStream<T>>,
    read: BytesMut,
}

/// What goes into it. Dropped before it is finished, it leaves the server without a goodbye.
#[derive(Debug)]
pub struct SecuredSink<T>(WriteHalf<TlsStream<T>>);

impl<T: AsyncRead + AsyncWrite + Unpin + Send> End for Secured<T> {
    type Source = SecuredSource<T>;
    type Sink = SecuredSink<T>;

    fn split(self) -> (SecuredSource<T>, SecuredSink<T>) {
        let (source, sink) = split(self.stream);
        (SecuredSource { stream: source, read: self.first }, SecuredSink(sink))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Source for SecuredSource<T> {
    async fn next(&mut self, pieces: &mut Pieces) -> io::Result<bool> {
        if self.read.is_empty() {
            self.read.reserve(MOST_READ);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(false);
            }
        }
        pieces.push_back(mem::take(&mut self.read).freeze());
        Ok(true)
    }

    fn release(&mut self, _bytes: usize) {}
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Sink for SecuredSink<T> {
    async fn put(&mut self, pieces: &mut Pieces) -> io::Result<()> {
        while let Some(piece) = pieces.pop_front() {
            self.0.write_all(&piece).await?;
        }
        self.0.flush().await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }

    fn abort(&mut self) {}

    fn settle(&mut self) {}
}
