//! Pure: messages that somebody does not want to see: `IST0173=DestinationRule *.default`.
//! Never: a reason to fail: a code that nobody knows suppresses nothing.
use std::str::FromStr;

use super::message::{Code, Message};

/// Which messages are not shown, and do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    code: String,
    object: String,
}

/// The text is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a valid suppression value: give <code>=<kind> <name>.<namespace>, where * stands for anything"
)]
pub struct SuppressionError;

impl FromStr for Suppression {
    type Err = SuppressionError;

    fn from_str(text: &str) -> Result<Self, SuppressionError> {
        let (code, object) = text.split_once('=').ok_or(SuppressionError)?;
        if code.is_empty() || object.is_empty() || object.contains('=') {
            return Err(SuppressionError);
        }
        Ok(Self { code: code.to_owned(), object: object.to_owned() })
    }
}

impl Suppression {
    /// The code, when there is no such message.
    pub fn unknown(&self) -> Option<&str> {
        let known = Code::ALL.iter().any(|code| code.as_str() == self.code);
        (!known).then_some(&self.code)
    }

    /// Whether it is about this message. Objects may be written `Kind name.namespace`, as istioctl's
    /// help says, or `Kind namespace/name`, as messages do.
    pub fn covers(&self, message: &Message) -> bool {
        let Some(object) = &message.object else { return false };
        let dotted = object
            .name
            .split_once('/')
            .map(|(namespace, name)| format!("{} {name}.{namespace}", object.kind));
        let forms = [Some(object.to_string()), dotted];
        self.code == message.code.as_str()
            && forms.iter().flatten().any(|form| globs(&self.object, form))
    }
}

/// Whether a text is like a pattern in which `*` stands for anything.
fn globs(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, like) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "x", true),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(globs(pattern, text), like, "{pattern} {text}");
        }
        assert_eq!("IST0101".parse::<Suppression>(), Err(SuppressionError));
        let unknown: Suppression = "IST9999=Pod x.y".parse().unwrap();
        assert_eq!(unknown.unknown(), Some("IST9999"));
    }
}
