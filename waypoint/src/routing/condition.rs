//! Pure: which requests a rule is for.
//! Never: an order among rules (see `find`).
use std::{collections::BTreeMap, sync::Arc};

use http::{
    HeaderMap, HeaderName,
    header::{COOKIE, HOST},
};

use super::{
    regex::Regex,
    request::{Client, RequestHead},
};

/// What a request must be like; a field that is not set asks nothing.
///
/// The port is decided when a table is compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The path, without the query.
    pub uri: Option<PathMatch>,
    /// `http` or `https`.
    pub scheme: Option<TextMatch>,
    /// The method.
    pub method: Option<TextMatch>,
    /// `:authority` or Host, verbatim.
    pub authority: Option<TextMatch>,
    /// Headers that must be there.
    pub headers: Vec<HeaderMatch>,
    /// Headers that must not be there, or not like that: one that is missing is never like that.
    pub without_headers: Vec<HeaderMatch>,
    /// Query parameters that must be there.
    pub query_params: Vec<QueryMatch>,
    /// Who asks.
    pub client: ClientMatch,
}

/// A condition on a path, case-sensitive or not (`ignoreUriCase`, ASCII letters).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact {
        /// The path.
        path: Arc<str>,
        /// Whether letters of both cases are alike.
        ignore_case: bool,
    },
    /// The beginning of the path, as text: `/api/v2` is the beginning of `/api/v20`.
    Prefix {
        /// The beginning.
        prefix: Arc<str>,
        /// Whether letters of both cases are alike.
        ignore_case: bool,
    },
    /// The first segments of the path (Gateway API `PathPrefix`): `/v2` and `/v2/` are those of `/v2`,
    /// `/v2/` and `/v2/x`, not of `/v2x`.
    Segments(Arc<str>),
    /// The whole path as an expression.
    Regex(Regex),
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// This text.
    Exact(Arc<str>),
    /// Any that begins so.
    Prefix(Arc<str>),
    /// Any that is like this as a whole.
    Regex(Regex),
    /// Any, even an empty one (`{}`, or the expression `*`).
    Present,
}

/// A condition on a header; values of several headers of one name are joined by `,`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// What its value must be like.
    pub value: TextMatch,
}

/// A condition on the first query parameter of a name; nothing is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name.
    pub name: Arc<str>,
    /// What its value must be like; it is empty in `?name` and `?name=`.
    pub value: TextMatch,
}

/// A condition on who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientMatch {
    /// Labels that its workload must have.
    pub labels: BTreeMap<String, String>,
    /// The namespace that it must be of.
    pub namespace: Option<Arc<str>>,
}

impl Match {
    /// Whether a request is like this.
    pub fn holds(&self, head: &RequestHead<'_>) -> bool {
        let Self { uri, scheme, method, authority, headers, without_headers, .. } = self;
        let text = |condition: &Option<TextMatch>, text: &str| {
            condition.as_ref().is_none_or(|condition| condition.holds(text))
        };
        uri.as_ref().is_none_or(|uri| uri.holds(head.path))
            && text(method, head.method.as_str())
            && text(scheme, head.scheme)
            && text(authority, head.authority)
            && headers.iter().all(|header| header.holds(head))
            && !without_headers.iter().any(|header| header.holds(head))
            && self.query_params.iter().all(|parameter| parameter.holds(head.query))
            && self.client.holds(head.client)
    }

    /// Where Gateway API places a route among others: the larger comes first. Routes that are equal are
    /// ordered by age, then by namespace and name, then as they are written.
    pub fn precedence(&self) -> Precedence {
        let kind = self.uri.as_ref().map_or((0, 0), PathMatch::precedence);
        Precedence(kind, self.method.is_some(), self.headers.len(), self.query_params.len())
    }
}

/// A route's place among others of Gateway API (HTTPRouteRule): kind and length of the path, method,
/// number of headers, number of query parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence((u8, usize), bool, usize, usize);

impl PathMatch {
    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact { path: exact, ignore_case: false } => path == &**exact,
            Self::Exact { path: exact, ignore_case: true } => path.eq_ignore_ascii_case(exact),
            Self::Prefix { prefix, ignore_case: false } => path.starts_with(&**prefix),
            Self::Prefix { prefix, ignore_case: true } => {
                let beginning = path.as_bytes().get(..prefix.len());
                beginning.is_some_and(|text| text.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Self::Segments(segments) => after_segments(path, segments).is_some(),
            Self::Regex(regex) => regex.matches(path),
        }
    }

    fn precedence(&self) -> (u8, usize) {
        match self {
            Self::Exact { path, .. } => (3, path.len()),
            Self::Prefix { prefix, .. } => (2, prefix.len()),
            Self::Segments(segments) => (2, segments.trim_end_matches('/').len()),
            Self::Regex(regex) => (1, regex.as_str().len()),
        }
    }
}

/// What follows the first segments of a path: nothing, or something that begins with a slash; `None`
/// when it begins otherwise.
pub(super) fn after_segments<'p>(path: &'p str, segments: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(segments.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

impl TextMatch {
    /// Whether a text is like this.
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == &**exact,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Regex(regex) => regex.matches(text),
            Self::Present => true,
        }
    }
}

impl HeaderMatch {
    fn holds(&self, head: &RequestHead<'_>) -> bool {
        if self.name == HOST {
            return self.value.holds(head.authority);
        }
        let mut values = head.headers.get_all(&self.name).iter();
        match (values.next(), values.next()) {
            (None, _) => false,
            (Some(only), None) => {
                std::str::from_utf8(only.as_bytes()).is_ok_and(|value| self.value.holds(value))
            }
            (Some(_), Some(_)) => {
                joined(&self.name, head.headers).is_some_and(|value| self.value.holds(&value))
            }
        }
    }
}

/// All values of a header as one (RFC 9110 §5.3; RFC 9113 §8.2.3 for cookies); `None` when one is not
/// UTF-8.
fn joined(name: &HeaderName, headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(name).iter();
    let texts: Result<Vec<_>, _> =
        values.map(|value| std::str::from_utf8(value.as_bytes())).collect();
    Some(texts.ok()?.join(if name == COOKIE { "; " } else { "," }))
}

impl QueryMatch {
    fn holds(&self, query: Option<&str>) -> bool {
        let parameters = query.into_iter().flat_map(|query| query.split('&'));
        parameters
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
            .find(|(name, _)| *name == &*self.name)
            .is_some_and(|(_, value)| self.value.holds(value))
    }
}

impl ClientMatch {
    /// Whether a client is like this.
    pub fn holds(&self, client: &Client<'_>) -> bool {
        self.labels.iter().all(|(name, value)| client.labels.get(name) == Some(value))
            && self.namespace.as_deref().is_none_or(|namespace| client.namespace == Some(namespace))
    }
}
