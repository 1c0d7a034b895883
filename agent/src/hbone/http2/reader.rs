//! Pure: pieces of a byte stream → HTTP/2 frames. The payload of DATA is passed on as it came, in
//! pieces and uncopied; everything else is put together first, within bounds.
//! Never: keeps state of streams.
use bytes::{Buf, Bytes, BytesMut};

use super::{
    Violation,
    frame::{self, Frame, HEAD, Head, PREFACE, flag, kind},
};
use crate::hbone::FRAME_SIZE;

/// The longest header block that is put together, bytes as they are on the wire.
const LONGEST_BLOCK: usize = 256 << 10;
/// Frames that a header block may come in.
const MOST_CONTINUATIONS: u32 = 64;
/// The longest frame that is put together and is no header block: SETTINGS, and what means nothing.
const LONGEST_CONTROL: usize = 16 << 10;

/// What a peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of a stream's bytes.
    Data {
        /// Which stream.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// What they count for flow control: padding counts too.
        counted: u32,
        /// These are the last.
        end: bool,
    },
    /// A whole header block.
    Headers {
        /// Which stream.
        stream: u32,
        /// As it is on the wire.
        block: Bytes,
        /// Nothing comes behind it.
        end: bool,
    },
    /// Anything else.
    Frame(Frame),
}

/// A header block that is not whole yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    end: bool,
    bytes: BytesMut,
    frames: u32,
}

/// The rest of a DATA frame.
#[derive(Debug)]
struct Data {
    head: Head,
    /// Bytes that have not come yet, padding included.
    left: usize,
    /// Of those, padding.
    padding: usize,
}

/// What has been read so far.
#[derive(Debug)]
pub struct Reader {
    /// Bytes of the preface that have not come yet.
    preface: &'static [u8],
    /// The first frame must be SETTINGS (RFC 9113 §3.4).
    started: bool,
    /// A frame that is not whole yet, from its head on.
    partial: BytesMut,
    data: Option<Data>,
    block: Option<Block>,
}

