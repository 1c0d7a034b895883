//! Shell: serves the requests of one connection, HTTP/1 or HTTP/2, within named limits.
//! Never: looks past the head.
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use culvert_agent::drain::Drain;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;

use super::{
    TunnelStream,
    deadline::{self, Deadline, in_time},
    idle::{IDLE, idle},
    paced::{Held, Paced, Turns},
    resets::Resets,
    stream::Speaking,
};
use crate::outcome::LocalReply;

/// The longest head of a request, bytes; a longer one is answered with 431 (Envoy's
/// `max_request_headers_kb`). A request has at most 100 headers besides (hyper's `max_headers`).
pub const LONGEST_HEAD: usize = 60 << 10;
/// A head that has begun must be whole after this long, and so must whatever else a client of HTTP/2
/// begins to say, but bodies.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that may be open on one HTTP/2 connection.
pub const STREAMS: u32 = 100;
/// Bytes of bodies that one HTTP/2 connection may have sent us before we passed them on.
const WINDOW: u32 = 1 << 20;
/// Bytes of a message that wait for the window of an HTTP/2 stream.
pub const MOST_UNSENT: usize = 64 << 10;
/// Streams that a client may have reset before we looked at them (CVE-2023-44487).
const MOST_RESET: usize = 20;
/// Streams that we may have reset for a client's errors (CVE-2025-8671).
const MOST_ERRORS: usize = 64;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Answers the requests on `stream` until the client has no more, or `drain` asks to finish: then those
/// that have begun are answered, and no others are taken.
///
/// # Errors
/// When the connection breaks, or the client does not keep to HTTP.
pub async fn serve<F, B>(
    stream: TunnelStream,
    version: Version,
    drain: &Drain,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> Result<(), hyper::Error>
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match version {
        // Cut, a response takes its connection with it.
        Version::Http1 => {
            let served = Box::pin(in_time(None, serve_http1(stream, drain, answer))).await;
            served.unwrap_or(Ok(()))
        }
        Version::Http2 => Box::pin(serve_http2(stream, drain, answer)).await,
    }
}

async fn serve_http1<F, B>(
    stream: TunnelStream,
    drain: &Drain,
    answer: impl Fn(Request<Incoming>) -> F,
) -> Result<(), hyper::Error>
where
    F: Future<Output = Response<B>>,
    B: Body + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (speaking, turns) = (stream.speak(), Turns::default());
    let paced = Paced::first(stream, &turns);
    let service = service_fn(|request| {
        let (busy, answered) = (turns.take(), answer(request));
        async move { Ok::<_, Infallible>(begun(answered.await).map(|body| Held::new(body, busy))) }
    });
    let connection = http1::Builder::new()
        .max_buf_size(LONGEST_HEAD)
        .max_header_size(LONGEST_HEAD)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(paced), service)
        .with_upgrades();
    let (mut connection, mut over) = (pin!(connection), pin!(over(&speaking, None)));
    tokio::select! {
        ended = &mut connection => return ended,
        () = &mut over => return last_word(connection).await,
        () = drain.draining() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = &mut connection => ended,
        () = over => last_word(connection).await,
    }
}

/// How a connection that is over ended, if it can say so itself.
async fn last_word<E>(
    mut connection: Pin<&mut impl Future<Output = Result<(), E>>>,
) -> Result<(), E> {
    poll_fn(|context| match connection.as_mut().poll(context) {
        Poll::Ready(ended) => Poll::Ready(ended),
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await
}

/// Waits until nobody is there any more: the tunnel is broken, or has carried nothing for long, or the
/// client gives up what it asks for.
async fn over(speaking: &Speaking, resets: Option<&Resets>) {
    let too_many = async {
        match resets {
            Some(resets) => resets.too_many().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = speaking.broken() => {}
        () = idle(|| speaking.moved(), IDLE) => {}
        () = too_many => {}
    }
}

async fn serve_http2<F, B>(
    stream: TunnelStream,
    drain: &Drain,
    answer: impl Fn(Request<Incoming>) -> F,
) -> Result<(), hyper::Error>
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (speaking, resets) = (stream.speak(), Resets::default());
    let service = service_fn(|request| {
        let (answered, unanswered) = (answer(request), resets.begin());
        async move {
            let answer = answered.await;
            unanswered.answered();
            Ok::<_, Infallible>(begun(answer))
        }
    });
    let connection = http2::Builder::new(InTime(drain.clone()))
        .max_concurrent_streams(STREAMS)
        // Websockets (RFC 8441 §3).
        .enable_connect_protocol()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(LONGEST_HEAD as u32)
        .max_send_buf_size(MOST_UNSENT)
        .max_pending_accept_reset_streams(MOST_RESET)
        .max_local_error_reset_streams(MOST_ERRORS)
        .serve_connection(TokioIo::new(Paced::second(stream)), service);
    let (mut connection, mut over) = (pin!(connection), pin!(over(&speaking, Some(&resets))));
    tokio::select! {
        ended = &mut connection => return ended,
        () = &mut over => return last_word(connection).await,
        () = drain.draining() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = &mut connection => ended,
        () = over => last_word(connection).await,
    }
}

/// A response that begins to be sent, within its time.
fn begun<B>(mut response: Response<B>) -> Response<B> {
    deadline::begin(response.extensions_mut().remove::<Deadline>());
    response
}

/// How a head that could not be read was answered.
pub fn unread(error: &hyper::Error) -> Option<LocalReply> {
    if error.is_parse_too_large() {
        return Some(LocalReply::too_large());
    }
    error.is_parse().then(|| LocalReply::bad_request("http1.codec_error"))
}

/// Spawns what hyper wants to have run, so that it has an owner and an end.
#[derive(Clone, Debug)]
pub struct Owned(pub Drain);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Owned {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The same, each within the time of the response that it sends.
#[derive(Clone, Debug)]
struct InTime(Drain);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InTime {
    fn execute(&self, task: F) {
        // An upgrade goes on with the response that has agreed to it.
        let deadline = deadline::current();
        self.0.spawn(async move {
            // Gone, it has reset its stream.
            let _: Option<()> = in_time(deadline, task).await;
        });
    }
}
