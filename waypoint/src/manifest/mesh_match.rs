//! Pure: `matches` of HTTPRoutes and GRPCRoutes → conditions.
//! Never: their order (see `mesh_route`).
use std::sync::Arc;

use super::{
    expression::Expression,
    gateway_api::{GrpcMatch, HttpMatch, MethodMatch, NamedMatch, PathKind, TextKind},
};
use crate::routing::{Field, HeaderMatch, Match, PathMatch, QueryMatch, Regex, TextMatch};

/// Conditions on a request, and the path whose place `ReplacePrefixMatch` takes.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    pub(super) matches: Match,
    pub(super) from: Arc<str>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { matches: Match::default(), from: "/".into() }
    }
}

/// The conditions of a block; `None` when one of them cannot be met.
pub(super) fn http(block: &HttpMatch) -> Option<Conditions> {
    let (kind, value) = block
        .path
        .as_ref()
        .map_or((PathKind::PathPrefix, None), |path| (path.kind, path.value.as_ref()));
    let said = value.map_or("/", Expression::as_str);
    let mut from: Arc<str> = "/".into();
    let uri = match kind {
        PathKind::Exact => Some(PathMatch::Exact { path: said.into(), ignore_case: false }),
        PathKind::RegularExpression => {
            let regex = value.map_or_else(|| Regex::new(said), Expression::regex);
            Some(PathMatch::Regex(regex.ok()?))
        }
        PathKind::PathPrefix => {
            // A slash at the end says nothing.
            let prefix = said.trim_end_matches('/');
            if !prefix.is_empty() {
                from = Arc::from(prefix);
            }
            (!prefix.is_empty()).then(|| PathMatch::Segments(from.clone()))
        }
    };
    let query = |parameter: &&NamedMatch| {
        Some(QueryMatch { name: parameter.name.as_str().into(), value: text(parameter)? })
    };
    let matches = Match {
        uri,
        method: block.method.as_deref().map(|method| TextMatch::Exact(method.into())),
        headers: headers(&block.headers)?,
        query_params: first_of_each(&block.query_params, str::to_owned)
            .iter()
            .map(query)
            .collect::<Option<_>>()?,
        ..Match::default()
    };
    Some(Conditions { matches, from })
}

/// The conditions of a block on calls.
pub(super) fn grpc(block: &GrpcMatch) -> Option<Match> {
    let uri = match &block.method {
        None => None,
        Some(method) => called(method)?,
    };
    Some(Match { uri, headers: headers(&block.headers)?, ..Match::default() })
}

/// The path of a call is `/service/method`. The inner `None` asks nothing.
fn called(method: &MethodMatch) -> Option<Option<PathMatch>> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let exact = method.kind == TextKind::Exact;
    let path = match (given(&method.service), given(&method.method)) {
        (None, None) => return Some(None),
        (Some(service), Some(method)) if exact => {
            let path = format!("/{service}/{method}").into();
            return Some(Some(PathMatch::Exact { path, ignore_case: false }));
        }
        (Some(service), None) if exact => {
            let prefix = format!("/{service}/").into();
            return Some(Some(PathMatch::Prefix { prefix, ignore_case: false }));
        }
        (None, Some(method)) if exact => format!("/[^/]+/{}", regex::escape(&method)),
        (service, method) => {
            let any = || "[^/]+".to_owned();
            format!("/(?:{})/(?:{})", service.unwrap_or_else(any), method.unwrap_or_else(any))
        }
    };
    let compiled = method.path.get_or_init(|| Regex::new(&path).ok());
    compiled.clone().map(PathMatch::Regex).map(Some)
}

fn headers(all: &[NamedMatch]) -> Option<Vec<HeaderMatch>> {
    let header =
        |one: &&NamedMatch| Some(HeaderMatch { name: Field::named(&one.name)?, value: text(one)? });
    first_of_each(all, str::to_ascii_lowercase).iter().map(header).collect()
}

/// Of several conditions on one name the first counts.
fn first_of_each(all: &[NamedMatch], key: impl Fn(&str) -> String) -> Vec<&NamedMatch> {
    let mut seen = Vec::new();
    let new = |one: &&NamedMatch| {
        let name = key(&one.name);
        let new = !seen.contains(&name);
        seen.push(name);
        new
    };
    all.iter().filter(new).collect()
}

fn text(one: &NamedMatch) -> Option<TextMatch> {
    match one.kind {
        TextKind::Exact => Some(TextMatch::Exact(one.value.as_str().into())),
        TextKind::RegularExpression => one.value.regex().ok().map(TextMatch::Regex),
    }
}
