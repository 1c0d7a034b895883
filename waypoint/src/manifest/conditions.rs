//! Pure: `match` blocks of VirtualServices → conditions.
//! Never: ports and gateways, which are decided when a table is compiled.
use super::virtual_service::{HttpMatch, StringMatch};
use crate::routing::{ClientMatch, Field, HeaderMatch, Match, PathMatch, QueryMatch, TextMatch};

/// The conditions of a block; `None` when one of them cannot be met.
pub(super) fn conditions(block: &HttpMatch) -> Option<Match> {
    let all = |texts: &std::collections::BTreeMap<String, StringMatch>| {
        texts.iter().map(|(name, value)| header(name, value)).collect::<Option<Vec<_>>>()
    };
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
        scheme: optional(block.scheme.as_ref(), text)?,
        method: optional(block.method.as_ref(), text)?,
        authority: optional(block.authority.as_ref(), text)?,
        headers: all(&block.headers)?,
        without_headers: all(&block.without_headers)?,
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
    regex.regex().ok().map(PathMatch::Regex).map(Some)
}

fn header(name: &str, value: &StringMatch) -> Option<HeaderMatch> {
    Some(HeaderMatch { name: Field::named(name)?, value: text(value)? })
}

/// A condition on a text; without a field, or as the expression `*`, that it is there.
pub(super) fn text(value: &StringMatch) -> Option<TextMatch> {
    if let Some(exact) = &value.exact {
        return Some(TextMatch::Exact(exact.as_str().into()));
    }
    if let Some(prefix) = &value.prefix {
        return Some(TextMatch::Prefix(prefix.as_str().into()));
    }
    match &value.regex {
        Some(regex) if regex.as_str() != "*" => regex.regex().ok().map(TextMatch::Regex),
        Some(_) | None => Some(TextMatch::Present),
    }
}
