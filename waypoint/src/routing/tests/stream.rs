//! Pure: connections that are not HTTP, CORS, timeouts, and properties of the whole engine.
//! Never: the compiling of objects.
use std::time::Duration;

use http::{HeaderValue, Method};
use proptest::prelude::*;

use super::{super::*, *};

fn client<T>(call: impl FnOnce(&Client<'_>) -> T) -> T {
    Asked::get("/").with(|head| call(head.client))
}

fn stream_routes() -> PortRoutes {
    let tls = |sni: &[&str], subset| TlsRule {
        source: None,
        sni: sni.iter().map(|name| (*name).into()).collect(),
        client: ClientMatch::default(),
        destinations: Destinations::new(vec![to(subset, 1)]),
    };
    let tcp = |namespace: Option<&str>, destinations| TcpRule {
        source: None,
        client: ClientMatch { namespace: namespace.map(Arc::from), ..ClientMatch::default() },
        destinations: Destinations::new(destinations),
    };
    PortRoutes {
        protocol: Protocol::Tls,
        http: Vec::new(),
        tls: vec![tls(&["a.example.com"], "a"), tls(&["*.example.com", "b.test"], "wild")],
        tcp: vec![
            tcp(Some("bank"), vec![to("bank", 1)]),
            tcp(None, vec![to("v1", 3), to("v2", 1), to("v3", 1)]),
        ],
    }
}

#[test]
fn b68_tls_rules_before_tcp_rules() {
    let routes = stream_routes();
    let subset = |opening| {
        let found = client(|client| find_stream(&routes, opening, client)).unwrap();
        let Target::Backend(backend) = &found.destinations.draw(0).unwrap().target else {
            panic!()
        };
        backend.subset.clone().unwrap().to_string()
    };
    let cases = [
        (Opening::Tls(Some("a.example.com")), "a"),
        (Opening::Tls(Some("A.Example.COM")), "a"),
        (Opening::Tls(Some("x.y.example.com")), "wild"),
        (Opening::Tls(Some("b.test")), "wild"),
        (Opening::Tls(Some("example.com")), "v1"),
        (Opening::Tls(Some(".example.com")), "v1"),
        (Opening::Tls(None), "v1"),
        (Opening::Other, "v1"),
    ];
    for (opening, expected) in cases {
        assert_eq!(subset(opening), expected, "{opening:?}");
    }
}

#[test]
fn b68_weights_of_connections() {
    let routes = stream_routes();
    let destinations = &routes.tcp[1].destinations;
    let counts: Vec<usize> = destinations
        .iter()
        .map(|one| {
            let drawn = (0..5000).filter_map(|n| destinations.draw(n * (u32::MAX / 5000)));
            drawn.filter(|drawn| std::ptr::eq(*drawn, one)).count()
        })
        .collect();
    assert!(counts[0].abs_diff(3000) <= 2 && counts[1].abs_diff(1000) <= 2, "{counts:?}");
}

#[test]
fn no_rule_for_a_connection() {
    let mut routes = stream_routes();
    routes.tcp.truncate(1);
    assert_eq!(client(|client| find_stream(&routes, Opening::Other, client)), None);
    assert_eq!(client(|client| find_stream(&routes, Opening::Tls(Some("x")), client)), None);
}

fn cors() -> Cors {
    Cors {
        origins: vec![text("https://a.test"), regex(r"https://[a-z]+\.b\.test")],
        methods: Some(AllowList::These(HeaderValue::from_static("GET,POST"))),
        headers: Some(AllowList::Any),
        expose: Some(HeaderValue::from_static("x-shown")),
        max_age: Some(86_400),
        credentials: false,
        unmatched: Unmatched::Forward,
    }
}

/// `status` or `on`, then the headers of the answer or those set on a response.
fn crossed(cors: Cors, asked: &Asked) -> String {
    let routes = routes(vec![Rule { cors: Some(cors), ..rule(Match::default(), "v1") }]);
    let (outcome, headers) = match asked.decided(&routes, 0).step {
        Step::Answer(answer) => {
            assert_eq!(answer.cause, Cause::Preflight);
            (answer.status.as_str().to_owned(), answer.headers)
        }
        Step::Forward(onward) => {
            let mut headers = HeaderMap::new();
            onward.response.apply(None::<http::StatusCode>, &mut headers);
            ("on".to_owned(), headers)
        }
    };
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        format!(" {}={}", name.as_str().replace("access-control-", ""), value.to_str().unwrap())
    };
    let mut lines: Vec<_> = headers.iter().map(line).collect();
    lines.sort();
    outcome + &lines.concat()
}

fn from_origin(origin: &str) -> Asked {
    Asked::get("/").header("origin", origin)
}

fn preflight(origin: &str) -> Asked {
    let asked = from_origin(origin).method(Method::OPTIONS);
    asked
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "x,y")
}

