//! Pure: one entry per parser of foreign bytes. The fuzz targets call these, and a test replays
//! their corpus.
use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use culvert_agent::{
    config::Config,
    hbone::{
        Authority, Baggage, Forwarded, TraceParent,
        http2::{reader::Reader, streams::Streams},
        record,
    },
    identity::{Identity, svid::claimed_identity},
    manifest::{Folder, Settings, compile},
};

/// A parser that takes bytes of a peer, or of a file that somebody else wrote.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 10] = [
    ("authority", authority),
    ("baggage", baggage),
    ("certificate", certificate),
    ("config", config),
    ("forwarded", forwarded),
    ("http2", http2),
    ("identity", identity),
    ("manifests", manifests),
    ("records", records),
    ("traceparent", traceparent),
];

/// The target of a CONNECT: what parses, parses again to the same.
pub fn authority(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
    }
}

/// The header `baggage`.
pub fn baggage(data: &[u8]) {
    let _ = str::from_utf8(data).map(Baggage::parse);
}

/// The header `forwarded`.
pub fn forwarded(data: &[u8]) {
    let _ = str::from_utf8(data).map(Forwarded::parse);
}

/// The header `traceparent`: what parses, is written as it was.
pub fn traceparent(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(trace) = TraceParent::parse(text) {
        assert_eq!(TraceParent::parse(&trace.to_string()), Some(trace));
    }
}

/// What a peer says in HTTP/2 behind the preface, to a server and to a client, in pieces of any size.
pub fn http2(data: &[u8]) {
    let Some((size, said)) = data.split_first() else { return };
    for is_client in [false, true] {
        let (mut streams, mut reader) = (Streams::new(is_client), Reader::new(false));
        if is_client {
            let _ = streams.open(&[0x82]);
        }
        let (mut events, mut requests) = (Vec::new(), Vec::new());
        for piece in said.chunks(usize::from(*size).max(1)) {
            let fed = reader.feed(Bytes::copy_from_slice(piece), &mut events);
            let applied = events.drain(..).try_for_each(|e| streams.apply(e, &mut requests));
            if fed.is_err() || applied.is_err() {
                break;
            }
        }
        for request in requests {
            let _ = streams.answer(request.stream, &[0x88], true);
            streams.forget(request.stream);
        }
    }
}

/// A SPIFFE ID: what parses, is written as it was.
pub fn identity(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string(), text);
    }
}

/// A peer's certificate, DER.
pub fn certificate(data: &[u8]) {
    let _ = claimed_identity(data);
}

/// The agent's configuration file.
pub fn config(data: &[u8]) {
    let _ = str::from_utf8(data).map(Config::parse);
}

/// TLS records of a peer, and the messages that may stand in them behind a handshake.
pub fn records(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(length)) = record::whole(rest) {
        rest = &rest[length..];
    }
    let mut rest = data;
    while let Ok(Some((_, length))) = record::message(rest) {
        rest = &rest[length..];
    }
}

/// A folder of manifests whose only file breaks, is repaired, and breaks again.
pub fn manifests(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut folder = Folder::default();
    for text in [text, "", text] {
        let contents = BTreeMap::from([(Arc::from("m.yaml"), Ok(text.to_owned()))]);
        folder.update(contents);
        let _ = compile(&folder, &Settings::default());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Variants of each file of the corpus that are tried beside it.
    const VARIANTS: u64 = 300;

    #[test]
    fn the_corpus_of_each_target_is_replayed_with_variations() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> = fs::read_dir(corpus.join(name))
                .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
                .map(|entry| fs::read(entry.expect("an entry").path()).expect("a file"))
                .collect();
            assert!(!files.is_empty(), "the corpus of {name} is empty");
            for bytes in files {
                target(&bytes);
                (1..=VARIANTS).for_each(|seed| target(&variant(&bytes, seed)));
            }
        }
    }

    #[test]
    fn each_target_has_its_program() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            let program = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(program.contains(&format!("e2e::fuzz::{name}(")), "{program}");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }

    /// The same variants in every run: bytes flipped, removed, doubled.
    fn variant(bytes: &[u8], seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut dice = |sides: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % sides.max(1) as u64).unwrap_or(0)
        };
        let mut bytes = bytes.to_vec();
        for _ in 0..=dice(4) {
            let at = dice(bytes.len());
            match dice(4) {
                0 if at < bytes.len() => bytes[at] ^= 1 << dice(8),
                1 if at < bytes.len() => drop(bytes.drain(at..bytes.len().min(at + 1 + dice(16)))),
                2 => bytes.insert(at, b"\0:[]{}\"-%\n\xff"[dice(11)]),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    }
}
