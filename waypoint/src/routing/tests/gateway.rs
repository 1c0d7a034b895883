//! Pure: the cases of Gateway API's mesh conformance suite (`conformance/tests/mesh`) that an engine
//! without a compiler can be asked: which backend, which location, which headers.
//! Never: the compiling of routes; rules are given as it would make them.
use std::cmp::Reverse;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::{super::*, *};

/// A condition on the first segments of a path.
fn path(segments: &str) -> Match {
    Match { uri: Some(PathMatch::Segments(segments.into())), ..Match::default() }
}

fn exact(path: &str) -> Match {
    let uri = PathMatch::Exact { path: path.into(), ignore_case: false };
    Match { uri: Some(uri), ..Match::default() }
}

fn and_header(matches: Match, value: &str) -> Match {
    Match { headers: vec![header("version", text(value))], ..matches }
}

fn and_query(matches: Match, animal: &str) -> Match {
    let query_params = vec![QueryMatch { name: "animal".into(), value: text(animal) }];
    Match { query_params, ..matches }
}

/// The rules in Gateway API's order.
fn ordered(mut rules: Vec<Rule>) -> PortRoutes {
    rules.sort_by_key(|rule| Reverse(rule.matches.precedence(false)));
    routes(rules)
}

/// The subset that decides, or the status of an answer.
fn outcome(routes: &PortRoutes, asked: &Asked) -> String {
    match asked.decided(routes, 0).step {
        Step::Forward(onward) => onward.backend.subset.as_deref().unwrap().to_owned(),
        Step::Answer(answer) => answer.status.as_str().to_owned(),
    }
}

fn check(routes: &PortRoutes, cases: &[(&str, Option<&str>, &str)]) {
    for (target, version, expected) in cases {
        let asked = Asked::get(target);
        let asked = version.iter().fold(asked, |asked, version| asked.header("version", version));
        assert_eq!(outcome(routes, &asked), *expected, "{target} {version:?}");
    }
}

#[test]
fn mesh_http_route_simple_same_namespace() {
    let routes = ordered(vec![rule(path("/"), "v1")]);
    check(&routes, &[("/", None, "v1"), ("/any/path?and=query", None, "v1")]);
}

#[test]
fn mesh_http_route_matching() {
    let routes = ordered(vec![
        rule(path("/"), "v1"),
        rule(and_header(path("/"), "one"), "v1"),
        rule(path("/v2"), "v2"),
        rule(and_header(path("/"), "two"), "v2"),
    ]);
    let cases = [
        ("/", None, "v1"),
        ("/example", None, "v1"),
        ("/", Some("one"), "v1"),
        ("/v2", None, "v2"),
        ("/v2/", None, "v2"),
        ("/v2/example", None, "v2"),
        ("/", Some("two"), "v2"),
        ("/v2example", None, "v1"),
        ("/foo/v2/example", None, "v1"),
    ];
    check(&routes, &cases);
}

#[test]
fn mesh_http_route_query_param_matching() {
    let routes = ordered(vec![
        rule(and_query(path("/"), "whale"), "v1"),
        rule(and_query(path("/"), "dolphin"), "v2"),
        rule(and_query(path("/path1"), "whale"), "v1"),
        rule(and_query(and_header(path("/"), "one"), "whale"), "v2"),
        rule(and_query(path("/path3"), "shark"), "v1"),
        rule(and_query(and_header(path("/path4"), "three"), "kraken"), "v1"),
        rule(path("/path5"), "v1"),
        rule(and_query(path("/"), "hydra"), "v2"),
    ]);
    let cases = [
        ("/?animal=whale", None, "v1"),
        ("/?animal=dolphin", None, "v2"),
        ("/?animal=whale&otherparam=irrelevant", None, "v1"),
        ("/?animal=dolphin&color=yellow", None, "v2"),
        ("/?color=blue", None, "404"),
        ("/?animal=dog", None, "404"),
        ("/?animal=whaledolphin", None, "404"),
        ("/", None, "404"),
        ("/path1?animal=whale", None, "v1"),
        ("/?animal=whale", Some("one"), "v2"),
        ("/path3?animal=shark", None, "v1"),
        ("/path4?animal=kraken", Some("three"), "v1"),
        ("/?animal=shark", None, "404"),
        ("/path4?animal=kraken", None, "404"),
        ("/path5?animal=hydra", None, "v1"),
    ];
    check(&routes, &cases);
}

/// Line 193 of the checklist, but for age and name, which the compiler knows.
#[test]
fn j193_precedence() {
    let regex = Match {
        uri: Some(PathMatch::Regex(Regex::new("/a/b/c/d/e").unwrap())),
        ..Match::default()
    };
    let method = Match { method: Some(text("GET")), ..path("/a") };
    let order = [
        exact("/a"),
        path("/a/b"),
        method,
        Match { headers: vec![header("x", text("1")), header("y", text("1"))], ..path("/a") },
        and_query(and_header(path("/a"), "one"), "whale"),
        and_header(path("/a"), "one"),
        and_query(path("/a"), "whale"),
        path("/a"),
        regex,
    ];
    for pair in order.windows(2) {
        assert!(pair[0].precedence(false) > pair[1].precedence(false), "{pair:?}");
    }
    assert_eq!(path("/a/").precedence(false), path("/a").precedence(false));
}