#[test]
fn b64_preflights() {
    let allowed =
        "200 allow-headers=* allow-methods=GET,POST allow-origin=https://a.test max-age=86400";
    assert_eq!(crossed(cors(), &preflight("https://a.test")), allowed);
    assert!(crossed(cors(), &preflight("https://www.b.test")).starts_with("200 "));
    assert_eq!(crossed(cors(), &preflight("https://c.test")), "on");
    let ignore = Cors { unmatched: Unmatched::Ignore, ..cors() };
    assert_eq!(crossed(ignore, &preflight("https://c.test")), "200");
    let with = Cors { credentials: true, methods: Some(AllowList::Any), max_age: None, ..cors() };
    let echoed = "200 allow-credentials=true allow-headers=x,y allow-methods=PUT allow-origin=https://a.test";
    assert_eq!(crossed(with, &preflight("https://a.test")), echoed);
    let plain_options = from_origin("https://a.test").method(Method::OPTIONS);
    assert!(crossed(cors(), &plain_options).starts_with("on "));
}

#[test]
fn b64_actual_requests() {
    let allowed = "on allow-origin=https://a.test expose-headers=x-shown";
    assert_eq!(crossed(cors(), &from_origin("https://a.test")), allowed);
    assert_eq!(crossed(cors(), &from_origin("https://c.test")), "on");
    assert_eq!(crossed(cors(), &Asked::get("/")), "on");
    let any = Cors { origins: vec![text("*")], credentials: true, expose: None, ..cors() };
    let echoed = "on allow-credentials=true allow-origin=https://c.test";
    assert_eq!(crossed(any, &from_origin("https://c.test")), echoed);
}

/// Timeouts in milliseconds of all tries and of one, and what the upstream is told.
fn timed(rule: u64, per_try: u64, asked: &Asked) -> (u128, u128, String) {
    let routes = routes(vec![changed(Match::default(), vec![to("v1", 1)], |forward| {
        forward.timeout = Some(Duration::from_millis(rule)).filter(|_| rule > 0);
        forward.retry.per_try_timeout =
            Some(Duration::from_millis(per_try)).filter(|_| per_try > 0);
    })]);
    let onward = asked.onward(&routes, 0);
    let mut headers = asked.headers.clone();
    onward.request.apply(None::<http::StatusCode>, &mut headers);
    let mut told: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.as_str() != "content-type")
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    told.sort();
    let millis = |timeout: Option<Duration>| timeout.map_or(0, |timeout| timeout.as_millis());
    (millis(onward.timeouts.request), millis(onward.timeouts.per_try), told.join(" "))
}

#[test]
fn c76_c79_timeouts_of_rule_and_client() {
    let asked = |ms: &str| Asked::get("/").header("x-envoy-upstream-rq-timeout-ms", ms);
    let expected = |ms: u64| format!("x-envoy-expected-rq-timeout-ms={ms}");
    assert_eq!(timed(0, 0, &Asked::get("/")), (0, 0, String::new()));
    assert_eq!(timed(3000, 0, &Asked::get("/")), (3000, 0, expected(3000)));
    assert_eq!(timed(3000, 0, &asked("500")), (500, 0, expected(500)));
    assert_eq!(timed(3000, 0, &asked("0")), (0, 0, String::new()));
    assert_eq!(timed(3000, 0, &asked("soon")), (3000, 0, expected(3000)));
    assert_eq!(timed(5000, 2000, &Asked::get("/")), (5000, 2000, expected(2000)));
    assert_eq!(timed(2000, 2000, &Asked::get("/")), (2000, 0, expected(2000)));
    let per_try = Asked::get("/").header("x-envoy-upstream-rq-per-try-timeout-ms", "70");
    assert_eq!(timed(0, 0, &per_try), (0, 70, expected(70)));
    let others =
        Asked::get("/").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "9");
    assert_eq!(timed(0, 0, &others), (0, 0, String::new()));
}

#[test]
fn c78_timeouts_of_grpc() {
    let asked = |timeout: &str| {
        let asked = Asked::get("/").header("content-type", "application/grpc+proto");
        asked.header("grpc-timeout", timeout)
    };
    for (rule, timeout, expected) in [
        (3000, "1S", 1000),
        (3000, "5S", 3000),
        (0, "5S", 5000),
        (0, "2M", 120_000),
        (0, "1H", 3_600_000),
        (0, "1500000u", 1500),
        (3000, "0m", 3000),
        (3000, "123456789S", 3000),
        (3000, "S", 3000),
        (3000, "+1S", 3000),
        (3000, "1é", 3000),
    ] {
        assert_eq!(timed(rule, 0, &asked_raw(timeout, &asked)).0, expected, "{rule} {timeout}");
    }
    let told = "grpc-timeout=1000m x-envoy-expected-rq-timeout-ms=1000";
    assert_eq!(timed(3000, 0, &asked("1S")).2, told);
    let plain = Asked::get("/").header("grpc-timeout", "1S");
    assert_eq!(timed(3000, 0, &plain).0, 3000);
    assert_eq!(
        timed(0, 0, &asked("99999999H")).2.split(' ').next(),
        Some("grpc-timeout=99999999S")
    );
}

