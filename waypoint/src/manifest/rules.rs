//! Pure: a rule of a VirtualService → rules of the table, one for each of its `match` blocks.
//! Never: which VirtualServices count (see `select`).
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode};

use super::{
    conditions::{conditions, text},
    select::Listed,
    targets::Targets,
    time::Time,
    virtual_service::{
        Body, Cors as CorsSpec, DerivePort, Destination as Place, Fault as FaultSpec,
        HeaderOperations, Headers, HttpMatch, HttpRoute, Percent, Redirect as RedirectSpec,
        Retries, UnmatchedPreflights,
    },
};
use crate::routing::{
    Abort, AbortStatus, Action, AllowList, Cors, Delay, Destination, Destinations, DirectResponse,
    Edits, Fault, Forward, GrpcStatus, HeaderEdits, Match, Mirror, PathMatch, PathRewrite,
    Percentage, Redirect, RedirectPort, Retry, RetryOn, Rewrite, Rule, Source, TextMatch,
    Unmatched,
};

/// The gateway that a waypoint is.
const MESH: &str = "mesh";

/// The rules that a listed rule stands for on a port.
pub(super) fn rules(listed: &Listed<'_>, port: u16, targets: &mut Targets<'_>) -> Vec<Rule> {
    let route = &*listed.route;
    if route.matches.is_empty() {
        let source = listed.source(None);
        return vec![rule(route, None, &source, port, targets).unwrap_or_else(|| closed(source))];
    }
    let blocks = route.matches.iter().enumerate().filter(|(_, block)| applies(block, port));
    let rules = blocks.map(|(index, block)| {
        let source = listed.source(Some(index));
        rule(route, Some(block), &source, port, targets).unwrap_or_else(|| closed(source))
    });
    rules.collect()
}

/// Whether a block can match on a port of the mesh.
fn applies(block: &HttpMatch, port: u16) -> bool {
    let gateways = &block.gateways;
    (block.port == 0 || block.port == u32::from(port))
        && (gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH))
}

/// What stands for a rule that cannot be obeyed though it was checked: nothing passes.
pub(super) fn closed(source: Arc<Source>) -> Rule {
    Rule {
        name: "".into(),
        source: Some(source),
        matches: Match::default(),
        fault: None,
        cors: None,
        headers: HeaderEdits::default(),
        action: Action::Direct(DirectResponse {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            body: bytes::Bytes::new(),
        }),
    }
}

fn rule(
    route: &HttpRoute,
    block: Option<&HttpMatch>,
    source: &Arc<Source>,
    port: u16,
    targets: &mut Targets<'_>,
) -> Option<Rule> {
    let matches = block.map_or_else(|| Some(Match::default()), conditions)?;
    let name = match block.map(|block| block.name.as_str()) {
        None | Some("") => route.name.clone(),
        Some(name) => format!("{}.{name}", route.name),
    };
    let action = if let Some(spec) = &route.redirect {
        Action::Redirect(redirect(spec, matches.uri.as_ref())?)
    } else if let Some(direct) = &route.direct_response {
        Action::Direct(DirectResponse {
            status: status(direct.status)?,
            body: direct.body.as_ref().map(Body::content).unwrap_or_default(),
        })
    } else {
        Action::Forward(Box::new(forward(route, matches.uri.as_ref(), port, targets)?))
    };
    Some(Rule {
        name: name.into(),
        source: Some(source.clone()),
        matches,
        fault: route.fault.as_ref().and_then(fault),
        cors: match &route.cors_policy {
            Some(spec) => Some(cors(spec)?),
            None => None,
        },
        headers: header_edits(route.headers.as_ref())?,
        action,
    })
}

fn status(code: u32) -> Option<StatusCode> {
    StatusCode::from_u16(u16::try_from(code).ok()?).ok()
}

