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

/// Whether they begin with a request line (RFC 9112 §3); empty lines before it are allowed (§2.2).
fn http1(bytes: &[u8]) -> Guess {
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[empty..];
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    if method > LONGEST_METHOD || empty > LONGEST_METHOD {
        return Guess::Opaque;
    }
    match bytes.get(method) {
        None if bytes.len() < MOST_SNIFFED => Guess::More,
        Some(b' ') if method > 0 => request_line(bytes),
        Some(_) | None => Guess::Opaque,
    }
}

fn request_line(bytes: &[u8]) -> Guess {
    let line = bytes.iter().position(|byte| *byte == b'\n').map(|end| &bytes[..end]);
    match line {
        Some(line) if has_version(line) => Guess::Http1,
        Some(_) => Guess::Opaque,
        None if bytes.len() >= MOST_SNIFFED => Guess::Http1,
        None => Guess::More,
    }
}

fn has_version(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    last.starts_with(b"HTTP/1.")
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
            (b"SET key value\r\n", Guess::Opaque),
            (b"PING\r\n", Guess::Opaque),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Guess::Opaque),
            (b"abcdefghijklmnopqrstuvwxyzabcdef", Guess::Opaque),
        ] {
            assert_eq!(guess(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
