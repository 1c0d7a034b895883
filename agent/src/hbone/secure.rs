//! Shell: a TLS 1.3 session over a socket, after the handshake, in two halves. Reads are large and
//! opened in place; what is written is sealed into the buffer that it is sent from. Neither buffer
//! outlives its use.
//! Never: a record that a peer can make it panic with.
use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use rustls::{
    AlertDescription, ExtractedSecrets, client::ClientConnectionData, kernel::KernelConnection,
    server::ServerConnectionData,
};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;

use super::{
    handshake::Rest,
    record::{self, BadRecord, Content, Key, MAX_PLAINTEXT, MAX_RECORDS, Message},
};
use crate::read::ReadSize;

/// Sealed bytes that wait for the socket before no more are taken.
pub(super) const MOST_UNSENT: usize = 256 << 10;
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
#[derive(Debug)]
pub(super) struct Session {
    pub(super) socket: TcpStream,
    /// What the peer proved itself with.
    pub(super) peer: Option<CertificateDer<'static>>,
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
}

impl Session {
    pub(super) fn new(
        socket: TcpStream,
        rest: Rest,
        (secrets, updates): (ExtractedSecrets, Updates),
        peer: Option<CertificateDer<'static>>,
    ) -> Result<Self, BadRecord> {
        let receiver = Receiver {
            key: Key::new(secrets.rx)?,
            wire: rest.wire,
            early: rest.plain,
            messages: BytesMut::new(),
            size: ReadSize::default(),
            ended: false,
            idle: 0,
        };
        let sender = Sender {
            key: Key::new(secrets.tx)?,
            updates,
            out: BytesMut::new(),
            leaving: 0,
            answering: false,
            most_records: MAX_RECORDS,
        };
        Ok(Self { socket, peer, receiver, sender })
    }
}

/// What comes.
#[derive(Debug)]
pub(super) struct Receiver {
    key: Key,
    /// Sealed records that are not opened yet.
    wire: BytesMut,
    /// What rustls opened before the session was ours.
    early: BytesMut,
    /// Handshake messages that are not whole yet.
    messages: BytesMut,
    size: ReadSize,
    ended: bool,
    /// Records since the last one with data.
    idle: u32,
}

