//! Pure: objects that make no sense (checklist lines A6, D97, D98, I175, I186, I188, K203).
use culvert_agent::manifest::Folder;

use super::super::finding::{Findings, What};
use super::super::intake;
use super::world::{World, gateway, istio, service};

/// What is found in one object: `pointer: text`.
fn found(yaml: &str) -> Vec<String> {
    let mut folder = Folder::default();
    folder.update([("a.yaml".into(), Ok(yaml.to_owned()))].into());
    assert_eq!(folder.problems_for_waypoints().collect::<Vec<_>>(), [], "{yaml}");
    let (_, declared) = folder.for_waypoints().next().expect(yaml);
    let mut findings = Findings::default();
    intake::object(declared, "cluster.local", &mut findings);
    let said = findings.0.into_iter().map(|finding| match finding.what {
        What::Invalid(text) => format!("{}: {text}", finding.pointer),
        What::Discouraged(text) => format!("({}: {text})", finding.pointer),
        What::Unreachable { rule, reason } => format!("{rule} {reason}"),
        What::Ineffective { rule, block, by } => format!("{rule} {block} {by}"),
    });
    said.collect()
}

fn check(kind: &str, spec: &str, expected: &[&str]) {
    assert_eq!(found(&istio(kind, "x", "shop", spec)), expected, "{spec}");
}

const ROUTE: &str = "route: [{destination: {host: a}}]";

fn rule(fields: &str, expected: &[&str]) {
    check("VirtualService", &format!("{{hosts: [a], http: [{{{fields}}}]}}"), expected);
}

#[test]
fn a_field_that_nobody_knows_refuses_the_object() {
    let yaml = "kind: VirtualService\napiVersion: networking.istio.io/v1\nmetadata: {name: x, namespace: shop}\nspec:\n  \
                hosts: [a]\n  http:\n  - match:\n    - headres:\n        x: {exact: y}\n    route:\n    - destination: {host: b}\n";
    let services = ["a", "b"].map(|name| service(name, "shop", "http:80")).concat();
    let mut world = World::of(&services);
    world.write("v.yaml", Some(yaml));
    assert_eq!(
        world.problems(),
        [
            "v.yaml:8 VirtualService shop/x: unknown field \"spec.http[0].match[0].headres\"; until it is mended nothing passes for its hosts"
        ]
    );
    assert_eq!(world.ask("GET a.shop/"), "500");
}

#[test]
fn a_wrong_type_is_named_with_its_place() {
    rule(
        "timeout: 3, route: [{destination: {host: a}}]",
        &[
            "/spec/http/0/timeout: spec.http[0].timeout: invalid type: integer `3`, expected a string",
        ],
    );
    rule(
        &format!("timeout: soon, {ROUTE}"),
        &["/spec/http/0/timeout: spec.http[0].timeout: time: invalid duration \"soon\""],
    );
    check("VirtualService", "[]", &["/spec: spec: invalid type: sequence, expected an object"]);
}

/// I175.
#[test]
fn the_last_good_version_stays_and_everything_else_goes_on() {
    let services = ["a", "b", "c"].map(|name| service(name, "shop", "http:80")).concat();
    let to = |host: &str, other: &str| {
        let spec = |host: &str, to: &str| {
            format!("{{hosts: [{host}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}")
        };
        istio("VirtualService", "x", "shop", &spec("a", host))
            + &istio("VirtualService", "y", "shop", &spec("c", other))
    };
    let mut world = World::of(&services);
    world.write("v.yaml", Some(&to("b", "b")));
    assert_eq!(
        (world.ask("GET a.shop/"), world.ask("GET c.shop/")),
        ("b.shop:80".into(), "b.shop:80".into())
    );
    world.write("v.yaml", Some(&to("'*'", "a")));
    assert_eq!(
        world.problems(),
        ["v.yaml:2 VirtualService shop/x: invalid destination host *; its last good version stays"]
    );
    assert_eq!(
        (world.ask("GET a.shop/"), world.ask("GET c.shop/")),
        ("b.shop:80".into(), "a.shop:80".into())
    );
    // One that cannot even be told by its name may be the one that was there.
    let nameless = to("c", "a").replacen("metadata: {name: x", "metadata: {nam: x", 1);
    world.write("v.yaml", Some(&nameless));
    assert_eq!(world.ask("GET a.shop/"), "b.shop:80");
    assert_eq!(world.problems().len(), 2, "{:?}", world.problems());
    world.write("v.yaml", Some(&to("c", "a")));
    assert_eq!((world.ask("GET a.shop/"), world.problems().len()), ("c.shop:80".into(), 0));
    world.write("v.yaml", None);
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
}

