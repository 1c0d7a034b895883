//! Pure: the streams of one connection: what the peer says and what their owners do, in; frames to be
//! sent and tasks to be woken, out.
//! Never: seals, sends, waits.
use std::{
    collections::HashMap,
    mem,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Broken, Pieces,
    frame::{self, code, flag, kind},
    hpack::{Decoder, Fields},
};
use crate::hbone::{
    ANSWER_HEADERS, CONNECTION_WINDOW, FRAME_SIZE, REQUEST_HEADERS, STREAM_WINDOW,
    STREAMS_ACCEPTED, STREAMS_OPENED,
};

mod heard;

/// The window that both sides start with, and the longest header frame (RFC 9113 §6.5.2).
const DEFAULT_WINDOW: u32 = 65_535;
const HEADERS_FRAME: usize = 16_384;
/// The largest window there is (RFC 9113 §6.9.1).
const MAX_WINDOW: i64 = 0x7fff_ffff;
/// The last stream that there can be.
const LAST_STREAM: u32 = 0x7fff_ffff;
/// Frames that bring nothing, between two pings of ours or two that bring something.
const MOST_NUISANCE: u32 = 1_000;
/// Streams that a peer may give up before they were answered, more than it let be answered: more is
/// "rapid reset" (CVE-2023-44487).
const MOST_GIVEN_UP: u32 = 200;
/// Control frames that wait for a peer which does not read, bytes.
const MOST_CONTROL: usize = 1 << 20;
/// Pieces that may wait for a stream's task before larger ones are copied too.
const MOST_PIECES: usize = 4;
/// What is small and copied, bytes.
const SMALL: usize = 1 << 10;
/// What they are put together to, bytes.
const JOINED: usize = 16 << 10;
/// The PING that separates the two GOAWAYs of a graceful end (RFC 9113 §6.8).
const FAREWELL: [u8; 8] = *b"farewell";
/// The PING that asks whether the peer lives.
const ALIVE: [u8; 8] = *b"culvert?";

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Request {
    /// Its stream.
    pub stream: u32,
    /// Its headers.
    pub fields: Fields,
}

/// One stream.
#[derive(Debug)]
struct Stream {
    send_window: i64,
    receive_window: i64,
    /// Bytes that came and were not passed on yet.
    held: u32,
    /// Bytes that were passed on and that the peer was not told of.
    released: u32,
    inbox: Pieces,
    answer: Option<Fields>,
    answered: bool,
    sent_all: bool,
    received_all: bool,
    reset: Option<Broken>,
    /// It no longer counts.
    over: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The streams of one connection.
#[derive(Debug)]
pub struct Streams {
    is_client: bool,
    streams: HashMap<u32, Stream>,
    /// The next of ours.
    next: u32,
    /// The last of the peer's, and the last that we acted on.
    last: u32,
    acted: u32,
    open: usize,
    send_window: i64,
    receive_window: i64,
    released: u32,
    peer_window: u32,
    peer_streams: usize,
    /// No further streams come about.
    leaving: bool,
    /// The owner wants no further streams, and the peer was told.
    farewell: bool,
    /// When nothing more will come.
    gone: Option<Broken>,
    decoder: Decoder,
    nuisance: u32,
    given_up: u32,
    /// Pings that were not answered yet.
    asked: u32,
    /// The peer has said what it wants.
    settled: bool,
    /// Frames to be sent.
    pub out: BytesMut,
    /// Tasks to be woken.
    pub woken: Vec<Waker>,
}

impl Streams {
    /// Says the first words of a client or a server.
    pub fn new(is_client: bool) -> Self {
        let mut out = BytesMut::new();
        if is_client {
            out.put_slice(frame::PREFACE);
        }
        let common = [(4, STREAM_WINDOW), (5, FRAME_SIZE)];
        let own = match is_client {
            // ENABLE_PUSH, and the longest headers.
            true => [(2, 0), (6, ANSWER_HEADERS)],
            false => [(3, STREAMS_ACCEPTED), (6, REQUEST_HEADERS)],
        };
        frame::write_settings(&mut out, &[common, own].concat());
        frame::write_window(&mut out, 0, CONNECTION_WINDOW - DEFAULT_WINDOW);
        Self {
            is_client,
            streams: HashMap::new(),
            next: 1,
            last: 0,
            acted: 0,
            open: 0,
            send_window: DEFAULT_WINDOW.into(),
            receive_window: CONNECTION_WINDOW.into(),
            released: 0,
            peer_window: DEFAULT_WINDOW,
            peer_streams: STREAMS_OPENED,
            leaving: false,
            farewell: false,
            gone: None,
            decoder: Decoder::default(),
            nuisance: 0,
            given_up: 0,
            asked: 0,
            settled: false,
            out,
            woken: Vec::new(),
        }
    }

    /// Whether no further stream can come about.
    pub fn is_closed(&self) -> bool {
        self.leaving || self.gone.is_some()
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.gone.is_some() || (self.leaving && self.open == 0)
    }

    /// Streams that are open, while the connection is.
    pub fn open_streams(&self) -> usize {
        if self.gone.is_none() { self.open } else { 0 }
    }

