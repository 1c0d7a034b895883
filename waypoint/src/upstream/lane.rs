//! Shell: the HTTP connections to one endpoint, as one backend's.
//! Never: more idle ones than the named limit.
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use super::{
    Opened, failure,
    room::{self, Doors, Life, Open},
};
use crate::{
    backend::{CallPolicy, ConnectionPool},
    balance::{Permit, Ticket},
    body::{Meter, RequestBody},
    listener::{
        TunnelStream, Version,
        serve::{LONGEST_HEAD, MOST_UNSENT, Owned, STREAMS},
        stream::Speaking,
    },
    outcome::{Failure, Outcome},
};

/// A connection to an endpoint that carries nothing is closed after this long, if its backend does not
/// ask for less.
pub(super) const IDLE: Duration = Duration::from_secs(90);
/// HTTP/1 connections to one endpoint that wait for a request.
const MOST_IDLE: usize = 128;
/// Bytes of bodies that one HTTP/2 connection may have sent us before we passed them on.
const WINDOW: u32 = 1 << 20;

/// All connections to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Lane {
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Vec<Shared>>,
    /// One dial at a time.
    dialling: tokio::sync::Mutex<()>,
    pub(super) doors: Arc<Doors>,
    /// How the backend is called, as of the last request.
    policy: Mutex<Arc<CallPolicy>>,
}

/// An HTTP/1 connection that waits for a request.
#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
    life: Life,
}

/// An HTTP/2 connection.
#[derive(Clone, Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<Streams>,
    last_used: Instant,
    life: Life,
}

/// One place on a connection.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(http1::SendRequest<RequestBody>, Life),
    Http2(http2::SendRequest<RequestBody>, Place),
}

/// A stream of an HTTP/2 connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Streams>, Arc<Doors>);

/// The streams of an HTTP/2 connection.
#[derive(Debug)]
struct Streams {
    open: AtomicUsize,
    /// How many the endpoint takes.
    most: AtomicUsize,
    /// The endpoint has answered one, so it has said how many.
    answered: AtomicBool,
    said: Notify,
}

impl Default for Streams {
    fn default() -> Self {
        let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(STREAMS as usize));
        Self { open, most, answered: AtomicBool::new(false), said: Notify::new() }
    }
}

impl Streams {
    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn has_room(&self, most: usize) -> bool {
        self.open() < most.min(self.most.load(Ordering::Relaxed))
    }

    /// One was answered.
    fn answered(&self) {
        if !self.answered.swap(true, Ordering::Relaxed) {
            self.said.notify_one();
        }
    }

    /// The endpoint takes so many.
    fn takes(&self, most: usize, doors: &Doors) {
        if self.most.swap(most, Ordering::Relaxed) < most {
            doors.free();
        }
    }

    /// Drives their connection to its end, and follows how many the endpoint takes.
    async fn carry<T>(&self, connection: http2::Connection<T, RequestBody, Owned>, doors: &Doors)
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        let mut connection = std::pin::pin!(connection);
        loop {
            let carried = poll_fn(|context| {
                let polled = connection.as_mut().poll(context);
                self.takes(connection.current_max_send_streams(), doors);
                polled
            });
            tokio::select! {
                // How it ended, its requests say.
                _ = carried => return,
                () = self.said.notified() => {}
            }
        }
    }
}

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
    /// What is given back with it: its place among requests, and its attempt.
    place: Option<Permit>,
    ticket: Option<Box<Ticket>>,
}

#[derive(Debug)]
enum Hold {
    Http1(http1::SendRequest<RequestBody>, Life, Arc<Lane>, Arc<Meter>),
    /// hyper takes a connection for over when nobody can send on it, whatever streams it has.
    Http2(
        #[expect(dead_code, reason = "they count while they are held")]
        (http2::SendRequest<RequestBody>, Place),
    ),
}

