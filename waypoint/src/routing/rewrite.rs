//! Pure: under which path and authority a request goes on.
//! Never: redirects, though they share the changes of paths.
use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, uri::PathAndQuery};

use super::{
    condition::{PathMatch, after_segments},
    substitution::Substitution,
};
use crate::path::has_dots;

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
    /// The longest path that a rewrite may make, in bytes.
    pub const MAX_LENGTH: usize = 64 * 1024;

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

    /// The path and query under which a request goes on; `None` when nothing changes.
    ///
    /// # Errors
    /// When there can be no such path.
    pub fn target(
        &self,
        path: &str,
        query: Option<&str>,
    ) -> Result<Option<PathAndQuery>, RewriteError> {
        let Some(new) = self.path(path)? else { return Ok(None) };
        if has_dots(&new) && !has_dots(path) {
            return Err(RewriteError::Dots);
        }
        let mut target = new.into_owned();
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target.parse().map(Some).map_err(|_| RewriteError::Characters)
    }

    /// The new path, which begins with a slash; `None` when nothing changes.
    pub(super) fn path<'p>(&'p self, path: &'p str) -> Result<Option<Cow<'p, str>>, RewriteError> {
        let new = match self {
            Self::Keep => return Ok(None),
            Self::Full(to) => Cow::Borrowed(&**to),
            Self::Prefix { length, to } => {
                Cow::Owned(format!("{to}{}", path.get(*length..).unwrap_or_default()))
            }
            Self::Segments { from, to } => {
                let rest = after_segments(path, from).unwrap_or_default();
                Cow::Owned(format!("{}{rest}", to.trim_end_matches('/')))
            }
            Self::Regex(substitution) => {
                let new = substitution.replace(path, Self::MAX_LENGTH);
                new.ok_or(RewriteError::TooLong)?.into()
            }
        };
        let slash = if new.starts_with('/') { "" } else { "/" };
        let new = if slash.is_empty() { new } else { format!("{slash}{new}").into() };
        if new.len() > Self::MAX_LENGTH { Err(RewriteError::TooLong) } else { Ok(Some(new)) }
    }
}

/// Why a path cannot be rewritten, which is an answer of 500: the rule does not fit its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It would be longer than [`PathRewrite::MAX_LENGTH`].
    #[error("the new path is longer than {} bytes", PathRewrite::MAX_LENGTH)]
    TooLong,
    /// It would have characters that no path may have.
    #[error("the new path has characters that no path may have")]
    Characters,
    /// It would have `.` or `..` among its segments, which the request had not: an endpoint would read
    /// another path than the one that was matched.
    #[error("the new path has dot segments")]
    Dots,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(rewrite: &PathRewrite, path: &str, query: Option<&str>) -> Option<String> {
        rewrite.target(path, query).unwrap().map(|target| target.to_string())
    }

    #[test]
    fn a_rewrite_means_what_the_match_says() {
        let prefix = |prefix: &str| PathMatch::Prefix { prefix: prefix.into(), ignore_case: false };
        let exact = PathMatch::Exact { path: "/old".into(), ignore_case: false };
        let regex = PathMatch::Regex(super::super::regex::Regex::new("/o.*").unwrap());
        let cases = [
            (Some(prefix("/old")), "/new", "/old/x", "/new/x"),
            (Some(prefix("/old")), "/new", "/older", "/newer"),
            (Some(prefix("/old/")), "/", "/old/x", "/x"),
            (Some(prefix("/old")), "/", "/old/x", "//x"),
            (Some(prefix("/old/")), "new-", "/old/x", "/new-x"),
            (Some(exact), "/new", "/old", "/new"),
            (Some(regex), "/new", "/old/and/long", "/new"),
            (None, "/new/", "/x/y", "/new/x/y"),
            (None, "/new", "*", "/new"),
            (Some(PathMatch::Segments("/old".into())), "/new", "/old/x", "/new/x"),
        ];
        for (uri, to, path, new) in cases {
            let rewrite = PathRewrite::of_match(uri.as_ref(), to);
            let with_query = target(&rewrite, path, Some("a=/old"));
            assert_eq!(with_query, Some(format!("{new}?a=/old")), "{uri:?} {to} {path}");
            assert_eq!(target(&rewrite, path, None).as_deref(), Some(new), "{uri:?} {to} {path}");
        }
        assert_eq!(target(&PathRewrite::Keep, "/x", Some("y")), None);
    }

    /// The table of Gateway API, HTTPPathModifier.
    #[test]
    fn segments_are_replaced_with_one_slash() {
        let cases = [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo/", "/"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "/", "/foo/", "/"),
            ("/foo", "/", "/foo", "/"),
            ("/", "/xyz", "/foo", "/xyz/foo"),
            ("/", "/xyz", "/", "/xyz/"),
        ];
        for (from, to, path, new) in cases {
            let rewrite = PathRewrite::Segments { from: from.into(), to: to.into() };
            assert_eq!(target(&rewrite, path, None).as_deref(), Some(new), "{from} {to} {path}");
        }
    }

    #[test]
    fn expressions_see_no_query() {
        let substitution = Substitution::new("^/a/(.*)$", r"/b/\1").unwrap();
        let rewrite = PathRewrite::Regex(substitution);
        assert_eq!(target(&rewrite, "/a/x", Some("q=/a/")).as_deref(), Some("/b/x?q=/a/"));
    }

    #[test]
    fn a_rewrite_makes_no_dot_segments() {
        let rewrite = |to: &str| PathRewrite::Prefix { length: "/img".len(), to: to.into() };
        for (to, path) in [
            ("/static/", "/img../secret"),
            ("/static/", "/img.."),
            ("/static/", "/img..;x=y/secret"),
            ("/static/%2e", "/img./secret"),
            ("/static/.", "/img/x"),
        ] {
            assert_eq!(rewrite(to).target(path, None), Err(RewriteError::Dots), "{to} {path}");
        }
        assert_eq!(
            target(&rewrite("/static/"), "/img.../x", None).as_deref(),
            Some("/static/.../x")
        );
        // Whoever normalises nothing gets what the client sent.
        assert_eq!(target(&rewrite("/s"), "/img/../x", None).as_deref(), Some("/s/../x"));
    }

    #[test]
    fn what_is_no_path_is_an_error() {
        let full = |to: &str| PathRewrite::Full(to.into()).target("/", None);
        assert_eq!(full("/a b"), Err(RewriteError::Characters));
        let long = "a".repeat(PathRewrite::MAX_LENGTH);
        assert_eq!(full(&long), Err(RewriteError::TooLong));
    }

    proptest! {
        #[test]
        fn nothing_panics(path in "/[a-c/ü%.]{0,20}", to in "[/a-c\\\\ü]{0,8}", length in 0_usize..24) {
            let rewrites = [
                PathRewrite::Full((&*to).into()),
                PathRewrite::Prefix { length, to: (&*to).into() },
                PathRewrite::Segments { from: (&*to).into(), to: (&*path).into() },
            ];
            for rewrite in rewrites {
                if let Ok(Some(target)) = rewrite.target(&path, Some("x")) {
                    prop_assert!(target.path().starts_with('/'));
                    prop_assert_eq!(target.query(), Some("x"));
                }
            }
        }
    }
}
