//! Pure: how far a client of HTTP/2 is with what it says: whether it has begun what it must end soon.
//! Never: what it says, or whether it may.
use culvert_agent::hbone::http2::frame::{HEAD, Head, PREFACE, flag, kind};

/// What a client has said so far.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that are missing of the preface, or of the frame that has begun.
    missing: usize,
    /// The frame that has begun; none before the first.
    frame: Option<Head>,
    /// The head of the next one, as far as it came.
    head: [u8; HEAD],
    known: usize,
    /// Headers have begun and not ended.
    in_headers: bool,
    /// What was whole so far.
    whole: u64,
}

impl Default for Frames {
    fn default() -> Self {
        let (missing, head) = (PREFACE.len(), [0; HEAD]);
        Self { missing, frame: None, head, known: 0, in_headers: false, whole: 0 }
    }
}

impl Frames {
    /// Takes what came.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let part = if self.missing > 0 {
                let part = self.missing.min(bytes.len());
                self.missing -= part;
                part
            } else {
                let part = (HEAD - self.known).min(bytes.len());
                self.head[self.known..self.known + part].copy_from_slice(&bytes[..part]);
                self.known += part;
                self.begin();
                part
            };
            bytes = &bytes[part..];
            self.end();
        }
    }

    /// What it must end soon, which has this number: the first SETTINGS (RFC 9113 §3.4), headers, and
    /// every frame but DATA.
    pub(super) fn awaited(&self) -> Option<u64> {
        let is_body = self.frame.is_some_and(|frame| frame.kind == kind::DATA);
        let is_begun = self.known > 0 || (self.missing > 0 && !is_body);
        (self.whole == 0 || self.in_headers || is_begun).then_some(self.whole)
    }

    fn begin(&mut self) {
        if self.known < HEAD {
            return;
        }
        let frame = Head::parse(self.head);
        self.known = 0;
        self.missing = frame.length;
        self.in_headers |= frame.kind == kind::HEADERS;
        self.frame = Some(frame);
    }

    fn end(&mut self) {
        let Some(frame) = self.frame.filter(|_| self.missing == 0 && self.known == 0) else {
            return;
        };
        let is_headers = matches!(frame.kind, kind::HEADERS | kind::CONTINUATION);
        if is_headers && frame.has(flag::END_HEADERS) {
            self.in_headers = false;
        }
        if !self.in_headers {
            self.whole += 1;
        }
        self.frame = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let head = Head { length, kind, flags, stream: 1 }.bytes();
        [&head[..], &vec![0; length]].concat()
    }

    /// What is awaited after each of these.
    fn heard(said: &[&[u8]]) -> Vec<Option<u64>> {
        let mut frames = Frames::default();
        let awaited = |bytes: &&[u8]| {
            frames.take(bytes);
            frames.awaited()
        };
        said.iter().map(awaited).collect()
    }

    #[test]
    fn what_has_begun_must_end_but_not_a_body() {
        let settings = frame(kind::SETTINGS, 0, 6);
        let (headers, rest) = (frame(kind::HEADERS, 0, 20), frame(kind::CONTINUATION, 4, 0));
        let (data, ping) = (frame(kind::DATA, 0, 100), frame(kind::PING, 0, 8));
        for (what, said, expected) in [
            ("the preface", &[PREFACE][..], Some(0)),
            ("a part of SETTINGS", &[PREFACE, &settings[..12]], Some(0)),
            ("SETTINGS", &[PREFACE, &settings], None),
            ("a part of a head", &[PREFACE, &settings, &ping[..5]], Some(1)),
            ("a part of PING", &[PREFACE, &settings, &ping[..12]], Some(1)),
            ("PING", &[PREFACE, &settings, &ping], None),
            ("headers", &[PREFACE, &settings, &headers], Some(1)),
            ("and a part of the rest", &[PREFACE, &settings, &headers, &rest[..3]], Some(1)),
            ("and the rest", &[PREFACE, &settings, &headers, &rest], None),
            ("a part of DATA", &[PREFACE, &settings, &data[..50]], None),
            ("DATA and a part of a head", &[PREFACE, &settings, &data, &data[..4]], Some(2)),
        ] {
            assert_eq!(*heard(said).last().unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn it_is_the_same_however_it_is_cut() {
        let said = [
            PREFACE.to_vec(),
            frame(kind::SETTINGS, 0, 0),
            frame(kind::HEADERS, 0, 5),
            frame(kind::CONTINUATION, 0, 7),
            frame(kind::CONTINUATION, flag::END_HEADERS, 1),
            frame(kind::DATA, 1, 30),
            frame(kind::HEADERS, flag::END_HEADERS, 9),
        ]
        .concat();
        for size in 1..=said.len() {
            let awaited = heard(&said.chunks(size).collect::<Vec<_>>());
            assert_eq!(awaited.last(), Some(&None), "in pieces of {size}");
            // SETTINGS, one block of headers, DATA, another.
            assert!(awaited.iter().flatten().all(|number| *number < 4), "{awaited:?}");
        }
    }
}