/// I186: VirtualServices.
#[test]
fn virtual_services_are_admitted_by_istios_rules() {
    check(
        "VirtualService",
        "{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}",
        &[
            "/spec/hosts/0: wildcard host * is not allowed for virtual services bound to the mesh gateway",
        ],
    );
    check(
        "VirtualService",
        "{hosts: [a.b, '*.b'], http: [{route: [{destination: {host: a}}]}]}",
        &["/spec/hosts: duplicate hosts in virtual service: a.b & *.b"],
    );
    check(
        "VirtualService",
        "{hosts: [c.b, a.b, A.b, '*.c', x.c, '*-b.d', a-b.d], http: [{route: [{destination: {host: a}}]}]}",
        &["/spec/hosts: duplicate hosts in virtual service: a.b & A.b"],
    );
    check(
        "VirtualService",
        "{hosts: [a.b, '*-b.d', c.d, a-b.d], http: [{route: [{destination: {host: a}}]}]}",
        &["/spec/hosts: duplicate hosts in virtual service: *-b.d & a-b.d"],
    );
    check(
        "VirtualService",
        "{hosts: [a.b, '*.c', b.d, bc], http: [{route: [{destination: {host: a}}]}]}",
        &[],
    );
    check(
        "VirtualService",
        "{hosts: [a]}",
        &["/spec: http, tcp or tls must be provided in virtual service"],
    );
    check(
        "VirtualService",
        "{gateways: [mesh], http: [{route: [{destination: {host: a}}]}]}",
        &["/spec/gateways: delegate virtual service must have no gateways specified"],
    );
}

/// However much is wrong with an object, what is said of it is short; and what makes it invalid is said.
#[test]
fn little_is_said_of_one_object() {
    let hosts = |host: &str| vec![host; 10_000].join(", ");
    check(
        "VirtualService",
        &format!("{{hosts: [{}], http: [{{{ROUTE}}}]}}", hosts("a")),
        &["/spec/hosts: duplicate hosts in virtual service: a & a"],
    );
    let spec = format!("{{hosts: [{}], http: [{{{ROUTE}}}]}}", hosts("'-'"));
    assert_eq!(found(&istio("VirtualService", "x", "shop", &spec)).len(), 100);
    let discouraged = vec!["a.b"; 200].join(", ");
    let spec = format!("{{hosts: [a], gateways: [{discouraged}], http: [{{name: x}}]}}");
    let said = found(&istio("VirtualService", "x", "shop", &spec));
    assert_eq!(said.len(), 101);
    assert!(said[100].starts_with("/spec/http/0: HTTP route"), "{}", said[100]);
}

