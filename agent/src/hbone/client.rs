//! Shell: one connection to a peer's agent: handshake, check of the peer, CONNECT.
//! Never: chooses where.
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use h2::{PingPong, RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, StatusCode, Uri};
use tokio::{net::TcpStream, time::timeout};

use super::{
    ANSWER_HEADERS, ANSWER_TIMEOUT, CONNECTION_WINDOW, ConnectHead, Error, FRAME_SIZE,
    HANDSHAKE_TIMEOUT, PING_INTERVAL, PING_TIMEOUT, SEND_BUFFER, STREAM_WINDOW, STREAMS_OPENED,
    handshake, secure::SecureStream,
};
use crate::{
    drain::Drain,
    identity::{Credentials, Identity, svid::claimed_identity},
};

/// An HTTP/2 connection to a peer whose identity was checked.
#[derive(Debug)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    peer: Identity,
    closed: Arc<AtomicBool>,
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
    /// When TLS or HTTP/2 fail, or another identity answers.
    pub async fn open(
        stream: TcpStream,
        credentials: &Credentials,
        expected: &[Identity],
        drain: &Drain,
    ) -> Result<Self, Error> {
        let stream =
            timeout(HANDSHAKE_TIMEOUT, handshake::connect(stream, credentials.client.clone()))
                .await
                .map_err(|_| Error::Timeout(HANDSHAKE_TIMEOUT))?
                .map_err(|error| Error::Tls(Arc::new(error)))?;
        let peer = check(&stream, expected)?;
        let (requests, mut connection) = timeout(HANDSHAKE_TIMEOUT, settings().handshake(stream))
            .await
            .map_err(|_| Error::Timeout(HANDSHAKE_TIMEOUT))?
            .map_err(http2)?;
        let closed = Arc::new(AtomicBool::new(false));
        let (pings, ended) = (connection.ping_pong(), closed.clone());
        drain.spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = silent(pings) => {}
            }
            ended.store(true, Ordering::Relaxed);
        });
        Ok(Self { requests, peer, closed })
    }

    /// Whom the peer proved to be.
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Streams that may be open on it at one time.
    pub fn max_streams(&self) -> usize {
        self.requests.current_max_send_streams().min(STREAMS_OPENED)
    }

    /// Opens a stream. The tunnel is open when the peer's agent has reached the application.
    ///
    /// # Errors
    /// When the peer refuses, does not answer, or the connection is broken.
    pub async fn connect(
        &self,
        head: &ConnectHead,
    ) -> Result<(SendStream<Bytes>, RecvStream), ConnectError> {
        let lost = |error| ConnectError { error, lost: true };
        let failed = |error| ConnectError { error, lost: false };
        let request = request(head).map_err(failed)?;
        let ready = timeout(ANSWER_TIMEOUT, self.requests.clone().ready()).await;
        let mut requests = ready
            .map_err(|_| lost(Error::Timeout(ANSWER_TIMEOUT)))?
            .map_err(|error| lost(http2(error)))?;
        let (answer, send) =
            requests.send_request(request, false).map_err(|error| lost(http2(error)))?;
        let answer = timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| failed(Error::Timeout(ANSWER_TIMEOUT)))?
            .map_err(|error| ConnectError { lost: is_lost(&error), error: http2(error) })?;
        if answer.status() != StatusCode::OK {
            return Err(failed(Error::Status(answer.status())));
        }
        Ok((send, answer.into_body()))
    }
}

/// Ends when the peer no longer answers.
pub(super) async fn silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        match timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn check(stream: &SecureStream, expected: &[Identity]) -> Result<Identity, Error> {
    let found = stream.peer_certificate().and_then(|certificate| claimed_identity(certificate));
    match found {
        Some(found) if expected.contains(&found) => Ok(found),
        Some(found) => {
            Err(Error::Identity { expected: expected.to_vec(), found: found.to_string() })
        }
        None => Err(Error::Identity { expected: expected.to_vec(), found: "none".into() }),
    }
}

fn settings() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(ANSWER_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(STREAMS_OPENED)
        .enable_push(false);
    builder
}

fn request(head: &ConnectHead) -> Result<Request<()>, Error> {
    let failed = |error: http::Error| Error::Request(Arc::new(error));
    let uri: Uri = Uri::builder().authority(head.authority.to_string()).build().map_err(failed)?;
    let mut request =
        Request::builder().method(Method::CONNECT).uri(uri).body(()).map_err(failed)?;
    head.write(request.headers_mut());
    Ok(request)
}

/// Whether the connection broke, or the peer says that it did not act on the request (RFC 9113
/// §8.7).
fn is_lost(error: &h2::Error) -> bool {
    let refused = error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_io() || (error.is_remote() && refused)
}

fn http2(error: h2::Error) -> Error {
    Error::Http2(Arc::new(error))
}
