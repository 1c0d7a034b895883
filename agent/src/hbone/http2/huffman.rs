//! Pure: Huffman's code of header texts (RFC 7541 Appendix B), read. We never write it.
//! Never: a table of the codes themselves: the code is canonical, so their lengths say it all.

/// Length of each symbol's code, bits; the last is the end of the text.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// The longest of them.
const LONGEST: usize = 30;

/// For each length: the first code, how many there are, and where their symbols begin.
struct Codes {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [usize; LONGEST + 1],
    symbols: [u16; 257],
}

static CODES: Codes = codes();

const fn codes() -> Codes {
    let mut codes = Codes {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut code, mut placed, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        codes.first[length] = code;
        codes.start[length] = placed;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                codes.symbols[placed] = symbol as u16;
                placed += 1;
                code += 1;
            }
            symbol += 1;
        }
        codes.count[length] = code - codes.first[length];
        code <<= 1;
        length += 1;
    }
    codes
}

/// Appends the text to `out`. `None` when it is no such code, or longer than `limit`.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>, limit: usize) -> Option<()> {
    let (mut code, mut length) = (0_u32, 0_usize);
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    for bit in bits {
        code = code << 1 | u32::from(bit);
        length += 1;
        if length > LONGEST {
            return None;
        }
        let place = code.wrapping_sub(CODES.first[length]);
        if code < CODES.first[length] || place >= CODES.count[length] {
            continue;
        }
        let symbol = CODES.symbols[CODES.start[length] + place as usize];
        // The end of the text has no place inside of it (RFC 7541 §5.2).
        let byte = u8::try_from(symbol).ok()?;
        if out.len() >= limit {
            return None;
        }
        out.push(byte);
        (code, length) = (0, 0);
    }
    // What is left is padding: the beginning of the end's code, less than a byte.
    (length < 8 && code == (1 << length) - 1).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (bytes, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[], ""),
        ] {
            let mut out = Vec::new();
            assert_eq!(decode(bytes, &mut out, 100), Some(()));
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn padding_must_be_the_beginning_of_the_end() {
        // A whole byte of it, zeros, and the end itself.
        for bytes in [&[0xff, 0xff][..], &[0x00], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decode(bytes, &mut Vec::new(), 100), None, "{bytes:?}");
        }
        assert_eq!(decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], &mut Vec::new(), 7), None);
    }
}
