//! Pure: the cases of the Gateway API's mesh conformance suite, from YAML to decision (checklist lines
//! J190 to J197). Names are those of the suite.
use super::world::{World, gateway, service};

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: echo, port: 80}]";

fn services() -> String {
    let ports = "http:80 http-alt:8080 tcp:9090 grpc:7070";
    ["echo", "echo-v1", "echo-v2"].map(|name| service(name, "mesh", ports)).concat()
        + &service("far", "other", "http:80")
}

/// A mesh where `echo` has an HTTPRoute with these rules.
fn world(rules: &str) -> World {
    route("HTTPRoute", &format!("{{{PARENT}, rules: [{rules}]}}"))
}

fn route(kind: &str, spec: &str) -> World {
    let world = World::of(&(services() + &gateway(kind, "r", "mesh", spec)));
    assert_eq!(world.problems(), Vec::<String>::new(), "{spec}");
    world
}

fn v1() -> &'static str {
    "backendRefs: [{name: echo-v1, port: 8080}]"
}

fn v2() -> &'static str {
    "backendRefs: [{name: echo-v2, port: 8080}]"
}

fn check(world: &World, cases: &[(&str, &str)]) {
    for (request, expected) in cases {
        assert_eq!(world.decide(request, 0), *expected, "{request}");
    }
}

#[test]
fn mesh_basic() {
    check(&World::of(&services()), &[("GET echo.mesh/", "echo:80")]);
}

#[test]
fn mesh_http_route_simple_same_namespace() {
    check(&world(&format!("{{{}}}", v1())), &[("GET echo.mesh/x?y", "echo-v1:8080")]);
}

#[test]
fn mesh_frontend_and_its_hostname() {
    let filter = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: set}]}}]";
    let world = world(&format!("{{{filter}, {}}}", v1()));
    check(
        &world,
        &[
            ("GET echo.mesh/", "echo-v1:8080 <x-set=set"),
            // The address selects the service, whatever host is asked for.
            ("GET echo.mesh/ authority=unrelated.example", "echo-v1:8080 <x-set=set"),
            ("GET echo-v1.mesh/ authority=echo.mesh", "echo-v1:80"),
        ],
    );
}

#[test]
fn mesh_ports() {
    let world = world(&format!("{{{}}}", v1()));
    check(&world, &[("GET echo.mesh/", "echo-v1:8080"), ("GET echo.mesh:8080/", "echo:8080")]);
    let named = "parentRefs: [{group: '', kind: Service, name: echo, sectionName: http-alt}]";
    let world = route("HTTPRoute", &format!("{{{named}, rules: [{{{}}}]}}", v1()));
    check(&world, &[("GET echo.mesh/", "echo:80"), ("GET echo.mesh:8080/", "echo-v1:8080")]);
}

#[test]
fn mesh_traffic_split() {
    let exact = |path: &str, backend: &str| {
        format!("{{matches: [{{path: {{type: Exact, value: {path}}}}}], {backend}}}")
    };
    let world = world(&[exact("/v1", v1()), exact("/v2", v2())].join(", "));
    check(
        &world,
        &[
            ("GET echo.mesh/v1", "echo-v1:8080"),
            ("GET echo.mesh/v2", "echo-v2:8080"),
            ("GET echo.mesh/v3", "404"),
            ("GET echo.mesh/v1/", "404"),
        ],
    );
}

/// Beyond what Istio's waypoints do: a route of another namespace is for clients of that namespace.
#[test]
fn mesh_consumer_route() {
    let parent = "parentRefs: [{group: '', kind: Service, name: echo, namespace: mesh}]";
    let header = |value: &str| {
        format!(
            "filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-set, value: {value}}}]}}}}]"
        )
    };
    let producer = format!("{{{parent}, rules: [{{{}, {}}}]}}", header("producer"), v1());
    let backend = "backendRefs: [{name: echo-v2, namespace: mesh, port: 8080}]";
    let consumer = format!("{{{parent}, rules: [{{{}, {backend}}}]}}", header("consumer"));
    let grant = "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}], to: [{group: '', kind: Service}]}";
    let yaml = services()
        + &gateway("HTTPRoute", "p", "mesh", &producer)
        + &gateway("HTTPRoute", "c", "other", &consumer)
        + &gateway("ReferenceGrant", "g", "mesh", grant);
    check(
        &World::of(&yaml),
        &[
            ("GET echo.mesh/ from=other", "echo-v2:8080 <x-set=consumer"),
            ("GET echo.mesh/ from=mesh", "echo-v1:8080 <x-set=producer"),
            ("GET echo.mesh/ from=third", "echo-v1:8080 <x-set=producer"),
        ],
    );
}

