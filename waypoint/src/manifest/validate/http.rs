//! Pure: which rules for requests make sense (`validateHTTPRoute`).
//! Never: rules for connections (see `connection`).
use super::{
    super::{
        expression::Expression,
        finding::{Findings, step},
        virtual_service::{
            Cors, Fault, HeaderOperations, Headers, HttpMatch, HttpRoute, Percent, Retries,
            StringMatch,
        },
    },
    connection, names,
};
use crate::routing::{DirectResponse, Edits, GrpcStatus, Regex, RegexError, RetryOn};

/// Bodies above this size are discouraged, bytes (Istio).
const LARGE_BODY: usize = 100 * 1024;
/// The longest expression that Istio admits, bytes.
const LONGEST_REGEX: usize = 1024;
/// Methods that a CORS policy may name.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];

pub(super) fn route(at: &str, route: &HttpRoute, in_delegate: bool, findings: &mut Findings) {
    conflicts(at, route, in_delegate, findings);
    for (index, block) in route.matches.iter().enumerate() {
        matches(&format!("{at}/match/{index}"), block, findings);
    }
    if let Some(edits) = &route.headers {
        headers(&format!("{at}/headers"), edits, findings);
    }
    if let Some(cors) = &route.cors_policy {
        self::cors(&format!("{at}/corsPolicy"), cors, findings);
    }
    if let Some(fault) = &route.fault {
        self::fault(&format!("{at}/fault"), fault, findings);
    }
    mirrors(at, route, findings);
    redirect(&format!("{at}/redirect"), route, findings);
    direct_response(&format!("{at}/directResponse"), route, findings);
    if let Some(retries) = &route.retries {
        self::retries(&format!("{at}/retries"), retries, findings);
    }
    rewrite(&format!("{at}/rewrite"), route, findings);
    for (index, one) in route.route.iter().enumerate() {
        let at = format!("{at}/route/{index}");
        if let Some(edits) = &one.headers {
            headers(&format!("{at}/headers"), edits, findings);
        }
        connection::weighted(&at, one.destination.as_ref(), one.weight, findings);
    }
    connection::total(at, route.route.iter().map(|one| one.weight), findings);
    // Zero switches it off.
    if let Some(timeout) = route.timeout.filter(|timeout| timeout.nonzero().is_some()) {
        findings.check(&format!("{at}/timeout"), timeout.check());
    }
}

/// Of route, redirect, directResponse and delegate there is one, and what goes with it.
fn conflicts(at: &str, route: &HttpRoute, in_delegate: bool, findings: &mut Findings) {
    let mut refuse = |condition: bool, text: &str| {
        if condition {
            findings.invalid(at, text);
        }
    };
    let (redirect, direct) = (route.redirect.is_some(), route.direct_response.is_some());
    if route.delegate.is_some() && !in_delegate {
        let name = &route.name;
        refuse(redirect, &format!("root HTTP route {name} must not specify redirect"));
        refuse(!route.route.is_empty(), &format!("root HTTP route {name} must not specify route"));
        return;
    }
    refuse(route.delegate.is_some(), "delegate HTTP route cannot contain delegate");
    let answer = if redirect { "redirect" } else { "direct_response" };
    if redirect || direct {
        let routed = !route.route.is_empty();
        refuse(routed, &format!("HTTP route cannot contain both route and {answer}"));
        let fault = route.fault.is_some();
        refuse(fault, &format!("HTTP route cannot contain both fault and {answer}"));
        let rewrite = route.rewrite.is_some();
        refuse(rewrite, &format!("HTTP route rule cannot contain both rewrite and {answer}"));
        let both = redirect && direct;
        refuse(both, "HTTP route rule cannot contain both direct_response and redirect");
    } else {
        refuse(route.route.is_empty(), "HTTP route, redirect or direct_response is required");
    }
    let mirrors = route.mirror.is_some() && !route.mirrors.is_empty();
    refuse(mirrors, "HTTP route cannot contain both mirror and mirrors");
}

