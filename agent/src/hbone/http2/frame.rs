//! Pure: HTTP/2 frames (RFC 9113 §4 and §6), read and written.
//! Never: knows what a stream is about.
use bytes::{BufMut, BytesMut};

use super::Violation;

/// Length of what is before each frame.
pub const HEAD: usize = 9;
/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 §6).
pub mod kind {
    #![allow(missing_docs, reason = "the names are the RFC's")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames (RFC 9113 §6).
pub mod flag {
    #![allow(missing_docs, reason = "the names are the RFC's")]
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes (RFC 9113 §7).
pub mod code {
    #![allow(missing_docs, reason = "the names are the RFC's")]
    pub const NO_ERROR: u32 = 0x0;
    pub const PROTOCOL_ERROR: u32 = 0x1;
    pub const FLOW_CONTROL_ERROR: u32 = 0x3;
    pub const STREAM_CLOSED: u32 = 0x5;
    pub const FRAME_SIZE_ERROR: u32 = 0x6;
    pub const REFUSED_STREAM: u32 = 0x7;
    pub const CANCEL: u32 = 0x8;
    pub const COMPRESSION_ERROR: u32 = 0x9;
    pub const CONNECT_ERROR: u32 = 0xa;
    pub const ENHANCE_YOUR_CALM: u32 = 0xb;
}

/// What is before each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes behind it.
    pub length: usize,
    /// One of [`kind`].
    pub kind: u8,
    /// Some of [`flag`].
    pub flags: u8,
    /// The stream that it is about; 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// Reads it.
    pub fn parse(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    /// Writes it. Lengths have 24 bits, and nothing that we send is longer.
    pub fn bytes(&self) -> [u8; HEAD] {
        let [_, a, b, c] = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether it has the flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What a SETTINGS frame says that matters to us (RFC 9113 §6.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that may be sent on a new stream.
    pub initial_window: Option<u32>,
    /// Streams that we may have open.
    pub max_streams: Option<u32>,
    /// The longest frame that may be sent.
    pub max_frame: Option<u32>,
}

/// A frame that is neither DATA nor part of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The stream ends at once.
    Reset {
        /// Which.
        stream: u32,
        /// One of [`code`].
        code: u32,
    },
    /// The peer's settings.
    Settings(Settings),
    /// The peer took ours.
    SettingsTaken,
    /// Whether we live.
    Ping([u8; 8]),
    /// We live, says the peer.
    Pong([u8; 8]),
    /// The peer wants no further streams.
    GoAway {
        /// The last of ours that it acted on.
        last: u32,
        /// One of [`code`].
        code: u32,
    },
    /// More may be sent.
    WindowUpdate {
        /// On which stream; 0 for all together.
        stream: u32,
        /// Bytes.
        increment: u32,
    },
    /// Nothing that matters.
    Other,
}

impl Frame {
    /// Reads what is behind a head.
    ///
    /// # Errors
    /// When it is not formed as it should be: the connection ends.
    pub fn parse(head: Head, payload: &[u8]) -> Result<Self, Violation> {
        let size = Violation::size("a frame of the wrong length");
        let word = |at: usize| {
            let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
            bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(size)
        };
        let exactly = |length: usize| if payload.len() == length { Ok(()) } else { Err(size) };
        match head.kind {
            kind::RST_STREAM => {
                exactly(4)?;
                Self::on_stream(head)?;
                Ok(Self::Reset { stream: head.stream, code: word(0)? })
            }
            kind::SETTINGS => {
                Self::on_connection(head)?;
                if head.has(flag::ACK) {
                    exactly(0)?;
                    return Ok(Self::SettingsTaken);
                }
                Ok(Self::Settings(Settings::parse(payload)?))
            }
            kind::PING => {
                Self::on_connection(head)?;
                let data = *payload.first_chunk().ok_or(size)?;
                exactly(8)?;
                Ok(if head.has(flag::ACK) { Self::Pong(data) } else { Self::Ping(data) })
            }
            kind::GOAWAY => {
                Self::on_connection(head)?;
                Ok(Self::GoAway { last: word(0)? & 0x7fff_ffff, code: word(4)? })
            }
            kind::WINDOW_UPDATE => {
                exactly(4)?;
                let increment = word(0)? & 0x7fff_ffff;
                if increment == 0 {
                    return Err(Violation::protocol("a WINDOW_UPDATE of nothing"));
                }
                Ok(Self::WindowUpdate { stream: head.stream, increment })
            }
            kind::PRIORITY => {
                Self::on_stream(head)?;
                exactly(5)?;
                Ok(Self::Other)
            }
            kind::PUSH_PROMISE => Err(Violation::protocol("a PUSH_PROMISE")),
            kind::CONTINUATION => Err(Violation::protocol("a CONTINUATION of nothing")),
            _ => Ok(Self::Other),
        }
    }

    fn on_stream(head: Head) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(Violation::protocol("a frame that belongs to a stream, without one"));
        }
        Ok(())
    }

