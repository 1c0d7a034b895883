//! Shell: a TLS 1.3 session over a socket, after the handshake. Reads are large and opened in place;
//! what is written is sealed into the buffer that it is sent from. Neither buffer outlives its use.
//! Never: a record that a peer can make it panic with.
use std::{
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use rustls::{
    AlertDescription, ExtractedSecrets, client::ClientConnectionData, kernel::KernelConnection,
    server::ServerConnectionData,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::{
    handshake::Rest,
    record::{self, BadRecord, Content, Key, MAX_PLAINTEXT, MAX_RECORDS, Message},
};

/// What a read starts with, bytes.
const SMALLEST_READ: usize = 4 << 10;
/// What a read grows to while the peer fills it, bytes.
const LARGEST_READ: usize = 128 << 10;
/// Sealed bytes that wait for the socket before no more are taken.
const MOST_UNSENT: usize = 128 << 10;
/// Records in a row that may carry no data.
const MOST_IDLE: u32 = 256;

/// What makes new keys of old ones (RFC 8446 §7.2).
pub(super) enum Updates {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Updates {
    fn receive(&mut self) -> Result<Key, BadRecord> {
        let secrets = match self {
            Self::Client(session) => session.update_rx_secret(),
            Self::Server(session) => session.update_rx_secret(),
        };
        Key::new(secrets.map_err(|_| BadRecord::Suite)?)
    }

    fn send(&mut self) -> Result<Key, BadRecord> {
        let secrets = match self {
            Self::Client(session) => session.update_tx_secret(),
            Self::Server(session) => session.update_tx_secret(),
        };
        Key::new(secrets.map_err(|_| BadRecord::Suite)?)
    }
}

/// The session.
pub(super) struct SecureStream {
    socket: TcpStream,
    peer: Option<CertificateDer<'static>>,
    updates: Updates,
    receive: Key,
    send: Key,
    /// What the socket gave: the rest of an opened record, then sealed ones.
    wire: BytesMut,
    /// What is not read yet of the record at the start of `wire`, and where that record ends.
    opened: Option<(Range<usize>, usize)>,
    /// What rustls opened before the session was ours.
    early: BytesMut,
    /// Handshake messages that are not whole yet.
    messages: BytesMut,
    size: usize,
    out: BytesMut,
    ended: bool,
    said_goodbye: bool,
    /// An answer to a key update waits to be sent.
    answering: bool,
    /// Records since the last one with data.
    idle: u32,
    /// Records that one key seals.
    most_records: u64,
}

impl std::fmt::Debug for SecureStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecureStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl SecureStream {
    pub(super) fn new(
        socket: TcpStream,
        rest: Rest,
        (secrets, updates): (ExtractedSecrets, Updates),
        peer: Option<CertificateDer<'static>>,
    ) -> Result<Self, BadRecord> {
        Ok(Self {
            socket,
            peer,
            updates,
            receive: Key::new(secrets.rx)?,
            send: Key::new(secrets.tx)?,
            wire: rest.wire,
            opened: None,
            early: rest.plain,
            messages: BytesMut::new(),
            size: SMALLEST_READ,
            out: BytesMut::new(),
            ended: false,
            said_goodbye: false,
            answering: false,
            idle: 0,
            most_records: MAX_RECORDS,
        })
    }

    /// What the peer proved itself with.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.peer.as_ref()
    }

    /// Gives what has been opened, and opens what has come, while `buffer` has room. Says whether it
    /// gave anything, or the end was reached.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        let before = buffer.filled().len();
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(length));
        }
        while buffer.remaining() > 0 {
            match self.opened.take() {
                Some((at, end)) if at.is_empty() => self.wire.advance(end),
                Some((at, end)) => {
                    let length = at.len().min(buffer.remaining());
                    buffer.put_slice(&self.wire[at.start..at.start + length]);
                    self.opened = Some((at.start + length..at.end, end));
                }
                None if self.ended => break,
                None => match record::whole(&self.wire).map_err(bad)? {
                    Some(length) => self.take(length)?,
                    None => break,
                },
            }
        }
        Ok(self.ended || buffer.filled().len() > before)
    }

    /// Opens the record of `length` bytes that the wire begins with.
    fn take(&mut self, length: usize) -> io::Result<()> {
        let (content, at) = self.receive.open(&mut self.wire[..length]).map_err(bad)?;
        self.idle = if content == Content::Data && !at.is_empty() { 0 } else { self.idle + 1 };
        if self.idle > MOST_IDLE {
            return Err(bad(BadRecord::Exhausted));
        }
        match content {
            // Messages are not interleaved with data (RFC 8446 §5.1).
            Content::Data if !self.messages.is_empty() => return Err(bad(BadRecord::Message)),
            Content::Data => self.opened = Some((at, length)),
            Content::Handshake => {
                self.messages.extend_from_slice(&self.wire[at]);
                self.wire.advance(length);
                self.heed().map_err(bad)?;
            }
            Content::Alert => {
                let description = self.wire[at].get(1).copied().map(AlertDescription::from);
                self.wire.advance(length);
                match description {
                    Some(AlertDescription::CloseNotify) => self.ended = true,
                    Some(alert) => {
                        let error = rustls::Error::AlertReceived(alert);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                    None => return Err(bad(BadRecord::Message)),
                }
            }
        }
        Ok(())
    }

    /// Acts on the messages that are whole.
    fn heed(&mut self) -> Result<(), BadRecord> {
        while let Some((message, length)) = record::message(&self.messages)? {
            self.messages.advance(length);
            let Message::KeyUpdate { requested } = message else { continue };
            // New keys begin with a record of their own (RFC 8446 §5.1).
            if !self.messages.is_empty() {
                return Err(BadRecord::Message);
            }
            self.receive = self.updates.receive()?;
            // One answer for all that asked before it was sent.
            if requested && !std::mem::replace(&mut self.answering, true) {
                self.renew_keys()?;
            }
        }
        if self.messages.is_empty() {
            self.messages = BytesMut::new();
        }
        Ok(())
    }

    /// Tells the peer that our keys are new from here on, without asking for the same.
    fn renew_keys(&mut self) -> Result<(), BadRecord> {
        self.send.seal(Content::Handshake, &[&[24, 0, 0, 1, 0]], &mut self.out)?;
        self.send = self.updates.send()?;
        Ok(())
    }

    /// Reads what the socket has, up to a size that follows what it had.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if self.wire.is_empty() && self.socket.poll_read_ready(context).is_pending() {
                self.wire = BytesMut::new();
                return Poll::Pending;
            }
            ready!(self.socket.poll_read_ready(context))?;
            let room = self.size;
            self.wire.reserve(room);
            match self.fill(room) {
                Ok(read) => {
                    self.size = next_size(room, read);
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// One read. When it does not fill its room there is nothing left, and to say so saves the read
    /// that would find out: epoll reports an edge when more comes (epoll(7), "Edge-triggered").
    fn fill(&mut self, room: usize) -> io::Result<usize> {
        let (socket, wire) = (&self.socket, &mut self.wire);
        let mut done = None;
        let drained = socket.try_io(Interest::READABLE, || {
            let read = socket.try_read_buf(&mut bytes::BufMut::limit(&mut *wire, room))?;
            done = Some(read);
            if (1..room).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match done {
            Some(read) => Ok(read),
            None => drained.map(|()| 0),
        }
    }

    /// Sends what is sealed until at most `left` bytes are left.
    fn poll_send(&mut self, context: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        while self.out.len() > left {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(context, &self.out))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(sent);
        }
        if self.out.is_empty() {
            self.answering = false;
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Seals the beginning of the pieces, and says how much.
    fn seal(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, BadRecord> {
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        let length = all.min(MOST_UNSENT);
        self.out.reserve(length + (length / MAX_PLAINTEXT + 1) * 32);
        for start in (0..length).step_by(MAX_PLAINTEXT) {
            if self.send.sequence() >= self.most_records {
                self.renew_keys()?;
            }
            let end = MAX_PLAINTEXT.min(length - start);
            // HTTP/2 gives a frame's head and its payload.
            let mut parts: [&[u8]; 8] = [&[]; 8];
            let mut taken = 0;
            for (place, part) in parts.iter_mut().zip(record::gather(pieces, start, end)) {
                (*place, taken) = (part, taken + part.len());
            }
            self.send.seal(Content::Data, &parts, &mut self.out)?;
            if taken < end {
                return Ok(start + taken);
            }
        }
        Ok(length)
    }
}

fn next_size(size: usize, read: usize) -> usize {
    if read == size {
        (size * 2).min(LARGEST_READ)
    } else if read < size / 4 {
        (size / 2).max(SMALLEST_READ)
    } else {
        size
    }
}

fn bad(error: BadRecord) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for SecureStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if buffer.remaining() == 0 || self.give(buffer)? {
                return Poll::Ready(Ok(()));
            }
            // Without the peer's goodbye an end may be anybody's.
            if ready!(self.poll_fill(context))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl AsyncWrite for SecureStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.out.len() >= MOST_UNSENT {
            ready!(self.poll_send(context, MOST_UNSENT - 1))?;
        }
        Poll::Ready(self.seal(pieces).map_err(bad))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context, 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_goodbye {
            self.said_goodbye = true;
            let this = &mut *self;
            this.send.seal(Content::Alert, &[&[1, 0]], &mut this.out).map_err(bad)?;
        }
        ready!(self.poll_send(context, 0))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