impl Receiver {
    /// Reads what the socket has. `false` at its end.
    pub(super) fn poll_fill(
        &mut self,
        socket: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        loop {
            if self.wire.is_empty() && socket.poll_read_ready(context).is_pending() {
                self.wire = BytesMut::new();
                return Poll::Pending;
            }
            ready!(socket.poll_read_ready(context))?;
            match self.size.read(socket, &mut self.wire) {
                Ok(read) => return Poll::Ready(Ok(read > 0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Opens the records that are whole, and appends their data to `pieces`. `renew` gives the peer's
    /// next key, and says whether the peer asks for one of ours. Says whether the peer said goodbye.
    pub(super) fn open(
        &mut self,
        pieces: &mut Vec<Bytes>,
        mut renew: impl FnMut(bool) -> Result<Key, BadRecord>,
    ) -> io::Result<bool> {
        if !self.early.is_empty() {
            pieces.push(std::mem::take(&mut self.early).freeze());
        }
        while !self.ended
            && let Some(length) = record::whole(&self.wire).map_err(bad)?
        {
            let mut record = self.wire.split_to(length);
            let (content, at) = self.key.open(&mut record).map_err(bad)?;
            let data = content == Content::Data && !at.is_empty();
            self.idle = if data { 0 } else { self.idle + 1 };
            if self.idle > MOST_IDLE {
                return Err(bad(BadRecord::Exhausted));
            }
            match content {
                // Messages are not interleaved with data (RFC 8446 §5.1).
                Content::Data if !self.messages.is_empty() => return Err(bad(BadRecord::Message)),
                Content::Data => pieces.push(record.freeze().slice(at)),
                Content::Handshake => {
                    self.messages.extend_from_slice(&record[at]);
                    self.heed(&mut renew).map_err(bad)?;
                }
                Content::Alert => self.ended = goodbye(&record[at])?,
            }
        }
        Ok(self.ended)
    }

    /// Acts on the messages that are whole.
    fn heed(
        &mut self,
        renew: &mut impl FnMut(bool) -> Result<Key, BadRecord>,
    ) -> Result<(), BadRecord> {
        while let Some((message, length)) = record::message(&self.messages)? {
            self.messages.advance(length);
            let Message::KeyUpdate { requested } = message else { continue };
            // New keys begin with a record of their own (RFC 8446 §5.1).
            if !self.messages.is_empty() {
                return Err(BadRecord::Message);
            }
            self.key = renew(requested)?;
        }
        if self.messages.is_empty() {
            self.messages = BytesMut::new();
        }
        Ok(())
    }
}

/// Whether an alert is the peer's goodbye.
fn goodbye(alert: &[u8]) -> io::Result<bool> {
    match alert.get(1).copied().map(AlertDescription::from) {
        Some(AlertDescription::CloseNotify) => Ok(true),
        Some(alert) => {
            let error = rustls::Error::AlertReceived(alert);
            Err(io::Error::new(io::ErrorKind::InvalidData, error))
        }
        None => Err(bad(BadRecord::Message)),
    }
}

/// What goes.
pub(super) struct Sender {
    key: Key,
    updates: Updates,
    out: BytesMut,
    /// Bytes of earlier ones that somebody is giving to the socket.
    leaving: usize,
    /// An answer to a key update waits to be sent.
    answering: bool,
    /// Records that one key seals.
    most_records: u64,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("unsent", &self.out.len()).finish_non_exhaustive()
    }
}

impl Sender {
    /// Sealed bytes that the socket has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() + self.leaving
    }

    /// Seals the parts, together at most [`MAX_PLAINTEXT`], as one record.
    pub(super) fn seal(&mut self, parts: &[&[u8]]) -> Result<(), BadRecord> {
        if self.key.sequence() >= self.most_records {
            self.renew_own()?;
        }
        self.key.seal(Content::Data, parts, &mut self.out)
    }

    /// Seals bytes of any length.
    pub(super) fn seal_all(&mut self, bytes: &[u8]) -> Result<(), BadRecord> {
        bytes.chunks(MAX_PLAINTEXT).try_for_each(|part| self.seal(&[part]))
    }

    /// The peer has a new key; it may ask for the same of us. One answer goes for all that asked
    /// before it was sent.
    pub(super) fn renew(&mut self, requested: bool) -> Result<Key, BadRecord> {
        let key = self.updates.receive()?;
        if requested && !std::mem::replace(&mut self.answering, true) {
            self.renew_own()?;
        }
        Ok(key)
    }

    /// Tells the peer that our keys are new from here on, without asking for the same.
    fn renew_own(&mut self) -> Result<(), BadRecord> {
        self.key.seal(Content::Handshake, &[&[24, 0, 0, 1, 0]], &mut self.out)?;
        self.key = self.updates.send()?;
        Ok(())
    }

    /// Says goodbye.
    pub(super) fn say_goodbye(&mut self) -> Result<(), BadRecord> {
        self.key.seal(Content::Alert, &[&[1, 0]], &mut self.out)
    }

    /// What is to be given to the socket next. `None` when there is nothing, or somebody is at it: one
    /// at a time, and without the lock, so that others seal meanwhile.
    pub(super) fn take(&mut self) -> Option<BytesMut> {
        if self.leaving > 0 || self.out.is_empty() {
            return None;
        }
        self.leaving = self.out.len();
        self.answering = false;
        Some(std::mem::take(&mut self.out))
    }

    /// The socket takes nothing any more.
    pub(super) fn give_up(&mut self) {
        self.leaving = 0;
        self.out = BytesMut::new();
    }

    /// Takes back what the socket did not take.
    pub(super) fn give_back(&mut self, mut rest: BytesMut) {
        self.leaving = 0;
        if !rest.is_empty() {
            rest.extend_from_slice(&self.out);
            self.out = rest;
        }
    }
}

/// Gives the socket what it takes of `bytes`.
pub(super) fn send(socket: &TcpStream, bytes: &mut BytesMut) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => bytes.advance(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn bad(error: BadRecord) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