/// A request whose timeout may have bytes that are no text.
fn asked_raw(timeout: &str, asked: &impl Fn(&str) -> Asked) -> Asked {
    let mut request = asked("");
    request.headers.insert("grpc-timeout", HeaderValue::from_bytes(timeout.as_bytes()).unwrap());
    request
}

fn any_match() -> impl Strategy<Value = Match> {
    let uri = proptest::option::of(prop_oneof![
        "/[ab/]{0,3}"
            .prop_map(|path| PathMatch::Exact { path: (&*path).into(), ignore_case: true }),
        "/[abAB/]{0,3}"
            .prop_map(|prefix| PathMatch::Prefix { prefix: (&*prefix).into(), ignore_case: false }),
        "/[ab/]{0,3}".prop_map(|segments| PathMatch::Segments((&*segments).into())),
    ]);
    let value =
        || prop_oneof![Just(TextMatch::Present), "[ab,]{0,3}".prop_map(|value| text(&value))];
    (uri, proptest::option::of(value()), proptest::option::of(value())).prop_map(
        |(uri, headers, query_params)| Match {
            uri,
            headers: headers.into_iter().map(|value| header("x", value)).collect(),
            query_params: query_params
                .into_iter()
                .map(|value| QueryMatch { name: "q".into(), value })
                .collect(),
            ..Match::default()
        },
    )
}

proptest! {
    #[test]
    fn the_first_that_holds_is_found(
        matches in proptest::collection::vec(any_match(), 0..6),
        target in "/[abAB/]{0,4}(\\?[q=ab&]{0,5})?",
        values in proptest::collection::vec("[ab]{0,2}", 0..3),
    ) {
        let asked = values.iter().fold(Asked::get(&target), |asked, value| asked.header("x", value));
        let table = routes(matches.iter().map(|matches| rule(matches.clone(), "v1")).collect());
        asked.with(|head| {
            let found = find(&table, head).map(|rule| &rule.matches);
            prop_assert_eq!(found, matches.iter().find(|matches| matches.holds(head)));
            let joined = values.join(",");
            for HeaderMatch { value, .. } in matches.iter().flat_map(|matches| &matches.headers) {
                let alone = Match { headers: vec![header("x", value.clone())], ..Match::default() };
                prop_assert_eq!(alone.holds(head), !values.is_empty() && value.holds(&joined));
            }
            Ok(())
        })?;
    }

    #[test]
    fn every_number_draws_in_proportion(weights in proptest::collection::vec(0..9_u32, 0..6)) {
        let all = weights.iter().enumerate().map(|(n, weight)| to(&n.to_string(), *weight)).collect();
        let destinations = Destinations::new(all);
        let total: u32 = weights.iter().sum();
        prop_assert_eq!(destinations.draw(u32::MAX).is_none(), total == 0);
        let mut seen = vec![0; weights.len()];
        for slot in 0..total {
            let middle = (u64::from(slot) * 2 + 1) * (u64::from(u32::MAX) + 1) / (2 * u64::from(total));
            let drawn = destinations.draw(u32::try_from(middle).unwrap()).unwrap();
            let Target::Backend(backend) = &drawn.target else { panic!() };
            seen[backend.subset.as_deref().unwrap().parse::<usize>().unwrap()] += 1;
        }
        prop_assert_eq!(seen, weights);
    }

    #[test]
    fn deciding_never_panics(
        target in "/[a-c%/?&=.;ü]{0,20}", authority in "[a-z:0-9\\[\\]]{0,8}",
        values in proptest::collection::vec("[ -~]{0,12}", 6),
    ) {
        let names = ["origin", "grpc-timeout", "content-type", "x-envoy-upstream-rq-timeout-ms", "host", "x"];
        let asked = names.iter().zip(&values).fold(Asked::get(&target), |asked, (name, value)| {
            asked.header(name, value)
        });
        let asked = asked.authority(Box::leak(authority.into_boxed_str()));
        let redirect = Redirect {
            status: http::StatusCode::FOUND,
            scheme: Some("https".into()),
            authority: None,
            port: RedirectPort::Keep,
            path: PathRewrite::Segments { from: "/a".into(), to: "/b".into() },
        };
        let on = changed(prefix("/a"), vec![to("v1", 1)], |forward| {
            forward.rewrite.path = PathRewrite::Prefix { length: 2, to: "/new".into() };
        });
        let other = Rule { action: Action::Redirect(redirect), cors: Some(cors()), ..rule(Match::default(), "") };
        let routes = routes(vec![on, other]);
        asked.decided(&routes, 0);
    }
}
