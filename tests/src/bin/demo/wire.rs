//! Pure: frames → what a reader of the wire makes of them.
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use e2e::wire::{Segment, segment};

/// Frames that carry something, as lines for people.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) frames: usize,
    pub(crate) readable: Vec<String>,
    pub(crate) encrypted: Vec<String>,
}

impl Seen {
    pub(crate) fn of(frames: &[Vec<u8>]) -> Self {
        // The bridge between the nodes shows each frame twice: when it comes, and when it goes.
        let mut known: HashSet<&[u8]> = HashSet::new();
        let mut seen = Self::default();
        for frame in frames.iter().filter(|frame| known.insert(frame)) {
            seen.frames += 1;
            let Some(segment) = segment(frame).filter(|segment| !segment.payload.is_empty()) else {
                continue;
            };
            let line = line(frame, &segment);
            if is_text(segment.payload) {
                seen.readable.push(line);
            } else {
                seen.encrypted.push(line);
            }
        }
        seen
    }
}

/// Up to eight lines that differ in more than their ports and numbers.
pub(crate) fn examples<'a>(lines: &[&'a String]) -> impl Iterator<Item = &'a String> {
    let mut shown = HashSet::new();
    let kind = |line: &str| -> String {
        let (from, rest) = line.split_once(" → ").unwrap_or_default();
        let what = rest.split_once('=').map_or(rest, |(before, _)| before);
        let address = from.split(':').next().unwrap_or_default();
        format!("{address} {}", what.split("17 03").next().unwrap_or_default())
    };
    lines.iter().copied().filter(move |line| shown.insert(kind(line))).take(8)
}

fn is_text(payload: &[u8]) -> bool {
    payload.iter().take(64).all(|byte| byte.is_ascii_graphic() || b" \r\n\t".contains(byte))
}

/// `10.1.0.10:41234 → 10.2.0.12:8080  GET /charge?card=4111-1111-1111-1111 HTTP/1.1`
fn line(frame: &[u8], segment: &Segment<'_>) -> String {
    let ip = |at: usize| -> IpAddr {
        let bytes = frame.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        bytes.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from).into()
    };
    let from = format!("{}:{}", ip(26), segment.from);
    let to = format!("{}:{}", ip(30), segment.to);
    let what = if is_text(segment.payload) {
        let first = segment.payload.split(|byte| *byte == b'\r').next().unwrap_or_default();
        String::from_utf8_lossy(first).into_owned()
    } else {
        let hex: String =
            segment.payload.iter().take(20).map(|byte| format!("{byte:02x} ")).collect();
        format!("{} {hex}…", record(segment.payload))
    };
    format!("{from:<16} → {to:<16} {what}")
}

/// The kind of a TLS record (RFC 8446 §5.1), as far as a bystander can tell.
fn record(payload: &[u8]) -> &'static str {
    match payload {
        [22, 3, ..] => "TLS handshake       ",
        [23, 3, ..] => "TLS application data",
        [20, 3, ..] => "TLS change of cipher",
        _ => "                    ",
    }
}
