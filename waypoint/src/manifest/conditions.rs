//! Pure: `match` blocks of VirtualServices → conditions.
//! Never: ports and gateways, which are decided when a table is compiled.
use http::HeaderName;

use super::virtual_service::{HttpMatch, StringMatch};
use crate::routing::{ClientMatch, HeaderMatch, Match, PathMatch, QueryMatch, Regex, TextMatch};

/// Names among headers that mean fields of their own, and are no headers.
const FIELDS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// The conditions of a block; `None` when one of them cannot be met.
pub(super) fn conditions(block: &HttpMatch) -> Option<Match> {
    let all = |texts: &std::collections::BTreeMap<String, StringMatch>| {
        let headers = texts.iter().filter(|(name, _)| !FIELDS.contains(&name.as_str()));
        headers.map(|(name, value)| header(name, value)).collect::<Option<Vec<_>>>()
    };
    let pseudo = |name: &str| block.headers.get(name);
    let query = |(name, value): (&String, &StringMatch)| {
        let value = match value.exact.as_deref() {
            // There is no other way to ask for a parameter that is there.
            Some("") => TextMatch::Present,
            Some(_) | None => text(value)?,
        };
        Some(QueryMatch { name: name.as_str().into(), value })
    };
    Some(Match {
        uri: optional(block.uri.as_ref(), |uri| path(uri, block.ignore_uri_case))?.flatten(),
        scheme: optional(block.scheme.as_ref().or(pseudo(":scheme")), text)?,
        method: optional(block.method.as_ref().or(pseudo(":method")), text)?,
        authority: optional(block.authority.as_ref().or(pseudo(":authority")), text)?,
        headers: all(&block.headers)?.into_iter().flatten().collect(),
        without_headers: all(&block.without_headers)?.into_iter().flatten().collect(),
        query_params: block.query_params.iter().map(query).collect::<Option<_>>()?,
        client: client(&block.source_labels, &block.source_namespace),
    })
}

/// Who asks.
pub(super) fn client(
    labels: &std::collections::BTreeMap<String, String>,
    namespace: &str,
) -> ClientMatch {
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    ClientMatch { labels: labels.clone(), namespace: namespace.map(Into::into) }
}

fn optional<T, U>(value: Option<T>, make: impl Fn(T) -> Option<U>) -> Option<Option<U>> {
    value.map_or(Some(None), |value| make(value).map(Some))
}

/// The inner `None` asks nothing.
fn path(uri: &StringMatch, ignore_case: bool) -> Option<Option<PathMatch>> {
    if let Some(path) = &uri.exact {
        return Some(Some(PathMatch::Exact { path: path.as_str().into(), ignore_case }));
    }
    if let Some(prefix) = &uri.prefix {
        return Some(Some(PathMatch::Prefix { prefix: prefix.as_str().into(), ignore_case }));
    }
    let Some(regex) = &uri.regex else { return Some(None) };
    Regex::new(regex).ok().map(PathMatch::Regex).map(Some)
}

/// The inner `None` is a pseudo-header, which is no header.
fn header(name: &str, value: &StringMatch) -> Option<Option<HeaderMatch>> {
    if name.starts_with(':') {
        return Some(None);
    }
    let name = HeaderName::try_from(name).ok()?;
    Some(Some(HeaderMatch { name, value: text(value)? }))
}

/// A condition on a text; without a field, or as the expression `*`, that it is there.
pub(super) fn text(value: &StringMatch) -> Option<TextMatch> {
    if let Some(exact) = &value.exact {
        return Some(TextMatch::Exact(exact.as_str().into()));
    }
    if let Some(prefix) = &value.prefix {
        return Some(TextMatch::Prefix(prefix.as_str().into()));
    }
    match value.regex.as_deref() {
        None | Some("*") => Some(TextMatch::Present),
        Some(regex) => Regex::new(regex).ok().map(TextMatch::Regex),
    }
}
