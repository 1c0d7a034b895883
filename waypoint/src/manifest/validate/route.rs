//! Pure: which routes of the Gateway API make sense (the rules of its CRDs, and what Istio refuses).
//! Never: whether backends are there: those that are not answer their share with 500.
use http::StatusCode;

use super::{
    super::{
        expression::Expression,
        filters,
        finding::Findings,
        gateway_api::{
            BackendRef, BytesRule, CorsFilter, Filter, GrpcRule, HeaderFilter, HttpMatch, HttpRule,
            NamedMatch, PathKind, PathModifier, PathModifierKind, Route, TextKind,
        },
        mesh_match,
    },
    names,
};
use crate::routing::{Edits, Redirect};

/// Filters that an HTTPRoute's rule can have.
const HTTP: [&str; 6] = [
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestRedirect",
    "URLRewrite",
    "RequestMirror",
    "CORS",
];
/// Filters that a GRPCRoute's rule can have.
const GRPC: [&str; 3] = ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror"];
/// Filters that a backend can have.
const BACKEND: [&str; 2] = ["RequestHeaderModifier", "ResponseHeaderModifier"];

/// Everything that is wrong with a route.
pub(in super::super) fn route(route: &Route, findings: &mut Findings) {
    let (hostnames, defaults) = match route {
        Route::Http(route) => (&route.hostnames[..], &route.use_default_gateways),
        Route::Grpc(route) => (&route.hostnames[..], &route.use_default_gateways),
        Route::Tcp(route) => (&[][..], &route.use_default_gateways),
        // There they are what is matched.
        Route::Tls(route) => (&[][..], &route.use_default_gateways),
    };
    let in_mesh = route.parents().iter().any(|parent| parent.kind.as_deref() == Some("Service"));
    if in_mesh && !hostnames.is_empty() {
        let text = "hostnames have no effect on routes of a Service: its address selects it";
        findings.discouraged("/spec/hostnames", text);
    }
    if defaults.is_some() {
        let text = "useDefaultGateways has no effect within the mesh";
        findings.discouraged("/spec/useDefaultGateways", text);
    }
    let at = |index: usize| format!("/spec/rules/{index}");
    match route {
        Route::Http(route) => {
            route.rules.iter().enumerate().for_each(|(i, rule)| http(&at(i), rule, findings));
        }
        Route::Grpc(route) => {
            route.rules.iter().enumerate().for_each(|(i, rule)| grpc(&at(i), rule, findings));
        }
        Route::Tcp(route) => {
            route.rules.iter().enumerate().for_each(|(i, rule)| bytes(&at(i), rule, findings));
        }
        Route::Tls(route) => {
            route.rules.iter().enumerate().for_each(|(i, rule)| bytes(&at(i), rule, findings));
        }
    }
}

fn http(at: &str, rule: &HttpRule, findings: &mut Findings) {
    for (index, block) in rule.matches.iter().enumerate() {
        conditions(&format!("{at}/matches/{index}"), block, findings);
    }
    all(&format!("{at}/filters"), &rule.filters, &HTTP, findings);
    let redirects = rule.filters.iter().any(|filter| filter.request_redirect.is_some());
    if redirects && !rule.backend_refs.is_empty() {
        findings.invalid(at, "RequestRedirect filter must not be used together with backendRefs");
    }
    if redirects && rule.filters.iter().any(|filter| filter.url_rewrite.is_some()) {
        findings.invalid(at, "may specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both");
    }
    if prefix_modifiers(rule).next().is_some() {
        let prefix = |block: &HttpMatch| {
            block.path.as_ref().is_none_or(|path| path.kind == PathKind::PathPrefix)
        };
        if !rule.matches.iter().all(prefix) {
            findings.invalid(at, "ReplacePrefixMatch requires matches of type PathPrefix");
        }
    }
    if let Some(timeouts) = rule.timeouts
        && let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend_request)
        && request.nonzero().is_some()
        && backend > request
    {
        findings.invalid(
            &format!("{at}/timeouts"),
            "backendRequest timeout cannot be longer than request timeout",
        );
    }
    if rule.session_persistence.is_some() {
        let text = "sessionPersistence is not supported; requests go to any endpoint";
        findings.discouraged(&format!("{at}/sessionPersistence"), text);
    }
    for code in rule.retry.iter().flat_map(|retry| &retry.codes) {
        if !(400..=599).contains(code) {
            let text = format!("status {code} is not in range 400-599");
            findings.invalid(&format!("{at}/retry/codes"), text);
        }
    }
    backends(at, &rule.backend_refs, findings);
}

fn prefix_modifiers(rule: &HttpRule) -> impl Iterator<Item = &PathModifier> {
    let redirects = rule.filters.iter().filter_map(|filter| filter.request_redirect.as_ref());
    let rewrites = rule.filters.iter().filter_map(|filter| filter.url_rewrite.as_ref());
    let paths =
        redirects.map(|redirect| &redirect.path).chain(rewrites.map(|rewrite| &rewrite.path));
    paths.flatten().filter(|path| path.kind == PathModifierKind::ReplacePrefixMatch)
}

fn grpc(at: &str, rule: &GrpcRule, findings: &mut Findings) {
    for (index, block) in rule.matches.iter().enumerate() {
        let at = format!("{at}/matches/{index}");
        named(&format!("{at}/headers"), &block.headers, findings);
        if mesh_match::grpc(block).is_none() {
            findings.invalid(&at, "the method is no expression of RE2");
        }
    }
    all(&format!("{at}/filters"), &rule.filters, &GRPC, findings);
    if rule.session_persistence.is_some() {
        let text = "sessionPersistence is not supported; requests go to any endpoint";
        findings.discouraged(&format!("{at}/sessionPersistence"), text);
    }
    backends(at, &rule.backend_refs, findings);
}

