//! Shell: accepts a peer's connection and yields its CONNECTs; answers as it is told.
//! Never: judges.
use std::{future::poll_fn, io, sync::Arc};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Method, Request, Response, StatusCode};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Authority, CONNECTION_WINDOW, ConnectHead, Error, FRAME_SIZE, HANDSHAKE_TIMEOUT,
    REQUEST_HEADERS, SEND_BUFFER, STREAM_WINDOW, STREAMS_ACCEPTED, Tunnel,
    client::silent,
    handshake,
    headers::{Baggage, write_baggage},
    secure::SecureStream,
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
    receive: RecvStream,
    respond: SendResponse<Bytes>,
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
/// When TLS or HTTP/2 fail; once that is over, when the connection breaks.
pub async fn serve(
    stream: TcpStream,
    credentials: &Credentials,
    drain: &Drain,
    on_connect: impl Fn(Incoming),
) -> Result<(), Error> {
    let stream = timeout(HANDSHAKE_TIMEOUT, handshake::accept(stream, credentials.server.clone()))
        .await
        .map_err(|_| Error::Timeout(HANDSHAKE_TIMEOUT))?
        .map_err(|error| Error::Tls(Arc::new(error)))?;
    let peer = peer(&stream)?;
    let mut connection = timeout(HANDSHAKE_TIMEOUT, settings().handshake(stream))
        .await
        .map_err(|_| Error::Timeout(HANDSHAKE_TIMEOUT))?
        .map_err(http2)?;
    let silence = silent(connection.ping_pong());
    tokio::pin!(silence);
    let mut draining = false;
    loop {
        let request = tokio::select! {
            request = connection.accept() => request,
            () = &mut silence => return Ok(()),
            () = drain.draining(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        match request {
            Some(Ok((request, respond))) => on_connect(incoming(request, respond, &peer)),
            Some(Err(error)) => return Err(http2(error)),
            None => return Ok(()),
        }
    }
}

impl Incoming {
    /// Opens the tunnel: 200, with a description of the workload that answers.
    ///
    /// # Errors
    /// When the stream is gone.
    pub fn accept(mut self, baggage: &Baggage) -> io::Result<Tunnel> {
        let mut response = Response::new(());
        write_baggage(response.headers_mut(), baggage);
        let send = self.respond.send_response(response, false).map_err(io::Error::other)?;
        Ok(Tunnel { send, receive: self.receive, permit: None })
    }

    /// Waits until the peer gives the stream up.
    pub async fn given_up(&mut self) {
        // An error means that the whole connection is gone.
        let _ = poll_fn(|context| self.respond.poll_reset(context)).await;
    }

    /// Answers with a status and nothing else.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // Fails when the stream is gone, and then nobody waits for it.
        let _ = self.respond.send_response(response, true);
    }
}

fn incoming(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    peer: &Identity,
) -> Incoming {
    let (parts, receive) = request.into_parts();
    let target = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
    let head = if parts.method == Method::CONNECT {
        target
            .parse::<Authority>()
            .map(|authority| ConnectHead::read(authority, &parts.headers, rand::random()))
            .map_err(|_| BadRequest::Authority(target))
    } else {
        Err(BadRequest::Method(parts.method))
    };
    Incoming { head, peer: peer.clone(), receive, respond }
}

/// The verifier let only peers with an identity pass.
fn peer(stream: &SecureStream) -> Result<Identity, Error> {
    stream
        .peer_certificate()
        .and_then(|certificate| claimed_identity(certificate))
        .ok_or_else(|| Error::Identity { expected: Vec::new(), found: "none".into() })
}

fn settings() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(REQUEST_HEADERS)
        .max_concurrent_streams(STREAMS_ACCEPTED)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

fn http2(error: h2::Error) -> Error {
    Error::Http2(Arc::new(error))
}
