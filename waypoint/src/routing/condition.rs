//! Pure: which requests a rule is for.
//! Never: an order among rules (see `find`).
use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;

use super::regex::Regex;

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
