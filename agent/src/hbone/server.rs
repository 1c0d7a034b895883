//! Shell: accepts a peer's connection and yields its CONNECTs; answers as it is told.
//! Never: judges.
use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Authority, ConnectHead, Error, HANDSHAKE_TIMEOUT, Tunnel, handshake,
    headers::{self, Baggage},
    http2::{
        frame::code,
        hpack::{self, Fields},
        link::{Link, Stream},
    },
};
use crate::{
    drain::Drain,
    identity::{Credentials, Identity, svid::claimed_identity},
};

/// A CONNECT that waits for its answer. Dropped unanswered, its stream is reset.
#[derive(Debug)]
pub struct Incoming {
    /// Where it wants to go; or why that cannot be said.
    pub head: Result<ConnectHead, BadRequest>,
    /// Whom the peer proved to be.
    pub peer: Identity,
    stream: Stream,
}

/// Why a request is not a CONNECT that anybody could answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Another method.
    #[error("method {0} is not CONNECT")]
    Method(Method),
    /// The target is not host and port.
    #[error("authority {0:?} is not of the form host:port")]
    Authority(String),
}

/// Shakes hands and hands each CONNECT to `on_connect`, until the peer leaves, falls silent, or
/// `drain` asks to finish; open streams then end in their own time.
///
/// # Errors
/// When TLS fails; once that is over, when the connection breaks.
pub async fn serve(
    stream: TcpStream,
    credentials: &Credentials,
    drain: &Drain,
    on_connect: impl Fn(Incoming),
) -> Result<(), Error> {
    let session = timeout(HANDSHAKE_TIMEOUT, handshake::accept(stream, credentials.server.clone()))
        .await
        .map_err(|_| Error::Timeout(HANDSHAKE_TIMEOUT))?
        .map_err(|error| Error::Tls(Arc::new(error)))?;
    // The verifier let only peers with an identity pass.
    let peer = session.peer.as_ref().and_then(|certificate| claimed_identity(certificate));
    let none = || Error::Identity { expected: Vec::new(), found: "none".into() };
    let peer = peer.ok_or_else(none)?;
    let (link, driver) = Link::new(session, false);
    let on_request = |stream, fields: Fields| {
        if let Some(incoming) = incoming(stream, &fields, &peer) {
            on_connect(incoming);
        }
    };
    let running = driver.run(on_request);
    tokio::pin!(running);
    let mut draining = false;
    loop {
        tokio::select! {
            ended = &mut running => return ended.map_err(Error::Http2),
            () = drain.draining(), if !draining => {
                draining = true;
                link.say_farewell();
            }
        }
    }
}

impl Incoming {
    /// Opens the tunnel: 200, with a description of the workload that answers.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn accept(self, baggage: &Baggage) -> io::Result<Tunnel> {
        let mut block = answer(StatusCode::OK);
        let (name, value) = headers::baggage(baggage);
        if headers::is_text(&value) {
            hpack::write_field(&mut block, name.as_bytes(), value.as_bytes());
        }
        self.stream.respond(&block, false)?;
        Ok(Tunnel::new(self.stream, None))
    }

    /// Waits until the peer gives the stream up.
    pub async fn given_up(&mut self) {
        self.stream.broken().await;
    }

    /// Answers with a status and nothing else.
    pub fn refuse(self, status: StatusCode) {
        refuse(&self.stream, status);
    }
}

/// Fails when the stream is gone, and then nobody waits for it.
fn refuse(stream: &Stream, status: StatusCode) {
    if stream.respond(&answer(status), true).is_ok() {
        // Whatever else the peer says on it does not matter (RFC 9113 §8.1).
        stream.reset(code::NO_ERROR);
    }
}

fn answer(status: StatusCode) -> BytesMut {
    let mut block = BytesMut::with_capacity(256);
    // The static table has 200.
    let value = (status != StatusCode::OK).then(|| status.as_str().as_bytes());
    hpack::write_known(&mut block, 8, value);
    block
}

/// `None` when it was answered already, or cannot be.
fn incoming(stream: Stream, fields: &Fields, peer: &Identity) -> Option<Incoming> {
    if fields.too_large {
        refuse(&stream, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        return None;
    }
    let text = |wanted: &str| {
        let field = fields.list.iter().find(|(name, _)| name == wanted.as_bytes());
        field.and_then(|(_, value): &(Bytes, Bytes)| str::from_utf8(value).ok())
    };
    let Some(method) = text(":method").and_then(|method| method.parse::<Method>().ok()) else {
        stream.reset(code::PROTOCOL_ERROR);
        return None;
    };
    let target = text(":authority").unwrap_or_default();
    let head = if method == Method::CONNECT {
        target
            .parse::<Authority>()
            .map(|authority| ConnectHead::read(authority, text, rand::random()))
            .map_err(|_| BadRequest::Authority(target.to_owned()))
    } else {
        Err(BadRequest::Method(method))
    };
    Some(Incoming { head, peer: peer.clone(), stream })
}
