//! Pure: header blocks (RFC 7541). What a peer sends is read in every form; what we send needs no
//! table and no Huffman code: it is short, and differs each time.
//! Never: keeps more than the limits say, whatever the peer claims.
use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Violation, frame::code, huffman};

/// What the dynamic table may hold: the default, which we do not change (RFC 7541 §4.2).
const TABLE_SIZE: usize = 4096;
/// What an entry counts beside its text (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

/// RFC 7541 Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Name and value of one header.
pub type Field = (Bytes, Bytes);

/// The headers of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// In the order in which they were sent.
    pub list: Vec<Field>,
    /// There were more than fit in the limit; those are left out.
    pub too_large: bool,
}

/// What a peer's blocks refer to.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    /// What the peer lets the table hold.
    capacity: Option<usize>,
}

const BAD: Violation =
    Violation { code: code::COMPRESSION_ERROR, why: "a header block that HPACK cannot read" };

impl Decoder {
    /// Reads a whole block. Beyond `limit` bytes (counted as in RFC 9113 §10.5.1) headers are read
    /// and forgotten.
    ///
    /// # Errors
    /// When it cannot be read; the connection ends, because all later blocks refer to it.
    pub fn read(&mut self, mut block: &[u8], limit: usize) -> Result<Fields, Violation> {
        let (mut fields, mut total) = (Fields::default(), 0);
        while let Some(first) = block.first().copied() {
            let field = match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    self.entry(index)?
                }
                0x40.. => {
                    let field = self.literal(&mut block, 6)?;
                    self.insert(field.clone());
                    field
                }
                0x20.. => {
                    let capacity = integer(&mut block, 5)?;
                    self.resize(capacity, total == 0)?;
                    continue;
                }
                _ => self.literal(&mut block, 4)?,
            };
            total += field.0.len() + field.1.len() + OVERHEAD;
            if total > limit {
                fields.too_large = true;
            } else {
                fields.list.push(field);
            }
        }
        Ok(fields)
    }

    /// Only at the beginning of a block (RFC 7541 §4.2).
    fn resize(&mut self, capacity: usize, beginning: bool) -> Result<(), Violation> {
        if capacity > TABLE_SIZE || !beginning {
            return Err(BAD);
        }
        self.capacity = Some(capacity);
        self.evict(capacity);
        Ok(())
    }

    fn literal(&self, block: &mut &[u8], bits: u8) -> Result<Field, Violation> {
        let name = match integer(block, bits)? {
            0 => text(block)?,
            index => self.entry(index)?.0,
        };
        Ok((name, text(block)?))
    }

    fn entry(&self, index: usize) -> Result<Field, Violation> {
        let index = index.checked_sub(1).ok_or(BAD)?;
        match STATIC.get(index) {
            Some((name, value)) => {
                Ok((Bytes::from_static(name.as_bytes()), Bytes::from_static(value.as_bytes())))
            }
            None => self.table.get(index - STATIC.len()).cloned().ok_or(BAD),
        }
    }

    fn insert(&mut self, field: Field) {
        let capacity = self.capacity.unwrap_or(TABLE_SIZE);
        let size = field.0.len() + field.1.len() + OVERHEAD;
        self.evict(capacity.saturating_sub(size));
        // What is larger than the table empties it (RFC 7541 §4.4).
        if size <= capacity {
            self.size += size;
            self.table.push_front(field);
        }
    }

    fn evict(&mut self, left: usize) {
        while self.size > left {
            let Some((name, value)) = self.table.pop_back() else { return };
            self.size -= name.len() + value.len() + OVERHEAD;
        }
    }
}

/// RFC 7541 §5.1.
fn integer(block: &mut &[u8], bits: u8) -> Result<usize, Violation> {
    let mask = (1_u8 << bits) - 1;
    let mut value = usize::from(take(block)? & mask);
    if value < usize::from(mask) {
        return Ok(value);
    }
    // Four more bytes say more than any length that we take.
    for shift in [0, 7, 14, 21] {
        let byte = take(block)?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BAD)
}

fn take(block: &mut &[u8]) -> Result<u8, Violation> {
    let (first, rest) = block.split_first().ok_or(BAD)?;
    *block = rest;
    Ok(*first)
}

