//! Pure: TLS 1.3 records once the handshake is over (RFC 8446 §5): opened in place, sealed where they
//! are sent from.
//! Never: a socket, a handshake.
use std::{io::IoSlice, ops::Range};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use bytes::{BufMut, BytesMut};
use rustls::ConnectionTrafficSecrets;

/// Type, version and length before each record.
const HEADER: usize = 5;
/// What authenticates a record, behind it.
const TAG: usize = 16;
/// The most that one record carries (RFC 8446 §5.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// The longest record after its header (RFC 8446 §5.2).
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// Records that one key protects, well below AES-GCM's bound of 2^24.5 (RFC 8446 §5.5).
pub const MAX_RECORDS: u64 = 1 << 24;
/// The type that all protected records bear on the outside.
const APPLICATION_DATA: u8 = 23;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An alert, or the goodbye.
    Alert,
    /// Messages behind the handshake.
    Handshake,
    /// What the application of TLS sends: HTTP/2.
    Data,
}

/// Why a record, or what is inside, cannot be taken. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Its type has no business here.
    #[error("a record of type {0} after the handshake")]
    Type(u8),
    /// It says that it is longer than records are.
    #[error("a record that is too long")]
    Length,
    /// It does not open.
    #[error("a record that was not sealed by the peer")]
    Seal,
    /// A message that is none of those, or not formed as it should be.
    #[error("a handshake message that does not belong behind a handshake")]
    Message,
    /// rustls agreed on something else than it was told to.
    #[error("no key of the suite that was agreed")]
    Suite,
    /// The count of records is at its end.
    #[error("too many records under one key")]
    Exhausted,
}

/// The key of one direction, and how many records it has protected.
pub struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Key {
    /// The key that goes with `secrets`, after `sequence` records.
    ///
    /// # Errors
    /// When they are of a suite that we do not offer.
    pub fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, BadRecord> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } | _ => return Err(BadRecord::Suite),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| BadRecord::Suite)?;
        let iv = iv.as_ref().try_into().map_err(|_| BadRecord::Suite)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// Records that it has protected.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Opens a whole record in place; says what it is about, and where that stands.
    ///
    /// # Errors
    /// When the peer did not seal it, or not as the next one.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(Content, Range<usize>), BadRecord> {
        let Some((header, sealed)) = record.split_first_chunk_mut::<HEADER>() else {
            return Err(BadRecord::Length);
        };
        if header[0] != APPLICATION_DATA {
            return Err(BadRecord::Type(header[0]));
        }
        let opened = self
            .key
            .open_in_place(self.nonce(), Aad::from(&*header), sealed)
            .map_err(|_| BadRecord::Seal)?;
        self.count()?;
        // Padding is zeros, behind the true type.
        let end = opened.iter().rposition(|byte| *byte != 0).ok_or(BadRecord::Type(0))?;
        let content = match opened[end] {
            21 => Content::Alert,
            22 => Content::Handshake,
            23 => Content::Data,
            other => return Err(BadRecord::Type(other)),
        };
        if end > MAX_PLAINTEXT {
            return Err(BadRecord::Length);
        }
        Ok((content, HEADER..HEADER + end))
    }

    /// Seals the bytes in `parts`, at most [`MAX_PLAINTEXT`], as one record at the end of `out`.
    ///
    /// # Errors
    /// When they are too many.
    pub fn seal(
        &mut self,
        content: Content,
        parts: &[&[u8]],
        out: &mut BytesMut,
    ) -> Result<(), BadRecord> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + 1 + TAG;
        let length = u16::try_from(length).map_err(|_| BadRecord::Length)?;
        let [high, low] = length.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        out.reserve(HEADER + usize::from(length));
        out.put_slice(&header);
        let start = out.len();
        for part in parts {
            out.put_slice(part);
        }
        out.put_u8(match content {
            Content::Alert => 21,
            Content::Handshake => 22,
            Content::Data => 23,
        });
        let nonce = self.nonce();
        let plain = &mut out[start..];
        match self.key.seal_in_place_separate_tag(nonce, Aad::from(header), plain) {
            Ok(tag) => {
                out.put_slice(tag.as_ref());
                self.count()
            }
            Err(_) => {
                // Nothing that is not sealed may be sent.
                out.truncate(start - HEADER);
                Err(BadRecord::Seal)
            }
        }
    }

    /// RFC 8446 §5.3.
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= of;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn count(&mut self) -> Result<(), BadRecord> {
        self.sequence = self.sequence.checked_add(1).ok_or(BadRecord::Exhausted)?;
        Ok(())
    }
}

