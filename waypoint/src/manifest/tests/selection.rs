//! Pure: which objects count, and in which order (checklist lines B43, B45, B50 to B53, E103 to E105).
use culvert_agent::discovery::WaypointDestination;

use super::{
    super::{Settings, Waypoint},
    world::{World, aged, gateway, istio, service},
};
use crate::{
    backend::{Algorithm, ConnectionPool},
    routing::{Action, Rule},
};

fn route(host: &str) -> String {
    format!("route: [{{destination: {{host: {host}}}}}]")
}

/// A VirtualService for `a` in `shop`, whose one rule leads to a host.
fn to(hosts: &str, host: &str, more: &str) -> String {
    format!("{{hosts: [{hosts}], {more} http: [{{{}}}]}}", route(host))
}

fn services() -> String {
    ["a", "b", "c", "d"].map(|name| service(name, "shop", "http:80")).concat()
}

/// The waypoint of a namespace, which serves services of `shop`.
fn waypoint(namespace: &str) -> (Settings, String) {
    let host = format!("waypoint.{namespace}.svc.cluster.local");
    let waypoint = Waypoint {
        namespace: namespace.into(),
        destinations: [WaypointDestination::Host(host.into())].into(),
    };
    let labelled = format!(
        "---\n{{kind: Namespace, apiVersion: v1, metadata: {{name: shop, labels: {{istio.io/use-waypoint: waypoint, \
         istio.io/use-waypoint-namespace: {namespace}}}}}}}\n---\n\
         {{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: waypoint, namespace: {namespace}}}, \
         spec: {{listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: All}}}}}}]}}}}\n"
    );
    (Settings { waypoint: Some(waypoint), ..Settings::default() }, labelled)
}

/// B43.
#[test]
fn a_rule_without_match_ends_the_list() {
    let spec = format!(
        "{{hosts: [a], http: [{{{}}}, {{match: [{{uri: {{prefix: /c}}}}], {}}}]}}",
        route("b"),
        route("c")
    );
    let world = World::of(&(services() + &istio("VirtualService", "a", "shop", &spec)));
    assert_eq!(world.ask("GET a.shop/c"), "b.shop:80");
    let rules = &world.compiled.table.port("a.shop.svc.cluster.local", 80).unwrap().http;
    assert_eq!(rules.len(), 1);
}

/// B45.
#[test]
fn hosts_may_be_short_full_or_wildcards() {
    for host in ["a", "A", "a.shop.svc.cluster.local", "'*.shop.svc.cluster.local'", "'*.local'"] {
        let object = istio("VirtualService", "x", "shop", &to(host, "b", ""));
        assert_eq!(World::of(&(services() + &object)).ask("GET a.shop/"), "b.shop:80", "{host}");
    }
    let object = istio("VirtualService", "x", "shop", &to("a.other", "b", ""));
    assert_eq!(World::of(&(services() + &object)).ask("GET a.shop/"), "a.shop:80");
}

/// B50.
#[test]
fn several_virtual_services_contribute_the_older_first() {
    let part = |path: &str, host: &str| {
        format!("{{hosts: [a], http: [{{match: [{{uri: {{prefix: {path}}}}}], {}}}]}}", route(host))
    };
    let old = aged("VirtualService", "z", "shop", (1, &part("/x", "b")));
    let new = aged("VirtualService", "y", "shop", (2, &part("/", "c")));
    for yaml in [format!("{old}{new}"), format!("{new}{old}")] {
        let world = World::of(&(services() + &yaml));
        assert_eq!(world.ask("GET a.shop/x"), "b.shop:80");
        assert_eq!(world.ask("GET a.shop/y"), "c.shop:80");
    }
    let all = aged("VirtualService", "w", "shop", (0, &to("a", "d", "")));
    let world = World::of(&(services() + &old + &new + &all));
    assert_eq!(world.ask("GET a.shop/x"), "d.shop:80");
    // Of one age, by name.
    let one = aged("VirtualService", "n1", "shop", (5, &to("a", "b", "")));
    let two = aged("VirtualService", "n2", "shop", (5, &to("a", "c", "")));
    assert_eq!(World::of(&(services() + &two + &one)).ask("GET a.shop/"), "b.shop:80");
}

