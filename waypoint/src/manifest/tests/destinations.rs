//! Pure: where destinations lead (checklist lines B46, B47, B49), and what else a rule does.
use super::world::{World, istio, said, service};
use crate::{
    backend::{HashKey, HashTable, model::TlsMode},
    routing::{Action, PathRewrite, RedirectPort, Retry, RetryOn, Rule},
};

/// B46.
#[test]
fn a_short_destination_is_of_the_objects_namespace() {
    let services = service("a", "shop", "http:80") + &service("b", "other", "http:80");
    let spec = |host: &str| {
        format!(
            "{{hosts: [a.shop.svc.cluster.local], http: [{{route: [{{destination: {{host: {host}}}}}]}}]}}"
        )
    };
    let world = World::of(&(services.clone() + &istio("VirtualService", "x", "shop", &spec("b"))));
    assert_eq!(
        world.ask("GET a.shop/"),
        "Cluster(\"there is no service b.shop.svc.cluster.local\")"
    );
    let full = istio("VirtualService", "x", "shop", &spec("b.other.svc.cluster.local"));
    assert_eq!(World::of(&(services + &full)).ask("GET a.shop/"), "b.other:80");
}

/// B49.
#[test]
fn without_a_port_it_is_the_only_one_or_that_of_arrival() {
    let services = service("a", "shop", "http:80 http-b:81")
        + &service("one", "shop", "http:8080")
        + &service("two", "shop", "http:80 http-b:82");
    let spec = |destination: &str| {
        format!("{{hosts: [a], http: [{{route: [{{destination: {{{destination}}}}}]}}]}}")
    };
    for (destination, first, second) in [
        ("host: one", "one.shop:8080", "one.shop:8080"),
        ("host: two, port: {number: 82}", "two.shop:82", "two.shop:82"),
        (
            "host: two",
            "two.shop:80",
            "Cluster(\"service two.shop.svc.cluster.local has no port 81\")",
        ),
        (
            "host: one, port: {number: 9}",
            "Cluster(\"service one.shop.svc.cluster.local has no port 9\")",
            "Cluster(\"service one.shop.svc.cluster.local has no port 9\")",
        ),
    ] {
        let object = istio("VirtualService", "x", "shop", &spec(destination));
        let world = World::of(&(services.clone() + &object));
        assert_eq!(world.ask("GET a.shop:80/"), first, "{destination}");
        assert_eq!(world.ask("GET a.shop:81/"), second, "{destination}");
    }
}

/// A ServiceEntry's wildcard is a destination as it is written; a name below it is nobody's, as in Istio.
#[test]
fn a_wildcard_of_a_service_entry_is_a_destination() {
    let entry = istio(
        "ServiceEntry",
        "wide",
        "shop",
        "{hosts: ['*.example.com'], addresses: [240.0.0.1], resolution: NONE, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}]}",
    );
    let rule = istio(
        "DestinationRule",
        "wide",
        "shop",
        "{host: '*.example.com', subsets: [{name: s}], trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}",
    );
    let world = |hosts: &str, destination: &str| {
        let spec = format!(
            "{{hosts: [{hosts}], http: [{{match: [{{uri: {{prefix: /x}}}}], route: [{{destination: {{{destination}}}}}]}}]}}"
        );
        let object = istio("VirtualService", "x", "shop", &spec);
        World::of(&(service("a", "shop", "http:80") + &entry + &rule + &object))
    };
    let any = "host: '*.example.com'";
    let own = world("'*.example.com'", any);
    assert_eq!(own.problems(), Vec::<String>::new());
    assert_eq!(own.ask("GET *.example.com/x"), "*.example.com:80");
    assert_eq!(own.ask("GET *.example.com/y"), "404");
    assert_eq!(world("a", any).ask("GET a.shop/x"), "*.example.com:80");
    let subset = world("a", "host: '*.example.com', subset: s");
    assert_eq!(subset.ask("GET a.shop/x"), "*.example.com:80/s");
    let policy = subset.backend("*.example.com", 80, Some("s")).unwrap().policy;
    assert_eq!(policy.connection_pool.max_connections, 7);
    let narrow = world("a", "host: api.example.com");
    assert_eq!(narrow.ask("GET a.shop/x"), "Cluster(\"there is no service api.example.com\")");
}