/// The length of the record that `bytes` begin with, header included; `None` while it is not whole.
///
/// # Errors
/// When it says that it is longer than records are.
pub fn whole(bytes: &[u8]) -> Result<Option<usize>, BadRecord> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length > MAX_CIPHERTEXT {
        return Err(BadRecord::Length);
    }
    Ok(Some(HEADER + length).filter(|length| *length <= bytes.len()))
}

/// The first `limit` bytes of several pieces, in pieces.
pub fn gather<'a>(
    pieces: &'a [IoSlice<'_>],
    mut skip: usize,
    mut limit: usize,
) -> impl Iterator<Item = &'a [u8]> {
    pieces.iter().filter_map(move |piece| {
        let start = skip.min(piece.len());
        skip -= start;
        let length = (piece.len() - start).min(limit);
        limit -= length;
        (length > 0).then(|| &piece[start..start + length])
    })
}

/// A message behind a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Means nothing to us: sessions are never resumed.
    Ticket,
    /// The peer's keys are new from the next record on; it may ask for the same of us.
    KeyUpdate {
        /// Whether it asks.
        requested: bool,
    },
}

/// The message that `bytes` begin with, and its length; `None` while it is not whole.
///
/// # Errors
/// When it is none that may come behind a handshake.
pub fn message(bytes: &[u8]) -> Result<Option<(Message, usize)>, BadRecord> {
    let Some([kind, a, b, c]) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    match kind {
        // RFC 8446 §4.6.1: a ticket of at most 2^16 bytes, its nonce, its extensions.
        4 if length <= 3 << 16 => {
            let whole = 4 + length;
            Ok((bytes.len() >= whole).then_some((Message::Ticket, whole)))
        }
        24 if length == 1 => match bytes.get(4) {
            None => Ok(None),
            Some(0) => Ok(Some((Message::KeyUpdate { requested: false }, 5))),
            Some(1) => Ok(Some((Message::KeyUpdate { requested: true }, 5))),
            Some(_) => Err(BadRecord::Message),
        },
        _ => Err(BadRecord::Message),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn key(sequence: u64) -> Key {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; 12]));
        Key::new((sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv })).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_once_and_only_as_it_was(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4),
            sequence in 0..u64::MAX - 1,
            flip in any::<prop::sample::Index>(),
        ) {
            let mut out = BytesMut::new();
            let pieces: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            key(sequence).seal(Content::Data, &pieces, &mut out).unwrap();
            prop_assert_eq!(whole(&out).unwrap(), Some(out.len()));
            prop_assert_eq!(whole(&out[..out.len() - 1]).unwrap(), None);
            let mut copy = out.clone();
            let (content, at) = key(sequence).open(&mut copy).unwrap();
            prop_assert_eq!((content, &copy[at]), (Content::Data, &parts.concat()[..]));
            prop_assert_eq!(key(sequence + 1).open(&mut out.clone()), Err(BadRecord::Seal));
            let mut damaged = out.clone();
            let at = flip.index(damaged.len());
            damaged[at] ^= 1;
            prop_assert!(key(sequence).open(&mut damaged).is_err());
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = message(&bytes);
            if let Ok(Some(length)) = whole(&bytes) {
                prop_assert!(key(0).open(&mut bytes[..length]).is_err());
            }
        }

        #[test]
        fn gathered_pieces_are_the_bytes(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5),
            skip in 0..60_usize, limit in 0..60_usize,
        ) {
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let all: Vec<u8> = pieces.concat();
            let expected: Vec<u8> = all.into_iter().skip(skip).take(limit).collect();
            prop_assert_eq!(gather(&slices, skip, limit).collect::<Vec<_>>().concat(), expected);
        }
    }

    #[test]
    fn messages_behind_a_handshake_are_tickets_and_new_keys() {
        let update = |requested| Ok(Some((Message::KeyUpdate { requested }, 5)));
        assert_eq!(message(&[24, 0, 0, 1, 0, 9]), update(false));
        assert_eq!(message(&[24, 0, 0, 1, 1]), update(true));
        assert_eq!(message(&[24, 0, 0, 1]), Ok(None));
        assert_eq!(message(&[24, 0, 0, 1, 2]), Err(BadRecord::Message));
        assert_eq!(message(&[24, 0, 0, 2, 0, 0]), Err(BadRecord::Message));
        assert_eq!(message(&[4, 0, 0, 2, 0, 0]), Ok(Some((Message::Ticket, 6))));
        assert_eq!(message(&[4, 0, 0, 2, 0]), Ok(None));
        assert_eq!(message(&[4, 255, 0, 0]), Err(BadRecord::Message));
        assert_eq!(message(&[1, 0, 0, 0]), Err(BadRecord::Message));
    }
}
