//! Shell: one HTTP/2 connection over TLS: a task that reads, and handles with which the owners of
//! streams take and send for themselves.
//! Never: judges what is said (see `streams`); holds the lock while it waits.
use std::{
    future::poll_fn,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    Broken, Pieces, Violation,
    frame::{HEAD, Head, code, kind},
    hpack::Fields,
    reader::{Event, Reader},
    streams::{Request, Streams},
};
use crate::hbone::{
    PING_INTERVAL,
    record::MAX_PLAINTEXT,
    secure::{self, MOST_UNSENT, Receiver, Sender, Session},
};

/// For how long the last bytes of a connection that ended well may take to leave.
const FAREWELL_TIME: Duration = Duration::from_secs(30);
/// For how long the last words on one that broke may, and the peer's own.
const GOODBYE_TIME: Duration = Duration::from_secs(1);
/// Sealed bytes beyond [`MOST_UNSENT`]: those that answer a peer which asks and does not listen.
const MOST_UNHEARD: usize = MOST_UNSENT + (1 << 20);
/// Sealed bytes up to which streams of one connection wait for each other, so that they leave together.
const SMALL_BATCH: usize = 16 << 10;
/// Streams that met nobody so many times do not wait again,
const MET_NOBODY: u32 = 8;
/// before they have sent so many times.
const ALONE_FOR: u32 = 64;
/// Pieces that one record is made of, at most.
const MOST_PARTS: usize = 8;

/// A connection. Its handles share it.
#[derive(Debug)]
pub(in crate::hbone) struct Link {
    socket: TcpStream,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    streams: Streams,
    sender: Sender,
    /// The socket takes nothing at the moment; the reading task waits for it.
    blocked: bool,
    /// The reading task.
    reader: Option<Waker>,
    batch: Batch,
}

/// What several streams say in one turn of the runtime leaves together: to send is most of the work.
#[derive(Debug, Default)]
struct Batch {
    /// How often something was added; 0: nothing waits.
    size: u32,
    /// It leaves now.
    due: bool,
    /// How often in a row it was for one only.
    alone: u32,
}

impl Batch {
    /// Whether what is sealed waits for more. The task that ends the wait must be woken if it begins.
    fn waits(&mut self, streams: usize, unsent: usize) -> bool {
        if mem::take(&mut self.due) || streams < 2 || unsent == 0 || unsent > SMALL_BATCH {
            return false;
        }
        if self.alone >= MET_NOBODY {
            self.alone = (self.alone + 1) % ALONE_FOR;
            return false;
        }
        self.size += 1;
        true
    }

    fn leave(&mut self) {
        self.alone = if self.size > 1 { 0 } else { self.alone + 1 };
        (self.size, self.due) = (0, true);
    }
}

/// The reading side of a connection.
#[derive(Debug)]
pub(in crate::hbone) struct Driver {
    link: Arc<Link>,
    receiver: Receiver,
    reader: Reader,
    pieces: Vec<Bytes>,
    events: Vec<Event>,
    requests: Vec<Request>,
}

/// One stream. Dropped before both directions ended, it resets the stream.
#[derive(Debug)]
pub(in crate::hbone) struct Stream {
    link: Arc<Link>,
    id: u32,
}

impl Link {
    /// Begins to speak HTTP/2.
    pub(in crate::hbone) fn new(session: Session, is_client: bool) -> (Arc<Self>, Driver) {
        let Session { socket, receiver, sender, peer: _ } = session;
        let streams = Streams::new(is_client);
        let shared =
            Shared { streams, sender, blocked: false, reader: None, batch: Batch::default() };
        let link = Arc::new(Self { socket, shared: Mutex::new(shared) });
        // The first words.
        link.with(|_| ());
        let driver = Driver {
            link: link.clone(),
            receiver,
            reader: Reader::new(!is_client),
            pieces: Vec::new(),
            events: Vec::new(),
            requests: Vec::new(),
        };
        (link, driver)
    }

    /// Whether it takes no further streams.
    pub(in crate::hbone) fn is_closed(&self) -> bool {
        self.lock().streams.is_closed()
    }

