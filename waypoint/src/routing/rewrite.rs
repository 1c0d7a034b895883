//! Pure: under which path and authority a request goes on.
//! Never: redirects, though they share the changes of paths.
use std::sync::Arc;

use http::HeaderValue;

use super::{condition::PathMatch, regex::RegexError};

/// Changes to the path and the authority of a request that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The path.
    pub path: PathRewrite,
    /// The authority (`rewrite.authority`, Gateway API `hostname`), if it changes.
    pub authority: Option<HeaderValue>,
}

/// A change of a path; the query stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathRewrite {
    /// None.
    #[default]
    Keep,
    /// Another path.
    Full(Arc<str>),
    /// Another beginning, as text.
    Prefix {
        /// How many bytes of the path it replaces: those that the rule matched.
        length: usize,
        /// The new beginning.
        to: Arc<str>,
    },
    /// Other first segments (Gateway API `ReplacePrefixMatch`), with one slash before the rest.
    Segments {
        /// The path of the rule's match.
        from: Arc<str>,
        /// The new segments.
        to: Arc<str>,
    },
    /// What an expression makes of it (`uriRegexRewrite`).
    Regex(Substitution),
}

impl PathRewrite {
    /// What `rewrite.uri` and `redirect.prefixRewrite` of Istio mean under a condition on the path: with
    /// a prefix its replacement, with another condition that of the whole path, without one that of
    /// the leading slash.
    pub fn of_match(uri: Option<&PathMatch>, to: &str) -> Self {
        match uri {
            None => Self::Prefix { length: 1, to: to.into() },
            Some(PathMatch::Prefix { prefix, .. }) => {
                Self::Prefix { length: prefix.len(), to: to.into() }
            }
            Some(PathMatch::Segments(from)) => Self::Segments { from: from.clone(), to: to.into() },
            Some(PathMatch::Exact { .. } | PathMatch::Regex(_)) => Self::Full(to.into()),
        }
    }
}

/// An expression, and what stands in place of each part of a path that is like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution {
    text: Arc<str>,
    to: Arc<str>,
}

/// Why a substitution is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubstitutionError {
    /// The expression.
    #[error("match: {0}")]
    Match(#[from] RegexError),
    /// The replacement.
    #[error("rewrite: {0}")]
    Rewrite(String),
}

impl Substitution {
    /// Compiles `match` and `rewrite` of Istio's `uriRegexRewrite`; `\0` to `\9` in `rewrite` are groups.
    ///
    /// # Errors
    /// When the expression is none of RE2, or the replacement names a group that is not there.
    pub fn new(text: &str, to: &str) -> Result<Self, SubstitutionError> {
        super::regex::Regex::new(text)?;
        Ok(Self { text: text.into(), to: to.into() })
    }
}