/// A rule's other fields.
fn rule(fields: &str, then: impl FnOnce(&Rule)) {
    let spec = format!("{{hosts: [a], http: [{{{fields}}}]}}");
    let yaml = service("a", "shop", "http:80") + &istio("VirtualService", "x", "shop", &spec);
    let world = World::of(&yaml);
    assert_eq!(world.problems(), Vec::<String>::new());
    then(world.rule("GET a.shop/old/x").unwrap());
}

const ROUTE: &str = "route: [{destination: {host: a}}]";

fn retry(rule: &Rule) -> &Retry {
    match &rule.action {
        Action::Forward(forward) => &forward.retry,
        Action::Redirect(_) | Action::Direct(_) => panic!("{}", said(rule)),
    }
}

#[test]
fn weights_of_nothing_are_dropped_and_one_alone_needs_none() {
    let services = ["a", "b"].map(|name| service(name, "shop", "http:80")).concat();
    for (route, expected) in [
        ("{destination: {host: b}, weight: 0}", "b.shop:80"),
        ("{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 0}", "a.shop:80"),
        (
            "{destination: {host: a}, weight: 3}, {destination: {host: b}, weight: 1}",
            "a.shop:80=3 b.shop:80=1",
        ),
    ] {
        let spec = format!("{{hosts: [a], http: [{{route: [{route}]}}]}}");
        let world = World::of(&(services.clone() + &istio("VirtualService", "x", "shop", &spec)));
        assert_eq!(world.ask("GET a.shop/"), expected);
    }
}

/// B54, B55, as far as they are compiled.
#[test]
fn redirects() {
    rule("redirect: {uri: /new}", |rule| {
        let Action::Redirect(redirect) = &rule.action else { panic!() };
        assert_eq!((redirect.status.as_u16(), redirect.port), (301, RedirectPort::Keep));
        assert_eq!(redirect.path, PathRewrite::Full("/new".into()));
    });
    let prefix = "match: [{uri: {prefix: /old}}], redirect: {prefixRewrite: /new, authority: b, redirectCode: 308, derivePort: FROM_PROTOCOL_DEFAULT, scheme: https}";
    rule(prefix, |rule| {
        let Action::Redirect(redirect) = &rule.action else { panic!() };
        assert_eq!((redirect.status.as_u16(), redirect.port), (308, RedirectPort::OfScheme));
        assert_eq!(redirect.path, PathRewrite::Prefix { length: 4, to: "/new".into() });
        assert_eq!(redirect.authority.as_deref(), Some("b"));
    });
    rule("redirect: {authority: b, derivePort: FROM_REQUEST_PORT}", |rule| {
        let Action::Redirect(redirect) = &rule.action else { panic!() };
        assert_eq!(redirect.port, RedirectPort::OfRequest);
    });
}

/// B56, as far as it is compiled.
#[test]
fn direct_responses() {
    for (body, expected) in [
        ("", &b""[..]),
        (", body: {string: teapot}", b"teapot"),
        (", body: {bytes: AAH/}", &[0, 1, 255]),
    ] {
        rule(&format!("directResponse: {{status: 418{body}}}"), |rule| {
            let Action::Direct(direct) = &rule.action else { panic!() };
            assert_eq!((direct.status.as_u16(), &*direct.body), (418, expected));
        });
    }
}

/// B57, B58, as far as they are compiled.
#[test]
fn rewrites() {
    for (fields, expected) in [
        (
            "match: [{uri: {prefix: /old}}], rewrite: {uri: /new}",
            PathRewrite::Prefix { length: 4, to: "/new".into() },
        ),
        ("match: [{uri: {exact: /old/x}}], rewrite: {uri: /new}", PathRewrite::Full("/new".into())),
        ("rewrite: {uri: /new/}", PathRewrite::Prefix { length: 1, to: "/new/".into() }),
    ] {
        rule(&format!("{fields}, {ROUTE}"), |rule| {
            let Action::Forward(forward) = &rule.action else { panic!() };
            assert_eq!(forward.rewrite.path, expected, "{fields}");
        });
    }
    let both = "rewrite: {uriRegexRewrite: {match: '/old/(.*)', rewrite: '/new/\\1'}, authority: b.example}";
    rule(&format!("{both}, {ROUTE}"), |rule| {
        let Action::Forward(forward) = &rule.action else { panic!() };
        assert!(matches!(forward.rewrite.path, PathRewrite::Regex(_)));
        assert_eq!(forward.rewrite.authority.as_ref().unwrap(), "b.example");
    });
}