/// B51.
#[test]
fn namespace_and_export_decide_who_counts() {
    let (settings, labelled) = waypoint("infra");
    let ask = |objects: String| {
        let world = World::with(settings.clone(), &(labelled.clone() + &services() + &objects));
        let refused = world.problems().iter().any(|problem| problem.contains("nothing passes"));
        if refused { "refused".to_owned() } else { world.ask("GET a.shop/") }
    };
    let host = "a.shop.svc.cluster.local";
    for (namespace, export, counts) in [
        ("shop", "", true),
        ("shop", "exportTo: ['*'],", true),
        ("shop", "exportTo: [infra],", true),
        // Private to a namespace that is not the waypoint's.
        ("shop", "exportTo: ['.'],", false),
        ("infra", "exportTo: ['.'],", true),
        ("infra", "", true),
        ("other", "", false),
    ] {
        let spec = to(host, "b.shop.svc.cluster.local", export);
        let expected = if counts { "b.shop:80" } else { "a.shop:80" };
        let object = istio("VirtualService", "x", namespace, &spec);
        assert_eq!(ask(object), expected, "{namespace} {export}");
    }
    let none = to(host, "b.shop.svc.cluster.local", "exportTo: ['~'],");
    assert_eq!(ask(istio("VirtualService", "x", "shop", &none)), "refused");
    // Private ones first, then those that name the namespace, then public ones, whatever their age.
    let public =
        aged("VirtualService", "p", "shop", (1, &to(host, "b.shop.svc.cluster.local", "")));
    let named = to(host, "c.shop.svc.cluster.local", "exportTo: [infra],");
    let named = aged("VirtualService", "n", "shop", (2, &named));
    let own = to(host, "d.shop.svc.cluster.local", "exportTo: ['.'],");
    let own = aged("VirtualService", "o", "infra", (3, &own));
    assert_eq!(ask(format!("{public}{named}")), "c.shop:80");
    assert_eq!(ask(format!("{public}{named}{own}")), "d.shop:80");
}

/// B52.
#[test]
fn gateways_must_name_the_mesh() {
    for (gateways, counts) in
        [("[my-gw]", false), ("[my-gw, mesh]", true), ("[mesh]", true), ("[]", true)]
    {
        let object =
            istio("VirtualService", "x", "shop", &to("a", "b", &format!("gateways: {gateways},")));
        let expected = if counts { "b.shop:80" } else { "a.shop:80" };
        assert_eq!(World::of(&(services() + &object)).ask("GET a.shop/"), expected, "{gateways}");
    }
}

fn timeout(rule: &Rule) -> Option<u64> {
    match &rule.action {
        Action::Forward(forward) => forward.timeout.map(|time| time.as_secs()),
        Action::Redirect(_) | Action::Direct(_) => None,
    }
}

/// B53.
#[test]
fn delegates_fill_in_for_a_rule() {
    let root = "{hosts: [a], http: [\
        {name: r, match: [{uri: {prefix: /b}}], delegate: {name: d}, timeout: 3s}, \
        {match: [{uri: {prefix: /gone}}], delegate: {name: gone}}, \
        {route: [{destination: {host: d}}]}]}";
    let delegate = "{http: [\
        {name: x, match: [{uri: {prefix: /b/x}, headers: {h: {exact: '1'}}}], route: [{destination: {host: b}}]}, \
        {match: [{uri: {prefix: /elsewhere}}], route: [{destination: {host: c}}]}, \
        {match: [{uri: {regex: '/b/.*'}}], route: [{destination: {host: c}}]}, \
        {timeout: 9s, route: [{destination: {host: c}}]}]}";
    let mut world = World::of(&(services() + &istio("VirtualService", "root", "shop", root)));
    world.write("d.yaml", Some(&istio("VirtualService", "d", "shop", delegate)));
    assert_eq!(world.ask("GET a.shop/b/x h=1"), "b.shop:80");
    assert_eq!(world.ask("GET a.shop/b/x"), "c.shop:80");
    assert_eq!(world.ask("GET a.shop/gone"), "d.shop:80");
    let rule = world.rule("GET a.shop/b/x h=1").unwrap();
    assert_eq!((&*rule.name, timeout(rule)), ("r-x", Some(3)));
    assert_eq!(rule.source.as_ref().unwrap().origin.file.as_ref(), "d.yaml");
    assert_eq!(timeout(world.rule("GET a.shop/b").unwrap()), Some(9));
    let dropped = world.rule("GET a.shop/b/x").unwrap();
    assert_eq!(timeout(dropped), Some(9), "an expression does not go with another condition");
    let problems = world.problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems.iter().any(|p| p.contains("delegate shop/gone does not exist")),
        "{problems:?}"
    );
    // Without it only its own rule is gone.
    world.write("d.yaml", None);
    assert_eq!(world.ask("GET a.shop/b/x h=1"), "d.shop:80");
    // One that is not exported to the root's namespace is not there.
    let hidden = delegate.replacen('{', "{exportTo: [other], ", 1);
    world.write("d.yaml", Some(&istio("VirtualService", "d", "shop", &hidden)));
    assert_eq!(world.ask("GET a.shop/b/x h=1"), "d.shop:80");
}