/// I186: their rules for requests.
#[test]
fn rules_are_admitted_by_istios_rules() {
    rule("name: r", &["/spec/http/0: HTTP route, redirect or direct_response is required"]);
    rule(
        &format!("redirect: {{uri: /x}}, {ROUTE}"),
        &["/spec/http/0: HTTP route cannot contain both route and redirect"],
    );
    rule(
        &format!("delegate: {{name: d}}, {ROUTE}"),
        &["/spec/http/0: root HTTP route  must not specify route"],
    );
    rule(
        &format!("mirror: {{host: a}}, mirrors: [{{destination: {{host: a}}}}], {ROUTE}"),
        &["/spec/http/0: HTTP route cannot contain both mirror and mirrors"],
    );
    rule(
        "route: [{destination: {host: a}}, {destination: {host: b}}]",
        &["/spec/http/0/route: total destination weight = 0"],
    );
    rule(
        "route: [{destination: {host: '*'}, weight: -1}]",
        &[
            "/spec/http/0/route/0/destination/host: invalid destination host *",
            "/spec/http/0/route/0/weight: weight -1 < 0",
        ],
    );
    rule(
        &format!("timeout: 100us, {ROUTE}"),
        &["/spec/http/0/timeout: duration must be greater than 1ms"],
    );
    rule(
        &format!("timeout: 1.0001s, {ROUTE}"),
        &["/spec/http/0/timeout: only durations to ms precision are supported"],
    );
    rule(
        "redirect: {redirectCode: 200, uri: /x}",
        &["/spec/http/0/redirect/redirectCode: 200 is not a valid redirect code, must be 3xx"],
    );
    rule(
        "redirect: {}",
        &["/spec/http/0/redirect: redirect must specify URI, authority, scheme, or port"],
    );
    rule(
        "directResponse: {status: 42}",
        &["/spec/http/0/directResponse/status: HTTP status 42 is not in range 200-599"],
    );
}

/// I186: what rules do to requests.
#[test]
fn changes_are_admitted_by_istios_rules() {
    rule(
        &format!("fault: {{abort: {{grpcStatus: NOPE}}}}, {ROUTE}"),
        &[
            "/spec/http/0/fault/abort: gRPC status \"NOPE\" is not supported. See https://github.com/grpc/grpc/blob/master/doc/statuscodes.md for a list of supported codes, for example 'NOT_FOUND'",
        ],
    );
    rule(
        &format!("rewrite: {{}}, {ROUTE}"),
        &[
            "/spec/http/0/rewrite: rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be specified",
        ],
    );
    rule(
        &format!("headers: {{request: {{set: {{Host: a}}, add: {{':authority': b}}}}}}, {ROUTE}"),
        &[
            "/spec/http/0/rewrite: authority header cannot be set multiple times: have \"a\", attempting to set \"b\"",
        ],
    );
    rule(
        &format!("headers: {{response: {{remove: [host]}}}}, {ROUTE}"),
        &[
            "/spec/http/0/headers/response/remove/0: invalid header \"host\": cannot set Host header",
        ],
    );
    rule(
        &format!("match: [{{headers: {{'@request.auth.claims.iss': {{exact: x}}}}}}], {ROUTE}"),
        &[
            "/spec/http/0/match/0: JWT claim based routing (key: @request.auth.claims.iss) is only supported for gateway, found no gateways: []",
        ],
    );
}

/// A response has a status, a request has none.
#[test]
fn what_no_request_has_is_no_condition() {
    for kind in ["headers", "withoutHeaders"] {
        for name in [":status", ":nope"] {
            rule(
                &format!("match: [{{{kind}: {{'{name}': {{exact: x}}}}}}], {ROUTE}"),
                &[&format!(
                    "/spec/http/0/match/0/{kind}/{name}: header name {name} is not a valid header name"
                )],
            );
        }
    }
}

/// K203.
#[test]
fn expressions_are_res2s() {
    let long = "x".repeat(1025);
    rule(
        &format!("match: [{{uri: {{regex: '{long}'}}}}], {ROUTE}"),
        &[
            "/spec/http/0/match/0/uri/regex: \"uri\": regex is too large, max length allowed is 1024",
        ],
    );
    for regex in ["(?=x)", "(?<!x)y", "(x)\\1", "(", ""] {
        let found = found(&istio(
            "VirtualService",
            "x",
            "shop",
            &format!("{{hosts: [a], http: [{{match: [{{uri: {{regex: '{regex}'}}}}], {ROUTE}}}]}}"),
        ));
        assert_eq!(found.len(), 1, "{regex}");
        assert!(found[0].starts_with("/spec/http/0/match/0/uri/regex: \"uri\": "), "{found:?}");
    }
}

