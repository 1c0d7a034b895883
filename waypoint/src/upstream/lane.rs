//! Shell: the HTTP connections to one endpoint, as one backend's.
//! Never: more idle ones than the named limit.
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use culvert_agent::{clock, drain::Drain};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Opened, failure};
use crate::{
    body::{Meter, RequestBody},
    listener::{
        TunnelStream, Version,
        serve::{LONGEST_HEAD, MOST_UNSENT, Owned, STREAMS},
        stream::Speaking,
    },
    outcome::Failure,
};

/// HTTP/1 connections to one endpoint that wait for a request.
const MOST_IDLE: usize = 128;
/// Bytes of bodies that one HTTP/2 connection may have sent us before we passed them on.
const WINDOW: u32 = 1 << 20;

/// All connections to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Lane {
    idle: Mutex<Vec<(http1::SendRequest<RequestBody>, Instant)>>,
    shared: Mutex<Vec<Shared>>,
    /// One dial at a time. Holds when and why the last one failed, for those who waited for it.
    dialling: tokio::sync::Mutex<Option<(Instant, Failure)>>,
}

/// An HTTP/2 connection.
#[derive(Clone, Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    last_used: Instant,
}

/// One place on a connection.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>, Place),
}

/// A stream of an HTTP/2 connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

/// No response; with the request, if nothing of it was sent.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) failure: Failure,
    pub(super) request: Option<Box<Request<RequestBody>>>,
}

/// The body of a response. When it has been read to its end, its connection takes the next request.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    ended: bool,
    hold: Option<Hold>,
}

#[derive(Debug)]
enum Hold {
    Http1(http1::SendRequest<RequestBody>, Arc<Lane>, Arc<Meter>),
    Http2(#[expect(dead_code, reason = "it counts while it is held")] Place),
}

impl Lane {
    /// A connection that lives and has room.
    pub(super) async fn take(&self) -> Option<Connection> {
        if let Some(shared) = self.shared() {
            return Some(shared);
        }
        loop {
            let (mut sender, _) = lock(&self.idle).pop()?;
            // It was read to its end, so it is ready at once, or dead.
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(Connection::Http1(sender));
            }
        }
    }

    /// A connection that many requests share: only one task dials, and those who waited for it have
    /// what it comes to. Says whether the connection was there already.
    pub(super) async fn shared_dial(
        &self,
        connect: impl Future<Output = Result<Connection, Failure>>,
    ) -> Result<(Connection, bool), Failure> {
        let asked = clock::now();
        let mut last = self.dialling.lock().await;
        if let Some(connection) = self.take().await {
            return Ok((connection, true));
        }
        if let Some((at, failure)) = &*last
            && *at >= asked
        {
            return Err(failure.clone());
        }
        let made = connect.await;
        *last = made.as_ref().err().map(|failure| (clock::now(), failure.clone()));
        made.map(|connection| (connection, false))
    }

    /// Begins to speak HTTP.
    pub(super) async fn connect(
        &self,
        opened: Opened,
        version: Version,
        drain: &Drain,
    ) -> Result<Connection, Failure> {
        match opened {
            Opened::Tunnel(tunnel) => {
                let stream = TunnelStream::from(tunnel);
                let speaking = stream.speak();
                self.begin((stream, Some(speaking)), version, drain).await
            }
            Opened::Plain(stream) => self.begin((stream, None), version, drain).await,
        }
    }

    async fn begin(
        &self,
        (stream, speaking): (
            impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
            Option<Speaking>,
        ),
        version: Version,
        drain: &Drain,
    ) -> Result<Connection, Failure> {
        let io = TokioIo::new(stream);
        match version {
            Version::Http1 => {
                let begun = http1::Builder::new().max_buf_size(4 * LONGEST_HEAD).handshake(io);
                let (sender, connection) = begun.await.map_err(|e| failure::of_http(&e))?;
                drain.spawn(async move {
                    // How it ended, its requests say.
                    let _ = connection.with_upgrades().await;
                    drop(speaking);
                });
                Ok(Connection::Http1(sender))
            }
            Version::Http2 => {
                let begun = http2::Builder::new(Owned(drain.clone()))
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW)
                    .max_header_list_size(LONGEST_HEAD as u32)
                    .max_send_buf_size(MOST_UNSENT)
                    .handshake(io);
                let (sender, connection) = begun.await.map_err(|e| failure::of_http(&e))?;
                drain.spawn(async move {
                    let _ = connection.await;
                    drop(speaking);
                });
                Ok(self.share(sender))
            }
        }
    }

    fn share(&self, sender: http2::SendRequest<RequestBody>) -> Connection {
        let streams = Arc::new(AtomicUsize::new(0));
        let place = Place::new(&streams);
        let last_used = clock::now();
        lock(&self.shared).push(Shared { sender: sender.clone(), streams, last_used });
        Connection::Http2(sender, place)
    }

    fn shared(&self) -> Option<Connection> {
        let mut shared = lock(&self.shared);
        shared.retain(|shared| !shared.sender.is_closed());
        let most = STREAMS as usize;
        let free = shared.iter_mut().find(|s| s.streams.load(Ordering::Relaxed) < most)?;
        free.last_used = clock::now();
        Some(Connection::Http2(free.sender.clone(), Place::new(&free.streams)))
    }

    fn give_back(&self, sender: http1::SendRequest<RequestBody>) {
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE && !sender.is_closed() {
            idle.push((sender, clock::now()));
        }
    }

    /// Whether something is left.
    pub(super) fn sweep(&self, now: Instant, after: Duration) -> bool {
        let quiet = |since: Instant| now.saturating_duration_since(since) >= after;
        let mut idle = lock(&self.idle);
        idle.retain(|(sender, since)| !sender.is_closed() && !quiet(*since));
        let mut shared = lock(&self.shared);
        shared.retain(|shared| {
            let unused = shared.streams.load(Ordering::Relaxed) == 0;
            let spent = unused && quiet(shared.last_used);
            !spent && !shared.sender.is_closed()
        });
        !idle.is_empty() || !shared.is_empty()
    }
}

impl Connection {
    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(
        self,
        lane: &Arc<Lane>,
        request: Request<RequestBody>,
    ) -> Result<Response<AnswerBody>, Unsent> {
        let meter = request.body().meter().clone();
        let (answer, hold) = match self {
            Self::Http1(mut sender) => {
                let answer = sender.try_send_request(request).await;
                (answer, Hold::Http1(sender, lane.clone(), meter))
            }
            Self::Http2(mut sender, place) => {
                (sender.try_send_request(request).await, Hold::Http2(place))
            }
        };
        let answer = answer.map_err(Unsent::from)?;
        Ok(answer.map(|body| AnswerBody { body, ended: false, hold: Some(hold) }))
    }
}

impl From<TrySendError<Request<RequestBody>>> for Unsent {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let request = error.take_message().map(Box::new);
        Self { failure: failure::of_http(error.error()), request }
    }
}

impl Place {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(streams.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.ended = self.ended || matches!(polled, Poll::Ready(None));
        polled.map_err(|error| failure::of_http(&error))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let ended = self.ended || self.body.is_end_stream();
        match self.hold.take() {
            Some(Hold::Http1(sender, lane, meter)) if ended && meter.has_ended() => {
                lane.give_back(sender);
            }
            Some(Hold::Http1(..) | Hold::Http2(_)) | None => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