fn pool(connections: u32) -> String {
    format!("connectionPool: {{tcp: {{maxConnections: {connections}}}}}")
}

/// E103.
#[test]
fn settings_of_a_port_inherit_nothing() {
    let rule = "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 1}}, \
        portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]}, \
        subsets: [{name: s, trafficPolicy: {connectionPool: {tcp: {maxConnections: 2}}}}, \
        {name: p, trafficPolicy: {portLevelSettings: [{port: {number: 81}, outlierDetection: {}}]}}]}";
    let yaml =
        service("a", "shop", "http:80 http-b:81") + &istio("DestinationRule", "a", "shop", rule);
    let world = World::of(&yaml);
    assert_eq!(world.problems(), Vec::<String>::new());
    let none = ConnectionPool::UNLIMITED;
    for (port, subset, algorithm, connections) in [
        (80, None, Algorithm::RoundRobin, none),
        (81, None, Algorithm::Random, 1),
        (80, Some("s"), Algorithm::RoundRobin, 2),
        (81, Some("s"), Algorithm::Random, 2),
        (80, Some("p"), Algorithm::RoundRobin, none),
        // The subset's settings of the port replace all four blocks.
        (81, Some("p"), Algorithm::LeastRequest, none),
    ] {
        let policy = world.backend("a.shop", port, subset).unwrap().policy;
        assert_eq!(policy.load_balancer.algorithm, algorithm, "{port} {subset:?}");
        assert_eq!(policy.connection_pool.max_connections, connections, "{port} {subset:?}");
    }
    let policy = world.backend("a.shop", 81, Some("p")).unwrap().policy;
    assert!(policy.outlier_detection.is_some());
}

/// E104.
#[test]
fn of_several_rules_the_oldest_policy_and_all_subsets_count() {
    let rule = |connections: u32, label: &str, more: &str| {
        format!(
            "{{host: a, trafficPolicy: {{{}}}, subsets: [{{name: s, labels: {{v: {label}}}}}{more}]}}",
            pool(connections)
        )
    };
    let old = aged("DestinationRule", "z", "shop", (1, &rule(1, "old", "")));
    let new = aged("DestinationRule", "y", "shop", (2, &rule(2, "new", ", {name: t}")));
    for yaml in [format!("{old}{new}"), format!("{new}{old}")] {
        let world = World::of(&(services() + &yaml));
        let backend = world.backend("a.shop", 80, Some("s")).unwrap();
        assert_eq!(backend.policy.connection_pool.max_connections, 1);
        assert_eq!(backend.labels["v"], "old");
        assert!(world.backend("a.shop", 80, Some("t")).is_some());
    }
}