fn matches(at: &str, block: &HttpMatch, findings: &mut Findings) {
    for (kind, all) in [("headers", &block.headers), ("withoutHeaders", &block.without_headers)] {
        for (name, text) in all {
            let at = format!("{at}/{kind}/{}", step(name));
            findings.check(&at, names::header_match(name));
            text_match(&at, kind, text, findings);
        }
    }
    for (name, text) in &block.query_params {
        text_match(&format!("{at}/queryParams/{}", step(name)), "queryParams", text, findings);
    }
    if let Some(uri) = &block.uri {
        one_of(&format!("{at}/uri"), uri, findings);
        regex(&format!("{at}/uri/regex"), "uri", uri, findings);
    }
    for (kind, text) in
        [("scheme", &block.scheme), ("method", &block.method), ("authority", &block.authority)]
    {
        if let Some(text) = text {
            text_match(&format!("{at}/{kind}"), kind, text, findings);
        }
    }
    if !block.stat_prefix.is_empty() {
        let text = "statPrefix has no effect: requests are counted by service";
        findings.discouraged(&format!("{at}/statPrefix"), text);
    }
    if block.port != 0 {
        findings.check(&format!("{at}/port"), names::port(block.port));
    }
    names::labels(&format!("{at}/sourceLabels"), &block.source_labels, findings);
    names::gateways(&format!("{at}/gateways"), &block.gateways, findings);
    let namespace = &block.source_namespace;
    if !namespace.is_empty() && !names::is_dns_label(namespace) {
        let text = format!("sourceNamespace match {namespace} is invalid");
        findings.invalid(&format!("{at}/sourceNamespace"), text);
    }
}

fn text_match(at: &str, kind: &str, text: &StringMatch, findings: &mut Findings) {
    one_of(at, text, findings);
    if text.prefix.as_deref() == Some("") {
        let text = format!("{kind:?}: prefix string match should not be empty");
        findings.invalid(&format!("{at}/prefix"), text);
    }
    // That is how people ask for presence.
    if text.regex.as_ref().map(Expression::as_str) != Some("*") {
        regex(&format!("{at}/regex"), kind, text, findings);
    }
}

fn one_of(at: &str, text: &StringMatch, findings: &mut Findings) {
    let given = [text.exact.is_some(), text.prefix.is_some(), text.regex.is_some()];
    if given.into_iter().filter(|given| *given).count() > 1 {
        findings.invalid(at, "only one of exact, prefix and regex can be set");
    }
}

fn regex(at: &str, kind: &str, text: &StringMatch, findings: &mut Findings) {
    let Some(regex) = &text.regex else { return };
    if regex.as_str().is_empty() {
        return findings.invalid(at, format!("{kind:?}: regex string match should not be empty"));
    }
    findings.check(at, expression(kind, regex.as_str(), || regex.regex().map(drop)));
}

fn expression(
    kind: &str,
    text: &str,
    compile: impl FnOnce() -> Result<(), RegexError>,
) -> Result<(), String> {
    if text.len() > LONGEST_REGEX {
        return Err(format!("{kind:?}: regex is too large, max length allowed is {LONGEST_REGEX}"));
    }
    compile().map_err(|error| {
        format!("{kind:?}: {error}; Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)")
    })
}

fn headers(at: &str, edits: &Headers, findings: &mut Findings) {
    operations(&format!("{at}/request"), &edits.request, true, findings);
    operations(&format!("{at}/response"), &edits.response, false, findings);
}

