//! Pure: what streams make of what peers say.
use std::task::{Context, Poll, Waker};

use super::*;
use crate::hbone::http2::{Violation, frame::Head, hpack, reader::Reader};

/// Both ends of a connection, without a socket.
struct Pair {
    client: Streams,
    server: Streams,
    to_server: Reader,
    to_client: Reader,
    requests: Vec<Request>,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            client: Streams::new(true),
            server: Streams::new(false),
            to_server: Reader::new(true),
            to_client: Reader::new(false),
            requests: Vec::new(),
        };
        pair.talk();
        pair
    }

    /// Passes everything on until both have nothing more to say.
    fn talk(&mut self) {
        while !(self.client.out.is_empty() && self.server.out.is_empty()) {
            let bytes = mem::take(&mut self.client.out).freeze();
            hear(&mut self.to_server, &mut self.server, bytes, &mut self.requests).unwrap();
            let bytes = mem::take(&mut self.server.out).freeze();
            hear(&mut self.to_client, &mut self.client, bytes, &mut Vec::new()).unwrap();
        }
    }

    /// A tunnel that both ends have.
    fn tunnel(&mut self) -> u32 {
        let id = self.client.open(&connect()).unwrap();
        self.talk();
        let request = self.requests.pop().unwrap();
        assert_eq!((request.stream, self.requests.len()), (id, 0));
        self.server.answer(id, &ok(), false).unwrap();
        self.talk();
        let Poll::Ready(Ok(answer)) = self.client.poll_answer(id, &context()) else { panic!() };
        assert_eq!(answer.list[0].1, "200");
        id
    }

    /// The client sends, whatever its room; the server hears.
    fn send(&mut self, id: u32, bytes: &[u8]) -> Result<(), Violation> {
        self.client.sent(id, bytes.len());
        let head = Head { length: bytes.len(), kind: kind::DATA, flags: 0, stream: id }.bytes();
        let frame = Bytes::from([&head[..], bytes].concat());
        hear(&mut self.to_server, &mut self.server, frame, &mut self.requests)
    }
}

