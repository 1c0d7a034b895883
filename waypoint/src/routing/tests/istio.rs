//! Pure: what Istio's users depend on. Names begin with the line of the checklist that they check.
//! Never: the compiling of VirtualServices.
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{super::*, *};

/// Which of two rules decides: `to("yes")` under a condition, else `to("no")`.
fn check(matches: &Match, asked: &Asked, expected: bool) {
    let routes = routes(vec![rule(matches.clone(), "yes"), rule(Match::default(), "no")]);
    let expected = if expected { "yes" } else { "no" };
    assert_eq!(asked.subset(&routes), expected, "{matches:?} {} {:?}", asked.target, asked.headers);
}

#[test]
fn b27_prefix_of_the_path() {
    let routes = routes(vec![rule(prefix("/api/v2"), "v2"), rule(Match::default(), "v1")]);
    for (path, subset) in
        [("/api/v2", "v2"), ("/api/v2/items", "v2"), ("/api/v1", "v1"), ("/", "v1")]
    {
        assert_eq!(Asked::get(path).subset(&routes), subset, "{path}");
    }
}

#[test]
fn b28_prefix_is_text_and_case_counts() {
    let plain = prefix("/api/v2");
    for (path, expected) in [("/api/v20", true), ("/api/v2?x=1", true), ("/API/v2", false)] {
        check(&plain, &Asked::get(path), expected);
    }
    let uri = PathMatch::Prefix { prefix: "/api/v2".into(), ignore_case: true };
    check(&Match { uri: Some(uri), ..Match::default() }, &Asked::get("/API/V2/x"), true);
    let uri = PathMatch::Exact { path: "/api".into(), ignore_case: true };
    let exact = Match { uri: Some(uri), ..Match::default() };
    for (path, expected) in [("/Api?q", true), ("/api/", false), ("/ap", false), ("/äpi", false)] {
        check(&exact, &Asked::get(path), expected);
    }
}

#[test]
fn b29_first_rule_wins() {
    let (narrow, wide) = (rule(prefix("/api/v2"), "v2"), rule(Match::default(), "v1"));
    let asked = Asked::get("/api/v2");
    assert_eq!(asked.subset(&routes(vec![narrow.clone(), wide.clone()])), "v2");
    assert_eq!(asked.subset(&routes(vec![wide, narrow])), "v1");
}

#[test]
fn b30_header_exact() {
    let canary = with_header("x-canary-user", text("true"));
    for (value, expected) in [("true", true), ("TRUE", false), ("true ", false), ("", false)] {
        check(&canary, &Asked::get("/").header("X-Canary-User", value), expected);
    }
    check(&canary, &Asked::get("/"), false);
}

#[test]
fn b31_header_regex_is_a_full_match() {
    for expression in ["^(platform|sre)$", "(platform|sre)", "platform|sre"] {
        let team = with_header("x-internal-team", regex(expression));
        for (value, expected) in
            [("platform", true), ("sre", true), ("platforms", false), ("a sre", false)]
        {
            check(&team, &Asked::get("/").header("x-internal-team", value), expected);
        }
    }
}

#[test]
fn b32_weights_are_shares() {
    let destinations = vec![to("stable", 95), to("none", 0), to("canary", 5)];
    let routes = routes(vec![changed(Match::default(), destinations, |_| {})]);
    let step = u32::MAX / 10_000;
    let canaries = (0..10_000)
        .filter(|n| {
            Asked::get("/").onward(&routes, n * step).backend.subset == Some("canary".into())
        })
        .count();
    assert!(canaries.abs_diff(500) <= 1, "{canaries}");
}

#[test]
fn b33_header_rule_before_weights() {
    let canary = rule(with_header("x-canary-user", text("true")), "canary");
    let weighted = changed(Match::default(), vec![to("stable", 95), to("canary", 5)], |_| {});
    let routes = routes(vec![canary, weighted]);
    assert_eq!(Asked::get("/").header("x-canary-user", "true").subset(&routes), "canary");
    assert_eq!(Asked::get("/").subset(&routes), "stable");
}