/// J194 too.
#[test]
fn mesh_http_route_matching() {
    let block = |path: &str, version: &str| {
        format!(
            "matches: [{{path: {{type: PathPrefix, value: {path}}}}}, {{headers: [{{name: version, value: {version}}}]}}]"
        )
    };
    let first = format!("{{{}, {}}}", block("/", "one"), v1());
    let second = format!("{{{}, {}}}", block("/v2", "two"), v2());
    for rules in [format!("{first}, {second}"), format!("{second}, {first}")] {
        let cases = [
            ("/", "v1"),
            ("/example", "v1"),
            ("/ version=one", "v1"),
            ("/v2", "v2"),
            ("/v2/", "v2"),
            ("/v2/example", "v2"),
            ("/ version=two", "v2"),
            ("/ Version=two", "v2"),
            ("/v2example", "v1"),
            ("/foo/v2/example", "v1"),
        ];
        for (request, expected) in cases {
            let asked = format!("GET echo.mesh{request}");
            assert_eq!(
                world(&rules).decide(&asked, 0),
                format!("echo-{expected}:8080"),
                "{request}"
            );
        }
    }
}

#[test]
fn mesh_http_route_query_param_matching() {
    let animal = |name: &str, more: &str| {
        format!("{{{more} queryParams: [{{name: animal, value: {name}}}]}}")
    };
    let path = |path: &str| format!("path: {{type: PathPrefix, value: {path}}},");
    let version = |value: &str| format!("headers: [{{name: version, value: {value}}}],");
    let rules = [
        (animal("whale", ""), v1()),
        (animal("dolphin", ""), v2()),
        (animal("whale", &path("/path1")), v1()),
        (animal("whale", &version("one")), v2()),
        (
            format!(
                "{}, {}",
                animal("shark", &path("/path3")),
                animal("kraken", &(path("/path4") + &version("three")))
            ),
            v1(),
        ),
        (format!("{{{}}}", path("/path5")), v1()),
        (animal("hydra", ""), v2()),
    ];
    let rules = rules.map(|(blocks, backend)| format!("{{matches: [{blocks}], {backend}}}"));
    let (one, two) = ("echo-v1:8080", "echo-v2:8080");
    check(
        &world(&rules.join(", ")),
        &[
            ("GET echo.mesh/?animal=whale", one),
            ("GET echo.mesh/?animal=dolphin", two),
            ("GET echo.mesh/?animal=whale&other=irrelevant", one),
            ("GET echo.mesh/?color=blue", "404"),
            ("GET echo.mesh/?animal=whaledolphin", "404"),
            ("GET echo.mesh/", "404"),
            ("GET echo.mesh/path1?animal=whale", one),
            ("GET echo.mesh/?animal=whale version=one", two),
            ("GET echo.mesh/path3?animal=shark", one),
            ("GET echo.mesh/path4?animal=kraken version=three", one),
            ("GET echo.mesh/?animal=shark", "404"),
            ("GET echo.mesh/path4?animal=kraken", "404"),
            ("GET echo.mesh/path5?animal=hydra", one),
        ],
    );
}

#[test]
fn mesh_http_route_weight() {
    let backends = "{backendRefs: [{name: echo-v1, port: 8080, weight: 70}, {name: echo-v2, port: 8080, weight: 30}, {name: far, port: 1, weight: 0}]}";
    let world = world(backends);
    assert_eq!(world.ask("GET echo.mesh/"), "echo-v1.mesh:8080=70 echo-v2.mesh:8080=30");
    let first = (0..1000_u64).filter(|step| {
        let draw = u32::try_from(step * u64::from(u32::MAX) / 1000).unwrap();
        world.decide("GET echo.mesh/", draw).starts_with("echo-v1")
    });
    assert!((699..=701).contains(&first.count()));
}