fn hear(
    reader: &mut Reader,
    streams: &mut Streams,
    bytes: Bytes,
    requests: &mut Vec<Request>,
) -> Result<(), Violation> {
    let mut events = Vec::new();
    reader.feed(bytes, &mut events)?;
    events.into_iter().try_for_each(|event| streams.apply(event, requests))
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn connect() -> BytesMut {
    let mut block = BytesMut::new();
    hpack::write_known(&mut block, 2, Some(b"CONNECT"));
    hpack::write_known(&mut block, 1, Some(b"10.0.0.1:80"));
    block
}

fn ok() -> BytesMut {
    let mut block = BytesMut::new();
    hpack::write_known(&mut block, 8, None);
    block
}

fn taken(streams: &mut Streams, id: u32) -> Option<Vec<u8>> {
    let mut pieces = Pieces::new();
    match streams.poll_next(id, &context(), &mut pieces) {
        Poll::Ready(Ok(true)) => Some(pieces.into_iter().flatten().collect()),
        Poll::Ready(Ok(false)) => Some(Vec::new()),
        Poll::Ready(Err(_)) | Poll::Pending => None,
    }
}

#[test]
fn bytes_flow_and_each_direction_ends_by_itself() {
    let mut pair = Pair::new();
    let id = pair.tunnel();
    pair.send(id, b"hello").unwrap();
    assert_eq!(taken(&mut pair.server, id).as_deref(), Some(&b"hello"[..]));
    assert_eq!(taken(&mut pair.server, id), None);
    pair.client.finish(id).unwrap();
    pair.talk();
    assert_eq!(taken(&mut pair.server, id).as_deref(), Some(&b""[..]));
    assert!(pair.server.room(id).unwrap() > 0, "the other direction goes on");
    pair.server.finish(id).unwrap();
    pair.talk();
    assert_eq!(taken(&mut pair.client, id).as_deref(), Some(&b""[..]));
    assert_eq!((pair.client.open, pair.server.open), (0, 0));
    pair.client.forget(id);
    assert!(pair.client.out.is_empty(), "what is over is not reset");
}

#[test]
fn who_does_not_take_its_bytes_stops_its_own_stream_only() {
    let mut pair = Pair::new();
    let (stalled, other) = (pair.tunnel(), pair.tunnel());
    let chunk = vec![7; 1 << 20];
    for _ in 0..STREAM_WINDOW >> 20 {
        pair.send(stalled, &chunk).unwrap();
    }
    assert_eq!(pair.client.room(stalled).unwrap(), 0);
    for _ in 0..50 {
        assert!(pair.client.room(other).unwrap() >= chunk.len());
        pair.send(other, &chunk).unwrap();
        let bytes = taken(&mut pair.server, other).unwrap().len();
        pair.server.release(other, bytes);
        pair.talk();
    }
    // More than there was room for.
    let violation = pair.send(stalled, b"x").unwrap_err();
    assert_eq!(violation.code, code::FLOW_CONTROL_ERROR);
}

#[test]
fn what_was_taken_or_left_behind_makes_room_again() {
    let mut pair = Pair::new();
    for _ in 0..40 {
        let id = pair.tunnel();
        for _ in 0..3 {
            pair.send(id, &vec![7; 1 << 20]).unwrap();
        }
        let bytes = taken(&mut pair.server, id).unwrap().len();
        pair.server.release(id, bytes / 3);
        // Its owner is gone, and leaves the rest.
        pair.server.forget(id);
        pair.talk();
        pair.client.forget(id);
        pair.talk();
    }
    assert!(pair.client.send_window > i64::from(CONNECTION_WINDOW / 2));
    assert_eq!((pair.client.streams.len(), pair.server.streams.len()), (0, 0));
}

#[test]
fn a_reset_reaches_the_other_side_behind_the_bytes_before_it() {
    let mut pair = Pair::new();
    let id = pair.tunnel();
    pair.send(id, b"last words").unwrap();
    pair.client.reset(id, code::CONNECT_ERROR);
    pair.talk();
    assert_eq!(taken(&mut pair.server, id).as_deref(), Some(&b"last words"[..]));
    let next = pair.server.poll_next(id, &context(), &mut Pieces::new());
    assert!(matches!(next, Poll::Ready(Err(Broken::Reset(code::CONNECT_ERROR)))), "{next:?}");
    assert!(matches!(pair.server.room(id), Err(Broken::Reset(_))));
    assert_eq!((pair.client.open, pair.server.open), (0, 0));
}

#[test]
fn streams_beyond_the_limit_are_refused_and_not_acted_on() {
    let mut pair = Pair::new();
    pair.client.peer_streams = usize::MAX;
    let all: Vec<_> = (0..STREAMS_OPENED).map(|_| pair.client.open(&connect()).unwrap()).collect();
    assert!(matches!(pair.client.open(&connect()), Err(Broken::Refused(_))));
    pair.talk();
    assert_eq!(pair.requests.len(), all.len());
    // A peer that does not keep to the limit.
    for number in 0..STREAMS_ACCEPTED {
        let id = pair.client.next + 2 * number;
        pair.client.write_headers(id, &connect(), false);
    }
    pair.client.next += 2 * STREAMS_ACCEPTED;
    pair.talk();
    assert_eq!(pair.requests.len(), STREAMS_ACCEPTED as usize);
}

#[test]
fn a_graceful_end_lets_streams_end_and_takes_no_others() {
    let mut pair = Pair::new();
    let id = pair.tunnel();
    pair.server.say_farewell();
    // On its way before the client knew.
    let late = pair.client.open(&connect()).unwrap();
    pair.talk();
    assert!(pair.client.is_closed() && pair.server.is_closed());
    assert_eq!(pair.requests.len(), 1, "what was on its way is acted on");
    assert!(matches!(pair.client.open(&connect()), Err(Broken::Refused(_))));
    assert!(!pair.server.is_done());
    for id in [id, late] {
        pair.client.forget(id);
    }
    pair.talk();
    assert!(pair.client.is_done() && pair.server.is_done());
}

#[test]
fn what_the_server_did_not_act_on_may_be_asked_elsewhere() {
    let mut pair = Pair::new();
    let (first, second) = (pair.tunnel(), pair.tunnel());
    let mut frame = BytesMut::new();
    frame::write_go_away(&mut frame, first, code::NO_ERROR);
    hear(&mut pair.to_client, &mut pair.client, frame.freeze(), &mut Vec::new()).unwrap();
    assert!(pair.client.room(first).is_ok());
    assert!(matches!(pair.client.room(second), Err(Broken::Refused(_))));
}

#[test]
fn peers_that_only_make_work_are_sent_away() {
    let reset = |pair: &mut Pair| {
        let id = pair.client.open(&connect()).unwrap();
        pair.client.reset(id, code::CANCEL);
        pair.client.forget(id);
    };
    type Say<'a> = &'a dyn Fn(&mut Pair);
    let frames: [(&str, Say<'_>); 5] = [
        ("rapid reset", &reset),
        ("ping", &|pair| frame::write(&mut pair.client.out, (kind::PING, 0, 0), &[0; 8])),
        ("settings", &|pair| frame::write_settings(&mut pair.client.out, &[])),
        ("priority", &|pair| frame::write(&mut pair.client.out, (kind::PRIORITY, 0, 1), &[0; 5])),
        ("empty data", &|pair| frame::write(&mut pair.client.out, (kind::DATA, 0, 1), &[])),
    ];
    for (name, say) in frames {
        let mut pair = Pair::new();
        let id = pair.tunnel();
        assert_eq!(id, 1);
        let violation = (0..5_000).find_map(|_| {
            say(&mut pair);
            let bytes = mem::take(&mut pair.client.out).freeze();
            let heard = hear(&mut pair.to_server, &mut pair.server, bytes, &mut pair.requests);
            for request in pair.requests.drain(..) {
                pair.server.forget(request.stream);
            }
            pair.server.out.clear();
            heard.err()
        });
        assert_eq!(violation.map(|v| v.code), Some(code::ENHANCE_YOUR_CALM), "{name}");
    }
}

#[test]
fn many_small_pieces_do_not_keep_a_buffer_each() {
    let mut pair = Pair::new();
    let id = pair.tunnel();
    for number in 0..100_000_u32 {
        pair.send(id, &number.to_be_bytes()).unwrap();
    }
    let mut pieces = Pieces::new();
    let ready = pair.server.poll_next(id, &context(), &mut pieces);
    assert!(matches!(ready, Poll::Ready(Ok(true))));
    assert!(pieces.len() < 100, "{} pieces", pieces.len());
    let bytes: Vec<u8> = pieces.into_iter().flatten().collect();
    assert!(bytes.chunks(4).zip(0_u32..).all(|(piece, number)| piece == number.to_be_bytes()));
}

#[test]
fn a_stream_that_nobody_opened_must_not_be_spoken_of() {
    for frame in [
        (kind::DATA, 0, 9, &b"x"[..]),
        (kind::RST_STREAM, 0, 9, &[0; 4]),
        (kind::WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]),
        (kind::HEADERS, flag::END_HEADERS, 8, &[0x82]),
        (kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
    ] {
        let mut pair = Pair::new();
        pair.tunnel();
        let mut bytes = BytesMut::new();
        frame::write(&mut bytes, (frame.0, frame.1, frame.2), frame.3);
        let heard = hear(&mut pair.to_server, &mut pair.server, bytes.freeze(), &mut Vec::new());
        assert!(heard.is_err(), "{frame:?}");
    }
}

#[test]
fn a_peer_that_does_not_answer_is_silent_the_third_time() {
    let mut pair = Pair::new();
    assert_eq!([pair.client.ask(), pair.client.ask(), pair.client.ask()], [false, false, true]);
    pair.talk();
    assert!(!pair.client.ask(), "it answered");
    assert!(Streams::new(false).ask(), "nothing came at all");
}