fn forward(
    route: &HttpRoute,
    uri: Option<&PathMatch>,
    port: u16,
    targets: &mut Targets<'_>,
) -> Option<Forward> {
    let only = route.route.len() == 1;
    let mut list = Vec::new();
    for weighted in &route.route {
        let place = weighted.destination.as_ref()?;
        list.push(Destination {
            target: targets.destination(place, port),
            // One alone has no share to give away.
            weight: if only { 1 } else { u32::try_from(weighted.weight).ok()? },
            headers: header_edits(weighted.headers.as_ref())?,
        });
    }
    let hashed = only && list.first().is_some_and(|only| targets.is_hashed(&only.target));
    let timeout = route.timeout.and_then(Time::nonzero);
    Some(Forward {
        destinations: Destinations::new(list),
        rewrite: rewrite(route, uri)?,
        mirrors: mirrors(route, port, targets),
        timeout,
        retry: retry(route.retries.as_ref(), timeout, hashed),
    })
}

/// Istio's `ConvertPolicy`. A time for one try that is not below that of all tries says nothing.
fn retry(retries: Option<&Retries>, timeout: Option<Duration>, hashed: bool) -> Retry {
    let base = Retry { ignore_previous_hosts: !hashed, ..Retry::default() };
    let Some(retries) = retries else { return base };
    let Some(attempts) = u32::try_from(retries.attempts).ok().filter(|attempts| *attempts > 0)
    else {
        return Retry::none();
    };
    let per_try = retries.per_try_timeout.map(|time| time.0);
    let mut retry = Retry {
        attempts,
        per_try_timeout: per_try.filter(|time| timeout.is_none_or(|timeout| *time < timeout)),
        remote_localities: retries.retry_remote_localities == Some(true),
        ignore_previous_hosts: retries.retry_ignore_previous_hosts.unwrap_or(true) && !hashed,
        backoff: retries.backoff.map_or(Retry::DEFAULT_BACKOFF, |time| time.0),
        ..base
    };
    if !retries.retry_on.is_empty() {
        let words = retries.retry_on.split(',').map(str::trim);
        retry.codes = words
            .clone()
            .filter_map(|word| word.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()))
            .collect();
        retry.on = words.filter_map(|word| word.parse().ok()).collect();
        if !retry.codes.is_empty() {
            retry.on.insert(RetryOn::StatusCodes);
        }
    }
    retry
}

fn mirrors(route: &HttpRoute, port: u16, targets: &mut Targets<'_>) -> Vec<Mirror> {
    // The old field is in whole percent.
    let old = route.mirror_percent.map(|value| Percent { value: f64::from(value) });
    let first = route.mirror.as_ref().map(|place| (place, route.mirror_percentage.or(old)));
    let others = route.mirrors.iter().filter_map(|m| Some((m.destination.as_ref()?, m.percentage)));
    let mirror = |(place, percent): (&Place, Option<Percent>)| {
        let share = match percent {
            None => Percentage::ALL,
            Some(Percent { value }) if value > 0.0 => Percentage::of_percent(value)?,
            Some(_) => return None,
        };
        Some(Mirror { target: targets.destination(place, port), share })
    };
    first.into_iter().chain(others).filter_map(mirror).collect()
}

fn rewrite(route: &HttpRoute, uri: Option<&PathMatch>) -> Option<Rewrite> {
    let Some(spec) = &route.rewrite else { return Some(Rewrite::default()) };
    let path = match &spec.uri_regex_rewrite {
        Some(regex) => PathRewrite::Regex(regex.substitution().ok()?),
        None if spec.uri.is_empty() => PathRewrite::Keep,
        None => PathRewrite::of_match(uri, &spec.uri),
    };
    let authority = Some(&spec.authority).filter(|authority| !authority.is_empty());
    let authority = match authority {
        Some(authority) => Some(HeaderValue::from_str(authority).ok()?),
        None => None,
    };
    Some(Rewrite { path, authority })
}