impl Lane {
    /// A connection that lives and has room, unless somebody waits for it.
    pub(super) async fn at_once(&self, pool: &ConnectionPool) -> Option<Connection> {
        match self.doors.is_awaited() {
            true => None,
            false => self.take(pool).await,
        }
    }

    /// A connection that lives and has room.
    pub(super) async fn take(&self, pool: &ConnectionPool) -> Option<Connection> {
        let now = clock::now();
        if let Some(shared) = self.shared(pool, now) {
            return Some(shared);
        }
        loop {
            let Idle { mut sender, since, life } = lock(&self.idle).pop()?;
            let spent = now.saturating_duration_since(since) >= room::idle(pool);
            // It was read to its end, so it is ready at once, or dead.
            if !spent
                && !life.is_over(pool, now)
                && !sender.is_closed()
                && sender.ready().await.is_ok()
            {
                return Some(Connection::Http1(sender, life.used()));
            }
        }
    }

    /// A connection that many requests share: only one task dials, and those who waited for it have
    /// what it comes to. Says whether the connection was there already.
    pub(super) async fn shared_dial(
        &self,
        pool: &ConnectionPool,
        connect: impl Future<Output = Result<(Connection, bool), Failure>>,
    ) -> Result<(Connection, bool), Failure> {
        let asked = clock::now();
        let _dialling = self.dialling.lock().await;
        if let Some(connection) = self.take(pool).await {
            return Ok((connection, true));
        }
        self.doors.failed_since(asked)?;
        connect.await
    }

    /// Begins to speak HTTP.
    pub(super) async fn connect(
        &self,
        opened: Opened,
        version: Version,
        open: Open,
        drain: &Drain,
    ) -> Result<Connection, Failure> {
        match opened {
            Opened::Tunnel(tunnel) => {
                let stream = TunnelStream::from(tunnel);
                let speaking = stream.speak();
                self.begin((stream, Some(speaking)), version, open, drain).await
            }
            Opened::Plain(stream) => self.begin((stream, None), version, open, drain).await,
        }
    }