fn bytes(at: &str, rule: &BytesRule, findings: &mut Findings) {
    backends(at, &rule.backend_refs, findings);
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        if !backend.filters.is_empty() {
            let at = format!("{at}/backendRefs/{index}/filters");
            findings.invalid(&at, "unknown field \"filters\"");
        }
    }
}

fn conditions(at: &str, block: &HttpMatch, findings: &mut Findings) {
    if let Some(path) = &block.path {
        let (at, value) = (format!("{at}/path/value"), path.value.as_ref());
        let text = value.map_or("/", Expression::as_str);
        match path.kind {
            PathKind::RegularExpression => expression(&at, value, findings),
            PathKind::Exact | PathKind::PathPrefix if !text.starts_with('/') => {
                findings.invalid(&at, "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']");
            }
            PathKind::Exact | PathKind::PathPrefix => {}
        }
    }
    named(&format!("{at}/headers"), &block.headers, findings);
    for (index, parameter) in block.query_params.iter().enumerate() {
        let at = format!("{at}/queryParams/{index}");
        if parameter.name.is_empty() {
            findings.invalid(&at, "name must not be empty");
        }
        text(&at, parameter, findings);
    }
}

fn named(at: &str, all: &[NamedMatch], findings: &mut Findings) {
    for (index, header) in all.iter().enumerate() {
        let at = format!("{at}/{index}");
        findings.check(&format!("{at}/name"), names::header(&header.name));
        text(&at, header, findings);
    }
}

fn text(at: &str, one: &NamedMatch, findings: &mut Findings) {
    if one.kind == TextKind::RegularExpression {
        expression(&format!("{at}/value"), Some(&one.value), findings);
    }
}

fn expression(at: &str, text: Option<&Expression>, findings: &mut Findings) {
    let compiled = text.map_or(Ok(()), |text| text.regex().map(drop));
    findings.check(at, compiled.map_err(|error| error.to_string()));
}

fn all(at: &str, filters: &[Filter], known: &[&str], findings: &mut Findings) {
    for (index, filter) in filters.iter().enumerate() {
        let at = format!("{at}/{index}");
        if !known.contains(&filter.kind.as_str()) {
            findings.invalid(&at, format!("unsupported filter type {:?}", filter.kind));
            continue;
        }
        if !filter.is_whole() {
            findings.invalid(
                &at,
                format!("filter {} must have the field of its type and no other", filter.kind),
            );
        }
        let modifiers = [&filter.request_header_modifier, &filter.response_header_modifier];
        modifiers.into_iter().flatten().for_each(|changes| modifier(&at, changes, findings));
        if let Some(mirror) = &filter.request_mirror {
            let both = mirror.percent.is_some() && mirror.fraction.is_some();
            let nothing = mirror.percent != Some(0)
                && mirror.fraction.is_none_or(|fraction| fraction.numerator != 0)
                && filters::share(mirror).is_none();
            if both || nothing {
                findings.invalid(&at, "only one of percent (0 to 100) or fraction (at most one) may be specified in HTTPRequestMirrorFilter");
            }
        }
        if let Some(redirect) = &filter.request_redirect {
            let redirects = |code| StatusCode::from_u16(code).is_ok_and(Redirect::allows);
            if redirect.status_code.is_some_and(|code| !redirects(code)) {
                findings.invalid(&at, "statusCode must be one of 301, 302, 303, 307, 308");
            }
            if redirect.scheme.as_deref().is_some_and(|scheme| !["http", "https"].contains(&scheme))
            {
                findings.invalid(&at, "scheme must be one of http, https");
            }
        }
        let hostnames = [
            filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.hostname.as_ref()),
            filter.request_redirect.as_ref().and_then(|redirect| redirect.hostname.as_ref()),
        ];
        for hostname in hostnames.into_iter().flatten() {
            findings.check(&format!("{at}/hostname"), names::domain(hostname));
        }
        if let Some(cors) = &filter.cors {
            self::cors(&format!("{at}/cors"), cors, findings);
        }
    }
}

fn cors(at: &str, cors: &CorsFilter, findings: &mut Findings) {
    if filters::origins(cors).is_none() {
        findings.invalid(at, "an origin makes no expression");
    }
    for (kind, all) in [
        ("allowMethods", &cors.allow_methods),
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        for (index, name) in all.iter().enumerate().filter(|(_, name)| *name != "*") {
            findings.check(&format!("{at}/{kind}/{index}"), names::header(name));
        }
    }
}

fn modifier(at: &str, modifier: &HeaderFilter, findings: &mut Findings) {
    let set = modifier.set.iter().chain(&modifier.add);
    let set = set.map(|h| Edits::default().set([(h.name.as_str(), h.value.as_str())]).err());
    let removed = modifier.remove.iter().map(|n| Edits::default().remove([n.as_str()]).err());
    for error in set.chain(removed).flatten() {
        findings.invalid(at, error.to_string());
    }
}

fn backends(at: &str, all_of_them: &[BackendRef], findings: &mut Findings) {
    for (index, backend) in all_of_them.iter().enumerate() {
        let at = format!("{at}/backendRefs/{index}");
        if backend.name.is_empty() {
            findings.invalid(&at, "name must not be empty");
        }
        if backend.port.is_none() && backend.kind.as_deref().is_none_or(|kind| kind == "Service") {
            findings.invalid(&at, "port is required in backendRef");
        }
        all(&format!("{at}/filters"), &backend.filters, &BACKEND, findings);
    }
}