#[test]
fn b34_query_parameters() {
    let cases = [
        (text("1"), "/?a=1", true),
        (text("1"), "/?a=1&a=2", true),
        (text("2"), "/?a=1&a=2", false),
        (text("1"), "/?b=0&a=1", true),
        (text("1"), "/?aa=1", false),
        (text("a=b"), "/?a=a=b", true),
        (text("x y"), "/?a=x%20y", false),
        (TextMatch::Prefix("v".into()), "/?a=v22", true),
        (regex("v[0-9]"), "/?a=v22", false),
        (TextMatch::Present, "/?b&a", true),
        (TextMatch::Present, "/?b", false),
        (TextMatch::Present, "/", false),
    ];
    for (value, target, expected) in cases {
        check(&with_query("a", value), &Asked::get(target), expected);
    }
}

#[test]
fn b35_method() {
    let get = Match { method: Some(text("GET")), ..Match::default() };
    check(&get, &Asked::get("/"), true);
    check(&get, &Asked::get("/").method(Method::POST), false);
}

#[test]
fn b36_labels_of_the_client() {
    let labels = [("app".to_owned(), "web".to_owned())].into();
    let client = ClientMatch { labels, namespace: None };
    let web = Match { client, ..Match::default() };
    check(&web, &Asked::get("/").label("app", "web").label("version", "v1"), true);
    check(&web, &Asked::get("/").label("app", "cart"), false);
    check(&web, &Asked::get("/"), false);
}

#[test]
fn b37_namespace_of_the_client() {
    let client = ClientMatch { namespace: Some("shop".into()), ..ClientMatch::default() };
    let shop = Match { client, ..Match::default() };
    check(&shop, &Asked::get("/"), true);
    check(&shop, &Asked::get("/").namespace("bank"), false);
}

#[test]
fn b38_without_headers() {
    let without = |value| Match { without_headers: vec![header("x", value)], ..Match::default() };
    for (value, missing, other) in [(text("a"), true, true), (TextMatch::Present, true, false)] {
        let matches = without(value);
        check(&matches, &Asked::get("/"), missing);
        check(&matches, &Asked::get("/").header("x", "b"), other);
        check(&matches, &Asked::get("/").header("x", "a"), false);
    }
    check(&without(regex("a.*")), &Asked::get("/").header("x", "abc"), false);
}

#[test]
fn b39_header_presence() {
    let present = with_header("x", TextMatch::Present);
    check(&present, &Asked::get("/").header("x", ""), true);
    check(&present, &Asked::get("/").header("y", ""), false);
}

#[test]
fn b40_and_within_a_block_or_across_blocks() {
    let both = Match { headers: vec![header("x", text("1"))], ..prefix("/a") };
    check(&both, &Asked::get("/a").header("x", "1"), true);
    check(&both, &Asked::get("/a"), false);
    check(&both, &Asked::get("/").header("x", "1"), false);
    let blocks = vec![rule(prefix("/a"), "yes"), rule(with_header("x", text("1")), "yes")];
    let routes = routes(blocks);
    assert_eq!(Asked::get("/a").subset(&routes), "yes");
    assert_eq!(Asked::get("/").header("x", "1").subset(&routes), "yes");
}

#[test]
fn b41_authority_is_verbatim() {
    let authority = |value: &str| Match { authority: Some(text(value)), ..Match::default() };
    check(&authority("shop:80"), &Asked::get("/"), true);
    check(&authority("shop"), &Asked::get("/"), false);
    check(&authority("SHOP:80"), &Asked::get("/"), false);
    check(&with_header("host", text("shop:80")), &Asked::get("/"), true);
    let https = Match { scheme: Some(text("https")), ..Match::default() };
    check(&https, &Asked::get("/"), false);
}

#[test]
fn b43_nothing_is_reached_after_a_rule_without_match() {
    let routes = routes(vec![rule(Match::default(), "first"), rule(prefix("/a"), "never")]);
    assert_eq!(Asked::get("/a").subset(&routes), "first");
}

#[test]
fn b44_no_rule_is_404() {
    let routes = routes(vec![rule(prefix("/a"), "v1")]);
    let decision = Asked::get("/b").decided(&routes, 0);
    assert_eq!(decision.rule, None);
    let Step::Answer(answer) = decision.step else { panic!("no answer") };
    assert_eq!((answer.status.as_u16(), answer.body.len()), (404, 0));
    assert_eq!((answer.cause.flag(), answer.cause.details()), (Some("NR"), "route_not_found"));
}