impl Reader {
    /// For what a client says, which begins with the preface, or a server.
    pub fn new(of_client: bool) -> Self {
        let preface: &[u8] = if of_client { PREFACE } else { &[] };
        Self { preface, started: false, partial: BytesMut::new(), data: None, block: None }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are no HTTP/2: the connection ends.
    pub fn feed(&mut self, mut piece: Bytes, events: &mut Vec<Event>) -> Result<(), Violation> {
        let preface = self.preface.len().min(piece.len());
        if piece.split_to(preface) != self.preface[..preface] {
            return Err(Violation::protocol("no HTTP/2 preface"));
        }
        self.preface = &self.preface[preface..];
        while !piece.is_empty() {
            match self.data.take() {
                Some(data) => self.pass_on(data, &mut piece, events),
                None => self.put_together(&mut piece, events)?,
            }
        }
        Ok(())
    }

    fn pass_on(&mut self, mut data: Data, piece: &mut Bytes, events: &mut Vec<Event>) {
        let part = piece.split_to(data.left.min(piece.len()));
        data.left -= part.len();
        let content = (part.len() + data.left).saturating_sub(data.padding).min(part.len());
        // A frame's length has 24 bits.
        let counted = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let end = data.left == 0 && data.head.has(flag::END_STREAM);
        let bytes = part.slice(..content);
        events.push(Event::Data { stream: data.head.stream, bytes, counted, end });
        if data.left > 0 {
            self.data = Some(data);
        }
    }

    fn put_together(
        &mut self,
        piece: &mut Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), Violation> {
        if !self.fill(HEAD, piece) {
            return Ok(());
        }
        let Some(head) = self.partial.first_chunk().map(|head| Head::parse(*head)) else {
            return Ok(());
        };
        self.check(head)?;
        if head.kind == kind::DATA {
            return self.begin_data(head, piece, events);
        }
        if !self.fill(HEAD + head.length, piece) {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.partial).freeze().slice(HEAD..);
        match head.kind {
            kind::HEADERS | kind::CONTINUATION => self.headers(head, payload, events),
            _ => {
                events.push(Event::Frame(Frame::parse(head, &payload)?));
                Ok(())
            }
        }
    }

    /// Moves bytes until `length` are there, and says whether they are.
    fn fill(&mut self, length: usize, piece: &mut Bytes) -> bool {
        let missing = length.saturating_sub(self.partial.len()).min(piece.len());
        self.partial.extend_from_slice(&piece[..missing]);
        piece.advance(missing);
        self.partial.len() >= length
    }

    fn check(&mut self, head: Head) -> Result<(), Violation> {
        if !self.started && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Violation::protocol("the first frame is not SETTINGS"));
        }
        self.started = true;
        let longest = match head.kind {
            kind::DATA => FRAME_SIZE as usize,
            kind::HEADERS | kind::CONTINUATION => LONGEST_BLOCK,
            _ => LONGEST_CONTROL,
        };
        if head.length > longest {
            return Err(Violation::size("a frame that is too long"));
        }
        match &self.block {
            Some(block) if head.kind != kind::CONTINUATION || head.stream != block.stream => {
                Err(Violation::protocol("a frame within a header block"))
            }
            None if head.kind == kind::CONTINUATION => {
                Err(Violation::protocol("a CONTINUATION of nothing"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn begin_data(
        &mut self,
        head: Head,
        piece: &mut Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(Violation::protocol("DATA without a stream"));
        }
        let before = usize::from(head.has(flag::PADDED));
        if !self.fill(HEAD + before, piece) {
            return Ok(());
        }
        let padding = if before == 1 { usize::from(self.partial[HEAD]) } else { 0 };
        if before + padding > head.length {
            return Err(Violation::protocol("more padding than frame"));
        }
        self.partial.clear();
        let (left, stream) = (head.length - before, head.stream);
        let end = left == 0 && head.has(flag::END_STREAM);
        if before == 1 || left == 0 {
            // The byte that tells the padding counts as well.
            let counted = u32::from(head.has(flag::PADDED));
            events.push(Event::Data { stream, bytes: Bytes::new(), counted, end });
        }
        self.data = (left > 0).then_some(Data { head, left, padding });
        Ok(())
    }

    fn headers(
        &mut self,
        head: Head,
        payload: Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), Violation> {
        let mut block = match self.block.take() {
            Some(block) => block,
            None => Block {
                stream: head.stream,
                end: head.has(flag::END_STREAM),
                bytes: BytesMut::new(),
                frames: 0,
            },
        };
        let part = if head.kind == kind::HEADERS { fragment(head, payload)? } else { payload };
        block.frames += 1;
        if block.bytes.len() + part.len() > LONGEST_BLOCK || block.frames > MOST_CONTINUATIONS {
            let code = frame::code::ENHANCE_YOUR_CALM;
            return Err(Violation { code, why: "a header block without an end" });
        }
        let (stream, end) = (block.stream, block.end);
        if head.has(flag::END_HEADERS) {
            let block = if block.bytes.is_empty() { part } else { joined(block.bytes, &part) };
            events.push(Event::Headers { stream, block, end });
        } else {
            block.bytes.extend_from_slice(&part);
            self.block = Some(block);
        }
        Ok(())
    }
}

fn joined(mut bytes: BytesMut, part: &[u8]) -> Bytes {
    bytes.extend_from_slice(part);
    bytes.freeze()
}

/// The part of a header block in a HEADERS frame (RFC 9113 §6.2).
fn fragment(head: Head, mut payload: Bytes) -> Result<Bytes, Violation> {
    if head.stream == 0 {
        return Err(Violation::protocol("HEADERS without a stream"));
    }
    let short = Violation::protocol("HEADERS that are too short");
    let padding = match head.has(flag::PADDED) {
        true => usize::from(payload.try_get_u8().map_err(|_| short)?),
        false => 0,
    };
    let before = if head.has(flag::PRIORITY) { 5 } else { 0 };
    let length = payload.len().checked_sub(before + padding).ok_or(short)?;
    Ok(payload.slice(before..before + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame::write(&mut out, (kind, flags, stream), payload);
        out.to_vec()
    }

    fn talk() -> Vec<u8> {
        [
            PREFACE.to_vec(),
            frame(kind::SETTINGS, 0, 0, &[]),
            frame(
                kind::HEADERS,
                flag::PADDED | flag::PRIORITY,
                1,
                &[2, 0, 0, 0, 0, 7, b'a', b'b', 0, 0],
            ),
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"c"),
            frame(kind::DATA, 0, 1, b"hello"),
            frame(kind::DATA, flag::PADDED, 1, &[3, b'x', b'y', 0, 0, 0]),
            frame(kind::PING, 0, 0, &[7; 8]),
            frame(kind::DATA, flag::END_STREAM | flag::PADDED, 1, &[0]),
        ]
        .concat()
    }

    /// What it came to: headers, bytes, what they counted, and the end.
    fn heard(events: &[Event]) -> (Vec<u8>, Vec<u8>, u32, bool) {
        let (mut block, mut bytes, mut counted, mut ended) = (Vec::new(), Vec::new(), 0, false);
        for event in events {
            match event {
                Event::Headers { block: b, .. } => block.extend_from_slice(b),
                Event::Data { bytes: b, counted: c, end, .. } => {
                    bytes.extend_from_slice(b);
                    counted += c;
                    ended |= end;
                }
                Event::Frame(_) => {}
            }
        }
        (block, bytes, counted, ended)
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let talk = talk();
        let expected = (b"abc".to_vec(), b"helloxy".to_vec(), 5 + 6 + 1, true);
        for size in 1..talk.len() + 1 {
            let (mut reader, mut events) = (Reader::new(true), Vec::new());
            for piece in talk.chunks(size) {
                reader.feed(Bytes::copy_from_slice(piece), &mut events).unwrap();
            }
            assert_eq!(heard(&events), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_http2_is_refused() {
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        for bytes in [
            frame(kind::PING, 0, 0, &[0; 8]),
            frame(kind::SETTINGS, flag::ACK, 0, &[]),
            [settings.clone(), frame(kind::DATA, 0, 0, b"x")].concat(),
            [settings.clone(), frame(kind::DATA, flag::PADDED, 1, &[9, 1])].concat(),
            [settings.clone(), frame(kind::HEADERS, flag::PADDED, 1, &[9, 1])].concat(),
            [settings.clone(), frame(kind::HEADERS, 0, 1, b"x"), frame(kind::PING, 0, 0, &[0; 8])]
                .concat(),
            [
                settings.clone(),
                frame(kind::HEADERS, 0, 1, b"x"),
                frame(kind::CONTINUATION, 4, 3, b""),
            ]
            .concat(),
            [settings.clone(), frame(kind::CONTINUATION, 4, 1, b"x")].concat(),
            [settings.clone(), frame(kind::SETTINGS, 0, 0, &vec![0; 6 << 12])].concat(),
            [
                settings,
                frame(kind::HEADERS, 0, 1, b"x"),
                frame(kind::CONTINUATION, 0, 1, b"x").repeat(64),
            ]
            .concat(),
        ] {
            let (mut reader, mut events) = (Reader::new(false), Vec::new());
            assert!(reader.feed(bytes.clone().into(), &mut events).is_err(), "{bytes:?}");
        }
        let http1 = Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n");
        assert!(Reader::new(true).feed(http1, &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn nothing_that_a_peer_sends_panics(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..6)) {
            let (mut reader, mut events) = (Reader::new(false), Vec::new());
            reader.feed(frame(kind::SETTINGS, 0, 0, &[]).into(), &mut events).unwrap();
            for piece in pieces {
                if reader.feed(piece.into(), &mut events).is_err() {
                    break;
                }
            }
        }
    }
}