    /// Why it ended.
    pub fn gone(&self) -> Option<&Broken> {
        self.gone.as_ref()
    }

    /// Streams that may be open at one time.
    pub fn max_streams(&self) -> usize {
        self.peer_streams.min(STREAMS_OPENED)
    }

    fn break_stream(&mut self, id: u32, why: Broken) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.reset.get_or_insert(why);
        self.woken.extend(stream.reader.take());
        self.woken.extend(stream.writer.take());
        self.settle(id);
    }

    /// A stream that is over makes room for another.
    fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let over = stream.reset.is_some() || (stream.sent_all && stream.received_all);
        if over && !mem::replace(&mut stream.over, true) {
            self.open = self.open.saturating_sub(1);
        }
    }

    /// Those that wait to send look again.
    pub fn wake_writers(&mut self) {
        self.woken.extend(self.streams.values_mut().filter_map(|stream| stream.writer.take()));
    }

    /// The connection is over.
    pub fn fail(&mut self, why: Broken) {
        if self.gone.is_some() {
            return;
        }
        let tell = match &why {
            Broken::Violation(violation) => Some(violation.code),
            Broken::Silent | Broken::Ended => Some(code::NO_ERROR),
            Broken::Io(_) | Broken::Reset(_) | Broken::Refused(_) => None,
        };
        if let Some(code) = tell {
            frame::write_go_away(&mut self.out, self.acted, code);
        }
        self.gone = Some(why);
        for stream in self.streams.values_mut() {
            self.woken.extend(stream.reader.take());
            self.woken.extend(stream.writer.take());
        }
    }

    /// Asks whether the peer lives. Says whether it has not answered the last two times, or not even
    /// begun to speak HTTP/2.
    pub fn ask(&mut self) -> bool {
        self.nuisance = 0;
        self.given_up /= 2;
        if self.farewell && !self.leaving {
            self.leave();
        }
        let silent = self.asked >= 2 || !self.settled;
        self.asked += 1;
        frame::write(&mut self.out, (kind::PING, 0, 0), &ALIVE);
        silent
    }

    /// Lets the streams that there are end, and takes no others once the peer knows.
    pub fn say_farewell(&mut self) {
        if self.farewell || self.gone.is_some() {
            return;
        }
        self.farewell = true;
        if self.is_client {
            self.leaving = true;
            return;
        }
        frame::write_go_away(&mut self.out, LAST_STREAM, code::NO_ERROR);
        frame::write(&mut self.out, (kind::PING, 0, 0), &FAREWELL);
    }

    /// The peer knows by now, or had time to.
    fn leave(&mut self) {
        self.leaving = true;
        frame::write_go_away(&mut self.out, self.acted, code::NO_ERROR);
    }

    /// Opens a stream of ours with the headers in `block`.
    ///
    /// # Errors
    /// When there can be no further one here.
    pub fn open(&mut self, block: &[u8]) -> Result<u32, Broken> {
        if let Some(gone) = &self.gone {
            return Err(gone.clone());
        }
        if self.leaving || self.open >= self.max_streams() {
            return Err(Broken::Refused(code::NO_ERROR));
        }
        let id = self.next;
        self.next += 2;
        self.leaving = self.next > LAST_STREAM - 2;
        self.streams.insert(id, Stream::new(self.peer_window));
        self.open += 1;
        self.write_headers(id, block, false);
        Ok(id)
    }

    /// Answers a request; with `end`, nothing comes behind it.
    ///
    /// # Errors
    /// When nobody waits for it any more.
    pub fn answer(&mut self, id: u32, block: &[u8], end: bool) -> Result<(), Broken> {
        let stream = self.stream(id)?;
        stream.answered = true;
        stream.sent_all = end;
        self.given_up = self.given_up.saturating_sub(1);
        self.write_headers(id, block, end);
        self.settle(id);
        Ok(())
    }

    fn write_headers(&mut self, id: u32, block: &[u8], end: bool) {
        let parts = block.chunks(HEADERS_FRAME).count();
        for (number, part) in block.chunks(HEADERS_FRAME).enumerate() {
            let last = if number + 1 == parts { flag::END_HEADERS } else { 0 };
            let (kind, flags) = match number {
                0 => (kind::HEADERS, last | if end { flag::END_STREAM } else { 0 }),
                _ => (kind::CONTINUATION, last),
            };
            frame::write(&mut self.out, (kind, flags, id), part);
        }
    }

    /// The answer to a request of ours.
    ///
    /// # Errors
    /// When none will come.
    pub fn poll_answer(&mut self, id: u32, context: &Context<'_>) -> Poll<Result<Fields, Broken>> {
        let gone = self.gone.clone();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Broken::Ended));
        };
        if let Some(fields) = stream.answer.take() {
            // What comes next are trailers.
            stream.answer = Some(Fields::default());
            return Poll::Ready(Ok(fields));
        }
        if let Some(why) = stream.reset.clone().or(gone) {
            return Poll::Ready(Err(why));
        }
        stream.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Bytes of the stream, into `pieces`, which are empty. Says whether there are any, or the end.
    ///
    /// # Errors
    /// When the stream broke.
    pub fn poll_next(
        &mut self,
        id: u32,
        context: &Context<'_>,
        pieces: &mut Pieces,
    ) -> Poll<Result<bool, Broken>> {
        let gone = self.gone.clone();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Broken::Ended));
        };
        if !stream.inbox.is_empty() {
            mem::swap(pieces, &mut stream.inbox);
            return Poll::Ready(Ok(true));
        }
        match stream.reset.clone().or(gone) {
            _ if stream.received_all => Poll::Ready(Ok(false)),
            // A peer that has nothing more to say and nothing to hear may end like this; Istio's
            // agents do, and read it as an end.
            Some(Broken::Reset(code::NO_ERROR | code::CANCEL)) => Poll::Ready(Ok(false)),
            Some(why) => Poll::Ready(Err(why)),
            None => {
                stream.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits until the stream is broken, and for nothing else.
    pub fn poll_broken(&mut self, id: u32, context: &Context<'_>) -> Poll<()> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.reset.is_none() && self.gone.is_none() => {
                stream.reader = Some(context.waker().clone());
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Bytes that were taken from the stream have been passed on: the peer may send as many again.
    pub fn release(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(stream.held);
        stream.held -= bytes;
        stream.released += bytes;
        let told = stream.received_all || stream.reset.is_some();
        if stream.released >= STREAM_WINDOW / 2 && !told {
            frame::write_window(&mut self.out, id, stream.released);
            stream.receive_window += i64::from(mem::take(&mut stream.released));
        }
        self.release_all(bytes);
    }

    fn release_all(&mut self, bytes: u32) {
        self.released += bytes;
        if self.released >= CONNECTION_WINDOW / 2 {
            frame::write_window(&mut self.out, 0, self.released);
            self.receive_window += i64::from(mem::take(&mut self.released));
        }
    }

    /// Bytes that may be sent on the stream now.
    ///
    /// # Errors
    /// When it broke.
    pub fn room(&mut self, id: u32) -> Result<usize, Broken> {
        let connection = self.send_window;
        let room = self.stream(id)?.send_window.min(connection).max(0);
        Ok(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// `bytes` were sent on it.
    pub fn sent(&mut self, id: u32, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.send_window -= bytes;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send_window -= bytes;
        }
    }

    /// Wakes the task when there may be room again.
    pub fn wait_for_room(&mut self, id: u32, context: &Context<'_>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.writer = Some(context.waker().clone());
        }
    }

    /// Nothing more will be sent on the stream.
    ///
    /// # Errors
    /// When it broke.
    pub fn finish(&mut self, id: u32) -> Result<(), Broken> {
        let stream = self.stream(id)?;
        if !mem::replace(&mut stream.sent_all, true) {
            frame::write(&mut self.out, (kind::DATA, flag::END_STREAM, id), &[]);
        }
        self.settle(id);
        Ok(())
    }

    /// Ends the stream at once.
    pub fn reset(&mut self, id: u32, code: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.over) else { return };
        stream.reset = Some(Broken::Reset(code));
        self.woken.extend(stream.reader.take());
        self.woken.extend(stream.writer.take());
        if self.gone.is_none() {
            frame::write_reset(&mut self.out, id, code);
        }
        self.settle(id);
    }

    /// Its owner is gone. What it did not take is passed on to nobody.
    pub fn forget(&mut self, id: u32) {
        self.reset(id, code::CANCEL);
        if let Some(stream) = self.streams.remove(&id) {
            self.release_all(stream.held);
        }
    }

    fn stream(&mut self, id: u32) -> Result<&mut Stream, Broken> {
        if let Some(gone) = &self.gone {
            return Err(gone.clone());
        }
        let stream = self.streams.get_mut(&id).ok_or(Broken::Ended)?;
        match &stream.reset {
            Some(why) => Err(why.clone()),
            None => Ok(stream),
        }
    }
}

impl Stream {
    fn new(window: u32) -> Self {
        Self {
            send_window: window.into(),
            receive_window: STREAM_WINDOW.into(),
            held: 0,
            released: 0,
            inbox: Pieces::new(),
            answer: None,
            answered: false,
            sent_all: false,
            received_all: false,
            reset: None,
            over: false,
            reader: None,
            writer: None,
        }
    }

    /// Each piece keeps the buffer that it was read into: small ones are copied, and so are larger ones
    /// of which many wait.
    fn take(&mut self, bytes: Bytes) {
        let small = if self.inbox.len() < MOST_PIECES { SMALL } else { JOINED / 2 };
        if bytes.len() >= small {
            return self.inbox.push_back(bytes);
        }
        let last = self.inbox.pop_back().unwrap_or_default();
        if last.len() + bytes.len() > JOINED {
            self.inbox.push_back(last);
            return self.inbox.push_back(Bytes::copy_from_slice(&bytes));
        }
        // Ours alone once it was copied, and then it grows in place.
        let mut joined = last.try_into_mut().unwrap_or_else(|last| BytesMut::from(&last[..]));
        joined.put_slice(&bytes);
        self.inbox.push_back(joined.freeze());
    }
}

#[cfg(test)]
mod tests;