#[test]
fn j194_segments_are_whole() {
    let routes = ordered(vec![rule(path("/v2/"), "v2")]);
    let cases = [("/v2", None, "v2"), ("/v2/x", None, "v2"), ("/v2example", None, "404")];
    check(&routes, &cases);
}

#[test]
fn mesh_http_route_weight() {
    let destinations = vec![to("v1", 70), to("v2", 30), to("v3", 0)];
    let routes = ordered(vec![changed(path("/"), destinations, |_| {})]);
    let drawn = |number| Asked::get("/").onward(&routes, number).backend.subset.clone().unwrap();
    let share = |of: &str| (0..1000).filter(|n| &*drawn(n * (u32::MAX / 1000)) == of).count();
    let shares = [share("v1"), share("v2"), share("v3")];
    assert!(shares[0].abs_diff(700) <= 1 && shares[0] + shares[1] == 1000, "{shares:?}");
    assert_eq!(shares[2], 0);
}

#[test]
fn mesh_consumer_route() {
    let client = ClientMatch { namespace: Some("consumer".into()), ..ClientMatch::default() };
    let consumer = rule(Match { client, ..path("/") }, "v1");
    let backend = BackendRef { host: "echo".into(), port: 80, subset: Some("all".into()) };
    let routes = routes(vec![consumer, Rule::default_route(Arc::new(backend))]);
    assert_eq!(outcome(&routes, &Asked::get("/").namespace("consumer")), "v1");
    assert_eq!(outcome(&routes, &Asked::get("/")), "all");
}

fn redirect(status: u16, change: impl FnOnce(&mut Redirect)) -> Redirect {
    let status = StatusCode::from_u16(status).unwrap();
    let (port, path) = (RedirectPort::OfRequest, PathRewrite::Keep);
    let mut redirect = Redirect { status, scheme: None, authority: None, port, path };
    change(&mut redirect);
    redirect
}

/// Status and location of the answer to a request for a path, host `echo`, port 80.
fn redirected(target: &str, segments: &str, redirect: Redirect) -> String {
    assert!(Redirect::allows(redirect.status));
    let action = Action::Redirect(redirect);
    let routes = ordered(vec![Rule { action, ..rule(path(segments), "") }]);
    let Step::Answer(answer) = Asked::get(target).authority("echo").decided(&routes, 0).step else {
        panic!("{target} goes on")
    };
    assert_eq!(answer.cause, Cause::Redirect);
    format!("{} {}", answer.status.as_str(), answer.headers["location"].to_str().unwrap())
}

#[test]
fn mesh_http_route_redirect_host_and_status() {
    let to_host =
        |status| redirect(status, |redirect| redirect.authority = Some("example.org".into()));
    for status in [301, 302, 303, 307, 308] {
        let expected = format!("{status} http://example.org/hostname-redirect");
        assert_eq!(redirected("/hostname-redirect", "/", to_host(status)), expected);
    }
}

#[test]
fn mesh_http_route_redirect_path() {
    let prefix = |from: &str, to: &str| PathRewrite::Segments { from: from.into(), to: to.into() };
    let full = |to: &str| PathRewrite::Full(to.into());
    let cases = [
        ("/original-prefix/lemon", "/original-prefix", None, true, "/replacement-prefix/lemon"),
        ("/full/path/original", "/full", None, false, "/full-path-replacement"),
        ("/path-and-host", "/path-and-host", Some("example.org"), true, "/replacement-prefix"),
        (
            "/full-path-and-host",
            "/full-path-and-host",
            Some("example.org"),
            false,
            "/replacement-full",
        ),
    ];
    for (target, from, host, is_prefix, expected) in cases {
        let to = expected.trim_end_matches("/lemon");
        let redirect = redirect(302, |redirect| {
            redirect.authority = host.map(Arc::from);
            redirect.path = if is_prefix { prefix(from, to) } else { full(to) };
        });
        let location = format!("302 http://{}{expected}", host.unwrap_or("echo"));
        assert_eq!(redirected(target, from, redirect), location);
    }
}

#[test]
fn mesh_http_route_redirect_port() {
    let to_port = |status, host: Option<&str>| {
        redirect(status, |redirect| {
            redirect.port = RedirectPort::Number(8083);
            redirect.authority = host.map(Arc::from);
        })
    };
    assert_eq!(redirected("/port", "/port", to_port(302, None)), "302 http://echo:8083/port");
    assert_eq!(redirected("/port", "/port", to_port(301, None)), "301 http://echo:8083/port");
    let host = redirected("/port-and-host", "/", to_port(302, Some("example.org")));
    assert_eq!(host, "302 http://example.org:8083/port-and-host");
}