#[test]
fn b47_nobody_behind_a_destination() {
    let answer = |missing: Option<Missing>| {
        let target =
            missing.map(|missing| Destination { target: Target::Missing(missing), ..to("", 1) });
        let routes = routes(vec![changed(Match::default(), target.into_iter().collect(), |_| {})]);
        match Asked::get("/").decided(&routes, 7).step {
            Step::Answer(Answer { status, cause, body, .. }) => {
                assert!(body.is_empty());
                (status.as_u16(), cause.flag(), cause.details())
            }
            Step::Forward(_) => panic!("it goes on"),
        }
    };
    let missing = (503, Some("NC"), "cluster_not_found");
    assert_eq!(answer(Some(Missing::Cluster("no subset v9".into()))), missing);
    let invalid = (500, Some("NC"), "cluster_not_found");
    assert_eq!(answer(Some(Missing::Backend("no service".into()))), invalid);
    assert_eq!(answer(None), (500, None, "direct_response"));
}

#[test]
fn several_headers_of_a_name_are_one() {
    let asked = Asked::get("/").header("x", "a").header("x", "").header("x", "b");
    check(&with_header("x", text("a,,b")), &asked, true);
    check(&with_header("x", text("a")), &asked, false);
    check(&with_header("x", regex("a.*b")), &asked, true);
    let cookies = Asked::get("/").header("cookie", "a=1").header("cookie", "b=2");
    check(&with_header("cookie", text("a=1; b=2")), &cookies, true);
    let mut broken = Asked::get("/");
    broken.headers.insert("x", HeaderValue::from_bytes(b"\xff").unwrap());
    check(&with_header("x", regex(".*")), &broken, false);
}

#[test]
fn b56_direct_response() {
    let response = Edits::default().set([("x-by", "%ROUTE_NAME% %RESPONSE_CODE%")]).unwrap();
    let body = bytes::Bytes::from(vec![b'x'; DirectResponse::MAX_BODY]);
    let action =
        Action::Direct(DirectResponse { status: StatusCode::IM_A_TEAPOT, body: body.clone() });
    let headers = HeaderEdits { response, ..HeaderEdits::default() };
    let routes = routes(vec![Rule { action, headers, ..rule(Match::default(), "") }]);
    let Step::Answer(answer) = Asked::get("/").decided(&routes, 0).step else {
        panic!("no answer")
    };
    assert_eq!((answer.status, answer.body), (StatusCode::IM_A_TEAPOT, body));
    assert_eq!(answer.headers["x-by"], "default 418");
    assert_eq!(answer.headers["content-type"], "text/plain");
}

#[test]
fn b57_rewrites_keep_the_query_and_the_original_path() {
    let routes = routes(vec![changed(prefix("/old"), vec![to("v1", 1)], |forward| {
        forward.rewrite.path = PathRewrite::Prefix { length: 4, to: "/new".into() };
    })]);
    let asked = Asked::get("/old/x?y=/old");
    let onward = asked.onward(&routes, 0);
    assert_eq!(onward.target.unwrap(), "/new/x?y=/old");
    let mut headers = HeaderMap::new();
    onward.request.apply(None::<http::StatusCode>, &mut headers);
    assert_eq!(headers["x-envoy-original-path"], "/old/x?y=/old");
    let plain = super::routes(vec![rule(Match::default(), "v1")]);
    assert_eq!(asked.onward(&plain, 0).target, None);
    assert!(asked.onward(&plain, 0).request.is_empty());
}

#[test]
fn b57_rewrites_that_fail_are_500() {
    let routes = routes(vec![changed(Match::default(), vec![to("v1", 1)], |forward| {
        forward.rewrite.path = PathRewrite::Full("/a b".into());
    })]);
    let Step::Answer(answer) = Asked::get("/").decided(&routes, 0).step else {
        panic!("no answer")
    };
    assert_eq!((answer.status.as_u16(), answer.cause), (500, Cause::BadRewrite));
}

#[test]
fn b58_authority_closest_to_the_destination_counts() {
    let edits = |host: &str| HeaderEdits {
        request: Edits::default().set([("Host", host)]).unwrap(),
        ..HeaderEdits::default()
    };
    let authority = |rule_edits: HeaderEdits, destination: HeaderEdits| {
        let destination = Destination { headers: destination, ..to("v1", 1) };
        let rule = changed(Match::default(), vec![destination], |forward| {
            forward.rewrite.authority = Some(HeaderValue::from_static("rewritten"));
        });
        let routes = routes(vec![Rule { headers: rule_edits, ..rule }]);
        let onward = Asked::get("/").onward(&routes, 0);
        onward.authority.unwrap().to_str().unwrap().to_owned()
    };
    let none = HeaderEdits::default;
    assert_eq!(authority(none(), none()), "rewritten");
    assert_eq!(authority(edits("rule"), none()), "rule");
    assert_eq!(authority(edits("rule"), edits("destination")), "destination");
    let broken = Rule { headers: edits("a b/c"), ..rule(Match::default(), "v1") };
    assert_eq!(Asked::get("/").onward(&routes(vec![broken]), 0).authority, None);
}