/// B60 to B63, as far as they are compiled.
#[test]
fn faults_and_mirrors_that_nothing_is_drawn_for_are_not_there() {
    rule(
        &format!(
            "fault: {{delay: {{fixedDelay: 5s}}, abort: {{httpStatus: 503, percentage: {{value: 0}}}}}}, {ROUTE}"
        ),
        |rule| {
            assert_eq!(rule.fault, None);
        },
    );
    rule(
        &format!(
            "fault: {{delay: {{fixedDelay: 5s, percent: 50}}, abort: {{grpcStatus: UNAVAILABLE, percentage: {{value: 0.1}}}}}}, {ROUTE}"
        ),
        |rule| {
            let fault = rule.fault.as_ref().unwrap();
            assert!(fault.delay.is_some() && fault.abort.is_some());
        },
    );
    for (fields, mirrors) in [
        ("mirror: {host: a}", 1),
        ("mirror: {host: a}, mirrorPercentage: {value: 0}", 0),
        (
            "mirrors: [{destination: {host: a}, percentage: {value: 10}}, {destination: {host: a}}]",
            2,
        ),
    ] {
        rule(&format!("{fields}, {ROUTE}"), |rule| {
            let Action::Forward(forward) = &rule.action else { panic!() };
            assert_eq!(forward.mirrors.len(), mirrors, "{fields}");
        });
    }
}

/// D90, D92, D97, D100, as far as they are compiled.
#[test]
fn retries() {
    rule(ROUTE, |rule| assert_eq!(retry(rule), &Retry::default()));
    rule(&format!("{ROUTE}, retries: {{attempts: 0}}"), |rule| {
        assert_eq!(retry(rule), &Retry::none())
    });
    rule(&format!("{ROUTE}, retries: {{attempts: 5, retryOn: '503,reset'}}"), |rule| {
        let retry = retry(rule);
        assert_eq!((retry.attempts, retry.codes.len()), (5, 1));
        assert_eq!(retry.on, [RetryOn::Reset, RetryOn::StatusCodes].into());
    });
    rule(&format!("{ROUTE}, timeout: 2s, retries: {{attempts: 1, perTryTimeout: 2s}}"), |rule| {
        assert_eq!(retry(rule).per_try_timeout, None);
    });
}

/// D91, E107: a key leads to one endpoint, which another try does not leave.
#[test]
fn requests_of_one_key_stay() {
    let hash = "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}, maglev: {tableSize: 65537}}}, \
        tls: {mode: SIMPLE, sni: x.example}}}";
    let spec = format!("{{hosts: [a], http: [{{{ROUTE}}}]}}");
    let yaml = service("a", "shop", "http:80")
        + &istio("VirtualService", "x", "shop", &spec)
        + &istio("DestinationRule", "x", "shop", hash);
    let world = World::of(&yaml);
    assert!(!retry(world.rule("GET a.shop/").unwrap()).ignore_previous_hosts);
    let policy = world.backend("a.shop", 80, None).unwrap().policy;
    let crate::backend::Algorithm::ConsistentHash { key: HashKey::Cookie(cookie), table } =
        &policy.load_balancer.algorithm
    else {
        panic!()
    };
    assert_eq!((&*cookie.name, cookie.ttl.map(|ttl| ttl.as_secs())), ("c", Some(0)));
    assert_eq!(*table, HashTable::Maglev(65537));
    assert_eq!(policy.tls.as_ref().unwrap().mode, TlsMode::Simple);
}

/// E116.
#[test]
fn zero_is_the_default_of_every_limit() {
    let zeros = "{host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 0}, http: {http1MaxPendingRequests: 0, \
        http2MaxRequests: 0, maxRequestsPerConnection: 0, maxRetries: 0, maxConcurrentStreams: 0}}}}";
    let yaml = service("a", "shop", "http:80") + &istio("DestinationRule", "x", "shop", zeros);
    let world = World::of(&yaml);
    let policy = world.backend("a.shop", 80, None).unwrap().policy;
    assert_eq!(policy.connection_pool, crate::backend::ConnectionPool::default());
}