/// D97, D98.
#[test]
fn retries_that_are_no_policy() {
    rule(
        &format!("retries: {{attempts: 0, retryOn: 5xx}}, {ROUTE}"),
        &[
            "/spec/http/0/retries: http retry policy configured when attempts are set to 0 (disabled)",
        ],
    );
    rule(&format!("retries: {{attempts: 0}}, {ROUTE}"), &[]);
    rule(
        &format!("retries: {{attempts: 1, retryOn: '5xx, reset'}}, {ROUTE}"),
        &["/spec/http/0/retries/retryOn: \" reset\" is not a valid retryOn policy"],
    );
    rule(
        &format!("retries: {{attempts: 1, retryOn: '503,nope,999'}}, {ROUTE}"),
        &[
            "/spec/http/0/retries/retryOn: \"nope\" is not a valid retryOn policy",
            "/spec/http/0/retries/retryOn: \"999\" is not a valid retryOn policy",
        ],
    );
}

/// I186: DestinationRules.
#[test]
fn destination_rules_are_admitted_by_istios_rules() {
    let policy = |fields: &str, expected: &[&str]| {
        check("DestinationRule", &format!("{{host: a, trafficPolicy: {{{fields}}}}}"), expected);
    };
    policy("", &["/spec/trafficPolicy: traffic policy must have at least one field"]);
    policy(
        "loadBalancer: {consistentHash: {httpHeaderName: x, maglev: {tableSize: 10}}}",
        &[
            "/spec/trafficPolicy/loadBalancer/consistentHash/maglev/tableSize: tableSize must be a prime number for maglev",
        ],
    );
    policy(
        "connectionPool: {}",
        &["/spec/trafficPolicy/connectionPool: connection pool must have at least one field"],
    );
    policy(
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true, maxRetries: -1}}",
        &[
            "/spec/trafficPolicy/connectionPool/http/maxRetries: max retries must be non-negative",
            "/spec/trafficPolicy/connectionPool/http/useClientProtocol: use client protocol must not be true when H2UpgradePolicy is UPGRADE",
        ],
    );
    policy(
        "outlierDetection: {consecutiveErrors: 1, consecutiveLocalOriginFailures: 1, maxEjectionPercent: 101, interval: 0s}",
        &[
            "/spec/trafficPolicy/outlierDetection/interval: duration must be greater than 1ms",
            "(/spec/trafficPolicy/outlierDetection/consecutiveErrors: outlier detection consecutive errors is deprecated, use consecutiveGatewayErrors or consecutive5xxErrors instead)",
            "/spec/trafficPolicy/outlierDetection/consecutiveLocalOriginFailures: outlier detection consecutive local origin failures is specified, but split external local origin errors is set to false",
            "/spec/trafficPolicy/outlierDetection/maxEjectionPercent: percentage 101 is not in range 0..100",
        ],
    );
    policy(
        "tls: {mode: MUTUAL}",
        &[
            "/spec/trafficPolicy/tls: client certificate required for mutual tls",
            "/spec/trafficPolicy/tls: private key required for mutual tls",
        ],
    );
    policy(
        "portLevelSettings: [{port: {number: 0}, tls: {mode: SIMPLE}}]",
        &[
            "/spec/trafficPolicy/portLevelSettings/0/port/number: port number 0 must be in the range 1..65535",
        ],
    );
    policy(
        "loadBalancer: {localityLbSetting: {distribute: [{from: 'a/*', to: {'a/b/*': 60, 'a/b/c': 40}}, {from: a, to: {b: 100}}]}}",
        &[
            "/spec/trafficPolicy/loadBalancer/localityLbSetting/distribute/0: locality a/b/c overlap with previous specified ones",
            "/spec/trafficPolicy/loadBalancer/localityLbSetting: locality a overlap with previous specified ones",
        ],
    );
    policy(
        "loadBalancer: {warmup: {aggression: 0}}",
        &[
            "/spec/trafficPolicy/loadBalancer/warmup: duration is required",
            "/spec/trafficPolicy/loadBalancer/warmup/aggression: aggression should be greater than 0",
        ],
    );
    policy(
        "tunnel: {protocol: GET, targetHost: '*', targetPort: 0}",
        &[
            "/spec/trafficPolicy/tunnel/protocol: tunnel protocol must be \"CONNECT\" or \"POST\"",
            "/spec/trafficPolicy/tunnel/targetHost: tunnel target host must be valid FQDN or IP address: domain name \"*\" invalid (label \"*\" invalid)",
            "/spec/trafficPolicy/tunnel/targetPort: tunnel target port is invalid: port number 0 must be in the range 1..65535",
        ],
    );
    check(
        "DestinationRule",
        "{host: a, subsets: [{name: s}, {name: s, labels: {'-': x}}, {name: A}]}",
        &[
            "/spec/subsets/1: duplicate subset names: s",
            "/spec/subsets/1/labels/-: invalid tag key: \"-\"",
            "/spec/subsets/2/name: subset name is invalid: A",
        ],
    );
}