fn operations(at: &str, edits: &HeaderOperations, request: bool, findings: &mut Findings) {
    for (kind, all) in [("set", &edits.set), ("add", &edits.add)] {
        for (name, value) in all {
            let at = format!("{at}/{kind}/{}", step(name));
            findings.check(&at, operand(name, request));
            let pair = [(name.as_str(), value.as_str())];
            if let Err(error) = Edits::default().set(pair) {
                findings.invalid(&at, error.to_string());
            }
        }
    }
    for (index, name) in edits.remove.iter().enumerate() {
        let at = format!("{at}/remove/{index}");
        let refused = Edits::default().remove([name.as_str()]).err().map(|error| error.to_string());
        findings.check(&at, operand(name, false).and(refused.map_or(Ok(()), Err)));
    }
}

/// The name of a header that is changed; `authority` when that may be the authority.
fn operand(name: &str, authority: bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("header name cannot be empty".into());
    }
    let is_host = name.eq_ignore_ascii_case("host");
    if authority && (is_host || name.eq_ignore_ascii_case(":authority")) {
        return Ok(());
    }
    if is_host {
        return Err(format!("invalid header {name:?}: cannot set Host header"));
    }
    if name.starts_with(':') {
        return Err(format!("invalid header {name:?}: header cannot have \":\" prefix"));
    }
    Ok(())
}

fn cors(at: &str, cors: &Cors, findings: &mut Findings) {
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        let at = format!("{at}/allowOrigins/{index}");
        one_of(&at, origin, findings);
        let texts = [origin.exact.as_deref(), origin.prefix.as_deref()].into_iter();
        let mut texts = texts.chain([origin.regex.as_ref().map(Expression::as_str)]).flatten();
        if texts.next().is_none_or(str::is_empty) {
            findings.invalid(&at, "'' is not a valid match type for CORS allow origins");
        } else {
            regex(&format!("{at}/regex"), "corsPolicy.allowOrigins", origin, findings);
        }
    }
    for (index, method) in cors.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let text = format!("{method:?} is not a supported HTTP method");
            findings.invalid(&format!("{at}/allowMethods/{index}"), text);
        }
    }
    for (kind, all) in
        [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)]
    {
        for (index, name) in all.iter().enumerate().filter(|(_, name)| *name != "*") {
            findings.check(&format!("{at}/{kind}/{index}"), names::header(name));
        }
    }
    if let Some(age) = cors.max_age {
        let at = format!("{at}/maxAge");
        findings.check(&at, age.check());
        if age.0.subsec_nanos() > 0 {
            findings.invalid(&at, "max_age duration is accurate only to seconds precision");
        }
    }
}

fn percentage(at: &str, percent: Option<Percent>, findings: &mut Findings) {
    let Some(Percent { value }) = percent else { return };
    if value != 0.0 && !(0.0001..=100.0).contains(&value) {
        let text = format!("percentage {value} is neither 0.0, nor in range [0.0001, 100.0]");
        findings.invalid(&format!("{at}/percentage"), text);
    }
}

fn fault(at: &str, fault: &Fault, findings: &mut Findings) {
    if fault.abort.is_none() && fault.delay.is_none() {
        findings.invalid(at, "HTTP fault injection must have an abort and/or a delay");
    }
    if let Some(abort) = &fault.abort {
        let at = format!("{at}/abort");
        percentage(&at, abort.percentage, findings);
        if abort.http2_error.is_some() {
            findings.invalid(&at, "HTTP/2 abort fault injection not supported yet");
        }
        match (abort.http_status, &abort.grpc_status) {
            (Some(_), Some(_)) => {
                findings.invalid(&at, "only one of httpStatus and grpcStatus can be set");
            }
            (Some(code), None) => findings.check(&at, status(i64::from(code))),
            (None, Some(name)) if GrpcStatus::named(name).is_none() => {
                let text = format!(
                    "gRPC status {name:?} is not supported. See https://github.com/grpc/grpc/blob/master/doc/statuscodes.md for a list of supported codes, for example 'NOT_FOUND'"
                );
                findings.invalid(&at, text);
            }
            (None, Some(_)) => {}
            (None, None) => findings.discouraged(&at, "abort configured, but error type not set"),
        }
    }
    if let Some(delay) = &fault.delay {
        let at = format!("{at}/delay");
        percentage(&at, delay.percentage, findings);
        if let Some(fixed) = delay.fixed_delay {
            findings.check(&format!("{at}/fixedDelay"), fixed.check());
        }
        if delay.exponential_delay.is_some() {
            findings.invalid(&at, "exponentialDelay not supported yet");
        }
        if !(0..=100).contains(&delay.percent) {
            findings.invalid(&at, format!("percentage {} is not in range 0..100", delay.percent));
        }
    }
}

