//! Pure: what a client that has begun to speak is speaking.
//! Never: waits for more than it needs.

/// Bytes after which nothing more is waited for.
pub const MOST_SNIFFED: usize = 8 << 10;
/// The longest method that is taken for one (Envoy's HTTP inspector knows none as long).
const LONGEST_METHOD: usize = 24;
/// How every HTTP/2 connection begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A TLS record that is a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// HTTP/1.0 or HTTP/1.1. What may still turn out to be it is taken for it, so that no client gets
    /// past the rules by being slow.
    Http1,
    /// HTTP/2, as a client speaks it that knows beforehand (RFC 9113 §3.3).
    Http2,
    /// TLS, whatever is in it.
    Tls,
    /// Anything else.
    Opaque,
    /// That cannot be said yet.
    More,
}

/// What `bytes`, the first ones of a connection, are.
pub fn guess(bytes: &[u8]) -> Guess {
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, 3] => Guess::More,
        [HANDSHAKE, 3, 0..=4, ..] => Guess::Tls,
        _ if bytes.starts_with(PREFACE) => Guess::Http2,
        _ if PREFACE.starts_with(bytes) => Guess::More,
        _ => http1(bytes),
    }
}

/// Whether they begin with a request line (RFC 9112 §3); empty lines before it are allowed (§2.2). It is
/// taken for one by more than an application might: a rule is not evaded by how a line is written.
fn http1(bytes: &[u8]) -> Guess {
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = bytes.get(empty..).unwrap_or_default();
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    match line.get(method) {
        _ if method > LONGEST_METHOD => Guess::Opaque,
        None if bytes.len() < MOST_SNIFFED => Guess::More,
        Some(b' ' | b'\t') if method > 0 => request_line(line, bytes.len() >= MOST_SNIFFED),
        // Nothing but the beginning of a request is that long and says so little.
        None => Guess::Http1,
        Some(_) => Guess::Opaque,
    }
}

fn request_line(bytes: &[u8], is_all: bool) -> Guess {
    let line = bytes.iter().position(|byte| *byte == b'\n').map(|end| &bytes[..end]);
    match line {
        Some(line) if is_request(line) => Guess::Http1,
        Some(_) => Guess::Opaque,
        None if is_all => Guess::Http1,
        None => Guess::More,
    }
}

/// A line that ends in a version, or asks for a path without one, as HTTP/0.9 did.
fn is_request(line: &[u8]) -> bool {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let mut words = line.split(blank).filter(|word| !word.is_empty());
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return false };
    let is_loud = !method.iter().any(u8::is_ascii_lowercase);
    let is_place = target.starts_with(b"/") || target.starts_with(b"http");
    words.next_back().is_some_and(|last| last.starts_with(b"HTTP/")) || (is_loud && is_place)
}

/// Whether the first bytes of a server are those of HTTP: a status line, or the settings that begin
/// HTTP/2 (RFC 9113 §3.4). `None` when that cannot be said yet.
pub fn is_http_server(bytes: &[u8]) -> Option<bool> {
    const STATUS: &[u8] = b"HTTP/1.";
    const SETTINGS: u8 = 4;
    match bytes {
        _ if bytes.starts_with(STATUS) => Some(true),
        _ if STATUS.starts_with(bytes) => None,
        // Length, kind, flags, and stream 0.
        [0, _, length, SETTINGS, 0, 0, 0, 0, 0, ..] => Some(length % 6 == 0),
        [0] | [0, _] | [0, _, _] | [0, _, _, SETTINGS] => None,
        [0, _, _, SETTINGS, rest @ ..] if rest.len() < 5 && rest.iter().all(|b| *b == 0) => None,
        _ => Some(false),
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_is_spoken() {
        let long = [b"GET /".as_slice(), &[b'a'; MOST_SNIFFED]].concat();
        for (bytes, expected) in [
            (b"".as_slice(), Guess::More),
            (b"G", Guess::More),
            (b"GET", Guess::More),
            (b"GET /x", Guess::More),
            (b"GET /x HTTP/1.1\r\n", Guess::Http1),
            (b"\r\nGET /x HTTP/1.0\r\nhost: x\r\n", Guess::Http1),
            (b"GET /x HTTP/1.1\nhost: x\n", Guess::Http1),
            (&long, Guess::Http1),
            (b"PRI * HT", Guess::More),
            (PREFACE, Guess::Http2),
            (b"PRI * HTTP/1.1\r\n", Guess::Http1),
            (b"\x16", Guess::More),
            (b"\x16\x03\x01\x02\x00", Guess::Tls),
            (b"\x16\x09\x01", Guess::Opaque),
            (b"GET /x HTTP/1.1 \r\n", Guess::Http1),
            (b"GET /x HTTP/1.1\t\r\n", Guess::Http1),
            (b"GET\t/x\tHTTP/1.1\r\n", Guess::Http1),
            (b"GET /x\r\n", Guess::Http1),
            (&[b"\r\n".repeat(13).as_slice(), b"GET /x HTTP/1.1\r\n"].concat(), Guess::Http1),
            (&[b"\r\n".repeat(1000).as_slice(), b"GET /x HTTP/1.1\r\n"].concat(), Guess::Http1),
            (&b"\r\n".repeat(MOST_SNIFFED), Guess::Http1),
            (b"get /key\r\n", Guess::Opaque),
            (b"SET key value\r\n", Guess::Opaque),
            (b"PING\r\n", Guess::Opaque),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Guess::Opaque),
            (b"abcdefghijklmnopqrstuvwxyzabcdef", Guess::Opaque),
        ] {
            assert_eq!(guess(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_server_that_speaks_first_may_speak_http() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        for (bytes, expected) in [
            (settings.as_slice(), Some(true)),
            (&settings[..8], None),
            (&[0, 0, 7, 4, 0, 0, 0, 0, 0], Some(false)),
            (b"HTTP/1.1 408 Request Timeout\r\n", Some(true)),
            (b"HTT", None),
            (b"220 mail\r\n", Some(false)),
            (b"J\0\0\0\n8.0.0", Some(false)),
            (&[0, 0, 0, 1], Some(false)),
        ] {
            assert_eq!(is_http_server(bytes), expected, "{bytes:?}");
        }
    }
}
