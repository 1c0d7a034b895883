//! Pure: filters, timeouts and retries of Gateway API rules → what they do.
//! Never: backends.
use std::{sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode};

use super::{
    gateway_api::{
        CorsFilter, Filter, Header, HeaderFilter, MirrorFilter, PathModifier, PathModifierKind,
        Retry as RetrySpec, Timeouts,
    },
    rules::{allow_list, joined},
    time::Time,
};
use crate::routing::{
    Cors, Edits, HeaderEdits, PathRewrite, Percentage, Redirect, RedirectPort, Regex, Retry,
    RetryOn, Rewrite, TextMatch, Unmatched,
};

/// Tries after the first when a rule has `retry` and no number (Istio).
const ATTEMPTS: u32 = 2;
/// What a browser may remember a permission for, unless given, seconds (Gateway API).
const MAX_AGE: u64 = 5;
/// Parts of a share of requests, unless given (Gateway API).
const DENOMINATOR: u32 = 100;

/// Changes to headers; `None` when one of them makes no sense.
pub(super) fn headers(filters: &[Filter]) -> Option<HeaderEdits> {
    let one = |filter: Option<&HeaderFilter>| filter.map_or_else(|| Some(Edits::default()), edits);
    Some(HeaderEdits {
        request: one(filters.iter().find_map(|filter| filter.request_header_modifier.as_ref()))?,
        response: one(filters.iter().find_map(|filter| filter.response_header_modifier.as_ref()))?,
    })
}

/// Changes to the headers of one direction.
pub(super) fn edits(filter: &HeaderFilter) -> Option<Edits> {
    fn pairs(all: &[Header]) -> impl Iterator<Item = (&str, &str)> {
        all.iter().map(|header| (header.name.as_str(), header.value.as_str()))
    }
    let edits = Edits::default().remove(filter.remove.iter().map(String::as_str)).ok()?;
    edits.set(pairs(&filter.set)).ok()?.add(pairs(&filter.add)).ok()
}

/// Another path and host; `from` is the path that the rule matched.
pub(super) fn rewrite(filters: &[Filter], from: &Arc<str>) -> Option<Rewrite> {
    let Some(rewrite) = filters.iter().find_map(|filter| filter.url_rewrite.as_ref()) else {
        return Some(Rewrite::default());
    };
    let authority = match &rewrite.hostname {
        Some(hostname) => Some(HeaderValue::from_str(hostname).ok()?),
        None => None,
    };
    Some(Rewrite { path: path(rewrite.path.as_ref(), from), authority })
}

fn path(modifier: Option<&PathModifier>, from: &Arc<str>) -> PathRewrite {
    let Some(modifier) = modifier else { return PathRewrite::Keep };
    let text = |text: &Option<String>| text.as_deref().unwrap_or("/").into();
    match modifier.kind {
        PathModifierKind::ReplaceFullPath => PathRewrite::Full(text(&modifier.replace_full_path)),
        PathModifierKind::ReplacePrefixMatch => {
            PathRewrite::Segments { from: from.clone(), to: text(&modifier.replace_prefix_match) }
        }
    }
}

/// Where the client is told to ask; the inner `None` when it is not.
pub(super) fn redirect(filters: &[Filter], from: &Arc<str>) -> Option<Option<Redirect>> {
    let Some(spec) = filters.iter().find_map(|filter| filter.request_redirect.as_ref()) else {
        return Some(None);
    };
    let port = match (spec.port, &spec.scheme) {
        (Some(port), _) => RedirectPort::Number(port),
        (None, Some(_)) => RedirectPort::OfScheme,
        (None, None) => RedirectPort::OfRequest,
    };
    let status = spec.status_code.map_or(Ok(StatusCode::FOUND), StatusCode::from_u16).ok()?;
    let text = |text: &Option<String>| text.as_deref().map(Into::into);
    Some(Some(Redirect {
        status,
        scheme: text(&spec.scheme),
        authority: text(&spec.hostname),
        port,
        path: path(spec.path.as_ref(), from),
    }))
}

/// The share of requests that is copied; `None` for none.
pub(super) fn share(mirror: &MirrorFilter) -> Option<Percentage> {
    match (mirror.percent, mirror.fraction) {
        (Some(0), _) => None,
        (Some(percent), _) => Percentage::of_percent(f64::from(percent)),
        (None, Some(fraction)) if fraction.numerator == 0 => None,
        (None, Some(fraction)) => {
            Percentage::of_fraction(fraction.numerator, fraction.denominator.unwrap_or(DENOMINATOR))
        }
        (None, None) => Some(Percentage::ALL),
    }
}

/// How long all tries may take: `backendRequest` too, when there is but one.
pub(super) fn timeout(timeouts: Option<Timeouts>, retried: bool) -> Option<Duration> {
    let Timeouts { request, backend_request } = timeouts?;
    let backend = backend_request.and_then(Time::nonzero).filter(|_| !retried);
    backend.or(request.and_then(Time::nonzero))
}

/// When a failed try is followed by another.
pub(super) fn retry(retry: Option<&RetrySpec>, timeouts: Option<Timeouts>) -> Retry {
    let Some(spec) = retry else { return Retry::default() };
    let attempts = spec.attempts.unwrap_or(ATTEMPTS);
    if attempts == 0 {
        return Retry::none();
    }
    let mut on = Retry::default().on;
    let codes: Vec<_> =
        spec.codes.iter().filter_map(|code| StatusCode::from_u16(*code).ok()).collect();
    on.insert(RetryOn::StatusCodes);
    let per_try = timeouts.and_then(|timeouts| timeouts.backend_request).and_then(Time::nonzero);
    Retry {
        attempts,
        per_try_timeout: per_try,
        on,
        codes,
        backoff: spec.backoff.and_then(Time::nonzero).unwrap_or(Retry::DEFAULT_BACKOFF),
        ..Retry::default()
    }
}

/// Which pages may call; the inner `None` when nothing is said.
pub(super) fn cors(filters: &[Filter]) -> Option<Option<Cors>> {
    match filters.iter().find_map(|filter| filter.cors.as_ref()) {
        Some(spec) => policy(spec).map(Some),
        None => Some(None),
    }
}

fn policy(spec: &CorsFilter) -> Option<Cors> {
    Some(Cors {
        origins: origins(spec)?,
        methods: allow_list(&spec.allow_methods)?,
        headers: allow_list(&spec.allow_headers)?,
        expose: joined(&spec.expose_headers)?,
        max_age: Some(spec.max_age.unwrap_or(MAX_AGE)),
        credentials: spec.allow_credentials == Some(true),
        unmatched: Unmatched::Ignore,
    })
}

/// Who may call; `None` when one of them makes no sense.
pub(super) fn origins(spec: &CorsFilter) -> Option<Vec<TextMatch>> {
    let all = || spec.allow_origins.iter().map(|text| origin(text)).collect();
    spec.origins.get_or_init(all).clone()
}

/// `*` stands for anything.
fn origin(text: &str) -> Option<TextMatch> {
    if text == "*" {
        return Some(TextMatch::Present);
    }
    if !text.contains('*') {
        return Some(TextMatch::Exact(text.into()));
    }
    let parts: Vec<_> = text.split('*').map(regex::escape).collect();
    Regex::new(&parts.join(".*")).ok().map(TextMatch::Regex)
}