fn status(code: i64) -> Result<(), String> {
    match code {
        200..=599 => Ok(()),
        _ => Err(format!("HTTP status {code} is not in range 200-599")),
    }
}

fn mirrors(at: &str, route: &HttpRoute, findings: &mut Findings) {
    if let Some(percent) = route.mirror_percent {
        if percent > 100 {
            let text = format!("mirror_percent must have a max value of 100 (it has {percent})");
            findings.invalid(&format!("{at}/mirrorPercent"), text);
        }
        let text = "using deprecated setting \"mirrorPercent\", use \"mirrorPercentage\" instead";
        findings.discouraged(&format!("{at}/mirrorPercent"), text);
    }
    mirrored(
        &format!("{at}/mirrorPercentage"),
        "mirror_percentage",
        route.mirror_percentage,
        findings,
    );
    if let Some(mirror) = &route.mirror {
        connection::destination(&format!("{at}/mirror"), mirror, findings);
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let at = format!("{at}/mirrors/{index}");
        match &mirror.destination {
            Some(one) => connection::destination(&format!("{at}/destination"), one, findings),
            None => findings.invalid(&at, "destination is required for mirrors"),
        }
        mirrored(&format!("{at}/percentage"), "mirror percentage", mirror.percentage, findings);
    }
}

fn mirrored(at: &str, kind: &str, percent: Option<Percent>, findings: &mut Findings) {
    let Some(Percent { value }) = percent else { return };
    if value > 100.0 {
        findings.invalid(at, format!("{kind} must have a max value of 100 (it has {value:.6})"));
    } else if value < 0.0 || value.is_nan() {
        findings.invalid(at, format!("{kind} must have a min value of 0 (it has {value:.6})"));
    }
}

fn redirect(at: &str, route: &HttpRoute, findings: &mut Findings) {
    let Some(redirect) = &route.redirect else { return };
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        findings.invalid(at, "redirect may only specify one of uri or prefix_rewrite");
    }
    let uris = || route.matches.iter().filter_map(|block| block.uri.as_ref());
    if !redirect.prefix_rewrite.is_empty() && uris().any(|uri| uri.prefix.is_none()) {
        let text = "redirect prefix_rewrite requires all URI matches to use prefix match type";
        findings.invalid(at, text);
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        findings.invalid(at, "only one of port and derivePort can be set");
    }
    let texts = [&redirect.uri, &redirect.prefix_rewrite, &redirect.authority, &redirect.scheme];
    let port = redirect.port.is_some() || redirect.derive_port.is_some();
    if texts.into_iter().all(String::is_empty) && !port {
        findings.invalid(at, "redirect must specify URI, authority, scheme, or port");
    }
    match redirect.redirect_code {
        0 | 301 | 302 | 303 | 307 | 308 => {}
        code @ 300..=399 => {
            let text = format!(
                "{code} is not a redirect code that leads anywhere, must be 301, 302, 303, 307 or 308"
            );
            findings.invalid(&format!("{at}/redirectCode"), text);
        }
        code => {
            let text = format!("{code} is not a valid redirect code, must be 3xx");
            findings.invalid(&format!("{at}/redirectCode"), text);
        }
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        let text = "invalid redirect scheme, must be \"http\" or \"https\"";
        findings.invalid(&format!("{at}/scheme"), text);
    }
    if let Some(number) = redirect.port.filter(|number| *number > 0) {
        findings.check(&format!("{at}/port"), names::port(number));
    }
}

