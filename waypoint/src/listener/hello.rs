//! Pure: the server name that a TLS client asks for (RFC 8446 §4.1.2, RFC 6066 §3).
//! Never: indexes into what a peer sent; decides anything about the session.

/// The longest ClientHello that is looked at, bytes: one record (RFC 8446 §5.1).
pub const LONGEST_HELLO: usize = (16 << 10) + RECORD_HEAD;

const RECORD_HEAD: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// The longest host name of DNS (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 253;

/// What the first bytes of a TLS client say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The name it asks for, in lower case, if it asks for one.
    Name(Option<String>),
    /// The record is not whole yet.
    More,
    /// It is no ClientHello in one record: no name is known.
    Unknown,
}

/// Reads the name out of the first bytes of a connection.
pub fn server_name(bytes: &[u8]) -> Hello {
    let mut record = Reader(bytes);
    let (Some(kind), Some(_version), Some(length)) =
        (record.byte(), record.short(), record.short())
    else {
        return if bytes.first().is_none_or(|kind| *kind == HANDSHAKE) {
            Hello::More
        } else {
            Hello::Unknown
        };
    };
    let length = usize::from(length);
    if kind != HANDSHAKE || length + RECORD_HEAD > LONGEST_HELLO {
        return Hello::Unknown;
    }
    match record.take(length) {
        Some(hello) => hello_name(Reader(hello)).map_or(Hello::Unknown, Hello::Name),
        None => Hello::More,
    }
}

/// `None` when it is no ClientHello.
fn hello_name(mut hello: Reader<'_>) -> Option<Option<String>> {
    if hello.byte()? != CLIENT_HELLO {
        return None;
    }
    let (high, low) = (hello.byte()?, hello.short()?);
    let mut hello = Reader(hello.take((usize::from(high) << 16) | usize::from(low))?);
    let (_version, _random) = (hello.short()?, hello.take(32)?);
    let session = hello.byte()?;
    hello.take(session.into())?;
    let suites = hello.short()?;
    hello.take(suites.into())?;
    let compressions = hello.byte()?;
    hello.take(compressions.into())?;
    let Some(length) = hello.short() else { return Some(None) };
    let mut extensions = Reader(hello.take(length.into())?);
    while let Some(kind) = extensions.short() {
        let length = extensions.short()?;
        let body = extensions.take(length.into())?;
        if kind == SERVER_NAME {
            return Some(name(Reader(body)));
        }
    }
    Some(None)
}

fn name(mut list: Reader<'_>) -> Option<String> {
    let length = list.short()?;
    let mut list = Reader(list.take(length.into())?);
    if list.byte()? != HOST_NAME {
        return None;
    }
    let length = list.short()?;
    let name = str::from_utf8(list.take(length.into())?).ok()?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    (is_name && (1..=LONGEST_NAME).contains(&name.len())).then(|| name.to_ascii_lowercase())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn short(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*first))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with one cipher suite and these extensions.
    fn hello(extensions: &[u8]) -> Vec<u8> {
        let short = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(short(extensions.len()));
        body.extend(extensions);
        let mut record = vec![22, 3, 1];
        record.extend(short(body.len() + 4));
        record.extend([1, 0]);
        record.extend(short(body.len()));
        record.extend(body);
        record
    }

    fn named(name: &str) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        // An unknown extension first.
        let mut extensions = vec![0xff, 1, 0, 1, 0];
        extensions.extend([0, 0, 0, length + 5, 0, length + 3, 0, 0, length]);
        extensions.extend(name.as_bytes());
        hello(&extensions)
    }

    #[test]
    fn a_name_is_found_or_said_to_be_absent() {
        let whole = named("Db.Example.com");
        assert_eq!(server_name(&whole), Hello::Name(Some("db.example.com".into())));
        for end in 0..whole.len() {
            assert_eq!(server_name(&whole[..end]), Hello::More, "{end}");
        }
        assert_eq!(server_name(&hello(&[])), Hello::Name(None));
        assert_eq!(server_name(&named("bad name")), Hello::Name(None));
        assert_eq!(server_name(b"GET / HTTP/1.1\r\n"), Hello::Unknown);
        assert_eq!(server_name(&[22, 3, 1, 0xff, 0xff]), Hello::Unknown);
    }

    #[test]
    fn no_damage_panics() {
        let whole = named("db.example.com");
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = server_name(&damaged);
            }
        }
    }
}
