//! Pure: an expression, and what stands in place of each part of a text that is like it, as RE2's
//! GlobalReplace does it.
//! Never: matches of whole texts (see `regex`).
use std::{fmt, sync::Arc};

use super::regex::{self, RegexError};

/// Compiled `match` and `rewrite` of Istio's `uriRegexRewrite`.
#[derive(Clone)]
pub struct Substitution {
    text: Arc<str>,
    to: Arc<str>,
    compiled: ::regex::Regex,
    parts: Vec<Part>,
}

/// A part of the replacement.
#[derive(Clone)]
enum Part {
    Text(String),
    /// What this group matched; the whole match is group 0.
    Group(usize),
}

/// Why a substitution is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubstitutionError {
    /// The expression.
    #[error("match: {0}")]
    Match(#[from] RegexError),
    /// The replacement is longer than [`regex::Regex::MAX_LENGTH`].
    #[error("rewrite: longer than {} bytes", regex::Regex::MAX_LENGTH)]
    TooLong,
    /// The replacement names a group that the expression does not have.
    #[error("rewrite: the expression has no group {0}")]
    NoGroup(usize),
    /// The replacement has a backslash that neither names a group nor escapes another.
    #[error(r"rewrite: a \ is followed by neither a digit nor another one")]
    Escape,
}

impl Substitution {
    /// Compiles an expression of RE2 and a replacement, in which `\0` to `\9` are groups and `\\` is a
    /// backslash.
    ///
    /// # Errors
    /// When the expression is none of RE2, or the replacement names a group that is not there.
    pub fn new(text: &str, to: &str) -> Result<Self, SubstitutionError> {
        if to.len() > regex::Regex::MAX_LENGTH {
            return Err(SubstitutionError::TooLong);
        }
        let compiled = regex::compile(text, |translated| translated)?;
        let parts = parts(to, compiled.captures_len())?;
        Ok(Self { text: text.into(), to: to.into(), compiled, parts })
    }

    /// The expression and the replacement.
    pub(super) fn texts(&self) -> (&str, &str) {
        (&self.text, &self.to)
    }

    /// Replaces every part of `text` that is like the expression; `None` when the text is longer than
    /// [`regex::Regex::MAX_TEXT`], or the result would be longer than `limit` bytes.
    pub fn replace(&self, text: &str, limit: usize) -> Option<String> {
        if text.len() > regex::Regex::MAX_TEXT {
            return None;
        }
        let mut out = String::new();
        let mut copied = 0;
        for found in self.compiled.captures_iter(text) {
            let whole = found.get(0)?;
            out.push_str(text.get(copied..whole.start())?);
            copied = whole.end();
            self.write(&found, limit, &mut out)?;
        }
        out.push_str(text.get(copied..)?);
        (out.len() <= limit).then_some(out)
    }

    /// Writes what stands in place of one match; `None` when `out` gets longer than `limit` bytes.
    fn write(&self, found: &::regex::Captures<'_>, limit: usize, out: &mut String) -> Option<()> {
        self.parts.iter().try_for_each(|part| {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Group(group) => found.get(*group).map_or("", |group| group.as_str()),
            });
            (out.len() <= limit).then_some(())
        })
    }
}

/// Reads a replacement for an expression with that many groups, the whole match counted.
fn parts(to: &str, groups: usize) -> Result<Vec<Part>, SubstitutionError> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut chars = to.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('\\') => text.push('\\'),
            Some(digit @ '0'..='9') => {
                let group = digit.to_digit(10).map_or(0, |digit| digit as usize);
                if group >= groups {
                    return Err(SubstitutionError::NoGroup(group));
                }
                parts.push(Part::Text(std::mem::take(&mut text)));
                parts.push(Part::Group(group));
            }
            Some(_) | None => return Err(SubstitutionError::Escape),
        }
    }
    parts.push(Part::Text(text));
    Ok(parts)
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.to) == (&other.text, &other.to)
    }
}

impl Eq for Substitution {}

impl fmt::Debug for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} -> {:?}", self.text, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str, to: &str, path: &str) -> Option<String> {
        Substitution::new(text, to).unwrap().replace(path, 40)
    }

    #[test]
    fn groups_are_put_in() {
        let cases = [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1", "/v1/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("(a)|(b)", r"<\1\2>", "ab", "<a><b>"),
            ("x", r"\0\\", "/x", r"/x\"),
            ("q", "z", "/unlike", "/unlike"),
            ("", "-", "ab", "-a-b-"),
        ];
        for (text, to, path, new) in cases {
            assert_eq!(replaced(text, to, path).as_deref(), Some(new), "{text} {to} {path}");
        }
    }

    #[test]
    fn results_are_bounded() {
        assert_eq!(replaced("", "0123456789", "abcdefghi"), None);
        assert_eq!(replaced("x", "", &"a".repeat(41)), None);
        assert_eq!(replaced("a+", &r"\0".repeat(4000), &"a".repeat(30)), None);
    }

    #[test]
    fn what_cannot_be_replaced_is_refused() {
        let error = |text: &str, to: &str| Substitution::new(text, to).unwrap_err();
        assert_eq!(error("a", r"\1"), SubstitutionError::NoGroup(1));
        assert_eq!(error("a", r"\n"), SubstitutionError::Escape);
        assert_eq!(error("a", r"b\"), SubstitutionError::Escape);
        assert_eq!(error("(?=a)", ""), SubstitutionError::Match(RegexError::LookAround));
        assert_eq!(error("a", &"b".repeat(9000)), SubstitutionError::TooLong);
    }
}