/// RFC 7541 §5.2.
fn text(block: &mut &[u8]) -> Result<Bytes, Violation> {
    let huffman = block.first().ok_or(BAD)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(BAD)?;
    *block = rest;
    if !huffman {
        return Ok(Bytes::copy_from_slice(bytes));
    }
    // No code is shorter than five bits.
    let mut out = Vec::with_capacity(length * 8 / 5 + 1);
    huffman::decode(bytes, &mut out, usize::MAX).ok_or(BAD)?;
    Ok(out.into())
}

/// Writes a header whose name, and maybe value, is in the static table at `index`.
pub fn write_known(out: &mut BytesMut, index: u8, value: Option<&[u8]>) {
    match value {
        None => out.put_u8(0x80 | index),
        Some(value) => {
            // Never indexed names are below 15: the index fits (RFC 7541 §6.2.2).
            out.put_u8(index);
            write_text(out, value);
        }
    }
}

/// Writes a header by its name.
pub fn write_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_u8(0);
    write_text(out, name);
    write_text(out, value);
}

fn write_text(out: &mut BytesMut, text: &[u8]) {
    let length = text.len();
    if let Ok(short @ 0..0x7f) = u8::try_from(length) {
        out.put_u8(short);
    } else {
        out.put_u8(0x7f);
        let mut rest = length - 0x7f;
        while rest >= 0x80 {
            out.put_u8(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0));
            rest >>= 7;
        }
        out.put_u8(u8::try_from(rest).unwrap_or(0));
    }
    out.put_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(decoder: &mut Decoder, hex: &str) -> String {
        let digits: String = hex.split_whitespace().collect();
        let block: Vec<u8> = (0..digits.len() / 2)
            .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let fields = decoder.read(&block, 10_000).unwrap();
        let line = |(name, value): &Field| format!("{}={}", text_of(name), text_of(value));
        fields.list.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    fn text_of(bytes: &Bytes) -> &str {
        str::from_utf8(bytes).unwrap()
    }

    /// RFC 7541 Appendix C.3 and C.4: the same three requests, without and with Huffman's code.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let first = ":method=GET :scheme=http :path=/ :authority=www.example.com";
        let second = format!("{first} cache-control=no-cache");
        let third = ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value";
        for blocks in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut decoder = Decoder::default();
            for (block, expected) in blocks.into_iter().zip([first, &second, third]) {
                assert_eq!(read(&mut decoder, block), expected);
            }
            assert_eq!(decoder.size, 164);
        }
    }

    #[test]
    fn a_table_never_holds_more_than_it_may() {
        let mut decoder = Decoder::default();
        for number in 0..1_000 {
            let mut block = BytesMut::new();
            write_field(&mut block, format!("name-{number}").as_bytes(), &[b'v'; 100]);
            block[0] = 0x40;
            decoder.read(&block, 10_000).unwrap();
            assert!(decoder.size <= TABLE_SIZE);
        }
        assert_eq!(read(&mut decoder, "20"), "");
        assert_eq!((decoder.size, decoder.table.len()), (0, 0));
        // It may not grow beyond what we said, and not in the middle of a block.
        assert_eq!(decoder.read(&[0x3f, 0xe2, 0x1f], 100), Err(BAD));
        assert_eq!(decoder.read(&[0x82, 0x20], 100), Err(BAD));
    }

    #[test]
    fn what_is_beyond_the_limit_is_read_and_forgotten() {
        let mut block = BytesMut::new();
        write_field(&mut block, b"long", &[b'x'; 200]);
        write_field(&mut block, b"name", b"value");
        let fields = Decoder::default().read(&block, 100).unwrap();
        assert!(fields.too_large && fields.list.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_that_a_peer_sends_panics(blocks in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoder.read(&block, 1_000);
                prop_assert!(decoder.size <= TABLE_SIZE);
            }
        }

        #[test]
        fn what_we_write_is_read(fields in prop::collection::vec((".{0,200}", ".{0,300}"), 0..5)) {
            let mut block = BytesMut::new();
            for (name, value) in &fields {
                write_field(&mut block, name.as_bytes(), value.as_bytes());
            }
            let read = Decoder::default().read(&block, usize::MAX).unwrap();
            let expected: Vec<Field> =
                fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            prop_assert_eq!(read.list, expected);
        }
    }
}