#[test]
fn mesh_http_route_header_modifiers() {
    let modifier = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}], add: [{name: x-add, value: more}], remove: [X-Gone]}}";
    let at_rule = format!("{{filters: [{modifier}], {}}}", v1());
    let at_backend =
        format!("{{backendRefs: [{{name: echo-v1, port: 8080, filters: [{modifier}]}}]}}");
    for rules in [at_rule, at_backend] {
        let decided =
            world(&rules).decide("GET echo.mesh/ x-set=old x-add=some x-gone=1 x-kept=2", 0);
        let mut said: Vec<_> = decided.split(' ').collect();
        said.sort_unstable();
        assert_eq!(said, ["-x-gone", "echo-v1:8080", "x-add=more", "x-set=new"], "{rules}");
    }
}

#[test]
fn mesh_http_route_redirects() {
    let redirect = |path: &str, fields: &str| {
        format!(
            "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]}}"
        )
    };
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}";
    let full = "path: {type: ReplaceFullPath, replaceFullPath: /all}";
    let rules = [
        redirect("/host", "hostname: example.org"),
        redirect("/status", "hostname: example.org, statusCode: 301"),
        redirect("/prefix", prefix),
        redirect("/full", full),
        redirect("/both", &format!("hostname: example.org, {prefix}")),
        redirect("/code", &format!("{full}, statusCode: 301")),
        redirect("/port", "port: 8083"),
        redirect("/there", "port: 8083, hostname: example.org"),
        redirect("/scheme", "scheme: https"),
        redirect("/safe", "scheme: https, hostname: example.org, statusCode: 302"),
        redirect("/303", "hostname: example.org, statusCode: 303"),
        redirect("/307", "hostname: example.org, statusCode: 307"),
        redirect("/308", "hostname: example.org, statusCode: 308"),
    ];
    let world = world(&rules.join(", "));
    for (path, expected) in [
        ("/host/x", "302 http://example.org/host/x"),
        ("/status", "301 http://example.org/status"),
        ("/prefix/lemon", "302 http://echo/new/lemon"),
        ("/prefix", "302 http://echo/new"),
        ("/full/x?q=1", "302 http://echo/all?q=1"),
        ("/both", "302 http://example.org/new"),
        ("/code/x", "301 http://echo/all"),
        ("/port", "302 http://echo:8083/port"),
        ("/there", "302 http://example.org:8083/there"),
        ("/scheme", "302 https://echo/scheme"),
        ("/safe", "302 https://example.org/safe"),
        ("/303", "303 http://example.org/303"),
        ("/307", "307 http://example.org/307"),
        ("/308", "308 http://example.org/308"),
    ] {
        assert_eq!(
            world.decide(&format!("GET echo.mesh{path} authority=echo"), 0),
            expected,
            "{path}"
        );
    }
}

#[test]
fn mesh_http_route_rewrite_path() {
    let rewrite = |path: &str, fields: &str| {
        format!(
            "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{{fields}}}}}], {}}}",
            v1()
        )
    };
    let prefix = |to: &str| format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}");
    let rules = [
        rewrite("/prefix/one", &prefix("/one")),
        rewrite("/strip", &prefix("/")),
        rewrite("/full/one", "path: {type: ReplaceFullPath, replaceFullPath: /one}"),
        rewrite("/host", "hostname: other.example"),
        rewrite("/", &prefix("/under")),
    ];
    let world = world(&rules.join(", "));
    for (path, expected) in [
        ("/prefix/one/two", " /one/two"),
        ("/strip/three", " /three"),
        ("/strip", " /"),
        ("/full/one/two", " /one"),
        ("/host", " @other.example"),
        ("/else", " /under/else"),
    ] {
        let decided = world.decide(&format!("GET echo.mesh{path}"), 0);
        assert_eq!(decided, format!("echo-v1:8080{expected}"), "{path}");
    }
}

