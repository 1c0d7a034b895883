//! Pure: what the peer says of streams.
//! Never: what their owners do.
use bytes::Bytes;

use super::{
    FAREWELL, MAX_WINDOW, MOST_CONTROL, MOST_GIVEN_UP, MOST_NUISANCE, Request, Stream, Streams,
};
use crate::hbone::{
    ANSWER_HEADERS, REQUEST_HEADERS, STREAMS_ACCEPTED,
    http2::{
        Broken, Violation,
        frame::{self, Frame, code, flag, kind},
        hpack::Fields,
        reader::Event,
    },
};

impl Streams {
    /// Takes what the peer said. Requests are for the owner of the connection.
    ///
    /// # Errors
    /// When the peer must not say that: the connection ends.
    pub fn apply(&mut self, event: Event, requests: &mut Vec<Request>) -> Result<(), Violation> {
        match event {
            Event::Data { stream, bytes, counted, end } => self.data(stream, bytes, (counted, end)),
            Event::Headers { stream, block, end } => {
                let limit = if self.is_client { ANSWER_HEADERS } else { REQUEST_HEADERS };
                let fields = self.decoder.read(&block, limit as usize)?;
                self.headers(stream, fields, end, requests)
            }
            Event::Frame(frame) => self.frame(frame),
        }?;
        if self.nuisance > MOST_NUISANCE || self.given_up > MOST_GIVEN_UP {
            let why = "frames that bring nothing";
            return Err(Violation { code: code::ENHANCE_YOUR_CALM, why });
        }
        if self.out.len() > MOST_CONTROL {
            let why = "a peer that asks and does not listen";
            return Err(Violation { code: code::ENHANCE_YOUR_CALM, why });
        }
        Ok(())
    }