    async fn begin(
        &self,
        (stream, speaking): (
            impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
            Option<Speaking>,
        ),
        version: Version,
        open: Open,
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
                    drop((speaking, open));
                });
                Ok(Connection::Http1(sender, Life::new(clock::now())))
            }
            Version::Http2 => {
                let begun = http2::Builder::new(Owned(drain.clone()))
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW)
                    .max_header_list_size(LONGEST_HEAD as u32)
                    .max_send_buf_size(MOST_UNSENT)
                    .handshake(io);
                let (sender, connection) = begun.await.map_err(|e| failure::of_http(&e))?;
                let (streams, doors) = (Arc::new(Streams::default()), self.doors.clone());
                let of_it = streams.clone();
                drain.spawn(async move {
                    of_it.carry(connection, &doors).await;
                    drop((speaking, open));
                });
                Ok(self.share(sender, &streams))
            }
        }
    }

    fn share(&self, sender: http2::SendRequest<RequestBody>, streams: &Arc<Streams>) -> Connection {
        let place = Place::new(streams, &self.doors);
        let (last_used, life) = (clock::now(), Life::new(clock::now()));
        let (streams, shared) = (streams.clone(), sender.clone());
        lock(&self.shared).push(Shared { sender: shared, streams, last_used, life });
        Connection::Http2(sender, place)
    }

    fn shared(&self, pool: &ConnectionPool, now: Instant) -> Option<Connection> {
        let mut shared = lock(&self.shared);
        // Those that take no more end with their last stream.
        shared.retain(|shared| {
            let unused = shared.streams.open() == 0;
            let spent =
                unused && now.saturating_duration_since(shared.last_used) >= room::idle(pool);
            !spent && !shared.sender.is_closed() && !shared.life.is_over(pool, now)
        });
        let most = STREAMS.min(pool.max_concurrent_streams) as usize;
        let free = shared.iter_mut().find(|shared| shared.streams.has_room(most))?;
        (free.last_used, free.life) = (now, free.life.used());
        Some(Connection::Http2(free.sender.clone(), Place::new(&free.streams, &self.doors)))
    }

    fn give_back(&self, sender: http1::SendRequest<RequestBody>, life: Life) {
        let mut idle = lock(&self.idle);
        let over = life.is_over(&lock(&self.policy).connection_pool, clock::now());
        if idle.len() < MOST_IDLE && !sender.is_closed() && !over {
            idle.push(Idle { sender, since: clock::now(), life });
            drop(idle);
            self.doors.free();
        }
    }

    /// How the backend is called.
    pub(super) fn follow(&self, policy: &Arc<CallPolicy>) {
        let mut known = lock(&self.policy);
        if !Arc::ptr_eq(&known, policy) {
            known.clone_from(policy);
        }
    }

    /// Forgets connections that are over; whether something is left, if only one that takes no more.
    pub(super) fn is_used(&self, now: Instant) -> bool {
        let policy = lock(&self.policy).clone();
        let pool = &policy.connection_pool;
        let after = room::idle(pool);
        let quiet = |since: Instant| now.saturating_duration_since(since) >= after;
        lock(&self.idle).retain(|idle| {
            !idle.sender.is_closed() && !quiet(idle.since) && !idle.life.is_over(pool, now)
        });
        lock(&self.shared).retain(|shared| {
            let unused = shared.streams.open() == 0;
            let spent = unused && (quiet(shared.last_used) || shared.life.is_over(pool, now));
            !spent && !shared.sender.is_closed()
        });
        self.doors.is_open()
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
            Self::Http1(mut sender, life) => {
                let answer = sender.try_send_request(request).await;
                (answer, Hold::Http1(sender, life, lane.clone(), meter))
            }
            Self::Http2(mut sender, place) => {
                let answer = sender.try_send_request(request).await;
                place.0.answered();
                (answer, Hold::Http2((sender, place)))
            }
        };
        let answer = answer.map_err(Unsent::from)?;
        let body =
            |body| AnswerBody { body, ended: false, hold: Some(hold), place: None, ticket: None };
        Ok(answer.map(body))
    }

    /// Nothing is sent on it.
    pub(super) fn release(self, lane: &Lane) {
        match self {
            Self::Http1(sender, life) => lane.give_back(sender, life),
            Self::Http2(_, place) => drop(place),
        }
    }
}

impl AnswerBody {
    /// Its place among requests is taken until it ends.
    pub(super) fn holding(mut self, place: Permit) -> Self {
        self.place = Some(place);
        self
    }

    /// The attempt is under way until it ends, and hears of it if it breaks off.
    #[must_use]
    pub fn of(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(Box::new(ticket));
        self
    }

    /// What is taken as long as something else follows in place of a body.
    pub fn taken(&mut self) -> (Option<Permit>, Option<Box<Ticket>>) {
        (self.place.take(), self.ticket.take())
    }
}

impl From<TrySendError<Request<RequestBody>>> for Unsent {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let request = error.take_message().map(Box::new);
        Self { failure: failure::of_http(error.error()), request }
    }
}

impl Place {
    fn new(streams: &Arc<Streams>, doors: &Arc<Doors>) -> Self {
        streams.open.fetch_add(1, Ordering::Relaxed);
        Self(streams.clone(), doors.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.1.free();
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
        let polled = polled.map_err(|error| failure::of_http(&error));
        if let (Poll::Ready(Some(Err(why))), Some(ticket)) = (&polled, &self.ticket) {
            ticket.report(&Outcome::Cut(why.clone()));
        }
        polled
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
            Some(Hold::Http1(sender, life, lane, meter)) if ended && meter.has_ended() => {
                lane.give_back(sender, life);
            }
            Some(Hold::Http1(..) | Hold::Http2(_)) | None => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