#[test]
fn mesh_http_route_named_rule() {
    let world = world(&format!(
        "{{name: first, matches: [{{path: {{value: /a}}}}], {}}}, {{{}}}",
        v1(),
        v2()
    ));
    assert_eq!(&*world.rule("GET echo.mesh/a").unwrap().name, "first");
    assert_eq!(&*world.rule("GET echo.mesh/").unwrap().name, "mesh.r.1");
}

#[test]
fn mesh_grpc_route() {
    let parent = "parentRefs: [{group: '', kind: Service, name: echo, port: 7070}]";
    let backend = |name: &str| format!("backendRefs: [{{name: {name}, port: 7070}}]");
    let rules = [
        format!("{{matches: [{{method: {{service: echo.Echo, method: Ping}}}}], {}}}", backend("echo-v1")),
        format!("{{matches: [{{method: {{service: echo.Echo}}, headers: [{{name: v, value: '2'}}]}}], {}}}", backend("echo-v2")),
        format!("{{matches: [{{method: {{method: Only}}}}], {}}}", backend("echo-v2")),
        format!("{{matches: [{{method: {{type: RegularExpression, service: 'e.*', method: 'R.+'}}}}], {}}}", backend("echo-v1")),
        "{matches: [{method: {service: split.Split}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: set}]}}], \
          backendRefs: [{name: echo-v1, port: 7070, weight: 7}, {name: echo-v2, port: 7070, weight: 3}]}".to_owned(),
    ];
    let world = route("GRPCRoute", &format!("{{{parent}, rules: [{}]}}", rules.join(", ")));
    check(
        &world,
        &[
            ("POST echo.mesh:7070/echo.Echo/Ping", "echo-v1:7070"),
            ("POST echo.mesh:7070/echo.Echo/Pong v=2", "echo-v2:7070"),
            ("POST echo.mesh:7070/echo.Echo/Pong", "404"),
            ("POST echo.mesh:7070/echo.Echox/Pong v=2", "404"),
            ("POST echo.mesh:7070/any.Thing/Only", "echo-v2:7070"),
            ("POST echo.mesh:7070/either/Run", "echo-v1:7070"),
            ("POST echo.mesh:7070/split.Split/X", "echo-v1:7070 x-set=set"),
        ],
    );
    assert_eq!(
        world.ask("POST echo.mesh:7070/split.Split/X"),
        "echo-v1.mesh:7070=7 echo-v2.mesh:7070=3"
    );
}

/// J193: exact over longest prefix over method over headers over query over age over name.
#[test]
fn precedence() {
    let to = |blocks: &str, name: &str| {
        format!("{{matches: [{{{blocks}}}], {}}}", if name == "v1" { v1() } else { v2() })
    };
    let header = "headers: [{name: h, value: '1'}]";
    for (better, worse, request) in [
        ("path: {type: Exact, value: /a}", "path: {value: /a}", "GET echo.mesh/a h=1"),
        ("path: {value: /a/b}", "path: {value: /a}, method: GET", "GET echo.mesh/a/b h=1"),
        (
            "path: {value: /a}, method: GET",
            "path: {value: /a}, headers: [{name: h, value: '1'}]",
            "GET echo.mesh/a h=1",
        ),
        (
            header,
            "queryParams: [{name: q, value: '1'}, {name: r, value: '2'}]",
            "GET echo.mesh/?q=1&r=2 h=1",
        ),
        ("queryParams: [{name: q, value: '1'}]", "path: {value: /}", "GET echo.mesh/?q=1"),
    ] {
        for rules in [[to(better, "v1"), to(worse, "v2")], [to(worse, "v2"), to(better, "v1")]] {
            assert_eq!(
                world(&rules.join(", ")).decide(request, 0),
                "echo-v1:8080",
                "{better} {worse}"
            );
        }
    }
    let aged = |name: &str, second: u8, backend: &str| {
        gateway("HTTPRoute", name, "mesh", &format!("{{{PARENT}, rules: [{{{backend}}}]}}"))
            .replace(
                "namespace: mesh}, spec",
                &format!(
                    "namespace: mesh, creationTimestamp: '2026-01-01T00:00:{second:02}Z'}}, spec"
                ),
            )
    };
    let older = World::of(&(services() + &aged("a", 2, v2()) + &aged("z", 1, v1())));
    assert_eq!(older.decide("GET echo.mesh/", 0), "echo-v1:8080");
    let named = World::of(&(services() + &aged("z", 1, v2()) + &aged("a", 1, v1())));
    assert_eq!(named.decide("GET echo.mesh/", 0), "echo-v1:8080");
}

