//! Pure: what of gRPC a proxy must know: statuses and messages
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//! Never: a message's content.
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};

/// The header, or trailer, with a call's status.
pub const STATUS: &str = "grpc-status";
/// The header, or trailer, that explains it.
pub const MESSAGE: &str = "grpc-message";
/// The status of a call whose deadline is over.
pub const DEADLINE_EXCEEDED: u8 = 4;

/// The status of which nobody knows more.
const UNKNOWN: u16 = 2;
/// The last of the statuses that there are.
const LAST: u16 = 16;

/// Bytes before each message: a flag and a length.
const HEAD: usize = 5;

/// Whether these are the headers of a call, or of its answer.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The status that a call has when HTTP has this one
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
pub fn status_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The status that HTTP has when a call has this one (`envoy:source/common/grpc/status.cc`).
pub fn as_http(status: u16) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The status that a call says it has; one that there is not is unknown.
pub fn known(text: &str) -> u16 {
    text.parse().ok().filter(|code| *code <= LAST).unwrap_or(UNKNOWN)
}

/// `text` as a `grpc-message`: everything but visible ASCII is percent-encoded.
pub fn message(text: &str) -> String {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    let one = |byte: u8| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// Counts the messages of one direction of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages {
    count: u64,
    head: [u8; HEAD],
    /// Bytes of the next head that are here.
    filled: usize,
    /// Bytes of the current message that are to come.
    left: usize,
}

impl Messages {
    /// How many began.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Looks at the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.left.min(bytes.len());
            self.left -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            let places = self.head.iter_mut().skip(self.filled).zip(bytes);
            let taken = places.map(|(place, byte)| *place = *byte).count();
            self.filled += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.filled == HEAD {
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
                self.filled = 0;
                self.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let bytes = [0, 0, 0, 0, 3, 1, 2, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9];
        for size in 1..=bytes.len() {
            let mut messages = Messages::default();
            bytes.chunks(size).for_each(|chunk| messages.feed(chunk));
            assert_eq!(messages.count(), 3, "{size}");
        }
    }

    #[test]
    fn a_status_that_there_is_not_is_unknown() {
        for (text, expected) in [("0", 0), ("16", 16), ("17", 2), ("-1", 2), ("99999", 2), ("x", 2)]
        {
            assert_eq!(known(text), expected, "{text}");
        }
    }

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
    }
}