#[test]
fn mesh_http_route_scheme_redirect() {
    let to_https = |status, host: Option<&str>| {
        redirect(status, |redirect| {
            redirect.scheme = Some("https".into());
            redirect.port = RedirectPort::OfScheme;
            redirect.authority = host.map(Arc::from);
        })
    };
    assert_eq!(redirected("/scheme", "/", to_https(302, None)), "302 https://echo/scheme");
    assert_eq!(redirected("/scheme", "/", to_https(301, None)), "301 https://echo/scheme");
    let host = redirected("/scheme", "/", to_https(302, Some("example.org")));
    assert_eq!(host, "302 https://example.org/scheme");
}

/// The path and the headers with which a request goes on.
fn onward(routes: &PortRoutes, asked: &Asked) -> (String, HeaderMap) {
    let onward = asked.onward(routes, 0);
    let mut headers = asked.headers.clone();
    onward.request.apply(None::<http::StatusCode>, &mut headers);
    let target = onward.target.map_or_else(|| asked.target.clone(), |target| target.to_string());
    (target, headers)
}

fn values(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap());
    values.collect::<Vec<_>>().join(",")
}

#[test]
fn mesh_http_route_rewrite_path() {
    let segments =
        |from: &str, to: &str| PathRewrite::Segments { from: from.into(), to: to.into() };
    let cases = [
        ("/prefix/one/two", "/prefix/one", segments("/prefix/one", "/one"), "/one/two"),
        ("/strip-prefix/three", "/strip-prefix", segments("/strip-prefix", "/"), "/three"),
        ("/strip-prefix", "/strip-prefix", segments("/strip-prefix", "/"), "/"),
        ("/full/one/two", "/full/one", PathRewrite::Full("/one".into()), "/one"),
    ];
    for (target, from, rewrite, expected) in cases {
        let routes = ordered(vec![changed(path(from), vec![to("v1", 1)], |forward| {
            forward.rewrite.path = rewrite;
        })]);
        let (path, headers) = onward(&routes, &Asked::get(target));
        assert_eq!(path, expected, "{target}");
        assert_eq!(values(&headers, "x-envoy-original-path"), target);
    }
}

/// The edits of MeshHTTPRouteRequestHeaderModifier's rules for several headers and for their case.
fn modifier() -> Edits {
    let set = [("X-Header-Set-1", "header-set-1"), ("X-Header-Set-2", "header-set-2")];
    let add = [("X-Header-Add-1", "header-add-1"), ("X-Header-Add-2", "header-add-2")];
    let remove = ["X-Header-Remove-1", "X-Header-Remove-2"];
    Edits::default().remove(remove).unwrap().set(set).unwrap().add(add).unwrap()
}

#[test]
fn mesh_http_route_request_header_modifier_of_rule_and_backend() {
    let edits = || HeaderEdits { request: modifier(), ..HeaderEdits::default() };
    let of_rule = Rule { headers: edits(), ..rule(path("/"), "v1") };
    let of_backend = Destination { headers: edits(), ..to("v1", 1) };
    let of_backend = changed(path("/"), vec![of_backend], |_| {});
    for rule in [of_rule, of_backend] {
        let routes = ordered(vec![rule]);
        let asked = Asked::get("/multiple")
            .header("x-header-set-2", "set-val-2")
            .header("x-header-add-2", "add-val-2")
            .header("x-header-remove-2", "remove-val-2")
            .header("Another-Header", "another-header-val");
        let (path, headers) = onward(&routes, &asked);
        assert_eq!(path, "/multiple");
        let expected = [
            ("x-header-set-1", "header-set-1"),
            ("x-header-set-2", "header-set-2"),
            ("x-header-add-1", "header-add-1"),
            ("x-header-add-2", "add-val-2,header-add-2"),
            ("x-header-remove-2", ""),
            ("another-header", "another-header-val"),
        ];
        for (name, value) in expected {
            assert_eq!(values(&headers, name), value, "{name}");
        }
    }
}

#[test]
fn mesh_frontend_response_header_modifier() {
    let response = Edits::default().set([("x-header-set", "set-overwrites-values")]).unwrap();
    let headers = HeaderEdits { response, ..HeaderEdits::default() };
    let routes = ordered(vec![Rule { headers, ..rule(path("/"), "v1") }]);
    let mut answered =
        HeaderMap::from_iter([("x-header-set".parse().unwrap(), HeaderValue::from_static("app"))]);
    Asked::get("/").onward(&routes, 0).response.apply(Some(StatusCode::OK), &mut answered);
    assert_eq!(values(&answered, "x-header-set"), "set-overwrites-values");
}

#[test]
fn mesh_grpc_route_matches_methods_as_paths() {
    let method = |service: &str, method: &str| exact(&format!("/{service}/{method}"));
    let routes =
        ordered(vec![rule(path("/echo.Echo"), "v2"), rule(method("echo.Echo", "Say"), "v1")]);
    let grpc = |target| Asked::get(target).header("content-type", "application/grpc");
    assert_eq!(outcome(&routes, &grpc("/echo.Echo/Say")), "v1");
    assert_eq!(outcome(&routes, &grpc("/echo.Echo/Other")), "v2");
    assert_eq!(outcome(&routes, &grpc("/echo.Echoes/Say")), "404");
}
