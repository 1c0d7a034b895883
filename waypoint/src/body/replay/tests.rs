//! Front: what is kept of bodies, checked.
//! Never: a socket.
use std::{sync::atomic::Ordering, task::Waker};

use tokio::sync::mpsc;

use super::{super::Mirror, *};

/// What a reader has to say now.
fn heard(body: &mut RequestBody) -> String {
    let mut context = Context::from_waker(Waker::noop());
    let mut text = String::new();
    loop {
        match std::pin::Pin::new(&mut *body).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().map_or(b"<trailers>".as_slice(), |data| data);
                text.push_str(std::str::from_utf8(data).unwrap());
            }
            Poll::Ready(Some(Err(error))) => return format!("{text}<{error}>"),
            Poll::Ready(None) => return format!("{text}<end>"),
            Poll::Pending => return format!("{text}<more>"),
        }
    }
}

fn body() -> (Mirror, RequestBody) {
    let (frames, receiver) = mpsc::channel(64);
    let mirror = Mirror { frames, copied: Arc::default() };
    let body = RequestBody::of_copy(receiver, mirror.copied.clone());
    (mirror, body)
}

fn kept(most: usize) -> (Mirror, Replay) {
    let (sender, body) = body();
    (sender, Replay::new(body, most, Shelf::default()))
}

fn say(sender: &Mirror, text: &'static [u8]) {
    assert!(sender.give(&Frame::data(Bytes::from_static(text))));
}

fn end(sender: Mirror) {
    sender.copied.whole.store(true, Ordering::Release);
}

#[test]
fn each_try_reads_all_of_it_whenever_it_begins() {
    let (sender, replay) = kept(4096);
    let mut first = replay.read().unwrap();
    say(&sender, b"one ");
    assert_eq!(heard(&mut first), "one <more>");
    let mut second = replay.read().unwrap();
    say(&sender, b"two");
    assert_eq!(heard(&mut first), "<another try has the body>");
    assert_eq!(heard(&mut second), "one two<more>");
    assert!(sender.give(&Frame::trailers(http::HeaderMap::from_iter([(
        http::header::DATE,
        http::HeaderValue::from_static("today")
    )]))));
    end(sender);
    assert_eq!(heard(&mut second), "<trailers><end>");
    assert!(second.meter().has_ended() && !first.meter().has_ended());
    let mut third = replay.read().unwrap();
    assert_eq!(third.size_hint().lower(), 7, "what is ahead");
    assert_eq!(heard(&mut third), "one two<trailers><end>");
}

#[test]
fn what_is_too_long_passes_once() {
    let (sender, replay) = kept(5);
    let mut first = replay.read().unwrap();
    say(&sender, b"12345");
    assert_eq!(heard(&mut first), "12345<more>");
    let mut second = replay.read().unwrap();
    say(&sender, b"6");
    assert_eq!(heard(&mut second), "123456<more>");
    assert!(replay.read().is_none() && !replay.is_whole(), "a byte too many");
    end(sender);
    assert_eq!(heard(&mut second), "<end>", "who reads it goes on");
}

#[test]
fn what_broke_off_is_not_sent_again() {
    let (sender, replay) = kept(4096);
    let mut first = replay.read().unwrap();
    drop(sender);
    assert_eq!(heard(&mut first), "<a mirror was too slow>");
    assert!(replay.read().is_none());
}

#[test]
fn nothing_is_kept_when_there_is_no_other_try() {
    let (sender, replay) = kept(1 << 20);
    let mut first = replay.read().unwrap();
    say(&sender, b"one ");
    assert_eq!(heard(&mut first), "one <more>");
    let mut second = replay.read().unwrap();
    replay.done();
    assert!(replay.read().is_none());
    say(&sender, b"two");
    assert_eq!(heard(&mut second), "one two<more>", "what the try has yet to read");
    say(&sender, b"three");
    assert_eq!(heard(&mut second), "three<more>");
    let kept = replay.lock();
    assert!(kept.bytes.capacity() == 0 && kept.held.is_none(), "{kept:?}");
}

#[test]
fn what_is_kept_is_what_is_counted() {
    let shelf = Shelf::new(1 << 20);
    let (sender, body) = body();
    let replay = Replay::new(body, 1 << 20, shelf.clone());
    let mut reader = replay.read().unwrap();
    for _ in 0..5_000 {
        // One byte of a buffer of which others are read.
        let buffer = Bytes::from(vec![b'x'; 8 << 10]);
        assert!(sender.give(&Frame::data(buffer.slice(..1))));
        assert_eq!(heard(&mut reader), "x<more>");
        assert!(buffer.is_unique(), "the buffer is held");
    }
    let taken = (1 << 20) - shelf.0.available_permits();
    assert_eq!(taken, replay.lock().bytes.capacity());
    assert!((5_000..=10_000).contains(&taken), "{taken}");
    drop((reader, replay));
    assert_eq!(shelf.0.available_permits(), 1 << 20);
}

#[test]
fn all_requests_together_keep_only_so_much() {
    let shelf = Shelf::new(3 * LEAST);
    let all: Vec<_> = (0..4)
        .map(|_| {
            let (sender, body) = body();
            let replay = Replay::new(body, 1 << 20, shelf.clone());
            let mut reader = replay.read().unwrap();
            say(&sender, b"hello");
            assert_eq!(heard(&mut reader), "hello<more>", "it passes in any case");
            (sender, replay)
        })
        .collect();
    let whole: Vec<_> = all.iter().map(|(_, replay)| replay.is_whole()).collect();
    assert_eq!(whole, [true, true, true, false]);
    drop(all);
    assert_eq!(shelf.0.available_permits(), 3 * LEAST);
}
