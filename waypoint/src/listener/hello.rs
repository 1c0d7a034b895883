//! Pure: the server name that a TLS client asks for (RFC 8446 §4.1.2, RFC 6066 §3).
//! Never: indexes into what a peer sent; decides anything about the session.

/// The longest ClientHello that is looked at, bytes, with the heads of its records.
pub const LONGEST_HELLO: usize = 16 << 10;

/// Kind and length of a handshake message (RFC 8446 §4).
const MESSAGE_HEAD: usize = 4;
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
    /// It is not whole yet.
    More,
    /// It is no ClientHello, or too long a one: no name is known.
    Unknown,
}

/// Reads the name out of the first bytes of a connection. The message may be cut into several records
/// (RFC 8446 §5.1).
pub fn server_name(bytes: &[u8]) -> Hello {
    let (mut rest, mut message) = (bytes, Vec::new());
    loop {
        match record(rest) {
            _ if is_whole(&message) => break,
            Record::Whole(fragment, after) => {
                message.extend_from_slice(fragment);
                rest = after;
            }
            Record::More if bytes.len() < LONGEST_HELLO => return Hello::More,
            Record::More | Record::Other => return Hello::Unknown,
        }
    }
    hello_name(Reader(&message)).map_or(Hello::Unknown, Hello::Name)
}

/// What a connection goes on with.
enum Record<'a> {
    /// A record of a handshake, and what follows.
    Whole(&'a [u8], &'a [u8]),
    /// Not all of one.
    More,
    /// Something else.
    Other,
}

fn record(bytes: &[u8]) -> Record<'_> {
    let mut record = Reader(bytes);
    match record.byte() {
        None => return Record::More,
        Some(HANDSHAKE) => {}
        Some(_) => return Record::Other,
    }
    let (Some(_version), Some(length)) = (record.short(), record.short()) else {
        return Record::More;
    };
    // An empty one would be no step on (RFC 8446 §5.1).
    if length == 0 || usize::from(length) > LONGEST_HELLO {
        return Record::Other;
    }
    record.take(length.into()).map_or(Record::More, |fragment| Record::Whole(fragment, record.0))
}

/// Whether the first message of a handshake is all there, or is no ClientHello.
fn is_whole(message: &[u8]) -> bool {
    let Some(([kind, length @ ..], rest)) = message.split_first_chunk::<MESSAGE_HEAD>() else {
        return message.first().is_some_and(|kind| *kind != CLIENT_HELLO);
    };
    let [high, middle, low] = length.map(usize::from);
    *kind != CLIENT_HELLO || rest.len() >= (high << 16) | (middle << 8) | low
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
    fn a_name_is_found_however_the_message_is_cut_into_records() {
        let whole = named("db.example.com");
        let message = &whole[5..];
        for size in [1, 3, 7, message.len() - 1] {
            let records: Vec<u8> = message
                .chunks(size)
                .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8][..], part].concat())
                .collect();
            let name = Hello::Name(Some("db.example.com".into()));
            assert_eq!(server_name(&records), name, "{size}");
            assert_eq!(server_name(&records[..records.len() - 1]), Hello::More, "{size}");
        }
        assert_eq!(server_name(&[22, 3, 1, 0, 0, 22, 3, 1, 0, 0]), Hello::Unknown);
        let endless = [22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff].repeat(LONGEST_HELLO / 9 + 1);
        assert_eq!(server_name(&endless), Hello::Unknown);
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