    fn data(
        &mut self,
        id: u32,
        bytes: Bytes,
        (counted, end): (u32, bool),
    ) -> Result<(), Violation> {
        self.nuisance = if bytes.is_empty() && !end { self.nuisance + 1 } else { 0 };
        self.asked = 0;
        self.receive_window -= i64::from(counted);
        if self.receive_window < 0 {
            return Err(Violation::flow("more DATA than the connection's window"));
        }
        self.is_known(id)?;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.reset.is_none()) else {
            // It was given up, and the peer did not know yet.
            self.release_all(counted);
            return Ok(());
        };
        if stream.received_all {
            return Err(Violation { code: code::STREAM_CLOSED, why: "DATA behind the end" });
        }
        stream.receive_window -= i64::from(counted);
        if stream.receive_window < 0 {
            return Err(Violation::flow("more DATA than the stream's window"));
        }
        stream.held += counted;
        stream.received_all = end;
        let padding = counted.saturating_sub(u32::try_from(bytes.len()).unwrap_or(counted));
        if !bytes.is_empty() {
            stream.take(bytes);
        }
        self.woken.extend(stream.reader.take());
        self.settle(id);
        self.release(id, padding as usize);
        Ok(())
    }

    fn headers(
        &mut self,
        id: u32,
        fields: Fields,
        end: bool,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        if self.is_client {
            self.is_known(id)?;
        } else if id > self.last {
            return self.request(id, fields, end, requests);
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.reset.is_none()) else {
            return Ok(());
        };
        let interim = |fields: &Fields| {
            fields.list.iter().any(|(name, value)| name == ":status" && value.starts_with(b"1"))
        };
        match stream.answer {
            // More will come (RFC 9110 §15.2).
            None if self.is_client && !end && interim(&fields) => self.nuisance += 1,
            None if self.is_client => {
                self.nuisance = 0;
                stream.answer = Some(fields);
            }
            // Trailers.
            None | Some(_) if !end => return Err(Violation::protocol("HEADERS within a stream")),
            None | Some(_) => {}
        }
        stream.received_all |= end;
        self.woken.extend(stream.reader.take());
        self.settle(id);
        Ok(())
    }

    fn request(
        &mut self,
        id: u32,
        fields: Fields,
        end: bool,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        if id.is_multiple_of(2) {
            return Err(Violation::protocol("a client's stream with an even number"));
        }
        self.last = id;
        if self.leaving || self.open >= STREAMS_ACCEPTED as usize {
            self.given_up += 1;
            frame::write_reset(&mut self.out, id, code::REFUSED_STREAM);
            return Ok(());
        }
        self.nuisance = 0;
        let stream = Stream { received_all: end, ..Stream::new(self.peer_window) };
        self.streams.insert(id, stream);
        self.acted = id;
        self.open += 1;
        requests.push(Request { stream: id, fields });
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> Result<(), Violation> {
        match frame {
            Frame::Reset { stream, code } => {
                self.is_known(stream)?;
                let unanswered = |s: &Stream| !s.answered && s.reset.is_none();
                if !self.is_client && self.streams.get(&stream).is_some_and(unanswered) {
                    self.given_up += 1;
                }
                self.nuisance += u32::from(!self.streams.contains_key(&stream));
                self.break_stream(stream, Broken::Reset(code));
            }
            Frame::Settings(settings) => {
                self.nuisance += 1;
                self.settled = true;
                self.agree(settings)?;
                frame::write(&mut self.out, (kind::SETTINGS, flag::ACK, 0), &[]);
            }
            Frame::SettingsTaken | Frame::Other => self.nuisance += 1,
            Frame::Ping(data) => {
                self.nuisance += 1;
                frame::write(&mut self.out, (kind::PING, flag::ACK, 0), &data);
            }
            Frame::Pong(FAREWELL) if self.farewell => {
                self.leave();
            }
            Frame::Pong(_) => self.asked = 0,
            Frame::GoAway { last, code } => self.abandoned_above(last, code),
            Frame::WindowUpdate { stream, increment } => {
                self.asked = 0;
                self.widen(stream, increment)?;
            }
        }
        Ok(())
    }

    fn agree(&mut self, settings: frame::Settings) -> Result<(), Violation> {
        if let Some(streams) = settings.max_streams {
            self.peer_streams = streams as usize;
        }
        let Some(window) = settings.initial_window else { return Ok(()) };
        let difference = i64::from(window) - i64::from(self.peer_window);
        self.peer_window = window;
        for stream in self.streams.values_mut() {
            stream.send_window += difference;
            if stream.send_window > MAX_WINDOW {
                return Err(Violation::flow("a window beyond its bound"));
            }
            self.woken.extend(stream.writer.take());
        }
        Ok(())
    }

    fn widen(&mut self, id: u32, increment: u32) -> Result<(), Violation> {
        if id == 0 {
            self.send_window += i64::from(increment);
            if self.send_window > MAX_WINDOW {
                return Err(Violation::flow("a window beyond its bound"));
            }
            self.wake_writers();
            return Ok(());
        }
        self.is_known(id)?;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.send_window += i64::from(increment);
        self.woken.extend(stream.writer.take());
        if stream.send_window > MAX_WINDOW {
            self.reset(id, code::FLOW_CONTROL_ERROR);
        }
        Ok(())
    }

    /// The peer acted on none of our streams above `last`.
    fn abandoned_above(&mut self, last: u32, code: u32) {
        self.leaving = true;
        let abandoned = |id: &&u32| self.is_client && **id > last;
        for id in self.streams.keys().filter(abandoned).copied().collect::<Vec<_>>() {
            self.break_stream(id, Broken::Refused(code));
        }
    }

    /// A stream that nobody opened must not be spoken of (RFC 9113 §5.1).
    fn is_known(&self, id: u32) -> Result<(), Violation> {
        let known = if self.is_client { id < self.next } else { id <= self.last };
        if known && !id.is_multiple_of(2) {
            return Ok(());
        }
        Err(Violation::protocol("a frame on a stream that nobody opened"))
    }
}
