//! Shell: the HTTP connections to one endpoint, as one backend's.
//! Never: more idle ones than the named limit.
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
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
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Opened, failure,
    room::{self, Doors, Life, Open},
    streams::{Place, Streams},
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
    /// It is open as long as its task runs.
    open: Weak<Open>,
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
    Http1(Held),
    Http2(http2::SendRequest<RequestBody>, Place),
}

/// An HTTP/1 connection in use. It counts as open as long as it is held: an upgraded one outlives the
/// task that spoke HTTP on it.
#[derive(Debug)]
pub(super) struct Held {
    sender: http1::SendRequest<RequestBody>,
    life: Life,
    open: Arc<Open>,
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

/// The connection, its place among requests, and its attempt: all that is given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    _hold: Option<Hold>,
    _place: Option<Permit>,
    _ticket: Option<Box<Ticket>>,
}

#[derive(Debug)]
enum Hold {
    Http1(Held, Arc<Lane>, Arc<Meter>),
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
            let Idle { mut sender, since, life, open } = lock(&self.idle).pop()?;
            let Some(open) = open.upgrade() else { continue };
            let spent = now.saturating_duration_since(since) >= room::idle(pool);
            // It was read to its end, so it is ready at once, or dead.
            if !spent
                && !life.is_over(pool, now)
                && !sender.is_closed()
                && sender.ready().await.is_ok()
            {
                return Some(Connection::Http1(Held { sender, life: life.used(), open }));
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
            // Boxed: sessions are large, and few begin.
            Opened::SecuredTunnel(secured) => {
                let speaking = secured.inner().speak();
                let stream = (secured.into_stream(), Some(speaking));
                Box::pin(self.begin(stream, version, open, drain)).await
            }
            Opened::Secured(secured) => {
                let stream = (secured.into_stream(), None);
                Box::pin(self.begin(stream, version, open, drain)).await
            }
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
                let open = Arc::new(open);
                let held = Held { sender, life: Life::new(clock::now()), open: open.clone() };
                drain.spawn(async move {
                    // How it ended, its requests say.
                    let _ = connection.with_upgrades().await;
                    drop((speaking, open));
                });
                Ok(Connection::Http1(held))
            }
            Version::Http2 => {
                let begun = self.http2(drain).handshake(io).await;
                let (sender, connection) = begun.map_err(|e| failure::of_http(&e))?;
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

    /// How HTTP/2 is spoken.
    fn http2(&self, drain: &Drain) -> http2::Builder<Owned> {
        let mut builder = http2::Builder::new(Owned(drain.clone()));
        builder
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(LONGEST_HEAD as u32)
            .max_send_buf_size(MOST_UNSENT);
        if let Some(pings) = lock(&self.policy).connection_pool.http2_keepalive {
            builder
                .timer(TokioTimer::new())
                .keep_alive_while_idle(true)
                .keep_alive_interval(pings.interval)
                .keep_alive_timeout(pings.timeout);
        }
        builder
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

    fn give_back(&self, Held { sender, life, open }: Held) {
        let mut idle = lock(&self.idle);
        let over = life.is_over(&lock(&self.policy).connection_pool, clock::now());
        if idle.len() < MOST_IDLE && !sender.is_closed() && !over {
            idle.push(Idle { sender, since: clock::now(), life, open: Arc::downgrade(&open) });
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
            Self::Http1(mut held) => {
                let answer = held.sender.try_send_request(request).await;
                (answer, Hold::Http1(held, lane.clone(), meter))
            }
            Self::Http2(mut sender, place) => {
                let answer = sender.try_send_request(request).await;
                place.answered();
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
            Self::Http1(held) => lane.give_back(held),
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
    pub fn taken(&mut self) -> Taken {
        Taken { _hold: self.hold.take(), _place: self.place.take(), _ticket: self.ticket.take() }
    }
}

impl From<TrySendError<Request<RequestBody>>> for Unsent {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let request = error.take_message().map(Box::new);
        Self { failure: failure::of_http(error.error()), request }
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
            Some(Hold::Http1(held, lane, meter)) if ended && meter.has_ended() => {
                lane.give_back(held);
            }
            Some(Hold::Http1(..) | Hold::Http2(_)) | None => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