    /// Streams that may be open on it at one time.
    pub(in crate::hbone) fn max_streams(&self) -> usize {
        self.lock().streams.max_streams()
    }

    /// Lets the streams that there are end, and takes no others.
    pub(in crate::hbone) fn say_farewell(&self) {
        self.with(|shared| shared.streams.say_farewell());
    }

    /// Opens a stream of ours.
    pub(in crate::hbone) fn open(self: &Arc<Self>, block: &[u8]) -> Result<Stream, Broken> {
        let id = self.with(|shared| shared.streams.open(block))?;
        Ok(Stream { link: self.clone(), id })
    }

    /// Acts, then wakes whom it concerns, and sends what came of it.
    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        let mut shared = self.lock();
        let done = act(&mut shared);
        let mut sealed = shared.next();
        let mut woken = mem::take(&mut shared.streams.woken);
        drop(shared);
        woken.drain(..).for_each(Waker::wake);
        while let Some(mut bytes) = sealed {
            let sent = secure::send(&self.socket, &mut bytes);
            let mut shared = self.lock();
            shared.sent(sent, bytes);
            sealed = shared.next();
            woken = mem::take(&mut shared.streams.woken);
            drop(shared);
            woken.drain(..).for_each(Waker::wake);
        }
        done
    }

    /// Lets what waits leave when everybody who has something to say has had a turn.
    async fn gather(&self) {
        loop {
            poll_fn(|context| self.poll_batch(context)).await;
            tokio::task::yield_now().await;
            self.with(|shared| shared.batch.leave());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when something waits.
    fn poll_batch(&self, context: &Context<'_>) -> Poll<()> {
        let mut shared = self.lock();
        // Under the lock: who begins to wait from here on finds whom to wake.
        shared.wakes(context);
        if shared.batch.size == 0 { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Waits until nothing is left to be sent, or nothing can be.
    fn poll_sent(&self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_send(context));
        let mut shared = self.lock();
        // Somebody else may be sending.
        shared.wakes(context);
        if shared.sender.unsent() == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads what nobody wants to know, until the peer's end.
    async fn hear_out(&self) -> io::Result<()> {
        let mut nothing = vec![0; 4 << 10];
        loop {
            self.socket.readable().await?;
            match self.socket.try_read(&mut nothing) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what waits; afterwards the task is woken when the socket takes more.
    fn poll_send(&self, context: &mut Context<'_>) -> Poll<()> {
        while self.lock().blocked {
            if self.socket.poll_write_ready(context).is_pending() {
                return Poll::Pending;
            }
            self.with(|shared| shared.blocked = false);
        }
        Poll::Ready(())
    }
}

impl Shared {
    /// The reading task is woken when there is something for it to do.
    fn wakes(&mut self, context: &Context<'_>) {
        let waker = context.waker();
        self.reader.get_or_insert_with(|| waker.clone()).clone_from(waker);
    }

    /// What is to be sent next, if the socket takes anything.
    fn next(&mut self) -> Option<BytesMut> {
        if !self.streams.out.is_empty() {
            let frames = mem::take(&mut self.streams.out);
            if let Err(error) = self.sender.seal_all(&frames) {
                self.streams.fail(Broken::Io(Arc::new(io::Error::other(error))));
            }
        }
        if self.sender.unsent() > MOST_UNHEARD {
            let why = "a peer that asks and does not listen";
            let violation = Violation { code: code::ENHANCE_YOUR_CALM, why };
            self.streams.fail(Broken::Violation(violation));
        }
        if self.streams.is_done() {
            self.streams.woken.extend(self.reader.take());
        }
        if self.blocked {
            return None;
        }
        if self.batch.waits(self.streams.open_streams(), self.sender.unsent()) {
            self.streams.woken.extend(self.reader.take());
            return None;
        }
        self.sender.take()
    }

    /// `rest` is what the socket did not take.
    fn sent(&mut self, sent: io::Result<()>, rest: BytesMut) {
        let full = self.sender.unsent() >= MOST_UNSENT;
        match sent {
            Ok(()) => {
                self.blocked = !rest.is_empty();
                self.sender.give_back(rest);
            }
            Err(error) => {
                self.sender.give_up();
                self.streams.fail(Broken::Io(Arc::new(error)));
            }
        }
        if full && self.sender.unsent() < MOST_UNSENT {
            self.streams.wake_writers();
        }
        if self.blocked {
            self.streams.woken.extend(self.reader.take());
        }
    }

    fn poll_put(
        &mut self,
        id: u32,
        context: &mut Context<'_>,
        pieces: &mut Pieces,
    ) -> Poll<Result<(), Broken>> {
        while !pieces.is_empty() {
            let room = self.room(id)?;
            if room == 0 {
                self.streams.wait_for_room(id, context);
                return Poll::Pending;
            }
            let sealed = self.seal(id, pieces, room);
            sealed.map_err(|error| Broken::Io(Arc::new(error)))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that the peer and the socket take of the stream now.
    fn room(&mut self, id: u32) -> Result<usize, Broken> {
        let room = self.streams.room(id)?;
        Ok(if self.sender.unsent() < MOST_UNSENT { room } else { 0 })
    }

    /// Seals the beginning of `pieces` as one DATA frame in one record.
    fn seal(&mut self, id: u32, pieces: &mut Pieces, room: usize) -> io::Result<()> {
        let mut parts: [&[u8]; MOST_PARTS] = [&[]; MOST_PARTS];
        let (mut length, most) = (0, room.min(MAX_PLAINTEXT - HEAD));
        for (part, piece) in parts[1..].iter_mut().zip(&*pieces) {
            *part = &piece[..piece.len().min(most - length)];
            length += part.len();
        }
        let head = Head { length, kind: kind::DATA, flags: 0, stream: id }.bytes();
        parts[0] = &head;
        self.sender.seal(&parts).map_err(io::Error::other)?;
        self.streams.sent(id, length);
        while let Some(piece) = pieces.front_mut() {
            let taken = piece.len().min(length);
            piece.advance(taken);
            length -= taken;
            if !piece.is_empty() {
                break;
            }
            pieces.pop_front();
        }
        Ok(())
    }
}

impl Driver {
    /// Reads until the connection ends. Each request goes to `on_request`.
    pub(in crate::hbone) async fn run(
        mut self,
        on_request: impl Fn(Stream, Fields),
    ) -> Result<(), Broken> {
        let first = Instant::now() + PING_INTERVAL;
        let mut pings = interval_at(first, PING_INTERVAL);
        // Who stood still for a while must not take the peer for silent.
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let link = self.link.clone();
        loop {
            tokio::select! {
                // The reading task is woken for it.
                () = link.gather() => {}
                () = poll_fn(|context| self.poll(context, &on_request)) => break,
                _ = pings.tick() => self.link.with(|shared| {
                    if shared.streams.ask() {
                        shared.streams.fail(Broken::Silent);
                    }
                }),
            }
        }
        let gone = link.lock().streams.gone().cloned();
        drop(self);
        let time = if gone.is_none() { FAREWELL_TIME } else { GOODBYE_TIME };
        let _ = timeout(time, poll_fn(|context| link.poll_sent(context))).await;
        let _ = SockRef::from(&link.socket).shutdown(std::net::Shutdown::Write);
        // Closed with bytes unread, the socket would reset the connection before the peer has ours.
        let _ = timeout(GOODBYE_TIME, link.hear_out()).await;
        match gone {
            None | Some(Broken::Ended) => Ok(()),
            Some(broken) => Err(broken),
        }
    }

    /// Does what can be done now. Ready when the connection is over.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        on_request: &impl Fn(Stream, Fields),
    ) -> Poll<()> {
        loop {
            self.link.lock().wakes(context);
            let _ = self.link.poll_send(context);
            if let Err(broken) = self.hear(on_request) {
                self.link.with(|shared| shared.streams.fail(broken));
            }
            if self.link.lock().streams.is_done() {
                return Poll::Ready(());
            }
            let why = match self.receiver.poll_fill(&self.link.socket, context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(true)) => continue,
                // Without the peer's goodbye an end may be anybody's.
                Poll::Ready(Ok(false)) => io::ErrorKind::UnexpectedEof.into(),
                Poll::Ready(Err(error)) => error,
            };
            self.link.with(|shared| shared.streams.fail(Broken::Io(Arc::new(why))));
        }
    }

    /// Takes what has been read.
    fn hear(&mut self, on_request: &impl Fn(Stream, Fields)) -> Result<(), Broken> {
        let renew = |requested| self.link.with(|shared| shared.sender.renew(requested));
        let ended = self.receiver.open(&mut self.pieces, renew);
        // What came before an error counts.
        let mut pieces = self.pieces.drain(..);
        let fed = pieces.try_for_each(|piece| self.reader.feed(piece, &mut self.events));
        drop(pieces);
        let mut applied = Ok(());
        if !self.events.is_empty() {
            let (events, requests) = (&mut self.events, &mut self.requests);
            applied = self.link.with(|shared| {
                events.drain(..).try_for_each(|event| shared.streams.apply(event, requests))
            });
        }
        for Request { stream: id, fields } in self.requests.drain(..) {
            on_request(Stream { link: self.link.clone(), id }, fields);
        }
        applied.and(fed).map_err(Broken::Violation)?;
        match ended {
            Ok(false) => Ok(()),
            Ok(true) => Err(Broken::Ended),
            Err(error) => Err(Broken::Io(Arc::new(error))),
        }
    }
}

impl Drop for Driver {
    /// Nobody reads any more: whoever waits for the peer must not do so for ever.
    fn drop(&mut self) {
        self.link.with(|shared| {
            shared.streams.fail(Broken::Ended);
            let frames = mem::take(&mut shared.streams.out);
            let _ = shared.sender.seal_all(&frames);
            // Fails when the session is worn out, and then there is nothing to say it with.
            let _ = shared.sender.say_goodbye();
        });
    }
}

impl Stream {
    /// The answer to our request.
    pub(in crate::hbone) async fn answer(&self) -> Result<Fields, Broken> {
        poll_fn(|context| self.link.with(|shared| shared.streams.poll_answer(self.id, context)))
            .await
    }

    /// Answers the peer's request; with `end`, nothing comes behind it.
    pub(in crate::hbone) fn respond(&self, block: &[u8], end: bool) -> Result<(), Broken> {
        self.link.with(|shared| shared.streams.answer(self.id, block, end))
    }

    /// Bytes that came, into `pieces`, which are empty; `false` at the end.
    pub(in crate::hbone) fn poll_next(
        &self,
        context: &Context<'_>,
        pieces: &mut Pieces,
    ) -> Poll<Result<bool, Broken>> {
        self.link.lock().streams.poll_next(self.id, context, pieces)
    }

    /// Bytes that were taken have been passed on.
    pub(in crate::hbone) fn release(&self, bytes: usize) {
        self.link.with(|shared| shared.streams.release(self.id, bytes));
    }

    /// Sends all pieces, as fast as the peer lets it; what was taken is gone from them.
    pub(in crate::hbone) fn poll_put(
        &self,
        context: &mut Context<'_>,
        pieces: &mut Pieces,
    ) -> Poll<Result<(), Broken>> {
        self.link.with(|shared| shared.poll_put(self.id, context, pieces))
    }

    /// Says that nothing more will come.
    pub(in crate::hbone) fn finish(&self) -> Result<(), Broken> {
        self.link.with(|shared| shared.streams.finish(self.id))
    }

    /// Ends it at once.
    pub(in crate::hbone) fn reset(&self, code: u32) {
        self.link.with(|shared| shared.streams.reset(self.id, code));
    }

    /// Waits until it is broken.
    pub(in crate::hbone) async fn broken(&self) {
        poll_fn(|context| self.link.lock().streams.poll_broken(self.id, context)).await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.link.with(|shared| shared.streams.forget(self.id));
    }
}
