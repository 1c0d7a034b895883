//! Pure: conditions and changes of rules in the words of their manifests.
//! Never: read back.
use std::fmt::{self, Display, Formatter};

use super::{
    condition::{ClientCondition, Condition, Field, HeaderMatch, PathMatch, QueryMatch, TextMatch},
    edit::Edits,
    rewrite::PathRewrite,
};

/// The longest text of a rule that is shown whole, characters.
const LONGEST: usize = 256;

/// A text of a rule, within its bound.
struct Short<'a>(&'a str);

impl Display for Short<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(f, "{}...", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

impl Display for PathMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let case = |ignore: &bool| if *ignore { " in any case" } else { "" };
        match self {
            Self::Exact { path, ignore_case } => {
                write!(f, "exact {}{}", Short(path), case(ignore_case))
            }
            Self::Prefix { prefix, ignore_case } => {
                write!(f, "prefix {}{}", Short(prefix), case(ignore_case))
            }
            Self::Segments(path) => write!(f, "path prefix {}", Short(path)),
            Self::Regex(regex) => write!(f, "regex {}", Short(regex.as_str())),
        }
    }
}

impl Display for TextMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact {}", Short(text)),
            Self::Prefix(text) => write!(f, "prefix {}", Short(text)),
            Self::Regex(regex) => write!(f, "regex {}", Short(regex.as_str())),
            Self::Present => f.write_str("present"),
        }
    }
}

impl Display for HeaderMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "header {} {}", self.name, self.value)
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header(name) => name.as_str(),
            Self::Path => ":path",
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
        })
    }
}

impl Display for QueryMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "query parameter {} {}", self.name, self.value)
    }
}

impl Display for Condition<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(uri) => write!(f, "uri {uri}"),
            Self::Scheme(scheme) => write!(f, "scheme {scheme}"),
            Self::Method(method) => write!(f, "method {method}"),
            Self::Authority(authority) => write!(f, "authority {authority}"),
            Self::Header(header) => header.fmt(f),
            Self::WithoutHeader(header) => write!(f, "without {header}"),
            Self::QueryParam(parameter) => parameter.fmt(f),
            Self::Client(client) => client.fmt(f),
        }
    }
}

impl Display for ClientCondition<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(name, value) => write!(f, "source label {name}={value}"),
            Self::Namespace(namespace) => write!(f, "source namespace {namespace}"),
        }
    }
}

impl Display for PathRewrite {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => Ok(()),
            Self::Full(to) => write!(f, "path to {}", Short(to)),
            Self::Prefix { to, .. } => write!(f, "prefix to {}", Short(to)),
            Self::Segments { from, to } => {
                write!(f, "path prefix {} to {}", Short(from), Short(to))
            }
            Self::Regex(substitution) => {
                let (from, to) = substitution.texts();
                write!(f, "regex {} to {}", Short(from), Short(to))
            }
        }
    }
}

/// Names only: values may be long, or nobody else's to see.
impl Display for Edits {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all = self.names().into_iter();
        let all = all.flat_map(|(what, names)| names.into_iter().map(move |name| (what, name)));
        all.enumerate().try_for_each(|(index, (what, name))| {
            write!(f, "{}{what} {name}", if index == 0 { "" } else { ", " })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ü".repeat(LONGEST + 1);
        let text = TextMatch::Exact(long.as_str().into()).to_string();
        assert_eq!(text.chars().count(), "exact ".len() + LONGEST + "...".len());
        assert_eq!(TextMatch::Exact("ü".repeat(LONGEST).into()).to_string().chars().count(), 262);
    }

    #[test]
    fn changes_of_headers_are_told_by_name() {
        let edits = Edits::default().remove(["x-gone"]).unwrap();
        let edits =
            edits.set([("x-a", "1"), ("host", "other")]).unwrap().add([("x-b", "2")]).unwrap();
        assert_eq!(edits.to_string(), "set authority, remove x-gone, set x-a, add x-b");
    }
}