/// E105.
#[test]
fn rules_are_looked_for_near_the_waypoint_first() {
    let (settings, labelled) = waypoint("infra");
    let rule = |namespace: &str, host: &str, connections: u32, more: &str| {
        let spec = format!("{{host: '{host}', {more} trafficPolicy: {{{}}}}}", pool(connections));
        istio("DestinationRule", &format!("r{connections}"), namespace, &spec)
    };
    let connections = |settings: &Settings, objects: &[String]| {
        let yaml = labelled.clone() + &services() + &objects.concat();
        let world = World::with(settings.clone(), &yaml);
        let policy = world.backend("a.shop", 80, None).unwrap().policy;
        policy.connection_pool.max_connections
    };
    let host = "a.shop.svc.cluster.local";
    let mesh = rule("istio-system", "*.local", 4, "");
    let home = rule("shop", "a", 3, "");
    let near = rule("infra", "*.svc.cluster.local", 2, "");
    let nearest = rule("infra", host, 1, "");
    let hidden = rule("shop", "a", 5, "exportTo: ['.'],");
    let elsewhere = rule("other", host, 6, "");
    let selecting = rule("infra", host, 7, "workloadSelector: {matchLabels: {app: x}},");
    for (objects, expected) in [
        (vec![mesh.clone()], 4),
        (vec![mesh.clone(), home.clone()], 3),
        // A broad rule of the waypoint's namespace comes before a precise one of the service's.
        (vec![mesh.clone(), home.clone(), near.clone()], 2),
        (vec![mesh.clone(), home.clone(), near, nearest], 1),
        (vec![mesh.clone(), hidden], 4),
        (vec![mesh.clone(), elsewhere], 4),
        (vec![mesh, selecting], 4),
    ] {
        assert_eq!(connections(&settings, &objects), expected, "{objects:?}");
    }
    // A waypoint of the mesh's own namespace asks there first for private rules alone.
    let (root, _) = waypoint("istio-system");
    let public = rule("istio-system", host, 8, "");
    let private = rule("istio-system", host, 9, "exportTo: ['.'],");
    assert_eq!(connections(&root, &[public.clone(), home.clone()]), 3);
    assert_eq!(connections(&root, &[public, private, home]), 9);
}

/// Another name of the waypoint concerns who is served, and no object: last good versions stay.
#[test]
fn objects_outlast_another_name_of_the_waypoint() {
    let (settings, labelled) = waypoint("infra");
    let mut world = World::with(settings, &(labelled + &services()));
    let host = "a.shop.svc.cluster.local";
    let spec = |place: &str| istio("VirtualService", "x", "shop", &to(host, place, ""));
    world.write("v.yaml", Some(&spec("b.shop.svc.cluster.local")));
    world.write("v.yaml", Some(&spec("'*'")));
    assert_eq!(world.ask("GET a.shop/"), "b.shop:80");
    world.call("elsewhere");
    assert!(world.compiled.table.services.is_empty());
    world.call("waypoint.infra.svc.cluster.local");
    assert_eq!(world.ask("GET a.shop/"), "b.shop:80");
    assert_eq!(world.problems().len(), 1, "{:?}", world.problems());
}

/// A route of another namespace is for that namespace's clients alone, and moves nobody's rules.
#[test]
fn what_a_consumer_writes_concerns_nobody_else() {
    let parent = "parentRefs: [{group: '', kind: Service, name: a, namespace: shop}]";
    let evil = |path: &str| {
        let spec = format!(
            "{{{parent}, rules: [{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplaceFullPath, replaceFullPath: /evil}}}}}}]}}]}}"
        );
        gateway("HTTPRoute", "evil", "evil", &spec).replace(
            "namespace: evil}",
            "namespace: evil, creationTimestamp: '2020-01-01T00:00:00Z'}",
        )
    };
    let world = World::of(&(services() + &evil("/")));
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
    assert_eq!(world.ask("GET a.shop/ from=evil"), "302");
    // Nor does its age bring the producer's route before the producer's VirtualService.
    let rules = aged(
        "VirtualService",
        "v",
        "shop",
        (1, "{hosts: [a], http: [{match: [{uri: {prefix: /v}}], directResponse: {status: 418}}]}"),
    );
    let own = gateway(
        "HTTPRoute",
        "own",
        "shop",
        &format!("{{{parent}, rules: [{{backendRefs: [{{name: b, port: 80}}]}}]}}"),
    )
    .replacen(
        "namespace: shop}",
        "namespace: shop, creationTimestamp: '2026-01-01T00:00:02Z'}",
        1,
    );
    let (settings, labelled) = waypoint("infra");
    let world = |objects: String| {
        World::with(settings.clone(), &(labelled.clone() + &services() + &objects))
    };
    let seen = world(rules + &own + &evil("/x"));
    assert_eq!(seen.ask("GET a.shop/v"), "418");
    assert_eq!(seen.ask("GET a.shop/x"), "b.shop:80");
    assert_eq!(seen.ask("GET a.shop/x from=evil"), "302");
    // What the service's owner says of all comes before what a consumer says.
    let all = aged(
        "VirtualService",
        "v",
        "shop",
        (1, "{hosts: [a], http: [{directResponse: {status: 403}}]}"),
    );
    assert_eq!(world(all + &evil("/")).ask("GET a.shop/ from=evil"), "403");
}
