//! Pure: the path of a request in the one form that is matched, authorised and sent on.
//! Never: queries, which stay as they are; a decision about the request.
use std::borrow::Cow;

/// How far paths are normalised (Istio's `meshConfig.pathNormalization`); each mode includes those
/// before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normalisation {
    /// Not at all.
    None,
    /// RFC 3986 §6.2.2: dot segments are resolved, and unreserved characters are never escaped.
    /// Backslashes are slashes, and a dot segment may have parameters (`/..;a=b/`), because some
    /// servers read them so. What is escaped otherwise stays so, in its case.
    #[default]
    Base,
    /// Several slashes are one.
    MergeSlashes,
    /// `%2F` and `%5C` are slashes.
    DecodeAndMergeSlashes,
}

/// Why a path is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash (RFC 9112 §3.2), and is not the `*` of OPTIONS.
    #[error("the path does not begin with a slash")]
    Relative,
    /// It has `%00`, at which some servers end it.
    #[error("the path has an escaped NUL")]
    Nul,
}

/// Normalises a path without its query. The result is no longer than the path, and normalising it once
/// more changes nothing. Costs no allocation for paths that are normal already and escape nothing.
///
/// # Errors
/// When no server should be asked for such a path.
pub fn normalise(path: &str, mode: Normalisation) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(path.into());
    }
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    let (slashes, merge) = match mode {
        Normalisation::None => return Ok(path.into()),
        Normalisation::Base => (Escaped::Stay, false),
        Normalisation::MergeSlashes => (Escaped::Stay, true),
        Normalisation::DecodeAndMergeSlashes => (Escaped::Count, true),
    };
    let mut path = Cow::Borrowed(path);
    if path.contains(['%', '\\']) {
        path = unescape(&path, slashes)?.into();
    }
    if path.contains("/.") {
        path = without_dots(&path).into();
    }
    if merge && path.contains("//") {
        path = merged(&path).into();
    }
    Ok(path)
}

/// Whether some servers would resolve segments of a path away: `.` and `..`, also escaped, behind a
/// backslash, or with parameters.
pub fn has_dots(path: &str) -> bool {
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    let Ok(path) = unescape(path, Escaped::Stay) else { return true };
    path.split('/').any(is_dots)
}

fn is_dots(segment: &str) -> bool {
    matches!(segment.split(';').next(), Some("." | ".."))
}

/// What escaped slashes are.
#[derive(Clone, Copy, PartialEq)]
enum Escaped {
    /// Escaped slashes.
    Stay,
    /// Slashes.
    Count,
}

fn unescape(path: &str, slashes: Escaped) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path.chars();
    while let Some(c) = rest.next() {
        let meant = match c {
            '\\' => '/',
            '%' => match escaped(rest.as_str()) {
                Some('\0') => return Err(PathError::Nul),
                Some(meant) if may_stand(meant, slashes, &out) => {
                    rest.nth(1);
                    if meant == '\\' { '/' } else { meant }
                }
                Some(_) | None => c,
            },
            c => c,
        };
        out.push(meant);
    }
    Ok(out)
}

/// The character that the two digits after a `%` mean.
fn escaped(digits: &str) -> Option<char> {
    let mut digits = digits.chars();
    let (high, low) = (digits.next()?.to_digit(16)?, digits.next()?.to_digit(16)?);
    char::from_u32(high * 16 + low)
}

/// Whether a character may stand unescaped after `out`.
fn may_stand(c: char, slashes: Escaped, out: &str) -> bool {
    let unreserved = c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    // A lone % before it must not become an escape that the client did not send.
    let completes = || c.is_ascii_hexdigit() && out.bytes().rev().take(2).any(|byte| byte == b'%');
    match c {
        '/' | '\\' => slashes == Escaped::Count,
        _ => unreserved && !completes(),
    }
}

/// Resolves `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(';').next().unwrap_or(segment);
        if !matches!(name, "." | "..") {
            out.push('/');
            out.push_str(segment);
            continue;
        }
        if name == ".." {
            out.truncate(out.rfind('/').unwrap_or(0));
        }
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Normalisation::*, *};

    fn check(mode: Normalisation, cases: &[(&str, &str)]) {
        for (path, normal) in cases {
            assert_eq!(normalise(path, mode).as_deref(), Ok(*normal), "{path} {mode:?}");
        }
    }

    #[test]
    fn dots_are_resolved() {
        let cases = [
            ("/xyz", "/xyz"),
            ("/", "/"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/./c", "/a/b/c"),
            ("/a/b/../../../../c", "/c"),
            ("/a/..\\c", "/c"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a//../b", "/a/b"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/b/%2E%2e/c", "/a/c"),
            ("/a%2f..%2Fb", "/a%2f..%2Fb"),
        ];
        check(Base, &cases);
    }

    #[test]
    fn dots_with_parameters_are_dots() {
        let cases = [
            ("/xyz/..;foo=bar/abc", "/abc"),
            ("/xyz/.;foo=bar", "/xyz/"),
            ("/..;foo=bar/abc/.;mmm", "/abc/"),
            ("/xyz/..;/abc", "/abc"),
            ("/xyz/...;foo", "/xyz/...;foo"),
            ("/a;b=c/d", "/a;b=c/d"),
        ];
        check(Base, &cases);
    }

    #[test]
    fn only_what_needs_no_escape_is_unescaped() {
        let cases = [
            ("/%61dmin", "/admin"),
            ("/A/B", "/A/B"),
            ("/%c0%af", "/%c0%af"),
            ("/%5c%25", "/%5c%25"),
            ("/a%20b", "/a%20b"),
            ("/100%", "/100%"),
            ("/%zz", "/%zz"),
            ("/%2%65", "/%2%65"),
            ("/%%32e", "/%%32e"),
            ("/%252e", "/%252e"),
            ("/ü%C3%BC", "/ü%C3%BC"),
        ];
        check(Base, &cases);
        assert_eq!(normalise("/a%00b", Base), Err(PathError::Nul));
    }

    #[test]
    fn each_mode_goes_further() {
        let path = "/a//b%2F..%5Cc/./d";
        check(None, &[(path, path)]);
        check(Base, &[(path, "/a//b%2F..%5Cc/d")]);
        check(MergeSlashes, &[(path, "/a/b%2F..%5Cc/d"), ("///", "/")]);
        check(DecodeAndMergeSlashes, &[(path, "/a/c/d"), ("/%2%2fa/", "/%2/a/")]);
        assert_eq!(Normalisation::default(), Base);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert_eq!(normalise("*", Base), Ok("*".into()));
        for (path, mode) in [("", Base), ("a/b", None), ("http://x/", Base)] {
            assert_eq!(normalise(path, mode), Err(PathError::Relative), "{path}");
        }
    }

    proptest! {
        #[test]
        fn normal_paths_stay(path in "/[a-cA-F/.;%\\\\25efEF0-9ü]{0,40}") {
            for mode in [None, Base, MergeSlashes, DecodeAndMergeSlashes] {
                let Ok(once) = normalise(&path, mode) else { continue };
                prop_assert!(once.len() <= path.len() && once.starts_with('/'));
                prop_assert_eq!(normalise(&once, mode), Ok(once.clone()));
                if mode != None {
                    prop_assert!(!once.split('/').any(|segment| matches!(segment, "." | "..")));
                    prop_assert!(!once.contains('\\'));
                }
            }
        }

        #[test]
        fn nothing_panics(path in any::<String>()) {
            for mode in [None, Base, MergeSlashes, DecodeAndMergeSlashes] {
                let _ = normalise(&path, mode);
            }
        }
    }
}
