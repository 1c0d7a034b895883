//! Pure: what the load says and hears in HTTP/1.1.
//! Never: bodies but those whose length is told: both planes pass that on.

/// What counts of the head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Which version of the service answers.
    pub(super) version: String,
    /// Bytes of the head itself.
    pub(super) head: usize,
    /// Bytes of the body.
    pub(super) body: usize,
}

/// Where a head ends, if all of it is there.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads the head of an answer; `None` while it is not whole.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let Some(head) = end(bytes) else { return Ok(None) };
    let text = str::from_utf8(&bytes[..head]).map_err(|_| "a head that is no text")?;
    let wrong = || format!("no answer of HTTP/1.1: {text:?}");
    let (first, rest) = text.split_once("\r\n").ok_or_else(wrong)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let find = |wanted: &str| {
        let lines = rest.lines().filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        values.next().map(|(_, value)| value.trim())
    };
    let body = find("content-length").and_then(|length| length.parse().ok());
    Ok(Some(Head {
        status: status.ok_or_else(wrong)?,
        version: find(super::VERSION).unwrap_or("-").to_owned(),
        head,
        body: body.ok_or_else(|| format!("no content-length: {text:?}"))?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_status_version_and_length() {
        let text = b"HTTP/1.1 200 OK\r\nX-Version: v2\r\ncontent-length: 3\r\n\r\nabcHTTP";
        let expected = Head { status: 200, version: "v2".into(), head: 53, body: 3 };
        assert_eq!(head(text), Ok(Some(expected)));
        for cut in 0..53 {
            assert_eq!(head(&text[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn what_is_no_answer_with_a_length_is_wrong() {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n",
            "HTTP/1.1 2\r\ncontent-length: 3\r\n\r\n",
            "nothing\r\n\r\n",
        ] {
            assert!(head(text.as_bytes()).is_err(), "{text}");
        }
        let text = b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n";
        let found = head(text).unwrap().unwrap();
        assert_eq!((found.status, found.version.as_str(), found.body), (503, "-", 0));
    }
}