/// J195, J196.
#[test]
fn backends_that_are_not_there_or_not_granted_answer_their_share_with_500() {
    for (backend, expected) in [
        ("name: gone, port: 80", "500"),
        ("name: echo-v1, port: 1", "500"),
        ("name: echo-v1, port: 80, kind: Bucket", "500"),
        ("name: echo-v1, port: 80, weight: 0", "500"),
        ("name: far, namespace: other, port: 80", "500"),
        (
            "group: networking.istio.io, kind: Hostname, name: far.other.svc.cluster.local, port: 80",
            "far:80",
        ),
    ] {
        check(
            &world(&format!("{{backendRefs: [{{{backend}}}]}}")),
            &[("GET echo.mesh/", expected)],
        );
    }
    check(&world("{}"), &[("GET echo.mesh/", "500")]);
    let share =
        world("{backendRefs: [{name: gone, port: 80}, {name: echo-v1, port: 8080, weight: 3}]}");
    assert_eq!(share.decide("GET echo.mesh/", 0), "500");
    assert_eq!(share.decide("GET echo.mesh/", u32::MAX / 2), "echo-v1:8080");
    // With a grant it is allowed, and no longer when the grant is gone.
    let spec = format!(
        "{{{PARENT}, rules: [{{backendRefs: [{{name: far, namespace: other, port: 80}}]}}]}}"
    );
    let mut world = route("HTTPRoute", &spec);
    for (from, to, expected) in [
        ("HTTPRoute, namespace: mesh", "kind: Service", "far:80"),
        ("HTTPRoute, namespace: mesh", "kind: Service, name: far", "far:80"),
        ("HTTPRoute, namespace: mesh", "kind: Service, name: near", "500"),
        ("HTTPRoute, namespace: third", "kind: Service", "500"),
        ("GRPCRoute, namespace: mesh", "kind: Service", "500"),
    ] {
        let grant = format!(
            "{{from: [{{group: gateway.networking.k8s.io, kind: {from}}}], to: [{{group: '', {to}}}]}}"
        );
        world.write("g.yaml", Some(&gateway("ReferenceGrant", "g", "other", &grant)));
        assert_eq!(world.decide("GET echo.mesh/", 0), expected, "{from} {to}");
    }
    world.write("g.yaml", None);
    assert_eq!(world.decide("GET echo.mesh/", 0), "500");
}

/// J197, as far as it is compiled.
#[test]
fn timeouts_and_retries() {
    let forward = |fields: &str| {
        let world = world(&format!("{{{fields}, {}}}", v1()));
        let rule = world.rule("GET echo.mesh/").unwrap().clone();
        match rule.action {
            crate::routing::Action::Forward(forward) => {
                (forward.timeout.map(|t| t.as_millis()), forward.retry)
            }
            crate::routing::Action::Redirect(_) | crate::routing::Action::Direct(_) => panic!(),
        }
    };
    assert_eq!(forward("timeouts: {request: 500ms}").0, Some(500));
    assert_eq!(forward("timeouts: {request: 0s}").0, None);
    assert_eq!(forward("timeouts: {request: 1s, backendRequest: 300ms}").0, Some(300));
    let (timeout, retry) = forward(
        "timeouts: {request: 1s, backendRequest: 300ms}, retry: {codes: [503], attempts: 3, backoff: 50ms}",
    );
    assert_eq!((timeout, retry.per_try_timeout.map(|t| t.as_millis())), (Some(1000), Some(300)));
    assert_eq!((retry.attempts, retry.codes.len(), retry.backoff.as_millis()), (3, 1, 50));
    assert_eq!(forward("retry: {}").1.attempts, 2);
    assert_eq!(forward("retry: {attempts: 0}").1.attempts, 0);
}