#[test]
fn b59_headers_of_rule_then_destination() {
    let edits = |level: &str| HeaderEdits {
        request: Edits::default().set([("x-set", level)]).unwrap().add([("x-add", level)]).unwrap(),
        response: Edits::default().set([("x-set", level)]).unwrap().remove(["x-gone"]).unwrap(),
    };
    let destination = Destination { headers: edits("destination"), ..to("v1", 1) };
    let rule = changed(Match::default(), vec![destination], |_| {});
    let routes = routes(vec![Rule { headers: edits("rule"), ..rule }]);
    let asked = Asked::get("/").header("x-add", "client");
    let onward = asked.onward(&routes, 0);
    let mut request = asked.headers.clone();
    onward.request.apply(None::<http::StatusCode>, &mut request);
    assert_eq!(request["x-set"], "destination");
    let added: Vec<_> = request.get_all("x-add").iter().collect();
    assert_eq!(added, ["client", "rule", "destination"]);
    let mut response =
        HeaderMap::from_iter([("x-gone".parse().unwrap(), HeaderValue::from_static("1"))]);
    onward.response.apply(Some(StatusCode::OK), &mut response);
    assert_eq!(response.len(), 1);
    assert_eq!(response["x-set"], "destination");
}

#[test]
fn b60_delay_comes_before_the_rest() {
    let share = Percentage::ALL;
    let delay = Some(Delay { share, length: Duration::from_secs(5) });
    let mut delayed = rule(Match::default(), "v1");
    delayed.fault = Some(Fault { delay, abort: None });
    let with_delay = routes(vec![delayed.clone()]);
    let decision = Asked::get("/").decided(&with_delay, 0);
    assert_eq!(decision.delay, Some(Duration::from_secs(5)));
    assert!(matches!(decision.step, Step::Forward(_)));
    let never = Percentage::of_percent(0.0).unwrap();
    delayed.fault =
        Some(Fault { delay: Some(Delay { share: never, length: Duration::MAX }), abort: None });
    assert_eq!(Asked::get("/").decided(&routes(vec![delayed]), 0).delay, None);
}

#[test]
fn b61_aborts_answer() {
    let answer = |status| {
        let abort = Some(Abort { share: Percentage::ALL, status });
        let fault = Some(Fault { delay: None, abort });
        let routes = routes(vec![Rule { fault, ..rule(Match::default(), "v1") }]);
        let Step::Answer(answer) = Asked::get("/").decided(&routes, 0).step else {
            panic!("no answer")
        };
        assert_eq!((&*answer.body, answer.cause.flag()), (&b"fault filter abort"[..], Some("FI")));
        (answer.status.as_u16(), answer.grpc.map(GrpcStatus::code))
    };
    assert_eq!(answer(AbortStatus::Http(StatusCode::from_u16(555).unwrap())), (555, None));
    let unavailable = GrpcStatus::named("UNAVAILABLE").unwrap();
    assert_eq!(answer(AbortStatus::Grpc(unavailable)), (503, Some(14)));
}

#[test]
fn b62_b63_mirrors() {
    let mirror = |subset, percent| Mirror {
        target: to(subset, 1).target,
        share: Percentage::of_percent(percent).unwrap(),
    };
    let missing = Target::Missing(Missing::Cluster("no subset".into()));
    let routes = routes(vec![changed(Match::default(), vec![to("v1", 1)], |forward| {
        forward.mirrors = vec![mirror("all", 100.0), mirror("none", 0.0), mirror("half", 50.0)];
        forward.mirrors.push(Mirror { target: missing, share: Percentage::ALL });
    })]);
    let copied = |number| {
        let mirrors = Asked::get("/").onward(&routes, number).mirrors;
        mirrors.iter().map(|backend| backend.subset.as_deref().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(copied(0), ["all", "half"]);
    assert_eq!(copied(u32::MAX), ["all"]);
    assert_eq!(shadow("shop"), "shop-shadow");
    assert_eq!(shadow("shop:8080"), "shop-shadow:8080");
    assert_eq!(shadow("[fd00::1]"), "[fd00::1]-shadow");
}
