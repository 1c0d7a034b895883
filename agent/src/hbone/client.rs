//! Shell: one connection to a peer's agent: handshake, check of the peer, CONNECT.
//! Never: chooses where.
use std::sync::Arc;

use bytes::BytesMut;
use http::StatusCode;
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, time::timeout};

use super::{
    ANSWER_TIMEOUT, ConnectHead, Error, HANDSHAKE_TIMEOUT, handshake,
    http2::{
        Broken,
        frame::code,
        hpack::{self, Fields},
        link::{Link, Stream},
    },
};
use crate::{
    drain::Drain,
    identity::{Credentials, Identity, svid::claimed_identity},
};

/// An HTTP/2 connection to a peer whose identity was checked. Dropped, it ends with its last stream.
#[derive(Debug)]
pub struct Connection {
    link: Arc<Link>,
    peer: Identity,
}

/// Why a CONNECT failed, and whether it was the connection's fault.
#[derive(Debug)]
pub struct ConnectError {
    /// Why.
    pub error: Error,
    /// The connection is gone, or the peer takes nothing more on it. It may be asked again on
    /// another: the application's bytes are sent only after an answer.
    pub lost: bool,
}

impl Connection {
    /// Shakes hands over `stream`. Nothing is asked of a peer that is not in `expected`.
    ///
    /// # Errors
    /// When TLS fails, or another identity answers.
    pub async fn open(
        stream: TcpStream,
        credentials: &Credentials,
        expected: &[Identity],
        drain: &Drain,
    ) -> Result<Self, Error> {
        let session =
            timeout(HANDSHAKE_TIMEOUT, handshake::connect(stream, credentials.client.clone()))
                .await
                .map_err(|_| Error::Timeout(HANDSHAKE_TIMEOUT))?
                .map_err(|error| Error::Tls(Arc::new(error)))?;
        let peer = check(session.peer.as_ref(), expected)?;
        let (link, driver) = Link::new(session, true);
        drain.spawn(async move {
            // A server's requests are no requests. How it ended, the streams say.
            let _ = driver.run(|stream, _| drop(stream)).await;
        });
        Ok(Self { link, peer })
    }

    /// Whom the peer proved to be.
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    /// Whether it takes no further streams.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// Streams that may be open on it at one time.
    pub fn max_streams(&self) -> usize {
        self.link.max_streams()
    }

    /// Opens a stream. The tunnel is open when the peer's agent has reached the application.
    ///
    /// # Errors
    /// When the peer refuses, does not answer, or the connection is broken.
    pub(super) async fn connect(&self, head: &ConnectHead) -> Result<Stream, ConnectError> {
        let failed = |error| ConnectError { error, lost: false };
        let broken = |why: Broken| ConnectError { lost: is_lost(&why), error: Error::Http2(why) };
        let stream = self.link.open(&request(head)).map_err(broken)?;
        let answer = timeout(ANSWER_TIMEOUT, stream.answer())
            .await
            .map_err(|_| failed(Error::Timeout(ANSWER_TIMEOUT)))?
            .map_err(broken)?;
        match status(&answer) {
            Some(StatusCode::OK) => Ok(stream),
            Some(other) => Err(failed(Error::Status(other))),
            None => Err(failed(Error::Http2(Broken::Reset(code::PROTOCOL_ERROR)))),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.say_farewell();
    }
}

fn check(
    certificate: Option<&CertificateDer<'_>>,
    expected: &[Identity],
) -> Result<Identity, Error> {
    match certificate.and_then(|certificate| claimed_identity(certificate)) {
        Some(found) if expected.contains(&found) => Ok(found),
        Some(found) => {
            Err(Error::Identity { expected: expected.to_vec(), found: found.to_string() })
        }
        None => Err(Error::Identity { expected: expected.to_vec(), found: "none".into() }),
    }
}

/// The header block of a CONNECT (RFC 9113 §8.5).
fn request(head: &ConnectHead) -> BytesMut {
    let mut block = BytesMut::with_capacity(512);
    hpack::write_known(&mut block, 2, Some(b"CONNECT"));
    hpack::write_known(&mut block, 1, Some(head.authority.to_string().as_bytes()));
    for (name, value) in head.headers() {
        hpack::write_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

fn status(answer: &Fields) -> Option<StatusCode> {
    let (_, value) = answer.list.iter().find(|(name, _)| name == ":status")?;
    StatusCode::from_bytes(value).ok()
}

/// Whether the connection broke, or the peer says that it did not act on the request (RFC 9113
/// §8.7).
fn is_lost(why: &Broken) -> bool {
    match why {
        Broken::Reset(reason) => *reason == code::REFUSED_STREAM,
        Broken::Io(_) | Broken::Refused(_) | Broken::Silent | Broken::Ended => true,
        Broken::Violation(_) => false,
    }
}