fn direct_response(at: &str, route: &HttpRoute, findings: &mut Findings) {
    let Some(direct) = &route.direct_response else { return };
    if let Some(body) = &direct.body {
        let at = format!("{at}/body");
        if body.string.is_some() && body.bytes.is_some() {
            findings.invalid(&at, "only one of string and bytes can be set");
        }
        let large = "large direct_responses may impact control plane performance";
        match body.content().len() {
            length if length > DirectResponse::MAX_BODY => {
                findings.invalid(&at, format!("{large}, must be less than 1MB"));
            }
            length if length > LARGE_BODY => findings.discouraged(&at, large),
            _ => {}
        }
    }
    findings.check(&format!("{at}/status"), status(i64::from(direct.status)));
}

fn retries(at: &str, retries: &Retries, findings: &mut Findings) {
    if retries.attempts < 0 {
        findings.invalid(&format!("{at}/attempts"), "attempts cannot be negative");
    }
    let configured = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && configured {
        let text = "http retry policy configured when attempts are set to 0 (disabled)";
        findings.invalid(at, text);
    }
    if let Some(timeout) = retries.per_try_timeout {
        findings.check(&format!("{at}/perTryTimeout"), timeout.check());
    }
    for word in retries.retry_on.split(',').filter(|_| !retries.retry_on.is_empty()) {
        let code =
            word.parse::<u16>().ok().and_then(|code| ::http::StatusCode::from_u16(code).ok());
        let known = code.is_some_and(|code| code.canonical_reason().is_some());
        if !known && word.parse::<RetryOn>().is_err() {
            let text = format!("{word:?} is not a valid retryOn policy");
            findings.invalid(&format!("{at}/retryOn"), text);
        }
    }
    if let Some(backoff) = retries.backoff {
        findings.check(&format!("{at}/backoff"), backoff.check());
    }
}

fn rewrite(at: &str, route: &HttpRoute, findings: &mut Findings) {
    authority(at, route, findings);
    let Some(rewrite) = &route.rewrite else { return };
    let regex = rewrite.uri_regex_rewrite.as_ref();
    if !rewrite.uri.is_empty() && regex.is_some() {
        findings.invalid(at, "rewrite may only contain one of URI or UriRegexRewrite");
    }
    if rewrite.uri.is_empty() && regex.is_none() && rewrite.authority.is_empty() {
        findings.invalid(at, "rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be specified");
    }
    if !rewrite.authority.is_empty() && ::http::HeaderValue::from_str(&rewrite.authority).is_err() {
        findings.invalid(
            &format!("{at}/authority"),
            "the authority has characters that no header may have",
        );
    }
    let Some(regex) = regex else { return };
    let at = format!("{at}/uriRegexRewrite");
    if regex.text.is_empty() || regex.rewrite.is_empty() {
        let text = "UriRegexRewrite requires both Rewrite and Match fields to be specified";
        return findings.invalid(&at, text);
    }
    let compile = || Regex::new(&regex.text).map(drop);
    findings.check(&at, expression("HTTPRewrite.UriRegexRewrite.Match", &regex.text, compile));
    if let Err(error) = regex.substitution() {
        findings.invalid(&at, format!("UriRegexRewrite has errors: {error}"));
    }
}

/// The authority is rewritten in one place.
fn authority(at: &str, route: &HttpRoute, findings: &mut Findings) {
    let mut current = route.rewrite.as_ref().map_or("", |rewrite| rewrite.authority.as_str());
    let Some(headers) = &route.headers else { return };
    for (name, value) in headers.request.set.iter().chain(&headers.request.add) {
        if !matches!(name.to_ascii_lowercase().as_str(), "host" | ":authority") {
            continue;
        }
        if !current.is_empty() {
            let text = format!(
                "authority header cannot be set multiple times: have {current:?}, attempting to set {value:?}"
            );
            findings.invalid(at, text);
        }
        current = value;
    }
}
