//! Pure: which requests a rule is for.
//! Never: an order among rules (see `find`).
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

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
    /// Headers that must not be there, or not like that: one that is missing is never like that, and one
    /// of which nobody can tell is.
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

/// What a condition on a header looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A header; values of several of one name are joined by `,`. `host` is the authority.
    Header(HeaderName),
    /// `:path`: the path with the query.
    Path,
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`.
    Authority,
}

impl Field {
    /// The field of this name; `None` when requests have none.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            ":path" => Self::Path,
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" => Self::Authority,
            name => {
                let name = HeaderName::try_from(name).ok()?;
                if name == HOST { Self::Authority } else { Self::Header(name) }
            }
        })
    }
}

/// A condition on a header, or what is like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// What it looks at.
    pub name: Field,
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

/// One of the things that a rule asks; a request must be like all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'m> {
    /// Of the path.
    Uri(&'m PathMatch),
    /// Of the scheme.
    Scheme(&'m TextMatch),
    /// Of the method.
    Method(&'m TextMatch),
    /// Of the authority.
    Authority(&'m TextMatch),
    /// Of a header.
    Header(&'m HeaderMatch),
    /// Of a header that must not be there, or not like that.
    WithoutHeader(&'m HeaderMatch),
    /// Of a query parameter.
    QueryParam(&'m QueryMatch),
    /// Of who asks.
    Client(ClientCondition<'m>),
}

/// One of the things that a rule asks of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCondition<'m> {
    /// A label of its workload, and its value.
    Label(&'m str, &'m str),
    /// Its namespace.
    Namespace(&'m str),
}

impl Match {
    /// Whether a request is like this.
    pub fn holds(&self, head: &RequestHead<'_>) -> bool {
        self.conditions().all(|condition| condition.holds(head))
    }

    /// The first condition that a request is not like; `None` when it is like all.
    pub fn unmet(&self, head: &RequestHead<'_>) -> Option<Condition<'_>> {
        self.conditions().find(|condition| !condition.holds(head))
    }

    /// All conditions, in the order in which they are looked at.
    pub fn conditions(&self) -> impl Iterator<Item = Condition<'_>> {
        let uri = self.uri.iter().map(Condition::Uri);
        uri.chain(self.method.iter().map(Condition::Method))
            .chain(self.scheme.iter().map(Condition::Scheme))
            .chain(self.authority.iter().map(Condition::Authority))
            .chain(self.headers.iter().map(Condition::Header))
            .chain(self.without_headers.iter().map(Condition::WithoutHeader))
            .chain(self.query_params.iter().map(Condition::QueryParam))
            .chain(self.client.conditions().map(Condition::Client))
    }

    /// Where Gateway API places a route among others: the larger comes first. Routes that are equal are
    /// ordered by age, then by namespace and name, then as they are written. Without a condition on the
    /// path an HTTPRoute means the prefix `/`, and a GRPCRoute (`calls`) nothing.
    pub fn precedence(&self, calls: bool) -> Precedence {
        let without = if calls { (0, 0) } else { (2, 0) };
        let kind = self.uri.as_ref().map_or(without, PathMatch::precedence);
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

    /// Whether a text is short enough to be told like this or not.
    fn can_tell(&self, text: &str) -> bool {
        match self {
            Self::Regex(_) => text.len() <= Regex::MAX_TEXT,
            Self::Exact(_) | Self::Prefix(_) | Self::Present => true,
        }
    }
}

impl HeaderMatch {
    fn holds(&self, head: &RequestHead<'_>) -> bool {
        self.found(head).is_some_and(|value| self.value.holds(&value))
    }

    /// Whether it is not there, or surely not like that.
    fn fails(&self, head: &RequestHead<'_>) -> bool {
        self.found(head)
            .is_none_or(|value| self.value.can_tell(&value) && !self.value.holds(&value))
    }

    /// What a request has there; `None` for nothing, or nothing that is text.
    fn found<'h>(&self, head: &RequestHead<'h>) -> Option<Cow<'h, str>> {
        let name = match &self.name {
            Field::Header(name) => name,
            Field::Path if head.query.is_some() => return Some(head.target().into()),
            Field::Path => return Some(head.path.into()),
            Field::Method => return Some(head.method.as_str().into()),
            Field::Scheme => return Some(head.scheme.into()),
            Field::Authority => return Some(head.authority.into()),
        };
        let mut values = head.headers.get_all(name).iter();
        match (values.next()?, values.next()) {
            (only, None) => std::str::from_utf8(only.as_bytes()).ok().map(Cow::Borrowed),
            (_, Some(_)) => joined(name, head.headers).map(Cow::Owned),
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
        self.found(query).is_some_and(|value| self.value.holds(value))
    }

    fn found<'q>(&self, query: Option<&'q str>) -> Option<&'q str> {
        let parameters = query.into_iter().flat_map(|query| query.split('&'));
        parameters
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
            .find(|(name, _)| *name == &*self.name)
            .map(|(_, value)| value)
    }
}

impl ClientMatch {
    /// Whether a client is like this.
    pub fn holds(&self, client: &Client<'_>) -> bool {
        self.conditions().all(|condition| condition.holds(client))
    }

    /// All conditions.
    pub fn conditions(&self) -> impl Iterator<Item = ClientCondition<'_>> {
        let labels = self.labels.iter().map(|(name, value)| ClientCondition::Label(name, value));
        labels.chain(self.namespace.as_deref().map(ClientCondition::Namespace))
    }
}

impl Condition<'_> {
    fn holds(&self, head: &RequestHead<'_>) -> bool {
        match self {
            Self::Uri(uri) => uri.holds(head.path),
            Self::Scheme(scheme) => scheme.holds(head.scheme),
            Self::Method(method) => method.holds(head.method.as_str()),
            Self::Authority(authority) => authority.holds(head.authority),
            Self::Header(header) => header.holds(head),
            Self::WithoutHeader(header) => header.fails(head),
            Self::QueryParam(parameter) => parameter.holds(head.query),
            Self::Client(condition) => condition.holds(head.client),
        }
    }

    /// What a request has there; `None` for nothing, or nothing that is text.
    pub fn found<'h>(&self, head: &'h RequestHead<'_>) -> Option<Cow<'h, str>> {
        match self {
            Self::Uri(_) => Some(head.path.into()),
            Self::Scheme(_) => Some(head.scheme.into()),
            Self::Method(_) => Some(head.method.as_str().into()),
            Self::Authority(_) => Some(head.authority.into()),
            Self::Header(header) | Self::WithoutHeader(header) => header.found(head),
            Self::QueryParam(parameter) => parameter.found(head.query).map(Cow::Borrowed),
            Self::Client(ClientCondition::Label(name, _)) => {
                head.client.labels.get(*name).map(|value| value.as_str().into())
            }
            Self::Client(ClientCondition::Namespace(_)) => head.client.namespace.map(Cow::Borrowed),
        }
    }
}

impl ClientCondition<'_> {
    fn holds(&self, client: &Client<'_>) -> bool {
        match self {
            Self::Label(name, value) => client.labels.get(*name).is_some_and(|own| own == value),
            Self::Namespace(namespace) => client.namespace == Some(*namespace),
        }
    }
}