fn redirect(spec: &RedirectSpec, uri: Option<&PathMatch>) -> Option<Redirect> {
    let given = |text: &String| Some(text.as_str().into()).filter(|_| !text.is_empty());
    let code = if spec.redirect_code == 0 { 301 } else { spec.redirect_code };
    let port = match (spec.port, spec.derive_port) {
        (Some(number), _) if number > 0 => RedirectPort::Number(u16::try_from(number).ok()?),
        (_, Some(DerivePort::FromProtocolDefault)) => RedirectPort::OfScheme,
        (_, Some(DerivePort::FromRequestPort)) => RedirectPort::OfRequest,
        (_, None) => RedirectPort::Keep,
    };
    let path = if !spec.prefix_rewrite.is_empty() {
        PathRewrite::of_match(uri, &spec.prefix_rewrite)
    } else if !spec.uri.is_empty() {
        PathRewrite::Full(spec.uri.as_str().into())
    } else {
        PathRewrite::Keep
    };
    Some(Redirect {
        status: status(code)?,
        scheme: given(&spec.scheme),
        authority: given(&spec.authority),
        port,
        path,
    })
}

fn header_edits(headers: Option<&Headers>) -> Option<HeaderEdits> {
    let Some(headers) = headers else { return Some(HeaderEdits::default()) };
    Some(HeaderEdits { request: edits(&headers.request)?, response: edits(&headers.response)? })
}

fn edits(operations: &HeaderOperations) -> Option<Edits> {
    fn pairs(all: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
        all.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
    let edits = Edits::default().remove(operations.remove.iter().map(String::as_str)).ok()?;
    edits.set(pairs(&operations.set)).ok()?.add(pairs(&operations.add)).ok()
}

/// Shares that are not given, or nothing, are never drawn.
fn fault(spec: &FaultSpec) -> Option<Fault> {
    let share = |percent: Option<Percent>, old: i32| {
        let value = percent.map_or(f64::from(old), |percent| percent.value);
        Percentage::of_percent(value).filter(|_| value > 0.0)
    };
    let delay = spec.delay.as_ref().and_then(|delay| {
        let share = share(delay.percentage, delay.percent)?;
        Some(Delay { share, length: delay.fixed_delay?.0 })
    });
    let abort = spec.abort.as_ref().and_then(|abort| {
        let status = match (abort.http_status, &abort.grpc_status) {
            (Some(code), _) => AbortStatus::Http(status(u32::try_from(code).ok()?)?),
            (None, name) => AbortStatus::Grpc(GrpcStatus::named(name.as_ref()?)?),
        };
        Some(Abort { share: share(abort.percentage, 0)?, status })
    });
    (delay.is_some() || abort.is_some()).then_some(Fault { delay, abort })
}

fn cors(spec: &CorsSpec) -> Option<Cors> {
    let origin = |exact: &str| match exact {
        "*" => TextMatch::Present,
        exact => TextMatch::Exact(exact.into()),
    };
    let mut origins = Vec::new();
    for allowed in &spec.allow_origins {
        origins.push(match &allowed.exact {
            Some(exact) => origin(exact),
            None => text(allowed)?,
        });
    }
    if origins.is_empty() {
        origins.extend(spec.allow_origin.iter().map(|exact| origin(exact)));
    }
    Some(Cors {
        origins,
        methods: allow_list(&spec.allow_methods)?,
        headers: allow_list(&spec.allow_headers)?,
        expose: joined(&spec.expose_headers)?,
        max_age: spec.max_age.map(|age| age.0.as_secs()),
        credentials: spec.allow_credentials == Some(true),
        unmatched: match spec.unmatched_preflights {
            UnmatchedPreflights::Unspecified | UnmatchedPreflights::Forward => Unmatched::Forward,
            UnmatchedPreflights::Ignore => Unmatched::Ignore,
        },
    })
}

/// The inner `None` says nothing about them.
pub(super) fn allow_list(all: &[String]) -> Option<Option<AllowList>> {
    if all.iter().any(|one| one == "*") {
        return Some(Some(AllowList::Any));
    }
    Some(joined(all)?.map(AllowList::These))
}

pub(super) fn joined(all: &[String]) -> Option<Option<HeaderValue>> {
    if all.is_empty() {
        return Some(None);
    }
    HeaderValue::from_str(&all.join(",")).ok().map(Some)
}