/// Routes of the Gateway API.
#[test]
fn routes_are_admitted_by_the_gateway_apis_rules() {
    let route = |rule: &str, expected: &[&str]| {
        let spec =
            format!("{{parentRefs: [{{group: '', kind: Service, name: a}}], rules: [{{{rule}}}]}}");
        assert_eq!(found(&gateway("HTTPRoute", "x", "shop", &spec)), expected, "{rule}");
    };
    let backend = "backendRefs: [{name: a, port: 80}]";
    route(
        &format!("matches: [{{path: {{value: x}}}}], {backend}"),
        &[
            "/spec/rules/0/matches/0/path/value: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
        ],
    );
    route(
        &format!(
            "filters: [{{type: ExtensionRef, extensionRef: {{group: a, kind: b, name: c}}}}], {backend}"
        ),
        &["/spec/rules/0/filters/0: unsupported filter type \"ExtensionRef\""],
    );
    route(
        &format!(
            "filters: [{{type: RequestRedirect, requestRedirect: {{port: 8080}}}}], {backend}"
        ),
        &["/spec/rules/0: RequestRedirect filter must not be used together with backendRefs"],
    );
    route(
        "backendRefs: [{name: a}]",
        &["/spec/rules/0/backendRefs/0: port is required in backendRef"],
    );
    route(
        &format!("timeouts: {{request: 1s, backendRequest: 2s}}, {backend}"),
        &["/spec/rules/0/timeouts: backendRequest timeout cannot be longer than request timeout"],
    );
    route(
        &format!(
            "filters: [{{type: CORS, cors: {{allowHeaders: [ü], allowMethods: ['*']}}}}], {backend}"
        ),
        &["/spec/rules/0/filters/0/cors/allowHeaders/0: header name ü is not a valid header name"],
    );
    route(
        &format!("filters: [{{type: URLRewrite, urlRewrite: {{hostname: ü}}}}], {backend}"),
        &["/spec/rules/0/filters/0/hostname: domain name \"ü\" invalid (label \"ü\" invalid)"],
    );
    route(
        &format!("retries: {{}}, {backend}"),
        &["/spec/rules/0/retries: unknown field \"spec.rules[0].retries\""],
    );
}

/// I188.
#[test]
fn all_versions_of_an_object_mean_the_same() {
    let object = |version: &str| {
        let spec = "{hosts: [a], http: [{timeout: 3s, route: [{destination: {host: a}}]}]}";
        istio("VirtualService", "x", "shop", spec)
            .replace("networking.istio.io/v1", &format!("networking.istio.io/{version}"))
    };
    let services = service("a", "shop", "http:80");
    let worlds = ["v1", "v1beta1", "v1alpha3"]
        .map(|version| World::of(&(services.clone() + &object(version))));
    assert_eq!(worlds[0].compiled.table, worlds[1].compiled.table);
    assert_eq!(worlds[0].compiled.table, worlds[2].compiled.table);
    assert_eq!(worlds[0].ask("GET a.shop/"), "a.shop:80");
    assert!(worlds[0].rule("GET a.shop/").unwrap().source.is_some());
}