    fn on_connection(head: Head) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation::protocol("a frame that belongs to the connection, on a stream"));
        }
        Ok(())
    }
}

impl Settings {
    fn parse(payload: &[u8]) -> Result<Self, Violation> {
        let (pairs, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Violation::size("SETTINGS of the wrong length"));
        }
        let mut settings = Self::default();
        for [high, low, a, b, c, d] in pairs.iter().copied() {
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([high, low]) {
                2 if value > 1 => return Err(Violation::protocol("ENABLE_PUSH above 1")),
                3 => settings.max_streams = Some(value),
                4 if value > 0x7fff_ffff => {
                    let why = "INITIAL_WINDOW_SIZE above 2^31-1";
                    return Err(Violation { code: code::FLOW_CONTROL_ERROR, why });
                }
                4 => settings.initial_window = Some(value),
                5 if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Violation::protocol("MAX_FRAME_SIZE out of its range"));
                }
                5 => settings.max_frame = Some(value),
                _ => {}
            }
        }
        Ok(settings)
    }
}

/// Writes a frame.
pub fn write(out: &mut BytesMut, (kind, flags, stream): (u8, u8, u32), payload: &[u8]) {
    out.put_slice(&Head { length: payload.len(), kind, flags, stream }.bytes());
    out.put_slice(payload);
}

/// Writes our SETTINGS: identifiers and values.
pub fn write_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    let pair =
        |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    write(out, (kind::SETTINGS, 0, 0), &settings.iter().flat_map(pair).collect::<Vec<u8>>());
}

/// Writes RST_STREAM.
pub fn write_reset(out: &mut BytesMut, stream: u32, code: u32) {
    write(out, (kind::RST_STREAM, 0, stream), &code.to_be_bytes());
}

/// Writes WINDOW_UPDATE.
pub fn write_window(out: &mut BytesMut, stream: u32, increment: u32) {
    write(out, (kind::WINDOW_UPDATE, 0, stream), &increment.to_be_bytes());
}

/// Writes GOAWAY.
pub fn write_go_away(out: &mut BytesMut, last: u32, code: u32) {
    write(out, (kind::GOAWAY, 0, 0), &[last.to_be_bytes(), code.to_be_bytes()].concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive() {
        let head = Head { length: 0x00ab_cdef, kind: 8, flags: 5, stream: 0x7fff_fffe };
        assert_eq!(Head::parse(head.bytes()), head);
    }

    #[test]
    fn what_is_not_formed_as_it_should_be_ends_the_connection() {
        for (kind, flags, stream, payload) in [
            (kind::RST_STREAM, 0, 1, &[0; 3][..]),
            (kind::RST_STREAM, 0, 0, &[0; 4]),
            (kind::SETTINGS, 0, 1, &[0; 6]),
            (kind::SETTINGS, 0, 0, &[0; 5]),
            (kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            (kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            (kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
            (kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]),
            (kind::PING, 0, 0, &[0; 7]),
            (kind::PING, 0, 1, &[0; 8]),
            (kind::GOAWAY, 0, 0, &[0; 7]),
            (kind::WINDOW_UPDATE, 0, 1, &[0; 4]),
            (kind::WINDOW_UPDATE, 0, 1, &[1; 5]),
            (kind::PRIORITY, 0, 1, &[0; 4]),
            (kind::PUSH_PROMISE, 0, 1, &[0; 4]),
            (kind::CONTINUATION, 0, 1, &[0; 4]),
        ] {
            let head = Head { length: payload.len(), kind, flags, stream };
            assert!(Frame::parse(head, payload).is_err(), "{head:?}");
        }
        let head = Head { length: 0, kind: 77, flags: 0, stream: 3 };
        assert_eq!(Frame::parse(head, &[]), Ok(Frame::Other));
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let mut out = BytesMut::new();
        write_settings(&mut out, &[(3, 200), (4, 1 << 20), (5, 1 << 15), (99, 7)]);
        let head = Head::parse(*out.first_chunk().unwrap());
        let Ok(Frame::Settings(settings)) = Frame::parse(head, &out[HEAD..]) else { panic!() };
        let expected = (Some(200), Some(1 << 20), Some(1 << 15));
        assert_eq!((settings.max_streams, settings.initial_window, settings.max_frame), expected);
    }
}
